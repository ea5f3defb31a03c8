"""The proofs of a drill: what is tried on a set and its copy in a throwaway server, each passed or failed."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.drill import (
    admin_queries,
    compare_dumps,
    compare_files,
    compare_live,
    compare_settings,
    load,
    restorable,
    throwaway_server,
)
from dental_pms_backup.errors import (
    BackupError,
    ConfigError,
    DatabaseError,
    DatabaseRefusedError,
    DrillError,
    TemporaryError,
    UsageError,
    VerificationError,
)
from dental_pms_backup.host import notify, stop
from dental_pms_backup.live import own_settings, sources, unknown_settings
from dental_pms_backup.store import verify_file
from dental_pms_backup.store.drill_record import Result
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.drill.compare_dumps import Counting, Tally
    from dental_pms_backup.drill.findings import Findings
    from dental_pms_backup.drill.limit import Limit
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.postgres import Server
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.store.archive_listing import Looked
    from dental_pms_backup.store.sets import StoredSet

TOLD_AT_MOST = 5
ONLY_THE_DIRECTORY = 1
NEEDED = {"source", "server_version", "system_identifier"}
CHECKSUMS, LOAD, SETTINGS, IDENTITY, ROWS = ("checksums", "load", "settings", "identity", "rows")
ATTACHMENTS, FILES = ("attachments", "files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every step of one drill works with; ``files`` are the set's, open."""

    config: Config
    stored: StoredSet
    manifest: Mapping[str, Any]
    files: Mapping[Kind, int]
    place: Path
    findings: Findings
    watch: Watch
    limit: Limit

    @contextlib.contextmanager
    def reading(self, label: str, source: int) -> Iterator[Callable[[], None]]:
        """Show how far an open file of the set is read while the block lasts."""
        with self.watch.showing(f"drill: {label}", source, os.fstat(source).st_size) as shown:

            def beat() -> None:
                shown()
                self.limit.beat()

            yield beat

    def part(self, stream: Stream) -> Mapping[str, Any]:
        """Return what the manifest says of a stream."""
        part: Mapping[str, Any] = self.manifest["streams"][stream]
        return part


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """The throwaway server, and the role that the admin's queries on the copy run as."""

    server: Server
    role: str


def prove(job: Job) -> None:
    """Try every proof that the set's files allow; each is in the findings afterwards.

    Beside the checksums archive and dump are read already, and the dump while the throwaway server is made.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as beside:
        again = {kind: beside.enter_context(verify_file.reopened(source)) for kind, source in job.files.items()}
        listing = went_in = None
        if Kind.ATTACHMENTS in again:
            listing = beside.enter_context(compare_files.listing(again[Kind.ATTACHMENTS], job.place))
        if Kind.DB in again:
            went_in = beside.enter_context(compare_dumps.counting_packed(again[Kind.DB]))
        with job.findings.proof(CHECKSUMS):
            _check_files(job)
        if job.findings.problems:
            return  # nothing else can be told of other files than the manifest's
        if listing:
            with job.findings.proof(ATTACHMENTS), job.reading("attachments: reading", again[Kind.ATTACHMENTS]) as beat:
                _check_archive(job, listing.looked(job.config.store / Kind.ATTACHMENTS.path(job.stored.name), beat))
            job.findings.figures["attachments_s"] = round(time.monotonic() - began, 1)
        if went_in:
            _prove_database(job, went_in)


def _check_files(job: Job) -> None:
    if job.stored.problems:
        raise DrillError(job.stored.problems[0])
    for artefact in (each for each in job.stored.artefacts if each.kind in job.files):
        with job.reading(f"{artefact.kind}: checksum", job.files[artefact.kind]) as beat:
            path = job.config.store / artefact.path
            try:
                checksum = verify_file.sha256(path, job.files[artefact.kind], beat=beat)
            except VerificationError as error:
                if "killed by signal" in error.message:  # by who wanted memory, say: that is not the set's fault
                    raise TemporaryError(f"drill: {error.message}") from None
                raise
            if checksum != artefact.sha256:
                raise DrillError(f"{artefact.path}: the checksum differs from the manifest's")


def _check_archive(job: Job, looked: Looked) -> None:
    job.findings.figures["entries"] = looked.entry_count
    compare_files.check(looked, job.part(Stream.ATTACHMENTS).get("entries"))
    if looked.not_compared:
        job.findings.reasons[ATTACHMENTS] = f"a restore compares no file: {looked.not_compared}"


def _prove_database(job: Job, went_in: Counting) -> None:
    findings, source = job.findings, job.part(Stream.DB).get("source", {})
    if not source.keys() >= NEEDED:
        raise UsageError(f"set {job.stored.name}: its manifest does not say which server the set was taken from")
    head, superuser = None, "postgres"
    with findings.proof(LOAD):
        head = load.head(job.files[Kind.DB])
        superuser = load.superuser(source, job.files.get(Kind.GLOBALS))
        if head.major != source["server_version"] // 10_000:
            raise DrillError(
                f"db: a dump of PostgreSQL {head.major}, expected one of {source['server_version'] // 10_000} "
                "as the manifest says"
            )
    if head is None or findings.results[LOAD] is Result.FAILED:
        return
    where = throwaway_server.choose(job.config.drill.where, source)
    findings.where = where.kind
    notify.status(f"drill: starting a throwaway {where.kind}")
    packed_bytes = os.fstat(job.files[Kind.DB]).st_size
    room = throwaway_server.room(job.config, where)
    with (
        job.limit.within_room(room.check),
        restorable.reading(job.files[Kind.DB]) as read,
        throwaway_server.server(
            job.config, where, room, job.place, superuser=superuser, packed_bytes=packed_bytes
        ) as server,
    ):
        with findings.proof(LOAD), findings.timed("restore_s"), findings.of_a_server_like_live(LOAD):
            _load(job, server, head.encoding)
            restorable.check(read, job.limit.beat)
        if findings.results[LOAD] is Result.FAILED:
            return
        if Kind.SETTINGS in job.files:
            _compare_settings(job, server)
        came_back = _compare(job, server, head.encoding, went_in)
        if came_back:
            _compare_rows(job, came_back)
        reading = _Reading(server=server, role=admin_queries.make(server, head.major))
        _check_content(job, reading)
        _compare_with_live(job, reading)
        _match_files(job, reading)


def _load(job: Job, server: Server, encoding: str) -> None:
    why = load.make_database(server, encoding, job.part(Stream.DB)["source"], _custom(job))
    if why:
        job.findings.reasons[LOAD] = why
    for kind, what in ((Kind.GLOBALS, "globals"), (Kind.DB, "db")):
        if kind in job.files:
            with job.reading(f"{what}: restoring", job.files[kind]) as beat:
                if kind is Kind.GLOBALS:
                    if lacking := load.roles(server, job.files[kind], beat=beat):
                        job.findings.reasons[LOAD] = "; ".join(each for each in (why, lacking) if each)
                elif not load.load_with_event_triggers_last(server, job.files[kind], beat=beat):
                    load.load(server, what, job.files[kind], whole=True, beat=beat)


def _custom(job: Job) -> Mapping[str, str]:
    """Return the database's settings that its functions may read; whether their file is whole is proven later."""
    if Kind.SETTINGS not in job.files:
        return {}
    try:
        own = own_settings.read(verify_file.unpacker(), job.files[Kind.SETTINGS])
        return unknown_settings.custom(own.values(), "")  # the set's roles come with theirs
    except ValueError:
        return {}


def _compare_settings(job: Job, server: Server) -> None:
    why = ""
    with job.findings.proof(SETTINGS):
        why = compare_settings.compare(server, job.files[Kind.SETTINGS], job.limit.beat)
    if why:
        job.findings.leave(SETTINGS, why)


def _compare(job: Job, server: Server, encoding: str, went_in: Counting) -> Tally | None:
    """Dump what was loaded, compare that with the set's own dump, and return what it holds."""
    came_back = None
    with job.findings.proof(IDENTITY), job.findings.of_a_server_like_live(LOAD):
        notify.status("drill: db: dumping what came back")
        dump_argv = load.dump_argv(server, encoding, job.part(Stream.DB)["source"])
        with compare_dumps.counting(dump_argv) as counting:
            came_back = counting.tally(job.limit.beat)
        stored = went_in.tally(job.limit.beat)
        seen = compare_dumps.by_meaning(
            stored, came_back, job.files[Kind.DB], dump_argv, job.place, beat=job.limit.beat
        )
        _refuse(compare_dumps.differences(stored, seen), "what came back is not what went in")
    return came_back


def _compare_rows(job: Job, came_back: Tally) -> None:
    rows = job.part(Stream.DB).get("rows")
    if rows is None:
        job.findings.leave(ROWS, "the manifest counts none")
        return
    job.findings.figures["rows"] = sum(came_back.rows.values())
    with job.findings.proof(ROWS):
        _refuse(compare_dumps.row_differences(rows, came_back.rows), "not the rows that the manifest counts")


def _match_files(job: Job, reading: _Reading) -> None:
    """Look for the file of every row that has one."""
    findings, application = job.findings, job.config.application
    if Kind.ATTACHMENTS not in job.files or findings.results[ATTACHMENTS] is Result.FAILED:
        findings.leave(FILES, "the set has no archive that can be compared")
        return
    if application.files is None:
        findings.leave(FILES, "application.table is null")
        return
    try:
        found = None
        with findings.proof(FILES):
            notify.status("drill: attachments: looking for the file of every row")
            rows = admin_queries.argv(reading.server, reading.role, timeout_s=job.limit.left_s)
            found = compare_files.match(rows, application, application.files, job.place, beat=job.limit.beat)
            if found:
                findings.figures |= {"rows_with_files": found.rows, "orphans": found.orphans}
                _refuse_lack(found)
            else:
                _check_had_none(job)
        if not found and findings.results[FILES] is Result.PASSED:
            findings.leave(FILES, "no table attachments came back")
            _demand_word(job)
    except ConfigError as error:  # which says nothing of the set; what speaks against it is told first
        findings.leave(FILES, error.message)
        if not findings.problems:
            raise


def _refuse_lack(found: compare_files.Matched) -> None:
    """Raise DrillError when rows lack their file."""
    if found.missing or found.wrong_size:
        raise DrillError(
            f"attachments: of {found.rows} rows {found.missing} have no file in the archive and {found.wrong_size} "
            "one of another size, expected the file of every row"
        )


def _check_had_none(job: Job) -> None:
    """Raise DrillError when the table of the attachments did not come back, although the set's manifest has it."""
    table, rows = job.config.application.table, job.part(Stream.DB).get("rows", {})
    if table in rows or f"public.{table}" in rows:
        raise DrillError("attachments: the table that section application names did not come back from the set")


def _demand_word(job: Job) -> None:
    """Raise ConfigError when an archive has files that cannot be compared, and nobody said that it is so.

    That is no fault of the set, whose manifest knows of no such table; but proven it is not.
    """
    name, default = job.stored.name, job.config.origins["application.table"] == "default"
    if not default or job.findings.figures["entries"] > ONLY_THE_DIRECTORY:
        has = "attachments, but no table attachments" if default else f"no table {job.config.application.table}"
        raise ConfigError(
            (f"application.table: set {name} has {has} that names them, expected the table that does",),
            hint="editor /etc/dental-pms/backup.yaml   # set application.table, to null where no table names the files",
        )


def _check_content(job: Job, reading: _Reading) -> None:
    for name, sql in job.config.drill.checks:
        with job.findings.proof(f"check {name}"):
            admin_queries.check(
                reading.server, reading.role, name, sql, timeout_s=job.limit.left_s, beat=job.limit.beat
            )


def _compare_with_live(job: Job, reading: _Reading) -> None:
    """Ask both databases the same; while live does not answer, that is not checked, for a drill is for that day."""
    queries = job.config.drill.same_as_live
    live, unreachable = _live(job.config) if queries else (None, "")
    for name, sql in queries:
        proof, unasked = f"same as live {name}", unreachable
        with job.findings.proof(proof):
            here = admin_queries.answer(
                reading.server, reading.role, name, sql, timeout_s=job.limit.left_s, beat=job.limit.beat
            )
            if live:
                try:
                    compare_live.compare(here, live, name, sql, beat=job.limit.beat)
                except DatabaseRefusedError as error:
                    unasked = error.message
                except DatabaseError as error:
                    live, unasked = None, error.message
                    unreachable = unasked
        if unasked and job.findings.results[proof] is Result.PASSED:
            job.findings.leave(proof, unasked)


def _live(config: Config) -> tuple[DatabaseSource | None, str]:
    """Return the live database, or why it does not answer."""
    try:
        return sources.database(config), ""
    except BackupError as error:
        stop.check()
        return None, error.message


def _refuse(differences: Iterator[str], what: str) -> None:
    """Raise DrillError when there are differences, of which the first are told."""
    found = list(differences)
    if found:
        more = f"; and {len(found) - TOLD_AT_MOST} more" if len(found) > TOLD_AT_MOST else ""
        raise DrillError(f"db: {what}: {'; '.join(found[:TOLD_AT_MOST])}{more}")
