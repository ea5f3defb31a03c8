"""What the integration tests share: a site, the command run as an admin runs it, fakes, and what is on disk."""

import contextlib
import hashlib
import json
import os
import platform
import pty
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dental_pms_backup.live.postgres import OnHost

TREE = Path(__file__).resolve().parents[2]
PROGRAMS = Path("/usr/lib/postgresql")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
JOURNAL = Path("/run/systemd/journal")
CANARIES = ("canary-patient-4711", "hash-canary-7f3a", "SCRAM-SHA-256$")
NEVER_BOUNDED = ("dac_override", "dac_read_search")
SET_FILES = re.compile(r"(db/[^.].*|sets/[^.].*|attachments_.*)")
ENDS_WITHIN_S = 180
PORTS = {"trixie": (21_000, 21_100), "bookworm": (22_000, 22_100)}  # both have the network of the host
HEEDS_SIGNALS = ["env", "--default-signal=INT,HUP"]  # a background job of a script inherits them as ignored

Setting = str | int | bool | Mapping[str, str] | list[str] | None
Disk = dict[str, tuple[int, int, int, str]]
Ran = subprocess.CompletedProcess[str]


def bin_dir() -> Path:
    """Return the directory of the newest PostgreSQL installed, which is the server's and the default client's."""
    return max((path.parent for path in PROGRAMS.glob("*/bin/initdb")), key=lambda path: int(path.parts[-2]))


def major() -> int:
    return int(bin_dir().parts[-2])


def release() -> str:
    """Return the code name of the Debian release that the tests run on."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def environment(**more: str) -> dict[str, str]:
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **more}


@dataclass(slots=True, kw_only=True)
class Site:
    """A practice's machine in a directory: its configuration file, its attachments, its store and its server."""

    place: Path
    server: OnHost
    settings: dict[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = {
            "backup_dir": str(self.store),
            "retry.attempts": 1,
            "retry.wait_s": 0,
            "database.source": "native",
            "database.lock_wait_s": 1,
            "database.others": "ignore",  # the tests' own, side by side on one server
            "native.host": self.server.host,
            "native.user": self.server.user,
            "native.run_as": self.server.run_as or "postgres",
            "native.database": self.server.database,
            "attachments.path": str(self.attachments),
            "drill.directory": str(self.place),
            "application.table": None,  # the practice has no such table
        }
        self.configure()

    @property
    def store(self) -> Path:
        return self.place / "store"

    @property
    def attachments(self) -> Path:
        return self.place / "attachments"

    @property
    def config(self) -> Path:
        return self.place / "backup.yaml"

    def configure(self, changes: Mapping[str, Setting] | None = None) -> None:
        """Change keys, None takes one away, and write the configuration file."""
        for name, value in (changes or {}).items():
            self.settings.pop(name, None)
            if value is not None:
                self.settings[name] = value
        lines = []
        for name, value in sorted(self.settings.items(), key=lambda item: ("." in item[0], item[0])):
            section, _, leaf = name.rpartition(".")
            if section and f"{section}:" not in lines:
                lines.append(f"{section}:")
            lines.append(f"{'  ' if section else ''}{leaf}: {json.dumps(value)}")  # JSON's scalars are YAML's
        self.config.write_text("\n".join(lines) + "\n")

    def command(self, *words: str) -> list[str]:
        return ["/usr/bin/python3", "-m", "dental_pms_backup", "-c", str(self.config), *words]

    def run(self, *words: str, wrapper: Sequence[str] = (), **variables: str) -> Ran:
        """Run the command to its end; ``variables`` go over the environment."""
        return subprocess.run(
            [*wrapper, *self.command(*words)],
            cwd=TREE,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=ENDS_WITHIN_S,
            check=False,
        )

    @contextlib.contextmanager
    def running(self, *words: str, wrapper: Sequence[str] = (), **variables: str) -> Iterator["subprocess.Popen[str]"]:
        """Run the command while the block lasts; it is killed when it has not ended by then."""
        process = subprocess.Popen(
            [*HEEDS_SIGNALS, *wrapper, *self.command(*words)],
            cwd=TREE,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def takes(self, *words: str, **variables: str) -> str:
        """Take a set, expecting that it succeeds, and return its name."""
        before = set(self.sets())
        done = self.run("run", *words, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("\nbackup_run_status=ok\n")
        (name,) = set(self.sets()) - before
        return name

    def sets(self) -> list[str]:
        return sorted(path.stem for path in self.store.glob("sets/*[0-9].json"))

    def set_files(self) -> Disk:
        """Return what is on disk under names of artefacts, manifests and checksum files."""
        return {name: facts for name, facts in on_disk(self.store).items() if SET_FILES.fullmatch(name)}

    def drafts(self) -> list[str]:
        return [name for name in on_disk(self.store) if Path(name).name.startswith(".") and Path(name).name != ".lock"]

    def fake(self, program: str, body: str) -> None:
        """Put a client program of PostgreSQL in place of the real one; ``$real`` is that one.

        What asks its version gets the true one.
        """
        real = bin_dir()
        fakes = self.place / "clients"
        shutil.rmtree(fakes, ignore_errors=True)
        fakes.mkdir(mode=0o755)
        for name in ("psql", "pg_dump", "pg_dumpall"):
            (fakes / name).symlink_to(real / name)
        (fakes / program).unlink()
        answer = f'real={real / program}\ncase "$*" in *--version*) exec "$real" --version ;; esac\n'
        executable(fakes / program, answer + body)
        self.configure({"native.bin_dir": str(fakes)})

    def mend(self) -> None:
        """Take the fake client away."""
        self.configure({"native.bin_dir": None})

    def fake_on_path(self, program: str, body: str) -> str:
        """Make a fake program and return a PATH on which it comes first; ``$real`` is the real one."""
        fakes = self.place / "fakes"
        fakes.mkdir(mode=0o755, exist_ok=True)
        executable(fakes / program, f"real={shutil.which(program, path=PATH)}\n{body}")
        return f"{fakes}:{PATH}"

    def fake_compressor(self, program: str, body: str) -> str:
        """Make a fake compressor, which unpacks as the real one does, and return a PATH on which it comes first."""
        unpacks = 'case " $* " in *" --decompress "*) exec "$real" "$@" ;; esac'
        return self.fake_on_path(program, f"{unpacks}\n{body}")


@contextlib.contextmanager
def at_a_terminal(site: Site, *words: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a command at a terminal while the block lasts, and yield the process and the descriptor to type at."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*HEEDS_SIGNALS, *site.command(*words)],
        cwd=TREE,
        env=environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, ours
        finally:
            process.kill()
    os.close(ours)
    os.close(theirs)


def executable(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


# The argv before a directory, in which it makes others: more of them than calls of Python may be in each other.
IN_EACH_OTHER = ["perl", "-e", "chdir shift or die; for (1 .. 1100) { mkdir 'd' or die; chdir 'd' }"]


def on_disk(directory: Path) -> Disk:
    """Return mode, time, size and checksum (or target) of every entry below a directory."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = (
            str(path.readlink())
            if path.is_symlink()
            else hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else ""
        )
        found[str(path.relative_to(directory))] = (
            status.st_mode,
            status.st_mtime_ns if content else 0,
            status.st_size if content else 0,
            content,
        )
    return found


def sql(server: OnHost, *statements: str) -> str:
    """Run statements as the server's superuser and return what psql prints."""
    done = as_cluster_user(server, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *(f"-c{text}" for text in statements))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def as_cluster_user(server: OnHost, program: str, *arguments: str, stdin: str = "") -> Ran:
    return subprocess.run(
        [*cluster_user(server), str(bin_dir() / program), *arguments],
        env=environment(**connection(server)),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )


def cluster_user(server: OnHost) -> list[str]:
    user = server.run_as or "postgres"
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]


def connection(server: OnHost) -> dict[str, str]:
    return {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user, "PGDATABASE": server.database}


def dump(server: OnHost) -> list[str]:
    """Return a dump's lines without those that two dumps of equal content may differ in."""
    done = as_cluster_user(server, "pg_dump")
    assert done.returncode == 0, done.stderr
    return without_noise(done.stdout.split("\n"))


def without_noise(lines: list[str]) -> list[str]:
    """Return a dump's lines without those that two dumps of equal content may differ in."""
    noise = re.compile(r"-- Dumped (from|by) |\\(un)?restrict ")
    return [line for line in lines if not noise.match(line)]


@contextlib.contextmanager
def session(server: OnHost, *statements: str) -> Iterator[None]:
    """Keep a session of the application open, in the transaction that the statements began, while the block lasts."""
    with subprocess.Popen(
        [*cluster_user(server), str(bin_dir() / "psql"), "-XAtq"],
        env=environment(**connection(server)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("\n".join(["begin;", *statements, "select 'ready';", ""]))
        process.stdin.flush()
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
        try:
            yield
        finally:
            process.kill()
            wait_until(lambda: process.poll() is not None)


def wait_until(holds: Callable[[], bool], *, within_s: float = 60) -> None:
    awaited(lambda: "yes" if holds() else "", within_s=within_s)


def awaited(asked: Callable[[], str], *, within_s: float = 60) -> str:
    """Return the first answer that is not empty."""
    deadline = time.monotonic() + within_s
    while not (answer := asked()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)
    return answer


def dumps_running(server: OnHost) -> int:
    """Return how many sessions of dumps the server sees: pg_dump's, and the one that holds the sequences for it."""
    return int(sql(server, "select count(*) from pg_stat_activity where application_name like 'dental-pms-backup-%'"))


def clients_of(server: OnHost) -> list[str]:
    """Return the client programs on this machine that a run has started for a server."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            settings = (process / "environ").read_bytes()
            if f"PGHOST={server.host}\0".encode() in settings and b"PGAPPNAME=dental-pms-backup" in settings:
                found.append((process / "cmdline").read_text())
    return found


def processes_about(word: str) -> list[str]:
    """Return the processes with a word in their command line, which a child has of its parent until it is a program."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def of_another_server(manifest: dict[str, Any]) -> None:
    """Change a manifest to what that of another server's database of the same name is."""
    manifest["streams"]["db"]["source"]["system_identifier"] = "4711"


@contextlib.contextmanager
def mounted_tmpfs(directory: Path, size_bytes: int) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def free_port() -> int:
    """Return a port that nobody listens on, of a range in which each release has a half and no client gets its own."""
    for port in range(*PORTS[release()]):
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def resize(directory: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", directory], check=True)


class Journal:
    """A socket where a journal would listen; keeps everything that it is sent."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "socket"))
        self._received: list[bytes] = []
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    @property
    def wrapper(self) -> list[str]:
        """What a command is run by to see this journal at the usual place and no other."""
        JOURNAL.mkdir(parents=True, exist_ok=True)
        script = f'mount --bind "$0" {JOURNAL} && exec "$@"'
        return ["unshare", "--mount", *self._propagation(), "sh", "-c", script, str(self._directory)]

    @staticmethod
    def _propagation() -> list[str]:
        """In a chroot / is no mount point and cannot be made private; the namespace around it has to be already."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return [] if any(line.split()[4] == "/" for line in mounts) else ["--propagation=unchanged"]

    def close(self) -> str:
        """Stop listening, unless that was done, and return all that came."""
        if not self._thread.is_alive():
            return self._text()
        ender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ender.sendto(b"END", str(self._directory / "socket"))
        ender.close()
        self._thread.join()
        self._socket.close()
        return self._text()

    def _text(self) -> str:
        return b"".join(self._received).decode("utf-8", "surrogateescape")

    def _receive(self) -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
            for descriptor in descriptors:
                message += os.pread(descriptor, 1 << 20, 0)
                os.close(descriptor)
            if message == b"END":
                return
            self._received.append(message)


class Argvs:
    """Samples the arguments and, of our own command, nothing else of all processes while the block lasts."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "Argvs":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.002):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self.seen.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))


def signalled(process: "subprocess.Popen[str]", number: signal.Signals, *, within_s: float) -> tuple[int, str, str]:
    """Send a signal and return exit status, stdout and stderr; it has to end within that time."""
    process.send_signal(number)
    out, err = process.communicate(timeout=within_s)
    return process.returncode, out, err
