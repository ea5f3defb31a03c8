"""The compressor: the fastest one installed that writes plain gzip, and what it means when it fails."""

from __future__ import annotations

import re

from dental_pms_backup.errors import ArchiveError, BackupError, DumpError, StoreError
from dental_pms_backup.host import disks, programs

USUAL_LEVEL = 6
IGZIP_LEVELS = (1, 2, 2, 2, 2, 2, 3, 3, 3)  # which has three of them
# igzip says of any failed write only that it failed
FULL_BELOW_BYTES = 1 << 20
FULL = re.compile(r"No space left|Disk quota|writing to file")


def argv(level: int = USUAL_LEVEL) -> list[str]:
    """Return the argv of the fastest compressor installed that writes plain gzip, at a level from 1 to 9."""
    if programs.installed("igzip"):
        return ["igzip", f"-{IGZIP_LEVELS[level - 1]}", "-c"]
    return ["pigz" if programs.installed("pigz") else "gzip", f"-{level}", "-c"]


def writing_failed(stream: str, ended: programs.Ended, out: int) -> BackupError:
    """Return the error for a compressor that failed: mostly the disk is full, which not all of them say."""
    said = ended.said[-1] if ended.said else "it said nothing"
    if FULL.search(said) or _is_full(out):
        return StoreError(f"{stream}: {ended}: {said}, expected room in the store", hint="df -h; df -i")
    error = ArchiveError if stream == "attachments" else DumpError
    return error(f"{stream}: {ended}: {said}, expected exit status 0")


def full_store(out: int) -> StoreError | None:
    """Return the error for a draft that ends too early because its disk is full, which igzip may keep to itself."""
    if _is_full(out):
        return StoreError("the store: no space left, expected room for the set", hint="df -h; df -i")
    return None


def _is_full(descriptor: int) -> bool:
    room = disks.room(descriptor)
    return room.free_bytes < FULL_BELOW_BYTES or room.free_files == 0
