"""A run: take every stream, prove it, publish the set, then let old ones go."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dental_pms_backup import (
    __version__,
    artefacts,
    instructions,
    journal,
    ledger,
    lock,
    notify,
    postgres,
    progress,
    publishing,
    retention,
    sources,
    stop,
    streams,
    verify,
)
from dental_pms_backup.artefacts import Kind, Stream
from dental_pms_backup.errors import ArchiveError, BackupError, RefusedError, TemporaryError
from dental_pms_backup.journal import Event
from dental_pms_backup.progress import duration, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dental_pms_backup.artefacts import StoredSet
    from dental_pms_backup.config import Config
    from dental_pms_backup.retention import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A stream's part of the manifest, with all its drafts proven and durable."""

    stream: Stream
    manifest: Mapping[str, Any]
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a complete run made and removed."""

    store: Path
    stored: StoredSet
    keep: int
    removed: tuple[Choice, ...]
    attachments_source: str
    duration_s: float


@dataclass(slots=True)
class _Attempts:
    """The streams of a run as they come in: proven ones and failures."""

    proven: list[Proven] = field(default_factory=list)
    failures: list[BackupError] = field(default_factory=list)

    @contextlib.contextmanager
    def attempt(self, stream: Stream) -> Iterator[None]:
        """Keep a stream's failure for later, so that the other is tried as well; a wish to stop goes through."""
        try:
            yield
        except BackupError as error:
            stop.check()
            self.failures.append(error)
            journal.write(
                Event.STREAM_FAILED,
                error.message,
                priority=journal.ERROR,
                fields={"stream": stream, "cause": error.cause, "hint": error.hint},
            )


def take(config: Config, wanted: Sequence[Stream], *, now: datetime, bar: bool = False) -> Taken:
    """Take one set of the wanted streams. When this returns, it is proven, published and durable.

    Raises BackupError after the other stream was tried as well; then the store holds what it held before.
    """
    began = time.monotonic()
    store = config.store
    with _told():
        publishing.prepare(store)
        with lock.held(store, wait_s=config.lock_wait_s), _entered(store, wanted, now):
            journal.write(Event.RUN_STARTED, f"run of {' and '.join(wanted)} into {store} started")
            _recover(store)
            found = _reach_patiently(config, wanted)
            _refuse_store_in_source(store, found)
            name = _free_name(store, now)
            with _drafts_discarded(store, name):
                proven = _take_streams(config, found, name, bar=bar)
                stored = _publish(store, name, proven, now)
            removed = _let_old_ones_go(store, wanted, keep=config.keep, made=name, now=now)
            taken = Taken(
                store=store,
                stored=stored,
                keep=config.keep,
                removed=tuple(removed),
                attachments_source=str(found.attachments.path) if found.attachments else "",
                duration_s=time.monotonic() - began,
            )
            _record_success(taken, proven, wanted, now)
    return taken


def rehearse(config: Config, wanted: Sequence[Stream]) -> tuple[sources.Sources, list[Choice]]:
    """Reach the sources and make the choices of a run without touching anything; BackupError as ``take``."""
    found = sources.reach(config, wanted)
    sets = artefacts.listing(config.store)
    chosen = [choice for stream in wanted for choice in retention.choices(sets, stream, keep=config.keep, coming=1)]
    return found, [choice for choice in chosen if not choice.keep]


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
            stop.rest(config.retry.wait_s)
    return sources.reach(config, wanted)


def _refuse_store_in_source(store: Path, found: sources.Sources) -> None:
    """Raise RefusedError when the attachments hold the store: each archive would contain all earlier ones."""
    if found.attachments and store.resolve().is_relative_to(found.attachments.path.resolve()):
        raise RefusedError(
            f"attachments: {found.attachments.path} holds the store {store}, expected a store outside of it",
            hint="set backup_dir in /etc/dental-pms/backup.yaml",
        )


def _take_streams(config: Config, found: sources.Sources, name: str, *, bar: bool) -> list[Proven]:
    """Take every stream that was found; one stream's failure is raised only after the other was tried."""
    attempts = _Attempts()
    if found.database:
        with attempts.attempt(Stream.DB):
            attempts.proven.append(_take_database(config, found.database, name, bar=bar))
    if found.attachments:
        with attempts.attempt(Stream.ATTACHMENTS):
            attempts.proven.append(_take_attachments(config, found.attachments, name, bar=bar))
    _raise_failures(attempts)
    stop.check()
    return attempts.proven


def _take_database(config: Config, source: sources.DatabaseSource, name: str, *, bar: bool) -> Proven:
    store, settings = config.store, config.database
    with publishing.draft(store, Kind.DB, name) as draft:
        with progress.shown("db", draft.descriptor, _last_size(store, Kind.DB), bar=bar) as shown:
            streams.dump_database(
                source.server,
                source.facts,
                draft.descriptor,
                lock_wait_s=settings.lock_wait_s,
                beat=shown.beat,
            )
        dump = _prove(draft, bar=bar)
    with publishing.draft(store, Kind.GLOBALS, name) as draft:
        streams.dump_roles(source.server, source.facts, draft.descriptor, passwords=settings.role_passwords)
        roles = _prove(draft, bar=bar)
    _tell_taken(Stream.DB, dump["size_bytes"], f"PostgreSQL {source.facts.major}")
    described = postgres.described(source.server, source.facts)
    return Proven(stream=Stream.DB, manifest={"source": described, "artefacts": [dump, roles]})


def _take_attachments(config: Config, source: sources.AttachmentsSource, name: str, *, bar: bool) -> Proven:
    store = config.store
    with publishing.draft(store, Kind.ATTACHMENTS, name) as draft:
        index = draft.path.with_name(f".entries_{name}{publishing.DRAFT_SUFFIX}")
        with progress.shown("attachments", draft.descriptor, _last_size(store, Kind.ATTACHMENTS), bar=bar) as shown:
            archived = streams.archive_attachments(source.path, draft.descriptor, index, beat=shown.beat)
        archive = _prove(draft, bar=bar, index=index)
    _tell_taken(Stream.ATTACHMENTS, archive["size_bytes"], f"{archived.entry_count} entries")
    if archived.changed:
        count = f"{len(archived.changed)}{' or more' if archived.more_changed else ''}"
        _warn(
            name, f"attachments: {count} entries changed while they were read; dental-pms-backup show {name} names them"
        )
    if archived.entry_count == 1:
        _warn(name, f"attachments: {source.path} is empty, expected the practice's files; is it the right directory?")
    manifest = {
        "source": {"path": str(source.path), "container": source.container},
        "entries": archived.entry_count,
        "changed": list(archived.changed),
        "artefacts": [archive],
    }
    return Proven(stream=Stream.ATTACHMENTS, manifest=manifest, changed=archived.changed)


def _warn(name: str, text: str) -> None:
    fields = {"stream": Stream.ATTACHMENTS, "set": name}
    journal.write(Event.STREAM_WARNING, text, priority=journal.WARNING, fields=fields)


def _prove(draft: publishing.Draft, *, bar: bool, index: Path | None = None) -> dict[str, Any]:
    """Make a draft durable, verify what is on disk and return its entry in the manifest."""
    size_bytes = publishing.settle(draft)
    with progress.shown(f"{draft.kind}: verifying", draft.descriptor, size_bytes, bar=bar) as shown:
        verify.content(draft.path, draft.kind, draft.descriptor, index=index, beat=shown.beat)
    with progress.shown(f"{draft.kind}: checksum", draft.descriptor, size_bytes, bar=bar) as shown:
        checksum = verify.sha256(draft.path, draft.descriptor, beat=shown.beat)
    return {
        "kind": draft.kind,
        "path": draft.kind.path(draft.name),
        "size_bytes": size_bytes,
        "sha256": checksum,
    }


def _publish(store: Path, name: str, proven: Sequence[Proven], now: datetime) -> StoredSet:
    notify.status(f"publishing set {name}")
    manifest = {
        "format": artefacts.FORMAT,
        "set": name,
        "taken_at": now.astimezone(UTC).isoformat(),
        "made_by": f"dental-pms-backup {__version__}",
        "streams": {part.stream: part.manifest for part in proven},
    }
    instructions.leave(store)
    publishing.publish(store, name, manifest)
    stored = artefacts.find(store, name)
    size_bytes = sum(artefact.size_bytes for artefact in stored.artefacts)
    journal.write(
        Event.SET_PUBLISHED,
        f"set {name} is published: {size(size_bytes)} in {len(stored.artefacts)} files",
        fields={"set": name, "bytes": size_bytes},
    )
    return stored


def _let_old_ones_go(store: Path, wanted: Sequence[Stream], *, keep: int, made: str, now: datetime) -> list[Choice]:
    """Remove what retention lets go, each removal with its reason in journal and ledger."""
    removed = []
    for stream in wanted:
        for choice in retention.choices(artefacts.listing(store), stream, keep=keep, made=made):
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
def _drafts_discarded(store: Path, name: str) -> Iterator[None]:
    """Remove what is still a draft of this run when the block ends, however it ends."""
    try:
        yield
    finally:
        publishing.discard(store, name)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Put a failure into the journal; it goes on as it is."""
    try:
        yield
    except BackupError as error:
        fields: dict[str, journal.Field] = {"cause": error.cause, "hint": error.hint, "exit_status": error.exit_status}
        journal.write(Event.RUN_FAILED, f"run failed: {error.message}", priority=journal.ERROR, fields=fields)
        notify.stopping(f"failed: {error.message}")
        error.told = True
        raise


@contextlib.contextmanager
def _entered(store: Path, wanted: Sequence[Stream], now: datetime) -> Iterator[None]:
    """Put a failure into ledger and report of a store whose lock is held; it goes on as it is."""
    try:
        yield
    except BackupError as error:
        facts = {"streams": list(wanted), "result": "failed", "cause": error.cause}
        unreadable = list(error.unreadable) if isinstance(error, ArchiveError) else []
        with contextlib.suppress(BackupError):  # a full store takes no record; the journal has it
            ledger.record(store, "run", now=now, facts=facts)
            ledger.report(store, {"at": now.isoformat(), **facts, "message": error.message, "unreadable": unreadable})
        raise


def _record_success(taken: Taken, proven: Sequence[Proven], wanted: Sequence[Stream], now: datetime) -> None:
    facts = {
        "streams": list(wanted),
        "result": "ok",
        "set": taken.stored.name,
        "duration_s": round(taken.duration_s, 1),
    }
    ledger.record(taken.store, "run", now=now, facts=facts)
    changed = [name for part in proven for name in part.changed]
    ledger.report(taken.store, {"at": now.isoformat(), **facts, "changed": changed})
    journal.write(
        Event.RUN_SUCCEEDED,
        f"run finished: set {taken.stored.name} in {duration(taken.duration_s)}, {len(taken.removed)} removed",
        fields={"set": taken.stored.name, "duration_s": round(taken.duration_s)},
    )
    notify.status(f"done: set {taken.stored.name}")


def _recover(store: Path) -> None:
    for done in publishing.recover(store):
        journal.write(Event.STORE_RECOVERED, done, priority=journal.WARNING)


def _raise_failures(attempts: _Attempts) -> None:
    """Raise the failure that is least worth a retry, if any."""
    lasting = [error for error in attempts.failures if not isinstance(error, TemporaryError)]
    for error in [*lasting, *attempts.failures]:
        raise error


def _free_name(store: Path, now: datetime) -> str:
    """Return the run's timestamp; a later second when the clock went back and that name is taken."""
    while True:
        name = publishing.new_name(store, now)
        if name:
            return name
        now += timedelta(seconds=1)


def _tell_taken(stream: Stream, size_bytes: int, what: str) -> None:
    journal.write(
        Event.STREAM_TAKEN,
        f"{stream}: {size(size_bytes)} taken and verified ({what})",
        fields={"stream": stream, "bytes": size_bytes},
    )


def _last_size(store: Path, kind: Kind) -> int:
    """Return the size of the newest artefact of a kind, 0 without any."""
    found = [stored.artefact(kind) for stored in artefacts.listing(store)]
    return next((artefact.size_bytes for artefact in reversed(found) if artefact), 0)
