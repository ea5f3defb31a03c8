"""How far a run is: ``systemctl status`` once a second, a bar when a person watches."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from dental_pms_backup.errors import StalledError
from dental_pms_backup.host import notify
from dental_pms_backup.host.wording import duration, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tqdm import tqdm

EVERY_S = 1.0
LAST_RUNS = "the last run's "


class Progress:
    """The position of a file being written or read, shown against an expected size in bytes (0: unknown).

    Where two read it, the slower one's is shown, and it moves as long as one of them does.
    """

    def __init__(
        self, label: str, descriptors: Sequence[int], expected_bytes: int, *, whose: str, watch: Watch
    ) -> None:
        self._label = label
        self._whose = whose
        self._descriptors = descriptors
        self._expected_bytes = expected_bytes
        self._stall_timeout_s = watch.stall_timeout_s
        self._began = self._told = self._moved = time.monotonic()
        self._position = 0
        self._positions = [0 for _ in descriptors]
        self._bar = _bar(label, expected_bytes) if watch.bar else None
        self._lines = watch.lines
        self._tell(label)
        notify.alive()

    def beat(self) -> None:
        """Look at the position; tell it when a second has passed, and that the run lives when it moved.

        StalledError when it has not moved for too long.
        """
        at = time.monotonic()
        if at - self._told < EVERY_S:
            return
        self._told = at
        # the programs write and read through a duplicate of this descriptor: the offset is shared
        positions = [os.lseek(descriptor, 0, os.SEEK_CUR) for descriptor in self._descriptors]
        position = min(positions)
        if positions != self._positions:
            self._moved = at
            notify.alive()
        elif at - self._moved > self._stall_timeout_s:
            raise StalledError(
                f"{self._label}: no byte moved for {duration(at - self._moved)}",
                hint="docker ps; df -h   # raise stall_timeout_s if it is only slow",
            )
        if self._bar is not None:
            self._bar.update(position - self._position)
        self._position, self._positions = position, positions
        self._tell(line(self._label, position, self._expected_bytes, at - self._began, self._whose))

    def _tell(self, text: str) -> None:
        self._lines[self._label] = text
        notify.status("; ".join(self._lines.values()))

    def close(self) -> None:
        """Take the bar and the line away."""
        del self._lines[self._label]
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How long work is looked after: with a ``bar`` for a person or not, and how long it may stand still.

    ``lines`` says of each file that is written or read now how far it is. ``beside`` is called with each beat.
    """

    bar: bool = False
    stall_timeout_s: float = math.inf
    lines: dict[str, str] = field(default_factory=dict)
    beside: Callable[[], None] | None = None

    @contextlib.contextmanager
    def showing(
        self, label: str, descriptor: int, expected_bytes: int, *, beside: int | None = None, whose: str = LAST_RUNS
    ) -> Iterator[Callable[[], None]]:
        """Show how far a file is while the block lasts; what it yields is the ``beat`` of the programs that work.

        ``beside`` is another descriptor of the same file, which is read as well.
        """
        descriptors = (descriptor,) if beside is None else (descriptor, beside)
        progress = Progress(label, descriptors, expected_bytes, whose=whose, watch=self)

        def both() -> None:
            if self.beside:
                self.beside()
            progress.beat()

        try:
            yield both
        finally:
            progress.close()

    def reading(
        self, label: str, descriptor: int, *, beside: int | None = None
    ) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Show how far an open file is read, of its own size; else as ``showing``."""
        return self.showing(label, descriptor, os.fstat(descriptor).st_size, beside=beside, whose="")


def _bar(label: str, expected_bytes: int) -> tqdm[NoReturn]:
    from tqdm import tqdm  # noqa: PLC0415 - only a person who watches needs it

    tqdm.monitor_interval = 0  # no thread beside us when programs are started
    return tqdm(
        desc=label,
        total=expected_bytes or None,
        unit="B",
        unit_scale=True,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
    )


def line(label: str, done_bytes: int, expected_bytes: int, elapsed_s: float, whose: str = LAST_RUNS) -> str:
    """Return the status line: bytes so far, share of the expected size and whose that is, estimated time left."""
    text = f"{label}: {size(done_bytes)}"
    if expected_bytes <= 0:
        return text
    text += f", {min(99, done_bytes * 100 // expected_bytes)} % of {whose}{size(expected_bytes)}"
    if 0 < done_bytes < expected_bytes and elapsed_s > 0:
        left_s = elapsed_s * (expected_bytes - done_bytes) / done_bytes
        text += f", about {duration(left_s)} left"
    return text
