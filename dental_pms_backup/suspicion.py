"""What is whole and proven may still be wrong: an emptied volume, a dump a tenth of the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.artefacts import Kind, Stream
from dental_pms_backup.progress import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dental_pms_backup.artefacts import StoredSet
    from dental_pms_backup.config import Suspect

ALWAYS_FINE = 100
ONLY_THE_DIRECTORY = 1


def of_database(size_bytes: int, table_count: int, earlier: Sequence[StoredSet], limits: Suspect) -> Iterator[str]:
    """Yield what is strange about a new dump, beside the sets in the store, oldest first."""
    if table_count == 0:
        yield "db: the database has no table, expected the practice's"
    yield from _shrunk(Kind.DB, size_bytes, earlier, limits.db_shrink_percent)


def of_attachments(
    size_bytes: int, entry_count: int, rows_with_files: int, earlier: Sequence[StoredSet], limits: Suspect
) -> Iterator[str]:
    """Yield what is strange about a new archive; ``rows_with_files`` is 0 where the database was not asked."""
    last_entries = _last_entry_count(earlier)
    if entry_count <= ONLY_THE_DIRECTORY and (rows_with_files > 0 or last_entries > ONLY_THE_DIRECTORY):
        why = f"{rows_with_files} rows with files" if rows_with_files else f"{last_entries} entries last time"
        yield f"attachments: empty, expected files ({why})"
        return
    yield from _shrunk(Kind.ATTACHMENTS, size_bytes, earlier, limits.attachments_shrink_percent)


def _shrunk(kind: Kind, size_bytes: int, earlier: Sequence[StoredSet], percent: int) -> Iterator[str]:
    last = _last_good(kind, earlier)
    if percent >= ALWAYS_FINE or last is None:
        return
    if size_bytes * 100 < last * (100 - percent):
        yield f"{kind}: {size(size_bytes)}, expected at least {100 - percent} % of the last good one's {size(last)}"


def _last_good(kind: Kind, earlier: Sequence[StoredSet]) -> int | None:
    good = [stored for stored in earlier if stored.state not in {"damaged", "suspect"}]
    found = [artefact.size_bytes for stored in reversed(good) if (artefact := stored.artefact(kind))]
    return found[0] if found else None


def _last_entry_count(earlier: Sequence[StoredSet]) -> int:
    for stored in reversed(earlier):
        part: Mapping[str, object] = (stored.manifest or {"streams": {}})["streams"].get(Stream.ATTACHMENTS, {})
        count = part.get("entries")
        if stored.state == "verified" and isinstance(count, int):
            return count
    return 0
