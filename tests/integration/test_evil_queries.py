"""What the admin's queries read may be anything: asked of copy and live, it gets no right and leaves no trace."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dental_pms_backup.drill import compare_live
from tests import faults
from tests.integration import drills
from tests.integration.drills import drills_well
from tests.integration.faults import events, listening
from tests.integration.support import CANARIES, ENDS_WITHIN_S, Site, sql, wait_until

# What the functions of a view that the admin's query reads try, each as whoever asks.
TRIED = (
    "reset role; alter role {app} superuser",
    "reset session authorization; alter role {app} superuser",
    "set session authorization postgres; alter role {app} superuser",
    "select set_config('role', 'postgres', false); alter role {app} superuser",
    "alter role {app} superuser",
    "set transaction read write; alter role {app} superuser",
    "copy (select 1) to program 'touch {trace}'",
    "copy (select 1) to '{trace}'",
    "select pg_read_file('/etc/passwd')",
    "select lo_export(lo_from_bytea(0, 'x'), '{trace}')",
    "update patients set family = 'evil'",
    "create table public.evil_made()",
    "create temp table evil_made(); insert into evil_made default values",
    "declare evil_cursor cursor with hold for select evil_later()",
    "set log_min_messages = debug1",
    "set log_statement = 'all'",
    "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()",
)
VIEW = """\
create role {app} login;
{whose}
create function evil_once(what text) returns text language plpgsql as $evil$
begin
 begin
  execute what;
  return 'done: ' || what;
 exception when others then
  return 'refused: ' || what;
 end;
end $evil$;
create table evil_tries as select unnest(array[{tries}]) as what;
create view harmless as select string_agg(evil_once(what), '; ' order by what) as answer,
 (select rolsuper from pg_roles where rolname = current_user) as is_superuser,
 current_user::text ~ '^dental_pms_reader_' or current_database() <> 'dental_pms_drill' and current_user = '{asks}'
 as is_who_asks
 from evil_tries;
"""
# Whose the database is, and who then asks on live; of a superuser's a role that is made for it.
WHOSE = {
    "a superuser's database": (
        "alter table patients owner to postgres; alter function reports.odd(text) owner to postgres;",
        "",
    ),
    "the application's database": (
        'alter database "{database}" owner to {app}; grant create on schema public to {app}; set role {app};',
        "{app}",
    ),
}
TELLS = "select rolpassword from pg_authid"
TOLD_NOBODY = f"select current_database() = 'dental_pms_drill' or evil_once('{TELLS}') ~ '^refused'"


@contextlib.contextmanager
def evil_view(site: Site, tries: tuple[str, ...], whose: str) -> Iterator[str]:
    """Have a view in the database whose functions try all that; the role that they would give rights to."""
    app, trace = f"app_{site.place.name}", site.place / "trace"
    quoted = ", ".join("$try$" + each.format(app=app, trace=trace) + "$try$" for each in tries)
    site.place.chmod(0o1777)
    made, asks = (text.format(app=app, database=site.server.database) for text in WHOSE[whose])
    sql(site.server, VIEW.format(app=app, tries=quoted, whose=made, asks=asks))
    try:
        yield app
    finally:
        sql(site.server, f"reassign owned by {app} to postgres; drop owned by {app}; drop role {app}")


def rights(site: Site, app: str) -> str:
    return sql(site.server, f"select rolsuper from pg_roles where rolname = '{app}'")  # noqa: S608 - ours


ONLY_LIVE_FAILS = """\
select case when current_database() = 'dental_pms_drill' then 1 else (select min(family::int) from patients) end"""
ALL_REFUSED = "select answer !~ 'done: ' and not is_superuser and is_who_asks from harmless"


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "what drill.checks and drill.same_as_live ask calls functions that want rights")
@pytest.mark.parametrize("whose", list(WHOSE))
def test_functions_that_the_admins_queries_call_get_no_right(own_database: Site, whose: str) -> None:
    site = own_database
    with evil_view(site, TRIED, whose) as app:
        site.takes("db")
        logged = log(site)
        asked = {"evil": ALL_REFUSED, **({"told": TOLD_NOBODY} if "application" in whose else {})}
        site.configure({"drill.checks": {"evil": ALL_REFUSED}, "drill.same_as_live": asked})
        with listening(site) as journal:
            done = site.run("drill", "latest", wrapper=journal.wrapper)
            told = journal.close()
        for proof in ("check_evil", *(f"same_as_live_{name}" for name in asked)):
            assert f"proof_{proof}=passed\n" in done.stdout, done.stdout + done.stderr
        assert rights(site, app) == "f"
        assert sql(site.server, "select count(*) from patients where family = 'evil'") == "0"
        assert not (site.place / "trace").exists()
        assert sql(site.server, "select count(*) from pg_roles where rolname like 'dental_pms_reader%'") == "0"
        assert log(site) == logged
        assert done.stdout.endswith("drill_status=proven\n")
        faults.saw(status=done.returncode, store=faults.AS_BEFORE + ", the drilled one proven", events=events(told))
        site.configure({"drill.checks": None, "drill.same_as_live": None})
        drills.recovers(site)


def log(site: Site) -> str:
    """Return what the live server has logged of rows, errors and statements."""
    text = Path(f"{site.server.host}.log").read_text(errors="replace")
    return "\n".join(line for line in text.splitlines() if "checkpoint" not in line)


@pytest.mark.fault("Somebody evil", "what drill.same_as_live asks fails with a row in its error")
def test_an_error_that_quotes_a_row_comes_into_no_log(own_database: Site) -> None:
    site = own_database
    site.takes("db")
    logged = log(site)
    site.configure({"drill.same_as_live": {"odd": ONLY_LIVE_FAILS}})
    met = drills.fails(site, "latest", cause="drill")
    assert "the query failed on the live database (SQLSTATE 22P02)" in met.stderr
    assert log(site) == logged
    for canary in CANARIES:
        assert canary not in log(site)
    site.configure({"drill.same_as_live": None})
    drills.recovers(site)


@pytest.mark.sweep
@pytest.mark.fault("Somebody evil", "what drill.same_as_live asks catches the time limit and goes on")
def test_a_function_that_catches_the_time_limit_is_ended(own_database: Site) -> None:
    site = own_database
    site.takes("db")
    site.configure({"drill.same_as_live": {"slow": "select stays()"}})
    stays = """create function stays() returns int language plpgsql as $f$ begin
     if current_database() = 'dental_pms_drill' then return 1; end if;
     loop begin perform pg_sleep(1000); exception when query_canceled then null; end; end loop; end $f$"""
    sql(site.server, stays)
    site.takes("db")
    sleep = f"select count(*) from pg_stat_activity where datname = '{site.server.database}' and wait_event = 'PgSleep'"  # noqa: S608 - ours
    with listening(site) as journal:
        with site.running("drill", "latest", wrapper=journal.wrapper) as process:
            wait_until(lambda: sql(site.server, sleep) == "1")
            out, err = process.communicate(timeout=ENDS_WITHIN_S)
        told = journal.close()
    assert "proof_same_as_live_slow=not checked\n" in out, err
    assert out.endswith("drill_status=proven\n")
    assert sql(site.server, sleep) == "0"
    faults.saw(status=process.returncode, store="a set that is proven, with what was not checked", events=events(told))
    site.configure({"drill.same_as_live": None})
    drills.recovers(site)


def test_rows_that_a_policy_hides_from_others_are_there_for_the_admins_queries(own_database: Site) -> None:
    site = own_database
    sql(site.server, "alter table patients enable row level security")
    site.takes("db")
    query = {"all": "select count(*) from patients"}
    site.configure({"drill.checks": {"all": "select count(*) > 3000 from patients"}, "drill.same_as_live": query})
    said = drills_well(site, "latest")
    assert (said["proof_check_all"], said["proof_same_as_live_all"]) == ("passed", "passed")


HIDDEN = """\
create role {role}_doctor; create role {role} login; alter database "{database}" owner to {role};
create table notes (diagnosis text); alter table notes owner to {role}_doctor; grant select on notes to {role};
alter table notes enable row level security; create policy own on notes using (current_user = '{role}_doctor');
insert into notes values ('one'), ('two');
create function told() returns bigint language plpgsql as $$ declare n bigint; begin
 select count(*) into n from public.notes; raise exception 'he sees %', n; end $$; alter function told() owner to {role}
"""


def test_a_policy_that_hides_rows_from_the_owner_who_asks_hides_them_from_his_functions(own_database: Site) -> None:
    site = own_database
    role = f"owner_{site.place.name}".lower()
    sql(site.server, HIDDEN.format(role=role, database=site.server.database))
    try:
        site.takes("db")
        site.configure({"drill.same_as_live": {"rows": "select count(*) from notes"}})
        assert drills_well(site, "latest")["proof_same_as_live_rows"] == "not checked"
        site.configure({"drill.same_as_live": {"rows": "select told()"}})
        met = site.run("drill", "latest")
        assert "he sees" not in met.stderr + met.stdout
    finally:
        sql(site.server, f'alter database "{site.server.database}" owner to postgres')
        sql(site.server, f"drop owned by {role}, {role}_doctor cascade; drop role {role}; drop role {role}_doctor")


@pytest.mark.thorough
def test_a_query_that_needs_a_right_beyond_reading_is_no_fault_of_the_set(own_database: Site) -> None:
    site = own_database
    sql(site.server, "create function kept() returns bool language sql as 'select true'")
    sql(site.server, "revoke execute on function kept() from public")
    site.takes("db")
    site.configure({"drill.checks": {"kept": "select kept()"}})
    met = drills.fails(site, "latest", cause="configuration", status=78)
    assert "check kept: the query needs a right beyond reading" in met.stderr


@pytest.mark.thorough
def test_a_role_that_is_no_superuser_asks_live_as_itself(own_database: Site) -> None:
    site = own_database
    role = f"plain_{site.place.name}"
    sql(site.server, f"create role {role} login; grant pg_read_all_data to {role}")
    site.takes("db")
    try:
        site.configure({"native.user": role, "drill.same_as_live": {"all": "select count(*) from patients;"}})
        assert drills_well(site, "latest")["proof_same_as_live_all"] == "passed"
    finally:
        sql(site.server, f"drop role {role}")


@pytest.mark.thorough
def test_a_query_that_the_owner_has_no_right_to_ask_is_not_checked_and_says_who_asks(own_database: Site) -> None:
    site = own_database  # patients is dental_owner's, all else the superuser's
    sql(site.server, "create table others as select 1 as n")
    site.takes("db")
    site.configure({"drill.same_as_live": {"all": "select n from others"}})
    assert drills_well(site, "latest")["proof_same_as_live_all"] == "not checked"
    said = site.run("show", "latest").stdout
    assert "db: dental_owner asks on the live server and lacks a right that the query needs, expected" in said


def test_whoever_owns_most_and_has_no_right_beyond_it_asks_live(own_database: Site) -> None:
    site, roles = own_database, [f"{name}_{own_database.place.name}" for name in ("plain", "mighty")]
    plain, mighty = roles
    database = site.server.database

    def asks() -> tuple[str | None, bool]:
        asked = compare_live.WHO.replace("{relation}", "null")
        who = json.loads(sql(site.server, f"set search_path = pg_catalog; {asked}"))
        assert (who["user"], who["superuser"]) == ("postgres", True)
        return who["plain"], who["others"]

    sql(site.server, f"create role {plain}; create role {mighty}; grant pg_read_server_files to {mighty}")
    try:
        assert asks() == ("dental_owner", True)
        sql(site.server, *(f"create table t{n} (); alter table t{n} owner to {plain};" for n in range(9)))
        assert asks() == (plain, True)
        sql(site.server, f'alter database "{database}" owner to dental_owner')
        assert asks() == ("dental_owner", True)
        sql(site.server, f'alter database "{database}" owner to {mighty}')
        assert asks() == (plain, True)
        sql(site.server, f"grant postgres to {plain}; alter table patients owner to {mighty}")
        sql(site.server, f"alter function reports.odd(text) owner to {mighty}")
        assert asks() == (None, True)
        sql(site.server, "alter function reports.odd(text) owner to dental_owner")
        sql(site.server, f"reassign owned by {plain}, {mighty} to postgres")
        assert asks() == ("dental_owner", True)  # of a function
        sql(site.server, "alter function reports.odd(text) owner to postgres")
        assert asks() == (None, False)
    finally:
        sql(site.server, f"reassign owned by {plain}, {mighty} to postgres", f"drop role {plain}, {mighty}")
