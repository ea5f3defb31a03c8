"""What has to be so before anything is written: the store is on its disk, and the disk has room."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError, RoomError, shell_word
from dental_pms_backup.host import disks, durable
from dental_pms_backup.host.wording import size
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dental_pms_backup.store.sets import StoredSet

MB = 1_000_000
GROWTH = 1.2
FIRST_DUMP_SHARE = 0.5
INODES_NEEDED = 32


def check_mount(store: Path, *, required: bool) -> None:
    """Raise RoomError when the store has to be on a disk of its own and is on the root filesystem.

    Asked before the store's directories are made: a disk that is not mounted must not fill the root disk.
    """
    try:
        existing = next(path for path in (store, *store.parents) if path.exists())
        on_root = existing.stat().st_dev == os.stat("/").st_dev  # noqa: PTH116 - as the others
    except OSError as error:
        raise durable.refusal(store, "cannot be looked at", error) from None
    if required and on_root:
        raise RoomError(
            f"{store}: on the root filesystem, expected a disk of its own (require_mount)",
            hint=f"findmnt -T {shell_word(store)}",
        )


def check_place(store: Path) -> None:
    """Raise RefusedError when the store is a directory of another store, or would have one as a directory.

    Each would take the other's drafts for its own and remove them under a run.
    """
    place = _real(store)
    for other in (*place.parents, place / "db", place / "sets"):
        if durable.exists(other / "sets") and durable.exists(other / "ledger.jsonl"):
            raise RefusedError(
                f"{store}: overlaps with the store {other}, expected a directory of its own",
                hint="dental-pms-backup config show   # where backup_dir comes from",
            )


def check_apart(store: Path, attachments: Path) -> None:
    """Raise RefusedError when the attachments hold sets: each archive would contain earlier ones."""
    files, *places = (_real(path) for path in (attachments, store, store / "db", store / "sets"))
    if any(place.is_relative_to(files) for place in places) or any(files.is_relative_to(p) for p in places[1:]):
        raise RefusedError(
            f"attachments: {attachments} and the store {store} lie in each other, expected two directories apart",
            hint="editor /etc/dental-pms/backup.yaml   # set backup_dir to another directory",
        )


def needed_bytes(wanted: Sequence[Stream], earlier: Sequence[StoredSet], database_bytes: int) -> int:
    """Return how much room a set of the wanted streams may take, beside the sets in the store, oldest first.

    That is somewhat more than each stream's last one, or for a first dump half of the database's own size.
    """
    needed = 0.0
    for stream in wanted:
        sizes = [size_bytes for stored in earlier if (size_bytes := stored.size_bytes(stream)) is not None]
        first = database_bytes * FIRST_DUMP_SHARE if stream is Stream.DB else 0
        needed += sizes[-1] * GROWTH if sizes else first
    return round(needed)


def check_room(store: Path, needed: int, reserve_mb: int) -> None:
    """Raise RoomError unless ``needed`` bytes, the reserve and some inodes are free in the store's filesystem."""
    try:
        room = disks.room(store)
    except OSError as error:
        raise durable.refusal(store, "cannot be looked at", error) from None
    wanted = needed + reserve_mb * MB
    if room.free_bytes < wanted:
        raise RoomError(
            f"{store}: {size(room.free_bytes)} free, expected {size(wanted)} "
            f"({size(needed)} for the set and {reserve_mb} MB in reserve)",
            hint=f"df -h {shell_word(store)}; dental-pms-backup prune --dry-run",
        )
    if room.free_files < INODES_NEEDED:
        raise RoomError(
            f"{store}: {room.free_files} inodes free, expected at least {INODES_NEEDED}",
            hint=f"df -i {shell_word(store)}",
        )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike resolve(), it takes a loop of links as it is
