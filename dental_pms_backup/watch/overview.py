"""How the service stands: the store, the last run, the timer."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import ToolMissingError
from dental_pms_backup.host import programs, wording
from dental_pms_backup.host.wording import moment
from dental_pms_backup.store import ledger, lock, sets

if TYPE_CHECKING:
    from pathlib import Path

    from dental_pms_backup.store.sets import StoredSet

TIMER = "dental-pms-backup.timer"


def status(store: Path, *, now: datetime) -> dict[str, Any]:
    """Return what ``status`` shows, without touching anything."""
    listed = sets.listing(store)
    newest = listed[-1] if listed else None
    proven = next((stored for stored in reversed(listed) if stored.state == "proven"), None)
    return {
        "store": str(store),
        "sets": len(listed),
        "newest_set": newest and {**_age(newest, now), "state": newest.state},
        "newest_proven": proven and _age(proven, now),
        "last_run": ledger.last_report(store),
        "running": lock.is_held(store),
        "timer": timer_state(),
    }


def _age(stored: StoredSet, now: datetime) -> dict[str, Any]:
    age_s = round(max(0.0, (now - stored.taken_at).total_seconds()))
    return {"set": stored.name, "taken_at": stored.taken_at.isoformat(), "age_s": age_s}


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
