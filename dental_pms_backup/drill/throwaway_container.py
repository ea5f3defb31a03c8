"""The throwaway servers of a drill: a container of the live server's own image, or a private cluster of its version.

What a killed drill leaves is known by the mark of its store, and removed by the next: no two drill one store at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dental_pms_backup.config.values import Road
from dental_pms_backup.drill import leftovers, private_cluster
from dental_pms_backup.errors import DockerError, RefusedError, RoomError, ToolMissingError, shell_word
from dental_pms_backup.host import journal, programs, stop, wording
from dental_pms_backup.live import compose, postgres, roads
from dental_pms_backup.live.postgres import InContainer, Inside, OnHost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dental_pms_backup.live.postgres import Server

NO_CONTAINER = "editor /etc/dental-pms/backup.yaml   # set drill.where to cluster"
DATA = "/var/lib/postgresql/data"
OWN_VOLUME = "/var/lib/dental-pms-drill"
DOCKER_ANSWERS_S = 120
STARTS_WITHIN_S = 180
LONGEST_PLACE_BYTES = 107 - len("/.s.PGSQL.5432")  # unix(7): sun_path, with its NUL
# for speed; a replay of definitions and rows needs no other server to follow it, and in one transaction a lock on each
SETTINGS = (
    "wal_level=minimal",
    "max_wal_senders=0",
    "maintenance_work_mem=128MB",
    "max_wal_size=256MB",
    "max_locks_per_transaction=8192",
)
IN_CONTAINER = (
    "listen_addresses=127.0.0.1",
    *(each for each in private_cluster.SETTINGS if not each.startswith("listen")),
)
# Nothing of the host, nothing of the network, no right beyond an ordinary user's, and an end to everything. Its output,
# which may be anything, is kept in a small file that goes with it, and reaches no journal.
CONFINED = (
    "--pull=never",
    "--network=none",
    "--ipc=private",
    "--cgroupns=private",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=2g",  # what it reads and writes is cached beyond that
    "--memory-swap=2g",
    "--pids-limit=500",
    "--cpu-shares=128",
    "--shm-size=512m",
    "--ulimit=nofile=4096:4096",
    f"--ulimit=fsize={2 << 30}:{2 << 30}",
    "--ulimit=core=0:0",
    "--log-driver=json-file",
    "--log-opt=max-size=1m",
    "--log-opt=max-file=1",
)
# Without the image's entry point and its own scripts, from the beginning as the image's database user: a server, made
# in a volume of its own, and nothing else that it could write to but what is gone with its memory.
PLAIN = (
    "--read-only",
    "--tmpfs=/tmp:rw,mode=1777,size=64m",
    "--tmpfs=/run:rw,mode=1777,size=16m",
    "--tmpfs=/var/run/postgresql:rw,mode=1777,size=16m",
    f"--mount=type=volume,destination={OWN_VOLUME}",
    "--entrypoint=sh",
)
SERVES = """\
initdb --pgdata="$0" --username="$POSTGRES_USER" --auth=trust --encoding=UTF8 --no-locale --no-sync >/dev/null &&
exec postgres -D "$0" "$@"
"""
# What an entry point needs that begins as root, as the official image's does: it hands its directory to a user, and
# becomes that user.
BY_ENTRY_POINT = tuple(f"--cap-add={each}" for each in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"))
IMAGE = "{{.Image}} {{.Config.Image}}"
# Data in the container's own layer is slow, and stays in it: an image that declares no volume gets one.
PLACE_OF_DATA = "{{len .Config.Volumes}}{{range .Config.Env}} {{.}}{{end}}"
OWN_SOURCE = f'{{{{range .Mounts}}}}{{{{if eq .Destination "{OWN_VOLUME}"}}}}{{{{.Source}}}}{{{{end}}}}{{{{end}}}}'
# What an image says is in no option but as such a path: a --volume of "/:/mnt" would be the host's root directory.
PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+/?")
MOUNTS = "{{range .Mounts}}{{.Type}} {{.Name}}{{println}}{{end}}"
ANONYMOUS = re.compile(r"volume [0-9a-f]{64}|tmpfs ?")
SYSTEM = "select system_identifier from pg_control_system()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells one server from another; ``container`` and ``mounts``, places of the host, are a container's only."""

    system: str
    container: str = ""
    mounts: frozenset[str] = frozenset()


def image_of(source: Mapping[str, Any]) -> str:
    """Return the id of the image that a set's database ran from; BackupError when this host has it no more.

    That is the one that the manifest has, or that of its container, if it is still there, else what bears the image's
    name now.
    """
    name = str(source["image"])
    with contextlib.suppress(DockerError):
        if known := source.get("image_id"):
            return docker("image", "inspect", "--format={{.Id}}", str(known)).strip()
    with contextlib.suppress(DockerError):
        image, _, called = docker(
            "inspect", "--type=container", f"--format={IMAGE}", str(source["container"])
        ).partition(" ")
        if called.strip() == name:
            return image
    docker("version", "--format={{.Server.Version}}")  # that the daemon is down is another thing
    try:
        return docker("image", "inspect", "--format={{.Id}}", name).strip()
    except DockerError:
        raise ToolMissingError(
            f'drill: the image "{name}" of the set\'s database is not on this host, and a drill never pulls one',
            hint=f"docker pull {shell_word(name)}   # or set drill.where to cluster",
        ) from None


@contextlib.contextmanager
def container(mark: str, image: str, road: Road, *, superuser: str) -> Iterator[InContainer]:
    """Run a server in a new container without a network, which goes with its volume when the block ends.

    Its own programs are used: in its root directory where ``road`` and this host allow that, else through docker exec.
    BackupError when it does not come up.
    """
    name = f"{leftovers.PREFIX}{mark}-{secrets.token_hex(4)}"
    # the password is nobody's: over the socket none is asked for, and there is no network
    settings = f"POSTGRES_USER={superuser}\nPOSTGRES_DB=postgres\nPOSTGRES_PASSWORD={secrets.token_hex(16)}\n"
    settings += "POSTGRES_INITDB_ARGS=--no-sync\n"
    labelled = [
        f"--name={name}",
        f"--label={leftovers.LABEL}={mark}",
        f"--label={leftovers.OF_NO_SERVICE}=",
        "--env-file=/proc/self/fd/0",
    ]
    try:
        try:
            _start_plain(labelled, name, image, settings)
        except DockerError:  # an image of another kind, whose entry point knows how
            stop.check()
            leftovers.remove_container(name)
            _start_by_entry_point(labelled, name, image, settings)
        own = Road.EXEC if road is Road.EXEC else Road.AUTO
        server, _ = roads.open_to(compose.container(name), own, (Road.NAMESPACE,))
        yield _whose_clients_are_alone(server)
    finally:
        with stop.deferred():
            leftovers.remove_container(name)


def _whose_clients_are_alone(server: InContainer) -> InContainer:
    """Return a server whose clients start no other program, which a psql that reads a dump could leave behind.

    Those that docker exec starts end with the container.
    """
    if not isinstance(server.entry, Inside):
        return server
    return dataclasses.replace(server, entry=dataclasses.replace(server.entry, alone=True))


@contextlib.contextmanager
def cluster(place: Path, major: int, *, superuser: str, longest_s: float) -> Iterator[OnHost]:
    """Run a private cluster of a version, in a sandbox, below a directory; ToolMissingError when none is installed."""
    bin_dir = private_cluster.bin_directory(major)
    if bin_dir is None:
        raise ToolMissingError(
            f"drill: no server of PostgreSQL {major}, the version of the set, is installed",
            hint=f"apt install postgresql-{major}   # its cluster may stay stopped",
        )
    directory = place / "pg"
    if len(os.fsencode(directory)) > LONGEST_PLACE_BYTES:
        raise RefusedError(
            f"drill: {directory}: too long a name for a socket in it, expected a shorter drill.directory",
            hint="dental-pms-backup config show",
        )
    with private_cluster.sandboxed(
        directory, bin_dir, superuser=superuser, settings=SETTINGS, longest_s=longest_s
    ) as server:
        yield server


def has_cluster(major: int) -> bool:
    """Tell whether a private cluster of a major version can be made here."""
    return private_cluster.bin_directory(major) is not None


def identity(server: Server) -> Identity:
    """Ask a server, and Docker of its container, who it is; BackupError when it does not answer."""
    system = postgres.ask(server, SYSTEM)
    match server:
        case InContainer(container_id=container_id):
            mounts = docker(
                "inspect", "--type=container", "--format={{range .Mounts}}{{println .Source}}{{end}}", container_id
            )
            return Identity(system=system, container=container_id, mounts=frozenset(mounts.split("\n")) - {""})
        case OnHost():
            return Identity(system=system)


def check_apart(target: Identity, live: Identity) -> None:
    """Raise RefusedError when the throwaway server is in anything the live one."""
    same = []
    if target.system == live.system:
        same.append("system identifier")
    if target.container and target.container == live.container:
        same.append("container")
    if target.mounts & live.mounts:
        same.append("volume")
    if same or not target.system:
        raise RefusedError(
            f"drill: the throwaway server has the {' and the '.join(same) or 'nameless system identifier'} of the live "
            "one, expected another server; nothing was written to it",
            hint="docker ps; dental-pms-backup config show",
        )


def room_of(server_kind: str, directory: Path) -> Path:
    """Return the directory in whose filesystem a server of a kind keeps its data."""
    if server_kind == "cluster":
        return directory
    root = Path(docker("info", "--format={{.DockerRootDir}}").strip())
    return root if root.is_dir() else directory


def docker(*arguments: str, text_in: str = "") -> str:
    """Return what a docker command prints; DockerError unless it exits 0, RoomError when the disk is full."""
    full = RoomError("drill: docker found no space left, expected room for a copy of the database", hint="df -h")
    return compose.docker(*arguments, text_in=text_in, timeout_s=DOCKER_ANSWERS_S, when_full=full)


def _start_plain(labelled: Sequence[str], name: str, image: str, settings: str) -> None:
    """Start a server in a new container, without its entry point; DockerError when the image does not bear that."""
    user = docker("image", "inspect", "--format={{.Config.User}}", image).strip() or "postgres"
    argv = [*labelled, *CONFINED, *PLAIN, f"--user={user}", image, "-c", SERVES, f"{OWN_VOLUME}/data", *_settings()]
    docker("create", *argv, text_in=settings)
    _check_mounts(name)
    try:  # the volume is root's, whoever writes to it, and nobody but root passes through the directories above it
        Path(docker("inspect", "--type=container", f"--format={OWN_SOURCE}", name).strip()).chmod(0o777)
    except OSError as error:
        raise DockerError(f"drill: the throwaway container's volume: {error.strerror}, expected a directory") from None
    docker("start", name)
    _wait_for(name)


def _start_by_entry_point(labelled: Sequence[str], name: str, image: str, settings: str) -> None:
    volumes, *environment = docker("image", "inspect", f"--format={PLACE_OF_DATA}", image).split()
    data = next((each.partition("=")[2] for each in environment if each.startswith("PGDATA=")), DATA)
    own = [_volume_at(data)] if volumes == "0" else []
    argv = [*labelled, *CONFINED, *BY_ENTRY_POINT, *own, image, "postgres", *_settings()]
    docker("create", *argv, text_in=settings)
    _check_mounts(name)
    docker("start", name)
    _wait_for(name)


def _volume_at(path: str) -> str:
    """Return the option for a new volume at a path that an image says; RefusedError where that is more than a path."""
    if not PLAIN_PATH.fullmatch(path):
        raise RefusedError(
            "drill: the image's PGDATA is not a plain path, expected an absolute one of letters, digits, '_', '-' and "
            "'.'; no container was started",
            hint=NO_CONTAINER,
        )
    return f"--mount=type=volume,destination={path}"


def _check_mounts(name: str) -> None:
    """Raise RefusedError when a container that has not started yet would have more than new volumes of its own."""
    mounts = wording.lines(docker("inspect", "--type=container", f"--format={MOUNTS}", name))
    if not all(ANONYMOUS.fullmatch(mount) for mount in mounts if mount):
        raise RefusedError(
            "drill: the throwaway container would have a directory or volume that is not its own, expected new volumes "
            "only; it was not started",
            hint=NO_CONTAINER,
        )


def _settings() -> list[str]:
    return [word for setting in (*IN_CONTAINER, *SETTINGS) for word in ("-c", setting)]


def _wait_for(name: str) -> None:
    """Wait until the server takes connections over TCP: while its entry point makes the cluster, one takes others."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    argv = ["docker", "exec", name, "pg_isready", "--quiet", "--host=127.0.0.1"]
    while not programs.capture(argv)[0].ok:
        state = docker("inspect", "--type=container", "--format={{.State.Status}}", name).strip()
        if state != "running" or time.monotonic() > deadline:
            raise DockerError(
                f"drill: the throwaway container is {state} and takes no connections{_said(name)}, "
                "expected it to run a server",
                hint="docker info; df -h   # or set drill.where to cluster",
            )
        stop.rest(0.2)


def _said(name: str) -> str:
    """Return the last line that a container said, redacted; nothing of a set has come into it yet."""
    ended, out = programs.capture(["docker", "logs", "--tail=5", name], timeout_s=DOCKER_ANSWERS_S)
    line = next((each for each in reversed([*wording.lines(out), *ended.said]) if each.strip()), "")
    return f" ({journal.redacted(line.strip())})" if line.isprintable() and line else ""
