"""The roads into a container's PostgreSQL: docker exec, which copies every byte, and two that do not.

A road counts only when the server answers on it.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.config.values import Road
from dental_pms_backup.errors import BackupError, ConfigError, SourceError
from dental_pms_backup.host import client_cage, journal, places
from dental_pms_backup.live import mounts, postgres
from dental_pms_backup.live.server import AS_ITS_ENVIRONMENT, InContainer, Inside, OnHost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dental_pms_backup.live.compose import Container
    from dental_pms_backup.live.server import Facts, Login

PROCESSES = Path("/proc")
ORDER = (Road.NAMESPACE, Road.SOCKET)
SOCKET = "select split_part(current_setting('unix_socket_directories'), ',', 1) || ' ' || current_setting('port')"
USUAL_PORT = 5432
CONFIGURED = "/etc/dental-pms/backup.yaml"
_told: list[str] = []


def open_to(
    container: Container, wanted: Road, order: Sequence[Road] = ORDER, *, login: Login = AS_ITS_ENVIRONMENT
) -> tuple[InContainer, Facts]:
    """Return the server in a container by the road that is wanted, and what it says of itself.

    ``auto`` takes the first in ``order`` that works, or docker exec. ConfigError when the one that is wanted does not,
    although docker exec does, or where nothing tells which database; DatabaseError or DockerError when nothing answers.
    """
    by_exec = InContainer(
        container_id=container.id,
        name=container.name,
        image=container.image,
        image_id=container.image_id,
        login=login,
    )
    reasons = []
    for road in order:
        if wanted not in {road, Road.AUTO}:
            continue
        try:
            server = dataclasses.replace(by_exec, entry=_entry(by_exec, container, road))
            facts = postgres.examine(server)
            return _on_port(server, facts.port), facts
        except (BackupError, OSError) as error:
            reasons.append(f"{error.message if isinstance(error, BackupError) else error.strerror}")
    facts = postgres.examine(by_exec)
    if wanted in {Road.AUTO, Road.EXEC}:
        for reason in reasons:
            _tell_of_no_cage(reason)
        return _on_port(by_exec, facts.port), facts
    raise ConfigError(
        (f"database.road: {wanted} cannot be taken ({reasons[0]}), expected a road that the server answers on",),
        hint=f"editor {CONFIGURED}   # set database.road to auto",
    )


def _on_port(server: InContainer, port: int) -> InContainer:
    """Return the server with the port on which it answered, for commands that an admin types."""
    return (
        server
        if port == USUAL_PORT
        else dataclasses.replace(server, login=dataclasses.replace(server.login, port=port))
    )


def seen_at(container: Container, mount: Path) -> tuple[int, int] | None:
    """Return device and number of what a container has at a path; None where that is not seen from here.

    Its root decides what that is, by links and by another root directory: nothing may be allowed because of it.
    """
    try:
        return places.identity_of((_process(container) / "root" / mount.relative_to("/")).stat())
    except (BackupError, OSError, ValueError):  # it does not run; or dockerd is elsewhere; or we have not the right
        return None


def mounted_in(container: Container, mount: Path) -> set[Path]:
    """Return what a container has mounted below a path, as far as that is seen from here."""
    try:
        found = mounts.of(_process(container) / "mountinfo")
    except (BackupError, OSError):
        return set()
    return {path for each in found if (path := Path(each.point)) != mount and path.is_relative_to(mount)}


def _process(container: Container) -> Path:
    return PROCESSES / str(_first_process(container))


def _tell_of_no_cage(reason: str) -> None:
    """Write it to the journal, once, that programs are not started for want of a cage; other reasons are as wanted."""
    if client_cage.REFUSED in reason and not _told:
        _told.append(reason)
        fields = {"hint": f"editor {CONFIGURED}   # set database.road to exec"}
        text = f"db: docker exec is taken, which is slower: {reason}"
        journal.write(journal.Event.ROAD_CLOSED, text, priority=journal.WARNING, fields=fields)


def _entry(by_exec: InContainer, container: Container, road: Road) -> Inside | OnHost:
    process = _process(container)
    match road:
        case Road.NAMESPACE:
            uid, gid = _user(int(process.name))
            return Inside(root=process / "root", uid=uid, gid=gid, settings=container.settings)
        case _:
            return _on_socket(by_exec, process / "root")


def _first_process(container: Container) -> int:
    """Return the container's first process as this host sees it; SourceError when that is another one.

    dockerd may run elsewhere, and a number is given anew.
    """
    if not container.pid or container.id.encode() not in (PROCESSES / str(container.pid) / "cgroup").read_bytes():
        raise SourceError(f"{container.name}: its processes are not seen here, expected dockerd on this host")
    return container.pid


def _user(pid: int) -> tuple[int, int]:
    """Return user and group of the first process that does not run as root, be it behind an init that does."""
    for process in (pid, *_children(pid)):
        status = (PROCESSES / str(process) / "status").read_bytes()  # its name may be no text
        uid, gid = (int(re.findall(rb"^%b:\s+(\d+)" % name, status, re.MULTILINE)[0]) for name in (b"Uid", b"Gid"))
        if uid != 0:
            return uid, gid
    raise SourceError("the container's programs run as root, expected a user of their own")


def _children(pid: int) -> Iterator[int]:
    yield from map(int, (PROCESSES / str(pid) / "task" / str(pid) / "children").read_text().split())


def _on_socket(by_exec: InContainer, root: Path) -> OnHost:
    """Return the server as programs of this host reach it, of which there are some of its major version."""
    facts = postgres.examine(by_exec)
    directory, _, port = postgres.ask(by_exec, SOCKET).rpartition(" ")
    server = OnHost(
        host=f"{root}{directory}",
        port=int(port),
        user=facts.user,
        database=facts.database,
        run_as=None,
        pgpass_file=None,
        bin_dir=None,
    )
    postgres.matching(server, facts, "pg_dump")
    if postgres.examine(dataclasses.replace(by_exec, entry=server)).system != facts.system:
        raise SourceError(f"{server.host}: the socket of another server, expected the container's")
    return server
