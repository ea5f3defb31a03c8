"""The append-only record of runs, restores and removals: STORE/ledger.jsonl, one JSON object a line.

Each entry holds the SHA-256 of the line before it, so that a line taken out or changed shows.
``STORE/last-run.json`` is the last run's report, for ``status``; it alone may name files that could not be read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import StoreError
from dental_pms_backup.host import durable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FIRST = "0" * 64
LONGEST_LINE_BYTES = 64 << 10


def record(store: Path, what: str, *, now: datetime, facts: Mapping[str, Any]) -> None:
    """Append an entry; it is durable on return. StoreError when it cannot be written."""
    path = store / "ledger.jsonl"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "rb+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE_BYTES))
            tail = file.read()
            entry = {"at": now.isoformat(), "what": what, **facts, "previous": _digest(tail)}
            line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
            # a line that a power cut left unfinished is closed, not continued
            file.write(line if tail.endswith(b"\n") or not tail else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
        if not tail:  # it may be new
            durable.sync_directory(store)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from None


def record_killed(store: Path) -> None:
    """Append the last run as one that failed, where there is only its report, as a killed one leaves it. StoreError."""
    killed = last_report(store)
    if not killed or killed["result"] != "unfinished":
        return
    with contextlib.suppress(ValueError, TypeError):  # what the report says is no moment with its zone
        at = datetime.fromisoformat(killed["at"])
        if all(ended < at for ended, _ in entries(store, "run")):
            facts = {"streams": killed.get("streams"), "result": "failed", "cause": "interrupted"}
            record(store, "run", now=at, facts=facts)


def entries(store: Path, what: str) -> list[tuple[datetime, Mapping[str, Any]]]:
    """Return what can be read of the entries of a kind, oldest first, each with its moment."""
    found: list[tuple[datetime, Mapping[str, Any]]] = []
    try:
        lines = (store / "ledger.jsonl").read_bytes().split(b"\n")
    except OSError:
        return found
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
            entry = json.loads(line)
            at = datetime.fromisoformat(entry["at"])
            if entry["what"] == what and at.tzinfo:
                found.append((at, entry))
    return found


def report(store: Path, facts: Mapping[str, Any]) -> None:
    """Replace the last run's report, durably."""
    path = store / "last-run.json"
    try:
        durable.write(path, (json.dumps(facts, indent=2) + "\n").encode())
    except StoreError:
        with contextlib.suppress(StoreError):  # none is better than that of another run, which may have succeeded
            durable.remove(path)
        raise


def last_report(store: Path) -> Mapping[str, Any] | None:
    """Return the last run's report, None when there is none that can be read."""
    try:
        found = json.loads(durable.read(store / "last-run.json"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("at", "result"))
    return found if whole else None


def _digest(tail: bytes) -> str:
    lines = tail.rstrip(b"\n").rsplit(b"\n", 1)
    return hashlib.sha256(lines[-1]).hexdigest() if lines[-1] else FIRST
