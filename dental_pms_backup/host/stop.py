"""A signal's wish to stop, asked for in a handler and obeyed where it is safe."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from dental_pms_backup.errors import InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_NAP_S = 0.1

_signals: list[int] = []
_heard = threading.local()


def request(signal_number: int) -> None:
    """Ask every wait to end and raise InterruptedRunError; safe in a signal handler."""
    _signals.append(signal_number)


def check() -> None:
    """Raise InterruptedRunError when a stop was asked for."""
    if len(_signals) > getattr(_heard, "count", 0):
        raise InterruptedRunError(f"stopped by signal {_signals[0]} before the end")


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a clean-up of this thread run its programs although a stop was asked for; the request stands afterwards."""
    before = getattr(_heard, "count", 0)
    _heard.count = len(_signals)
    try:
        yield
    finally:
        _heard.count = before


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
