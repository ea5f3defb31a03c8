"""Putting a set's content back: looked at before anything is touched, restored beside, put in its place at the end.

A database is replayed into a new one in one transaction, counted, and given the live one's name in another; the live
one is kept under a dated name. Attachments are unpacked beside the live directory and swapped in by renames.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from dental_pms_backup import (
    databases,
    dumps,
    journal,
    ledger,
    lock,
    postgres,
    replay,
    safety,
    sources,
    stop,
    unpack,
)
from dental_pms_backup.artefacts import NAME_FORMAT, Kind, Stream
from dental_pms_backup.errors import BackupError, RefusedError, RestoreError, UsageError
from dental_pms_backup.journal import Event
from dental_pms_backup.progress import size
from dental_pms_backup.replay import Into

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.config import Config
    from dental_pms_backup.dumps import Head, Source
    from dental_pms_backup.progress import Watch
    from dental_pms_backup.sources import DatabaseSource

DATABASE_FORMAT = "%Y_%m_%d_%H%M%S"
GROWTH = 1.1
NO_TABLE = -1
OF_NOTHING = "none, the live database was empty"
NEW_IS_GONE = "the live database is as it was, and nothing is left of the new one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did.

    ``kept`` is where what was live before is, None where nothing was replaced. ``rows`` were counted and compared.
    ``switch`` and ``drop`` are what an admin may type next: to put a new database in the live one's place, to let a
    kept one go.
    """

    stream: Stream
    file: Path
    target: str
    kept: Path | str | None = None
    rows: int | None = None
    safety_set: str = ""
    switch: Sequence[str] = ()
    drop: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How what is live may be replaced.

    ``consent`` is given the name of what will be replaced and what of it the set has not; it raises where the admin
    does not want that. ``replay`` in the live database itself is for a disk that cannot hold two.
    """

    consent: Callable[[str, Sequence[str]], None]
    safety_set: bool = True
    replay: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proven:
    """A dump that was read to its end: what it says of itself, how many rows its tables have, the server for it."""

    source: Source
    descriptor: int
    head: Head
    rows: Mapping[str, int]
    live: DatabaseSource


def database_into_new(config: Config, wanted: str, name: str | None, *, now: datetime, watch: Watch) -> Restored:
    """Restore a set's or a file's dump into a new database beside the live one, which is not touched.

    Nothing is left of the new one when that fails: RestoreError.
    """
    dump = dumps.find(config.store, wanted, Kind.DB)
    live = sources.database(config)
    stamp = dump.stamp or now.astimezone().strftime(NAME_FORMAT)
    target = name or databases.name_like(live.facts.database, f"_{stamp.replace('-', '_')}")
    with _recorded(config.store, Stream.DB, target, now), dumps.opened(dump) as descriptor:
        _check_name(live, target)
        proven = _prove(dump, descriptor, live, watch=watch)
        _check_room(proven)
        with _beside(config, proven, now=now, watch=watch) as made:
            stop.check()
            databases.take_name(live.server, live.facts.database, made, target)
        kept = databases.name_like(live.facts.database, f"_before_{now.astimezone().strftime(DATABASE_FORMAT)}")
    return Restored(
        stream=Stream.DB,
        file=dump.file,
        target=target,
        rows=sum(proven.rows.values()),
        switch=databases.switch_command(live.server, live.facts.user, live.facts.database, target, kept),
        drop=databases.drop_command(live.server, live.facts.user, target),
    )


def database_in_place(config: Config, wanted: str, terms: Terms, *, now: datetime, watch: Watch) -> Restored:
    """Replace the live database by a set's or a file's dump, restored beside it and switched in by name.

    RestoreError, and the live database is as it was, when anything fails before that.
    """
    dump = dumps.find(config.store, wanted, Kind.DB)
    live = sources.database(config)
    database = live.facts.database
    with _recorded(config.store, Stream.DB, database, now), dumps.opened(dump) as descriptor:
        proven = _prove(dump, descriptor, live, watch=watch)
        if not terms.replay:
            _check_room(
                proven, hint=f"dental-pms-backup restore db {wanted} --in-place --replace   # needs no room twice"
            )
        counts = _live_rows(live, needed=terms.safety_set)
        terms.consent(database, _losses(counts, proven.rows))
        taken = _safety_set(config, live, counts, terms, now=now, watch=watch)
        if terms.replay:
            _replay(config, proven, Into(database=database, replacing=True), watch=watch)
            return Restored(stream=Stream.DB, file=dump.file, target=database, safety_set=taken)
        with _beside(config, proven, now=now, watch=watch) as made:
            kept = _free_name(live, "_before_", now)
            stop.check()
            _switch(live, made, kept)
    return Restored(
        stream=Stream.DB,
        file=dump.file,
        target=database,
        kept=kept,
        rows=sum(proven.rows.values()),
        safety_set=taken,
        drop=databases.drop_command(live.server, live.facts.user, kept),
    )


def attachments_in_place(config: Config, wanted: str, terms: Terms, *, now: datetime, watch: Watch) -> Restored:
    """Replace the content of the live attachments by a set's or an archive's; what was there is kept beside.

    The archive is verified and unpacked before the live directory is touched; RestoreError leaves it as it was. What
    was restored and what is kept outlive a power failure from then on.
    """
    archive = dumps.find(config.store, wanted, Kind.ATTACHMENTS)
    target = sources.attachments(config).path.resolve()
    if target.stat().st_dev != target.parent.stat().st_dev:
        raise RefusedError(
            f"attachments: {target} is a mount point, expected a directory whose content can be swapped by rename",
            hint="empty it, then: "
            f"tar -xzpf {archive.file} --xattrs --xattrs-include='*' --acls --numeric-owner -C {target}",
        )
    unfinished = sorted(target.parent.glob(f"{target.name}.restoring-*"))
    if unfinished:
        raise RefusedError(
            f"attachments: {unfinished[0]} is left of a restore that was cut off, expected none",
            hint=f"compare it with {target} and {target}.before-restore-*, keep what is right, remove the rest",
        )
    stamp = now.astimezone().strftime(NAME_FORMAT)
    fresh, kept = (target.with_name(f"{target.name}.{word}-{stamp}") for word in ("restoring", "before-restore"))
    with _recorded(config.store, Stream.ATTACHMENTS, str(target), now), dumps.opened(archive) as descriptor:
        dumps.prove(archive, descriptor, watch=watch)
        terms.consent(Stream.ATTACHMENTS, ())
        with (
            unpack.temporary_directory(fresh),
            watch.over("attachments: unpacking", descriptor, archive.file.stat().st_size) as beat,
        ):
            unpack.copy_attributes(target, fresh)  # an archive without an entry for it leaves them so
            unpack.unpack(descriptor, fresh, beat=beat)
            unpack.swap_content(target, fresh, kept)
    return Restored(stream=Stream.ATTACHMENTS, file=archive.file, target=str(target), kept=kept)


def _prove(dump: Source, descriptor: int, live: DatabaseSource, *, watch: Watch) -> _Proven:
    """Read all of a dump, and make sure that the server can take it, before anything is touched."""
    rows = dumps.prove(dump, descriptor, watch=watch)
    head = dumps.head(dump, descriptor)
    dumps.check_version(dump, head, live.facts.major)
    for left in databases.unfinished(live.server):
        journal.write(
            Event.RESTORE_UNFINISHED,
            f"database {left} is left of a restore that was cut off; nothing needs it",
            priority=journal.WARNING,
            fields={"target": left},
        )
    return _Proven(source=dump, descriptor=descriptor, head=head, rows=rows, live=live)


def _check_name(live: DatabaseSource, target: str) -> None:
    if not 0 < len(target.encode()) <= databases.LONGEST_NAME_BYTES or "\0" in target:
        raise UsageError(f'"{target}": no name for a database, expected 1 to {databases.LONGEST_NAME_BYTES} bytes')
    if target in databases.names(live.server):
        raise RefusedError(
            f"db: database {target} exists already, expected a name for a new one",
            hint="dental-pms-backup restore db SET --to ANOTHER_NAME",
        )


def _check_room(proven: _Proven, *, hint: str = "df -h   # on the server") -> None:
    """Raise RefusedError unless the server's disk can hold a second database, and its log of changes."""
    live = proven.live
    room = databases.room(live.server, live.facts.database)
    if room is None:
        text = "the room on the server's disk cannot be measured: its df did not answer"
        journal.write(Event.RESTORE_WARNING, text, priority=journal.WARNING)
        return
    grown = round(proven.source.database_bytes() * GROWTH)
    needed = grown + min(grown, room.wal_bytes)
    if room.free_bytes < needed:
        raise RefusedError(
            f"db: {size(room.free_bytes)} free on the server's disk, as df says of its data directory, expected "
            f"{size(needed)} for a second database and its log; nothing was touched",
            hint=hint,
        )


def _live_rows(live: DatabaseSource, *, needed: bool) -> dict[str, int] | None:
    """Return the rows of the live database by table; None where it cannot be read, and that is not ``needed``."""
    try:
        tables = postgres.table_files(live.server)
        return databases.row_counts(live.server, live.facts.database, tables) if tables else {}
    except BackupError as error:
        if not needed:
            return None
        raise RefusedError(
            f"restore: what is live cannot be read ({error.message}), expected to make a safety set of it first",
            hint="mend that; or type --no-safety-set if what is live is worth nothing",
        ) from None


def _losses(live: Mapping[str, int] | None, rows: Mapping[str, int]) -> list[str]:
    """Return of which tables the live database has more rows than the dump, in words, counts only."""
    if live is None:
        return ["all of it: it cannot be read"]
    more = {table: count - rows.get(table, 0) for table, count in sorted(live.items())}
    return [f"{count} rows of {table}" for table, count in more.items() if count > 0]


def _safety_set(
    config: Config, live: DatabaseSource, counts: Mapping[str, int] | None, terms: Terms, *, now: datetime, watch: Watch
) -> str:
    """Take a safety set, where there is something to lose, and return its name, or why there is none."""
    if not terms.safety_set:
        return ""
    return safety.take(config, live, now=now, watch=watch) if counts else OF_NOTHING


@contextlib.contextmanager
def _beside(config: Config, proven: _Proven, *, now: datetime, watch: Watch) -> Iterator[str]:
    """Restore into a new database, compare its rows, and yield its name; it is dropped when the block fails."""
    live = proven.live
    made = _free_name(live, "_restoring_", now)
    _make_roles(config, proven, watch=watch)
    try:
        databases.create_like(live.server, live.facts.database, made)
        _replay(config, proven, Into(database=made, replacing=False, state=NEW_IS_GONE), watch=watch)
        _compare(proven, made)
        databases.analyze(live.server, made)
        yield made
    except BaseException:
        _drop(live, made)
        raise


def _compare(proven: _Proven, made: str) -> None:
    """Raise RestoreError unless every table has as many rows as in the dump.

    One that is not there is no table: the replay would have stopped at it. Its COPY stood in a comment or a function.
    """
    found = databases.row_counts(proven.live.server, made, proven.rows) if proven.rows else {}
    different = [table for table, rows in proven.rows.items() if found[table] not in {rows, NO_TABLE}]
    if different:
        raise RestoreError(
            f"db: {len(different)} tables have not the rows of the dump, the first is {different[0]}, "
            f"expected all; {NEW_IS_GONE}"
        )


def _make_roles(config: Config, proven: _Proven, *, watch: Watch) -> None:
    roles = dumps.roles_of(config.store, proven.source)
    if roles is None:
        return
    with dumps.opened(roles) as descriptor:
        dumps.prove(roles, descriptor, watch=watch)
        with watch.over("db: roles", descriptor, roles.file.stat().st_size) as beat:
            replay.load_roles(proven.live, descriptor, beat=beat)


def _replay(config: Config, proven: _Proven, into: Into, *, watch: Watch) -> None:
    os.lseek(proven.descriptor, 0, os.SEEK_SET)
    into = dataclasses.replace(into, lock_wait_s=config.database.lock_wait_s)
    # an index is made while no byte moves, however long it takes
    patient = watch if into.replacing else dataclasses.replace(watch, stall_timeout_s=math.inf)
    with patient.over("db: restoring", proven.descriptor, proven.source.file.stat().st_size) as beat:
        replay.replay(
            proven.live,
            proven.descriptor,
            into,
            packed=proven.source.packed,
            token=proven.head.token,
            beat=beat,
        )


def _switch(live: DatabaseSource, made: str, kept: str) -> None:
    """Switch, and find out by the names whether that came about where the server could not say it any more."""
    with stop.deferred():
        try:
            databases.switch(live.server, live.facts.database, made, kept)
        except BackupError:
            if not {kept, live.facts.database} <= databases.names(live.server):
                raise


def _drop(live: DatabaseSource, made: str) -> None:
    """Drop what a failed restore has made; where even that fails, say so: the failure itself is told by others."""
    try:
        with stop.deferred():
            databases.drop(live.server, made)
    except BackupError:
        text = f"database {made} is left of the restore that failed; nothing needs it"
        journal.write(Event.RESTORE_UNFINISHED, text, priority=journal.WARNING, fields={"target": made})


def _free_name(live: DatabaseSource, word: str, now: datetime) -> str:
    """Return a name for a database made of the live one's, a word and the time; a later second when it is taken."""
    taken = databases.names(live.server)
    while True:
        suffix = word + now.astimezone().strftime(DATABASE_FORMAT)
        name = databases.name_like(live.facts.database, suffix)
        if name not in taken:
            return name
        now += timedelta(seconds=1)


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
