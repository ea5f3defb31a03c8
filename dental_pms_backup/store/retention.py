"""Which artefacts stay: a pure function from what is stored to choices, each with its reason in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from dental_pms_backup.config.settings import Retention
    from dental_pms_backup.store.sets import StoredSet, Stream

NEWEST_PROVEN = "the newest set that a drill has proven"
# The newest set of each of the last N periods stays; a period is what the local date of a set says of it.
PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "daily": lambda taken: (taken.year, taken.month, taken.day),
    "weekly": lambda taken: taken.isocalendar()[:2],
    "monthly": lambda taken: (taken.year, taken.month),
    "yearly": lambda taken: (taken.year,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Keep or remove one stream's files of one set, and why."""

    stored: StoredSet
    stream: Stream
    keep: bool
    reason: str


def choices(
    sets: Sequence[StoredSet], stream: Stream, policy: Retention, *, now: datetime, made: str = "", coming: int = 0
) -> list[Choice]:
    """Choose which sets keep their files of a stream, newest first by the UTC time in the manifest.

    The set ``made`` by the run that asks always stays and counts first, whatever the clock says; ``coming`` sets
    that do not exist yet are counted as newest; those that a wrong clock dated into the future count last. Pinned
    sets stay, beside the others, and so does the newest that a drill has proven. A pinned set takes no place. Damaged
    sets and those that failed their drill have as many places of their own: they push out each other, never a good
    one. While a suspect set waits for the admin's word, of which a pin is one, nothing is removed.
    """
    if policy.keep < 1:
        raise ValueError(f"keep is {policy.keep}, expected at least 1")
    having = [stored for stored in sets if stored.size_bytes(stream) is not None]
    newest_first = sorted(
        having, key=lambda stored: (stored.name == made, stored.taken_at <= now, stored.taken_at), reverse=True
    )
    waiting = [stored.name for stored in newest_first if stored.state == "suspect" and not stored.pinned]
    suspect = next(iter(waiting), "")
    periods = _newest_of_periods([each for each in newest_first if each.is_good and not each.pinned], policy)
    proven = next((stored.name for stored in newest_first if stored.state == "proven"), "")
    chosen, places = [], {True: coming, False: 0}
    for stored in newest_first:
        place = places[stored.is_good] + 1
        places[stored.is_good] += not stored.pinned
        reason = f"nothing is removed while set {suspect} is suspect" if suspect else ""
        reason = reason or _reason_to_stay(stored, place, policy, now=now) or periods.get(stored.name, "")
        reason = reason or (NEWEST_PROVEN if stored.name == proven else "")
        gone = _counted(stored, place, policy)
        chosen.append(Choice(stored=stored, stream=stream, keep=bool(reason), reason=reason or gone))
    return chosen


def _counted(stored: StoredSet, place: int, policy: Retention) -> str:
    counted = f"number {place} from the newest"
    if not stored.is_good:
        counted = f"{stored.state}: {counted} of those that are damaged or failed"
    return f"{counted}, {policy.keep} stay"


def _reason_to_stay(stored: StoredSet, place: int, policy: Retention, *, now: datetime) -> str:
    """Return why a set at a place from the newest stays, empty when neither pin, count nor age wants it."""
    if stored.pinned:
        return "pinned"
    if place <= policy.keep:
        return _counted(stored, place, policy)
    age_days = max(0, (now - stored.taken_at).days)  # less than 0 when a wrong clock dated it
    if age_days < policy.keep_within_days:
        return f"{age_days} days old, all within {policy.keep_within_days} days stay"
    return ""


def _newest_of_periods(newest_first: Sequence[StoredSet], policy: Retention) -> dict[str, str]:
    """Return for each set that is the newest of one of the last periods the reason to keep it, by its name."""
    wanted = {
        "daily": policy.keep_daily,
        "weekly": policy.keep_weekly,
        "monthly": policy.keep_monthly,
        "yearly": policy.keep_yearly,
    }
    reasons: dict[str, str] = {}
    for kind, count in wanted.items():
        newest: dict[tuple[int, ...], str] = {}
        for stored in newest_first:
            newest.setdefault(PERIODS[kind](stored.taken_at.astimezone()), stored.name)
        for name in list(newest.values())[:count]:
            reasons.setdefault(name, f"one of the last {count} {kind} sets")
    return reasons
