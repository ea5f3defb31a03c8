"""What a drill found about a set, beside it: ``sets/NAME.drill.json``, bound to the manifest that it drilled."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dental_pms_backup.host import durable, owners

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1
SUFFIX = "drill.json"
LARGEST_RECORD_BYTES = 1 << 20


class Result(StrEnum):
    """How a proof, or a whole drill, came out."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


def write(store: Path, name: str, manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Put a drill's facts beside its set, over those of an earlier one; durable on return."""
    record = {"format": FORMAT, "set": name, "manifest_sha256": _digest(manifest), **facts}
    durable.write(_path(store, name), (json.dumps(record, indent=2, ensure_ascii=True) + "\n").encode())


def read(
    store: Path, name: str, manifest: Mapping[str, Any], status: os.stat_result | None = None
) -> dict[str, Any] | None:
    """Return what the last drill of a set found; None without one, or when it proved anything but this manifest.

    Nor is one heeded of somebody else than the manifest is, of which ``status`` tells whose it is.
    A manifest holds the checksums of the set's files, so that a proof is one of exactly these files. That a set failed
    is no such proof: it stays failed when retention takes a stream of it, until a drill of what is left passes.
    """
    try:
        content, found = durable.read_whose(_path(store, name), LARGEST_RECORD_BYTES)
        record = json.loads(content)
        same = record["result"] == Result.FAILED or record["manifest_sha256"] == _digest(manifest)
        sound = record["set"] == name and _is_sound(record) and same and owners.is_as_ours(found, status)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if sound else None


def _is_sound(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is of our format and does not contradict itself."""
    results = list(record["proofs"].values())
    passed = record["result"] == Result.PASSED and Result.FAILED not in results and Result.PASSED in results
    return (
        record["format"] == FORMAT
        and bool(passed or record["result"] == Result.FAILED)
        and set(results) <= set(Result)
        and isinstance(record["drilled_at"], str)
    )


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _path(store: Path, name: str) -> Path:
    return store / "sets" / f"{name}.{SUFFIX}"
