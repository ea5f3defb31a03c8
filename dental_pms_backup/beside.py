"""Restoring a database beside the live one: a new one, made like it, filled in one transaction, every row counted."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from dental_pms_backup import databases, dumps, journal, replay, stop
from dental_pms_backup.errors import BackupError, RefusedError
from dental_pms_backup.journal import Event
from dental_pms_backup.progress import size
from dental_pms_backup.replay import Into

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from dental_pms_backup.config import Config
    from dental_pms_backup.dumps import Head, Source
    from dental_pms_backup.progress import Watch
    from dental_pms_backup.sources import DatabaseSource

DATABASE_FORMAT = "%Y_%m_%d_%H%M%S"
GROWTH = 1.1
NEW_IS_GONE = "the live database is as it was, and nothing is left of the new one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A dump that was read to its end: what it says of itself, how many rows its tables have, the server for it.

    ``unpack`` is the argv that gets its SQL out.
    """

    source: Source
    descriptor: int
    head: Head
    rows: Mapping[str, int]
    unpack: Sequence[str]
    live: DatabaseSource


def prove(dump: Source, descriptor: int, live: DatabaseSource, *, watch: Watch) -> Proven:
    """Read all of a dump, and make sure that the server can take it, before anything is touched."""
    proof = dumps.prove(dump, descriptor, watch=watch)
    head = dumps.head(dump, descriptor)
    dumps.check_version(dump, head, live.facts.major)
    for left in databases.unfinished(live.server):
        journal.write(
            Event.RESTORE_UNFINISHED,
            f"database {left} is left of a restore that was cut off; nothing needs it",
            priority=journal.WARNING,
            fields={"target": left},
        )
    return Proven(source=dump, descriptor=descriptor, head=head, rows=proof.rows, unpack=proof.unpack, live=live)


def check_room(proven: Proven, *, hint: str = "df -h   # on the server") -> None:
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


@contextlib.contextmanager
def restored(config: Config, proven: Proven, *, now: datetime, watch: Watch) -> Iterator[str]:
    """Restore into a new database and yield its name; it is dropped when the block fails."""
    live = proven.live
    made = free_name(live, "_restoring_", now)
    try:
        databases.create_like(live.server, live.facts.database, made)
        refill(config, proven, Into(database=made, replacing=False, state=NEW_IS_GONE), watch=watch)
        yield made
    except BaseException:
        _drop(live, made)
        raise


def refill(config: Config, proven: Proven, into: Into, *, watch: Watch) -> None:
    """Replay a proven dump into a database and count its rows; RestoreError, and nothing of it is there.

    The roles of its set that the server lacks are made first.
    """
    _make_roles(config, proven, watch=watch)
    os.lseek(proven.descriptor, 0, os.SEEK_SET)
    into = dataclasses.replace(into, lock_wait_s=config.database.lock_wait_s)
    # an index is made while no byte moves, however long it takes
    patient = watch if into.replacing else dataclasses.replace(watch, stall_timeout_s=math.inf)
    with patient.reading("db: restoring", proven.descriptor) as beat:
        replay.replay(
            proven.live,
            proven.descriptor,
            into,
            unpack=proven.unpack,
            token=proven.head.token,
            rows=proven.rows,
            beat=beat,
        )


def _make_roles(config: Config, proven: Proven, *, watch: Watch) -> None:
    roles = dumps.roles_of(config.store, proven.source)
    if roles is None:
        return
    with dumps.opened(roles) as descriptor:
        dumps.prove(roles, descriptor, watch=watch)
        with watch.reading("db: roles", descriptor) as beat:
            replay.load_roles(proven.live, descriptor, beat=beat)


def _drop(live: DatabaseSource, made: str) -> None:
    """Drop what a failed restore has made; where even that fails, say so: the failure itself is told by others."""
    try:
        with stop.deferred():
            databases.drop(live.server, made)
    except BackupError:
        text = f"database {made} is left of the restore that failed; nothing needs it"
        journal.write(Event.RESTORE_UNFINISHED, text, priority=journal.WARNING, fields={"target": made})


def free_name(live: DatabaseSource, word: str, now: datetime) -> str:
    """Return a name for a database made of the live one's, a word and the time; a later second when it is taken."""
    taken = databases.names(live.server)
    while True:
        suffix = word + now.astimezone().strftime(DATABASE_FORMAT)
        name = databases.name_like(live.facts.database, suffix)
        if name not in taken:
            return name
        now += timedelta(seconds=1)
