"""Which disks a directory lies on, as far as Linux tells, and how much room its filesystem has."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/sys/dev/block")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much a filesystem has, and how much of it is free for others than root; ``inf`` where it counts no files."""

    total_bytes: int
    free_bytes: int
    total_files: int
    free_files: float


def room(place: Path | int) -> Room:
    """Return the room in the filesystem of a path or of an open file; OSError."""
    status = os.statvfs(place)
    return Room(
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        total_files=status.f_files,
        free_files=status.f_favail if status.f_files else math.inf,
    )


def differ(one: Path, other: Path) -> bool:
    """Tell whether two directories are known to lie on different disks: what is not known counts as the same."""
    try:
        disks = [_disks(DEVICES / f"{os.major(device)}:{os.minor(device)}") for device in map(_device, (one, other))]
    except OSError:
        return False
    return all(disks) and not disks[0] & disks[1]


def _device(directory: Path) -> int:
    return os.stat(directory).st_dev  # noqa: PTH116 - as the system calls it


def _disks(device: Path) -> set[str]:
    """Return the disks behind a block device, be it a partition or made of others; none behind a network or memory."""
    place = Path(os.path.realpath(device, strict=True))
    below = list((place / "slaves").iterdir()) if (place / "slaves").is_dir() else []
    if below:
        return set().union(*(_disks(each) for each in below))
    return {place.parent.name if (place / "partition").exists() else place.name}
