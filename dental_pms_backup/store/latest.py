"""Which sets the words ``latest`` and ``oldest`` mean, and which one is the newest as far as is known now."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dental_pms_backup.errors import UsageError
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.store import sets
from dental_pms_backup.store.sets import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.store.sets import StoredSet

GOOD = " that is not suspect, failed, damaged, dated in the future or a safety set"
LATEST, OLDEST = "latest", "oldest"
ASKED_FOR = ((Kind.DB, Kind.ATTACHMENTS), (Kind.DB,), (Kind.ATTACHMENTS,))


def known(listed: Iterable[StoredSet], *, now: datetime) -> list[StoredSet]:
    """Return the sets without those that a wrong clock dated in the future: the last of the others is the newest."""
    return [stored for stored in listed if stored.taken_at <= now]


def measure(listed: Iterable[StoredSet], *, now: datetime) -> list[StoredSet]:
    """Return by which sets a new one is measured, oldest first: those that ``latest`` may be.

    Where all of these are dated in the future it is this clock that is wrong, and they are the measure.
    """
    good = _good(listed)
    return known(good, now=now) or good


def named(store: Path, wanted: str, *, having: Sequence[Kind] = (), now: datetime) -> str:
    """Return the name of the set that a word means, of those with all these files; what is no such word as it is.

    ``latest`` is never a set that something is known against, nor what a restore took of what was live before; that
    a newer one is passed over is a warning. UsageError when there is no such set.
    """
    name, passed_over = _found(store, wanted, having, now)
    _warn(passed_over)
    return name


def every(store: Path, wanted: str, *, now: datetime) -> list[str]:
    """Return the names of all sets that a word means, whichever streams are asked for; UsageError when it means none.

    Where the newest set has one stream only, ``latest`` is one set for the one restore and another for the other.
    """
    found = []
    for having in ASKED_FOR if wanted == LATEST else ():
        with contextlib.suppress(UsageError):
            found.append(_found(store, wanted, having, now))
    if not found:
        return [named(store, wanted, now=now)]
    for passed_over in dict.fromkeys(passed_over for _, passed_over in found):
        _warn(passed_over)
    return list(dict.fromkeys(name for name, _ in found))


def _found(store: Path, wanted: str, having: Sequence[Kind], now: datetime) -> tuple[str, str]:
    """Return the name of a set, and what is to be said of a newer one, if anything is."""
    if wanted not in {LATEST, OLDEST}:
        return wanted, ""
    listed = sets.listing(store)
    found = candidates = [stored for stored in listed if all(stored.artefact(kind) for kind in having)]
    what = f" with {' and '.join(having)}" if having and listed else ""
    hint = "dental-pms-backup run"
    if wanted == LATEST and found:
        what, hint = what + GOOD, "dental-pms-backup list   # then type the name of the set that you want"
        found = known(_good(candidates), now=now)
    if not found:
        raise UsageError(f"{store}: no set{what}, expected at least one", hint=hint)
    if wanted == OLDEST:
        return found[0].name, ""
    return found[-1].name, _of_newer(found[-1], candidates, now)


def _good(listed: Iterable[StoredSet]) -> list[StoredSet]:
    return [stored for stored in listed if stored.is_good and not stored.is_safety]


def _of_newer(chosen: StoredSet, candidates: Sequence[StoredSet], now: datetime) -> str:
    """Return in words that newer sets are passed over, of which a safety set is none; empty without any."""
    newer = [stored for stored in candidates[candidates.index(chosen) + 1 :] if not stored.is_safety]
    if not newer:
        return ""
    why = newer[-1].state if newer[-1].taken_at <= now else "dated in the future"
    more = f", and {len(newer) - 1} more newer ones are passed over" if len(newer) > 1 else ""
    return f"latest is the set {chosen.name}: the newer set {newer[-1].name} is {why}{more}"


def _warn(text: str) -> None:
    if text:
        fields: dict[str, journal.Field] = {"hint": "dental-pms-backup list"}
        journal.write(Event.LATEST_NOT_NEWEST, text, priority=journal.WARNING, fields=fields)
