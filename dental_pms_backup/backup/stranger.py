"""Is it the practice's database? What a set was taken of, beside what the last good one was taken of.

A server is known by the number that its initdb drew, a database by its name and by the number that the server gave it.
A restore in place puts the practice where it says, and the ledger knows it: what came of that is no stranger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import shell_word
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.store import ledger
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dental_pms_backup.backup.one_stream import Part
    from dental_pms_backup.store.sets import StoredSet


def suspicions(store: Path, parts: Sequence[Part], earlier: Sequence[StoredSet]) -> Iterator[str]:
    """Yield why a new set is of another server or database than the last good one, of those in the store."""
    part, last = _database(parts), _last(earlier)
    if not part or not last:
        return
    new, old = part.manifest["source"], _part(last)["source"]
    if not _restored_since(store, new, last):
        if new["system_identifier"] != old["system_identifier"]:
            yield (
                f"db: another server, with the system identifier {new['system_identifier']}, expected that of set "
                f"{last.name}, {old['system_identifier']}; is it the practice's, moved or upgraded?"
            )
        elif new["database"] != old.get("database"):
            yield f"db: the database {new['database']}, expected {old.get('database')} as in set {last.name}"


def unlike(parts: Sequence[Part], earlier: Sequence[StoredSet]) -> Iterator[str]:
    """Yield it where a new set has so few of the last good one's tables that it may be of another database."""
    part, last = _database(parts), _last(earlier)
    if not part or not last:
        return
    before = _part(last).get("rows", {}).keys()
    left = before & part.manifest["rows"].keys()
    if len(left) * 2 < len(before):
        yield (
            f"db: {len(left)} of the {len(before)} tables of set {last.name} are there, expected at least half; "
            "is it the practice's database?"
        )


def tell_of_new(store: Path, parts: Sequence[Part], earlier: Sequence[StoredSet]) -> None:
    """Warn where the database was made anew, under the same name, since the last good set and by no restore of ours."""
    part, last = _database(parts), _last(earlier)
    if not part or not last:
        return
    new, old = part.manifest["source"], _part(last)["source"]
    where = ("system_identifier", "database")
    if (
        [new[key] for key in where] == [old.get(key) for key in where]
        and new["database_oid"] != old.get("database_oid", new["database_oid"])
        and not _restored_since(store, new, last)
    ):
        text = (
            f"db: the database {new['database']} is not the one that set {last.name} was taken of: "
            "somebody has made it anew under the same name since"
        )
        fields: dict[str, journal.Field] = {"set": last.name, "hint": f"dental-pms-backup show {shell_word(last.name)}"}
        journal.write(Event.DATABASE_MADE_ANEW, text, priority=journal.WARNING, fields=fields)


def _database(parts: Sequence[Part]) -> Part | None:
    return next((part for part in parts if part.stream is Stream.DB), None)


def _last(earlier: Sequence[StoredSet]) -> StoredSet | None:
    """Return the newest set of a database whose server it names."""
    return next((each for each in reversed(earlier) if "system_identifier" in _part(each).get("source", {})), None)


def _part(stored: StoredSet) -> Mapping[str, Any]:
    part: Mapping[str, Any] = (stored.manifest or {"streams": {}})["streams"].get(Stream.DB, {})
    return part


def _restored_since(store: Path, source: Mapping[str, Any], last: StoredSet) -> bool:
    """Tell whether a restore in place went onto this server after a set was taken."""
    return any(
        entry.get("system_identifier") == source["system_identifier"]
        and entry.get("database") == source["database"]
        and at >= last.taken_at
        for at, entry in ledger.entries(store, "restore")
    )
