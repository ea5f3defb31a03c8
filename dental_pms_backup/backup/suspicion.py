"""What is whole and verified may still be wrong: an emptied volume, a dump a tenth of the last one."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dental_pms_backup.host.wording import size
from dental_pms_backup.live import own_settings
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dental_pms_backup.backup.one_stream import Part
    from dental_pms_backup.config.settings import Suspect
    from dental_pms_backup.store.sets import StoredSet

ALWAYS_FINE = 100
ONLY_THE_DIRECTORY = 1
FEWEST_ROWS = 100


def of_set(
    parts: Sequence[Part], earlier: Sequence[StoredSet], limits: Suspect, table: str | None, directory: str = "."
) -> Iterator[str]:
    """Yield what is strange about a new set's parts, beside the good ones in the store, oldest first.

    ``table`` is the application's table of attachments, whose rows have files in ``directory``, as the configuration
    names them.
    """
    rows: Mapping[str, int] = {}
    for part in sorted(parts, key=lambda part: part.stream is not Stream.DB):
        size_bytes = part.manifest["artefacts"][0]["size_bytes"]
        match part.stream:
            case Stream.DB:
                rows = part.manifest["rows"]
                yield from _of_database(size_bytes, rows, earlier, limits)
                yield from _of_damage(part.hides_damage)
            case Stream.ATTACHMENTS:
                rows_with_files = rows.get(table, rows.get(f"public.{table}", 0)) if table else 0
                yield from _of_attachments(size_bytes, part.manifest["entries"], rows_with_files, earlier, limits)
                yield from _of_names(part.too_long_count)
                yield from _of_links(part, rows_with_files, PurePath(directory))


def _of_database(
    size_bytes: int, rows: Mapping[str, int], earlier: Sequence[StoredSet], limits: Suspect
) -> Iterator[str]:
    if not rows:
        yield "db: the dump has no table, expected the practice's tables"
        return
    yield from _shrunk(Kind.DB, size_bytes, earlier, limits.db_shrink_percent)
    yield from _emptied(rows, _last_rows(earlier), limits.rows_shrink_percent)


def _of_damage(hides_damage: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield who may have read a damaged page: as he has, without its rows, it stays in the server's memory for all."""
    for setting, role in hides_damage:
        whose = f"role {own_settings.plain(role)}" if role else "whoever reads this database"
        yield (
            f"db: {setting} is on for {whose}, expected off: rows of a damaged page may be missing, and no error says "
            "so; reset it, restart the server and run again"
        )


def _of_attachments(
    size_bytes: int, entry_count: int, rows_with_files: int, earlier: Sequence[StoredSet], limits: Suspect
) -> Iterator[str]:
    last_entries = _last_entry_count(earlier)
    if entry_count <= ONLY_THE_DIRECTORY and (rows_with_files > 0 or last_entries > ONLY_THE_DIRECTORY):
        why = f"{rows_with_files} rows with files" if rows_with_files else f"{last_entries} entries last time"
        yield f"attachments: empty, expected files ({why})"
        return
    yield from _shrunk(Kind.ATTACHMENTS, size_bytes, earlier, limits.attachments_shrink_percent)


def _of_names(too_long_count: int) -> Iterator[str]:
    if too_long_count:
        yield f"attachments: {too_long_count} entries have a path of over 4095 bytes, which tar cannot put back"


def _of_links(part: Part, rows_with_files: int, directory: PurePath) -> Iterator[str]:
    """Yield that rows lack their files, where that is plain: the way to them leads out, or files are too few."""
    on_the_way = any(directory.is_relative_to(link) for link in part.manifest.get("leading_out", ()))
    files_at_most = part.manifest["entries"] - ONLY_THE_DIRECTORY - part.leading_out_count
    if part.leading_out_count and rows_with_files and (on_the_way or rows_with_files > files_at_most):
        yield (
            f"attachments: links lead out of them ({part.leading_out_count}), expected the files of {rows_with_files} "
            "rows in the archive"
        )


def _shrunk(kind: Kind, size_bytes: int, earlier: Sequence[StoredSet], percent: int) -> Iterator[str]:
    last = _last_good(kind, earlier)
    if percent >= ALWAYS_FINE or last is None:
        return
    if size_bytes * 100 < last * (100 - percent):
        yield f"{kind}: {size(size_bytes)}, expected at least {100 - percent} % of the last good one's {size(last)}"


def _emptied(rows: Mapping[str, int], last: Mapping[str, int], percent: int) -> Iterator[str]:
    """Yield each table that has lost more than its share of rows, or has gone; small ones may."""
    for table, before in last.items():
        left = rows.get(table, 0)
        if percent < ALWAYS_FINE and before >= FEWEST_ROWS and left * 100 < before * (100 - percent):
            yield f"db: {table} has {left} rows, expected at least {100 - percent} % of the last good dump's {before}"


def _last_rows(earlier: Sequence[StoredSet]) -> Mapping[str, int]:
    parts = [_part(stored, Stream.DB) for stored in reversed(earlier)]
    found: list[dict[str, int]] = [part["rows"] for part in parts if "rows" in part]
    return found[0] if found else {}


def _part(stored: StoredSet, stream: Stream) -> Mapping[str, Any]:
    """Return what a set's manifest says of a stream, nothing without either."""
    part: Mapping[str, Any] = (stored.manifest or {"streams": {}})["streams"].get(stream, {})
    return part


def _last_good(kind: Kind, earlier: Sequence[StoredSet]) -> int | None:
    found = [artefact.size_bytes for stored in reversed(earlier) if (artefact := stored.artefact(kind))]
    return found[0] if found else None


def _last_entry_count(earlier: Sequence[StoredSet]) -> int:
    parts = [_part(stored, Stream.ATTACHMENTS) for stored in reversed(earlier)]
    found: list[int] = [part["entries"] for part in parts if "entries" in part]
    return found[0] if found else 0
