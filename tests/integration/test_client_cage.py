"""The cage of programs that nobody vouches for: what somebody evil tries in it fails, and PostgreSQL's clients work."""

import contextlib
import dataclasses
import os
import platform
import pwd
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dental_pms_backup.errors import ConfigError
from dental_pms_backup.host import client_cage, programs
from dental_pms_backup.live import postgres
from dental_pms_backup.live.server import InContainer, Inside, Login, OnHost
from tests import evil_tries
from tests.integration.support import PATH, alive, connection, dump, environment, wait_until, without_noise

pytestmark = pytest.mark.each_release

USER = 4711
SETTINGS = (f"PATH={PATH}", "LC_ALL=C")
# The call of a 32-bit program, in a 64-bit one: getpid by the old gate.
OLD_GATE = 'int main(void) { int is; __asm__ volatile ("int $0x80" : "=a"(is) : "a"(20)); return is < 1; }\n'
# Leaves a process behind that has no parent, no file of its parent's and, if it can, a session or group of its own.
LEAVES = """\
use POSIX; $| = 1;
if (my $parent = fork) { waitpid $parent, 0; exit }
if (my $left = fork) { print "$left\\n"; POSIX::_exit(0) }
POSIX::setsid(); setpgrp;
open STDIN, '<', '/dev/null'; open STDOUT, '>', '/dev/null'; open STDERR, '>', '/dev/null';
sleep 600;
"""
X32 = "0x40000000 + 39"  # getpid as x32 numbers it


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """A host that somebody evil wants to reach: a process of the same user, a service, an abstract socket."""

    victim: int
    port: int
    abstract: str

    def evil(self, place: Path) -> list[str]:
        numbers = place / "numbers"
        asked = [sys.executable, "-c", evil_tries.NUMBERS, *evil_tries.calls()]
        numbers.write_text(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
        return ["perl", str(evil_tries.EVIL), str(numbers), str(self.victim), str(self.port), self.abstract]


@contextlib.contextmanager
def surroundings(uid: int) -> Iterator[Surroundings]:
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
    service = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    name = f"evil-{os.getpid()}"
    abstract.bind(f"\0{name}")
    abstract.listen()
    victim = subprocess.Popen([*user, "sleep", "600"])
    try:
        wait_until(lambda: Path(f"/proc/{victim.pid}").stat().st_uid == uid)
        yield Surroundings(victim=victim.pid, port=service.getsockname()[1], abstract=name)
    finally:
        victim.kill()
        victim.wait()
        service.close()
        abstract.close()


def caged(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return run([*client_cage.inside(Path("/"), USER, USER, SETTINGS), *argv])


def run(argv: Sequence[str], *, stdin: int = subprocess.DEVNULL) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        argv, env=environment(LC_ALL="C"), stdin=stdin, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("way", ["in another root directory", "beside a directory"])
def test_whatever_somebody_evil_tries_fails_and_reaches_nobody(way: str, place: Path) -> None:
    inside = way == "in another root directory"
    argv = client_cage.inside(Path("/"), USER, USER, SETTINGS) if inside else client_cage.beside(Path("/"))
    with surroundings(USER if inside else int(client_cage.STRANGER)) as host:
        done = run([*argv, *host.evil(place)])
        assert alive(host.victim)
    assert (done.returncode, done.stderr) == (0, "")
    assert evil_tries.reached(done.stdout) == {evil_tries.SEEN: "done"}  # its /proc is that of the host here


def test_a_program_that_is_alone_starts_no_other_and_no_thread() -> None:
    argv = client_cage.alone(Path("/"), USER, USER, SETTINGS)
    tries = "sub first { fork // return $!; 'done' } print join ', ', first(), system('true'), $!"
    assert run([*argv, "perl", "-e", tries]).stdout == f"{evil_tries.REFUSED}, -1, {evil_tries.REFUSED}"
    thread = "import threading; threading.Thread(target=print, args=('started',)).start()"
    done = run([*argv, sys.executable, "-c", thread])
    assert (done.stdout, "can't start new thread" in done.stderr) == ("", True)


def test_what_somebody_evil_tries_means_something_without_the_cage(place: Path) -> None:
    user = ["setpriv", "--no-new-privs", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
    with surroundings(USER) as host:
        outcomes = evil_tries.outcomes(run([*user, *host.evil(place)]).stdout)
        wait_until(lambda: not alive(host.victim))
    refused = {what for what, outcome in outcomes.items() if outcome == evil_tries.REFUSED}
    assert refused <= evil_tries.NOT_COMPILED
    for what in (
        "a TCP connection",
        "a signal",
        "reading by trace",
        "a process beside its parent",
        "shared memory",
    ):
        assert outcomes[what] == "done"
    for what in (evil_tries.SERVICE, evil_tries.ABSTRACT):  # by then it may be in a network of its own
        assert outcomes[what] in {"done", "Connection refused", "Network is unreachable"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other ways into this kernel are those of x86_64")
@pytest.mark.parametrize("gate", ["x32", "i386"])
def test_call_of_another_architecture_ends_the_program(gate: str, place: Path) -> None:
    if gate == "x32":
        argv = ["perl", "-e", f"exit(syscall({X32}) < 1)"]
    else:
        subprocess.run(["gcc", "-x", "c", "-o", place / "gate", "-"], input=OLD_GATE, text=True, check=True)
        argv = [str(place / "gate")]
    assert caged(argv).returncode == -signal.SIGSYS


def test_program_in_the_cage_has_no_right_and_no_group() -> None:
    argv = [*client_cage.inside(Path("/"), USER, USER, SETTINGS), "cat", "/proc/self/status"]
    done = run(["setpriv", "--groups=0,4,999", "--", *argv])  # as an admin may have some
    told = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert told["Uid"].split() == told["Gid"].split() == [str(USER)] * 4
    assert told["Groups"].split() == []
    assert [int(told[f"Cap{which}"], 16) for which in ("Inh", "Prm", "Eff", "Amb")] == [0, 0, 0, 0]
    assert (told["NoNewPrivs"].strip(), told["Seccomp"].strip()) == ("1", "2")


def test_program_in_the_cage_has_no_open_file_but_its_three() -> None:
    argv = [*client_cage.inside(Path("/"), USER, USER, SETTINGS), "ls", "/proc/self/fd"]
    outside = os.open("/", os.O_RDONLY)
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, pass_fds=[outside])
    finally:
        os.close(outside)
    assert done.stdout.split() == [b"0", b"1", b"2", b"3"]  # the last is the directory that ls reads


def test_program_beside_a_directory_works_in_the_root_directory_and_has_that_one_open() -> None:
    told = run([*client_cage.beside(Path("/etc")), "ls", "-l", "/proc/self/cwd", client_cage.HERE]).stdout
    assert re.findall("-> (.*)", told) == ["/", "/etc"]
    assert run([*client_cage.beside(Path("/etc")), "ls", "/proc/self/fd"]).stdout.split() == ["0", "1", "2", "3", "9"]


def test_environment_of_a_program_in_the_cage_is_what_it_is_given() -> None:
    assert sorted(caged(["env"]).stdout.splitlines()) == sorted(SETTINGS)


def test_program_in_the_cage_dies_with_whoever_started_it(place: Path) -> None:
    words = [*client_cage.inside(Path("/"), USER, USER, SETTINGS), "sleep", "600"]
    script = '"$@" </dev/null & echo $! >"$0"; wait'
    told = place / "pid"
    with subprocess.Popen(["sh", "-c", script, told, *words], env=environment()) as starter:
        wait_until(lambda: told.exists() and told.read_text().strip() != "")
        pid = int(told.read_text())
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        starter.kill()
    wait_until(lambda: not alive(pid))


def test_program_in_the_cage_cannot_start_processes_without_end() -> None:
    (line,) = [line for line in caged(["cat", "/proc/self/limits"]).stdout.splitlines() if "processes" in line]
    assert [int(word) for word in line.split() if word.isdigit()] == [4096, 4096]


def test_whatever_a_program_in_the_cage_started_ends_with_it(place: Path) -> None:
    (place / "leaves").write_text(LEAVES)
    ended, out = programs.capture([*client_cage.inside(Path("/"), USER, USER, SETTINGS), "perl", str(place / "leaves")])
    assert ended.exit_code == 0
    wait_until(lambda: not alive(int(out)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({2: "/nowhere"}, "filter: /nowhere: No such file or directory"),
        ({2: "empty"}, "filter: {place}/empty: not whole"),
        ({2: "short"}, "filter: {place}/short: not whole"),
        ({2: "wrong"}, "filter: Invalid argument"),
        ({4: "/nowhere"}, "/nowhere: No such file or directory"),
        ({5: "0"}, "user 0, group 4711: expected numbers, and never root"),
        ({5: "root"}, "user root, group 4711: expected numbers, and never root"),
    ],
    ids=["no filter", "empty filter", "half a filter", "wrong filter", "no root", "root", "a name"],
)
def test_program_is_not_started_when_anything_fails(change: dict[int, str], said: str, place: Path) -> None:
    for name, content in (("empty", b""), ("short", b"x" * 12), ("wrong", b"\xff" * 16)):
        (place / name).write_bytes(content)
    argv = client_cage.inside(Path("/"), USER, USER, SETTINGS)
    for which, word in change.items():
        argv[which] = str(place / word) if (place / word).exists() else word
    done = run([*argv, "echo", "started"])
    assert (done.returncode, done.stdout, done.stderr) == (125, "", f"confine: {said.format(place=place)}\n")


def test_program_is_not_started_with_a_terminal_to_type_at() -> None:
    controller, terminal = os.openpty()
    try:
        done = run([*client_cage.inside(Path("/"), USER, USER, SETTINGS), "echo", "started"], stdin=terminal)
    finally:
        os.close(controller)
        os.close(terminal)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "confine: standard input or output is a terminal, expected a pipe or a file\n"


@pytest.mark.sample(2)
@pytest.mark.parametrize("cage", [client_cage.inside, client_cage.alone])
@pytest.mark.parametrize("program", ["/usr/bin/pg_dump", "newest"])
def test_dump_is_the_same_in_the_cage(program: str, cage: Callable[..., list[str]], live: OnHost) -> None:
    """By the program itself, and by Debian's wrapper, which is a Perl script."""
    uid = pwd.getpwnam(live.run_as or "postgres").pw_uid
    settings = [*SETTINGS, *(f"{name}={value}" for name, value in connection(live).items())]
    path = str(max(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))) if program == "newest" else program
    done = run([*cage(Path("/"), uid, uid, settings), path])
    assert (done.returncode, done.stderr) == (0, "")
    assert without_noise(done.stdout.split("\n")) == dump(live)


@pytest.mark.parametrize("alone", [False, True])
def test_psql_of_a_container_starts_a_program_unless_it_is_alone(alone: bool, live: OnHost) -> None:
    uid = pwd.getpwnam(live.run_as or "postgres").pw_uid
    settings = (*SETTINGS, "POSTGRES_USER=postgres", "POSTGRES_DB=postgres")
    entry = Inside(root=Path("/"), uid=uid, gid=uid, settings=settings, alone=alone)
    server = InContainer(container_id="c0ffee", name="db-1", image="postgres", entry=entry)
    asked = (
        "-X",
        f"--host={live.host}",
        f"--port={live.port}",
        f"--username={live.user}",
        r"--command=\! echo started",
    )
    psql = str(max(Path("/usr/lib/postgresql").glob("*/bin/psql")))
    assert run(postgres.client(server, psql, *asked, session="s1")).stdout == ("" if alone else "started\n")
    assert run(postgres.client(server, psql, *asked[:-1], "-Atc select 1", session="s1")).stdout == "1\n"


@pytest.mark.parametrize("alone", [False, True])
def test_settings_of_a_container_in_files_are_read_in_the_cage(alone: bool, place: Path) -> None:
    (place / "user").write_text("dental\n")
    (place / "password").write_text(" with space")
    settings = (*SETTINGS, f"POSTGRES_USER_FILE={place}/user", f"POSTGRES_PASSWORD_FILE={place}/password")
    entry = Inside(root=Path("/"), uid=USER, gid=USER, settings=settings, alone=alone)
    server = InContainer(container_id="c0ffee", name="db-1", image="postgres", entry=entry)
    told = run(postgres.client(server, "env", session="s1")).stdout.splitlines()
    assert {"PGUSER=dental", "PGDATABASE=dental", "PGPASSWORD= with space", "PGAPPNAME=s1"} <= set(told)


def test_name_in_a_file_that_only_root_may_read_is_asked_for_and_not_guessed(place: Path) -> None:
    (place / "db").write_text("practice\n")
    (place / "db").chmod(0o600)
    settings = (*SETTINGS, f"POSTGRES_DB_FILE={place}/db")
    entry = Inside(root=Path("/"), uid=USER, gid=USER, settings=settings)
    server = InContainer(container_id="c0ffee", name="db-1", image="postgres", entry=entry)
    with pytest.raises(ConfigError) as raised:
        postgres.examine(server)
    assert raised.value.message.startswith(
        f"database.name: POSTGRES_DB_FILE of container db-1 names the file {place}/db, in which no name can be read"
    )
    named = dataclasses.replace(server, login=Login(database="practice"))
    assert "PGDATABASE=practice\n" in run(postgres.client(named, "env", session="s1")).stdout


def test_port_of_a_server_is_the_one_that_it_notes_itself(live: OnHost) -> None:
    data = postgres.data_directory(live)
    uid = pwd.getpwnam(live.run_as or "postgres").pw_uid
    entry = Inside(root=Path("/"), uid=uid, gid=uid, settings=(*SETTINGS, f"PGDATA={data}", "PGPORT=1"))
    server = InContainer(container_id="c0ffee", name="db-1", image="postgres", entry=entry)
    told = run(postgres.client(server, "env", session="s1")).stdout.splitlines()
    assert f"PGPORT={live.port}" in told


@contextlib.contextmanager
def process_in(root: Path) -> Iterator[Path]:
    """Run a process with that root directory and return the path by which it is entered from outside."""
    script = "import os, sys, signal; os.chroot(sys.argv[1]); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", script, root], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield Path(f"/proc/{process.pid}/root")
        process.kill()


@pytest.mark.parametrize(("target", "found"), [("/inside", "of the container\n"), ("/etc", "")])
def test_link_of_a_container_leads_nowhere_else(target: str, found: str, place: Path) -> None:
    (place / "run").mkdir()
    (place / "inside").mkdir()
    (place / "inside/hostname").write_text("of the container\n")
    (place / "run/postgresql").symlink_to(target)
    with process_in(place) as root:
        argv = [*client_cage.beside(root / "run/postgresql"), "cat", f"{client_cage.HERE}/hostname"]
        done = run(argv)
        said = "" if found else f"confine: {root}/run/postgresql: No such file or directory\n"
    assert (done.stdout, done.stderr) == (found, said)


@pytest.mark.parametrize("program", ["psql", "pg_dump", "pg_dumpall"])
def test_hosts_client_reaches_a_foreign_socket_by_its_directory_only(program: str, live: OnHost) -> None:
    entry = dataclasses.replace(live, run_as=None)
    server = InContainer(container_id="c0ffee", name="db-1", image="postgres", entry=entry)
    words = {"psql": "-XAtqc select 'reached'", "pg_dump": "--schema-only", "pg_dumpall": "--globals-only"}[program]
    argv = postgres.client(server, program, *words.split(" ", 1), session="s1")
    Path(live.host).chmod(0o711)
    try:
        done = run(argv)
    finally:
        Path(live.host).chmod(0o700)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        "^(reached|-- PostgreSQL database dump complete|-- PostgreSQL database cluster dump complete)$",
        done.stdout,
        re.MULTILINE,
    )
