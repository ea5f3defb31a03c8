"""Is this file what it claims to be? Every check reads what is on disk, from the first byte to the last.

Two readings verify it: the content is unpacked and looked at, and the checksum is taken. A draft is read beside the
program that writes it, so that both are done a moment after it. igzip unpacks four times as fast as gzip, but takes
garbage after the end, and flags that nobody knows, for nothing; so its yes counts only where it unpacked as many bytes
as the file's last field says, and everything else is for gzip to decide, which is what gets the data back.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import VerificationError
from dental_pms_backup.host import descriptors, durable, filters, programs
from dental_pms_backup.store import archive_listing
from dental_pms_backup.store.sets import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Beat = Callable[[], None] | None

TAIL_BYTES = 512
LARGEST_ANSWER_BYTES = 4 << 20
OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
GZIP = ("gzip", "--decompress", "--stdout")
IGZIP = ("igzip", "--decompress", "--stdout")
FLAGS_AT = 3
UNKNOWN_FLAGS = 0xE0  # RFC 1952, FLG: reserved; gzip refuses them
LENGTH_FIELD = 4  # RFC 1952, ISIZE: the last bytes of a gzip file are the length of its content modulo 2^32
LIST = ("tar", "--list", "--totals", "--file=-", "--quoting-style=escape")
TOTALS = re.compile(r"Total bytes read: ([0-9]+)\b")
# the second is an answer that we know: a program that always says the same, or reads nothing, shows by it
SUM = ("sha256sum", "--binary", "-", "/dev/null")
SUMMED = re.compile(rf"([0-9a-f]{{64}}) \*-\n{OF_NOTHING} \*/dev/null\n")
COUNT_ROWS = filters.argv("count_rows.pl")
# pg_dump and pg_dumpall end so; since August 2025 a line \unrestrict follows in dumps
TRAILERS = {
    Kind.DB: re.compile(rb"\n--\n-- PostgreSQL database dump complete\n--\n\n(\\unrestrict \w+\n\n)?\Z"),
    Kind.GLOBALS: re.compile(rb"\n--\n-- PostgreSQL database cluster dump complete\n--\n\n(\\unrestrict \w+\n\n)?\Z"),
    Kind.SETTINGS: re.compile(rb"\n-- settings of the database complete\n\Z"),  # live/own_settings
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verified file is: the rows of a dump by table, and the SHA-256 of the file in 64 hexadecimal digits.

    ``unpack`` is the argv that gets the content out, from stdin: what proved it. ``listed`` tells whether the filter
    that was to list files has seen all of it.
    """

    rows: dict[str, int]
    sha256: str
    unpack: Sequence[str]
    listed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a reading of the whole content found, and how many bytes it unpacked."""

    rows: dict[str, int]
    length_bytes: int


@contextlib.contextmanager
def reading(path: Path, kind: Kind, descriptor: int) -> Iterator[Readings]:
    """Read an open file beside what the block does, for ``Readings.verify``."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with (
        reopened(descriptor) as second,
        _running(*_checking(kind, unpacker()), descriptor=descriptor) as content_reading,
        _running(SUM, descriptor=second) as summing,
    ):
        yield Readings(path=path, kind=kind, reading=content_reading, summing=summing)


def verify(path: Path, kind: Kind, descriptor: int, *, beat: Beat = None) -> Verified:
    """Verify an open file as ``Readings.verify`` does."""
    with reading(path, kind, descriptor) as both:
        return both.verify(beat=beat)


def plain_dump(path: Path, descriptor: int) -> None:
    """Verify that an open, uncompressed file ends as a whole dump does; VerificationError otherwise."""
    size = os.fstat(descriptor).st_size
    try:
        tail = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror}, expected a whole dump") from None
    _check_trailer(path, Kind.DB, tail)


def sha256(path: Path, descriptor: int, *, beat: Beat = None) -> str:
    """Return the SHA-256 of an open file as 64 hexadecimal digits. ``path`` is only named in VerificationError."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with _running(SUM, descriptor=descriptor) as summing:
        return summing.checksum(path, beat)


@contextlib.contextmanager
def following(path: Path, kind: Kind, grows: Callable[[], bool], lister: Sequence[str] = ()) -> Iterator[Readings]:
    """Read a draft beside what the block does, which is to write it as long as it ``grows``.

    ``lister`` is the argv of a filter that also lists files elsewhere: of an archive, or what the rows of a dump name.
    """
    with (
        opened(path) as content,
        opened(path) as checksum,
        _running(*_checking(kind, unpacker(), lister), descriptor=content, grows=grows) as content_reading,
        _running(SUM, descriptor=checksum, grows=grows) as summing,
    ):
        yield Readings(path=path, kind=kind, reading=content_reading, summing=summing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """The two readings of a file, which may still grow."""

    path: Path
    kind: Kind
    reading: _Reading
    summing: _Reading

    @property
    def descriptors(self) -> tuple[int, int]:
        """Return descriptors that stand where the readings are."""
        return self.reading.descriptor, self.summing.descriptor

    @property
    def has_ended(self) -> bool:
        """Tell whether all has been read, so that to verify takes no time; unless gzip has to decide."""
        return self.reading.pipeline.has_ended and self.summing.pipeline.has_ended

    def verify(self, *, expected: str = "", index: Path | None = None, beat: Beat = None) -> Verified:
        """Wait until all of a file has been read that does not grow any more, and verify that it holds what it has to.

        It is unpacked to its end, a dump has its completion trailer, an archive is readable to its last entry and,
        where ``index`` is given, holds exactly those names; the checksum is as expected. Else VerificationError.
        """
        checksum, descriptor = self.checksum(expected, beat), self.reading.descriptor
        with contextlib.suppress(VerificationError):  # gzip decides
            answer = self.reading.answer(self.path, self.kind, index, beat)
            if _is_all(answer, descriptor):
                return Verified(rows=answer.rows, sha256=checksum, unpack=unpacker(), listed=True)
        answer = _read(self.path, self.kind, descriptor, GZIP, index, beat)
        return Verified(rows=answer.rows, sha256=checksum, unpack=GZIP)

    def checksum(self, expected: str, beat: Beat) -> str:
        """Return the checksum; VerificationError unless that is the ``expected`` one, where one is."""
        checksum = self.summing.checksum(self.path, beat)
        if expected not in {"", checksum}:
            raise VerificationError(
                f"{self.path}: the checksum differs from the manifest's",
                hint="dental-pms-backup verify   # which sets are good",
            )
        return checksum


def unpacker() -> Sequence[str]:
    """Return the argv of the fastest program installed that unpacks."""
    return IGZIP if programs.installed(IGZIP[0]) else GZIP


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file to be read, while the block lasts; BackupError when that cannot be."""
    try:
        with descriptors.room_for(f"{path}: cannot be read back"):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise durable.refusal(path, "cannot be read back", error) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def reopened(descriptor: int) -> contextlib.AbstractContextManager[int]:
    """Open an open file once more while the block lasts: two who read it then are not at one place."""
    return opened(Path(f"/proc/self/fd/{descriptor}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """A pipeline that reads a whole file from ``descriptor``; what it prints is small and comes to ``out``."""

    pipeline: programs.Running
    descriptor: int
    out: int

    def answer(self, path: Path, kind: Kind, index: Path | None, beat: Beat) -> _Answer:
        """Return what was read once all of it was; VerificationError unless it is sound."""
        ended, out = self._printed(path, beat)
        if kind is Kind.ATTACHMENTS:
            return _archive_answer(path, ended[1], out, index, beat)
        return _dump_answer(path, kind, out)

    def checksum(self, path: Path, beat: Beat) -> str:
        """Return the checksum of the file; VerificationError unless all of it was read."""
        _, out = self._printed(path, beat)
        if self.pipeline.unfed:
            return sha256(path, self.descriptor, beat=beat)
        summed = _sum_in(path, out)
        size_bytes = os.fstat(self.descriptor).st_size
        if os.lseek(self.descriptor, 0, os.SEEK_CUR) != size_bytes or (summed == OF_NOTHING) != (size_bytes == 0):
            raise _no_checksum(path)
        return summed

    def _printed(self, path: Path, beat: Beat) -> tuple[tuple[programs.Ended, ...], bytes]:
        ended = self.pipeline.wait(beat)
        if failed := programs.failed(ended):
            raise VerificationError(
                f"{path}: the content is not sound ({failed}), expected a file that is readable to its end",
                hint="dental-pms-backup verify   # which sets are good",
            )
        return ended, os.pread(self.out, LARGEST_ANSWER_BYTES, 0)


@contextlib.contextmanager
def _running(*argvs: Sequence[str], descriptor: int, grows: Callable[[], bool] | None = None) -> Iterator[_Reading]:
    with (
        descriptors.memory("checked") as out,
        programs.running(*argvs, stdin=descriptor, out=out, grows=grows) as pipeline,
    ):
        yield _Reading(pipeline=pipeline, descriptor=descriptor, out=out)


def _read(path: Path, kind: Kind, descriptor: int, unpack: Sequence[str], index: Path | None, beat: Beat) -> _Answer:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with _running(*_checking(kind, unpack), descriptor=descriptor) as reading:
        return reading.answer(path, kind, index, beat)


def _checking(kind: Kind, unpack: Sequence[str], lister: Sequence[str] = ()) -> tuple[Sequence[str], ...]:
    """Return the pipeline that looks at the content of a file."""
    if kind is not Kind.ATTACHMENTS:
        return (unpack, lister or COUNT_ROWS)
    return (unpack, archive_listing.LIST, lister, SUM) if lister else (unpack, LIST, SUM)


def _is_all(answer: _Answer, descriptor: int) -> bool:
    """Tell whether gzip knows a file's flags, and its last field says that its content is as long as was unpacked."""
    head = os.pread(descriptor, FLAGS_AT + 1, 0)
    size_bytes = os.fstat(descriptor).st_size
    told = os.pread(descriptor, LENGTH_FIELD, max(0, size_bytes - LENGTH_FIELD))
    whole = answer.length_bytes % (1 << 8 * LENGTH_FIELD) == int.from_bytes(told, "little")
    return whole and len(head) > FLAGS_AT and not head[FLAGS_AT] & UNKNOWN_FLAGS


def _dump_answer(path: Path, kind: Kind, out: bytes) -> _Answer:
    counts, _, rest = out.partition(b"\0")
    length, _, tail = rest.partition(b"\0")
    _check_trailer(path, kind, tail)
    lines = [line.rpartition("\t") for line in counts.decode("utf-8", "backslashreplace").split("\n")[:-1]]
    return _Answer(rows={table: int(rows) for table, _, rows in lines}, length_bytes=int(length))


def _check_trailer(path: Path, kind: Kind, tail: bytes) -> None:
    if not TRAILERS[kind].search(tail):
        raise VerificationError(
            f"{path}: the dump does not end with its completion mark, expected a whole dump",
            hint="dental-pms-backup list   # choose another set",
        )


def _archive_answer(path: Path, tar: programs.Ended, out: bytes, index: Path | None, beat: Beat) -> _Answer:
    listed = _sum_in(path, out)
    if listed == OF_NOTHING:
        raise VerificationError(f"{path}: the archive holds no entry, expected at least the directory itself")
    if index is not None:
        with opened(index) as names:
            if sha256(index, names, beat=beat) != listed:
                raise VerificationError(
                    f"{path}: the archive's entries are not those that tar wrote, expected the same"
                )
    totals = [match[1] for line in tar.said if (match := TOTALS.match(line))]
    return _Answer(rows={}, length_bytes=int(totals[-1]) if totals else 0)


def _sum_in(path: Path, out: bytes) -> str:
    """Return the checksum that sha256sum printed; VerificationError where it does not know the one of nothing."""
    match = SUMMED.fullmatch(out.decode("ascii", "replace"))
    if not match:
        raise _no_checksum(path)
    return match[1]


def _no_checksum(path: Path) -> VerificationError:
    return VerificationError(f"{path}: sha256sum printed no checksum, expected 64 hexadecimal digits that are right")
