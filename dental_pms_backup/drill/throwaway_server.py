"""Where a drill restores to: which server it can be, with room for the database, and provably not the live one."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.config.values import Where
from dental_pms_backup.drill import leftovers, throwaway_container
from dental_pms_backup.drill.throwaway_container import Identity
from dental_pms_backup.errors import BackupError, RoomError, TemporaryError, ToolMissingError, shell_word
from dental_pms_backup.host import disks
from dental_pms_backup.host.wording import size
from dental_pms_backup.live import sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.live.postgres import Server

MB = 1_000_000
EMPTY_BYTES = 350 * MB  # an empty cluster and its log
UNPACKED_TIMES = 6  # a database is so many times larger than its compressed dump, mostly less
ALMOST_FULL_BYTES = 64 * MB
LEAST_FILES = 1000
TO_CLEAR_UP_S = 600  # over the drill's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyServer:
    """The server that a set's database is restored in: in a container of an image, or without one a private cluster.

    ``original`` is the system identifier of the server that the set was taken of.
    """

    image: str
    major: int
    original: str

    @property
    def kind(self) -> str:
        """Return the word for it."""
        return "container" if self.image else "cluster"


def choose(where: Where, source: Mapping[str, Any]) -> CopyServer:
    """Return where to restore a set of whose database the manifest says ``source``; BackupError when nothing is here.

    Left to choose, what ran in a container is restored into one, or else into a cluster of its version.
    """
    major = source["server_version"] // 10_000
    cluster = CopyServer(image="", major=major, original=source["system_identifier"])
    if where is Where.CLUSTER or (where is Where.AUTO and source["source"] != "compose"):
        return cluster
    if "image" not in source:
        raise ToolMissingError(
            "drill: the set's database ran in no container, expected drill.where to be auto or cluster",
            hint="dental-pms-backup config show",
        )
    try:
        return dataclasses.replace(cluster, image=throwaway_container.image_of(source))
    except BackupError:
        if where is Where.AUTO and throwaway_container.has_cluster(major):
            return cluster
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where a throwaway server writes, and how many bytes have to be left there: live and store may be beside it."""

    directory: Path
    least_bytes: int

    def check(self) -> None:
        """Raise RoomError when less is left: whatever a dump does, it fills no disk to its end."""
        try:
            room = disks.room(self.directory)
        except OSError:  # what befalls the disk, the server's programs say
            return
        if room.free_bytes < self.least_bytes or room.free_files < LEAST_FILES:
            raise RoomError(
                f"drill: {self.directory}: a copy of the database has taken all room but {size(self.least_bytes)}, "
                "expected it to need less; the copy is removed",
                hint=f"df -h {shell_word(self.directory)}; df -i {shell_word(self.directory)}",
            )


def room(config: Config, chosen: CopyServer) -> Room:
    """Return where a server writes, and what it has to leave."""
    directory = throwaway_container.room_of(chosen.kind, config.drill.directory)
    return Room(directory=directory, least_bytes=max(config.room.reserve_mb * MB, ALMOST_FULL_BYTES))


@contextlib.contextmanager
def server(
    config: Config,
    chosen: CopyServer,
    room: Room,
    place: Path,
    *,
    superuser: str,
    packed_bytes: int,
) -> Iterator[Server]:
    """Run a server for a dump of ``packed_bytes`` that has room for it and is provably not the live one.

    RoomError, RefusedError; other BackupError when it does not come up.
    """
    live, live_bytes = _live(config)
    _check_room(room.directory, EMPTY_BYTES + max(live_bytes, packed_bytes * UNPACKED_TIMES), config.room.reserve_mb)
    with _full_disk_named(room.directory), _started(config, chosen, place, superuser) as made:
        target = throwaway_container.identity(made)
        for other in (Identity(system=chosen.original), *live):
            throwaway_container.check_apart(target, other)
        yield made


def _started(
    config: Config, chosen: CopyServer, place: Path, superuser: str
) -> contextlib.AbstractContextManager[Server]:
    if not chosen.image:
        longest_s = config.drill.timeout_s + TO_CLEAR_UP_S
        return throwaway_container.cluster(place, chosen.major, superuser=superuser, longest_s=longest_s)
    mark = leftovers.mark_of(config.store)
    return throwaway_container.container(mark, chosen.image, config.database.road, superuser=superuser)


def _live(config: Config) -> tuple[tuple[Identity, ...], int]:
    """Return who the live server is and how many bytes its database has, nothing when it does not answer."""
    try:
        found = sources.database(config)
        return (throwaway_container.identity(found.server),), found.facts.size
    except BackupError:  # a drill is for the day on which it is down
        return (), 0


def _check_room(directory: Path, needed: int, reserve_mb: int) -> None:
    free = _free_bytes(directory)
    wanted = needed + reserve_mb * MB
    if free < wanted:
        raise RoomError(
            f"drill: {directory}: {size(free)} free, expected {size(wanted)} for a copy of the database",
            hint=f"df -h {shell_word(directory)}",
        )


def _free_bytes(directory: Path) -> int:
    try:
        return disks.room(directory).free_bytes
    except OSError as error:
        raise RoomError(f"drill: {directory}: {error.strerror}, expected a directory for the drill") from None


@contextlib.contextmanager
def _full_disk_named(directory: Path) -> Iterator[None]:
    """Call it a full disk when a server went away that had no room left: it writes its log there, too."""
    try:
        yield
    except TemporaryError:
        if _free_bytes(directory) < ALMOST_FULL_BYTES:
            raise RoomError(
                f"drill: {directory}: no space left, expected room for a copy of the database",
                hint=f"df -h {shell_word(directory)}",
            ) from None
        raise
