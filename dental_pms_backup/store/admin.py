"""The admin's word on sets, put on record: pinned, released, accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.errors import UsageError
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.store import ledger, lock, marks, sets
from dental_pms_backup.store.marks import Mark

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

WAIT_S = 5


def pin(store: Path, wanted: str, *, now: datetime) -> str:
    """Pin a set, so that retention never removes it, and return a sentence that says so."""
    name = sets.find(store, wanted).name
    with lock.held(store, wait_s=WAIT_S):
        sets.find(store, name)  # a run may have removed it meanwhile
        marks.put(store, name, Mark.PINNED, now=now)
        return _recorded(store, "pin", name, f"set {name} is pinned: it stays until it is released", now)


def release(store: Path, wanted: str, *, now: datetime) -> str:
    """Take the pin off a set and return a sentence that says so."""
    name = sets.find(store, wanted).name
    with lock.held(store, wait_s=WAIT_S):
        sets.find(store, name)  # a run may have removed it meanwhile
        marks.take_off(store, name, Mark.PINNED)
        return _recorded(store, "release", name, f"set {name} is released: retention decides again", now)


def accept(store: Path, wanted: str, *, now: datetime) -> str:
    """Accept a suspect set, so that retention goes on, and return a sentence that says so."""
    stored = sets.find(store, wanted)
    if not stored.suspicions:
        raise UsageError(f"set {stored.name}: it is not suspect, so there is nothing to accept")
    with lock.held(store, wait_s=WAIT_S):
        sets.find(store, stored.name)
        marks.put(store, stored.name, Mark.ACCEPTED, now=now)
        text = f"set {stored.name} is accepted: {stored.suspicions[0]}"
        return _recorded(store, "accept", stored.name, text, now)


def _recorded(store: Path, what: str, name: str, text: str, now: datetime) -> str:
    ledger.record(store, what, now=now, facts={"set": name})
    journal.write(Event.SET_MARKED, text, priority=journal.NOTICE, fields={"set": name, "reason": what})
    return text
