"""Stands in for python3-systemd in programs that the unit tests start: the journal here may be a practice's."""
