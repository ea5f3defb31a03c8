"""A run: take every stream, verify it, publish the set, then let old ones go."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dental_pms_backup import __version__
from dental_pms_backup.backup import both_streams, one_stream, other_databases, preflight, stranger, suspicion
from dental_pms_backup.errors import (
    ArchiveError,
    BackupError,
    StoreError,
    SuspectError,
    TemporaryError,
    cause_of,
    shell_word,
)
from dental_pms_backup.host import descriptors, journal, notify, owners, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.host.wording import duration, size
from dental_pms_backup.live import sources, swap
from dental_pms_backup.store import latest, ledger, lock, publishing, restore_txt, retention, sets
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dental_pms_backup.backup.one_stream import Part
    from dental_pms_backup.config.settings import Config, Retention
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.store.retention import Choice
    from dental_pms_backup.store.sets import StoredSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a complete run made and removed."""

    store: Path
    stored: StoredSet
    keep: int
    removed: tuple[Choice, ...]
    attachments_source: str
    duration_s: float


def take(config: Config, wanted: Sequence[Stream], *, now: datetime, watch: Watch) -> Taken:
    """Take one set of the wanted streams. When this returns, it is verified, published and durable.

    Raises BackupError after the other stream was tried as well; then the store holds what it held before.
    """
    began = time.monotonic()
    store = config.store
    with (
        journal.failure_told(Event.RUN_FAILED, "run failed: "),
        _held(config),
        _entered(store, wanted, now),
        descriptors.room_for("the run cannot go on"),
    ):
        _begin(store, wanted)
        found = _reach_patiently(config, wanted)
        now += timedelta(seconds=int(time.monotonic() - began))  # a set is not older than what it was waited for
        _check_apart(store, found)
        _check_database(config, found)
        earlier = sets.listing(store)
        _check_room(config, found, earlier)
        order = order_of(config, earlier, now=now, watch=watch)
        with drafts_discarded(store, order.name):
            parts = both_streams.take_all(order, found, config.database)
            stored = publish(order, parts, now)
        stranger.tell_of_new(store, parts, order.earlier)
        _refuse_suspect(stored)
        removed = _rotate(store, wanted, config.retention, stored.name, now)
        taken = Taken(
            store=store,
            stored=stored,
            keep=config.retention.keep,
            removed=removed,
            attachments_source=str(found.attachments.path) if found.attachments else "",
            duration_s=time.monotonic() - began,
        )
        _record_success(taken, parts, wanted, now)
        _tell_success(taken)
    return taken


def dry_run(config: Config, wanted: Sequence[Stream], *, now: datetime) -> tuple[sources.Sources, list[Choice]]:
    """Reach the sources and make the choices of a run without touching anything; BackupError as ``take``."""
    preflight.check_place(config.store)
    preflight.check_mount(config.store, required=config.room.require_mount)
    found = sources.reach(config, wanted)
    _check_apart(config.store, found)
    if found.database:
        other_databases.check_named(found.database)
    listed = sets.listing(config.store)
    if config.store.is_dir():
        _check_room(config, found, listed)
    chosen = [
        choice for stream in wanted for choice in retention.choices(listed, stream, config.retention, now=now, coming=1)
    ]
    return found, [choice for choice in chosen if not choice.keep]


def prune(config: Config, *, now: datetime, dry_run: bool) -> list[Choice]:
    """Let old sets go as a run does at its end, and return every choice; with ``dry_run`` nothing is removed."""
    if dry_run:
        listed = sets.listing(config.store)
        return [choice for stream in Stream for choice in retention.choices(listed, stream, config.retention, now=now)]
    with lock.held(config.store, wait_s=config.lock_wait_s):
        return _let_old_ones_go(config.store, list(Stream), config.retention, made="", now=now)


def order_of(config: Config, earlier: Sequence[StoredSet], *, now: datetime, watch: Watch) -> one_stream.Order:
    """Return how a set is to be taken, after those that the store has."""
    return one_stream.Order(
        store=config.store,
        name=publishing.new_name(config.store, now),
        earlier=latest.measure(earlier, now=now),
        limits=config.suspect,
        table=config.application.table,
        level=config.compression_level,
        watch=watch,
        directory=config.application.directory,
        columns=config.application.columns,
    )


def publish(order: one_stream.Order, parts: Sequence[Part], now: datetime, *, safety: bool = False) -> StoredSet:
    """Publish the parts of a set and tell of it; durable on return."""
    store, name = order.store, order.name
    notify.status(f"publishing set {name}")
    manifest = {
        "format": sets.FORMAT,
        "set": name,
        "taken_at": now.astimezone(UTC).isoformat(),
        "made_by": f"dental-pms-backup {__version__}",
        "suspicions": _suspicions(order, parts, safety=safety),
        "streams": {part.stream: part.manifest for part in parts},
        **({"safety": True} if safety else {}),
    }
    restore_txt.leave(store)
    publishing.publish(store, name, manifest)
    stored = sets.described(manifest)
    size_bytes = sum(artefact.size_bytes for artefact in stored.artefacts)
    journal.write(
        Event.SET_PUBLISHED,
        f"set {name} is published: {size(size_bytes)} in {len(stored.artefacts)} files",
        fields={"set": name, "bytes": size_bytes},
    )
    return stored


def _suspicions(order: one_stream.Order, parts: Sequence[Part], *, safety: bool) -> list[str]:
    """Return what is strange about a set; whose database it is, was asked before a safety set of it is taken."""
    found = list(suspicion.of_set(parts, order.earlier, order.limits, order.table, order.directory))
    if safety:
        return found
    strange = stranger.suspicions(order.store, parts, order.earlier)
    return [*strange, *found, *stranger.unlike(parts, order.earlier)]


@contextlib.contextmanager
def _held(config: Config) -> Iterator[None]:
    """Hold a store that is where it has to be, made where it was not there."""
    preflight.check_place(config.store)
    preflight.check_mount(config.store, required=config.room.require_mount)
    publishing.prepare(config.store)
    with lock.held(config.store, wait_s=config.lock_wait_s, beat=notify.alive):
        yield


def _begin(store: Path, wanted: Sequence[Stream]) -> None:
    """Tell of the run, and of others who read or move what it writes; bring the store back in order."""
    journal.write(Event.RUN_STARTED, f"run of {' and '.join(wanted)} into {store} started")
    if publishing.keeps_no_modes(store):
        text = f"{store}: others can read the files here, expected a filesystem that keeps their mode, 0600"
        _warn(Event.STORE_READABLE, "", text, f"findmnt -T {shell_word(store)}   # mount it with umask=077")
    if who := owners.who_moves(store):
        text = f"{store}: {who}, who can move the store away while a run writes, expected root's directories above it"
        _warn(Event.STORE_MOVABLE, "", text, f"namei -l {shell_word(store)}   # or another place by backup_dir")
    recover(store)


def _reach_patiently(config: Config, wanted: Sequence[Stream]) -> sources.Sources:
    """Reach the sources, trying again what may be there in a minute."""
    for attempt in range(1, config.retry.attempts):
        try:
            return sources.reach(config, wanted)
        except TemporaryError as error:
            journal.write(
                Event.TRYING_AGAIN,
                f"{error.message}; try {attempt} of {config.retry.attempts}, the next in {config.retry.wait_s} s",
                priority=journal.WARNING,
                fields={"cause": error.cause},
            )
            notify.status(f"waiting: {error.message}")
            notify.alive()
            stop.rest(config.retry.wait_s, beat=notify.alive)
    return sources.reach(config, wanted)


def _check_apart(store: Path, found: sources.Sources) -> None:
    if found.attachments:
        preflight.check_apart(store, found.attachments.path)
        swap.check_whole(found.attachments.path)


def _check_database(config: Config, found: sources.Sources) -> None:
    if found.database:
        other_databases.check_named(found.database)
        other_databases.tell(found.database, config.database.others)


def _check_room(config: Config, found: sources.Sources, earlier: Sequence[StoredSet]) -> None:
    database_bytes = found.database.facts.size if found.database else 0
    taken = [stream for stream, source in zip(Stream, (found.database, found.attachments), strict=True) if source]
    needed = preflight.needed_bytes(taken, earlier, database_bytes)
    preflight.check_room(config.store, needed, config.room.reserve_mb)


def _refuse_suspect(stored: StoredSet) -> None:
    """Raise SuspectError for a set that looks wrong: it is published and kept, but the admin has to look at it."""
    for text in stored.suspicions:
        journal.write(
            Event.SET_SUSPECT,
            f"set {stored.name} is suspect: {text}",
            priority=journal.ERROR,
            fields={"set": stored.name, "reason": text},
        )
    if stored.state == "suspect":
        raise SuspectError(
            f"set {stored.name} is suspect: {stored.suspicions[0]}; nothing is removed before you accept it",
            hint=f"dental-pms-backup show {stored.name}   # if it is right: dental-pms-backup accept {stored.name}",
        )


def _rotate(store: Path, wanted: Sequence[Stream], policy: Retention, made: str, now: datetime) -> tuple[Choice, ...]:
    """Let old sets go after the set ``made``; that the disk refuses it is a warning."""
    with _only_warned(Event.RETENTION_FAILED, made):
        return tuple(_let_old_ones_go(store, wanted, policy, made=made, now=now))
    return ()


def _let_old_ones_go(
    store: Path, wanted: Sequence[Stream], policy: Retention, *, made: str, now: datetime
) -> list[Choice]:
    """Remove what retention lets go, each removal with its reason in journal and ledger."""
    removed = []
    for stream in wanted:
        for choice in retention.choices(sets.listing(store), stream, policy, now=now, made=made):
            if choice.keep:
                continue
            for path in publishing.remove(store, choice.stored, stream):
                journal.write(
                    Event.ARTEFACT_REMOVED,
                    f"removed {path}: {choice.reason}",
                    priority=journal.NOTICE,
                    fields={"stream": stream, "set": choice.stored.name, "reason": choice.reason},
                )
            facts = {"set": choice.stored.name, "stream": stream, "reason": choice.reason}
            ledger.record(store, "removal", now=now, facts=facts)
            removed.append(choice)
    return removed


@contextlib.contextmanager
def drafts_discarded(store: Path, name: str) -> Iterator[None]:
    """Remove what is still a draft of this run when the block ends, however it ends; else the next run does."""
    try:
        yield
    finally:
        try:
            publishing.discard(store, name)
        except StoreError as error:  # neither a failure before nor a publication is unsaid by it
            _warn(Event.DRAFT_STAYS, name, f"a draft stays until the next run: {error.message}", error.hint)


@contextlib.contextmanager
def _only_warned(event: Event, name: str) -> Iterator[None]:
    """Let what follows the publication not unsay it: a removal or a record that the disk refuses is a warning."""
    try:
        yield
    except StoreError as error:
        _warn(event, name, f"set {name} is published, but {error.message}", error.hint)


def _warn(event: Event, name: str, text: str, hint: str) -> None:
    fields: dict[str, journal.Field] = {"set": name, "hint": hint}
    journal.write(event, text, priority=journal.WARNING, fields=fields)


@contextlib.contextmanager
def _entered(store: Path, wanted: Sequence[Stream], now: datetime) -> Iterator[None]:
    """Put a run and its failure into ledger and report of a store whose lock is held; a failure goes on as it is.

    Until a run has ended its report says ``unfinished``: that is what a killed one leaves.
    """
    with contextlib.suppress(StoreError):  # a full store takes no record
        ledger.record_killed(store)
    facts: dict[str, Any] = {"streams": list(wanted), "result": "unfinished"}
    try:
        ledger.report(store, {"at": now.isoformat(), **facts})
    except StoreError as error:  # whether there is room for a set is told with numbers, in a moment
        _warn(Event.RUN_NOT_RECORDED, "", f"the run cannot be recorded: {error.message}", error.hint)
    try:
        yield
    except Exception as error:
        known = error if isinstance(error, BackupError) else None
        facts |= {"result": "failed", "cause": cause_of(error)}
        details = {
            "message": known.message if known else "the program has a bug",
            "unreadable": list(known.unreadable) if isinstance(known, ArchiveError) else [],
        }
        with contextlib.suppress(BackupError):  # a full store takes no record; the journal has it
            ledger.record(store, "run", now=now, facts=facts)
            ledger.report(store, {"at": now.isoformat(), **facts, **details})
        raise


def _record_success(taken: Taken, parts: Sequence[Part], wanted: Sequence[Stream], now: datetime) -> None:
    facts = {
        "streams": list(wanted),
        "result": "ok",
        "set": taken.stored.name,
        "duration_s": round(taken.duration_s, 1),
    }
    changed = [name for part in parts for name in part.changed]
    with _only_warned(Event.RUN_NOT_RECORDED, taken.stored.name):
        ledger.record(taken.store, "run", now=now, facts=facts)
        ledger.report(taken.store, {"at": now.isoformat(), **facts, "changed": changed})


def _tell_success(taken: Taken) -> None:
    journal.write(
        Event.RUN_SUCCEEDED,
        f"run finished: set {taken.stored.name} in {duration(taken.duration_s)}, {len(taken.removed)} removed",
        fields={"set": taken.stored.name, "duration_s": round(taken.duration_s)},
    )
    notify.status(f"done: set {taken.stored.name}")


def recover(store: Path) -> None:
    """Bring a store that a killed run left back in order, and tell of it."""
    for done in publishing.recover(store):
        journal.write(Event.STORE_RECOVERED, done, priority=journal.WARNING)
