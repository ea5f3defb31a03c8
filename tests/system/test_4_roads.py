"""The roads into the database's container: each makes the same dump, is told of, and ends when it has to."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from tests import evil_tries
from tests import faults as table
from tests.system import admin, faults, practice
from tests.system.machine import Machine
from tests.system.test_4_docker_faults import DB, kill, labelled
from tests.system.test_7_drill import left_behind

EXEC_ONLY = "/usr/share/doc/dental-pms-backup/examples/docker-exec-only.conf"
SAME = "/srv/same"
IN_IMAGE = "/usr/local/bin"
EVIL = "/evil"
PORT = 7411
ABSTRACT = "evil"
VICTIM = "evil-victim.service"
SERVICE = "evil-service.service"
# Does what it is for after it has tried all that somebody evil might, when one of our sessions starts it.
EVIL_CLIENT = f"""\
#!/usr/bin/perl
my ($name) = $0 =~ m{{([^/]+)$}};
my @arguments = @ARGV;
if (($ENV{{PGAPPNAME}} // '') =~ /^dental-pms-backup/ && -e '{EVIL}/victim' && open my $log, '>>', '{EVIL}/log') {{
    select $log;
    open my $victim, '<', '{EVIL}/victim';
    chomp(@ARGV = ('{EVIL}/numbers', scalar <$victim>, {PORT}, '{ABSTRACT}'));
    do '{EVIL}/evil' or print "evil: $@ $!\\n";
    close $log;
}}
exec "/usr/bin/$name", @arguments;
"""
LISTENERS = f"""\
import signal, socket
service = socket.create_server(("127.0.0.1", {PORT}))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0{ABSTRACT}")
abstract.listen()
signal.pause()
"""
# An image that is started by its own entry point only, which leaves a trace on the host if it sees that.
EVIL_PROJECT = "/srv/evil"
EVIL_TRACE = "/etc/evil-image"
EVIL_BEGINNINGS = {
    "begins": f"#!/bin/sh\n[ ! -d /mnt/etc ] || id >/mnt{EVIL_TRACE}\n"
    f'BEGUN=yes PGDATA=/var/lib/postgresql/data exec {IN_IMAGE}/postgres-entrypoint "$@"\n',
    "initdb": '#!/bin/sh\n[ -n "$BEGUN" ] && exec /usr/lib/postgresql/*/bin/initdb "$@"\n',
}
WITHOUT_SECCOMP = "/usr/lib/python3/dist-packages/seccomp*.so"
CONTENT = r"gzip -dc {}/db/db_{}.sql.gz | grep -v '^\\\(un\)\?restrict ' | sha256sum"


@pytest.fixture
def host(practice_machine: Machine) -> Iterator[Machine]:
    """Both machines, with a good set in the store and no word on the road; afterwards the practice is up again."""
    faults.make_ready(practice_machine)
    practice_machine.write(admin.CONFIG, faults.AUTO_CONFIG)
    yield practice_machine
    practice.put_up_again(practice_machine)


def take(host: Machine) -> str:
    """Start the service, which has to succeed, and return the set's name."""
    run = faults.begin(host)
    assert faults.start(host) == 0
    return faults.has_succeeded(run)


def road(host: Machine, name: str) -> str:
    """Return which road a set's dump came by, as its manifest says."""
    manifest = json.loads(host.run(f"cat {faults.STORE}/sets/{name}.json").stdout)
    return str(manifest["streams"]["db"]["source"]["road"])


def dumps(host: Machine) -> list[str]:
    """Return the process ids of the dumps that run on a machine, by whatever road."""
    found = host.run(
        "grep --files-with-matches --text -e '[-]-format=plain' /proc/[0-9]*/cmdline 2>/dev/null", check=False
    )
    return [path.split("/")[2] for path in found.stdout.split()]


@contextmanager
def evil_image(host: Machine) -> Iterator[None]:
    """Replace the clients in the database's container, and give the host what they look for, while the block lasts."""
    uid = host.run(f"{practice.in_db('id -u postgres')}").stdout.strip()
    numbers = host.run(f"/usr/bin/python3 - {' '.join(evil_tries.calls())}", stdin=evil_tries.NUMBERS).stdout
    host.write("/root/evil-listeners", LISTENERS)
    host.run(
        f"systemd-run --quiet --unit={VICTIM} --uid={uid} sleep infinity;"
        f"systemd-run --quiet --unit={SERVICE} python3 /root/evil-listeners"
    )
    try:
        admin.wait_for(lambda: host.run(f"grep -w @{ABSTRACT} /proc/net/unix", check=False).returncode == 0)
        victim = host.run(f"systemctl show --property=MainPID --value {VICTIM}").stdout
        for path, content in (
            ("numbers", numbers),
            ("evil", evil_tries.EVIL.read_text()),
            ("client", EVIL_CLIENT),
            ("victim", victim),
        ):
            put = f"'mkdir -p {EVIL} && chmod 777 {EVIL} && cat >{EVIL}/{path} && chmod 755 {EVIL}/{path}'"
            host.run(practice.in_db(f"sh -c {put}", options="-i --user root"), stdin=content)
        for name in ("psql", "pg_dump", "pg_dumpall"):
            host.run(practice.in_db(f"cp {EVIL}/client {IN_IMAGE}/{name}", options="--user root"))
        yield
    finally:
        gone = f"rm -rf {EVIL} {IN_IMAGE}/psql {IN_IMAGE}/pg_dump {IN_IMAGE}/pg_dumpall"
        host.run(practice.in_db(gone, options="--user root"), check=False)
        host.run(f"systemctl stop {VICTIM} {SERVICE}")


@pytest.mark.fault(
    "Somebody evil", "the image's own programs try to reach processes, services and the kernel of the host"
)
@pytest.mark.parametrize("way", ["in the service", "by hand"])
def test_programs_of_an_evil_image_reach_nothing_of_the_host(host: Machine, way: str) -> None:
    run = faults.begin(host)
    with evil_image(host):
        if way == "by hand":
            admin.took(host, "run")
        else:
            assert faults.start(host) == 0
        said = host.run(practice.in_db(f"cat {EVIL}/log")).stdout
        alive = host.run(f"systemctl is-active {VICTIM} {SERVICE}", check=False).stdout.split()
    assert evil_tries.reached(said) == {}
    assert said.count(f"{evil_tries.SERVICE}: ") >= 5  # each of the clients tried
    assert alive == ["active", "active"]
    assert road(host, faults.has_succeeded(run)) == "namespace"
    faults.recovers(host)


@pytest.mark.fault("Somebody evil", "the host cannot make the cage that the image's own programs run in")
def test_programs_of_an_image_are_not_started_without_the_cage_and_that_is_told_once(host: Machine) -> None:
    run = faults.begin(host)
    host.run(f"mkdir -p /root/away && mv {WITHOUT_SECCOMP} /root/away")
    try:
        assert faults.start(host) == 0
        assert road(host, faults.has_succeeded(run)) == "exec"
        (told,) = [entry for entry in run.told if entry.get("DENTAL_PMS_EVENT") == "road-closed"]
        why = "confine: filter: libseccomp for Python is not installed"
        assert told["MESSAGE"] == f"db: docker exec is taken, which is slower: {why}"
        host.write(admin.CONFIG, f"{faults.AUTO_CONFIG}database: {{road: namespace}}\n")
        said = faults.fails(host, cause="configuration", status=78)
        assert said.startswith(f"run failed: database.road: namespace cannot be taken ({why})")
    finally:
        host.run("mv /root/away/* /usr/lib/python3/dist-packages/")
    host.write(admin.CONFIG, faults.AUTO_CONFIG)
    faults.recovers(host)


def make_image(host: Machine, name: str, changes: Sequence[str], programs: Mapping[str, str]) -> None:
    """Make an image from the practice's, with other settings and more programs."""
    host.run(f"docker create --name {name} {practice.IMAGE}")
    for program, text in programs.items():
        host.write(f"/root/{program}", text, mode=0o755)
        host.run(f"docker cp /root/{program} {name}:{IN_IMAGE}/{program}")
    changed = " ".join(f"--change {shlex.quote(change)}" for change in changes)
    host.run(f"docker commit {changed} {name} {name} && docker rm {name}")


@contextmanager
def served(host: Machine, image: str, options: str) -> Iterator[str]:
    """Run a database of an image while the block lasts, and yield how a statement is run in it; the image goes, too."""
    psql = f"docker exec {image} psql -U {practice.USER} -d {practice.DATABASE} -Xqc"
    user = f"--env POSTGRES_USER={practice.USER} --env POSTGRES_DB={practice.DATABASE} --env POSTGRES_PASSWORD=none"
    try:
        host.run(f"docker run --detach --name {image} --network none {options} {user} {image} postgres")
        admin.wait_for(lambda: host.run(f"{psql} 'create table x as select 1 n'", check=False).returncode == 0)
        yield psql
    finally:
        host.run(f"docker rm --force --volumes {image}; docker image rm {image}")


@pytest.mark.fault("Somebody evil", "the image's PGDATA would mount the host's root directory in a drill's container")
def test_what_an_image_says_of_its_data_mounts_nothing_of_the_host_in_a_drill(host: Machine) -> None:
    changes = ("ENV PGDATA=/mnt,type=bind,source=/", f'ENTRYPOINT ["{IN_IMAGE}/begins"]')
    make_image(host, "evil-image", changes, EVIL_BEGINNINGS)
    store = f"{EVIL_PROJECT}/store"
    config = f"{faults.AUTO_CONFIG}compose: {{project_dir: {EVIL_PROJECT}}}\n"
    try:
        with served(host, "evil-image", labelled(1, EVIL_PROJECT)):
            host.write(admin.CONFIG, config.replace(faults.STORE, store))
            admin.took(host, "run db")
            before, began = admin.files(host, store), admin.moment(host)
            done = admin.dental(host, "drill latest")
            told = admin.events(admin.entries(host, began, matches="SYSLOG_IDENTIFIER=dental-pms-backup"))
            assert host.run(f"ls {EVIL_TRACE}", check=False).stdout == ""
            assert (done.returncode, done.stdout) == (4, "failure=refused\ndrill_status=failed\n"), done
            assert "drill: the image's PGDATA is not a plain path" in done.stderr
            assert left_behind(host) == ""
            assert admin.files(host, store).items() >= before.items()
            table.saw(status=4, cause="refused", store=table.AS_BEFORE, events=told)
    finally:
        host.run(f"rm -rf {EVIL_PROJECT} {EVIL_TRACE}")
    host.write(admin.CONFIG, faults.AUTO_CONFIG)
    faults.recovers(host)


@pytest.mark.fault("Somebody evil", "another container has all labels of the practice's database, from its own image")
def test_a_container_with_the_labels_of_its_image_is_not_taken_for_the_practices(host: Machine) -> None:
    make_image(host, "some-tool", [f"LABEL {labelled(1).replace('--label ', '')}"], {})
    with served(host, "some-tool", ""):
        run = faults.begin(host)
        assert faults.start(host) == 0
        faults.has_succeeded(run)
        (told,) = [entry for entry in run.told if entry.get("DENTAL_PMS_EVENT") == "labels-of-image"]
        assert told["MESSAGE"].startswith("some-tool: does not count as a container of compose, since all labels")
        host.run(f"docker stop {DB}")
        assert "expected one running container\nhint: " in faults.fails(host, cause="database", status=75)
    practice.put_up_again(host)
    faults.recovers(host)


def test_service_takes_the_containers_own_programs_and_says_so(host: Machine) -> None:
    began = admin.moment(host)
    assert road(host, take(host)) == "namespace"
    taken = [
        entry["MESSAGE"] for entry in admin.entries(host, began) if entry.get("DENTAL_PMS_EVENT") == "stream-taken"
    ]
    assert taken[0].endswith(", road namespace)")


@pytest.mark.each_release
@pytest.mark.parametrize("wanted", ["namespace", "exec"])
def test_dump_is_the_same_by_every_road(host: Machine, wanted: str) -> None:
    host.write(admin.CONFIG, f"{faults.AUTO_CONFIG}database: {{road: {wanted}}}\n")
    name = take(host)
    assert road(host, name) == wanted
    dump = practice.in_db(f"pg_dump -U {practice.USER} {practice.DATABASE}")
    live = host.run(f"{dump} | grep -v '^\\\\\\(un\\)\\?restrict ' | sha256sum").stdout
    assert host.run(CONTENT.format(faults.STORE, name)).stdout == live


def test_hosts_programs_dump_a_server_of_their_version_on_its_socket(host: Machine) -> None:
    practice.import_image(host, f"postgres-{host.suite}", name="same")
    host.run(
        f"docker run --detach --name same-db-1 --network none {labelled(1, SAME)} --env POSTGRES_USER=dental"
        " --env POSTGRES_PASSWORD=same same"
    )
    psql = "docker exec same-db-1 psql -U dental -Xqc"
    make = "create table images as select n from generate_series(1, 500) n"
    try:
        admin.wait_for(lambda: host.run(f'{psql} "{make}"', check=False).returncode == 0)
        config = f"{faults.AUTO_CONFIG}compose: {{project_dir: {SAME}}}\nbackup_dir: {SAME}/store\n"
        host.write(admin.CONFIG, config.replace(f"backup_dir: {faults.STORE}\n", "") + "database: {road: socket}\n")
        admin.took(host, "run db")
        shown = json.loads(admin.dental(host, "show latest --json").stdout)
        part = shown["manifest"]["streams"]["db"]
        assert (part["source"]["road"], part["rows"]) == ("socket", {"public.images": 500})
    finally:
        host.run(f"docker rm --force --volumes same-db-1; rm -rf {SAME}")


def test_service_that_may_not_enter_containers_takes_docker_exec(host: Machine) -> None:
    admin.drop_in(host, host.run(f"cat {EXEC_ONLY}").stdout)
    assert road(host, take(host)) == "exec"


@pytest.mark.fault("Database", "database.road wants a road that the sandbox closes")
def test_road_that_is_wanted_and_not_allowed_fails_the_run_and_names_the_key(host: Machine) -> None:
    admin.drop_in(host, host.run(f"cat {EXEC_ONLY}").stdout)
    host.write(admin.CONFIG, f"{faults.AUTO_CONFIG}database: {{road: namespace}}\n")
    said = faults.fails(host, cause="configuration", status=78)
    assert "database.road: namespace cannot be taken (" in said
    assert said.endswith("\nhint: editor /etc/dental-pms/backup.yaml   # set database.road to auto")
    host.write(admin.CONFIG, faults.AUTO_CONFIG)
    faults.recovers(host)


@pytest.mark.sample(2)
@pytest.mark.parametrize("wanted", ["namespace", "exec"])
def test_stop_ends_the_dump_at_once(host: Machine, wanted: str) -> None:
    host.write(admin.CONFIG, f"{faults.AUTO_CONFIG}database: {{road: {wanted}, lock_wait_s: 300}}\n")
    with admin.locked_table(host):
        assert faults.start(host, options="--no-block") == 0
        admin.wait_for(lambda: admin.sessions_of_dumps(host) == 2)
        assert dumps(host) != []
        began = time.monotonic()
        host.run(f"systemctl stop {admin.SERVICE}")
        assert time.monotonic() - began < 30
        admin.wait_for(lambda: admin.sessions_of_dumps(host) == 0)
        admin.wait_for(lambda: dumps(host) == [])
    faults.recovers(host)


@pytest.mark.sample(4)
@pytest.mark.fault("Database", "in the middle of a dump by the container's own programs, the container is")
@pytest.mark.parametrize(
    "strike",
    [f"docker stop {DB}", f"docker kill {DB}", f"docker restart {DB}", f"docker rm --force {DB}"],
    ids=["stopped", "killed", "restarted", "removed"],
)
def test_a_container_that_goes_away_under_its_own_programs_is_temporary(host: Machine, strike: str) -> None:
    with faults.dump_going_on(host) as run:
        host.run(strike)
    faults.has_failed(run, cause="database", status=75)
    practice.put_up_again(host)
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Database", "in the middle of a dump by the container's own programs, pg_dump is killed")
def test_a_dump_by_the_containers_own_programs_that_is_killed_fails(host: Machine) -> None:
    with faults.dump_going_on(host) as run:
        (pid,) = dumps(host)
        host.run(f"kill -KILL {pid}")
    said = faults.has_failed(run, cause="dump")
    assert "run failed: db: pg_dump: killed by signal 9: it said nothing, expected exit status 0" in said
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Database", "in the middle of a dump by the container's own programs, the container is paused")
def test_a_container_that_is_paused_under_its_own_programs_is_given_up(host: Machine) -> None:
    host.write(admin.CONFIG, f"{faults.AUTO_CONFIG}stall_timeout_s: 5\n")
    try:
        with faults.dump_going_on(host) as run:
            host.run(f"docker pause {DB}")
        faults.has_failed(run, cause="stalled")
    finally:
        host.run(f"docker unpause {DB}")
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Database", "in the middle of a dump by the container's own programs, a server process crashes")
def test_a_server_that_crashes_under_its_own_programs_is_temporary(host: Machine) -> None:
    with faults.dump_going_on(host) as run:
        host.run(kill("KILL", "postgres: background writer"))
    faults.has_failed(run, cause="database", status=75)
    faults.recovers(host)


@pytest.mark.fault("Database", "in the middle of a dump by the container's own programs, dockerd hangs")
def test_a_docker_daemon_that_hangs_does_not_matter_to_the_containers_own_programs(host: Machine) -> None:
    try:
        with faults.dump_going_on(host) as run:
            host.run("systemctl kill --signal=STOP docker.service")
        faults.has_succeeded(run)
    finally:
        host.run("systemctl kill --signal=CONT docker.service")
    faults.recovers(host)
