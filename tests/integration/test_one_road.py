"""What a set holds comes back the same by every road: in a drill, beside, in place, and in the live database itself."""

import dataclasses
import functools
import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from tests.integration.conftest import databases_like
from tests.integration.drills import change_manifest, drills_well
from tests.integration.support import (
    Ran,
    Site,
    as_cluster_user,
    bin_dir,
    cluster_user,
    environment,
    major,
    sql,
    wait_until,
)
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
comment on extension file_fdw is E'don''t\\\\do';
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
 (select string_agg(lanname, ',' order by 1) from pg_language), (select string_agg(concat_ws(' ', extname,
 obj_description(oid)), ',' order by 1) from pg_extension), (select concat_ws(' ',
 to_char(day, 'DD Mon'), vat) from births, prices),
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


def written_with(locale: str, manifest: dict[str, Any]) -> None:
    manifest["streams"]["db"]["source"]["lc_monetary"] = locale


def written_as(amount: str, manifest: dict[str, Any]) -> None:
    manifest["streams"]["db"]["source"]["amount"] = amount


def test_amounts_that_a_locale_of_the_same_name_reads_otherwise_are_refused(practice: Site) -> None:
    site = practice
    name = site.takes("db")
    source = json.loads((site.store / f"sets/{name}.json").read_text())["streams"]["db"]["source"]
    assert re.fullmatch(r"\D*1\D?234\D?567,89\D*", source["amount"]), source["amount"]
    change_manifest(site, name, functools.partial(written_as, "-$1,234,567.89"))  # as the same locale in Alpine's image
    done, _ = goes(site, "in place", name)
    assert (done.returncode, "written as -$1,234,567.89 with lc_monetary = fr_CA" in done.stderr) == (4, True)
    assert done.stderr.endswith(
        f"hint: dental-pms-backup show {name} --json   # says of which image it was; restore into that\n"
    )


# As locale -a has it; where it is a path or an option, localedef would read and write there, as root.
LACKING = {"xx_XX.utf8": "UTF-8", "xx_XX.iso885915": "ISO-8859-15", "/srv/evil": "", "--prefix=x": "", "x\n": ""}


def test_amounts_that_the_server_would_read_as_others_are_refused_before_anything_is_touched(practice: Site) -> None:
    site = practice
    name = site.takes("db")
    change_manifest(site, name, lambda manifest: manifest["streams"]["db"]["source"].update(lc_monetary="xx_XX.UTF-8"))
    for road in ROADS:
        done, _ = goes(site, road, name)
        assert (done.returncode, len(site.sets())) == (4, 1), done.stderr
        assert "the set has amounts of money, written with lc_monetary = xx_XX.UTF-8, expected a server" in done.stderr
        assert "hint: localedef -i xx_XX -c -f UTF-8 xx_XX.UTF-8" in done.stderr
    for spelled, charmap in LACKING.items():
        change_manifest(site, name, functools.partial(written_with, spelled))
        made = f"localedef -i xx_XX -c -f {charmap} {spelled} && systemctl restart postgresql"
        assert goes(site, "beside", name)[0].stderr.endswith(f"hint: {made if charmap else 'locale -a'}\n")
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
    sql(site.server, f'alter database "{site.server.database}" reset lc_monetary')
    sql(site.server, f"alter role {site.server.user} set lc_monetary = 'ja_JP.UTF-8'")
    try:
        before, taken = sql(site.server, "select fee::numeric from fees"), site.takes("db")
    finally:
        sql(site.server, f"alter role {site.server.user} reset lc_monetary")  # as on a new server, which gets it
    try:
        change_manifest(site, taken, lambda manifest: manifest["streams"]["db"]["source"].update(system_identifier="7"))
        done = site.run("restore", "db", taken, "--in-place", "--yes", CONFIRM=site.server.database)
        assert (done.returncode, sql(site.server, "select fee::numeric from fees")) == (0, before), done.stderr
    finally:
        sql(site.server, f"alter role {site.server.user} reset lc_monetary")
    sql(site.server, "drop table fees", "drop domain amount cascade", "create table money (money int)")
    taken = site.takes("db")
    change_manifest(site, taken, lambda manifest: manifest["streams"]["db"]["source"].update(lc_monetary="xx_XX.UTF-8"))
    done, _ = goes(site, "beside", taken)
    told = "does not take lc_monetary = xx_XX.UTF-8, with which the set was written, so that what is computed while"
    assert (done.returncode, told in done.stderr) == (0, True), done.stderr
    body = "create function f() returns int language sql as 'select 1 /*\nCOPY x FROM stdin;\n*/'"
    sql(site.server, body, "create table bills (amount money)")
    taken = site.takes("db")
    change_manifest(site, taken, lambda manifest: manifest["streams"]["db"]["source"].update(lc_monetary="xx_XX.UTF-8"))
    done, _ = goes(site, "in place", taken)
    assert (done.returncode, "the set has amounts of money" in done.stderr) == (4, True), done.stderr


def test_rows_that_no_set_holds_as_an_extension_has_their_table_are_told(small: Site) -> None:
    site = small
    script(
        site,
        """create extension pgcrypto; create table patients as select 1 as n; create table empty (n int);
create table "Recalls" as select 1 as n; alter extension pgcrypto add table "Recalls";
alter extension pgcrypto add table empty;""",
    )
    told = "db: tables with rows belong to an extension, and pg_dump writes none of these:"
    done = site.run("run", "db")
    assert (done.returncode, done.stderr) == (0, f'{told} public."Recalls" of pgcrypto\n')
    sql(site.server, 'alter extension pgcrypto drop table "Recalls"')
    role = f"{site.server.database}_app"
    sql(site.server, f'create role "{role}"', f"alter role \"{role}\" set datestyle = 'ISO, DMY'")
    sql(
        site.server,
        f"alter role \"{role}\" set timezone = 'America/Toronto'",
        f'alter table patients owner to "{role}"',
    )
    try:
        assert site.run("run", "db").stderr == ""
        sql(site.server, "alter table patients add m int generated always as (n) stored")
        told = "db: owners of generated columns or materialized views have other settings than the role that dumps: "
        told += f"datestyle of role {role}, timezone of role {role}; a restore computes what they own by those of"
        assert site.run("run", "db").stderr.startswith(told)
        sql(site.server, f"alter role \"{role}\" set datestyle = 'iso'", f'alter role "{role}" reset timezone')
        assert site.run("run", "db").stderr == ""
    finally:
        sql(site.server, f'drop owned by "{role}"', f'drop role "{role}"')
    done = site.run("run", "db")
    assert (done.returncode, done.stderr) == (0, "")


IN_NO_DUMP = """create extension postgres_fdw; create server lab foreign data wrapper postgres_fdw;
create table visits (n int, y int) partition by list (y);
create foreign table visits_2020 partition of visits for values in (2020) server lab;
create foreign table prices (n int) server lab;
create user mapping for postgres server lab options (user 'u', password 'canary');
create publication p for all tables;
create subscription s connection 'host=/nowhere' publication p with (connect = false)
"""


def test_what_pg_dump_leaves_out_or_warns_of_is_told_and_shown(small: Site) -> None:
    site, role = small, f"{small.server.database}_reads"
    script(site, f'{IN_NO_DUMP}; create role "{role}" login in role pg_read_all_data; create table notes (n int)')
    site.configure({"native.user": role})
    site.fake("pg_dump", 'echo "pg_dump: warning: it is late" >&2; exec "$real" "$@"')
    try:
        done = site.run("run", "db")
        found = [
            "pg_dump warns: it is late",
            "rows of public.visits_2020, a foreign table that is a part of another",
            "subscription s, for want of a superuser",
            "the options of a user mapping for server lab, for want of a superuser",
        ]
        assert (done.returncode, done.stderr) == (0, f"db: the set is without: {'; '.join(found)}\n")
        shown = site.run("show", "latest").stdout.splitlines()
        assert [line for line in shown if "without" in line] == [f"db is without: {each}" for each in found]
    finally:
        ends = ("disable", "set (slot_name = none)")
        sql(site.server, *(f"alter subscription s {each}" for each in ends), "drop subscription s")
        sql(site.server, f'drop role "{role}"')


def test_a_set_of_a_standby_says_which_rows_it_has_not_and_is_proven(small: Site) -> None:
    site, place = small, small.place / "standby"
    script(site, "create unlogged table waiting as select 1 as n; create table notes as select 1 as n")
    place.mkdir()
    shutil.chown(place, "postgres", "postgres")
    made = as_cluster_user(site.server, "pg_basebackup", "-R", "-c", "fast", "-D", str(place / "data"))
    assert made.returncode == 0, made.stderr
    words = [str(bin_dir() / "postgres"), "-D", str(place / "data"), "-k", str(place), "-c", "listen_addresses="]
    log = (site.place / "log").open("w")
    process = subprocess.Popen([*cluster_user(site.server), *words], stdout=log, stderr=log, env=environment())
    try:
        standby = dataclasses.replace(site.server, host=str(place))
        wait_until(lambda: as_cluster_user(standby, "psql", "-c", "select").returncode == 0)
        site.configure({"native.host": str(place)})
        done = site.run("run", "db")
        told = "db: the set is without: rows of public.waiting, which is unlogged, on a standby\n"
        assert (done.returncode, done.stderr) == (0, told)
        done = site.run("drill")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        process.terminate()
        process.wait()
        log.close()


POLICIES = """\
create role "{0}_reads";
create table recalls (id int, hidden bool);
alter table recalls enable row level security;
create policy p on recalls to "{0}_reads" using (not hidden);
grant select on recalls to "{0}_reads";
insert into recalls values (1, false), (2, true);
create materialized view seen as select id from recalls;
alter materialized view seen owner to "{0}_reads";
refresh materialized view seen;
create table notes (n int, who name);
insert into notes values (1, '{0}_reads'), (2, 'nobody'), (3, 'postgres');
grant select on notes to "{0}_reads";
create materialized view mine as select n, current_setting('app.vat', true) as vat from notes where who = current_user;
alter materialized view mine owner to "{0}_reads";
create materialized view of_mine as select n from mine;
alter materialized view of_mine owner to "{0}_reads";
create view whose as select who from notes where who in (current_user, session_user);
alter view whose owner to "{0}_reads";
create materialized view "its" as select who from whose;
alter materialized view its owner to "{0}_reads";
alter database "{0}" set app.vat = '21';
"""
OF_THE_SUPERUSER = 'create materialized view "the boss\'s" as select n from notes where who = current_user'
FILLED = """\
select (table seen), (select concat_ws(' ', n, vat) from mine), (table of_mine),
 (select string_agg(who, ' ' order by who) from its)"""


RATED = """\
create table rated (n int check (n < current_setting('app.rate')::int));
insert into rated values (1);
create materialized view rates as select current_setting('app.rate') as rate;
"""


def test_a_setting_of_the_role_that_dumps_is_in_force_while_its_set_is_loaded(small: Site) -> None:
    site = small
    sql(site.server, "alter role current_user set app.rate = '7'")  # for who dumps, and not for who restores
    try:
        script(site, RATED)
        name = site.takes("db")
        assert drills_well(site, name)["proof_identity"] == "passed"
        done, there = goes(site, "beside", name)
        assert (done.returncode, sql(there, "table rated", "table rates")) == (0, "1\n7"), done.stderr
    finally:
        sql(site.server, "alter role current_user reset app.rate")


def test_a_materialized_view_is_proven_and_comes_back_as_its_owner_sees_it(small: Site) -> None:
    site = small
    role = f"{site.server.database}_reads"
    try:
        script(site, POLICIES.format(site.server.database))
        for view in ("mine", "of_mine", "its"):
            sql(site.server, f"refresh materialized view {view}")
        filled = sql(site.server, FILLED)
        assert filled == f"1|1 21|1|postgres {role}"
        name = site.takes("db")
        assert drills_well(site, name)["proof_identity"] == "passed"
        for road in ROADS:
            done, there = goes(site, road, name)
            assert (done.returncode, done.stderr) == (0, ""), done
            assert sql(there, FILLED) == filled, road
        sql(site.server, OF_THE_SUPERUSER, "create materialized view of_any as select count(*), max(n + 1) from notes")
        done, there = goes(site, "in place", site.takes("db"))
        assert (done.returncode, sql(there, 'table "the boss\'s"')) == (0, ""), done.stderr
        assert 'and not what their owners do, until they are refreshed: public."the boss\'s"\n' in done.stderr
        sql(there, f'reassign owned by "{role}" to postgres')
        done, there = goes(site, "in place", site.takes("db"))
        assert (done.returncode, done.stderr, sql(there, 'table "the boss\'s"')) == (0, "", "3")
    finally:
        for each in databases_like(site.server, site.server.database):
            sql(postgres.in_database(site.server, each), f'drop owned by "{role}" cascade')
        sql(site.server, f'drop role "{role}"')


@pytest.mark.thorough
def test_amounts_in_a_file_of_another_disk_are_never_silently_others(small: Site) -> None:
    site, usb, maintenance = small, small.place / "usb disk", postgres.in_database(small.server, "postgres")
    subprocess.run(["localedef", "-i", "fr_CA", "-c", "-f", "UTF-8", "fr_CA.UTF-8"], check=True)
    quoted = postgres.quoted(site.server.database)
    anew = f"drop database {quoted}", f"create database {quoted} template template0"
    sql(site.server, f"alter database {quoted} set lc_monetary = 'fr_CA.UTF-8'", f"comment on database {quoted} is 'x'")
    sql(site.server, f"alter database {quoted} set datestyle = 'ISO, DMY'")
    sql(site.server, f"alter database {quoted} set standard_conforming_strings = off")
    sql(site.server, "create table fees as select 12.50::numeric::money as fee, 1 as id")
    taken = site.takes("db")
    file = usb / f"db/db_{taken}.sql.gz"
    site.store.rename(usb)
    sql(maintenance, *anew)
    done, _ = goes(site, "in place", str(file))
    assert (done.returncode, sql(site.server, "select fee::numeric from fees")) == (0, "12.50"), done.stderr
    assert sql(site.server, "show datestyle") == "ISO, DMY"
    assert sql(site.server, "show standard_conforming_strings") == "on"
    left = "comment, owner, setting standard_conforming_strings"
    assert f"the database's own {left} are not taken of a set that is not in the store" in done.stderr
    assert f"type BACKUP_DIR='{usb}' before the same command with {taken} as the set" in done.stderr
    whole = file.read_bytes()
    file.write_bytes(gzip.compress(gzip.decompress(whole)))
    sql(maintenance, *anew)
    assert "the checksum differs from the manifest's" in goes(site, "in place", str(file))[0].stderr
    file.write_bytes(whole)
    (usb / f"sets/{taken}.json").unlink()
    for road in ("in place", "beside"):
        done, _ = goes(site, road, str(file))
        assert (done.returncode, f"{file}: has amounts of money, and no manifest says" in done.stderr) == (4, True)
    command = done.stderr.partition("hint: ")[2].partition("; dental-pms-backup ")[0]
    subprocess.run(["sh", "-c", command], cwd=site.place, check=True)
    said = site.place / "said.sql"
    line, _, dumped = said.read_text().partition("\n")
    assert (line, dumped) == ("SET lc_monetary = 'C';", gzip.decompress(whole).decode())
    said.write_text(f"SET lc_monetary = 'fr_CA.UTF-8';\n{dumped}")
    done, _ = goes(site, "in place", str(said))
    assert (done.returncode, sql(site.server, "select fee::numeric from fees")) == (0, "12.50"), done.stderr


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


@pytest.mark.sweep
def test_what_a_row_breaks_is_named_and_the_hint_restores_all_but_that(small: Site) -> None:
    site = small
    script(site, BROKEN)
    assert "(SQLSTATE 23514, at rows of public.bills: a row breaks the check of_a_patient)" in fails_and_mends(site)
    script(site, ORPHAN)
    where = "ALTER TABLE public.visits ADD CONSTRAINT of_whom: a row names one that is not there"
    assert f"(SQLSTATE 23503, at {where})" in fails_and_mends(site)
    script(site, "drop table visits, bills, patients cascade")
    for rule, second, broken in RULES:
        script(site, TWICE.format(rule=rule, second=second))
        assert broken in fails_and_mends(site, drills=False)
    script(site, "drop table twice; create table twice (a int);" + ELSEWHERE.replace("{0}", site.server.database))
    assert "(SQLSTATE 42883, at rows of app.patients: something is not" in fails_and_mends(site, drills=False)


TWICE = """\
drop table if exists twice; create table twice (a int, b int not null, n int generated always as identity); {rule};
update pg_attribute set attnotnull = false where attrelid = 'twice'::regclass and attname = 'b';
update pg_index set indisunique = false where indrelid = 'twice'::regclass;
insert into twice values (1, 1), {second};
update pg_attribute set attnotnull = true where attrelid = 'twice'::regclass and attname = 'b';
update pg_index set indisunique = true where indrelid = 'twice'::regclass;
"""
SAME = "two rows are the same by it"
RULES = (
    (
        'alter table twice add constraint "a b" unique (a)',
        "(1, 2)",
        f'(SQLSTATE 23505, at ALTER TABLE public.twice ADD CONSTRAINT "a b": {SAME})',
    ),
    (
        'create unique index "by a" on twice (a)',
        "(1, 2)",
        f'(SQLSTATE 23505, at CREATE UNIQUE INDEX "by a" ON public.twice: {SAME})',
    ),
    ("create index on twice (b)", "(2, null)", "(SQLSTATE 23502, at rows of public.twice: a row lacks a value)"),
)
ELSEWHERE = """\
alter database "{0}" set search_path = app, public;
create schema app; set search_path = app, public;
create function app.base(t text) returns text language sql immutable as $$ select lower(t) $$;
create function app.fold(t text) returns text language plpgsql immutable as $$ begin return base(t); end $$;
create table app.patients (id int, name text check (app.fold(name) <> ''));
insert into app.patients values (1, 'X');
"""


def fails_and_mends(site: Site, *, drills: bool = True) -> str:
    """Take a set, fail to prove it and to restore it, type what the hint says, and return what the restore said."""
    name = site.takes("db")
    failed, _ = goes(site, "beside", name)
    assert failed.returncode == 1
    if drills:
        done = site.run("drill", name)
        drilled = re.search(r"does not load \((SQLSTATE \w+), line \d+(.*?)\)", done.stderr)
        assert (done.returncode, bool(drilled)) == (1, True)
        assert drilled
        assert f"({drilled[1]}{drilled[2]})" in failed.stderr
    done = failed
    assert "canary" not in done.stderr
    made, typed, _ = re.split("(?<=>mended.sql); |   #", done.stderr.partition("hint: ")[2])
    file = site.store / f"db/db_{name}.sql.gz"
    subprocess.run(["sh", "-c", made.replace("FILE", str(file))], check=True, cwd=site.place)
    words = typed.replace("mended.sql", str(site.place / "mended.sql")).split()[1:]
    mended = site.run(*words)
    assert mended.returncode == 0, mended.stderr
    return done.stderr
