"""A restore in place looks first, keeps what was live twice, and switches in a moment; else nothing has happened."""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator

import pytest

from dental_pms_backup.live import postgres
from tests import faults
from tests.integration.conftest import databases_like
from tests.integration.faults import at_rest, events, filtered, listening
from tests.integration.support import (
    Site,
    as_cluster_user,
    at_a_terminal,
    awaited,
    dump,
    on_disk,
    session,
    signalled,
    sql,
    wait_until,
)
from tests.integration.test_faults_restore import HELD, in_the_middle
from tests.integration.test_restore_new import OF_DATABASE, SETTINGS, beside, printed

CHANGES = ("insert into lines values ('new'), ('newer')", "create table later as select 1 as id")
# What the application does when the safety set's dump is over: it is acknowledged at once, or waits.
MEANWHILE = """"$real" "$@" || exit
acknowledged=${{0%/*}}/../told/acknowledged
asked() {{ PGOPTIONS= PGAPPNAME=application setsid "${{real%/*}}/psql" -XAtq -c "$1"; }}
asked "{said}" >"$acknowledged" 2>&1 &
waits="select 'waits' from pg_stat_activity where application_name = 'application' and wait_event_type = 'Lock'"
until [ -s "$acknowledged" ] || [ -n "$(asked "$waits")" ]; do sleep 0.05; done"""
NO_ROOM = """case "$*" in *--file=-*) sed 's/LC_ALL=C df -Pk/echo x 100 99 1 99% \\/ #/' | "$real" "$@"; exit ;; esac
exec "$real" "$@\""""


def in_place(site: Site, *words: str, **variables: str) -> dict[str, str]:
    done = site.run("restore", "db", *words, "--in-place", CONFIRM="YES", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return printed(done)


class Application:
    """A backend that connects again whenever its connection is lost, and remembers what it saw."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.seen: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work)

    @contextlib.contextmanager
    def at_work(self) -> Iterator["Application"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._thread.join()

    def _work(self) -> None:
        asked = "select (select count(*) from lines), to_regclass('later') is not null, pg_sleep(0.05)\n"
        while not self._ended.is_set():
            done = as_cluster_user(self.site.server, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", stdin=f"{asked};" * 40)
            self.seen += [*done.stdout.splitlines(), *done.stderr.splitlines()]


def test_the_switch_ends_sessions_and_the_application_goes_on_with_the_restored_database(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    sql(site.server, *CHANGES)
    spoilt = dump(site.server)
    with session(site.server, "select count(*) from patients;"), Application(site).at_work() as application:
        wait_until(lambda: "9|t|" in application.seen)
        lines = in_place(site, "latest")
        wait_until(lambda: application.seen[-1] == "7|f|")
    assert dump(site.server) == before
    assert beside(site) == [lines["restore_kept"]]
    assert dump(postgres.in_database(site.server, lines["restore_kept"])) == spoilt
    rows = [line for line in application.seen if re.fullmatch(r"\d+\|[tf]\|", line)]
    assert set(rows) == {"9|t|", "7|f|"}
    assert rows == sorted(rows, reverse=True), "never between"
    told = {line for line in application.seen if line not in rows}
    assert not any("does not exist" in line for line in told)


def test_what_would_be_lost_is_told_by_counts_and_kept_in_a_pinned_set(own_database: Site) -> None:
    site = own_database
    site.configure({"keep": 1})
    wanted = site.sets()[0]
    sql(site.server, *CHANGES, "truncate scans, odd_text")
    spoilt = dump(site.server)
    done = site.run("restore", "db", wanted, "--in-place", "--yes")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("live_has_more=")]
    assert "live_has_more=2 rows of public.lines" in said
    assert "live_has_more=1 rows of public.later" in said
    safety = printed(done)["restore_safety_set"]
    assert set(site.sets()) == {wanted, safety}, "the set that is restored is not rotated away"
    assert (site.store / f"sets/{safety}.pinned").exists()
    assert site.run("verify", safety).returncode == 0
    in_place(site, safety)
    assert dump(site.server) == spoilt
    pinned = {path.stem for path in site.store.glob("sets/*.pinned")}
    sql(site.server, "insert into scans select n, repeat(md5(n::text), 400) from generate_series(1, 300) n")
    taken = site.takes("db")
    assert {path.name[3:-7] for path in site.store.glob("db/db_*")} == {*pinned, taken}, "beside the one that stays"


def test_settings_and_privileges_are_those_of_the_database_that_was_live(own_database: Site) -> None:
    site = own_database
    sql(site.server, *(text.format(site.server.database) for text in SETTINGS))
    before = sql(site.server, OF_DATABASE.format(site.server.database))
    in_place(site, "latest")
    assert sql(site.server, OF_DATABASE.format(site.server.database)) == before


@pytest.mark.thorough
def test_an_empty_database_needs_no_safety_set(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    name = site.server.database
    sql(postgres.in_database(site.server, "postgres"), f'drop database "{name}" with (force)')
    sql(postgres.in_database(site.server, "postgres"), f'create database "{name}"')
    lines = in_place(site, "latest")
    assert lines["restore_safety_set"] == "none, the live database was empty"
    assert dump(site.server) == before
    assert len(site.sets()) == 1
    sql(site.server, "drop schema public cascade", "create schema public", "select lo_from_bytea(0, 'x')")
    assert in_place(site, "latest")["restore_safety_set"] == site.sets()[-1], "a large object is in no table"


def refused(site: Site, *words: str, status: int = 4, **variables: str) -> str:
    before = (dump(site.server), beside(site), site.set_files())
    done = site.run("restore", "db", *words, "--in-place", CONFIRM="YES", **variables)
    assert done.returncode == status, done.stderr
    assert "restore_" not in done.stdout
    assert (dump(site.server), beside(site), site.set_files()) == before
    return done.stderr


def test_without_a_safety_set_nothing_is_touched_unless_that_is_typed(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    site.fake("pg_dump", "exit 1")
    said = refused(site, "latest")
    assert "restore: no safety set of what is live can be taken (db: pg_dump: exit status 1" in said
    assert "hint: mend that; or, if what is live is worth nothing, type the same command with --no-safety-set" in said
    sql(site.server, *CHANGES)
    assert "restore_safety_set" not in in_place(site, "latest", "--no-safety-set")
    assert dump(site.server) == before


@pytest.mark.thorough
def test_a_disk_that_cannot_hold_two_is_told_with_the_way_that_needs_one(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    sql(site.server, *CHANGES)
    site.fake("psql", NO_ROOM)
    said = refused(site, "latest")
    assert "1.0 kB free on the server's disk" in said
    assert f"hint: dental-pms-backup restore db {site.sets()[-1]} --in-place --replace" in said
    said = refused(site, "latest", "--replace")
    assert "is work of the superuser, and the set has objects of others, expected --as-superuser: " in said
    lines = in_place(site, "latest", "--replace", "--as-superuser")
    assert "restore_kept" not in lines
    assert int(lines["restore_rows"]) > 3001, "they were counted"
    assert dump(site.server) == before
    assert beside(site) == []


def test_a_prepared_transaction_is_named_before_anything_is_touched(own_database: Site) -> None:
    site, name = own_database, own_database.server.database
    prepared = """echo '["it''s forgotten", "dental", "2026-11-28T02:30:00"]'; exit"""
    site.fake("psql", f'case "$*" in *pg_prepared_xacts*) {prepared} ;; esac\nexec "$real" "$@"'.replace("''", "'\\''"))
    for words in ((), ("--replace", "--as-superuser")):
        said = refused(site, "latest", *words)
        assert 'db: transaction "it\'s forgotten" of dental, prepared at 2026-11-28T02:30:00, is not ended' in said
        hint = said.partition("hint: ")[2]
        assert re.search(rf"--dbname {name} --command .*rollback prepared .*forgotten.* # commit prepared or", hint)


def test_nothing_that_was_acknowledged_is_lost_between_the_safety_set_and_the_replacement(own_database: Site) -> None:
    site, told = own_database, own_database.place / "told"
    told.mkdir()
    told.chmod(0o777)
    sql(site.server, "select lo_from_bytea(4711, 'letter')")
    site.fake("pg_dump", MEANWHILE.format(said="select 'yes' from lo_put(4711, 0, 'L')"))
    done = site.run("restore", "db", "latest", "--in-place", "--replace", "--as-superuser", CONFIRM="YES")
    assert (done.returncode, (told / "acknowledged").read_text()) == (1, "yes\n"), done.stderr
    assert "(SQLSTATE DP009, the application wrote to a large object after the safety set was begun)" in done.stderr
    assert "the live database is as it was" in done.stderr
    assert sql(site.server, "select convert_from(lo_get(4711), 'UTF8')") == "Letter"
    (told / "acknowledged").unlink()
    site.fake("pg_dump", MEANWHILE.format(said="insert into public.lines values ('meanwhile') returning 'yes'"))
    lines = in_place(site, "latest", "--replace", "--as-superuser")
    assert awaited((told / "acknowledged").read_text) == "yes\n"
    assert sql(site.server, "select count(*) from lines where content = 'meanwhile'") == "1"
    assert site.run("verify", lines["restore_safety_set"]).returncode == 0


@pytest.mark.sample(3)
@pytest.mark.parametrize(("typed", "status"), [("{}", 0), ("yes", 4), ("", 4)])
def test_at_a_terminal_the_name_is_typed_instead_of_a_word(own_database: Site, typed: str, status: int) -> None:
    site = own_database
    before, wanted = dump(site.server), site.sets()[0]
    sql(site.server, *CHANGES)
    with at_a_terminal(site, "restore", "db", "latest", "--in-place") as (process, keyboard):
        os.write(keyboard, typed.format(site.server.database).encode() + b"\n")
        _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    asked = f"This replaces the live database {site.server.database} by set {wanted} of "
    assert re.match(rf"{re.escape(asked)}.* UTC.*: [\d,]+ rows in \d+ tables\. Type {site.server.database} to", err), (
        err
    )
    assert ("; nothing was touched" in err) == (status != 0)
    assert (dump(site.server) == before) == (status == 0)
    assert (len(site.sets()), beside(site) == []) == ((2, False) if status == 0 else (1, True))


def test_an_interrupt_at_the_question_is_heeded(own_database: Site) -> None:
    with at_a_terminal(own_database, "restore", "db", "latest", "--in-place") as (process, _):
        assert process.stderr
        assert "to go on:" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 1


@pytest.mark.fault("Database", "while a restore replays, it is killed")
def test_a_restore_in_place_that_is_killed_leaves_the_live_database_as_it_was(own_database: Site) -> None:
    site = own_database
    sql(site.server, *CHANGES)
    spoilt = dump(site.server)
    with listening(site) as journal:
        with in_the_middle(site, "beside", journal, "latest") as (process, _):
            signalled(process, signal.SIGKILL, within_s=30)
            (site.place / HELD).unlink()
        told = events(journal.close())
    at_rest(site)
    assert dump(site.server) == spoilt
    faults.saw(status="killed", store="the live database as it was", events=told)
    (left,) = beside(site)
    done = site.run("restore", "db", site.sets()[0], "--in-place", "--yes")
    assert done.returncode == 0
    assert f"database {left} is left of a restore that was cut off; nothing needs it" in done.stderr
    assert databases_like(site.server, f"{site.server.database}_before_") != []
    faults.recovered("ok, it names what was left")


@pytest.mark.thorough
def test_attachments_are_not_touched_by_a_restore_of_the_database(own_database: Site) -> None:
    before = on_disk(own_database.attachments)
    in_place(own_database, "latest")
    assert on_disk(own_database.attachments) == before


def test_a_switch_that_the_server_refuses_leaves_the_live_database_and_nothing_of_the_new_one(
    own_database: Site,
) -> None:
    site = own_database
    sql(site.server, *CHANGES)
    filtered(site, "exec sed --unbuffered 's/^lock table pg_database/lock table nothing/'")
    said = refused(site, "latest", "--no-safety-set", status=1)
    assert "db: the switch failed: db: the server refuses (SQLSTATE 42P01), expected every statement" in said
    assert "; the live database is as it was, and nothing is left of the new one" in said


def test_latest_is_never_the_safety_set_of_the_restore_before(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    sql(site.server, *CHANGES)
    for _ in range(2):
        in_place(site, "latest")
        assert dump(site.server) == before
