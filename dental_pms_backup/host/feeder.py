"""Passing on a file that still grows, from page to page in the kernel: nothing of it comes into this process."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE_BYTES = 1 << 20
GROWS_NAP_S = 0.005


class Feeder(threading.Thread):
    """Moves what a file has, and what it gets while it grows, into a pipe, which is closed then: splice(2), no copy."""

    def __init__(self, descriptor: int, pipe: int, grows: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self.failed = False
        self._descriptor = descriptor
        self._pipe = os.fdopen(pipe, "wb", buffering=0)
        self._grows = grows
        self._over = threading.Event()

    def run(self) -> None:
        """Move until the file's end, or until nobody reads the pipe any more."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's to hear
        with self._pipe:
            try:
                self._feed()
            except OSError:  # the disk; a filesystem that has no splice; or nobody reads any more
                self.failed = True

    def _feed(self) -> None:
        while True:
            grows = self._grows()  # asked first: what had come before the answer is moved after it
            if os.splice(self._descriptor, self._pipe.fileno(), AT_ONCE_BYTES) > 0:
                continue
            if not grows:
                return
            if self._over.wait(GROWS_NAP_S):  # who read it has ended before it has
                self.failed = True
                return

    def end(self) -> None:
        """End, once nobody reads the pipe any more."""
        self._over.set()
        if self.is_alive():
            self.join()
        self._pipe.close()
