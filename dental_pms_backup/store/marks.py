"""The admin's word on a set: pinned (it stays) or accepted (what looked strange is right), a small file each."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from dental_pms_backup.host import durable

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


class Mark(StrEnum):
    """A mark's name is its file's suffix in ``sets/``."""

    PINNED = "pinned"
    ACCEPTED = "accepted"


def put(store: Path, name: str, mark: Mark, *, now: datetime) -> None:
    """Mark a set; durable on return."""
    durable.write(_path(store, name, mark), f"{now.isoformat()}\n".encode())


def take_off(store: Path, name: str, mark: Mark) -> None:
    """Remove a mark, if it is there."""
    durable.remove(_path(store, name, mark))


def _path(store: Path, name: str, mark: Mark) -> Path:
    return store / "sets" / f"{name}.{mark}"
