"""A signal's wish to stop, asked for in a handler and obeyed where it is safe."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from dental_pms_backup.errors import InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_NAP_S = 0.1

_signals: list[int] = []


def request(signal_number: int) -> None:
    """Ask every wait to end and raise InterruptedRunError; safe in a signal handler."""
    _signals.append(signal_number)


def check() -> None:
    """Raise InterruptedRunError when a stop was asked for."""
    if _signals:
        raise InterruptedRunError(f"stopped by signal {_signals[0]}, expected to run to the end")


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a clean-up run its programs although a stop was asked for; the request stands afterwards."""
    kept = _signals.copy()
    _signals.clear()
    try:
        yield
    finally:
        _signals[:0] = kept


def rest(seconds: float, *, beat: Callable[[], None] | None = None) -> None:
    """Sleep, awake to a stop; ``beat`` is called about ten times a second."""
    ends = time.monotonic() + seconds
    while True:
        check()
        if beat:
            beat()
        left = ends - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, LONGEST_NAP_S))
