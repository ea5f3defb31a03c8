"""Restoring a database beside the live one: a new one, made like it, filled in one transaction, every row counted."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, RefusedError, RestoreError, SuperuserNeededError
from dental_pms_backup.host import journal, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.host.wording import size
from dental_pms_backup.live import own_settings, unknown_settings
from dental_pms_backup.restore import (
    backup_file,
    database_settings,
    databases,
    leftover_roles,
    likeness,
    materialized_views,
    replay,
    replay_filters,
    replay_role,
    written_by,
)
from dental_pms_backup.restore.replay import Into
from dental_pms_backup.restore.replay_filters import Dump
from dental_pms_backup.store import sets, verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.backup_file import BackupFile, Head, Verification
    from dental_pms_backup.store.verify_file import Verified

DATABASE_FORMAT = "%Y_%m_%d_%H%M%S"
GROWTH = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An open dump, what it says of itself, and the server that can take it.

    ``own`` are its set's own settings of the database, and ``custom`` the values of those, and of the user's, that are
    no setting of the server's: the application's secrets may be among them. ``left_out`` the server does not take.
    """

    backup: BackupFile
    descriptor: int
    head: Head
    live: DatabaseSource
    own: Mapping[str, str]
    custom: Mapping[str, str]
    written_by: Mapping[str, str]
    left_out: Collection[str]

    @property
    def ours(self) -> bool:
        """Tell whether it is a set's, with a checksum in its manifest; of any other nobody knows who wrote it."""
        return self.backup.ours


def look(
    config: Config, dump: BackupFile, descriptor: int, live: DatabaseSource, *, watch: Watch, clears: bool
) -> Opened:
    """Look at the first lines of an open dump, and make sure that the server can take it.

    It ``clears`` away the roles that earlier restores have left, unless nothing may be changed.
    """
    head = backup_file.head(dump, descriptor)
    backup_file.check_version(dump, head, live.facts.major)
    _warn_of_another(dump.database, live.facts.database)
    for left in databases.unfinished(live.server):
        journal.write(
            Event.RESTORE_UNFINISHED,
            f"database {left} is left of a restore that was cut off; nothing needs it",
            priority=journal.WARNING,
            fields={"target": left},
        )
    if clears:
        leftover_roles.clear(live)
    likeness.check(dump, live, head.encoding)
    its_own = database_settings.of_set(config.store, dump, watch=watch)
    taken = {**likeness.dates(dump, live, its_own), **its_own}
    own = database_settings.for_live(live, taken)
    stays = database_settings.wanted(live, own)
    of_roles, of_user = _set_for_roles(config, dump, live, watch=watch)
    unknown = frozenset(database_settings.left_out(live, [*database_settings.given(live, own), *of_roles]))
    own, stays = ({about: each for about, each in those.items() if each not in unknown} for those in (own, stays))
    custom = written_by.known(live, unknown_settings.custom([*taken.values(), *of_user], live.facts.user))
    settings = written_by.settings(dump, descriptor, live, [*stays.values(), *of_roles], head.lc_monetary)
    database_settings.tell_differences(live, taken, stays)
    return Opened(
        backup=dump,
        descriptor=descriptor,
        head=head,
        live=live,
        own=own,
        custom=custom,
        written_by=settings,
        left_out=unknown,
    )


def _warn_of_another(taken: str, live: str) -> None:
    """Say so where a set was taken of a database of another name: it may be of another practice."""
    if taken not in {"", live}:
        text = f"the set was taken of database {taken}, but the live database is {live}"
        journal.write(Event.RESTORE_OTHER_DATABASE, text, priority=journal.WARNING, fields={"target": live})


def stranger(dump: Opened, counts: Mapping[str, int] | None) -> str:
    """Say it where a set was taken of another server or database and there is something live to lose, by the rows.

    A new server, with tables that have no row yet, is what a restore is for.
    """
    taken, facts = dump.backup, dump.live.facts
    if counts is not None and not any(counts.values()):
        return ""
    if taken.system not in {"", facts.system}:
        return f"the set was taken of another server than this one, whose database {facts.database} is not empty"
    if taken.database not in {"", facts.database}:
        return f"the set was taken of database {taken.database}, and the database {facts.database} here is not empty"
    return ""


def check_room(dump: Opened, *, hint: str = "df -h   # on the server") -> str:
    """Return in words what room there is for a second database and its log of changes; RefusedError for too little."""
    live = dump.live
    room = databases.room(live.server, live.facts.database)
    if room is None:
        text = "the room on the server's disk cannot be measured, for df did not answer there"
        journal.write(Event.RESTORE_ROOM_UNKNOWN, text, priority=journal.WARNING)
        return text
    grown = round(dump.backup.database_bytes() * GROWTH)
    needed = grown + min(grown, room.wal_bytes)
    if room.free_bytes < needed:
        raise RefusedError(
            f"db: {size(room.free_bytes)} free on the server's disk, as df says of its data directory, expected "
            f"{size(needed)} for a second database and its log; nothing was touched",
            hint=hint,
        )
    return f"{size(room.free_bytes)} free on the server's disk, at most {size(needed)} are needed"


@contextlib.contextmanager
def looked_at(live: DatabaseSource) -> Iterator[None]:
    """Look at the live database before the block and after a failure in it, which then says what is known of it."""
    before = None
    with contextlib.suppress(BackupError):  # it may be what the restore is for
        before = databases.look(live.server)
    try:
        yield
    except RestoreError as error:
        error.message += f"; {_state(live, before)}"
        raise


def _state(live: DatabaseSource, before: str | None) -> str:
    if before is None:
        return "whether the live database is as it was is not known, for it could not be looked at before either"
    try:
        after, left = databases.look(live.server), databases.unfinished(live.server)
    except BackupError as error:
        return f"the live database could not be looked at afterwards ({error.message})"
    if after != before:
        return (
            "the live database is not as it was: the application or this restore has changed its tables, functions, "
            "rights or owner meanwhile"
        )
    return f"the live database is as it was{'' if left else ', and nothing is left of the new one'}"


@contextlib.contextmanager
def made(dump: Opened, *, now: datetime, as_superuser: bool) -> Iterator[Into]:
    """Make an empty database like the live one, and who is to fill it; both are removed when the block fails."""
    live = dump.live
    name, role = free_name(live, "_restoring_", now), replay_role.new_role()
    try:
        if as_superuser:
            databases.create_like(live.server, live.facts.database, name, order=likeness.order(dump.backup, live))
            yield Into(database=name)
        else:
            with replay_role.made(live, name, role, dump.backup) as by:
                yield Into(database=name, restorer=by)
    except BaseException:
        _drop(live, name, role)
        raise


def fill_while_verifying(
    config: Config, dump: Opened, into: Into, under_way: Verification, *, watch: Watch
) -> Verified:
    """Replay a dump into a new database beside the rest of its verification, before which nothing is committed.

    VerificationError, RestoreError, and nothing of it is there.
    """
    with verify_file.reopened(dump.descriptor) as descriptor:
        again = dataclasses.replace(dump, descriptor=descriptor)
        try:
            _replay(config, again, into, under_way.unpack, under_way.ask, watch=watch)
        except RestoreError as error:
            verified = under_way.wait()  # the dump is at fault, or what unpacked it, or else the server says no
            if isinstance(error, SuperuserNeededError):
                _fill_as_superuser(config, again, into, verified, error, watch=watch)
            elif verified.unpack == under_way.unpack:
                raise
            else:
                fill(config, again, into, verified, watch=watch)
        return under_way.wait()


def fill(config: Config, dump: Opened, into: Into, verified: Verified, *, watch: Watch) -> None:
    """Replay a verified dump into a database and count its rows; RestoreError, and nothing of it is there.

    The roles of its set that the server lacks are made first.
    """
    try:
        _replay(config, dump, into, verified.unpack, lambda: verified, watch=watch)
    except SuperuserNeededError as error:
        _fill_as_superuser(config, dump, into, verified, error, watch=watch)


def _fill_as_superuser(
    config: Config, dump: Opened, into: Into, verified: Verified, error: SuperuserNeededError, *, watch: Watch
) -> None:
    """Begin again as the superuser, where only superusers made what is in a set: nobody gains by it.

    The error is raised again where it is not so.
    """
    if not into.restorer or not dump.ours or owned_by_others(dump, verified.unpack):
        raise error
    text = f"{error.message.rpartition(', expected ')[0]}; all owners in the set are superusers, so that it is "
    text += "replayed as a superuser"
    journal.write(Event.RESTORE_AS_SUPERUSER, text, priority=journal.WARNING, fields={"target": into.database})
    live = dump.live
    databases.drop(live.server, into.database)
    databases.create_like(live.server, live.facts.database, into.database, order=likeness.order(dump.backup, live))
    leftover_roles.remove_or_leave(live, into.restorer.role)
    _replay(config, dump, dataclasses.replace(into, restorer=None), verified.unpack, lambda: verified, watch=watch)


def owned_by_others(dump: Opened, unpack: Sequence[str]) -> bool:
    """Tell whether somebody is named in a dump as an owner who is not a superuser."""
    return replay_filters.others_own(dump.live, _dump(dump, unpack))


def _dump(dump: Opened, unpack: Sequence[str]) -> Dump:
    return Dump(descriptor=dump.descriptor, unpack=unpack, token=dump.head.token, ours=dump.ours)


def _replay(
    config: Config,
    dump: Opened,
    into: Into,
    unpack: Sequence[str],
    ask: Callable[[], Verified | None],
    *,
    watch: Watch,
) -> None:
    _make_roles(config, dump, watch=watch)
    if into.restorer:
        into = dataclasses.replace(into, restorer=replay_role.with_heir(dump.live, into.restorer))
    database_settings.rehearse(dump.live, into.database, dump.own)
    os.lseek(dump.descriptor, 0, os.SEEK_SET)
    if not into.replacing:
        database_settings.give_custom(dump.live, into.database, dump.custom)
    into = dataclasses.replace(
        into,
        lock_wait_s=config.database.lock_wait_s,
        written_by=dump.written_by,
        custom=dump.custom,
        search_path=own_settings.schemas(dump.own),
    )
    # an index is made while no byte moves, however long it takes
    patient = watch if into.replacing else dataclasses.replace(watch, stall_timeout_s=math.inf)
    with contextlib.ExitStack() as shown:

        @functools.cache  # what is done before the first byte is read is no standing still
        def reading() -> Callable[[], None]:
            return shown.enter_context(patient.reading("db: restoring", dump.descriptor))

        def beat() -> None:
            reading()()

        replay.replay(dump.live, _dump(dump, unpack), into, ask=ask, beat=beat)
    if into.analyze and not into.restorer:
        databases.analyze(dump.live.server, into.database)
    if into.restorer:
        materialized_views.tell_filled_by_us(dump.live, into.database, ours=dump.ours)


def _set_for_roles(
    config: Config, dump: BackupFile, live: DatabaseSource, *, watch: Watch
) -> tuple[Sequence[str], Sequence[str]]:
    """Return by which statements a set's roles will get settings, and which it has for our user; no file's but ours."""
    roles = backup_file.roles_of(config.store, dump)
    if roles is None or not roles.ours:
        return [], []
    with backup_file.opened(roles) as descriptor:
        backup_file.verify(roles, descriptor, watch=watch)
        for_live = replay.set_for_roles(live, descriptor, roles)
        return for_live, replay.set_for_roles(live, descriptor, roles, too=live.facts.user)


def _make_roles(config: Config, dump: Opened, *, watch: Watch) -> None:
    roles = backup_file.roles_of(config.store, dump.backup)
    if roles is None:
        return
    with backup_file.opened(roles) as descriptor:
        backup_file.verify(roles, descriptor, watch=watch)
        with watch.reading("db: roles", descriptor) as beat:
            replay.load_roles(dump.live, descriptor, roles, left=dump.left_out, beat=beat)


def _drop(live: DatabaseSource, name: str, role: str) -> None:
    """Drop what a failed restore has made; where even that fails, say so: the failure itself is told by others."""
    try:
        with stop.deferred():
            databases.drop(live.server, name)
            leftover_roles.remove_or_leave(live, role)
    except BackupError:
        text = f"database {name} is left of the restore that failed; nothing needs it"
        journal.write(Event.RESTORE_UNFINISHED, text, priority=journal.WARNING, fields={"target": name})


def free_name(live: DatabaseSource, word: str, now: datetime) -> str:
    """Return a name for a database made of the live one's, a word and the time; a later second when it is taken."""
    taken = databases.names(live.server)

    def name(stamp: str) -> str:
        return databases.name_like(live.facts.database, word + stamp)

    return name(sets.free_stamp(now, lambda stamp: name(stamp) in taken, DATABASE_FORMAT))
