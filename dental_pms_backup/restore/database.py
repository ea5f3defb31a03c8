"""Putting a database back: looked at before what is live is touched, replayed beside it, switched in at the end.

A dump is replayed into a new database in one transaction, counted, and given the live one's name in another; the live
one is kept under a dated name.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, RefusedError, UsageError, shell_word
from dental_pms_backup.host import stop
from dental_pms_backup.live import sources, table_files
from dental_pms_backup.restore import (
    backup_file,
    beside,
    database_settings,
    databases,
    likeness,
    prepared_transactions,
    safety_set,
    switch,
    terms,
)
from dental_pms_backup.restore.replay import Into
from dental_pms_backup.restore.terms import Prospect, Restored
from dental_pms_backup.store.sets import NAME_FORMAT, Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.beside import Opened
    from dental_pms_backup.restore.terms import Terms
    from dental_pms_backup.store.verify_file import Verified

OF_NOTHING = "none, the live database was empty"
LEAVES_IT = "the live database is not touched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A dump that was verified and looked at, with the live database that it is for.

    ``counts`` are the live one's rows by table, None where it could not be read.
    """

    found: Opened
    verified: Verified
    counts: Mapping[str, int] | None
    prospect: Prospect

    @property
    def live(self) -> DatabaseSource:
        """Return the live database."""
        return self.found.live

    @property
    def name(self) -> str:
        """Return the live database's name."""
        return self.live.facts.database


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A database that was filled beside the live one, which is to be ``kept`` under another name."""

    ready: Ready
    made: str
    kept: str
    safety_set: str

    def restored(self) -> Restored:
        """Return what was done, once it has the live one's place."""
        live = self.ready.live
        return Restored(
            stream=Stream.DB,
            file=self.ready.found.backup.file,
            target=self.ready.name,
            kept=self.kept,
            rows=sum(self.ready.verified.rows.values()),
            safety_set=self.safety_set,
            drop=databases.command_to_drop(live.server, live.facts.user, self.kept),
        )


def into_new(
    config: Config, wanted: str, name: str | None, on: Terms, *, now: datetime, watch: Watch
) -> Restored | Prospect:
    """Restore a set's or a file's dump into a new database beside the live one, which is not touched.

    Nothing is left of the new one when that fails: RestoreError, VerificationError.
    """
    dump = backup_file.find(config.store, wanted, Kind.DB)
    live = sources.database(config)
    stamp = dump.stamp or now.astimezone().strftime(NAME_FORMAT)
    target = name or databases.name_like(live.facts.database, f"_{stamp.replace('-', '_')}")
    with (
        terms.held(config.store, on),
        terms.recorded(config.store, Stream.DB, target, on, now),
        backup_file.opened(dump) as descriptor,
    ):
        _check_name(live, target)
        found = beside.look(config, dump, descriptor, live, watch=watch, clears=not on.dry_run)
        _check_superuser(found, wanted, as_superuser=on.as_superuser)
        room = beside.check_room(found)
        if on.dry_run:
            verified = backup_file.verify(dump, descriptor, watch=watch)
            return _prospect(found, verified, room=room, target=f"the new database {target}", live=LEAVES_IT)
        with (
            backup_file.verifying(dump, descriptor, watch=watch) as under_way,
            beside.looked_at(live),
            beside.made(found, now=now, as_superuser=on.as_superuser) as into,
        ):
            verified = beside.fill_while_verifying(config, found, into, under_way, watch=watch)
            stop.check()
            own = database_settings.script(live, into.database, found.own)
            databases.take_name(live.server, into.database, target, own)
        kept = databases.name_like(live.facts.database, f"_before_{now.astimezone().strftime(beside.DATABASE_FORMAT)}")
    return Restored(
        stream=Stream.DB,
        file=dump.file,
        target=target,
        rows=sum(verified.rows.values()),
        switch=databases.switch_command(live.server, live.facts.user, live.facts.database, target, kept),
        drop=databases.command_to_drop(live.server, live.facts.user, target),
    )


def in_place(config: Config, wanted: str, on: Terms, *, now: datetime, watch: Watch) -> Restored | Prospect:
    """Replace the live database by a set's or a file's dump, restored beside it and switched in by name.

    RestoreError, and the live database is as it was, when anything fails before that.
    """
    with terms.held(config.store, on), ready(config, wanted, on, now=now, watch=watch) as looked:
        if on.dry_run:
            return looked.prospect
        terms.agree(on, looked.prospect)
        if on.replay:
            return _replayed_in_live(config, looked, on, now=now, watch=watch)
        with loaded(config, looked, on, now=now, watch=watch) as filled:
            hint = "type the same command with --replace   # it needs fewer rights: no database is renamed"
            with switching(filled, hint=hint) as switch_now:
                stop.check()
                switch_now()
        return filled.restored()


@contextlib.contextmanager
def ready(config: Config, wanted: str, on: Terms, *, now: datetime, watch: Watch) -> Iterator[Ready]:
    """Find what is wanted and look at it and at the live database, and record what the block does with them.

    All that can refuse is asked here. The store is held.
    """
    dump = backup_file.find(config.store, wanted, Kind.DB)
    live = sources.database(config)
    with (
        terms.recorded(
            config.store,
            Stream.DB,
            live.facts.database,
            on,
            now,
            {"system_identifier": live.facts.system, "database": live.facts.database},
        ),
        backup_file.opened(dump) as descriptor,
    ):
        verified = backup_file.verify(dump, descriptor, watch=watch)
        found = beside.look(config, dump, descriptor, live, watch=watch, clears=not on.dry_run)
        _check_superuser(found, wanted, as_superuser=on.as_superuser)
        prepared_transactions.check(live)
        room = "no room for a second database is needed"
        if on.replay:
            _check_replaces(found, verified, wanted, on)
        else:
            command = f"dental-pms-backup restore db {shell_word(wanted)} --in-place --replace --as-superuser"
            room = beside.check_room(found, hint=f"{command}   # no room twice")
        counts = _live_rows(live, needed=on.safety_set)
        prospect = _prospect(
            found,
            verified,
            room=room,
            target=f"the live database {live.facts.database}",
            live=_becomes(on, something=_to_lose(live, counts)),
        )
        prospect = dataclasses.replace(
            prospect,
            answer=live.facts.database,
            losses=_losses(counts, verified.rows),
            strange=beside.stranger(found, counts),
        )
        yield Ready(found=found, verified=verified, counts=counts, prospect=prospect)


@contextlib.contextmanager
def loaded(config: Config, looked: Ready, on: Terms, *, now: datetime, watch: Watch) -> Iterator[Loaded]:
    """Take a safety set, and fill a database beside the live one; it is dropped when the block fails.

    RestoreError says what is known of the live one then.
    """
    live = looked.live
    taken = _safety_set(config, live, looked.counts, on, now=now, watch=watch)
    with beside.looked_at(live), beside.made(looked.found, now=now, as_superuser=on.as_superuser) as into:
        beside.fill(config, looked.found, dataclasses.replace(into, analyze=True), looked.verified, watch=watch)
        kept = beside.free_name(live, "_before_", now)
        yield Loaded(ready=looked, made=into.database, kept=kept, safety_set=taken)


def switching(filled: Loaded, *, hint: str) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Be about to switch while a block lasts, as ``switch.about_to`` does."""
    return switch.about_to(filled.ready.live, filled.made, filled.kept, filled.ready.found.own, hint=hint)


def _replayed_in_live(config: Config, looked: Ready, on: Terms, *, now: datetime, watch: Watch) -> Restored:
    """Replace the content of the live database itself, of which the safety set is taken once nobody else writes."""
    taken = ""

    def take(still_here: Callable[[], None]) -> None:
        nonlocal taken
        beside_it = dataclasses.replace(watch, beside=still_here)
        counts = table_files.numbers(looked.live.server) if looked.counts is not None else None
        taken = _safety_set(config, looked.live, counts, on, now=now, watch=beside_it)

    with beside.looked_at(looked.live):
        into = Into(database=looked.name, replacing=take)
        beside.fill(config, looked.found, into, looked.verified, watch=watch)
        database_settings.give(looked.live, looked.found.own)
    rows = sum(looked.verified.rows.values())
    return Restored(stream=Stream.DB, file=looked.found.backup.file, target=looked.name, rows=rows, safety_set=taken)


def _prospect(found: Opened, verified: Verified, *, room: str, target: str, live: str) -> Prospect:
    rows = sum(verified.rows.values())
    return Prospect(
        stream=Stream.DB,
        backup=found.backup,
        content=f"{rows:,} rows in {len(verified.rows)} tables",
        target=target,
        room=room,
        live=live,
    )


def _becomes(on: Terms, *, something: bool) -> str:
    """Return what becomes of the live database, in words."""
    taken = on.safety_set and something
    first = "a safety set is taken first" if taken else "no safety set is taken"
    if on.replay:
        return f"{first}; then its content is dropped"
    return f"{first}; then it is kept under a name with _before_ and the time"


def _to_lose(live: DatabaseSource, counts: Mapping[str, int] | None) -> bool:
    return counts is None or bool(counts) or table_files.has_others(live.server)


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
    likeness.check_replaced(dump.backup, dump.live)
    if not terms.as_superuser and beside.owned_by_others(dump, verified.unpack):
        raise RefusedError(
            "restore: --replace is work of the superuser, and the set has objects of others, expected --as-superuser: "
            "whoever could make objects in that database could then do on the server all that its superuser can",
            hint=f"CONFIRM=YES dental-pms-backup restore db {shell_word(wanted)} --in-place --replace --as-superuser",
        )


def _live_rows(live: DatabaseSource, *, needed: bool) -> dict[str, int] | None:
    """Return the rows of the live database by table; None where it cannot be read, and that is not ``needed``."""
    try:
        return databases.row_counts(live.server, live.facts.database)
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
    return safety_set.take(config, live, now=now, watch=watch) if _to_lose(live, counts) else OF_NOTHING
