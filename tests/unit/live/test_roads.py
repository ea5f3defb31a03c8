"""Roads into a container: each counts only when the server answers on it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from dental_pms_backup.config.values import Road
from dental_pms_backup.errors import BackupError, ConfigError, DatabaseError
from dental_pms_backup.host import journal
from dental_pms_backup.live import postgres, roads
from dental_pms_backup.live.compose import Container
from dental_pms_backup.live.server import Facts, Inside, Login, OnHost
from dental_pms_backup.restore import databases
from tests.unit.builders import program

PID = 4711
FACTS = Facts(version=150004, database="pms", user="pms", size=1, started="2026-11-01", system="7301")
ANSWERS = f"echo '{json.dumps(dataclasses.asdict(FACTS))}'"
OTHER = f"echo '{json.dumps(dataclasses.asdict(dataclasses.replace(FACTS, system='7302')))}'"
# what the cage does, as far as a user who is no root can: the environment, and the program is found on its PATH
CAGE = """\
case $1 in */filters/confine) ;; *) exit 99 ;; esac
[ -s "$2" ] || exit 98
[ "$3" = root ] || exec 9<"$4" || exit 97
shift 6
while [ "$1" != -- ]; do export "$1"; shift; done
shift
exec "$@"
"""
NO_FILTER = "echo 'confine: filter: Invalid argument' >&2; exit 125"
FAILS = "echo 'psql: error: FATAL: no' >&2; exit 2"


class Site:
    """A container's processes, and the programs by which it is reached."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.processes = place / "proc"
        self.container = Container(
            id="c0ffee",
            name="db-1",
            image="postgres:15",
            service="db",
            project="pms",
            number="1",
            state="running",
            mounts={},
            pid=PID,
            settings=(f"PATH={place}/inside:/usr/bin:/bin",),
        )
        self.process(PID, "999", cgroup="0::/system.slice/docker-c0ffee.scope", children="")
        program(place / "bin", "perl", CAGE)
        (self.processes / str(PID) / "root/var/run/postgresql").mkdir(parents=True)
        self.answers(inside=ANSWERS, by_exec=ANSWERS)

    def process(self, pid: int, uid: str, *, cgroup: str = "", children: str = "") -> None:
        directory = self.processes / str(pid)
        (directory / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
        (directory / "task" / str(pid) / "children").write_text(children)
        (directory / "cgroup").write_text(cgroup)
        (directory / "status").write_text(f"Name:\tpostgres\nUid:\t{uid}\t{uid}\t0\t0\nGid:\t998\t998\t0\t0\n")

    def answers(self, *, inside: str, by_exec: str, on_socket: str = FAILS) -> None:
        program(self.place / "inside", "psql", f"{inside}\n")
        socket = 'case "$*" in *unix_socket*) echo /var/run/postgresql 5432; exit ;; esac'
        program(self.place / "bin", "docker", f"{socket}\n{by_exec}\n")
        for name in ("psql", "pg_dump"):
            (self.place / "host/15/bin").mkdir(parents=True, exist_ok=True)
            program(
                self.place / "host/15/bin",
                name,
                f'echo "$PGHOST $(readlink $PGHOST) $PGUSER" >{self.place}/asked\n{on_socket}\n',
            )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(roads, "PROCESSES", tmp_path / "proc")
    monkeypatch.setattr(postgres, "INSTALLED", tmp_path / "host")
    monkeypatch.setattr(roads, "_told", [])
    return Site(tmp_path)


def test_own_programs_of_the_container_are_the_first_choice(site: Site) -> None:
    server, facts = roads.open_to(site.container, Road.AUTO)
    root = site.processes / "4711/root"
    assert server.entry == Inside(root=root, uid=999, gid=998, settings=site.container.settings)
    assert (server.road, facts) == (Road.NAMESPACE, FACTS)


def test_server_behind_an_init_that_runs_as_root_is_found(site: Site) -> None:
    site.process(PID, "0", cgroup="c0ffee", children="4712 4713 ")
    site.process(4712, "0")
    site.process(4713, "70")
    server, _ = roads.open_to(site.container, Road.AUTO)
    assert isinstance(server.entry, Inside)
    assert server.entry.uid == 70


def test_hosts_programs_on_the_socket_are_the_second_choice(site: Site) -> None:
    site.answers(inside=FAILS, by_exec=ANSWERS, on_socket=ANSWERS)
    server, facts = roads.open_to(site.container, Road.AUTO)
    assert isinstance(server.entry, OnHost)
    assert (server.road, facts) == (Road.SOCKET, FACTS)
    assert (site.place / "asked").read_text() == f"/proc/self/fd/9 {site.processes}/4711/root/var/run/postgresql pms\n"


def test_docker_exec_is_what_remains(site: Site) -> None:
    site.answers(inside=FAILS, by_exec=ANSWERS)
    server, facts = roads.open_to(site.container, Road.AUTO)
    assert (server.road, server.entry, facts) == (Road.EXEC, None, FACTS)


def test_socket_of_another_server_is_not_taken(site: Site) -> None:
    site.answers(inside=FAILS, by_exec=ANSWERS, on_socket=OTHER)
    assert roads.open_to(site.container, Road.AUTO)[0].road is Road.EXEC


@pytest.mark.parametrize("change", ["another container's process", "no process here", "no such process", "root"])
def test_process_that_is_not_the_containers_own_user_is_not_entered(change: str, site: Site) -> None:
    container = site.container
    match change:
        case "another container's process":
            site.process(PID, "999", cgroup="0::/system.slice/docker-decaf.scope")
        case "no process here":
            container = dataclasses.replace(container, pid=0)
        case "no such process":
            container = dataclasses.replace(container, pid=1)
        case _:
            site.process(PID, "0", cgroup="c0ffee")
    assert roads.open_to(container, Road.AUTO)[0].road is Road.EXEC


@pytest.mark.parametrize("wanted", [Road.NAMESPACE, Road.SOCKET])
def test_road_that_is_wanted_and_cannot_be_taken_is_told(wanted: Road, site: Site) -> None:
    site.answers(inside=FAILS, by_exec=ANSWERS)
    with pytest.raises(ConfigError) as raised:
        roads.open_to(site.container, wanted)
    assert raised.value.message.startswith(f"database.road: {wanted} cannot be taken (db: the server does not answer")
    assert raised.value.hint == "editor /etc/dental-pms/backup.yaml   # set database.road to auto"


def test_programs_of_an_image_are_not_started_without_a_cage_and_that_is_told_once(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    program(site.place / "bin", "perl", NO_FILTER)
    site.answers(inside=ANSWERS, by_exec=ANSWERS, on_socket=ANSWERS)
    journal.show(journal.Echo.WARNINGS)
    assert roads.open_to(site.container, Road.AUTO)[0].road is Road.EXEC
    assert roads.open_to(site.container, Road.AUTO)[0].road is Road.EXEC
    reason = "db: the server does not answer: confine: filter: Invalid argument"
    assert capsys.readouterr().err == f"db: docker exec is taken, which is slower: {reason}\n"
    assert not (site.place / "asked").exists()
    with pytest.raises(ConfigError) as raised:
        roads.open_to(site.container, Road.NAMESPACE)
    expected = f"database.road: namespace cannot be taken ({reason}), expected a road that the server answers on"
    assert raised.value.message == expected


def test_name_that_the_servers_user_may_not_read_closes_a_road_and_is_never_a_default(site: Site) -> None:
    file = f"{site.place}/none"
    container = dataclasses.replace(site.container, settings=(*site.container.settings, f"POSTGRES_DB_FILE={file}"))
    assert roads.open_to(container, Road.AUTO)[0].road is Road.EXEC  # as root, where it can be read
    why = (
        f"database.name: POSTGRES_DB_FILE of container db-1 names the file {file}, in which no name can be read, "
        "expected the name of the database"
    )
    with pytest.raises(ConfigError) as raised:
        roads.open_to(container, Road.NAMESPACE)
    assert raised.value.message.startswith(f"database.road: namespace cannot be taken ({why})")
    site.answers(
        inside=ANSWERS, by_exec=f"echo dental-pms-backup: unread: database.name POSTGRES_DB_FILE {file} >&2; exit 78"
    )
    for wanted in Road:
        with pytest.raises(ConfigError) as raised:
            roads.open_to(container, wanted)
        assert raised.value.message == why
    login = Login(database="pms")
    assert roads.open_to(container, Road.AUTO, login=login)[0].road is Road.NAMESPACE


def test_port_on_which_a_server_answers_is_kept_for_commands_that_are_typed(site: Site) -> None:
    answer = json.dumps(dataclasses.asdict(dataclasses.replace(FACTS, port=5433)))
    site.answers(inside=f"echo '{answer}'", by_exec=FAILS)
    server, _ = roads.open_to(site.container, Road.AUTO)
    assert server.login == Login(port=5433)
    assert databases.drop_command(server, "pms", "old") == [
        *("docker", "exec", "db-1", "psql", "--port", "5433", "--username", "pms", "--dbname", "template1"),
        *("--command", 'drop database "old"'),
    ]


def test_road_that_the_sandbox_closes_is_not_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    program(site.place / "bin", "perl", "echo 'confine: chroot /r: Operation not permitted' >&2; exit 125")
    journal.show(journal.Echo.WARNINGS)
    assert roads.open_to(site.container, Road.AUTO)[0].road is Road.EXEC
    assert capsys.readouterr().err == ""


def test_docker_exec_is_taken_when_it_is_wanted(site: Site) -> None:
    assert roads.open_to(site.container, Road.EXEC)[0].road is Road.EXEC


@pytest.mark.parametrize("wanted", list(Road))
def test_server_that_answers_on_no_road_is_worth_a_retry(wanted: Road, site: Site) -> None:
    site.answers(inside=FAILS, by_exec=FAILS)
    with pytest.raises(BackupError) as raised:
        roads.open_to(site.container, wanted)
    assert type(raised.value) is DatabaseError


def test_what_a_container_sees_at_its_mount_is_known_where_its_processes_are(site: Site) -> None:
    mount = site.processes / f"{PID}/root/data"
    mount.mkdir()
    assert roads.seen_at(site.container, Path("/data")) == (mount.stat().st_dev, mount.stat().st_ino)
    assert roads.seen_at(site.container, Path("/other")) is None
    for changed in ({"pid": 0}, {"id": "another"}, {"pid": PID + 1}):
        assert roads.seen_at(dataclasses.replace(site.container, **changed), Path("/data")) is None
