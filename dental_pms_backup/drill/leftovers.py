"""What a drill makes outside of itself, containers and directories, and how the next one removes a killed one's.

It is known by the mark of its store: no two drill one store at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DockerError, RoomError, shell_word
from dental_pms_backup.host import durable, journal, programs, server_sandbox, wording
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import compose

if TYPE_CHECKING:
    from collections.abc import Iterator

LABEL = "dental-pms-backup.drill"
PREFIX = "dental-pms-drill-"
PROCESSES = Path("/proc")
SERVERS = ("/postgres", "/initdb", "/bwrap")
# An image may have the labels of compose, and what runs it has them, too: with this one a drill's container is no
# service's, neither for compose nor for a run of this program.
OF_NO_SERVICE = f"{compose.LABEL}.oneoff"
OURS = f'{{{{.ID}}}} {{{{.Names}}}} {{{{.Label "{OF_NO_SERVICE}"}}}}'
DOCKER_ANSWERS_S = 120


def mark_of(store: Path) -> str:
    """Return the word by which what drills of a store leave is known."""
    return hashlib.sha256(os.fsencode(os.path.realpath(store))).hexdigest()[:10]


def clear(mark: str, directory: Path) -> int:
    """Remove what killed drills of a store left, containers and directories, and return how many those were."""
    containers: list[str] = []
    if programs.installed("docker"):
        with contextlib.suppress(DockerError):  # without a daemon none runs; the drill itself says that it is needed
            containers = _left_containers(mark)
    for container in containers:
        remove_container(container)
    server_sandbox.end_units(f"{PREFIX}{mark}-")
    left = [path for path in directory.glob(f"{PREFIX}{mark}-*") if path.lstat().st_uid == os.geteuid()]
    _end_servers(f"{directory}/{PREFIX}{mark}-")
    for path in left:
        _remove_tree(path)
    return len(containers) + len(left)


def _left_containers(mark: str) -> list[str]:
    """Return the ids of the containers that drills of a store left: by name, too, since an image may have the label."""
    found = compose.docker("ps", "--all", "--no-trunc", f"--filter=label={LABEL}={mark}", f"--format={OURS}")
    rows = [line.split(" ") for line in wording.lines(found)]
    return [
        identifier for identifier, name, *service in rows if name.startswith(f"{PREFIX}{mark}-") and not any(service)
    ]


@contextlib.contextmanager
def private_directory(mark: str, directory: Path) -> Iterator[Path]:
    """Make a directory that goes with the block; the cluster's user may pass through it, others cannot list it."""
    try:
        place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{mark}-", dir=directory))
    except OSError as error:
        raise RoomError(
            f"{directory}: {error.strerror}, expected that a directory for the drill can be made there",
            hint=f"df -h {shell_word(directory)}",
        ) from None
    try:
        place.chmod(0o711)
        yield place
    finally:
        _remove_tree(place)


def _end_servers(directories: str) -> None:
    """End the server of a drill that was killed in the moment in which it was started: it was not yet bound to it."""
    for process in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            program, *arguments = (process / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")
            if program.endswith(SERVERS) and any(word.startswith(directories) for word in arguments):
                os.kill(int(process.name), signal.SIGKILL)


def remove_container(name: str) -> None:
    """Remove a container with its volumes, or tell that it stays; one that is gone already is all right."""
    ended, _ = programs.capture(["docker", "rm", "--force", "--volumes", name], timeout_s=DOCKER_ANSWERS_S)
    goes = re.compile("no such container|already in progress", re.IGNORECASE)  # the latter: a killed drill removed it
    if not ended.ok and not any(goes.search(line) for line in ended.said):
        _warn(
            f"the throwaway container {name} stays until the next drill ({ended})",
            f"docker rm --force --volumes {shell_word(name)}",
        )


def _remove_tree(path: Path) -> None:
    try:
        durable.remove_tree(path)
    except OSError as error:
        _warn(f"{path} stays until the next drill: {error.strerror}", f"rm -r {shell_word(path)}")


def _warn(text: str, hint: str) -> None:
    journal.write(Event.DRILL_LEFTOVERS, text, priority=journal.WARNING, fields={"hint": hint})
