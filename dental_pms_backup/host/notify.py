"""Telling systemd what the run does right now: the only user of ``systemd.daemon``."""

from __future__ import annotations

import contextlib

STALL_S = 15 * 60
"""Seconds without a byte moved after which systemd may end the run; TimeoutStartSec= of the unit is the same."""


def prepare() -> None:
    """Load what systemd is told with, so that it is there before anything begins."""
    from systemd import daemon  # noqa: F401, PLC0415 - commands that only look tell nothing


def status(text: str) -> None:
    """Show a line in ``systemctl status``; without systemd this does nothing."""
    _tell(f"STATUS={_one_line(text)}")


def alive() -> None:
    """Say that the run moves: the unit's time limit starts anew."""
    _tell(f"EXTEND_TIMEOUT_USEC={STALL_S * 1_000_000}")


def stopping(text: str) -> None:
    """Say that the run ends early."""
    _tell(f"STOPPING=1\nSTATUS={_one_line(text)}")


def _tell(state: str) -> None:
    from systemd import daemon  # noqa: PLC0415 - see prepare

    with contextlib.suppress(OSError):  # nobody listens: the run goes on all the same
        daemon.notify(state)


def _one_line(text: str) -> str:
    return " ".join(text.replace("\0", " ").splitlines())
