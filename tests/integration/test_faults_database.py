"""A run that meets a fault of the database says so, publishes nothing, and the next run succeeds."""

import dataclasses
import fcntl
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from tests.integration.drills import change_manifest
from tests.integration.faults import FAILED, LOCK_ALL, Met, fails, is_suspect, recovers, succeeds
from tests.integration.support import (
    Argvs,
    Journal,
    Site,
    as_cluster_user,
    bin_dir,
    dump,
    dumps_running,
    environment,
    executable,
    free_port,
    major,
    session,
    sql,
    wait_until,
    without_noise,
)

Ended = TypeVar("Ended")


@pytest.mark.sample(9)
@pytest.mark.fault("Database", "pg_dump is broken")
@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ('echo "pg_dump: error: the connection was lost" >&2; exit 1', "dump"),
        ('"$real" "$@" | head -c 20000; exit 1', "dump"),
        ('"$real" "$@" | sed "/PostgreSQL database dump complete/,\\$d"; exit 1', "dump"),
        ('"$real" "$@"; exit 1', "dump"),
        ('"$real" "$@" | head -c 20000; kill -KILL $$', "dump"),
        ('"$real" "$@" | head -c 20000', "verification"),
        ('"$real" "$@" | sed "/PostgreSQL database dump complete/,\\$d"', "verification"),
        ("exit 0", "verification"),
        ('echo "pg_dump: everything is saved"', "verification"),
    ],
    ids=[
        "it fails at its start",
        "it fails in the middle",
        "it fails after the last row",
        "it fails after the completion mark",
        "it is killed",
        "it ends too early with status 0",
        "it leaves out the completion mark with status 0",
        "it does nothing with status 0",
        "it says that it succeeded and does nothing",
    ],
)
def test_a_run_publishes_nothing_when_pg_dump_is_broken(site: Site, body: str, cause: str) -> None:
    site.fake("pg_dump", body)
    fails(site, cause=cause)
    assert site.drafts() == []
    site.mend()
    recovers(site)


@pytest.mark.sample(3)
@pytest.mark.fault("Database", "pg_dumpall is broken")
@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("exit 1", "dump"),
        ('"$real" "$@" | head -c 700; exit 1', "dump"),
        ('"$real" "$@" | head -c 700; kill -KILL $$', "dump"),
        ('"$real" "$@" | head -c 700', "dump"),
        ("exit 0", "verification"),
    ],
    ids=[
        "it fails at its start",
        "it fails in the middle",
        "it is killed",
        "it ends too early with status 0",
        "it does nothing with status 0",
    ],
)
def test_a_run_publishes_nothing_when_pg_dumpall_is_broken(site: Site, body: str, cause: str) -> None:
    site.fake("pg_dumpall", body)
    fails(site, cause=cause)
    site.mend()
    recovers(site)


@pytest.mark.fault("Database", "pg_dump quotes a row in its error")
def test_what_pg_dump_says_is_told_without_the_row_that_it_quotes(site: Site) -> None:
    site.fake(
        "pg_dump",
        'echo "pg_dump: error: query failed: ERROR: broken CONTEXT: COPY patients: canary-patient-4711" >&2; exit 1',
    )
    done = fails(site, cause="dump")
    assert "query failed: ERROR: broken CONTEXT: (left out)" in done.stderr
    site.mend()
    recovers(site)


@pytest.mark.fault("Database", "the database does not exist")
def test_a_missing_database_is_refused_for_good(site: Site) -> None:
    site.configure({"native.database": "nowhere", "retry.attempts": 3})
    done = fails(site, cause="database")
    assert "the server refuses: " in done.stderr
    assert 'database "nowhere" does not exist' in done.stderr
    assert "try 1" not in done.stderr
    site.configure({"native.database": "practice"})
    recovers(site)


@pytest.mark.thorough
def test_a_missing_name_is_refused_for_good_in_another_language(site: Site, live: OnHost) -> None:
    subprocess.run(["localedef", "-i", "de_DE", "-c", "-f", "UTF-8", "de_DE.UTF-8"], check=True)
    sql(live, "alter system set lc_messages = 'de_DE.UTF-8'", "select pg_reload_conf()")
    try:
        wait_until(lambda: sql(live, "show lc_messages") == "de_DE.UTF-8")
        for key, is_one, wrong in (("database", "practice", "nowhere"), ("user", live.user, "nobody_there")):
            site.configure({f"native.{key}": wrong})
            done = fails(site, cause="database")
            assert f">>{wrong}<< existiert nicht" in done.stderr
            assert f"hint: editor /etc/dental-pms/backup.yaml   # set native.{key}" in done.stderr
            site.configure({f"native.{key}": is_one})
    finally:
        sql(live, "alter system reset lc_messages", "select pg_reload_conf()")


@pytest.mark.fault("Database", "no socket is where the server's should be")
def test_a_server_that_is_down_is_temporary_and_tried_again(site: Site) -> None:
    site.configure({"native.host": str(site.place), "retry.attempts": 3})
    done = fails(site, cause="database", status=75)
    assert "the server does not answer" in done.stderr
    assert len(re.findall("; try . of 3, the next in 0 s", done.stderr)) == 2
    site.configure({"native.host": site.server.host})
    recovers(site)


def test_a_set_is_dated_when_its_run_begins_to_take_it_not_when_it_was_typed(site: Site) -> None:
    site.configure({"lock_wait_s": 60})
    with (site.store / ".lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with site.running("run", "db") as process:
            time.sleep(5)
            waited_until = datetime.now(UTC)
            fcntl.flock(lock, fcntl.LOCK_UN)
            process.communicate()
    manifest = json.loads((site.store / f"sets/{site.sets()[-1]}.json").read_text())
    assert datetime.fromisoformat(manifest["taken_at"]) > waited_until - timedelta(seconds=2)


@pytest.mark.fault("Database", "permission denied on a table")
def test_a_table_that_the_role_may_not_read_fails_the_run(site: Site) -> None:
    site.configure({"native.user": "dental_reader"})
    done = fails(site, "db", cause="dump")
    assert "permission denied" in done.stderr
    assert "hint: GRANT pg_read_all_data TO ROLE;" in done.stderr
    site.configure({"native.user": site.server.user})
    recovers(site)


def test_a_role_that_may_only_read_everything_is_enough_for_a_run(site: Site, live: OnHost) -> None:
    sql(live, "create role backup_reader login in role pg_read_all_data bypassrls")
    try:
        site.configure({"native.user": "backup_reader"})
        recovers(site)
    finally:
        sql(live, "drop role backup_reader")


@pytest.mark.fault("Database", "a migration holds a table longer than lock_wait_s")
def test_a_table_that_a_session_holds_fails_the_run_after_the_lock_timeout(site: Site, live: OnHost) -> None:
    with session(live, LOCK_ALL):
        done = fails(site, "db", cause="dump")
    assert "the migration or maintenance that holds a table" in done.stderr
    assert dumps_running(live) == 0
    recovers(site)


@pytest.mark.fault("Database", "the native client is older than the server")
def test_clients_older_than_the_server_are_refused(site: Site) -> None:
    site.fake("pg_dump", "exit 1")
    executable(site.place / "clients/pg_dump", f"echo 'pg_dump (PostgreSQL) {major() - 1}.4'")
    done = fails(site, "db", cause="tool")
    assert f"pg_dump: not installed for PostgreSQL {major()}" in done.stderr
    site.mend()
    recovers(site)


@pytest.mark.fault("Database", "a table's row level security hides rows from the role")
def test_a_role_that_row_level_security_hides_rows_from_fails_the_run(site: Site, live: OnHost) -> None:
    sql(live, "create role half_reader login in role pg_read_all_data")
    try:
        site.configure({"native.user": "half_reader"})
        done = fails(site, "db", cause="dump")
    finally:
        sql(live, "drop role half_reader")
    assert "row-level security" in done.stderr
    site.configure({"native.user": site.server.user})
    recovers(site)


@pytest.mark.fault("Database", "the server has no connection left for the role")
def test_a_server_without_a_free_connection_is_temporary(site: Site, live: OnHost) -> None:
    sql(live, "create role one_session login superuser connection limit 0")
    sql(live, "alter role one_session nosuperuser")
    try:
        site.configure({"native.user": "one_session"})
        done = fails(site, "db", cause="database", status=75)
    finally:
        sql(live, "drop role one_session")
    assert "too many connections" in done.stderr
    site.configure({"native.user": site.server.user})
    recovers(site)


@dataclass(frozen=True, slots=True)
class HeldDump:
    """A dump that has begun and goes no further before it is let go."""

    site: Site
    path: str

    def wait(self) -> None:
        wait_until((self.site.place / "begun").exists)

    def let_go(self) -> None:
        (self.site.place / "go").touch()


@pytest.fixture
def held(site: Site) -> HeldDump:
    """A compressor that takes a little of the dump, says so, and goes on when it is let go."""
    begun, go = site.place / "begun", site.place / "go"
    body = f"head -c 1000 >{site.place}/first; touch {begun}; while [ ! -e {go} ]; do sleep 0.05; done\n"
    body += f'cat {site.place}/first - | "$real" "$@"'
    return HeldDump(site=site, path=site.fake_compressor("igzip", body))


def while_held(held: HeldDump, strike: Callable[[], object], run: Callable[[], Ended]) -> Ended:
    """Strike in the middle of the dump of this run, then let it go on, and return what the run did."""

    def strike_then_let_go() -> None:
        held.wait()
        try:
            strike()
        finally:
            held.let_go()

    striker = threading.Thread(target=strike_then_let_go)
    striker.start()
    try:
        return run()
    finally:
        striker.join()


def fails_while_held(held: HeldDump, strike: Callable[[], object], *, cause: str, status: int) -> Met:
    return while_held(held, strike, lambda: fails(held.site, "db", cause=cause, status=status, PATH=held.path))


def session_pids(live: OnHost) -> list[int]:
    """Return the server's processes of a dump: that of the session which holds names for pg_dump, and pg_dump's."""
    sessions = (
        "select pid from pg_stat_activity where application_name like 'dental-pms-backup-%' order by backend_start"
    )
    return [int(pid) for pid in sql(live, sessions).split()]


def dump_pid(live: OnHost) -> int:
    _, pid = session_pids(live)
    return pid


@pytest.mark.fault("Database", "in the middle of the dump somebody calls")
@pytest.mark.parametrize(
    ("function", "cause", "status", "says"),
    [
        ("pg_terminate_backend", "database", 75, "db: the server closed the connection: pg_dump: "),
        ("pg_cancel_backend", "dump", 1, "canceling statement due to user request"),
    ],
    ids=["pg_terminate_backend", "pg_cancel_backend"],
)
def test_a_dump_that_somebody_ends_in_the_middle_fails_the_run(
    held: HeldDump, live: OnHost, function: str, cause: str, status: int, says: str
) -> None:
    done = fails_while_held(held, lambda: sql(live, f"select {function}({dump_pid(live)})"), cause=cause, status=status)
    assert says in done.stderr
    recovers(held.site)


def test_a_dump_during_which_somebody_ends_the_session_that_holds_names_is_temporary(
    held: HeldDump, live: OnHost
) -> None:
    strike = "select pg_terminate_backend({})"
    done = fails_while_held(held, lambda: sql(live, strike.format(session_pids(live)[0])), cause="database", status=75)
    assert "db: the server closed the connection: " in done.stderr
    recovers(held.site)


@pytest.mark.fault("Database", "the server's process of the dump's session is killed in the middle")
def test_a_server_that_crashes_in_the_middle_is_temporary(held: HeldDump, live: OnHost) -> None:
    fails_while_held(held, lambda: os.kill(dump_pid(live), signal.SIGKILL), cause="database", status=75)
    wait_until(lambda: as_cluster_user(live, "psql", "-Xc", "select 1").returncode == 0)
    recovers(held.site)


@pytest.mark.thorough
@pytest.mark.fault("Database", "pg_dump hangs in the middle and no byte moves any more")
def test_a_dump_that_moves_no_byte_any_more_fails_at_the_stall_timeout(site: Site) -> None:
    site.configure({"stall_timeout_s": 5})
    site.fake("pg_dump", '"$real" "$@" | head -c 20000; exec sleep 60')
    done = fails(site, "db", cause="stalled")
    assert "no byte" in done.stderr
    site.mend()
    recovers(site)


@pytest.mark.fault("Database", "a page of a table is damaged on the server's disk")
def test_a_damaged_page_fails_the_run(site: Site, live: OnHost) -> None:
    sql(live, "checkpoint")
    sql(live, "create database damaged template practice strategy file_copy")
    server = postgres.in_database(live, "damaged")
    try:
        place = sql(server, "select current_setting('data_directory') || '/' || pg_relation_filepath('images')")
        with Path(place).open("r+b") as file:
            file.write(os.urandom(64))
        site.configure({"native.database": "damaged"})
        done = fails(site, "db", cause="dump")
    finally:
        sql(live, "drop database damaged with (force)")
    assert "invalid page" in done.stderr
    site.configure({"native.database": "practice"})
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Database", "a damaged page was read as an empty one")
@pytest.mark.parametrize(
    ("lets", "user", "whose"),
    [
        ("alter database damaged set zero_damaged_pages = on", "postgres", "whoever reads this database"),
        ("alter role dental_app set zero_damaged_pages = on", "postgres", "role dental_app"),
        ("alter system set zero_damaged_pages = on", "backup_reader", "whoever reads this database"),
    ],
    ids=[
        "by a setting of the database",
        "by a setting of one role",
        "by a setting of the server, where the role that dumps is no superuser",
    ],
)
def test_a_set_without_the_rows_of_a_damaged_page_is_suspect(
    site: Site, live: OnHost, lets: str, user: str, whose: str
) -> None:
    sql(live, "checkpoint")
    sql(live, "create database damaged template practice strategy file_copy")
    sql(live, "create role backup_reader login in role pg_read_all_data bypassrls", lets)
    sql(live, "select pg_reload_conf()")
    server = postgres.in_database(live, "damaged")
    try:
        place = sql(server, "select current_setting('data_directory') || '/' || pg_relation_filepath('images')")
        with Path(place).open("r+b") as file:
            file.write(os.urandom(64))
        sql(server, "grant select on images to dental_app")
        sql(dataclasses.replace(server, user="dental_app"), "select count(*) from images")
        site.configure({"native.database": "damaged", "native.user": user})
        change_manifest(site, site.sets()[0], lambda manifest: manifest["streams"]["db"].update(source={}))
        _, done = is_suspect(site)
    finally:
        sql(live, "drop database damaged with (force)", "drop role backup_reader")
        sql(live, "alter role dental_app reset zero_damaged_pages")
        sql(live, "alter system reset zero_damaged_pages")
        sql(live, "select pg_reload_conf()")
    assert f"db: zero_damaged_pages is on for {whose}, expected off" in done.stderr
    site.configure({"native.database": "practice", "native.user": site.server.user})
    recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Database", "a migration wants to drop a table that the dump has not come to")
def test_a_table_that_a_migration_drops_under_the_dump_is_in_it_whole(held: HeldDump, live: OnHost) -> None:
    statements = ("-cset lock_timeout = '300ms'", "-cdrop table teeth")
    refused = []

    def drop() -> None:
        refused.append(as_cluster_user(live, "psql", "-Xq", *statements).stderr)

    name, _ = while_held(held, drop, lambda: succeeds(held.site, "db", PATH=held.path))
    assert "lock timeout" in refused[0]
    manifest = json.loads((held.site.store / f"sets/{name}.json").read_text())
    assert manifest["streams"]["db"]["rows"]["public.teeth"] == 100
    recovers(held.site)


@pytest.mark.fault("Database", "rows are changed and deleted under the dump")
def test_rows_that_change_under_the_dump_are_in_it_as_they_were_at_its_beginning(
    own_database: Site, held: HeldDump
) -> None:
    changes = "update patients set given = 'changed'; delete from images; insert into teeth select 1, 48, 'distal'"
    before = dump(own_database.server)
    name, _ = while_held(
        held, lambda: sql(own_database.server, changes), lambda: succeeds(own_database, "db", PATH=held.path)
    )
    artefact = own_database.store / f"db/db_{name}.sql.gz"
    lines = gzip.decompress(artefact.read_bytes()).decode().split("\n")
    assert without_noise(lines) == before
    sql(own_database.server, "insert into images select id, 1, '' from generate_series(0, 300) id")
    recovers(own_database)


@pytest.fixture
def server_with_passwords(place: Path) -> Iterator[tuple[int, str]]:
    """A server of its own that listens on 127.0.0.1 and wants a password; its port and the password."""
    password = "pass-canary-9c1e:\\x"  # noqa: S105 - of a server that is thrown away
    directory = place / "guarded"
    directory.mkdir(mode=0o700)
    (directory / "password").write_text(password)
    for path in (directory, directory / "password"):
        shutil.chown(path, "postgres", "postgres")
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", "--"]
    data, port = directory / "data", free_port()
    subprocess.run(
        [
            *user,
            bin_dir() / "initdb",
            "-D",
            data,
            "-U",
            "dental",
            "--auth=scram-sha-256",
            "--no-locale",
            "--no-sync",
            f"--pwfile={directory}/password",
        ],
        env=environment(),
        cwd="/",
        stdout=subprocess.DEVNULL,
        check=True,
    )
    subprocess.run(
        [*user, bin_dir() / "postgres", "--single", "-D", data, "postgres"],
        env=environment(),
        cwd="/",
        input=b"create table notes as select 'canary-patient-4711'::text as text\n",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    with subprocess.Popen(
        [
            *user,
            bin_dir() / "postgres",
            "-D",
            data,
            "-p",
            str(port),
            "-k",
            directory,
            "-c",
            "fsync=off",
            "-c",
            "listen_addresses=127.0.0.1",
        ],
        env=environment(),
        cwd="/",
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield port, password
        finally:
            process.send_signal(signal.SIGINT)


def test_a_password_file_opens_a_server_over_tcp_and_the_password_is_told_to_nobody(
    new_site: Site, server_with_passwords: tuple[int, str]
) -> None:
    port, password = server_with_passwords
    file = new_site.place / "pgpass"
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    file.write_text(f"127.0.0.1:{port}:*:dental:{escaped}\n")
    file.chmod(0o600)
    new_site.configure(
        {
            "native.host": "127.0.0.1",
            "native.port": port,
            "native.user": "dental",
            "native.database": "postgres",
            "native.pgpass_file": str(file),
            "retry.attempts": 20,
            "retry.wait_s": 1,
        }
    )
    (new_site.place / "journal").mkdir()
    journal = Journal(new_site.place / "journal")
    sampled = new_site.place / "sampled"
    new_site.fake("pg_dump", f'until [ -e {sampled} ]; do sleep 0.05; done; exec "$real" "$@"')
    try:
        with Argvs() as argvs:
            with new_site.running("run", "-v", wrapper=journal.wrapper) as process:
                wait_until(lambda: any("pg_dump --format=plain" in argv for argv in argvs.seen.copy()))
                sampled.touch()
                out, err = process.communicate(timeout=120)
            file.write_text(f"127.0.0.1:{port}:*:dental:wrong-{escaped}\n")
            wrong = new_site.run("run", "db", "-v", wrapper=journal.wrapper)
    finally:
        told = journal.close()
    assert process.returncode == 0, err
    assert wrong.stdout == FAILED.format("database")
    assert "DENTAL_PMS_EVENT=run-succeeded" in told
    kept = [path.read_text(errors="replace") for path in new_site.store.rglob("*.json*")]
    for text in (out, err, wrong.stdout, wrong.stderr, told, *argvs.seen, *kept):
        assert "canary-9c1e" not in text
