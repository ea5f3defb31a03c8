"""The practice on a machine: its containers, its database, its attachments; the same bytes every time."""

import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path

from tests.system.machine import RIG, Machine

PROJECT_DIR = "/srv/dental-pms"
PROJECT = "dental-pms"
IMAGE = "dental-pms-rig"
DATABASE = "dental_pms"
USER = "dental"
PASSWORD = "not-a-secret-but-must-never-be-printed"  # noqa: S105
ATTACHMENTS = f"/var/lib/docker/volumes/{PROJECT}_dental_pms_attachments/_data"

# The containers run the other suite's PostgreSQL: the host's client and the server never have one version.
IMAGE_ROOTS = {"trixie": "postgres-bookworm", "bookworm": "postgres-trixie"}
LEFT_OUT_OF_IMAGE = (
    "dev/*",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/lib/*/libLLVM*",
    "var/lib/apt",
    "var/lib/postgresql",
)
IMAGE_SETTINGS = (
    'ENTRYPOINT ["/usr/local/bin/postgres-entrypoint"]',
    'CMD ["postgres"]',
    "ENV PGDATA=/var/lib/postgresql/data",
)


def ensure(machine: Machine) -> None:
    """Put the practice up and fill it, if that has not been done on this machine."""
    if not machine.run(f"docker ps --all --quiet {of_service('db')}").stdout:
        up(machine)
        fill(machine)


def up(machine: Machine) -> None:
    """Put the practice's containers up at /srv/dental-pms: by compose; without it, with compose's labels."""
    bring_project(machine)
    make_containers(machine)


def bring_project(machine: Machine) -> None:
    """Put the practice's image and its compose project there, and make no container yet."""
    import_image(machine, IMAGE_ROOTS[machine.suite])
    machine.write(f"{PROJECT_DIR}/.env", f"POSTGRES_PASSWORD={PASSWORD}\n", mode=0o600)
    machine.write(f"{PROJECT_DIR}/compose.yml", (RIG / "compose.yml").read_text())
    machine.copy_in(RIG / "up-without-compose", f"{PROJECT_DIR}/up")


def make_containers(machine: Machine) -> None:
    """Make the containers; volumes that are there keep their content."""
    make = "docker compose up --detach --wait" if machine.suite == "trixie" else "./up"
    machine.run(f"cd {PROJECT_DIR} && {make}", timeout_s=180)


def put_up_again(machine: Machine) -> None:
    """Bring the containers back from whatever a test did to them, and wait until the database answers."""
    containers = f"{PROJECT}-db-1 {PROJECT}-backend-1"
    machine.run(f"docker unpause {PROJECT}-db-1", check=False)
    if machine.run(f"docker start {containers}", check=False).returncode:
        machine.run(f"docker rm --force {containers}; docker network rm {PROJECT}_default", check=False)
        make_containers(machine)
    wait_until_healthy(machine)


def import_image(machine: Machine, root: str, *, name: str = IMAGE) -> None:
    """Make a container image from a root, with the rig's entry point."""
    origin = (machine.work / "roots" / root).resolve()
    entry_point = RIG / "postgres-entrypoint"
    archive = ["tar", "--create", "--numeric-owner", *(f"--exclude=./{path}" for path in LEFT_OUT_OF_IMAGE)]
    archive += [f"--directory={origin}", "."]
    archive += [
        f"--directory={RIG}",
        f"--transform=s,^{entry_point.name},./usr/local/bin/&,",
        entry_point.name,
    ]
    programs = next(origin.glob("usr/lib/postgresql/*/bin")).relative_to(origin)
    path = f"ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/{programs}"
    settings = [part for setting in (*IMAGE_SETTINGS, path) for part in ("--change", setting)]
    with subprocess.Popen(archive, stdout=subprocess.PIPE) as producer:
        subprocess.run([*machine.entry(), "docker", "import", *settings, "-", name], stdin=producer.stdout, check=True)
    if producer.returncode != 0:
        raise OSError(f"tar: status {producer.returncode}")


def fill(machine: Machine) -> None:
    """Load the sample practice into the containers' database and /data; the containers must be empty."""
    machine.run(
        in_db(f"psql -U {USER} -d {DATABASE} -v ON_ERROR_STOP=1 -q -1"),
        stdin=RIG / "practice.sql",
        timeout_s=300,
    )
    rows = sql(
        machine,
        "SELECT json_agg(json_build_array(storage_key, byte_size) ORDER BY storage_key) FROM attachments",
    )
    data = machine.path(ATTACHMENTS)
    for key, size in json.loads(rows):
        file = data / "attachments" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(hashlib.shake_128(key.encode()).digest(size))
        os.utime(file, (1_700_000_000, 1_700_000_000 + size))
    make_odd_files(data / "odd")
    machine.run(f"cd {ATTACHMENTS}/odd && setfacl -m u:4242:r,g:daemon:rw acl")
    machine.run(f"setfacl -d -m u:4242:rwx {ATTACHMENTS}/odd/empty/default-acl")


def fill_native(machine: Machine) -> None:
    """Load the same database, with the same name and owner, into the machine's own PostgreSQL."""
    psql = "runuser -u postgres -- psql -v ON_ERROR_STOP=1 -q"
    machine.run(f"{psql} -c 'CREATE ROLE {USER} SUPERUSER LOGIN' -c 'CREATE DATABASE {DATABASE} OWNER {USER}'")
    load = f"{psql} -d {DATABASE} -1 -c 'SET SESSION AUTHORIZATION {USER}' -f -"
    machine.run(load, stdin=RIG / "practice.sql", timeout_s=300)


def in_db(command: str, *, options: str = "-i") -> str:
    """Return the command line that runs a command in the `db` container."""
    return f"docker exec {options} $(docker ps --quiet {of_service('db')}) {command}"


def of_service(service: str) -> str:
    """Return the filters by which `docker ps` finds the container of a compose service."""
    labels = (f"project={PROJECT}", f"service={service}", "oneoff=False")
    return " ".join(f"--filter label=com.docker.compose.{label}" for label in labels)


def wait_until_healthy(machine: Machine) -> None:
    """Wait until the `db` container's PostgreSQL takes connections; "healthy" docker may say of the one before."""
    state = "docker inspect --format '{{.State.Health.Status}}'"
    query = f"$(docker ps --quiet {of_service('db')})"
    ask = in_db(f"psql -U {USER} -d {DATABASE} -XAtqc 'select 1'", options="")
    healthy = f'[ "$({state} {query})" = healthy ] && {ask} >/dev/null 2>&1'
    machine.run(f"until {healthy}; do sleep 0.2; done", timeout_s=180)


def sql(machine: Machine, query: str, database: str = DATABASE, *, timeout_s: int = 120) -> str:
    """Run a query in the `db` container and return its rows, unaligned."""
    psql = in_db(f"psql -U {USER} -d {database} -v ON_ERROR_STOP=1 -XAtq")
    return machine.run(psql, stdin=query, timeout_s=timeout_s).stdout.strip()


def make_odd_files(directory: Path) -> None:
    """Make every kind of file that a backup is known to trip over."""
    directory.mkdir()
    contents = directory / "plain"
    contents.write_bytes(b"plain\n")
    for name in (
        b"two\nlines",
        b"-rf",
        b"--checkpoint-action=exec=sh",
        b"latin1-\xe9\xff",
        b"n" * 255,
        b" ",
        b"*",
        b"\\x41\\",
        b"'\"$(id)`",
        "zähne-🦷".encode(),
    ):
        Path(os.fsdecode(bytes(directory) + b"/" + name)).write_bytes(name)
    make_links(directory)
    make_special_files(directory)
    make_odd_metadata(directory)


def make_links(directory: Path) -> None:
    """Make hard links and symbolic links, dangling ones, too."""
    (directory / "hard").mkdir()
    (directory / "hard" / "other-name").hardlink_to(directory / "plain")
    for name, target in (
        ("link", "plain"),
        ("dangling", "nowhere"),
        ("loop", "loop"),
        ("to-directory", "hard"),
    ):
        (directory / name).symlink_to(target)


def make_special_files(directory: Path) -> None:
    """Make what is no regular file, and regular files that are no run of bytes."""
    os.mkfifo(directory / "fifo")
    here = os.open(directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as unix:  # the address is bounded to 108 bytes, the directory's may be longer
        unix.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    with (directory / "sparse").open("wb") as sparse:
        sparse.write(b"head")
        sparse.truncate(64 << 20)
        sparse.seek(32 << 20)
        sparse.write(b"middle")
    (directory / "empty-file").touch()
    (directory / "empty" / "nested").mkdir(parents=True)
    (directory / "empty" / "default-acl").mkdir()
    deep = directory.joinpath(*["d" * 100] * 12)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep\n")


def make_odd_metadata(directory: Path) -> None:
    """Make files whose mode, owner, times or attributes are out of the common."""
    names = ("acl", "xattr", "huge-uid", "no-mode", "setuid", "sub-second", "before-1970", "far-future")
    for name in names:
        (directory / name).write_bytes(f"{name}\n".encode())
    os.setxattr(directory / "xattr", "user.dental.tooth", b"\x00\xff48")
    os.chown(directory / "huge-uid", 4_000_000_000, 4_000_000_001)
    (directory / "no-mode").chmod(0)
    os.chown(directory / "setuid", 1000, 1000)
    (directory / "setuid").chmod(0o6751)
    (directory / "empty" / "nested").chmod(0o1777)
    for name, moment_ns in (
        ("sub-second", 1_600_000_000_123_456_789),
        ("before-1970", -86_400_000_000_000 + 5),
        ("far-future", 4_200_000_000_000_000_000),
    ):
        os.utime(directory / name, ns=(moment_ns, moment_ns))
