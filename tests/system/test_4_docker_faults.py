"""The database, its container and the Docker engine fail before a run and in the middle of one."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests import faults as table
from tests.system import admin, compare, faults, practice
from tests.system.machine import Machine

DB = "dental-pms-db-1"
CLUSTER = "/var/lib/docker/volumes/dental-pms_dental_pms_db/_data"
UP = "docker compose --project-directory /srv/dental-pms up --detach db"


@pytest.fixture
def host(practice_machine: Machine) -> Iterator[Machine]:
    """Both machines, with a good set in the store; afterwards the practice is up again, whatever happened to it."""
    faults.make_ready(practice_machine)
    yield practice_machine
    practice_machine.run("systemctl start docker.socket docker.service")
    practice.put_up_again(practice_machine)


def kill(number: str, pattern: str) -> str:
    """Return a command line that signals the processes in containers whose command line begins so."""
    return (
        f"for place in /proc/[0-9]*; do if tr '\\0' ' ' <$place/cmdline | grep --quiet '^{pattern}'"
        f" && grep --quiet docker- $place/cgroup; then kill -{number} ${{place#/proc/}}; fi; done 2>/dev/null; true"
    )


def labelled(number: int, directory: str = practice.PROJECT_DIR) -> str:
    """Return the options that give a container the labels by which compose knows the service `db` of a project."""
    labels = {
        "project": directory.rpartition("/")[2],
        "project.working_dir": directory,
        "service": "db",
        "oneoff": "False",
        "container-number": number,
    }
    return " ".join(f"--label com.docker.compose.{name}={value}" for name, value in labels.items())


# --- before the run


@pytest.mark.sample(3)
@pytest.mark.fault("Database", "before the run, the database's container is")
@pytest.mark.parametrize(
    ("strike", "hint"),
    [("docker stop", UP), ("docker pause", f"docker unpause {DB}"), ("docker rm --force", UP)],
    ids=["stopped", "paused", "removed"],
)
def test_a_container_that_does_not_run_is_temporary_and_the_hint_brings_it_back(
    host: Machine, strike: str, hint: str
) -> None:
    host.run(f"{strike} {DB}")
    said = faults.fails(host, cause="database", status=75)
    assert said.endswith((f"expected one running container\nhint: {hint}", f"expected one that runs\nhint: {hint}"))
    if hint == UP and host.suite == "bookworm":  # without compose
        practice.put_up_again(host)
    else:
        host.run(hint)
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Database", "before the run, the database's container is in a crash loop")
def test_a_container_that_crashes_again_and_again_is_temporary_and_the_hint_shows_why(host: Machine) -> None:
    state = f"docker inspect --format '{{{{.RestartCount}}}} {{{{.State.Status}}}}' {DB}"
    seen = 0

    def has_begun_to_wait() -> bool:
        """Tell whether it has been waiting, from its sixth time on for over six seconds, since a moment ago."""
        nonlocal seen
        before, (count, status) = seen, host.run(state).stdout.split()
        seen = int(count)
        return status == "restarting" and seen > max(before, 5)

    host.run(f"echo 'no_such_setting = on' >>{CLUSTER}/postgresql.conf; docker restart {DB}")
    try:
        admin.wait_for(has_begun_to_wait)
        said = faults.fails(host, cause="database", status=75)
        assert said.endswith(f"\nhint: docker logs --tail 20 {DB}")
        assert "no_such_setting" in host.run(f"docker logs --tail 20 {DB} 2>&1").stdout
    finally:
        host.run(f"sed -i '$d' {CLUSTER}/postgresql.conf; docker restart {DB}")
    faults.recovers(host)


@pytest.mark.fault("Database", "before the run, the docker daemon is stopped")
def test_a_docker_daemon_that_is_stopped_is_temporary_and_named(host: Machine) -> None:
    host.run("systemctl stop docker.socket docker.service")
    said = faults.fails(host, cause="docker", status=75)
    assert said.endswith("\nhint: systemctl status docker.service")
    host.run("systemctl start docker.socket docker.service")
    faults.recovers(host)


@contextmanager
def second_container(host: Machine) -> Iterator[None]:
    """A second container of the service `db`, as `docker compose up --scale db=2` makes it."""
    host.run(f"docker run --detach --name second --network none {labelled(2)} {practice.IMAGE} idle")
    try:
        yield
    finally:
        host.run("docker rm --force second")


@pytest.mark.fault("Database", "before the run, the service db is scaled to two containers")
def test_a_scaled_service_is_refused_since_nobody_said_which_one_is_the_practices(host: Machine) -> None:
    with second_container(host):
        said = faults.fails(host, cause="refused", status=4)
    assert f"is scaled (second, {DB})" in said
    assert "expected one container, the first, to run" in said
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Database", "in the middle of the dump, the service db is scaled to two containers")
def test_a_second_container_in_the_middle_of_the_dump_changes_nothing(host: Machine) -> None:
    with ExitStack() as stack:
        with faults.dump_going_on(host) as run:
            stack.enter_context(second_container(host))
        faults.has_succeeded(run)
    faults.recovers(host)


# --- in the middle of the dump


@pytest.mark.sample(4)
@pytest.mark.fault("Database", "in the middle of the dump, the database's container is")
@pytest.mark.parametrize(
    ("strike", "said_of_it"),
    [
        (f"docker stop {DB}", "(is not running|the server does not answer)"),
        (f"docker kill {DB}", "(is not running|the server does not answer)"),
        (f"docker restart {DB}", "the server (was restarted during the dump|does not answer)"),
        (f"docker rm --force {DB}", "(No such container|the server does not answer)"),
    ],
    ids=["stopped", "killed", "restarted", "removed"],
)
def test_a_container_that_goes_away_under_the_dump_is_temporary(host: Machine, strike: str, said_of_it: str) -> None:
    with faults.dump_going_on(host) as run:
        host.run(strike)
        if "restart" in strike:  # the run asks once, when its dump has ended
            practice.wait_until_healthy(host)
    said = faults.has_failed(run, cause="database", status=75)
    assert re.search(said_of_it, said)  # it is asked at once: a server that starts again may not answer yet
    assert run.events == ["run-started", "stream-failed", "stream-taken", "run-failed"]
    assert said.endswith(f"\nhint: docker logs --tail 20 {DB}")
    practice.put_up_again(host)
    faults.recovers(host)


@pytest.mark.sample(3)
@pytest.mark.fault("Database", "in the middle of the dump, the docker daemon is")
@pytest.mark.parametrize(
    ("strike", "cause"),
    [
        ("systemctl stop docker.socket docker.service", "docker"),
        ("systemctl restart docker.service", "database"),
        ("systemctl kill --signal=KILL docker.service", "database"),
    ],
    ids=["stopped", "restarted", "killed"],
)
def test_a_docker_daemon_that_goes_away_under_the_dump_is_temporary(host: Machine, strike: str, cause: str) -> None:
    with faults.dump_going_on(host) as run:
        host.run(strike)
    faults.has_failed(run, cause=cause, status=75)
    host.run("systemctl start docker.socket docker.service")
    practice.put_up_again(host)
    faults.recovers(host)


@pytest.fixture
def live_restore(host: Machine) -> Iterator[None]:
    """Containers that go on while the docker daemon is restarted; its upgrade on Debian restarts it."""
    reload = "systemctl kill --signal=HUP docker.service; until {}; do sleep 0.1; done; rm /etc/docker/daemon.json"
    for wanted in ("true", "false"):
        host.write("/etc/docker/daemon.json", f'{{"live-restore": {wanted}}}\n')
        host.run(reload.format(f"docker info --format '{{{{.LiveRestoreEnabled}}}}' | grep --quiet {wanted}"))
        if wanted == "true":
            yield


@pytest.mark.thorough
@pytest.mark.fault("Database", "in the middle of the dump, the docker daemon is restarted, with live restore")
@pytest.mark.usefixtures("live_restore")
def test_a_dump_whose_docker_daemon_was_restarted_over_it_is_ended_on_the_server(host: Machine) -> None:
    with faults.dump_going_on(host) as run:
        host.write("/etc/docker/daemon.json", '{"live-restore": true}\n')
        host.run("systemctl restart docker.service")
    said = faults.has_failed(run, cause="docker", status=75)
    assert said.endswith("\nhint: systemctl status docker.service")
    # pg_dump's session was ended; the one that holds names ends by itself once nothing was said in it for a while
    admin.wait_for(lambda: admin.sessions_of_dumps(host) == 0)
    # the clients themselves are left, without a session: dockerd has forgotten their pipes
    host.run(kill("KILL", "[^ ]*pg_dump "))
    host.run(kill("KILL", "[^ ]*psql "))
    faults.recovers(host)


@pytest.mark.sample(2)
@pytest.mark.fault("Database", "in the middle of the dump, all stands still")
@pytest.mark.parametrize(
    ("strike", "mend"),
    [
        (f"docker pause {DB}", f"docker unpause {DB}"),
        ("systemctl kill --signal=STOP docker.service", "systemctl kill --signal=CONT docker.service"),
    ],
    ids=["the container is paused", "the docker daemon hangs"],
)
def test_a_dump_that_stands_still_is_given_up_and_leaves_no_session(host: Machine, strike: str, mend: str) -> None:
    host.write(admin.CONFIG, f"{faults.CONFIG}stall_timeout_s: 5\n")
    try:
        with faults.dump_going_on(host) as run:
            host.run(strike)
        said = faults.has_failed(run, cause="stalled")
    finally:
        host.run(mend)
    assert "db: no byte moved for " in said
    assert "hint: docker ps; " in said
    faults.recovers(host)


END_ITS_SESSION = (
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'dental-pms-backup-%'"
)


@pytest.mark.thorough
@pytest.mark.sample(4)
@pytest.mark.fault("Database", "in the middle of the dump, in the container")
@pytest.mark.parametrize(
    ("strike", "cause", "said_of_it"),
    [
        (
            practice.in_db(f'psql -U {practice.USER} -d {practice.DATABASE} -c "{END_ITS_SESSION}"'),
            "database",
            "the server closed the connection: ",
        ),
        (kill("KILL", "postgres: background writer"), "database", "the server "),
        (kill("QUIT", "postgres *$"), "database", "the server "),
        (kill("KILL", "[^ ]*pg_dump "), "dump", "docker: exit status 137: it said nothing, expected exit status 0"),
    ],
    ids=[
        "pg_terminate_backend ends the session",
        "a process of the server crashes",
        "the server is restarted at once",
        "pg_dump is killed, as when memory runs out",
    ],
)
def test_a_dump_that_is_cut_off_in_the_container_fails(host: Machine, strike: str, cause: str, said_of_it: str) -> None:
    with faults.dump_going_on(host) as run:
        host.run(strike)
    said = faults.has_failed(run, cause=cause, status=1 if cause == "dump" else 75)
    assert f"run failed: db: {said_of_it}" in said
    assert "hint: journalctl --dmesg --grep='killed process'" in said or cause != "dump"
    faults.recovers(host)


# --- migrations

UNTIL_THE_DUMP_WAITS = """
do $$ begin loop
 perform pg_stat_clear_snapshot();
 exit when exists (select from pg_stat_activity where application_name like 'dental-pms-backup-%'
  and wait_event_type = 'Lock');
 perform pg_sleep(0.05);
end loop; end $$;
"""
HELD = "select count(*) from pg_locks where relation = 'migrated'::regclass and mode = 'AccessExclusiveLock'"


@pytest.fixture
def migrated(host: Machine) -> Iterator[str]:
    """A table for a migration."""
    practice.sql(host, "create table migrated as select n, 'row ' || n as text from generate_series(1, 50) n")
    yield "migrated"
    practice.sql(host, "drop table if exists migrated")


def begin_to_migrate(host: Machine, table: str, change: str) -> None:
    """Hold a table, as a migration at night does, until the dump waits for it; then change it and let it go."""
    psql = practice.in_db(f"psql -U {practice.USER} -d {practice.DATABASE} -v ON_ERROR_STOP=1 -q")
    script = f"begin; lock table {table}; {UNTIL_THE_DUMP_WAITS} {change}; commit;"
    host.run(f"{psql} >/dev/null 2>&1 <<'END' &\n{script}\nEND")
    admin.wait_for(lambda: practice.sql(host, HELD) != "0")


@pytest.mark.sample(3)
@pytest.mark.fault("Database", "a migration that the dump waits for")
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("alter table migrated alter n type bigint", "verification"),
        ("truncate migrated; insert into migrated select n, 'new' from generate_series(1, 9) n", "verification"),
        ("drop table migrated", "dump"),
    ],
    ids=["rewrites its table", "empties its table and fills it anew", "drops its table"],
)
def test_a_dump_that_a_migration_made_useless_fails_and_says_so(
    host: Machine, migrated: str, change: str, cause: str
) -> None:
    begin_to_migrate(host, migrated, change)
    said = faults.fails(host, cause=cause)
    assert "public.migrated" in said
    assert re.search(r"\nhint: dental-pms-backup run   # when the migration .*is done$", said)
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Database", "a migration that the dump waits for: adds a column")
def test_a_dump_that_a_migration_took_nothing_from_is_good(host: Machine, migrated: str) -> None:
    begin_to_migrate(host, migrated, "alter table migrated add more int")
    run = faults.begin(host)
    faults.start(host)
    name = faults.has_succeeded(run)
    manifest = json.loads(host.run(f"cat {faults.STORE}/sets/{name}.json").stdout)
    assert manifest["streams"]["db"]["rows"]["public.migrated"] == 50
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Database", "in the middle of the dump, an index is created concurrently")
def test_an_index_that_is_made_under_the_dump_waits_for_it_and_both_succeed(host: Machine, migrated: str) -> None:
    waits = "select count(*) from pg_stat_activity where query like 'create index%' and wait_event_type = 'Lock'"
    index = practice.in_db(
        f'psql -U {practice.USER} -d {practice.DATABASE} -c "create index concurrently on {migrated} (n)"'
    )
    with faults.dump_going_on(host) as run:
        host.run(f"{index} >/dev/null 2>&1 &")
        admin.wait_for(lambda: practice.sql(host, waits) == "1")
    faults.has_succeeded(run)
    valid = "select indisvalid from pg_index where indrelid = 'migrated'::regclass"
    admin.wait_for(lambda: practice.sql(host, valid) == "t")
    faults.recovers(host)


# --- the server's own disk

FULL = "/srv/full"
ROWS = "create table images as select n, repeat(md5(n::text), 30) as pixels from generate_series(1, 12000) n"


@pytest.fixture
def small_disk(host: Machine) -> Iterator[str]:
    """Another practice, whose server has a small disk of its own; the command line of a psql in it."""
    host.run(f"mkdir -p {FULL}/data && mount -t tmpfs -o size=128M tmpfs {FULL}/data")
    host.run(
        f"docker run --detach --name full-db-1 --network none {labelled(1, FULL)} --env POSTGRES_USER=dental"
        f" --env POSTGRES_PASSWORD=full --volume {FULL}/data:/var/lib/postgresql/data {practice.IMAGE}"
    )
    psql = "docker exec full-db-1 psql -U dental -Xqc"
    admin.wait_for(lambda: host.run(f'{psql} "{ROWS}"', check=False).returncode == 0)
    host.write(admin.CONFIG, f"{faults.CONFIG}compose: {{project_dir: {FULL}}}\n")
    host.run(f"rm -r {faults.STORE}")
    admin.took(host, "run")
    host.run(f"{psql} 'checkpoint'; head -c 1G /dev/zero >{FULL}/data/filler", check=False)
    yield psql
    host.run(f"docker rm --force full-db-1; umount {FULL}/data; rm -r {FULL}")


@pytest.mark.thorough
@pytest.mark.fault("Database", "the server's own disk is full")
def test_a_server_on_a_full_disk_is_told_since_no_names_can_be_held_there(host: Machine, small_disk: str) -> None:
    assert "No space left" in host.run(f"{small_disk} '{ROWS.replace('images', 'more')}'", check=False).stderr
    said = faults.fails(host, cause="dump")
    assert "No space left on device" in said
    assert "hint: docker ps; df -h" in said
    host.run(f"rm {FULL}/data/filler")
    faults.recovers(host)


@pytest.mark.fault("Database", "in the middle of the dump, the server stops since its own disk is full")
def test_a_server_that_a_full_disk_stops_under_the_dump_is_temporary(host: Machine, small_disk: str) -> None:
    host.run(f"rm {FULL}/data/filler")
    with faults.dump_going_on(host) as run:
        host.run(f"head -c 1G /dev/zero >{FULL}/data/filler", check=False)
        fill_its_log = (
            "do 'begin for i in 1..9 loop perform pg_switch_wal(); create table t (); drop table t; end loop; end'"
        )
        assert host.run(f'{small_disk} "{fill_its_log}"', check=False).returncode != 0
    faults.has_failed(run, cause="database", status=75)
    host.run(f"rm {FULL}/data/filler; docker start full-db-1")
    admin.wait_for(lambda: host.run(f"{small_disk} 'select 1'", check=False).returncode == 0)
    faults.recovers(host)


# --- the docker client

LYING_DOCKER = '#!/bin/bash\ncase "$*" in {}) {} ;; esac\nexec /usr/bin/docker "$@"\n'


@pytest.mark.sample(4)
@pytest.mark.fault("Database", "the docker client")
@pytest.mark.parametrize(
    ("words", "does", "cause", "status"),
    [
        ("*", "exit 0", "database", 75),
        ("*", "echo success; exit 0", "docker", 75),
        ("exec*", "exit 0", "database", 75),
        ("exec*pg_dump*", "exit 0", "verification", 1),
    ],
    ids=[
        "does nothing with status 0",
        "says that it succeeded and does nothing",
        "does nothing with status 0 when it is to run a program",
        "does nothing with status 0 when it is to run pg_dump",
    ],
)
def test_a_docker_client_that_lies_makes_no_backup(
    host: Machine, words: str, does: str, cause: str, status: int
) -> None:
    host.write("/usr/local/bin/docker", LYING_DOCKER.format(words, does), mode=0o755)
    try:
        faults.fails(host, cause=cause, status=status)
    finally:
        host.run("rm /usr/local/bin/docker")
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Database", "the docker client is not installed")
def test_a_docker_client_that_is_not_installed_is_named_with_its_package(host: Machine) -> None:
    host.run("mv /usr/bin/docker /usr/bin/docker.away")
    try:
        said = faults.fails(host, cause="tool")
    finally:
        host.run("mv /usr/bin/docker.away /usr/bin/docker")
    assert said == "run failed: docker: not found, expected the program on PATH\nhint: apt install docker.io"
    faults.recovers(host)


# --- in the middle of a restore

# in place of whichever unpacks
SLOW = f"""\
#!/bin/bash
grep --quiet '&& cat -- ' /proc/$PPID/cmdline || exec /usr/bin/${{0##*/}} "$@"
set -o pipefail
/usr/bin/${{0##*/}} "$@" | {{ head -c 300000; : >{faults.SLOWLY}.held; while [ -e {faults.SLOWLY} ]; do sleep 0.1; done
    cat
}}
"""
RESTORE = f"{admin.PACKAGE} restore db latest --in-place --yes --no-safety-set"
REPLAYS = "select count(*) from pg_stat_activity where datname like 'dental_pms_restoring_%' and xact_start is not null"
# what is unlogged, a crash of the server empties
DUMPED = practice.in_db(f"pg_dump -U {practice.USER} --no-unlogged-table-data {practice.DATABASE}")
MADE = "select datname from pg_database where datname like 'dental_pms_%'"


@contextmanager
def restore_going_on(host: Machine) -> Iterator[None]:
    """Restore in place, and hold the replay while the block lasts, which begins in the middle of it."""
    for program in ("gzip", "igzip"):
        host.write(f"/usr/local/bin/{program}", SLOW, mode=0o755)
    host.write(faults.SLOWLY, "")
    try:
        host.run(
            f"(PATH=/usr/local/bin:$PATH {RESTORE}; echo $? >/root/status) >/root/restored 2>&1 & rm -f /root/status"
        )
        admin.wait_for(lambda: host.run(f"test -e {faults.SLOWLY}.held", check=False).returncode == 0)
        admin.wait_for(lambda: practice.sql(host, REPLAYS) != "0")
        yield
    finally:
        host.run(f"rm -f {faults.SLOWLY} {faults.SLOWLY}.held /usr/local/bin/gzip /usr/local/bin/igzip")
        admin.wait_for(lambda: host.run("cat /root/status", check=False).returncode == 0, timeout_s=180)


@pytest.mark.sample(4)
@pytest.mark.fault("Database", "in the middle of a restore")
@pytest.mark.parametrize(
    ("strike", "road"),
    [
        (f"docker stop {DB}", "namespace"),
        (f"docker kill {DB}", "namespace"),
        (f"docker restart {DB}", "exec"),
        ("systemctl stop docker.socket docker.service", "exec"),
    ],
    ids=["the container is stopped", "it is killed", "it is restarted", "the docker daemon is stopped"],
)
def test_a_container_that_goes_away_under_a_restore_comes_back_as_it_was(host: Machine, strike: str, road: str) -> None:
    host.write(admin.CONFIG, faults.CONFIG.replace("road: exec", f"road: {road}"))
    practice.sql(host, "create table later as select 1 as id")
    before, began = compare.schema(host, DUMPED), admin.moment(host)
    try:
        with restore_going_on(host):
            host.run(strike)
        said = host.run("cat /root/restored").stdout
        host.run("systemctl start docker.socket docker.service")
        practice.put_up_again(host)
        assert host.run("cat /root/status").stdout in {"1\n", "75\n"}, said
        assert "restore_status" not in said
        assert "Traceback" not in said
        assert compare.schema(host, DUMPED) == before
        left = practice.sql(host, MADE)
        told = admin.events(admin.entries(host, began, matches=f"-t {admin.PACKAGE}"))
        events = [each for each in dict.fromkeys(told) if each != "restore-unfinished"]
        table.saw(status="1 or 75", store="the live database as it was", events=events)
        done = host.run(RESTORE)
        assert "restore_status=ok" in done.stdout
        assert f"database {left} is left of a restore that was cut off" in done.stderr or not left
        assert practice.sql(host, "select to_regclass('later') is null") == "t"
        table.recovered()
    finally:
        practice.sql(host, "drop table if exists later")
        drop = "select format('drop database %I with (force)', datname) from pg_database"
        practice.sql(host, f"{drop} where datname like 'dental_pms_%' \\gexec\n")
        faults.another_database(host)
