"""Taking one stream of a set: dump it to a draft, verify the draft, and return the stream's part of the manifest."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dental_pms_backup.backup import archive, compressor, dump, left_out, odd_names
from dental_pms_backup.errors import DatabaseError, VerificationError, shell_word
from dental_pms_backup.host import durable, journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.host.wording import size
from dental_pms_backup.live import own_settings, postgres, table_files
from dental_pms_backup.store import named_files, publishing, verify_file
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dental_pms_backup.config import settings
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.sources import AttachmentsSource, DatabaseSource
    from dental_pms_backup.store.sets import StoredSet

    Entry = dict[str, Any]

WRITE_BACK_BYTES = 32 << 20
LINKS_NAMED = 3
NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What every stream of one set is taken with: the store, the set's name, the sets that are there already.

    ``level`` is the compressor's, from 1 to 9; ``table`` the application's table of attachments, None without one, and
    ``directory`` where the files of its rows lie in the attachments, of which ``columns`` have path and size, None
    where rows and files are not compared. ``snapshot_held`` is set once it is decided what the dump will have: a file
    that came before it has to be in the archive.
    """

    store: Path
    name: str
    earlier: Sequence[StoredSet]
    limits: settings.Suspect
    table: str | None
    level: int
    watch: Watch
    directory: str = "."
    columns: tuple[str, str] | None = None
    snapshot_held: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stream's part of the manifest, with all its drafts verified and durable.

    ``changed`` are entries that changed while they were read; ``too_long_count`` have a path that cannot be put back;
    ``leading_out_count`` are links whose target is not in the archive. ``hides_damage`` is as in the facts. ``listed``
    tells whether the draft of a list has the archive's files, or those that the rows of the dump name.
    """

    stream: Stream
    manifest: Mapping[str, Any]
    changed: tuple[str, ...] = ()
    too_long_count: int = 0
    leading_out_count: int = 0
    hides_damage: Sequence[Sequence[str]] = ()
    listed: bool = False


def database(order: Order, source: DatabaseSource, wanted: settings.Database) -> Part:
    """Take the database, the roles that it needs and its own settings; BackupError leaves drafts only."""
    server, facts = source.server, source.facts
    odd_names.refuse(server)
    own_settings.of(server)  # and what no restore would read
    files, had_rows = table_files.numbers(server), table_files.filled(server, superuser=facts.superuser)
    with (
        publishing.draft(order.store, Kind.DB, order.name) as draft,
        _list(list_path(order, "rows")) as named,
        _read_along(draft, _lister_of_rows(order, named)) as reading,
    ):
        with _written(order, draft, "db") as beat:
            said = dump.database(
                source,
                draft.descriptor,
                lock_wait_s=wanted.lock_wait_s,
                level=order.level,
                beat=beat,
                held=order.snapshot_held.set,
            )
        dumped, verified = _verify(order, draft, reading)
    table_files.check_not_rewritten(server, verified.rows, files, had_rows)
    with publishing.draft(order.store, Kind.GLOBALS, order.name) as draft, _read_along(draft) as reading:
        with _written(order, draft, "globals") as beat:
            dump.roles(server, facts, draft.descriptor, passwords=wanted.role_passwords, beat=beat)
        odd_names.refuse(server)  # pg_dumpall has no snapshot: a role may have come since
        roles, _ = _verify(order, draft, reading)
    with publishing.draft(order.store, Kind.SETTINGS, order.name) as draft, _read_along(draft) as reading:
        with _written(order, draft, "settings") as beat:
            dump.settings(server, facts, draft.descriptor, beat=beat)
        own, _ = _verify(order, draft, reading)
    postgres.check_same(server, facts)
    _tell_taken(Stream.DB, dumped["size_bytes"], source.told)
    with contextlib.suppress(DatabaseError):  # a table may be held for long: the set is what it is
        _tell_computed_otherwise(order.name, facts.database, own_settings.of_owners(server))
        _tell_not_dumped(order.name, table_files.not_dumped(server))
    without = [*left_out.warnings(said)]
    with contextlib.suppress(DatabaseError):  # nor is it worth less for what it may be without
        without += left_out.by(server)
    _tell_left_out(order.name, without)
    return Part(
        stream=Stream.DB,
        manifest={
            "source": postgres.described(server, facts),
            "rows": verified.rows,
            "role_passwords": wanted.role_passwords,
            "without": without,
            "artefacts": [dumped, roles, own],
        },
        hides_damage=facts.hides_damage,
        listed=verified.listed,
    )


def _lister_of_rows(order: Order, into: Path) -> Sequence[str]:
    return named_files.lister_of_rows(into, order.table or "", order.columns) if order.columns else ()


def attachments(order: Order, source: AttachmentsSource) -> Part:
    """Take the attachments; BackupError leaves drafts only."""
    with (
        publishing.draft(order.store, Kind.ATTACHMENTS, order.name) as draft,
        _list(list_path(order, "entries")) as index,
        _list(list_path(order, "files")) as files,
    ):
        archived, packed, listed = _archive(order, source, draft, index, files)
    _tell_taken(Stream.ATTACHMENTS, packed["size_bytes"], f"{archived.entry_count} entries")
    _tell_strange(order.name, source.path, archived)
    return Part(
        stream=Stream.ATTACHMENTS,
        manifest={
            "source": {"path": str(source.path), "container": source.container},
            "entries": archived.entry_count,
            "changed": list(archived.changed),
            "leading_out": list(archived.leading_out),
            "artefacts": [packed],
        },
        changed=archived.changed,
        too_long_count=archived.too_long_count,
        leading_out_count=archived.leading_out_count,
        listed=listed,
    )


def list_path(order: Order, what: str) -> Path:
    """Return where a list of ``entries``, of ``files`` or of those that ``rows`` name lies until the run has ended."""
    return order.store / f".{what}_{order.name}{durable.DRAFT_SUFFIX}"


@contextlib.contextmanager
def _list(path: Path) -> Iterator[Path]:
    """Make the file for a list; the path leads to it, whoever moves the store meanwhile."""
    with publishing.opened_draft(path) as descriptor:
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")


def _archive(
    order: Order,
    source: AttachmentsSource,
    draft: publishing.Draft,
    index: Path,
    files: Path,
    *,
    tries: int = archive.TRIES,
) -> tuple[archive.Archived, Entry, bool]:
    """Archive a directory, anew where an entry shrank or was moved meanwhile, and verify the draft.

    ``index`` gets the names of all entries, ``files`` a list of the files that rows may name, unless it returns False.
    """
    lister = named_files.lister_of_files(order.directory, files) if order.columns else ()
    with _read_along(draft, lister) as reading:
        with _written(order, draft, "attachments") as beat:
            archived = archive.attachments(
                source,
                draft.descriptor,
                index,
                level=order.level,
                tries=tries,
                beat=beat,
            )
        if archived:
            packed, verified = _verify(order, draft, reading, index=index)
            return archived, packed, verified.listed
    publishing.empty(draft)
    return _archive(order, source, draft, index, files, tries=tries - 1)


@contextlib.contextmanager
def _written(order: Order, draft: publishing.Draft, label: str) -> Iterator[Callable[[], None]]:
    """Watch over a draft that is being written, and have the disk keep up with it."""
    written_back = 0
    with order.watch.showing(label, draft.descriptor, _last_size(order, draft.kind)) as watched:

        def beat() -> None:
            nonlocal written_back
            watched()
            position = os.lseek(draft.descriptor, 0, os.SEEK_CUR)
            if position - written_back >= WRITE_BACK_BYTES:
                publishing.write_back(draft, written_back, position)
                written_back = position

        yield beat


def _read_along(
    draft: publishing.Draft, lister: Sequence[str] = ()
) -> contextlib.AbstractContextManager[verify_file.Readings]:
    return verify_file.following(draft.path, draft.kind, lambda: not draft.settled.is_set(), lister)


def _verify(
    order: Order, draft: publishing.Draft, reading: verify_file.Readings, *, index: Path | None = None
) -> tuple[Entry, verify_file.Verified]:
    """Make a draft durable, verify what is on disk and return its entry in the manifest and what it is."""
    size_bytes = publishing.settle(draft)
    content, checksum = reading.descriptors
    with order.watch.showing(f"{draft.kind}: verifying", content, size_bytes, beside=checksum) as beat:
        try:
            verified = reading.verify(index=index, beat=beat)
        except VerificationError as error:
            raise compressor.full_store(draft.descriptor) or error from None
    path = draft.kind.path(draft.name)
    return {"kind": draft.kind, "path": path, "size_bytes": size_bytes, "sha256": verified.sha256}, verified


def _tell_taken(stream: Stream, size_bytes: int, what: str) -> None:
    journal.write(
        Event.STREAM_TAKEN,
        f"{stream}: {size(size_bytes)} taken and verified ({what})",
        fields={"stream": stream, "bytes": size_bytes},
    )


def _tell_computed_otherwise(name: str, database: str, found: Sequence[tuple[str, str, str]]) -> None:
    if not found:
        return
    told = [f"{setting} of role {role if role.isprintable() else '(not text)'}" for role, setting, _ in found[:NAMED]]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    _, setting, value = found[0]
    statement = f"ALTER DATABASE {postgres.quoted(database)} SET {setting} TO {postgres.literal(value)}"
    journal.write(
        Event.COMPUTED_OTHERWISE,
        f"db: owners of generated columns or materialized views have other settings than the role that dumps: "
        f"{', '.join(told)}{more}; a restore computes what they own by those of the role that dumps",
        priority=journal.WARNING,
        fields={
            "stream": Stream.DB,
            "set": name,
            "hint": f"psql --command={shell_word(statement)} DATABASE   # if all who write there mean that",
        },
    )


def _tell_not_dumped(name: str, tables: Sequence[tuple[str, str]]) -> None:
    if not tables:
        return
    told = [f"{table} of {extension}" for extension, table in tables[:NAMED]]
    more = f" and {len(tables) - NAMED} more" if len(tables) > NAMED else ""
    extension, table = tables[0]
    statement = f"ALTER EXTENSION {postgres.quoted(extension)} DROP TABLE {table}"
    journal.write(
        Event.TABLES_NOT_DUMPED,
        f"db: tables with rows belong to an extension, and pg_dump writes none of these: {', '.join(told)}{more}",
        priority=journal.WARNING,
        fields={
            "stream": Stream.DB,
            "set": name,
            "hint": f"psql --command={shell_word(statement)} DATABASE   # if the extension does not fill it itself",
        },
    )


def _tell_left_out(name: str, without: Sequence[str]) -> None:
    if without:
        more = f"; and {len(without) - NAMED} more, which dental-pms-backup show {name} names"
        told = f"{'; '.join(without[:NAMED])}{more if len(without) > NAMED else ''}"
        fields: dict[str, journal.Field] = {"stream": Stream.DB, "set": name}
        journal.write(Event.DUMP_WITHOUT, f"db: the set is without: {told}", priority=journal.WARNING, fields=fields)


def _tell_strange(name: str, path: Path, archived: archive.Archived) -> None:
    """Warn of what does not make the archive wrong, but wants a look. Names stand in the manifest only."""
    found = {}
    if archived.changed:
        count = f"{len(archived.changed)}{' or more' if archived.more_changed else ''}"
        found[Event.ENTRIES_CHANGED] = (
            f"{count} entries changed while they were read; dental-pms-backup show {name} names them"
        )
    if archived.moved_count:
        found[Event.ENTRIES_MOVED] = (
            f"{archived.moved_count} files were moved in {path} while the archive was made, each time that it was "
            "made, and are not in it where they are now"
        )
    elif archived.came_count:
        found[Event.ENTRIES_MOVED] = (
            f"{archived.came_count} files may have been moved in {path} while the archive was made, or came in "
            "meanwhile, and are not in it where they are now"
        )
    if archived.entry_count == 1:
        found[Event.ATTACHMENTS_EMPTY] = f"{path} is empty, expected the practice's files; is it the right directory?"
    if archived.leading_out:
        found[Event.LINKS_LEAD_OUT] = _told_of_links(name, path, archived)
    for event, text in found.items():
        fields: dict[str, journal.Field] = {"stream": Stream.ATTACHMENTS, "set": name}
        journal.write(event, f"attachments: {text}", priority=journal.WARNING, fields=fields)


def _told_of_links(name: str, path: Path, archived: archive.Archived) -> str:
    """Name the links at the top: a name further below may be a patient's."""
    top = [f'"{link}"' for link in archived.leading_out if "/" not in link][:LINKS_NAMED]
    more = archived.leading_out_count - len(top)
    told = " and ".join([*top, *([f"{more} {'more' if top else 'below'}"] if more else [])])
    return (
        f"links lead out of {path} ({told}), and what is behind them is not in the archive; "
        f"dental-pms-backup show {name} names them"
    )


def _last_size(order: Order, kind: Kind) -> int:
    """Return the size of the newest artefact of a kind, 0 without any."""
    found = [stored.artefact(kind) for stored in order.earlier]
    return next((artefact.size_bytes for artefact in reversed(found) if artefact), 0)
