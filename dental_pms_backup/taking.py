"""Taking one stream of a set: dump it to a draft, prove the draft, and return the stream's part of the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup import durable, journal, postgres, publishing, streams, suspicion, verify
from dental_pms_backup.artefacts import Kind, Stream
from dental_pms_backup.journal import Event
from dental_pms_backup.progress import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dental_pms_backup import config
    from dental_pms_backup.artefacts import StoredSet
    from dental_pms_backup.progress import Watch
    from dental_pms_backup.sources import AttachmentsSource, DatabaseSource

    Entry = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What every stream of one set is taken with: the store, the set's name, the sets that are there already."""

    store: Path
    name: str
    earlier: Sequence[StoredSet]
    limits: config.Suspect
    watch: Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A stream's part of the manifest, with all its drafts proven and durable, and what is strange about it."""

    stream: Stream
    manifest: Mapping[str, Any]
    suspicions: tuple[str, ...]
    changed: tuple[str, ...] = ()


def database(order: Order, source: DatabaseSource, settings: config.Database) -> Proven:
    """Take the database and the roles that it needs; BackupError leaves drafts only."""
    server, facts = source.server, source.facts
    files = postgres.table_files(server)
    with publishing.draft(order.store, Kind.DB, order.name) as draft:
        with order.watch.over("db", draft.descriptor, _last_size(order, Kind.DB)) as beat:
            streams.dump_database(server, facts, draft.descriptor, lock_wait_s=settings.lock_wait_s, beat=beat)
        dump, rows = _prove(order, draft)
    postgres.check_not_rewritten(server, rows, files)
    with publishing.draft(order.store, Kind.GLOBALS, order.name) as draft:
        with order.watch.over("globals", draft.descriptor, _last_size(order, Kind.GLOBALS)) as beat:
            streams.dump_roles(server, facts, draft.descriptor, passwords=settings.role_passwords, beat=beat)
        roles, _ = _prove(order, draft)
    _tell_taken(Stream.DB, dump["size_bytes"], f"PostgreSQL {facts.major}")
    return Proven(
        stream=Stream.DB,
        manifest={"source": postgres.described(server, facts), "rows": rows, "artefacts": [dump, roles]},
        suspicions=tuple(suspicion.of_database(dump["size_bytes"], rows, order.earlier, order.limits)),
    )


def attachments(order: Order, source: AttachmentsSource, *, rows_with_files: int) -> Proven:
    """Take the attachments; ``rows_with_files`` is what the database says there must be files for."""
    with publishing.draft(order.store, Kind.ATTACHMENTS, order.name) as draft:
        index = draft.path.with_name(f".entries_{order.name}{durable.DRAFT_SUFFIX}")
        with order.watch.over("attachments", draft.descriptor, _last_size(order, Kind.ATTACHMENTS)) as beat:
            archived = streams.archive_attachments(source.path, draft.descriptor, index, beat=beat)
        archive, _ = _prove(order, draft, index=index)
    _tell_taken(Stream.ATTACHMENTS, archive["size_bytes"], f"{archived.entry_count} entries")
    _tell_strange(order.name, source.path, archived)
    size_bytes, entries = archive["size_bytes"], archived.entry_count
    return Proven(
        stream=Stream.ATTACHMENTS,
        manifest={
            "source": {"path": str(source.path), "container": source.container},
            "entries": entries,
            "changed": list(archived.changed),
            "artefacts": [archive],
        },
        suspicions=(
            *suspicion.of_attachments(size_bytes, entries, rows_with_files, order.earlier, order.limits),
            *suspicion.of_names(archived.too_long_count),
        ),
        changed=archived.changed,
    )


def _prove(order: Order, draft: publishing.Draft, *, index: Path | None = None) -> tuple[Entry, dict[str, int]]:
    """Make a draft durable, verify what is on disk and return its entry in the manifest and a dump's rows by table."""
    size_bytes = publishing.settle(draft)
    with order.watch.over(f"{draft.kind}: verifying", draft.descriptor, size_bytes) as beat:
        rows = verify.content(draft.path, draft.kind, draft.descriptor, index=index, beat=beat)
    with order.watch.over(f"{draft.kind}: checksum", draft.descriptor, size_bytes) as beat:
        checksum = verify.sha256(draft.path, draft.descriptor, beat=beat)
    path = draft.kind.path(draft.name)
    return {"kind": draft.kind, "path": path, "size_bytes": size_bytes, "sha256": checksum}, rows


def _tell_taken(stream: Stream, size_bytes: int, what: str) -> None:
    journal.write(
        Event.STREAM_TAKEN,
        f"{stream}: {size(size_bytes)} taken and verified ({what})",
        fields={"stream": stream, "bytes": size_bytes},
    )


def _tell_strange(name: str, path: Path, archived: streams.Archived) -> None:
    """Warn of what does not make the archive wrong, but wants a look. Names stand in the manifest only."""
    texts = []
    if archived.changed:
        count = f"{len(archived.changed)}{' or more' if archived.more_changed else ''}"
        texts.append(f"{count} entries changed while they were read; dental-pms-backup show {name} names them")
    if archived.entry_count == 1:
        texts.append(f"{path} is empty, expected the practice's files; is it the right directory?")
    for text in texts:
        fields: dict[str, journal.Field] = {"stream": Stream.ATTACHMENTS, "set": name}
        journal.write(Event.STREAM_WARNING, f"attachments: {text}", priority=journal.WARNING, fields=fields)


def _last_size(order: Order, kind: Kind) -> int:
    """Return the size of the newest artefact of a kind, 0 without any."""
    found = [stored.artefact(kind) for stored in order.earlier]
    return next((artefact.size_bytes for artefact in reversed(found) if artefact), 0)
