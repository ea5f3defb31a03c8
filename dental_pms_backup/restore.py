"""Putting a set's content back into the live place, all of it or nothing.

The database is replayed in one transaction, which is committed only after the last byte of the dump came through;
the attachments are unpacked beside the live directory and swapped in by renames, the old content being kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup import (
    artefacts,
    journal,
    ledger,
    lock,
    postgres,
    sources,
    streams,
    tools,
    verify,
)
from dental_pms_backup.artefacts import NAME_FORMAT, Kind, Stream
from dental_pms_backup.errors import BackupError, RefusedError, RestoreError, UsageError
from dental_pms_backup.journal import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from dental_pms_backup.config import Config
    from dental_pms_backup.progress import Watch
    from dental_pms_backup.sources import DatabaseSource

PUBLIC_IS_OWNED_SINCE = 15
# What the seed's strict replay drops, and what else the dump brings back: other schemas, large objects.
DROP = """\
do $$ declare s name; begin
 perform lo_unlink(oid) from pg_largeobject_metadata;
 for s in select nspname from pg_namespace n where nspname !~ '^pg_' and nspname <> 'information_schema'
  and not exists (select from pg_depend where classid = 'pg_namespace'::regclass and objid = n.oid and deptype = 'e')
 loop execute format('drop schema %I cascade', s); end loop; end $$"""
# psql takes the end of its input as the end of a COPY and would commit half a dump; and a dump with large objects has
# a COMMIT of its own. So nothing can be committed before the mark, which follows the last byte of a whole dump.
GUARD = """\
create temp table dental_pms_guard (n int);
create function pg_temp.dental_pms_guard() returns trigger language plpgsql as $$ begin
 if coalesce(current_setting('dental_pms.whole', true), '') <> 'yes' then
  raise 'the dump is not whole' using errcode = 'DP001'; end if;
 return null; end $$;
create constraint trigger whole after insert on dental_pms_guard deferrable initially deferred
 for each row execute function pg_temp.dental_pms_guard();
insert into dental_pms_guard values (1)"""
MARK = "set local dental_pms.whole = 'yes';"
WITHOUT_COMMIT = r"""/^COPY .* FROM stdin;$/,/^\\\.$/b
/^-- Data for Name: .*; Type: BLOBS; /,/^COMMIT;$/{/^BEGIN;$/d;/^COMMIT;$/d}"""
PACKED_AND_MARKED = 'gzip --decompress --stdout && printf "\\n%s\\n" "$1"'
PLAIN_AND_MARKED = 'cat && printf "\\n%s\\n" "$1"'
ROLE_MISSING = "42704"
WAITING_STATES = {"55P03", "57014", "40P01"}  # lock not available, canceled, deadlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did. ``kept`` is where the attachments that were live before are, None for a database."""

    stream: Stream
    file: Path
    target: str
    kept: Path | None = None


def database_in_place(config: Config, wanted: str, *, now: datetime, watch: Watch) -> Restored:
    """Replace the live database's content by a set's or a dump's, in one transaction.

    The dump is verified before anything is touched. RestoreError when the replay fails: the live database is
    then as it was.
    """
    file = _file(config.store, wanted, Kind.DB)
    size_bytes = file.stat().st_size
    live = sources.database(config)
    with _recorded(config.store, Stream.DB, live.facts.database, now), _opened(file) as source:
        with watch.over("db: verifying", source, size_bytes) as beat:
            if file.suffix == ".gz":
                verify.content(file, Kind.DB, source, beat=beat)
            else:
                verify.plain_dump(file, source)
        os.lseek(source, 0, os.SEEK_SET)
        with watch.over("db: restoring", source, size_bytes) as beat:
            _replay(live, source, packed=file.suffix == ".gz", lock_wait_s=config.database.lock_wait_s, beat=beat)
    return Restored(stream=Stream.DB, file=file, target=live.facts.database)


def attachments_in_place(config: Config, wanted: str, *, now: datetime, watch: Watch) -> Restored:
    """Replace the content of the live attachments by a set's or an archive's; what was there is kept beside.

    The archive is verified and unpacked before the live directory is touched; RestoreError leaves it as it was. What
    was restored and what is kept outlive a power failure from then on.
    """
    file = _file(config.store, wanted, Kind.ATTACHMENTS)
    size_bytes = file.stat().st_size
    target = sources.attachments(config).path.resolve()
    if target.stat().st_dev != target.parent.stat().st_dev:
        raise RefusedError(
            f"attachments: {target} is a mount point, expected a directory whose content can be swapped by rename",
            hint=f"empty it, then: tar -xzpf {file} --xattrs --xattrs-include='*' --acls --numeric-owner -C {target}",
        )
    unfinished = sorted(target.parent.glob(f"{target.name}.restoring-*"))
    if unfinished:
        raise RefusedError(
            f"attachments: {unfinished[0]} is left of a restore that was cut off, expected none",
            hint=f"compare it with {target} and {target}.before-restore-*, keep what is right, remove the rest",
        )
    stamp = now.astimezone().strftime(NAME_FORMAT)
    fresh, kept = (target.with_name(f"{target.name}.{word}-{stamp}") for word in ("restoring", "before-restore"))
    with _recorded(config.store, Stream.ATTACHMENTS, str(target), now), _opened(file) as source:
        with watch.over("attachments: verifying", source, size_bytes) as beat:
            verify.content(file, Kind.ATTACHMENTS, source, beat=beat)
        os.lseek(source, 0, os.SEEK_SET)
        with (
            _temporary_directory(fresh),
            watch.over("attachments: unpacking", source, size_bytes) as beat,
        ):
            _copy_attributes(target, fresh)  # an archive without an entry for it leaves them so
            _unpack(source, fresh, beat=beat)
            _swap_content(target, fresh, kept)
    return Restored(stream=Stream.ATTACHMENTS, file=file, target=str(target), kept=kept)


def _file(store: Path, wanted: str, kind: Kind) -> Path:
    """Return the file that a SET or a path means; UsageError says what would do."""
    endings = (".sql", ".sql.gz") if kind is Kind.DB else (".tgz", ".tar.gz")
    path = Path(wanted)
    if path.is_file() and path.suffix != ".json":
        if not path.name.endswith(endings):
            raise UsageError(
                f"{path}: not a file to restore {kind} from, expected one that ends in {' or '.join(endings)}"
            )
        return path.resolve()
    artefact = artefacts.find(store, wanted, having=kind).artefact(kind)
    if artefact is None:
        raise UsageError(f'"{wanted}": the set has no {kind}, expected one that has', hint="dental-pms-backup list")
    return store / artefact.path


def _public(major: int) -> tuple[str, ...]:
    """Return what makes schema public as a new database has it: a dump holds only what differs from that."""
    comment = "comment on schema public is 'standard public schema'"
    if major >= PUBLIC_IS_OWNED_SINCE:
        owned = "create schema public authorization pg_database_owner"
        return (owned, "grant usage on schema public to public", comment)
    return ("create schema public", "grant all on schema public to public", comment)


def _replay(live: DatabaseSource, source: int, *, packed: bool, lock_wait_s: int, beat: Callable[[], None]) -> None:
    session = streams.new_session()
    statements = ("begin", GUARD, f"set local lock_timeout = '{lock_wait_s}s'", DROP, *_public(live.facts.major))
    psql = postgres.client(
        live.server,
        postgres.matching(live.server, live.facts, "psql"),
        "-Xq",
        "-w",
        "--set=ON_ERROR_STOP=1",
        "--set=VERBOSITY=sqlstate",  # the text of an error may quote a row
        "--output=/dev/null",
        *(f"--command={statement}" for statement in statements),
        "--file=-",
        "--command=commit",
        session=session,
        stdin=True,
    )
    script = PACKED_AND_MARKED if packed else PLAIN_AND_MARKED
    done = False
    with open(os.devnull, "wb") as nowhere:
        try:
            ended = tools.pipeline(
                ["sh", "-c", script, "sh", MARK],
                ["sed", "--expression", WITHOUT_COMMIT],
                psql,
                source=source,
                out=nowhere.fileno(),
                beat=beat,
            )
            done = all(program.ok for program in ended)
        finally:
            if not done:
                streams.end_quietly(live.server, session)
    if not done:
        raise _replay_error(next(program for program in reversed(ended) if not program.ok))


def _replay_error(failed: tools.Ended) -> RestoreError:
    said = next((line for line in reversed(failed.said) if "ERROR" in line or "FATAL" in line), "")
    state = re.search(r"(?:ERROR|FATAL):\s+(\w{5})\b", said)
    why = f"SQLSTATE {state[1]}" if state else str(failed)
    hint = "dental-pms-backup list   # another set, or into a new database as RESTORE.txt in the store says"
    if state and state[1] == ROLE_MISSING:
        why += ", the server lacks a role"
        hint = "gzip -dc STORE/db/globals_SET.sql.gz | psql -X -v ON_ERROR_STOP=1   # the set's roles; then try again"
    if state and state[1] in WAITING_STATES:
        why += ", a session of the application holds a table"
        hint = "docker compose stop backend   # or whatever uses the database; then try again"
    return RestoreError(
        f"db: the replay failed ({why}), expected every statement to succeed; the live database is as it was", hint=hint
    )


def _unpack(source: int, fresh: Path, *, beat: Callable[[], None]) -> None:
    argv = ["tar", "--extract", "--file=-", "--preserve-permissions", "--same-owner", "--numeric-owner"]
    argv += ["--xattrs", "--xattrs-include=*", "--acls", f"--directory={fresh}"]
    with open(os.devnull, "wb") as nowhere:
        ended = tools.pipeline(
            ["gzip", "--decompress", "--stdout"], argv, source=source, out=nowhere.fileno(), beat=beat
        )
        if all(program.ok for program in ended):
            ended += tools.pipeline(["sync", "--file-system", str(fresh)], out=nowhere.fileno())
    failed = next((program for program in reversed(ended) if not program.ok), None)
    if failed:
        full = any("No space left" in line for line in failed.said)
        raise RestoreError(
            f"attachments: unpacking failed ({failed}{', no space left' if full else ''}), "
            "expected every entry; the live directory is as it was",
            hint=f"df -h {fresh.parent}",
        )


def _swap_content(target: Path, fresh: Path, kept: Path) -> None:
    """Move what is in ``target`` to ``kept`` and what is in ``fresh`` to ``target``; undone when a rename fails.

    The directory itself stays, since containers have it mounted.
    """
    done: list[tuple[Path, Path]] = []
    attributes = fresh.stat()  # the renames out of it change its time
    try:
        kept.mkdir(mode=0o700)
        _sync(kept.parent)
        for source, place in ((target, kept), (fresh, target)):
            for path in list(source.iterdir()):
                path.rename(place / path.name)
                done.append((path, place / path.name))
            _sync(target, kept)  # what was live is safe in its new place before anything takes its names
        _copy_attributes(fresh, target)
        os.utime(target, ns=(attributes.st_atime_ns, attributes.st_mtime_ns))
    except OSError as error:
        _move_back(done)
        raise RestoreError(
            f"attachments: the swap failed: {error.strerror}, expected to rename; the live directory is as it was"
        ) from None


def _sync(*directories: Path) -> None:
    """Make the names in directories durable."""
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move_back(done: list[tuple[Path, Path]]) -> None:
    for source, destination in reversed(done):
        try:
            destination.rename(source)
        except OSError as error:
            raise RestoreError(
                f"attachments: the swap failed and could not be undone: {error.strerror}; "
                f"{destination.parent} and {source.parent} together hold everything",
                hint=f"ls -la {destination.parent} {source.parent}",
            ) from None


def _copy_attributes(source: Path, target: Path) -> None:
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)
    shutil.copystat(source, target)


@contextlib.contextmanager
def _recorded(store: Path, stream: Stream, target: str, now: datetime) -> Iterator[None]:
    """Hold the store, if there is one, and put the restore into journal and ledger, however it ends."""
    fields = {"stream": stream, "target": target}
    with lock.held(store) if store.is_dir() else contextlib.nullcontext():
        journal.write(Event.RESTORE_STARTED, f"restore of {stream} into {target} started", fields=fields)
        try:
            yield
        except BackupError as error:
            journal.write(
                Event.RESTORE_FAILED,
                f"restore failed: {error.message}",
                priority=journal.ERROR,
                fields={**fields, "cause": error.cause, "hint": error.hint},
            )
            error.told = True
            with contextlib.suppress(BackupError):  # the journal has it
                _enter(store, stream, now, {"result": "failed", "cause": error.cause})
            raise
        journal.write(Event.RESTORE_SUCCEEDED, f"restore of {stream} into {target} finished", fields=fields)
        _enter(store, stream, now, {"result": "ok"})


def _enter(store: Path, stream: Stream, now: datetime, facts: dict[str, str]) -> None:
    if store.is_dir():
        ledger.record(store, "restore", now=now, facts={"stream": stream, **facts})


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[int]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}, expected a file to restore from") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary_directory(path: Path) -> Iterator[None]:
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise RestoreError(f"attachments: {path}: {error.strerror}, expected to make a directory there") from None
    try:
        yield
    finally:
        shutil.rmtree(path)
