"""A drill calls a set proven only when what came back from a throwaway server is what went in."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dental_pms_backup.drill import private_cluster
from dental_pms_backup.live import postgres
from dental_pms_backup.restore import databases
from tests import faults
from tests.integration import drills
from tests.integration.conftest import databases_like
from tests.integration.drills import SECONDS, change_manifest, drills_well, knows_its_files, left_behind
from tests.integration.faults import events, listening
from tests.integration.support import Site, as_cluster_user, dump, major, on_disk, session, sql, wait_until

PASSED = [f"proof_{name}" for name in ("checksums", "attachments", "load", "settings", "identity", "rows")]


@pytest.mark.each_release
def test_a_set_is_proven_in_a_private_cluster_and_all_of_it_goes_again(site: Site) -> None:
    (name,) = site.sets()
    before = (dump(site.server), on_disk(site.attachments), site.set_files(), sql(site.server, "table pg_roles"))
    said = drills_well(site)
    rows = json.loads((site.store / f"sets/{name}.json").read_text())["streams"]["db"]["rows"]
    assert {key: value for key, value in said.items() if key not in SECONDS} == {
        "drill_set": name,
        "drill_where": "cluster",
        **dict.fromkeys(PASSED, "passed"),
        "proof_files": "not checked",  # this practice has no such table
        "entries": "23",
        "rows": str(sum(rows.values())),
        "drill_status": "proven",
    }
    record = f"sets/{name}.drill.json"
    assert site.set_files().keys() - before[2].keys() == {record}
    assert site.set_files()[record][0] & 0o777 == 0o600
    assert left_behind(site) == []
    after = {path: facts for path, facts in site.set_files().items() if path != record}
    assert (dump(site.server), on_disk(site.attachments), after, sql(site.server, "table pg_roles")) == before


def test_a_proven_set_is_called_so_with_what_was_proven(site: Site) -> None:
    (name,) = site.sets()
    assert site.run("list").stdout.splitlines()[1].endswith("  verified")
    drills_well(site, name)
    assert site.run("list").stdout.splitlines()[1].endswith("  proven")
    assert f"newest proven database: {name}, " in site.run("status").stdout
    shown = site.run("show", name).stdout
    assert "state: proven\n" in shown
    assert "  identity: passed\n" in shown
    assert re.search(r"  the database was restored in \d+ s\n", shown)
    (summary,) = json.loads(site.run("list", "--json").stdout)
    assert (summary["state"], summary["drill"]["result"], summary["drill"]["where"]) == ("proven", "passed", "cluster")
    entry = json.loads((site.store / "ledger.jsonl").read_text().splitlines()[-1])
    assert (entry["what"], entry["set"], entry["result"]) == ("drill", name, "passed")
    assert entry["proofs"]["identity"] == "passed"


def test_the_newest_set_that_was_not_drilled_is_drilled_until_none_is_left(site: Site) -> None:
    (older,) = site.sets()
    newer = site.takes()
    assert [drills_well(site)["drill_set"] for _ in range(2)] == [newer, older]
    done = site.run("drill")
    assert (done.returncode, done.stdout, done.stderr) == (0, "drill_status=nothing\n", "")


def test_a_set_of_which_anything_changed_since_its_drill_is_proven_no_more(site: Site) -> None:
    (name,) = site.sets()
    drills_well(site)
    change_manifest(site, name, lambda manifest: manifest["streams"]["db"]["rows"].update({"public.lines": 8}))
    assert site.run("list").stdout.splitlines()[1].endswith("  verified")


@pytest.mark.sample(9)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "\0" * 10, "9" * 9000])
def test_a_record_that_is_none_neither_proves_nor_damages_a_set(site: Site, content: str) -> None:
    (name,) = site.sets()
    (site.store / f"sets/{name}.drill.json").write_text(content)
    assert site.run("list").stdout.splitlines()[1].endswith("  verified")
    assert drills_well(site)["drill_set"] == name


def test_a_set_is_proven_when_the_live_server_and_the_live_files_are_gone(site: Site) -> None:
    site.configure({"native.host": "/nowhere"})
    shutil.rmtree(site.attachments)
    assert drills_well(site)["proof_identity"] == "passed"


@pytest.mark.sample(2)
@pytest.mark.parametrize("stream", ["db", "attachments"])
def test_a_set_of_one_stream_is_proven_as_far_as_it_goes(new_site: Site, stream: str) -> None:
    new_site.takes(stream)
    said = drills_well(new_site)
    assert ("proof_load" in said, "proof_attachments" in said) == (stream == "db", stream == "attachments")


def test_files_that_an_older_script_made_have_nothing_to_be_compared_with(site: Site) -> None:
    (name,) = site.sets()
    for suffix in ("json", "sha256"):
        (site.store / f"sets/{name}.{suffix}").unlink()
    done = site.run("drill", name)
    assert (done.returncode, done.stdout) == (2, "failure=usage\ndrill_status=failed\n")
    assert site.run("drill").stdout == "drill_status=nothing\n"


@pytest.mark.sample(9)
@pytest.mark.each_release
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_is_proven(own_database: Site, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}"
    create = f"create database {name} template template0 encoding '{encoding}' locale 'C'"
    sql(own_database.server, create)
    try:
        own_database.configure({"native.database": name})
        sql_in(own_database, name, "create table teeth (name text); insert into teeth values (E'\\xe9')")
        for each in (  # with columns that come back in another order
            "create table %I (a int) inherits (teeth)",
            "insert into %I values (''x'', 1); alter table teeth add column b int",
        ):
            sql_in(own_database, name, f"do $$ begin execute format('{each}', E'\\xe9'); end $$")
        for own in (f"comment on database {name} is E'\\xe9'", f"alter database {name} set dental.name = E'\\xe9'"):
            sql_in(own_database, name, own)
        assert own_database.run("run", "db").returncode in {0, 1}  # it may be suspect
        taken = own_database.sets()[-1]
        drilled = drills_well(own_database, taken)
        assert (drilled["proof_identity"], drilled["proof_settings"]) == ("passed", "passed")
        child = 'public."\\xe9"' if encoding == "SQL_ASCII" else 'public."\xe9"'
        assert databases.row_counts(own_database.server, name) == {"public.teeth": 1, child: 1}
        sql(own_database.server, f"comment on database {name} is null", f"alter database {name} reset all")
        done = own_database.run("restore", "db", taken, "--in-place", "--yes")
        left = "the server does not take the set's own setting dental.name, comment, as it lacks"  # by its template1
        assert (done.returncode, left in done.stderr) == (0, encoding == "SQL_ASCII"), done.stderr
    finally:
        for each in databases_like(own_database.server, name):
            sql(own_database.server, f'drop database "{each}" with (force)')


@pytest.mark.thorough
def test_a_database_whose_rows_are_of_many_lengths_is_proven(own_database: Site) -> None:
    sql(
        own_database.server,
        "create table letters as select n, repeat(md5(n::text), (n * 7919 % 61)::int) as body"
        " from generate_series(1, 30000) n",
    )
    own_database.takes("db")
    assert drills_well(own_database, "latest")["proof_identity"] == "passed"


LOOKS_LIKE_ROWS = """\
create function looks() returns text language sql as $body$ select '
COPY public.nowhere (a) FROM stdin;
--
COPY public.nowhere (a) FROM stdin;
';
$body$;
comment on function looks() is '--
COPY public.nowhere FROM stdin;
';
"""


def test_text_that_looks_like_the_rows_of_a_table_is_none(own_database: Site) -> None:
    (before,) = own_database.sets()
    sql(own_database.server, LOOKS_LIKE_ROWS)
    name = own_database.takes("db")
    rows = [
        json.loads((own_database.store / f"sets/{each}.json").read_text())["streams"]["db"]["rows"]
        for each in (before, name)
    ]
    assert rows[0] == rows[1]
    assert drills_well(own_database, name)["proof_rows"] == "passed"


PARTITIONED = """\
create type side as enum ('left', 'right');
create table halves (at side, n int) partition by hash (at);
create table halves_0 partition of halves for values with (modulus 2, remainder 0);
create table halves_1 partition of halves for values with (modulus 2, remainder 1);
insert into halves select (array['left', 'right'])[1 + n % 2]::side, n from generate_series(1, 10) n;
"""


def test_rows_that_are_loaded_through_the_root_of_their_partition_are_counted(own_database: Site) -> None:
    sql(own_database.server, PARTITIONED)
    name = own_database.takes("db")
    rows = json.loads((own_database.store / f"sets/{name}.json").read_text())["streams"]["db"]["rows"]
    assert sum(count for table, count in rows.items() if "halves" in table) == 10
    table = "halves" if "public.halves" in rows else "halves_0"
    counted = own_database.run("extract", name, "--table", table, "--csv").stdout.splitlines()
    assert len(counted) == rows[f"public.{table}"] + 1


@pytest.mark.sample(9)
@pytest.mark.parametrize(
    "setting", ["timezone to 'Asia/Kathmandu'", "bytea_output to 'escape'", "standard_conforming_strings to off"]
)
def test_a_database_that_writes_its_values_in_its_own_way_is_proven(own_database: Site, setting: str) -> None:
    sql(own_database.server, f'alter database "{own_database.server.database}" set {setting}')
    sql(own_database.server, "create table written as select now() as at, decode('00ff41', 'hex') as bytes")
    sql(own_database.server, "alter table written add column path text default chr(92) || E'\\\\'")
    own_database.takes("db")
    assert drills_well(own_database, "latest")["proof_identity"] == "passed"


def test_a_role_of_the_set_changes_nothing_in_how_the_copys_values_are_written(own_database: Site) -> None:
    sql(own_database.server, "create table written as select now() as at")
    own_database.takes("db")
    sql(own_database.server, "alter role postgres set timezone to 'Asia/Kathmandu'")
    try:
        own_database.takes("db")
        (of_role, of_server) = own_database.sets()[-1], own_database.sets()[0]
    finally:
        sql(own_database.server, "alter role postgres reset timezone")
    for name in (of_role, of_server):
        assert drills_well(own_database, name)["proof_identity"] == "passed"


def test_a_setting_that_the_throwaway_server_lacks_is_told(site: Site) -> None:
    (name,) = site.sets()
    change_manifest(site, name, lambda manifest: manifest["streams"]["db"]["source"].update(lc_monetary="xx_XX"))
    assert drills_well(site)["proof_load"] == "passed"
    assert "  load: passed (without live's lc_monetary)\n" in site.run("show", name).stdout


@pytest.mark.each_release
def test_definitions_that_postgresql_writes_anew_are_proven(own_database: Site) -> None:
    definitions = Path(__file__).with_name("definitions.sql").read_text()
    loaded = as_cluster_user(own_database.server, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", stdin=definitions)
    assert (loaded.returncode, loaded.stderr) == (0, "")
    assert "(ARRAY['new'::character varying" in "\n".join(dump(own_database.server))
    own_database.takes("db")
    assert drills_well(own_database, "latest")["proof_identity"] == "passed"


# the throwaway numbers the values anew, so that they are of other partitions, which pg_dump minds since PostgreSQL 16
OF_AN_ENUM = """\
create type mood as enum ('a', 'b', 'c', 'd', 'e', 'f');
create table moods (m mood, n int) partition by hash (m);
create table moods_0 partition of moods for values with (modulus 2, remainder 0);
create table moods_1 partition of moods for values with (modulus 2, remainder 1);
insert into moods select m, n from unnest(enum_range(null::mood)) m, generate_series(1, 9) n;
"""
VIA_ROOT = 16


@pytest.mark.each_release
def test_what_comes_back_in_another_order_is_proven_and_a_line_in_a_body_is_text(own_database: Site) -> None:
    text = Path(__file__).with_name("meaning.sql").read_text() + (OF_AN_ENUM if major() >= VIA_ROOT else "")
    loaded = as_cluster_user(own_database.server, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", stdin=text)
    assert (loaded.returncode, loaded.stderr) == (0, "")
    name = own_database.takes("db")
    rows = json.loads((own_database.store / f"sets/{name}.json").read_text())["streams"]["db"]["rows"]
    assert (rows["public.turned"], rows["public.letters"], rows["public.kinds"]) == (2, 3, 2)
    assert drills_well(own_database, name)["proof_identity"] == "passed"
    copy = f"{own_database.server.database}_new"
    assert own_database.run("restore", "db", name, "--to", copy).returncode == 0
    assert (
        sql(postgres.in_database(own_database.server, copy), "select x, b, a from turned order by x") == "1|b|2\n3|b|4"
    )
    change_manifest(own_database, name, lambda manifest: manifest["streams"]["db"]["rows"].update({"public.turned": 3}))
    drills.fails(own_database, name, cause="drill")


ORDERED = """\
create table names (family text) partition by range (family);
create table names_a_to_m partition of names for values from ('a') to ('m');
insert into names values ('Byron');
"""


@pytest.mark.each_release
def test_a_database_that_orders_text_in_its_own_way_is_proven(own_database: Site) -> None:
    name = f"icu_{own_database.place.name}"
    create = f"create database \"{name}\" template template0 encoding 'UTF8' locale_provider icu icu_locale 'en'"
    sql(own_database.server, create)
    try:
        lenient = {"suspect.db_shrink_percent": 100, "suspect.rows_shrink_percent": 100}
        own_database.configure({"native.database": name, **lenient})
        sql_in(own_database, name, ORDERED)  # in locale C a B comes before every a: the row would be refused
        assert own_database.run("run", "db").returncode == 1  # another database than before is suspect
        taken = own_database.sets()[-1]
        assert drills_well(own_database, taken)["proof_load"] == "passed"
        shown = json.loads(own_database.run("show", taken, "--json").stdout)
        assert shown["manifest"]["streams"]["db"]["source"]["locale"] == "en"
    finally:
        sql(own_database.server, f'drop database "{name}" with (force)')


OF_THE_SYSTEM = """\
create table t (id int);
create role app;
revoke execute on function pg_catalog.pg_sleep(double precision) from public;
grant select on pg_catalog.pg_authid to app;
alter schema public owner to app;
"""


def test_a_database_is_proven_whoever_made_its_server_and_whichever_superusers_it_has(
    new_site: Site, grounds: Path
) -> None:
    site = new_site
    with private_cluster.cluster(grounds / "whose", database="practice") as server:
        sql(server, "create role admin superuser createdb createrole replication bypassrls login")
        sql(dataclasses.replace(server, user="admin"), 'alter role postgres rename to "dental-pms é"')
        site.server = dataclasses.replace(server, user="dental-pms é")
        done = as_cluster_user(site.server, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", stdin=OF_THE_SYSTEM)
        assert done.returncode == 0, done.stderr
        site.configure({"native.host": server.host, "native.database": "practice", "native.user": "dental-pms é"})
        name = site.takes("db")
    assert drills_well(site, name)["proof_identity"] == "passed"


def test_a_locale_that_the_throwaway_server_lacks_is_told(site: Site) -> None:
    (name,) = site.sets()
    lacking = {"collate": "xx_XX.UTF-8", "ctype": "xx_XX.UTF-8"}
    change_manifest(site, name, lambda manifest: manifest["streams"]["db"]["source"].update(lacking))
    assert drills_well(site)["proof_load"] == "passed"
    why = "with locale C.UTF-8, for the throwaway server lacks xx_XX.UTF-8"
    assert f"  load: passed ({why})\n" in site.run("show", name).stdout


def test_a_set_from_before_locale_and_settings_were_recorded_is_proven(site: Site) -> None:
    (name,) = site.sets()

    def forget(manifest: dict[str, Any]) -> None:
        source = manifest["streams"]["db"]["source"]
        for key in ("timezone", "bytea_output", "collate", "ctype", "locale_provider", "locale"):
            source.pop(key, None)

    change_manifest(site, name, forget)
    assert drills_well(site)["proof_identity"] == "passed"
    change_manifest(site, name, lambda manifest: manifest["streams"]["db"]["source"].pop("server_version"))
    done = site.run("drill", name)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (2, "drill_status=failed"), done
    assert f"set {name}: its manifest does not say which server the set was taken from" in done.stderr


def sql_in(site: Site, database: str, statement: str) -> None:
    sql(postgres.in_database(site.server, database), statement)


# --- the practice's own queries


def test_checks_are_asked_of_what_came_back_and_told_by_name(site: Site) -> None:
    queries = {"patients are there": "select count(*) > 3000 from patients", "a true one": "select true;"}
    site.configure({"drill.checks": queries})
    said = drills_well(site)
    assert (said["proof_check_patients_are_there"], said["proof_check_a_true_one"]) == ("passed", "passed")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("select false", "returned false, expected true"),
        ("select null::bool", "returned neither true nor false"),
        ("select true from generate_series(1, 2)", "returned neither true nor false"),
        ("select family from patients where family like 'canary%'", "returned neither true nor false"),
        ("select family::int > 0 from patients where family like 'canary%'", "the query failed (SQLSTATE 22P02)"),
        ("select nonsense", "the query failed (SQLSTATE 42703)"),
    ],
)
def test_a_check_that_does_not_hold_fails_the_set_and_tells_no_row(site: Site, query: str, why: str) -> None:
    site.configure({"drill.checks": {"odd one": query, "good one": "select true"}})
    met = drills.fails(site, cause="drill")
    assert f"check odd one: {why}" in met.stderr
    assert "proof_check_odd_one=failed\n" in met.stdout
    assert "proof_check_good_one=passed\n" in met.stdout


REVISION = {"drill.same_as_live": {"revision": "select family from patients where id = 1"}}
CANARY = "select family from patients where family like 'canary%'"


def test_a_query_that_both_databases_answer_alike_passes(site: Site) -> None:
    site.configure(REVISION)
    assert drills_well(site)["proof_same_as_live_revision"] == "passed"


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("query", "changed", "why"),
    [
        (CANARY, "update patients set family = family || '2' where family like 'canary%'", "returns something else"),
        (CANARY, "drop table patients cascade", "the query failed on the live database (SQLSTATE 42P01)"),
        ("select 1 where false", "select 1", "returned no value or more than one row"),
        ("select generate_series(1, 2)", "select 1", "returned no value or more than one row"),
        ("select null", "select 1", "returned no value or more than one row"),
        ("update patients set family = 'x' returning 1", "select 1", "the query failed (SQLSTATE 25006)"),
        ("select nonsense", "select 1", "the query failed (SQLSTATE 42703)"),
    ],
)
def test_a_query_that_live_answers_otherwise_fails_the_set_and_tells_no_answer(
    own_database: Site, query: str, changed: str, why: str
) -> None:
    own_database.configure({"drill.same_as_live": {"odd": query}})
    before = dump(own_database.server)
    if "update patients" in query:
        assert "odd: the query" in drills.fails(own_database, cause="drill").stderr
        assert dump(own_database.server) == before
        return
    sql(own_database.server, changed)
    met = drills.fails(own_database, cause="drill")
    assert why in met.stderr
    assert "proof_same_as_live_odd=failed\n" in met.stdout


@pytest.mark.thorough
@pytest.mark.fault("Database", "it is down when a drill asks it what it asks the copy")
def test_a_query_that_live_does_not_answer_is_not_checked_and_the_set_is_proven(site: Site) -> None:
    site.configure({"native.host": "/nowhere", **REVISION})
    with listening(site) as journal:
        done = site.run("drill", wrapper=journal.wrapper)
        told = journal.close()
    assert done.stdout.endswith("\ndrill_status=proven\n")
    assert "proof_same_as_live_revision=not checked\n" in done.stdout
    assert "; not checked: same as live revision, files" in told
    shown = site.run("show", "latest").stdout
    assert "  same as live revision: not checked (db: the server does not answer: " in shown
    faults.saw(status=0, store="a set that is proven, with what was not checked", events=events(told))
    site.configure({"native.host": site.server.host})
    assert drills_well(site, "latest")["proof_same_as_live_revision"] == "passed"
    faults.recovered("ok, and proven")


@pytest.mark.thorough
def test_a_query_that_live_is_too_busy_to_answer_is_not_checked(own_database: Site) -> None:
    own_database.configure(REVISION)
    asked = f"alter database \"{own_database.server.database}\" set lock_timeout = '100ms';"
    with session(own_database.server, asked, "commit;", "begin;", "lock table patients;"):
        said = drills_well(own_database)
    assert said["proof_same_as_live_revision"] == "not checked"


# --- files and the rows that name them


def test_every_row_finds_its_file_whatever_its_name(own_database: Site) -> None:
    names = ["2026/0001.jpg", "tab\tand\nline", "back\\slash", "zähne 🦷", " ", "x link to /y", "-rf", "*"]
    knows_its_files(own_database, names)
    (own_database.attachments / "attachments/known to no row").write_text("x")
    for name in ("hard", "x link to /d", "x link to e"):
        (own_database.attachments / "attachments" / name).hardlink_to(own_database.attachments / "attachments/-rf")
    sql(own_database.server, "insert into attachments values ('hard', 5), ('x link to /d', 5)")
    own_database.takes()
    said = drills_well(own_database)
    assert (said["proof_files"], said["rows_with_files"], said["orphans"]) == ("passed", str(len(names) + 2), "2")


def test_a_query_of_the_practices_own_says_which_files_there_are(site: Site) -> None:
    query = "select '2026/' || to_char(n, 'FM0000') || '.jpg', 3000 + n * 700 from generate_series(0, 19) n"
    site.configure({"application.query": query, "application.directory": "."})
    said = drills_well(site)
    assert (said["proof_files"], said["rows_with_files"], said["orphans"]) == ("passed", "20", "1")


@pytest.mark.sample(9)
@pytest.mark.parametrize("query", ["select a, b from nowhere", "select nonsense, 1", "select 'x'; select"])
def test_a_query_for_the_files_that_fails_is_no_proof_and_says_nothing_of_the_set(site: Site, query: str) -> None:
    site.configure({"application.query": query})
    met = drills.fails(site, cause="configuration", status=78)
    assert "application.query: the server refuses the query (SQLSTATE 42" in met.stderr
    assert "# mend application.query" in met.stderr


@pytest.mark.thorough
@pytest.mark.fault("Attachments", "a table of that name in the database is another application's")
def test_a_table_of_another_application_names_the_keys_and_says_nothing_of_the_set(own_database: Site) -> None:
    own_database.configure({"application.table": None})  # as by default
    sql(own_database.server, "create table attachments (id int, disk_filename text, filesize bigint)")
    (own_database.attachments / "attachments").mkdir()
    name = own_database.takes()
    met = drills.fails(own_database, cause="configuration", status=78)
    assert (
        "application.key_column, application.size_column: storage_key and byte_size are no columns of table "
        "attachments with a file's path and size: the server refuses to be asked for them (SQLSTATE 42703)"
    ) in met.stderr
    own_database.configure({"application.table": "nothing_of_this_name"})
    met = drills.fails(own_database, cause="configuration", status=78)
    assert f"application.table: set {name} has no table nothing_of_this_name that names them, expected" in met.stderr
    columns = {"application.key_column": "disk_filename", "application.size_column": "filesize"}
    own_database.configure({"application.table": "attachments", **columns})
    assert drills_well(own_database)["proof_files"] == "passed"
    faults.recovered("ok, and proven, once the keys name the table and its columns")


@pytest.mark.thorough
@pytest.mark.fault("Attachments", "no table names the files of a set that is drilled")
def test_files_of_which_no_table_knows_are_no_proof_until_the_admin_says_so(site: Site) -> None:
    site.configure({"application.table": None})  # as by default
    met = drills.fails(site, cause="configuration", status=78)
    assert "has attachments, but no table attachments that names them, expected the table that does" in met.stderr
    hint = "hint: editor /etc/dental-pms/backup.yaml   # set application.table, to null where no table names the files"
    assert hint in met.stderr
    site.config.write_text(site.config.read_text() + "application:\n  table: null\n")
    assert drills_well(site)["proof_files"] == "not checked"
    assert "  files: not checked (application.table is null)\n" in site.run("show", "latest").stdout
    faults.recovered("ok, and proven, once the admin has said that it is so")


def test_what_speaks_against_a_set_is_told_although_no_table_knows_its_files(site: Site) -> None:
    site.configure({"application.table": None, "drill.checks": {"odd one": "select false"}})
    assert "check odd one: returned false" in drills.fails(site, cause="drill").stderr


@pytest.mark.thorough
def test_no_files_need_no_table(new_site: Site) -> None:
    shutil.rmtree(new_site.attachments)
    new_site.attachments.mkdir()
    new_site.configure({"application.table": None})
    new_site.takes()
    assert drills_well(new_site)["proof_files"] == "not checked"


# --- beside runs


def waiting(site: Site) -> tuple[dict[str, str], Path, Path]:
    """Make a tar that says that it was called, and waits until it is told to go on."""
    called, go_on = site.place / "called", site.place / "go_on"
    path = site.fake_on_path("tar", f'touch {called}; while [ ! -e {go_on} ]; do sleep 0.05; done; exec "$real" "$@"')
    return {"PATH": path}, called, go_on


def test_a_run_goes_on_beside_a_drill_and_a_second_drill_does_not(site: Site) -> None:
    (name,) = site.sets()
    variables, called, go_on = waiting(site)
    with site.running("drill", **variables) as drill:
        wait_until(called.exists)
        newer = site.takes()
        second = site.run("drill")
        assert (second.returncode, second.stdout) == (75, "failure=locked\ndrill_status=failed\n")
        assert "another drill holds the lock" in second.stderr
        go_on.touch()
        out, err = drill.communicate()
    assert (drill.returncode, err) == (0, "")
    assert "drill_status=proven\n" in out
    assert {each["set"]: each["state"] for each in json.loads(site.run("list", "--json").stdout)} == {
        name: "proven",
        newer: "verified",
    }


def test_a_set_that_is_removed_under_its_drill_is_neither_proven_nor_failed(site: Site) -> None:
    site.configure({"keep": 1})
    (name,) = site.sets()
    variables, called, go_on = waiting(site)
    with site.running("drill", **variables) as drill:
        wait_until(called.exists)
        newer = site.takes()
        assert site.sets() == [newer]
        go_on.touch()
        out, err = drill.communicate()
    assert (drill.returncode, out) == (75, "failure=temporary\ndrill_status=failed\n")
    assert f"set {name} was removed or changed during the drill" in err
    assert not list(site.store.glob("sets/*.drill.json"))
    assert left_behind(site) == []


@pytest.mark.thorough
def test_a_record_goes_with_its_set(site: Site) -> None:
    (name,) = site.sets()
    drills_well(site)
    newer = site.takes()
    drills_well(site)
    site.configure({"keep": 1})
    newest = site.takes()
    assert site.sets() == [newer, newest]  # the newest proven one stays
    assert f"keep db of set {newer}: the newest set that a drill has proven" in site.run("prune", "--dry-run").stdout
    assert [path for path in site.set_files() if name in path] == []


def test_a_drill_that_is_asked_to_stop_stops_and_leaves_nothing(site: Site) -> None:
    variables, called, _ = waiting(site)
    with site.running("drill", **variables) as drill:
        wait_until(called.exists)
        drill.terminate()
        out, _ = drill.communicate()
    assert (drill.returncode, out) == (1, "failure=interrupted\ndrill_status=failed\n")
    assert left_behind(site) == []
    assert not list(site.store.glob("sets/*.drill.json"))


@pytest.mark.thorough
def test_a_drill_that_takes_too_long_gives_up(site: Site) -> None:
    site.configure({"drill.timeout_s": 10})
    variables, _, _ = waiting(site)
    done = site.run("drill", **variables)
    assert (done.returncode, done.stdout) == (1, "failure=stalled\ndrill_status=failed\n")
    assert "hint: editor /etc/dental-pms/backup.yaml   # raise drill.timeout_s" in done.stderr
    assert left_behind(site) == []
