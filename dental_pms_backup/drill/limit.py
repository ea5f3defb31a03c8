"""The time and the room that a drill may take."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from dental_pms_backup.errors import StalledError
from dental_pms_backup.host import notify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Limit:
    """The time that a drill may take; while it lasts, systemd is told that the drill lives."""

    def __init__(self, timeout_s: float) -> None:
        self._ends = time.monotonic() + timeout_s
        self._told = 0.0
        self._room: Callable[[], None] | None = None

    def beat(self) -> None:
        """Raise StalledError when the time is over, RoomError when the room is."""
        at = time.monotonic()
        if self._room:
            self._room()
        if at > self._ends:
            raise StalledError(
                "drill: it did not come to its end within drill.timeout_s",
                hint="editor /etc/dental-pms/backup.yaml   # raise drill.timeout_s",
            )
        if at - self._told >= 1:
            self._told = at
            notify.alive()

    @contextlib.contextmanager
    def within_room(self, check: Callable[[], None]) -> Iterator[None]:
        """Have each beat of the block ask whether there is room left, which raises RoomError if not."""
        self._room = check
        try:
            yield
        finally:
            self._room = None

    @property
    def left_s(self) -> float:
        """Return how many seconds are left."""
        return max(0.0, self._ends - time.monotonic())
