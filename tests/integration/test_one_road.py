"""What a set holds comes back the same by every road: in a drill, beside, in place, and in the live database itself."""

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from tests.integration.conftest import databases_like
from tests.integration.drills import change_manifest, drills_well
from tests.integration.support import Ran, Site, as_cluster_user, bin_dir, major, sql
from tests.integration.test_restore_new import printed, run_as_admin

AS_SUPERUSER = "; all owners in the set are superusers, so that it is replayed as a superuser\n"
ROADS = {"beside": ("--to", "{new}"), "in place": ("--in-place",), "replaced": ("--in-place", "--replace")}


@pytest.fixture
def small(new_site: Site, live: OnHost) -> Iterator[Site]:
    """A site whose live database is a small one of its own."""
    site, name = new_site, f"small_{new_site.place.name}"
    sql(live, f'create database "{name}"')
    site.server = postgres.in_database(live, name)
    site.configure({"native.database": name})
    try:
        yield site
    finally:
        for made in databases_like(live, name):
            sql(live, f'drop database "{made}" with (force)')


def script(site: Site, text: str) -> None:
    done = as_cluster_user(site.server, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", stdin=text)
    assert done.returncode == 0, done.stderr


def goes(site: Site, road: str, wanted: str = "latest") -> tuple[Ran, OnHost]:
    """Restore by a road, and return what came of it, and the database."""
    new = f"{site.server.database}_new"
    words = [word.format(new=new) for word in ROADS[road]]
    superuser = ["--as-superuser"] if road == "replaced" else []
    done = site.run("restore", "db", wanted, *words, *superuser, CONFIRM="YES")
    return done, postgres.in_database(site.server, new if road == "beside" else site.server.database)


OWN = """\
alter database "{0}" set lc_monetary = 'fr_CA.UTF-8';
alter database "{0}" set array_nulls = off;
alter database "{0}" set datestyle = 'ISO, DMY';
alter database "{0}" set app.vat = E'2\\\\1';
alter database "{0}" set exit_on_error = on;
alter database "{0}" set idle_session_timeout = '20s';
alter database "{0}" set temp_file_limit = 0;
alter database "{0}" set work_mem = '64kB';
alter database "{0}" set plpgsql.extra_errors = 'all';
create domain amount as money;
create table fees (id int primary key, fee amount not null, more money[], words text[]);
create table ddl_log (tag text);
create function log_ddl() returns event_trigger language plpgsql as $$
 begin insert into public.ddl_log values (tg_tag); end $$;
create materialized view m as select 1 as one;
create function to_day(text) returns date language sql immutable as 'select $1::date';
create table births (born text, day date generated always as (to_day(born)) stored, n int
 check (current_setting('app.vat') like '2%1%'));
create event trigger log_ddl on ddl_command_end execute function log_ddl();
alter event trigger log_ddl enable always;
create publication p for all tables;
create subscription s connection 'host=/nowhere' publication p with (connect = false);
create extension file_fdw;
create server files foreign data wrapper file_fdw;
create user mapping for public server files;
create foreign data wrapper none;
create server nowhere foreign data wrapper none;
create cast (point as amount) with inout;
alter default privileges revoke execute on functions from public;
alter default privileges grant select on tables to public;
truncate ddl_log;
"""
SINCE_17 = """\
alter database "{0}" set transaction_timeout = '20s';
create function log_in() returns event_trigger language plpgsql as $$
 begin insert into public.ddl_log values ('login'); end $$;
create event trigger log_in on login execute function log_in();
"""
IN_USE = """\
insert into fees values (1, 12.50::numeric::money, array[7::money, null], array['a', null]);
insert into births (born, n) values ('03/04/1970', 1);
create materialized view prices as select current_setting('app.vat') as vat;
select lo_from_bytea(4711, 'letter');
"""
LOOK = """\
select (select concat_ws(' ', fee::numeric, more[1]::numeric, more[2] is null, words[2] is null) from fees),
 (select string_agg(concat_ws(' ', evtname, evtenabled), ',' order by 1) from pg_event_trigger),
 (select string_agg(pubname, ',') from pg_publication), (select string_agg(fdwname, ',' order by 1)
 from pg_foreign_data_wrapper), (select string_agg(srvname, ',' order by 1) from pg_foreign_server),
 (select string_agg(lanname, ',' order by 1) from pg_language), (select string_agg(extname, ',' order by 1)
 from pg_extension), (select concat_ws(' ', to_char(day, 'DD Mon'), vat) from births, prices),
 (select count(*) from pg_cast where oid >= 16384), (select count(*) from pg_user_mapping),
 (select string_agg(concat_ws(' ', defaclobjtype, defaclacl), ',' order by 1) from pg_default_acl),
 (select convert_from(lo_get(oid), 'UTF8') from pg_largeobject_metadata),
 (select count(*) from ddl_log where lower(tag) <> 'login')"""


@pytest.fixture
def practice(small: Site) -> Iterator[Site]:
    """The small site, whose database has amounts of money and much that a dump brings back beside tables."""
    site = small
    for locale in ("fr_CA", "ja_JP"):
        subprocess.run(["localedef", "-i", locale, "-c", "-f", "UTF-8", f"{locale}.UTF-8"], check=True)
    text = OWN + (SINCE_17 if major() >= 17 else "")
    script(site, text.format(site.server.database))
    script(site, IN_USE)
    try:
        yield site
    finally:
        for name in databases_like(postgres.in_database(site.server, "postgres"), site.server.database):
            there = postgres.in_database(site.server, name)
            off = ["set event_triggers = off"] if major() >= 17 else []
            given_up = ("alter subscription s disable", "alter subscription s set (slot_name = none)")
            if (
                sql(
                    there,
                    "select count(*) from pg_subscription s join pg_database d on d.oid = subdbid"
                    " where datname = current_database()",
                )
                != "0"
            ):
                sql(there, *off, *given_up, "drop subscription s")


@pytest.mark.each_release
def test_what_a_practice_has_comes_back_by_every_road_whatever_is_set_for_its_sessions(practice: Site) -> None:
    site = practice
    site.configure({"drill.checks": {"there": "select true"}})
    logins = "select count(*) from ddl_log where tag = 'login'"
    seen = int(sql(site.server, logins))
    name = site.takes("db")
    of_ours = 1 if major() >= 17 else 0  # the first of a run's sessions, which does not know the server yet
    assert int(sql(site.server, logins)) - seen == 2 * of_ours, "with the one that asks"
    for limit in ("idle_session_timeout", *(["transaction_timeout"] if major() >= 17 else [])):
        assert postgres.ask(site.server, f"show {limit}") == "0"
    before = sql(site.server, LOOK)
    assert drills_well(site, name)["proof_identity"] == "passed"
    for road in ROADS:
        done, there = goes(site, road, name)
        as_said = road == "replaced" or done.stderr.endswith(AS_SUPERUSER)
        assert (road, done.returncode, as_said) == (road, 0, True), done.stderr
        assert (road, sql(there, LOOK)) == (road, before)
        if road == "in place":
            run_as_admin(printed(done)["restore_drop"])
            assert [name for name in databases_like(there, there.database) if "_before_" in name] == []


def test_amounts_that_the_server_would_read_as_others_are_refused_before_anything_is_touched(practice: Site) -> None:
    site = practice
    name = site.takes("db")
    change_manifest(site, name, lambda manifest: manifest["streams"]["db"]["source"].update(lc_monetary="xx_XX.UTF-8"))
    for road in ROADS:
        done, _ = goes(site, road, name)
        assert (done.returncode, len(site.sets())) == (4, 1), done.stderr
        assert "the set has amounts of money, written with lc_monetary = xx_XX.UTF-8, expected a server" in done.stderr
        assert "hint: localedef -i xx_XX -c -f UTF-8 xx_XX.UTF-8" in done.stderr
    done = site.run("drill", name)
    assert (done.returncode, "failure=tool\n" in done.stdout) == (1, True), done.stdout + done.stderr
    assert "drill: the copy was made without live's lc_monetary" in done.stderr
    assert {each["state"] for each in json.loads(site.run("list", "--json").stdout)} == {"verified"}
    change_manifest(site, name, lambda manifest: manifest["streams"]["db"]["source"].update(lc_monetary="fr_CA.UTF-8"))
    sql(site.server, f"alter database \"{site.server.database}\" set lc_monetary = 'ja_JP.UTF-8'")  # it has no cents
    done, _ = goes(site, "in place", name)
    assert (done.returncode, len(site.sets())) == (4, 1), done.stderr
    assert "with its own lc_monetary the live database would read other amounts in them" in done.stderr
    command = done.stderr.partition("hint: ")[2].strip().replace("psql", str(bin_dir() / "psql"))
    subprocess.run(["sh", "-c", command], check=True)
    done, _ = goes(site, "in place", name)
    assert done.returncode == 0, done.stderr
    assert sql(site.server, "select fee::numeric from fees") == "12.50"
    sql(site.server, "drop table fees", "drop domain amount cascade", "create table money (money int)")
    taken = site.takes("db")
    change_manifest(site, taken, lambda manifest: manifest["streams"]["db"]["source"].update(lc_monetary="xx_XX.UTF-8"))
    done, _ = goes(site, "beside", taken)
    assert done.returncode == 0, done.stderr


BROKEN = """\
create table patients (id int primary key, name text);
create function known(i int) returns bool language sql as $$
 select exists (select from public.patients where id = i) $$;
create table bills (p int constraint of_a_patient check (known(p)), n int);
insert into patients values (1, 'canary-patient-4711');
insert into bills values (1, 4711);
"""
ORPHAN = """\
alter table bills drop constraint of_a_patient;
create table visits (p int constraint of_whom references patients, note text);
set session_replication_role = replica;
insert into visits values (4711, 'canary-patient-4711');
"""


def test_what_a_row_breaks_is_named_and_the_hint_restores_all_but_that(small: Site) -> None:
    site = small
    script(site, BROKEN)
    assert "(SQLSTATE 23514, at rows of public.bills: a row breaks the check of_a_patient)" in fails_and_mends(site)
    script(site, ORPHAN)
    where = "ALTER TABLE public.visits ADD CONSTRAINT of_whom: a row names one that is not there"
    assert f"(SQLSTATE 23503, at {where})" in fails_and_mends(site)


def fails_and_mends(site: Site) -> str:
    """Take a set, fail to prove it and to restore it, type what the hint says, and return what the restore said."""
    name = site.takes("db")
    done = site.run("drill", name)
    assert done.returncode == 1
    drilled = re.search(r"does not load \((SQLSTATE \w+), line \d+(.*?)\)", done.stderr)
    done, _ = goes(site, "beside", name)
    assert done.returncode == 1
    assert drilled
    assert f"({drilled[1]}{drilled[2]})" in done.stderr
    assert "canary" not in done.stderr
    made, typed, _ = re.split("; |   #", done.stderr.partition("hint: ")[2])
    file = site.store / f"db/db_{name}.sql.gz"
    subprocess.run(["sh", "-c", made.replace("FILE", str(file))], check=True, cwd=site.place)
    words = typed.replace("mended.sql", str(site.place / "mended.sql")).split()[1:]
    mended = site.run(*words)
    assert mended.returncode == 0, mended.stderr
    return done.stderr
