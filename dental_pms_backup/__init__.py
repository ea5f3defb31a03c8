"""Backups of a dental practice's database and attachments that have been proven before they count."""

__version__ = "0.1.0"
