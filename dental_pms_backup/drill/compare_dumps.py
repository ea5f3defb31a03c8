"""Is what came back what went in? Two dumps compared as streams, table by table, without a row in this process."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DrillError, TemporaryError
from dental_pms_backup.host import descriptors, filters, programs
from dental_pms_backup.store import verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Beat = Callable[[], None] | None

HEAD_BYTES = 4096
LARGEST_ANSWER_BYTES = 16 << 20
UNPACKERS = {verify_file.GZIP[0], verify_file.IGZIP[0]}
TALLY = filters.argv("tally.pl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a dump holds: rows and SHA-256 of each table's data by its name, and of all the rest, but for casts."""

    tables: Mapping[str, tuple[int, str]]
    rest: str

    @property
    def rows(self) -> dict[str, int]:
        """Return the rows by table."""
        return {table: rows for table, (rows, _) in self.tables.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """A dump while it is counted; what is known of it then comes to ``out``."""

    pipeline: programs.Running
    out: int

    def tally(self, beat: Beat = None) -> Tally:
        """Wait for the dump's end and return its tally; every program has to exit 0.

        DrillError when what a set holds cannot be unpacked; TemporaryError when anything else failed.
        """
        failed = programs.failed(self.pipeline.wait(beat))
        if failed and failed.program in UNPACKERS and failed.exit_code > 0:
            raise DrillError(f"db: {failed}, expected the dump to be readable to its end")
        if failed:
            raise TemporaryError(f"drill: {failed}, expected a dump readable to its end", hint="journalctl -k; df -h")
        return _tally(os.pread(self.out, LARGEST_ANSWER_BYTES, 0).decode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def counting(*argvs: Sequence[str], stdin: int | None = None, tally_argv: Sequence[str] = TALLY) -> Iterator[Counting]:
    """Count the dump that a pipeline writes beside what the block does."""
    with (
        descriptors.memory("tally") as out,
        programs.running(*argvs, tally_argv, stdin=stdin, out=out) as pipeline,
    ):
        yield Counting(pipeline=pipeline, out=out)


def counting_packed(descriptor: int, tally_argv: Sequence[str] = TALLY) -> contextlib.AbstractContextManager[Counting]:
    """Count an open, compressed dump, from its beginning, beside what the block does."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return counting(verify_file.unpacker(), stdin=descriptor, tally_argv=tally_argv)


def by_meaning(
    stored: Tally, restored: Tally, descriptor: int, dump_argv: Sequence[str], place: Path, *, beat: Beat = None
) -> Tally:
    """Return ``restored``, but as ``stored`` where both mean the same; those that are equal are not read again.

    Only the order of rows, columns and definitions has no meaning: PostgreSQL gives a child the columns of its parent
    first, and a row that is loaded through the root of its partition the partition that is now its own. ``descriptor``
    is the stored dump, ``dump_argv`` dumps the restored database, ``place`` is for the files of sort.
    """
    if stored.rows != restored.rows or stored == restored:
        return restored
    differ = [table for table, content in stored.tables.items() if content != restored.tables[table]]
    with descriptors.memory("tables") as names:
        os.write(names, "".join(f"{table}\n" for table in differ).encode("utf-8", "backslashreplace"))
        tally_argv = filters.argv("by_meaning.pl", str(place), f"/proc/{os.getpid()}/fd/{names}")
        with counting_packed(descriptor, tally_argv) as first:
            one = first.tally(beat)
        with counting(dump_argv, tally_argv=tally_argv) as second:
            other = second.tally(beat)
    same = {table: stored.tables[table] for table in differ if one.tables.get(table, 1) == other.tables.get(table, 2)}
    return replace(
        restored,
        tables={**restored.tables, **same},
        rest=stored.rest if one.rest == other.rest else restored.rest,
    )


def differences(stored: Tally, restored: Tally) -> Iterator[str]:
    """Yield in which tables, and by how many rows, what came back differs from what the set holds."""
    yield from row_differences(stored.rows, restored.rows)
    for table, (rows, digest) in stored.tables.items():
        if restored.tables.get(table, (rows, digest)) != (rows, digest) and restored.rows[table] == rows:
            yield f"{table}: all {rows} rows came back, but not all with the content that they had"
    if stored.rest != restored.rest:
        yield "the definitions that came back (tables, indexes, constraints, functions, rights) are not the set's"


def row_differences(expected: Mapping[str, int], found: Mapping[str, int]) -> Iterator[str]:
    """Yield each table that has another number of rows than expected, or is missing, or should not be there."""
    for table, rows in expected.items():
        if table not in found:
            yield f"{table}: missing, expected {rows} rows"
        elif found[table] != rows:
            yield f"{table}: {found[table]} rows, expected {rows}"
    yield from (
        f"{table}: {rows} rows, expected no such table"
        for table, rows in found.items() - expected.items()
        if table not in expected
    )


def _tally(printed: str) -> Tally:
    """Return what TALLY printed; DrillError when that is not whole."""
    parts = re.findall(r"([0-9a-f]{64})  -\n(\d+|-)\t(.*)\n", printed)
    if not parts or parts[-1][1:] != ("-", "") or "".join(f"{d}  -\n{n}\t{t}\n" for d, n, t in parts) != printed:
        raise DrillError("db: the dump could not be counted, expected rows and checksum of every table")
    tables: dict[str, tuple[int, str]] = {}
    for digest, rows, table in parts[:-1]:  # a table that has partitions may have several
        before = tables.get(table, (0, ""))
        tables[table] = (before[0] + int(rows), before[1] + digest)
    return Tally(tables=tables, rest=parts[-1][0])
