"""How the service stands: the store, the last run, the timer."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import ToolMissingError
from dental_pms_backup.host import programs, wording
from dental_pms_backup.host.wording import moment
from dental_pms_backup.store import latest, ledger, lock, sets
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dental_pms_backup.store.sets import StoredSet

TIMER = "dental-pms-backup.timer"


def status(store: Path, *, now: datetime) -> dict[str, Any]:
    """Return what ``status`` shows, without touching anything."""
    listed = sets.listing(store)
    known = latest.known(listed, now=now)
    last = ledger.last_report(store)
    return {
        "store": str(store),
        "sets": len(listed),
        "dated_in_the_future": len(listed) - len(known),
        "newest": {stream: _newest(known, stream, now) for stream in Stream},
        "newest_proven": {
            stream: _newest([stored for stored in known if stored.state == "proven"], stream, now) for stream in Stream
        },
        "last_run": last,
        "failed_before": [failed for failed in _failures(store) if not last or failed["at"] != last["at"]],
        "running": lock.is_held(store),
        "timer": timer_state(),
    }


def _newest(known: Sequence[StoredSet], stream: Stream, now: datetime) -> dict[str, Any] | None:
    """Return the newest of the sets that have a stream, None without any."""
    stored = next((each for each in reversed(known) if each.size_bytes(stream) is not None), None)
    if stored is None:
        return None
    age_s = round((now - stored.taken_at).total_seconds())
    return {"set": stored.name, "taken_at": stored.taken_at.isoformat(), "age_s": age_s, "state": stored.state}


def _failures(store: Path) -> list[dict[str, Any]]:
    """Return of each stream that has not succeeded since how its last run failed, in the order of the ledger."""
    last = {stream: entry for _, entry in ledger.entries(store, "run") for stream in _streams(entry)}
    failed = [(stream, entry) for stream, entry in last.items() if entry.get("result") != "ok"]
    return [{"stream": stream, "at": entry["at"], "cause": str(entry.get("cause"))} for stream, entry in failed]


def _streams(entry: Mapping[str, Any]) -> list[Stream]:
    named = entry.get("streams")
    return [stream for stream in Stream if isinstance(named, list) and stream in named]


def timer_state() -> str:
    """Return ``enabled, next run …``, ``disabled`` or ``unknown`` where systemd does not run."""
    properties = ("UnitFileState", "ActiveState", "NextElapseUSecRealtime")
    try:
        ended, out = programs.capture(["systemctl", "show", TIMER, f"--property={','.join(properties)}"], timeout_s=10)
    except ToolMissingError:
        return "unknown"
    shown = dict(line.partition("=")[::2] for line in wording.lines(out))
    if not ended.ok or not shown.get("UnitFileState"):
        return "unknown"
    if shown["ActiveState"] != "active":
        starts = f"systemctl enable --now {TIMER}"
        return f"{shown['UnitFileState']}, not running: no backup is made by itself; type: {starts}"
    return f"{shown['UnitFileState']}, next run {_next_run(shown['NextElapseUSecRealtime'])}"


def _next_run(shown: str) -> str:
    """Return for people when systemd, which tells it in local time as ``Mon 2026-11-23 02:30:00 CET``, runs a timer."""
    try:
        return moment(datetime.strptime(" ".join(shown.split()[1:3]), "%Y-%m-%d %H:%M:%S").astimezone())
    except ValueError:
        return shown or "now"
