"""A sandbox: one program of a drill, run as a system user that owns nothing, with next to nothing of this host in view.

What a dump defines runs in it with every right of its server: it has its own directory, the programs in /usr, and
processes, sockets and a loopback of its own (bubblewrap). Where systemd runs, a transient unit bounds it as well: our
own services may make no namespaces, PID 1 has them made. Nothing in it outlives the drill: kernel or PID 1 ends all of
it when this process is gone, be it killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DatabaseError, RefusedError, TemporaryError, ToolMissingError
from dental_pms_backup.host import client_cage, programs, stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

USER = "dental-pms-drill"
BEGINS_WITHIN_S = 30
ENDS_WITHIN_S = 30
SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
MIB = 1 << 20
LONGEST_LINE_BYTES = 1000
# For each process, and of processes and threads for the user: a server and the few sessions of a drill need far less.
LIMITS = (f"--as={4096 * MIB}", f"--fsize={2048 * MIB}", "--nofile=4096", "--core=0")
MOST_PROCESSES = "--nproc=400"
# For all of the sandbox together, where systemd runs. What is read and written is cached beyond that.
BOUNDS = ("MemoryMax=2G", "MemorySwapMax=0", "TasksMax=400", "CPUWeight=20", "IOWeight=20")
OF_ROOT = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Debian keeps the dictionaries of text search, which hunspell's packages bring, outside of /usr.
SEEN = ("/etc/ld.so.cache", "/etc/localtime", "/var/cache/postgresql/dicts")
MADE = ("/etc", "/var", "/var/cache", "/var/cache/postgresql")
# What bubblewrap needs, and drops: the program in the sandbox has none. No RestrictSUIDSGID=, it takes openat2 away.
CAPABILITIES = "CAP_SYS_ADMIN CAP_NET_ADMIN CAP_SETPCAP CAP_SETUID CAP_SETGID CAP_DAC_READ_SEARCH"
HARDENED = (
    f"CapabilityBoundingSet={CAPABILITIES}",
    "NoNewPrivileges=yes",
    "SystemCallFilter=@system-service @mount",
    "SystemCallErrorNumber=EPERM",
    "SystemCallArchitectures=native",
    "RestrictNamespaces=cgroup ipc mnt net pid uts",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "RestrictRealtime=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "DevicePolicy=closed",
    "KillMode=control-group",
    "KillSignal=SIGKILL",
    "LogLevelMax=warning",
)
# "$1" is the file that gets the process of the sandbox, "$@" from "$2" on bubblewrap and its arguments.
REMEMBERED = 'info=$1; shift; exec "$@" 3>"$info" 2>&1'
# The same in a unit, whose first process reads a pipe that this process alone holds open, and ends with its end.
ALIVE_WITH_US = 'exec <"$1" >>"$2" 2>&1; info=$3; shift 3; "$@" 3>"$info" </dev/null & exec cat'


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A program that runs in a sandbox. ``process`` is a descriptor that can be read when all of it has ended."""

    inside: Path
    process: int
    number: int

    @property
    def has_ended(self) -> bool:
        """Tell whether it has ended."""
        return _ended(self.process, 0)

    @contextlib.contextmanager
    def root(self) -> Iterator[str]:
        """Open the root directory that the program in the sandbox has; a path to it while the block lasts.

        DatabaseError when it has ended.
        """
        try:
            descriptor = os.open(f"/proc/{self.number}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise DatabaseError(
                f"drill: the sandbox cannot be entered: {error.strerror}, expected the right to enter it",
                hint="systemctl cat dental-pms-backup-drill.service   # CAP_SYS_PTRACE and CAP_SYS_CHROOT are needed",
            ) from None
        try:
            _check_same(descriptor, self.inside)
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)


def check() -> None:
    """Raise BackupError unless this process can make a sandbox."""
    if os.geteuid() != 0:
        raise RefusedError(
            "drill: a private cluster runs as a user that owns nothing, and only root can start it so, expected root",
            hint="sudo dental-pms-backup drill",
        )
    user()
    programs.path_of("bwrap")


def user() -> pwd.struct_passwd:
    """Return the system user that programs in a sandbox run as; ToolMissingError without it: never is it another."""
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        raise ToolMissingError(
            f"drill: the system user {USER} is missing, expected the package to have made it",
            hint="systemd-sysusers dental-pms-backup.conf",
        ) from None


def client(root: str, settings: Sequence[str]) -> list[str]:
    """Return the argv before that of a program that asks a server in a sandbox, and may read what anybody has made.

    It runs as the sandbox's user, in its root directory and with the limits of each of its processes, in the cage of
    ``client_cage``: it has no network, and starts no process that could outlive it. ``settings`` are its whole
    environment, NAME=value.
    """
    who = user()
    return ["prlimit", *LIMITS, "--", *client_cage.alone(Path(root), who.pw_uid, who.pw_gid, settings)]


def unit_name(place: Path) -> str:
    """Return the name of the transient unit of the sandbox in a place, where systemd runs."""
    return f"{place.name}.service"


def end_units(prefix: str) -> None:
    """End the transient units whose names begin so: of drills that were killed."""
    if SYSTEMD.is_dir():
        programs.capture(["systemctl", "stop", "--quiet", f"{prefix}*.service"], timeout_s=ENDS_WITHIN_S)


@contextlib.contextmanager
def running(argv: Sequence[str], inside: Path, *, longest_s: float) -> Iterator[Sandbox]:
    """Run a program in a sandbox, of which it may write to one new directory only; all of it ends with the block.

    Its output goes to ``inside`` with the suffix .log, which it cannot see. RefusedError when no sandbox can be made.
    """
    check()
    place, who = inside.parent, user()
    inside.mkdir(mode=0o700)
    os.chown(inside, who.pw_uid, who.pw_gid, follow_symlinks=False)
    _show(place / "passwd", f"{USER}:x:{who.pw_uid}:{who.pw_gid}::/nonexistent:/usr/sbin/nologin\n")
    _show(place / "group", f"{USER}:x:{who.pw_gid}:\n")
    info, log = place / "sandbox.json", inside.with_suffix(".log")
    sandboxed = _argv(argv, inside, who)
    start = _in_unit(sandboxed, info, log, longest_s) if SYSTEMD.is_dir() else _below_us(sandboxed, info, log)
    with contextlib.ExitStack() as afterwards, start:
        number = _first_process(info, log)
        process = os.pidfd_open(number)
        afterwards.callback(_await_end, process)
        yield Sandbox(inside=inside, process=process, number=number)


def _show(path: Path, text: str) -> None:
    """Make a new file that everybody may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)  # whatever the umask


@contextlib.contextmanager
def _below_us(sandboxed: Sequence[str], info: Path, log: Path) -> Iterator[None]:
    with programs.background(["sh", "-c", REMEMBERED, "sh", str(info), *sandboxed], log=log):
        yield


@contextlib.contextmanager
def _in_unit(sandboxed: Sequence[str], info: Path, log: Path, longest_s: float) -> Iterator[None]:
    place = info.parent
    lifeline, unit = place / "lifeline", unit_name(place)
    os.mkfifo(lifeline, 0o600)
    held = os.open(lifeline, os.O_RDWR | os.O_CLOEXEC)
    settings = [*HARDENED, *BOUNDS, f"RuntimeMaxSec={longest_s:.0f}", "UMask=0077", *_shared_directories()]
    words = ["--quiet", "--collect", "--service-type=exec", f"--unit={unit}", "--description=A drill's private cluster"]
    words += [f"--property={setting}" for setting in settings]
    shell = ["sh", "-c", ALIVE_WITH_US, "sh", str(lifeline), str(log), str(info)]
    try:
        started, _ = programs.capture(["systemd-run", *words, "--", *shell, *sandboxed], timeout_s=BEGINS_WITHIN_S)
        if not started.ok:
            said = [str(started), *started.said][-1]
            raise TemporaryError(f"drill: {said}, expected systemd to run a unit", hint="systemctl status")
        yield
    finally:
        os.close(held)
        with stop.deferred():
            programs.capture(["systemctl", "stop", "--quiet", unit], timeout_s=ENDS_WITHIN_S)


def _shared_directories() -> Iterator[str]:
    """Yield what gives a unit our own /tmp and /var/tmp where ours are private ones (systemd.exec(5), PrivateTmp=)."""
    mounts = Path("/proc/self/mountinfo").read_bytes()  # the name of a mount may be no text
    unit = re.search(r"/([^/\n]+\.service)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    if unit and re.search(rb"^\S+ \S+ \S+ \S*/systemd-private-\S* (/var)?/tmp ", mounts, re.MULTILINE):
        yield from (f"JoinsNamespaceOf={unit[1]}", "PrivateTmp=yes")


def _argv(argv: Sequence[str], inside: Path, who: pwd.struct_passwd) -> list[str]:
    as_user = ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups", "--inh-caps=-all"]
    as_user += ["--bounding-set=-all", "--no-new-privs", "--"]
    kept = [word for name in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP") for word in ("--cap-add", name)]
    apart = [f"--unshare-{each}" for each in ("pid", "net", "ipc", "uts", "cgroup-try")]
    return [
        *("prlimit", *LIMITS, MOST_PROCESSES, "--", programs.path_of("bwrap")),
        *(*apart, "--die-with-parent", "--new-session", "--info-fd", "3"),
        *("--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin", "--setenv", "LC_ALL", "C"),
        *("--cap-drop", "ALL", *kept),
        *_view(inside),
        *("--chdir", "/", "--", *as_user, *argv),
    ]


def _view(inside: Path) -> Iterator[str]:
    """Yield the options for what can be seen in the sandbox: nothing of the host but what stands here."""
    yield from ("--perms", "1777", "--size", str(64 * MIB), "--tmpfs", "/tmp")  # noqa: S108 - the sandbox's own
    for directory in sorted({*MADE, *map(str, inside.parents)} - {"/", "/tmp"}):  # noqa: S108 - as above
        yield from ("--perms", "0755", "--dir", directory)
    yield from ("--ro-bind", "/usr", "/usr")
    for name in OF_ROOT:
        path = Path("/") / name
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    for seen in SEEN:
        yield from ("--ro-bind-try", seen, seen)
    for name in ("passwd", "group"):
        yield from ("--ro-bind", str(inside.parent / name), f"/etc/{name}")
    yield from ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(512 * MIB), "--tmpfs", "/dev/shm")  # noqa: S108 - the sandbox's own
    yield from ("--bind", str(inside), str(inside), "--remount-ro", "/")


def _first_process(info: Path, log: Path) -> int:
    """Return the process id of what bubblewrap started, once it says; RefusedError when it does not come so far."""
    deadline = time.monotonic() + BEGINS_WITHIN_S
    while True:
        said = last_line(log)  # asked first: the program in the sandbox may say something, too, but only after that
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int(json.loads(info.read_text())["child-pid"])
        if said or time.monotonic() > deadline:
            raise RefusedError(
                f"drill: no sandbox can be made here ({said or 'bwrap says nothing'})",
                hint="dental-pms-backup config show   # or set drill.where to container",
            )
        stop.rest(0.02)


def last_line(log: Path) -> str:
    """Return the last line that a program in a sandbox, or bubblewrap, said."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LONGEST_LINE_BYTES))
        lines = file.read(LONGEST_LINE_BYTES).decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return said if said.isprintable() else "(not text)"
    return ""


def _check_same(root: int, inside: Path) -> None:
    """Raise DatabaseError unless a directory is the root that a sandbox has: a process id is given anew."""
    try:
        same = os.path.samestat(os.stat(str(inside).lstrip("/"), dir_fd=root), inside.stat())
        outside = os.path.samestat(os.fstat(root), Path("/").stat())
    except OSError:
        same = outside = False
    if not same or outside:
        raise DatabaseError("drill: the sandbox cannot be entered, for it has gone", hint="journalctl -k")


def _await_end(process: int) -> None:
    """Wait until the last process of a sandbox has ended, and close the descriptor."""
    _ended(process, ENDS_WITHIN_S)
    os.close(process)


def _ended(process: int, within_s: float) -> bool:
    look = select.poll()
    look.register(process, select.POLLIN)
    return bool(look.poll(within_s * 1000))
