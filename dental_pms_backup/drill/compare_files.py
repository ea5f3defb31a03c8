"""The files of an archive beside the rows that name them: sort and join work on lists, in files of mode 0600."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.drill import admin_queries, load
from dental_pms_backup.errors import BackupError, ConfigError, DrillError, RoomError
from dental_pms_backup.host import descriptors, filters, programs
from dental_pms_backup.live import psql
from dental_pms_backup.store import archive_listing, verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from dental_pms_backup.config.settings import Application
    from dental_pms_backup.store.archive_listing import Looked

    Beat = Callable[[], None] | None

CONFIGURED = "/etc/dental-pms/backup.yaml"
UNDEFINED_TABLE = "42P01"
OF_THE_SET = {"gzip", "igzip", "tar"}
FULL = re.compile(r"No space left|Disk quota|write (failed|error)")
BY_NAME = ("-t\t", "--key=1,1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Rows and files beside each other. ``unsized`` files are hard links, whose size was not compared."""

    rows: int
    missing: int
    wrong_size: int
    unsized: int
    orphans: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """An archive while it is read to its last byte; its list comes into a directory."""

    pipeline: programs.Running
    place: Path

    def looked(self, path: Path, beat: Beat = None) -> Looked:
        """Wait for the archive's end and return what is in it; DrillError when a program fails."""
        ended = self.pipeline.wait(beat)
        _demand(ended)
        with (self.place / "entries").open("rb") as entries:
            return archive_listing.look_at(path, entries.fileno(), ended[-1], beat=beat)


@contextlib.contextmanager
def listing(descriptor: int, place: Path) -> Iterator[Listing]:
    """Read an open archive, from its beginning, beside what the block does."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with (
        _new(place / "entries") as out,
        programs.running(verify_file.unpacker(), archive_listing.LIST, stdin=descriptor, out=out) as pipeline,
    ):
        yield Listing(pipeline=pipeline, place=place)


def check(looked: Looked, expected: int | None) -> None:
    """Raise DrillError unless an archive has as many entries as the run counted, and a restore would take it."""
    if expected not in {None, looked.entry_count}:
        raise DrillError(f"attachments: {looked.entry_count} entries, expected {expected}")
    if wrong := looked.wrong(ours=True):
        raise DrillError(f"attachments: no restore takes the archive: it {wrong}")


def match(
    rows_argv: Sequence[str], application: Application, query: str, place: Path, *, beat: Beat = None
) -> Matched | None:
    """Compare what a query returns, key and size of each file, with the list made before; None without its table.

    ``rows_argv`` runs the SQL on its stdin. ConfigError when the server refuses the query: that speaks against what the
    configuration says of the application, and not against the set.
    """
    directory = "" if application.directory == "." else application.directory.strip("/")
    with (place / "entries").open("rb") as entries:
        listed = filters.argv("list_files.pl", directory)
        _into(place / "files", [listed, _sorted(place)], stdin=entries.fileno(), beat=beat)
    script = f"copy (\n{admin_queries.files(query)}\n) to stdout;\n"
    with descriptors.memory("query") as asked:
        os.write(asked, script.encode())
        os.lseek(asked, 0, os.SEEK_SET)
        try:
            _into(place / "rows", [rows_argv, _sorted(place)], stdin=asked, beat=beat)
        except DrillError as error:
            if UNDEFINED_TABLE in error.message and not application.query:
                return None
            raise _misfit(application, error) from None
    both = ["join", "-t\t", "-o", "1.2,2.2", str(place / "rows"), str(place / "files")]
    equal, linked, wrong = (int(word) for word in _small([both, filters.argv("compare_sizes.pl")], beat).split())
    rows = _count(place / "rows", beat)
    return Matched(
        rows=rows,
        missing=rows - equal - linked - wrong,
        wrong_size=wrong,
        unsized=linked,
        orphans=int(_small([_only_in(2, place), ["wc", "--lines"]], beat)),
    )


def _sorted(place: Path) -> list[str]:
    return ["sort", *BY_NAME, "--buffer-size=64M", f"--temporary-directory={place}"]


def _only_in(number: int, place: Path) -> list[str]:
    return ["join", "-t\t", "-v", str(number), "-o", "0", str(place / "rows"), str(place / "files")]


def _count(path: Path, beat: Beat) -> int:
    return int(_small([["wc", "--lines", str(path)]], beat).split()[0])


def _into(path: Path, argvs: Sequence[Sequence[str]], *, stdin: int | None, beat: Beat) -> None:
    with _new(path) as out:
        _demand(programs.pipeline(*argvs, stdin=stdin, out=out, beat=beat))


@contextlib.contextmanager
def _new(path: Path) -> Iterator[int]:
    """Open a file of mode 0600 to be written, in place of an earlier one, while the block lasts."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield out
    finally:
        os.close(out)


def _small(argvs: Sequence[Sequence[str]], beat: Beat) -> str:
    with descriptors.memory("counted") as out:
        _demand(programs.pipeline(*argvs, out=out, beat=beat))
        return os.pread(out, 4096, 0).decode("ascii", "replace")


def _demand(ended: Sequence[programs.Ended]) -> None:
    if failed := programs.failed(ended):
        raise _failure(failed)


def _misfit(application: Application, refused: DrillError) -> ConfigError:
    """Return the error for a query that the server refuses, with the keys that it is made of."""
    state = re.search(r"\(SQLSTATE \w+\)", refused.message)
    why = f"the server refuses {'the query' if application.query else 'to be asked for them'}"
    why += f" {state[0]}" if state else ""
    if application.query:
        return ConfigError(
            (f"application.query: {why}, expected SQL that returns paths and sizes",),
            hint=f"editor {CONFIGURED}   # mend application.query",
        )
    return ConfigError(
        (
            f"application.key_column, application.size_column: {application.key_column} and {application.size_column} "
            f"are no columns of table {application.table} with a file's path and size: {why}",
        ),
        hint=f"editor {CONFIGURED}   # set both, or application.table: another, or null where no table names the files",
    )


def _failure(failed: programs.Ended) -> BackupError:
    if any(FULL.search(line) for line in failed.said):
        return RoomError("drill: no space left for the list of the attachments, expected room for it", hint="df -h")
    refused = re.compile(rf"psql:<stdin>:\d+: (?!FATAL:|PANI[CK]:){psql.ERROR}")
    state = next((found[1] for line in failed.said if (found := refused.match(line))), "")
    if not state and failed.program in OF_THE_SET and failed.exit_code > 0:
        return DrillError(f"attachments: {failed}, expected all of them readable", hint="dental-pms-backup verify")
    if state == admin_queries.NO_RIGHT:
        return ConfigError(
            ("application.query: the query needs a right beyond reading, expected one that only reads",),
            hint="man dental-pms-backup.yaml   # section application",
        )
    return load.not_of_the_set(state, failed) or DrillError(
        f"attachments: the query of section application failed (SQLSTATE {state}), expected paths and sizes",
        hint="dental-pms-backup config show",
    )
