"""The files of an archive beside the rows that name them."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.drill import admin_queries, load
from dental_pms_backup.errors import BackupError, ConfigError, DrillError, RoomError
from dental_pms_backup.host import descriptors, programs
from dental_pms_backup.live import psql
from dental_pms_backup.store import archive_listing, named_files, verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dental_pms_backup.config.settings import Application
    from dental_pms_backup.drill.findings import Findings
    from dental_pms_backup.store.archive_listing import Looked
    from dental_pms_backup.store.named_files import Matched

    Beat = Callable[[], None] | None

CONFIGURED = "/etc/dental-pms/backup.yaml"
UNDEFINED_TABLE = "42P01"
OF_THE_SET = {"gzip", "igzip", "tar"}
FULL = re.compile(r"No space left|Disk quota|write (failed|error)")


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
        named_files.new(place / "entries") as out,
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
    with _judged(), (place / "entries").open("rb") as entries:
        lister = named_files.lister_of_files(application.directory)
        named_files.put("files", lister, place, stdin=entries.fileno(), beat=beat)
    script = f"copy (\n{admin_queries.files(query)}\n) to stdout;\n"
    with descriptors.memory("query") as asked:
        os.write(asked, script.encode())
        os.lseek(asked, 0, os.SEEK_SET)
        try:
            with _judged():
                named_files.put("rows", rows_argv, place, stdin=asked, beat=beat)
        except DrillError as error:
            if UNDEFINED_TABLE in error.message and not application.query:
                return None
            raise _misfit(application, error) from None
    with _judged():
        return named_files.match(place, beat)


def refuse_lack(found: Matched, known: Mapping[str, Any]) -> None:
    """Raise DrillError when more rows lack their file than the manifest's part of the attachments knows of."""
    if found.lacks_more(known):
        told = found.told(" in the archive")
        raise DrillError(f"attachments: {told}, expected {named_files.expected(known)}")


def tell_lack(findings: Findings, proof: str, found: Matched) -> None:
    """Note which rows lacked their file already when the set was taken; where all do, nothing was compared."""
    told = f"{found.told(' in the archive')}, as when the set was taken"
    if found.rows == found.missing > 0:
        findings.leave(proof, f"{told}: is application.directory right?")
    elif found.missing or found.other_size:
        findings.reasons[proof] = told


@contextlib.contextmanager
def _judged() -> Iterator[None]:
    try:
        yield
    except named_files.ListingError as error:
        raise _failure(error.ended) from None


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
