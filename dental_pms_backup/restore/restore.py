"""Putting a set's content back: looked at before what is live is touched, restored beside, put in its place at the end.

A database is replayed into a new one in one transaction, counted, and given the live one's name in another; the live
one is kept under a dated name. Attachments are unpacked beside the live directory and swapped in by renames.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, RefusedError, RestoreError, UsageError, shell_word
from dental_pms_backup.host import journal, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import sources, swap, table_files
from dental_pms_backup.restore import beside, databases, dump_file, safety_set, unpack
from dental_pms_backup.restore.replay import Into
from dental_pms_backup.store import ledger, lock
from dental_pms_backup.store.sets import NAME_FORMAT, Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.places import Place
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.live.swap import Live
    from dental_pms_backup.restore.beside import Opened
    from dental_pms_backup.restore.dump_file import BackupFile
    from dental_pms_backup.restore.unpack import Rights
    from dental_pms_backup.store.verify_file import Verified

OF_NOTHING = "none, the live database was empty"


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
    does not want that. ``replay`` in the live database itself is for a disk that cannot hold two. ``as_superuser`` is
    for what a role without rights may not make.
    """

    consent: Callable[[str, Sequence[str]], None]
    safety_set: bool = True
    replay: bool = False
    as_superuser: bool = False


def database_into_new(
    config: Config, wanted: str, name: str | None, *, as_superuser: bool, now: datetime, watch: Watch
) -> Restored:
    """Restore a set's or a file's dump into a new database beside the live one, which is not touched.

    Nothing is left of the new one when that fails: RestoreError, VerificationError.
    """
    dump = dump_file.find(config.store, wanted, Kind.DB)
    live = sources.database(config)
    stamp = dump.stamp or now.astimezone().strftime(NAME_FORMAT)
    target = name or databases.name_like(live.facts.database, f"_{stamp.replace('-', '_')}")
    with _recorded(config.store, Stream.DB, target, now), dump_file.opened(dump) as descriptor:
        _check_name(live, target)
        found = beside.look(dump, descriptor, live)
        _check_superuser(found, wanted, as_superuser=as_superuser)
        beside.check_room(found)
        with (
            dump_file.verifying(dump, descriptor, watch=watch) as under_way,
            beside.looked_at(live),
            beside.made(found, now=now, as_superuser=as_superuser) as into,
        ):
            verified = beside.fill_while_verifying(config, found, into, under_way, watch=watch)
            stop.check()
            databases.take_name(live.server, live.facts.database, into.database, target)
        kept = databases.name_like(live.facts.database, f"_before_{now.astimezone().strftime(beside.DATABASE_FORMAT)}")
    return Restored(
        stream=Stream.DB,
        file=dump.file,
        target=target,
        rows=sum(verified.rows.values()),
        switch=databases.switch_command(live.server, live.facts.user, live.facts.database, target, kept),
        drop=databases.drop_command(live.server, live.facts.user, target),
    )


def database_in_place(config: Config, wanted: str, terms: Terms, *, now: datetime, watch: Watch) -> Restored:
    """Replace the live database by a set's or a file's dump, restored beside it and switched in by name.

    RestoreError, and the live database is as it was, when anything fails before that.
    """
    dump = dump_file.find(config.store, wanted, Kind.DB)
    live = sources.database(config)
    database = live.facts.database
    with _recorded(config.store, Stream.DB, database, now), dump_file.opened(dump) as descriptor:
        verified = dump_file.verify(dump, descriptor, watch=watch)
        found = beside.look(dump, descriptor, live)
        _check_superuser(found, wanted, as_superuser=terms.as_superuser)
        if terms.replay:
            _check_replaces(found, verified, wanted, terms)
        else:
            beside.check_room(
                found,
                hint=f"dental-pms-backup restore db {shell_word(wanted)} --in-place --replace --as-superuser   # "
                "no room twice",
            )
        counts = _live_rows(live, needed=terms.safety_set)
        terms.consent(database, _losses(counts, verified.rows))
        taken = _safety_set(config, live, counts, terms, now=now, watch=watch)
        if terms.replay:
            with beside.looked_at(live):
                beside.fill(config, found, Into(database=database, replacing=True), verified, watch=watch)
            rows = sum(verified.rows.values())
            return Restored(stream=Stream.DB, file=dump.file, target=database, rows=rows, safety_set=taken)
        with beside.looked_at(live), beside.made(found, now=now, as_superuser=terms.as_superuser) as into:
            beside.fill(config, found, dataclasses.replace(into, analyze=True), verified, watch=watch)
            kept = beside.free_name(live, "_before_", now)
            stop.check()
            _switch(live, into.database, kept)
    return Restored(
        stream=Stream.DB,
        file=dump.file,
        target=database,
        kept=kept,
        rows=sum(verified.rows.values()),
        safety_set=taken,
        drop=databases.drop_command(live.server, live.facts.user, kept),
    )


def attachments_in_place(config: Config, wanted: str, terms: Terms, *, now: datetime, watch: Watch) -> Restored:
    """Replace the content of the live attachments by a set's or an archive's; what was there is kept beside.

    The archive is verified, unpacked and compared before the live directory is touched; RestoreError leaves it as it
    was. What was restored and what is kept outlive a power failure from then on.
    """
    archive = dump_file.find(config.store, wanted, Kind.ATTACHMENTS)
    with live_attachments(config) as live:
        check_swappable(live, archive.file)
        with _recorded(config.store, Stream.ATTACHMENTS, str(live.path), now), dump_file.opened(archive) as descriptor:
            _recover(live)
            verified = dump_file.verify(archive, descriptor, watch=watch)
            rights = unpack.rights(ours=bool(archive.checksum), in_place=True)
            losses = look_through(archive, descriptor, verified.unpack, rights, live=live.place, watch=watch)
            unpack.check_room(archive.file, live.around)
            terms.consent(Stream.ATTACHMENTS, losses)
            stamp = swap.free_stamp(live.around, live.path.name, now)
            with swap.fresh(live.around, live.beside(swap.RESTORING, stamp)) as fresh:
                swap.copy_attributes(live.place, fresh.content)  # an archive without an entry for it leaves them so
                _unpack(descriptor, verified.unpack, fresh.content, rights, watch=watch)
                stop.check()
                kept = swap.swap(live, fresh, stamp)
    return Restored(
        stream=Stream.ATTACHMENTS, file=archive.file, target=str(live.path), kept=kept, drop=("rm", "-r", str(kept))
    )


def attachments_into_new(config: Config, wanted: str, name: str, *, now: datetime, watch: Watch) -> Restored:
    """Restore a set's or an archive's attachments into a directory that is new or empty, all of them or none."""
    archive = dump_file.find(config.store, wanted, Kind.ATTACHMENTS)
    target = Path(name).absolute()
    with swap.place_for(target) as around:
        swap.check_new(around, target)
        with _recorded(config.store, Stream.ATTACHMENTS, str(target), now), dump_file.opened(archive) as descriptor:
            verified = dump_file.verify(archive, descriptor, watch=watch)
            rights = unpack.rights(ours=bool(archive.checksum), in_place=False)
            look_through(archive, descriptor, verified.unpack, rights, live=None, watch=watch)
            unpack.check_room(archive.file, around)
            stamp = swap.free_stamp(around, target.name, now)
            with swap.fresh(around, f"{target.name}.{swap.RESTORING}-{stamp}") as fresh:
                _unpack(descriptor, verified.unpack, fresh.content, rights, watch=watch)
                stop.check()
                swap.into_new(around, fresh, target)
    return Restored(stream=Stream.ATTACHMENTS, file=archive.file, target=str(target))


def live_attachments(config: Config) -> contextlib.AbstractContextManager[Live]:
    """Hold the live attachments open to be replaced; RefusedError when they are not what their container sees."""
    found = sources.attachments(config)
    return swap.live(found.path, found.identity)


def check_swappable(live: Live, archive: Path) -> None:
    """Raise RefusedError when the live attachments are a mount point, which no rename reaches."""
    if live.place.identity[0] != live.around.identity[0]:
        raise RefusedError(
            f"attachments: {live.path} is a mount point, expected a directory whose content can be swapped by rename",
            hint="empty it, then: "
            f"tar -xzpf {shell_word(archive)} --xattrs --xattrs-include='*' --acls --numeric-owner "
            f"-C {shell_word(live.path)}",
        )


def look_through(
    archive: BackupFile, descriptor: int, how: Sequence[str], rights: Rights, *, live: Place | None, watch: Watch
) -> Sequence[str]:
    """Look through a verified archive before it is unpacked, as ``unpack.look_through`` does."""
    with watch.reading("attachments: listing", descriptor) as beat:
        return unpack.look_through(archive, descriptor, how, rights=rights, live=live, beat=beat)


def _recover(live: Live) -> None:
    for done in swap.recover(live):
        fields = {"target": str(live.path)}
        journal.write(Event.RESTORE_RECOVERED, done, priority=journal.WARNING, fields=fields)


def _unpack(descriptor: int, how: Sequence[str], content: Place, rights: Rights, *, watch: Watch) -> None:
    """Unpack a verified archive into an empty directory, and compare every entry."""
    with watch.reading("attachments: unpacking", descriptor) as beat:
        unpack.extract(descriptor, how, content, rights, beat=beat)
    with watch.reading("attachments: comparing", descriptor) as beat:
        unpack.compare(descriptor, how, content, rights, beat=beat)


def _check_name(live: DatabaseSource, target: str) -> None:
    if not 0 < len(target.encode()) <= databases.LONGEST_NAME_BYTES or "\0" in target:
        raise UsageError(f'"{target}": no name for a database, expected 1 to {databases.LONGEST_NAME_BYTES} bytes')
    if target in databases.names(live.server):
        raise RefusedError(
            f"db: database {target} exists already, expected a name for a new one",
            hint="dental-pms-backup restore db SET --to ANOTHER_NAME",
        )


def _check_superuser(dump: Opened, wanted: str, *, as_superuser: bool) -> None:
    """Raise RefusedError when a file from elsewhere is to be replayed by the superuser."""
    if as_superuser and not dump.ours:
        raise RefusedError(
            f"{dump.backup.file}: a file from elsewhere, expected a set with a manifest for --as-superuser: what is in "
            "the file could do anything on the server",
            hint=f"dental-pms-backup restore db {shell_word(wanted)}   # "
            "as a role without rights, beside the live database",
        )


def _check_replaces(dump: Opened, verified: Verified, wanted: str, terms: Terms) -> None:
    """Raise RefusedError unless a dump may be replayed in the live database, which a role without rights cannot do."""
    if not dump.ours:
        raise RefusedError(
            f"{dump.backup.file}: a file from elsewhere, expected a set with a manifest for --replace, which is done "
            "by the superuser",
            hint=f"dental-pms-backup restore db {shell_word(wanted)}   # "
            "beside the live database; then the command that it prints",
        )
    if not terms.as_superuser and beside.owned_by_others(dump, verified.unpack):
        raise RefusedError(
            "restore: --replace is work of the superuser, and the set has objects of others, expected --as-superuser: "
            "whoever could make objects in that database could then do on the server all that its superuser can",
            hint=f"CONFIRM=YES dental-pms-backup restore db {shell_word(wanted)} --in-place --replace --as-superuser",
        )


def _live_rows(live: DatabaseSource, *, needed: bool) -> dict[str, int] | None:
    """Return the rows of the live database by table; None where it cannot be read, and that is not ``needed``."""
    try:
        tables = table_files.numbers(live.server)
        return databases.row_counts(live.server, live.facts.database, tables) if tables else {}
    except BackupError as error:
        if not needed:
            return None
        raise RefusedError(
            f"restore: what is live cannot be read ({error.message}), expected to make a safety set of it first",
            hint="mend that; or, if what is live is worth nothing, type the same command with --no-safety-set",
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
    return safety_set.take(config, live, now=now, watch=watch) if counts else OF_NOTHING


def _switch(live: DatabaseSource, made: str, kept: str) -> None:
    """Switch, and find out by the names whether that came about where the server could not say it any more."""
    with stop.deferred():
        try:
            databases.switch(live.server, live.facts.database, made, kept)
        except BackupError as error:
            if not {kept, live.facts.database} <= databases.names(live.server):
                raise RestoreError(
                    f"db: the switch failed: {error.message}",
                    hint="type the same command with --replace   # it needs fewer rights: no database is renamed",
                ) from None


@contextlib.contextmanager
def _recorded(store: Path, stream: Stream, target: str, now: datetime) -> Iterator[None]:
    """Hold the store, if there is one, and put the restore into journal and ledger, however it ends."""
    fields: dict[str, journal.Field] = {"stream": stream, "target": target}
    with lock.held(store) if store.is_dir() else contextlib.nullcontext():
        journal.write(Event.RESTORE_STARTED, f"restore of {stream} into {target} started", fields=fields)
        try:
            with journal.failure_told(Event.RESTORE_FAILED, "restore failed: ", fields):
                yield
        except BackupError as error:
            with contextlib.suppress(BackupError):  # the journal has it
                _enter(store, stream, now, {"result": "failed", "cause": error.cause})
            raise
        journal.write(Event.RESTORE_SUCCEEDED, f"restore of {stream} into {target} finished", fields=fields)
        _enter(store, stream, now, {"result": "ok"})


def _enter(store: Path, stream: Stream, now: datetime, facts: dict[str, str]) -> None:
    if store.is_dir():
        ledger.record(store, "restore", now=now, facts={"stream": stream, **facts})
