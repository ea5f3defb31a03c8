"""Whatever a dump does as the superuser of its copy stays in the drill: in both places, typed or in the unit."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import evil_dump, faults
from tests.evil_dump import Tries, planted
from tests.system import admin, practice
from tests.system.machine import Machine
from tests.system.test_7_drill import left_behind

DRILL = admin.DRILL
USER = "dental-pms-drill"
UIDS = {"trixie": 873, "bookworm": 874}
OURS = "docker ps --quiet --filter label=dental-pms-backup.drill"
DATA = "/var/lib/docker/volumes/dental-pms_dental_pms_db/_data"
HOSTS = ["/etc/shadow", admin.CONFIG, admin.FALLBACK_STORE, DATA]
READ = {"compose": HOSTS, "native": [*HOSTS, "/root", "/home", "/srv", "/run", "/proc/1/root", "/var/lib/postgresql"]}
WRITE = ["/evil", "/etc/evil", "/usr/evil", "/var/tmp/evil", admin.CONFIG, "/usr/bin/psql"]  # noqa: S108 - of the host
LIVE = {"native": ["/run/postgresql/.s.PGSQL.5432"], "compose": list[str]()}
# Waits at a port and at a name, on the host; each who comes leaves a line.
LISTENS = r"""
import socket, threading
def each(s):
    s.listen()
    while True:
        s.accept()[0].close()
        print("connected", flush=True)
tcp = socket.socket(); tcp.bind(("127.0.0.1", 7999)); named = socket.socket(socket.AF_UNIX); named.bind("\0evil-name")
threading.Thread(target=each, args=(tcp,), daemon=True).start(); each(named)
"""


@pytest.fixture(params=["native", "compose"])
def source(request: pytest.FixtureRequest) -> str:
    """Where the practice's database is."""
    return str(request.param)


@pytest.fixture
def host(practice_machine: Machine, source: str) -> Iterator[Machine]:
    """Both machines, with the package as delivered; afterwards nothing evil is in a database."""
    admin.make_ready(practice_machine)
    practice_machine.run(f"systemctl stop {DRILL}; systemctl reset-failed")
    # the kernel counts a user's processes by number, on both machines together
    practice_machine.run(f"usermod --uid {UIDS[practice_machine.suite]} {USER}")
    if source == "native":
        admin.make_native_ready(practice_machine)
        practice_machine.write(admin.CONFIG, admin.NATIVE)
    yield practice_machine
    ask(practice_machine, source, f"drop table if exists {evil_dump.TABLE}; drop function if exists evil(int)")
    practice.put_up_again(practice_machine)


def ask(host: Machine, source: str, statements: str) -> None:
    """Run statements as the superuser of the practice's database."""
    psql = f"psql -d {practice.DATABASE} -v ON_ERROR_STOP=1 -q"
    native = f"cd / && runuser -u postgres -- {psql}"
    host.run(native if source == "native" else practice.in_db(f"{psql} -U {practice.USER}"), stdin=statements)


@contextmanager
def processes(host: Machine) -> Iterator[int]:
    """Listen at two places of the host, and have a process there of the sandbox's user, whose number is given."""
    host.write("/root/listens.py", LISTENS)
    host.run("nohup python3 /root/listens.py >/root/connected 2>&1 & echo $! >/root/listener")
    idle = f"setpriv --reuid={USER} --regid={USER} --clear-groups -- sleep 600"
    host.run(f"nohup {idle} >/dev/null 2>&1 & echo $! >/root/idle")
    try:
        yield int(host.run("cat /root/idle").stdout)
    finally:
        host.run("kill $(cat /root/listener /root/idle)", check=False)


def place(host: Machine, source: str) -> str:
    """Return where the host sees the directory of the throwaway server, once all is tried; nothing before."""
    if source == "native":
        found = "ls -d /var/tmp/dental-pms-drill-*/pg/done /var/tmp/systemd-private-*/tmp/dental-pms-drill-*/pg/done"
    else:
        source_of = "{{range .Mounts}}{{.Source}}{{end}}"
        found = f"ls $(docker inspect --format '{source_of}' $({OURS}))/done"
    return host.run(f"{found} 2>/dev/null", check=False).stdout.strip().removesuffix("/done")


def of_the_user(host: Machine, idle: int) -> str:
    return host.run(f"ps -u {USER} -o pid=,args= | grep -v '^ *{idle} '", check=False).stdout


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "a dump tries to leave its drill")
@pytest.mark.parametrize("how", ["typed", "in the unit"])
def test_a_dump_gets_nowhere(host: Machine, source: str, how: str) -> None:
    with processes(host) as idle:
        tries = Tries(
            read=READ[source],
            write=WRITE,
            unix=["@evil-name", *LIVE[source], "/run/systemd/private", "/run/docker.sock", "/var/run/docker.sock"],
            tcp=[7999],
            pids=[idle],
            bomb=700 if source == "native" else 20,
            bound=400 if source == "native" else 21,
        )
        ask(host, source, planted(tries.script()))
        admin.took(host, "run db")
        start = f"systemctl start {DRILL}" if how == "in the unit" else "dental-pms-backup drill latest"
        host.run(f"nohup sh -c '{start}; echo $?' >/root/drilled 2>&1 &")
        admin.wait_for(lambda: place(host, source) != "")
        directory = place(host, source)
        tried = evil_dump.refused(host.run(f"cat {directory}/tries").stdout)
        assert len(tried) > 20
        host.run(f"touch {directory}/go")
        admin.wait_for(lambda: status_of_the_drill(host) != "")
        assert status_of_the_drill(host) == "0\n", host.run("cat /root/drilled").stdout
        assert admin.sets(host)[-1]["state"] == "proven"
        admin.wait_for(lambda: left_behind(host) == "", timeout_s=30)
        assert of_the_user(host, idle) == ""
        assert host.run("cat /root/connected").stdout == ""
        assert host.run(f"kill -0 {idle} && ls /evil /etc/evil /usr/evil /var/tmp/evil", check=False).stdout == ""
        host.run(f"kill -0 {idle}")
    faults.saw(status=0, store=faults.AS_BEFORE + ", the drilled one proven", events=None)
    faults.recovered("needed nothing")


def status_of_the_drill(host: Machine) -> str:
    """Return the line with its exit status, once it has ended; nothing before."""
    return host.run("grep -x '[0-9][0-9]*' /root/drilled", check=False).stdout


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "a drill is killed, in the unit, under a dump that wants to stay")
def test_nothing_outlives_a_drill_that_is_killed(host: Machine, source: str) -> None:
    with processes(host) as idle:
        ask(host, source, planted(Tries(bomb=20, bound=21).script()))
        admin.took(host, "run db")
        states = [(entry["set"], entry["state"]) for entry in admin.sets(host)]
        host.run(f"systemctl start --no-block {DRILL}")
        admin.wait_for(lambda: place(host, source) != "")
        host.run(f"systemctl kill --signal=KILL --kill-who=main {DRILL}")
        was_killed = {"ActiveState": "failed", "Result": "signal"}
        admin.wait_for(lambda: admin.properties(host, DRILL, *was_killed) == was_killed)
        assert [(entry["set"], entry["state"]) for entry in admin.sets(host)] == states
        if source == "native":
            admin.wait_for(lambda: of_the_user(host, idle) == "", timeout_s=30)
            assert host.run("systemctl list-units --no-legend 'dental-pms-drill-*'").stdout == ""
    faults.saw(status="killed", store=faults.AS_BEFORE, events=None)
    ask(host, source, f"drop table {evil_dump.TABLE}")
    admin.took(host, "run db")
    assert admin.dental(host, "drill latest").returncode == 0
    assert left_behind(host) == ""
    faults.recovered("ok, and proven")
