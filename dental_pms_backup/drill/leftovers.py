"""What a drill makes outside of itself, containers and directories, and how the next one removes a killed one's.

It is known by the mark of its store: no two drill one store at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DockerError, RefusedError, RoomError, shell_word
from dental_pms_backup.host import durable, journal, owners, places, programs, server_sandbox, wording
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import compose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dental_pms_backup.host.places import Place

LABEL = "dental-pms-backup.drill"
PREFIX = "dental-pms-drill-"
OURS_BY = ".dental-pms-drill"  # a file of root's in each directory of a drill: a name alone can be given to anything
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
    """Remove what killed drills of a store left, containers and directories, and return how many those were.

    RefusedError when somebody else can rename in the directory or above it.
    """
    _check(directory)
    containers: list[str] = []
    if programs.installed("docker"):
        with contextlib.suppress(DockerError):  # without a daemon none runs; the drill itself says that it is needed
            containers = _left_containers(mark)
    for container in containers:
        remove_container(container)
    server_sandbox.end_units(f"{PREFIX}{mark}-")
    removed = 0
    with contextlib.suppress(OSError), places.opened(directory) as there:  # a directory that is not there holds nothing
        _end_servers(f"{there.path}/{PREFIX}{mark}-")
        removed = sum(_remove(there, name) for name in there.entries() if name.startswith(f"{PREFIX}{mark}-"))
    return len(containers) + removed


def _left_containers(mark: str) -> list[str]:
    """Return the ids of the containers that drills of a store left: by name, too, since an image may have the label."""
    found = compose.docker("ps", "--all", "--no-trunc", f"--filter=label={LABEL}={mark}", f"--format={OURS}")
    rows = [line.split(" ") for line in wording.lines(found)]
    return [
        identifier for identifier, name, *service in rows if name.startswith(f"{PREFIX}{mark}-") and not any(service)
    ]


@contextlib.contextmanager
def private_directory(mark: str, directory: Path) -> Iterator[Path]:
    """Make a directory of mode 0700 that goes with the block. RefusedError where somebody else can rename above it."""
    _check(directory)
    name = f"{PREFIX}{mark}-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        try:
            there = stack.enter_context(places.opened(directory))
            made = stack.enter_context(places.new(there, name))
            stack.callback(_remove, there, name)
            os.close(os.open(OURS_BY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=made.descriptor))
        except OSError as error:
            raise RoomError(
                f"{directory}: {error.strerror}, expected that a directory for the drill can be made there",
                hint=f"df -h {shell_word(directory)}",
            ) from None
        yield made.path


def _check(directory: Path) -> None:
    try:
        who = owners.who_changes(directory)
    except OSError:  # whoever makes something there says so
        return
    if who:
        raise RefusedError(
            f"drill.directory: {who}, expected {directory} and what is above it to be root's alone, or sticky: "
            "whoever can rename there leads the drill astray; nothing was touched",
            hint="editor /etc/dental-pms/backup.yaml   # set drill.directory to such a directory, as /var/tmp is",
        )


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


def _remove(there: Place, name: str) -> bool:
    """Remove a directory of a drill, or tell that it stays, and tell whether it is gone; what is not ours is let be."""
    try:
        with places.inside(there, name) as left:
            if not _is_ours(left):
                return False
            for entry in left.entries():
                if entry != OURS_BY:  # the last to go: until then the rest is known
                    durable.remove_tree(entry, within=left.descriptor)
            places.remove(there, name, left)
    except OSError as error:
        if error.errno not in places.NO_DIRECTORY:
            path = there.path / name
            _warn(f"{path} stays until the next drill: {error.strerror}", f"rm -r {shell_word(path)}")
        return False
    return True


def _is_ours(left: Place) -> bool:
    """Tell whether a drill made a directory: root's file is in it, or nothing yet."""
    found = [os.fstat(left.descriptor)]
    if left.entries():
        try:
            found.append(os.stat(OURS_BY, dir_fd=left.descriptor, follow_symlinks=False))
        except FileNotFoundError:
            return False
    return all(each.st_uid == os.geteuid() and not stat.S_IMODE(each.st_mode) & owners.OTHERS_WRITE for each in found)


def _warn(text: str, hint: str) -> None:
    journal.write(Event.DRILL_LEFTOVERS, text, priority=journal.WARNING, fields={"hint": hint})
