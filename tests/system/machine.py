"""A Debian machine with systemd as PID 1, booted from a root that `rig/roots` made.

machine.py list WORK            the machines of a work directory that run
machine.py shell WORK NAME      a root shell in one of them (or the command that follows)
machine.py install WORK NAME PACKAGE...     apt-get install there; a file X.deb is copied in first
machine.py teardown WORK        ends all of them
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

RIG = Path(__file__).resolve().parent / "rig"
ENVIRONMENT = (
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "TERM=dumb",
    "DEBIAN_FRONTEND=noninteractive",
)
BOOT_TIMEOUT_S = 120
POWER_OFF_TIMEOUT_S = 60
POWER_OFF_SIGNAL = signal.SIGRTMIN + 4  # systemd(1)


class MachineError(Exception):
    """A machine did not boot, or a command in it failed; the text has what it printed."""


class Machine:
    """One machine; WORK/machines/NAME holds its root directory, its console log and its process id."""

    def __init__(self, work: Path, name: str) -> None:
        """Name a machine of a work directory, whether it runs or not."""
        self.work = work.resolve()
        self.name = name
        self.directory = self.work / "machines" / name
        self.root = self.directory / "root"
        self._looked_up: tuple[int | None, int | None] = (None, None)

    def boot(self, suite: str) -> None:
        """Boot a fresh copy of the suite's root; return when every unit has started."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        original = (self.work / "roots" / f"machine-{suite}").resolve()
        subprocess.run(["cp", "--archive", "--reflink=auto", original, self.root], check=True)
        self._settle_root()
        self.boot_again()

    def boot_again(self) -> None:
        """Boot the machine as it was when it ended; return when every unit has started."""
        archives = (self.work / "archives" / self.suite).resolve()
        boot = self._start([str(RIG / "boot"), f"{self.name}-{self.work.name}", str(self.root), str(archives)])
        self._pid_file.write_text(f"{boot}\n")
        self._wait_until_booted(boot)

    def power_off(self) -> None:
        """Shut the machine down as an admin would; kill it when it does not go."""
        boot, leader = self._boot(), self._leader()
        if boot is not None and leader is not None:
            os.kill(leader, POWER_OFF_SIGNAL)
            _wait_for_end(boot, POWER_OFF_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End every process of the machine at once."""
        boot = self._boot()
        if boot is not None:
            leader = self._leader()
            for pid in [leader] if leader else _descendants(boot):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _wait_for_end(boot, POWER_OFF_TIMEOUT_S)

    @property
    def suite(self) -> str:
        """The code name of its Debian release."""
        release = (self.root / "etc/os-release").read_text()
        return next(line.split("=")[1] for line in release.splitlines() if line.startswith("VERSION_CODENAME="))

    def is_running(self) -> bool:
        """Whether it was started, by this process or by another one, and has not ended."""
        return self._boot() is not None

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: str | Path = "",
        timeout_s: int = 120,
        host_network: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a bash command line as root in the machine and return its status and what it printed.

        `stdin` is text, or a file of the host. Bytes that are not UTF-8 are surrogates, both ways. A command
        that takes longer than `timeout_s` is ended and has status 124. Raises MachineError when `check` and
        the status is not 0.
        """
        given = stdin.read_bytes() if isinstance(stdin, Path) else stdin.encode(errors="surrogateescape")
        bounded = ["timeout", "--kill-after=5", str(timeout_s), "bash", "-c", command]
        done = subprocess.run(
            [*self.entry(host_network=host_network), *bounded],
            input=given,
            capture_output=True,
            timeout=timeout_s + 30,
            check=False,
        )
        printed = [output.decode(errors="surrogateescape") for output in (done.stdout, done.stderr)]
        if check and done.returncode != 0:
            raise MachineError(f"{self.name}: {command}: status {done.returncode}\n{''.join(printed)}")
        return subprocess.CompletedProcess(command, done.returncode, *printed)

    def entry(self, *, host_network: bool = False) -> list[str]:
        """Return the argv prefix that runs a program in the machine, optionally with the host's network."""
        leader = self._leader()
        if leader is None:
            raise MachineError(f"{self.name}: not running")
        spaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup"] if host_network else ["--all"]
        return ["nsenter", f"--target={leader}", *spaces, "env", "--ignore-environment", *ENVIRONMENT]

    def path(self, path: str) -> Path:
        """Return where the host sees a file of the machine, its mounts included.

        An absolute symbolic link on the way would be followed in the host's own tree.
        """
        leader = self._leader()
        if leader is None:
            raise MachineError(f"{self.name}: not running")
        return Path(f"/proc/{leader}/root{path}")

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file of the host to the path `target` of the machine, with its mode."""
        shutil.copy(source, self.path(target))

    def copy_out(self, source: str, target: Path) -> None:
        """Copy a file of the machine to the path `target` of the host, with its mode."""
        shutil.copy(self.path(source), target)

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Make a file of the machine, and the directories above it, with this content and mode."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def install(self, *packages: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `apt-get install` in the machine, over the host's network, for names or paths of packages."""
        command = f"apt-get install --yes {' '.join(packages)}"
        return self.run(command, check=check, timeout_s=300, host_network=True)

    def journal(self, *, since: str = "-2min", lines: int = 200) -> str:
        """Return the last entries of the machine's journal, one a line, without dockerd's chatter."""
        shown = f"journalctl --no-pager --output=short-precise --since='{since}'"
        command = f"{shown} | grep --invert-match level=info | tail --lines={lines}"
        return self.run(command, check=False).stdout

    @property
    def _console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def _pid_file(self) -> Path:
        return self.directory / "boot.pid"

    def _settle_root(self) -> None:
        """Give the root what an installed machine has, and let systemd and dockerd start in a container."""
        (self.root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost {self.name}\n::1 localhost\n")
        masked = self.root / "etc/systemd/system/systemd-modules-load.service"
        masked.symlink_to("/dev/null")
        drop_in = self.root / "etc/systemd/system/docker.service.d/rig.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text("[Service]\nEnvironment=DOCKER_ALLOW_IPV6_ON_IPV4_INTERFACE=1\n")

    def _start(self, argv: list[str]) -> int:
        """Start a program that may outlive this one, its output in the console log; return its process id."""
        log = os.open(self._console_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        ends = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=ends, setsid=True)
        os.close(log)
        os.close(null)
        return pid

    def _wait_until_booted(self, boot: int) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < deadline and not _has_ended(boot):
            if self._leader():
                state = self.run(
                    "systemctl is-system-running --wait", check=False, timeout_s=BOOT_TIMEOUT_S
                ).stdout.strip()
                if state in {"running", "degraded"}:
                    return
            time.sleep(0.2)
        console = self._console_log.read_text(errors="replace")
        self.power_off()
        raise MachineError(f"{self.name}: did not boot\n{console}")

    def _boot(self) -> int | None:
        """Return the process id of the machine's `rig/boot`, which ends after the machine."""
        if not self._pid_file.exists():
            return None
        pid = int(self._pid_file.read_text())
        argv = _read(Path(f"/proc/{pid}/cmdline")).split("\0")
        return pid if str(self.root) in argv else None

    def _leader(self) -> int | None:
        """Return the host's process id of the machine's PID 1; all processes are looked through once a boot."""
        boot = self._boot()
        if boot is None:
            return None
        looked_up_for, leader = self._looked_up
        if looked_up_for != boot or leader is None or not _is_first_of_its_namespace(leader):
            leader = next((pid for pid in _descendants(boot) if _is_first_of_its_namespace(pid)), None)
            self._looked_up = boot, leader
        return leader


def machines(work: Path) -> list[Machine]:
    """Return the machines of a work directory that run."""
    found = [Machine(work, directory.name) for directory in sorted(work.glob("machines/*"))]
    return [machine for machine in found if machine.is_running()]


def _descendants(ancestor: int) -> list[int]:
    """Return the ids of the processes below a process, as far as the first one of a process namespace."""
    parents = {int(process.name): _fields(process / "status").get("PPid") for process in Path("/proc").glob("[0-9]*")}
    found = [pid for pid, parent in parents.items() if parent == str(ancestor)]
    return found + [below for pid in found if not _is_first_of_its_namespace(pid) for below in _descendants(pid)]


def _is_first_of_its_namespace(pid: int) -> bool:
    return _fields(Path(f"/proc/{pid}/status")).get("NSpid", "").split()[1:] == ["1"]


def _fields(status: Path) -> dict[str, str]:
    lines = _read(status).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _read(file: Path) -> str:
    """Return a file of /proc, or nothing when its process has ended."""
    try:
        return file.read_text()
    except OSError:
        return ""


def _wait_for_end(pid: int, timeout_s: float) -> None:
    """Wait until a process has ended, or the time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not _has_ended(pid):
        time.sleep(0.1)


def _has_ended(pid: int) -> bool:
    """Whether there is no such process, or only its zombie."""
    return _fields(Path(f"/proc/{pid}/status")).get("State", "Z").startswith("Z")


def _install(machine: Machine, packages: list[str]) -> str:
    """Install packages by name, or from .deb files of the host."""
    files = [Path(package) for package in packages if package.endswith(".deb")]
    for file in files:
        machine.copy_in(file, f"/root/{file.name}")
    names = [f"/root/{Path(package).name}" if package.endswith(".deb") else package for package in packages]
    return machine.install(*names).stdout


def main(argv: list[str]) -> int:
    """Do what the module's docstring says."""
    match argv:
        case ["list", work]:
            for machine in machines(Path(work)):
                print(machine.name)  # noqa: T201  # a command
        case ["shell", work, name, *command]:
            return subprocess.run(
                [*Machine(Path(work), name).entry(), *(command or ["bash", "--login"])], check=False
            ).returncode
        case ["install", work, name, *packages]:
            print(_install(Machine(Path(work), name), packages))  # noqa: T201
        case ["teardown", work]:
            for machine in machines(Path(work)):
                machine.kill()
        case _:
            print(__doc__, file=sys.stderr)  # noqa: T201
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
