"""The files that rows name beside those of an archive: sort and join work on lists, in files of mode 0600."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.host import descriptors, filters, programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Beat = Callable[[], None] | None

BY_NAME = ("-t\t", "--key=1,1")
# What a manifest says of the rows that lacked their file when the set was taken, and of those with one of another size.
MISSING, OTHER_SIZE = ("rows_without_file", "rows_with_other_size")


class ListingError(Exception):
    """A program that works on the lists failed."""

    def __init__(self, ended: programs.Ended) -> None:
        super().__init__(str(ended))
        self.ended = ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Rows and files beside each other. ``orphans`` are files that no row names."""

    rows: int
    missing: int
    other_size: int
    orphans: int = 0

    def told(self, where: str) -> str:
        """Return in words how many rows lack their file somewhere."""
        return f"of {self.rows} rows {self.missing} have no file{where} and {self.other_size} one of another size"

    def lacks_more(self, known: Mapping[str, Any]) -> bool:
        """Tell whether more rows lack their file than a manifest's part of the attachments knows of."""
        missing: int = known.get(MISSING, 0)
        other_size: int = known.get(OTHER_SIZE, 0)
        return self.missing > missing or self.missing + self.other_size > missing + other_size


def expected(known: Mapping[str, Any]) -> str:
    """Return in words how many rows may lack their file."""
    missing, other_size = known.get(MISSING, 0), known.get(OTHER_SIZE, 0)
    if missing or other_size:
        return f"no more than the {missing} and {other_size} when the set was taken"
    return "the file of every row"


def lister_of_rows(into: Path, table: str, columns: Sequence[str]) -> list[str]:
    """Return the argv of what lists the files that a table's rows name in a dump, and counts its rows."""
    return filters.argv("count_rows.pl", str(into), table, *columns)


def lister_of_files(directory: str, into: Path | None = None) -> list[str]:
    """Return the argv of what makes of tar's list one of the files in a directory; ``into`` as list_files.pl has it."""
    below = "" if directory == "." else directory.strip("/")
    return filters.argv("list_files.pl", below, *([str(into)] if into else []))


def put(name: str, argv: Sequence[str], place: Path, *, stdin: int, beat: Beat = None) -> None:
    """Have a program make the list ``rows`` or ``files``, which is put in order. ListingError."""
    sort = ["sort", *BY_NAME, "--buffer-size=64M", f"--temporary-directory={place}"]
    with new(place / name) as out:
        _demand(programs.pipeline(argv, sort, stdin=stdin, out=out, beat=beat))


def match(place: Path, beat: Beat = None) -> Matched:
    """Compare both lists; a hard link has no size that is compared. ListingError."""
    rows, files = str(place / "rows"), str(place / "files")
    both = ["join", "-t\t", "-o", "1.2,2.2", rows, files]
    equal, linked, other = _numbers([both, filters.argv("compare_sizes.pl")], 3, beat)
    count = counted(place / "rows", beat)
    only_files = ["join", "-t\t", "-v", "2", "-o", "0", rows, files]
    return Matched(
        rows=count,
        missing=count - equal - linked - other,
        other_size=other,
        orphans=_numbers([only_files, ["wc", "--lines"]], 1, beat)[0],
    )


def counted(path: Path, beat: Beat = None) -> int:
    """Return how many lines a list has. ListingError."""
    return _numbers([["wc", "--lines", str(path)]], 1, beat)[0]


@contextlib.contextmanager
def new(path: Path) -> Iterator[int]:
    """Open a file of mode 0600 to be written, in place of an earlier one, while the block lasts."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield out
    finally:
        os.close(out)


def _numbers(argvs: Sequence[Sequence[str]], count: int, beat: Beat) -> list[int]:
    with descriptors.memory("counted") as out:
        ended = programs.pipeline(*argvs, out=out, beat=beat)
        _demand(ended)
        words = os.pread(out, 4096, 0).split()[:count]
    if len(words) < count or not all(word.isdigit() for word in words):
        raise ListingError(ended[-1])
    return [int(word) for word in words]


def _demand(ended: Sequence[programs.Ended]) -> None:
    if failed := programs.failed(ended):
        raise ListingError(failed)
