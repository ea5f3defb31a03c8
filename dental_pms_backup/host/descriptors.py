"""What a program is given to read from and write to, beside files: memory and pipes, and who keeps its last words."""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, BinaryIO

from dental_pms_backup.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}
LINE_LENGTH = 1000
MOST_OF_A_LINE_BYTES = 4 * LINE_LENGTH  # in UTF-8
PIPE_BYTES = 1 << 20  # what every user may ask for: /proc/sys/fs/pipe-max-size


class Said:
    """The last lines that a program says, of bounded length: one may have no end."""

    def __init__(self, most_lines: int) -> None:
        self._most = most_lines
        self._lines: collections.deque[str] = collections.deque(maxlen=most_lines)
        self._rest = b""

    def write(self, chunk: bytes) -> None:
        """Keep what is worth it of the next bytes that were said."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._lines += map(_shown, lines)
        if len(self._rest) > 2 * MOST_OF_A_LINE_BYTES:
            self._rest = self._rest[:MOST_OF_A_LINE_BYTES] + self._rest[-MOST_OF_A_LINE_BYTES:]

    def lines(self) -> tuple[str, ...]:
        """Return them; what has no end of line is one, too."""
        return (*self._lines, *([_shown(self._rest)] if self._rest else []))[-self._most :]


@contextlib.contextmanager
def room_for(what: str) -> Iterator[None]:
    """Make it a TemporaryError, of which ``what`` says what cannot be, that descriptors, threads or memory ran out."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno not in EXHAUSTED:
            raise
        if isinstance(error, RuntimeError) and "thread" not in str(error):
            raise
        why = error.strerror if isinstance(error, OSError) else str(error) or "out of memory"
        raise TemporaryError(
            f"{what}: {why}, expected room for more programs", hint="ulimit -a; systemctl status"
        ) from None


@contextlib.contextmanager
def memory(name: str) -> Iterator[int]:
    """Open a file in memory while the block lasts."""
    with room_for("a program: cannot be started"):
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, BinaryIO]]:
    """Open a pipe while the block lasts: the descriptor of the end to read from, and the file to write to."""
    with room_for("a program: cannot be started"):
        reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb", buffering=0) as file:
            yield reading, file
    finally:
        os.close(reading)


def copy_of(descriptor: int | None) -> int:
    """Return a descriptor of our own beside another, or beside none one of ``/dev/null``."""
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) if descriptor is None else os.dup(descriptor)


def wide_pipe() -> tuple[int, int]:
    """Make a pipe that holds more than the usual 64 KiB: its two programs wait less often for each other."""
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):  # a user who has many pipes gets no more: slower, and as good
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing


def _shown(line: bytes) -> str:
    shown = line.decode("utf-8", "replace").strip().replace("\t", " ")
    if len(shown) > LINE_LENGTH:  # a long name, and what is wrong with it
        shown = f"{shown[: LINE_LENGTH // 2]}...{shown[3 - LINE_LENGTH // 2 :]}"
    return shown if shown.isprintable() else "(not text)"  # it may be the data itself
