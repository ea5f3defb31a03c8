"""Somebody evil wrote what is restored, or what was backed up: it fills a new database, and reaches nothing else."""

import contextlib
import gzip
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from dental_pms_backup.backup import hold_names
from dental_pms_backup.errors import DumpError
from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from dental_pms_backup.store.sets import Kind
from tests import faults, scope
from tests.integration.conftest import databases_like
from tests.integration.drills import drills_well, know
from tests.integration.drills import fails as drill_fails
from tests.integration.faults import cause, events, kept_beside, listening
from tests.integration.faults import fails as is_refused
from tests.integration.support import Ran, Site, as_cluster_user, awaited, dump, session, sql

NOT_OURS = "rolname !~ '^dental_pms_restore_|^evil_.*_owner$'"  # of a restore that another test has killed; the heir
AS_IT_WAS = "the live database as it was"
OF_CLUSTER = b"--\n-- PostgreSQL database cluster dump complete\n"
AT_END = "--\n-- PostgreSQL database dump complete\n"
# What somebody who becomes the superuser for a moment would do; each by itself, and quietly.
REACH = """\
CREATE FUNCTION public.reach() RETURNS integer LANGUAGE plpgsql AS $reach$
DECLARE step text;
BEGIN
    FOREACH step IN ARRAY ARRAY[
        'alter role {app} superuser', 'alter role current_user superuser', 'create role {app}_made superuser',
        'alter system set application_name = ''{app}''', 'alter database {live} set search_path = ''{app}''',
        'alter database {live} rename to {app}_renamed', 'reset role', 'reset session authorization',
        'set session authorization postgres', 'grant pg_execute_server_program to {app}',
        'copy (select 1) to program ''touch {place}/touched''', 'copy (select 1) to ''{place}/touched''',
        'create table public.read as select pg_read_file(''PG_VERSION'')',
        'select lo_export(lo_from_bytea(0, ''x''), ''{place}/touched'')', 'create extension dblink',
        'set log_statement = ''all''', 'alter role {app} superuser']
    LOOP
        BEGIN
            EXECUTE step;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    RETURN 1;
END $reach$;
CREATE FUNCTION public.innocent(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE
    AS 'BEGIN PERFORM public.reach(); RETURN n; END';
"""
# Where it is run while a dump is replayed: each with a row, which comes with it.
PLACES = """\
CREATE TABLE public.checked (n integer, CHECK (public.reach() = n));
CREATE DOMAIN public.odd AS integer CHECK (public.reach() = VALUE);
CREATE TABLE public.domains (n public.odd);
CREATE TABLE public.generated (n integer, m integer GENERATED ALWAYS AS (public.innocent(n)) STORED);
CREATE TABLE public.defaults (n integer, m integer DEFAULT public.reach());
CREATE TABLE public.indexed (n integer);
CREATE INDEX ON public.indexed (public.innocent(n));
CREATE INDEX ON public.indexed (n) WHERE public.innocent(n) > 0;
CREATE TABLE public.triggered (n integer);
CREATE FUNCTION public.by_trigger() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM public.reach(); RETURN NEW; END';
CREATE TRIGGER evil BEFORE INSERT ON public.triggered FOR EACH ROW EXECUTE FUNCTION public.by_trigger();
CREATE TABLE public.guarded (n integer);
CREATE POLICY evil ON public.guarded USING (public.reach() = 1);
ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.guarded FORCE ROW LEVEL SECURITY;
CREATE STATISTICS public.counted ON (public.innocent(n)), n FROM public.indexed;
CREATE FUNCTION public.apart(a integer, b integer) RETURNS double precision LANGUAGE sql IMMUTABLE
    AS 'SELECT public.innocent(1)::double precision';
CREATE TYPE public.span AS RANGE (subtype = integer, subtype_diff = public.apart);
CREATE TABLE public.spans (s public.span);
CREATE INDEX ON public.spans USING gist (s);
CREATE VIEW public.seen AS SELECT public.reach() AS n;
CREATE MATERIALIZED VIEW public.kept AS SELECT public.reach() AS n;
"""
ROWS = "".join(
    f"\n--\n-- Data for Name: {table}; Type: TABLE DATA; Schema: public; Owner: postgres\n--\n\n"
    f"COPY public.{table} ({column}) FROM stdin;\n{row}\n\\.\n\n"
    for table, column, row in (
        *(
            (name, "n", "1")
            for name in ("checked", "domains", "generated", "defaults", "indexed", "triggered", "guarded")
        ),
        ("spans", "s", "[1,5)"),
    )
)
DIRECTLY = {
    "COPY (SELECT 1) TO PROGRAM 'touch {place}/touched';": "a COPY that pg_dump does not write",
    "COPY public.lines FROM '/etc/passwd';": "a COPY that pg_dump does not write",
    "INSERT INTO public.lines SELECT pg_read_file('PG_VERSION');": "SQLSTATE 42501, at INSERT",
    "SELECT lo_export(lo_from_bytea(0, 'x'), '{place}/touched');": "SQLSTATE 42501, at SELECT",
    "SELECT lo_import('/etc/passwd');": "SQLSTATE 42501, at SELECT",
    "SELECT pg_ls_dir('.');": "SQLSTATE 42501, at SELECT",
    "ALTER SYSTEM SET application_name = 'evil';": "ALTER SYSTEM: of the server and not of a database",
    "CREATE ROLE {app}_made SUPERUSER;": "CREATE ROLE: of the server and not of a database",
    "ALTER ROLE {app} SUPERUSER;": "ALTER ROLE: of the server and not of a database",
    "DROP DATABASE {live};": "DROP DATABASE, as pg_dump --create writes it: of the server and not of a database",
    "ALTER DATABASE {live} RENAME TO {app};": "ALTER DATABASE, as pg_dump --create writes it: of the server and not",
    "DO $$ BEGIN EXECUTE 'create role {app}_made superuser'; END $$;": "SQLSTATE 42501, at DO",
    "DO $$ BEGIN EXECUTE 'alter role {app} superuser'; END $$;": "SQLSTATE 42501, at DO",
    "DO $$ BEGIN EXECUTE 'alter database {live} set search_path = evil'; END $$;": "SQLSTATE 42501, at DO",
    "DO $$ BEGIN EXECUTE 'copy (select 1) to program ''touch {place}/touched'''; END $$;": "SQLSTATE 42501, at DO",
    "DO $$ BEGIN EXECUTE 'set session authorization postgres'; END $$;": "SQLSTATE 42501, at DO",
    "GRANT pg_execute_server_program TO {app};": "SQLSTATE 42501, at GRANT",
    "GRANT ALL ON TABLESPACE pg_global TO {app};": "SQLSTATE 42501",
    "CREATE FUNCTION public.c(cstring) RETURNS cstring LANGUAGE c AS '/lib/x', 'system';": (
        "SQLSTATE 42501, at CREATE FUNCTION public.c"
    ),
    "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.by_trigger();": (
        "SQLSTATE 42501, at CREATE EVENT TRIGGER e"
    ),
    "CREATE SUBSCRIPTION s CONNECTION 'dbname={live}' PUBLICATION p;": "SQLSTATE ",
    "UPDATE pg_catalog.pg_authid SET rolsuper = true;": "SQLSTATE 42501, at UPDATE",
    "ALTER FUNCTION pg_catalog.pg_read_file(text) OWNER TO {app};": "changes owners or rights of what it does not make",
    "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO {app};": "changes owners or rights of what it does not",
    "GRANT ALL ON SCHEMA pg_catalog TO {app};": "changes owners or rights of what it does not make itself",
    "GRANT SELECT ON TABLE pg_authid TO PUBLIC;": "changes owners or rights of what it does not make itself",
}
COMMANDS = (
    "\\connect {live}",
    "\\c {live}\nDROP TABLE public.lines;",
    "\\! touch {place}/touched",
    "SELECT 1; \\! touch {place}/touched",
    "SELECT 1 \\gexec",
    "SELECT 'touch {place}/touched' \\g |sh",
    "\\o |touch {place}/touched",
    "\\i {place}/script",
    "\\ir {place}/script",
    "\\copy public.lines from program 'touch {place}/touched; echo x'",
    "\\set x `touch {place}/touched`",
    "\\setenv PAGER 'touch {place}/touched'",
    "/* /* */ */ \\! touch {place}/touched",
    "-- comment\r\\! touch {place}/touched\n",
    "SELECT 'C:\\' \\! touch {place}/touched\n;",
    "SELECT E'a'\n'\\'' \\! touch {place}/touched\n;",
    "SELECT E'a' U&'b'\n'c\\' \\! touch {place}/touched\n';",
    "SELECT B'1'\n'0\\' \\! touch {place}/touched\n';",
    "SET standard_conforming_strings = off; SELECT '\\'; \\! touch {place}/touched\n';",
    "\\restrict theirs\n\\unrestrict theirs\n\\! touch {place}/touched",
    "{unrestrict}\n\\! touch {place}/touched",
    "COPY public.lines (content) FROM stdin;\nx\n\\.\n\\! touch {place}/touched",
    "CREATE FUNCTION begin() RETURNS integer LANGUAGE sql AS 'select 1'; COPY public.lines FROM STDIN; END;\n'\n\\.\n"
    "\\! touch {place}/touched\n';",
)
# Behind a colon psql sees a variable, and no word where a literal begins with N: the server sees a syntax error.
READ_OTHERWISE = (
    "CREATE n'x' FUNCTION begin;\nCOPY public.lines (content) FROM stdin;\n\\! touch {place}/touched\n\\.\n",
    "SELECT 1 :e'\\' \\! touch {place}/touched\n';",
    "SELECT 1 :a$f$ ' $f$ \\! touch {place}/touched\n';",
)


@pytest.fixture
def victim(new_site: Site, live: OnHost) -> Iterator[Site]:
    """A site whose database belongs to the application, a role without rights, with a set of it."""
    site, name = new_site, f"evil_{new_site.place.name}".lower()
    sql(live, f"create role {name} login", f'create database "{name}" owner {name}')
    site.server = postgres.in_database(live, name)
    site.configure({"native.database": name})
    site.place.chmod(0o1777)
    (site.place / "script").write_text(f"\\! touch {site.place}/touched\n")
    sql(site.server, f"set role {name}; create table lines as select n::text as content from generate_series(1, 9) n")
    site.takes("db")
    try:
        yield site
    finally:
        for made in databases_like(live, name):
            sql(live, f'drop database "{made}" with (force)')
        sql(live, "reset all", f"drop role {name}", f"drop role if exists {name}_owner, {name}_owner_2")


def filled(site: Site, text: str) -> str:
    live = site.server.database
    (file,) = site.store.glob("db/db_*.sql.gz")
    token = re.search(rb"(?m)^\\restrict (\w+)$", gzip.decompress(file.read_bytes()))
    unrestrict = f"\\unrestrict {token[1].decode()}" if token else "\\unrestrict x"
    words = {"{live}": live, "{app}": live, "{place}": str(site.place), "{unrestrict}": unrestrict}
    return re.sub(r"\{(live|app|place|unrestrict)\}", lambda found: words[found[0]], text)


def with_more(site: Site, more: str) -> bytes:
    """Return the set's dump with something more before its end."""
    (file,) = site.store.glob("db/db_*.sql.gz")
    before, end, after = gzip.decompress(file.read_bytes()).decode().rpartition(AT_END)
    return (before + filled(site, more) + "\n" + end + after).encode()


def elsewhere(site: Site, more: str) -> str:
    """Return a file from elsewhere: the set's dump with something more before its end."""
    file = site.place / "elsewhere.sql"
    file.write_bytes(with_more(site, more))
    return str(file)


def reached(site: Site) -> dict[str, object]:
    """Return what somebody could have reached: roles, databases, settings, files, and what is live."""
    server = postgres.in_database(site.server, "postgres")
    return {
        "roles": sql(server, f"select r::text from pg_authid r where {NOT_OURS} order by 1"),
        "members": sql(
            server,
            "select roleid::regrole, member::regrole from pg_auth_members"
            " where roleid::regrole::text !~ '^evil_.*_owner$' order by 1, 2",
        ),
        "databases": sql(server, "select datname, datdba, datconnlimit, datacl from pg_database order by 1"),
        "settings": sql(server, "select * from pg_db_role_setting order by 1, 2"),
        "system": sql(server, "select pg_read_file('postgresql.auto.conf')"),
        "live": dump(site.server),
        "files": sorted(path.name for path in site.place.iterdir() if path.name != "elsewhere.sql"),
    }


def fails(site: Site, *words: str) -> str:
    """Restore, expecting that it fails, that nothing is reached and nothing left; return what was said."""
    before = reached(site)
    with listening(site) as journal:
        done = site.run("restore", "db", *words, wrapper=journal.wrapper)
        told = journal.close()
    assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "the live database is as it was, and nothing is left of the new one" in done.stderr
    assert reached(site) == before
    faults.saw(status=1, cause=cause(told), store=AS_IT_WAS, events=events(told))
    return done.stderr


def comes(site: Site, *words: str) -> OnHost:
    """Restore, expecting that it comes, and that nothing is reached; return the new database, the only new thing."""
    before = reached(site)
    with listening(site) as journal:
        done = site.run("restore", "db", *words, wrapper=journal.wrapper)
        told = events(journal.close())
    assert done.returncode == 0, done.stderr
    (name,) = re.findall("^restore_target=(.+)$", done.stdout, re.MULTILINE)
    made = postgres.in_database(site.server, name)
    assert sql(made, "select to_regclass('public.read')") == ""
    rows = sql(
        made, "select oid, datname, datdba, datconnlimit, datacl from pg_database where datname = current_database()"
    )
    after = reached(site)
    gone = rows.partition("|")[2]
    databases = str(after["databases"]).splitlines()
    assert gone in databases
    assert after | {"databases": "\n".join(line for line in databases if line != gone)} == before
    faults.saw(status=0, store=AS_IT_WAS, events=told)
    return made


def recovers(site: Site) -> None:
    """Restore the set, which leaves no role."""
    assert sql(site.server, "select rolname from pg_roles where rolname ~ '^dental_pms_restore_'") == ""
    made = comes(site, site.sets()[-1], "--to", f"{site.server.database}_again")
    assert dump(made) == dump(site.server)
    faults.recovered()


@pytest.mark.fault("Somebody evil", "a file from elsewhere has commands of psql in it, in the open or well hidden")
def test_no_command_of_psql_in_a_file_is_run(victim: Site) -> None:
    for command in scope.some(COMMANDS, 6):
        said = fails(victim, elsewhere(victim, command))
        assert "db: the file cannot be replayed (line " in said, command
        assert "touched" not in said
    recovers(victim)


@pytest.mark.thorough
@pytest.mark.fault(
    "Somebody evil", "a file from elsewhere is a part of pg_dumpall's, with the line that goes elsewhere"
)
def test_a_part_of_pg_dumpall_goes_nowhere_else(victim: Site) -> None:
    text = as_cluster_user(victim.server, "pg_dumpall", "--exclude-database=practice").stdout
    begins = text.index(f"\n\\connect {victim.server.database}")
    section = text[begins : text.index(AT_END, begins)]
    file = victim.place / "elsewhere.sql"
    file.write_text(f"{section}{AT_END}--\n\n")
    assert "a command of psql), expected only SQL and rows" in fails(victim, str(file))
    recovers(victim)


OLD_PSQL = r"""case "$*" in *'\restrict'*) echo 'invalid command \restrict' >&2; exit 1 ;; esac
case "$*" in
*--file=-*) tee "$0.$$" | sed --quiet '/^\\restrict/{s/.*/invalid command \\restrict/;w /dev/stderr
q3};p' | "$real" "$@" ;;
*) exec "$real" "$@" ;;
esac"""


def read_by_psql(site: Site) -> list[str]:
    return [path.read_text() for path in (site.place / "clients").glob("psql.*")]


@pytest.mark.sweep
@pytest.mark.fault(
    "Somebody evil", "a file from elsewhere has commands of psql in it, and psql is from before August 2025"
)
def test_no_command_in_a_file_is_run_by_a_psql_that_knows_no_restrict(victim: Site) -> None:
    victim.fake("psql", OLD_PSQL)
    (victim.place / "clients").chmod(0o1777)
    for command in scope.some(COMMANDS, 6):
        assert "db: the file cannot be replayed (line " in fails(victim, elsewhere(victim, command)), command
        assert not any("touched" in read for read in read_by_psql(victim)), command
    for command in READ_OTHERWISE:
        said = fails(victim, elsewhere(victim, command))
        assert "SQLSTATE 42601" in said or "BEGIN in the definition of a function" in said
    # what an old psql reads depends on what the dump's own code has set meanwhile
    flips = (
        "CREATE FUNCTION public.flip(text) RETURNS boolean LANGUAGE sql AS $$ SELECT set_config("
        "'standard_conforming_strings', 'off', false) IS NOT NULL AND set_config('client_encoding', 'SJIS', false) "
        "IS NOT NULL $$;\nCREATE TABLE public.flips (t text CHECK (public.flip(t)));\n"
        "INSERT INTO public.flips VALUES ('x');\nCOMMENT ON TABLE public.flips IS 'a\\';\n"
        "COMMENT ON TABLE public.flips IS ' \\! touch {place}/touched\n';\n"
    )
    made = comes(victim, elsewhere(victim, flips), "--to", f"{victim.server.database}_flips")
    assert any("CREATE TABLE public.flips" in read for read in read_by_psql(victim)), "what it reads is seen"
    assert sql(made, "select obj_description('public.flips'::regclass)").startswith("\\! touch")
    recovers(victim)


@pytest.mark.fault(
    "Somebody evil", "a file from elsewhere reaches for files, programs, roles and other databases in SQL"
)
def test_no_sql_in_a_file_gets_at_more_than_the_new_database(victim: Site) -> None:
    for statement, no in scope.some(list(DIRECTLY.items()), 6):
        said = fails(victim, elsewhere(victim, REACH + PLACES + statement))
        assert filled(victim, no) in said, (statement, said)
        assert "--as-superuser" not in said
    recovers(victim)


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "what a file from elsewhere makes runs while its rows are loaded, and looks around")
@pytest.mark.parametrize("how", ["to", "in place"])
def test_what_a_file_makes_runs_as_a_role_without_rights(victim: Site, how: str) -> None:
    file = elsewhere(victim, REACH + PLACES + ROWS + "REFRESH MATERIALIZED VIEW public.kept;")
    if how == "to":
        made = comes(victim, file)
        assert sql(made, "select count(*) from only public.checked") == "1"
        assert (
            sql(made, "select distinct relowner::regrole from pg_class where relnamespace = 'public'::regnamespace")
            == f"{victim.server.database}_owner"
        )
        recovers(victim)
        return
    before = reached(victim)
    with listening(victim) as journal:
        done = victim.run("restore", "db", file, "--in-place", "--yes", "--no-safety-set", wrapper=journal.wrapper)
        told = events(journal.close())
    assert done.returncode == 0, done.stderr
    after = reached(victim)
    for each in ("roles", "members", "settings", "system", "files"):
        assert after[each] == before[each]
    assert sql(victim.server, "select count(*) from only public.checked") == "1"
    assert dump(kept_beside(victim, done)) == before["live"]
    faults.saw(status=0, store="the file's content, live kept beside", events=told)
    again = victim.run("restore", "db", victim.sets()[-1], "--in-place", "--yes", "--no-safety-set")
    assert (again.returncode, dump(victim.server)) == (0, before["live"]), again.stderr
    faults.recovered()


@pytest.mark.thorough
@pytest.mark.fault(
    "Somebody evil", "whoever may make tables in the database puts a function under them, and a set is restored"
)
def test_what_the_application_made_runs_as_a_role_without_rights(victim: Site) -> None:
    app = victim.server.database
    forced = "ALTER TABLE public.guarded FORCE ROW LEVEL SECURITY;\n"  # else its owner may not load it
    script = REACH + PLACES.replace(forced, "") + re.sub(r"\n--\n.*\n--\n", "", ROWS)
    as_application = replace(victim.server, user=app)
    loaded = as_cluster_user(as_application, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", stdin=filled(victim, script))
    assert loaded.returncode == 0, loaded.stderr
    sql(as_application, "create view public.plain as select 1 as n")
    sql(victim.server, "create materialized view public.of_the_boss as select n from public.plain")
    sql(as_application, "create or replace view public.plain as select public.reach() as n")
    # his own view is filled as himself, who may set what he likes for a database of his
    maintenance = postgres.in_database(victim.server, "postgres")
    sql(maintenance, f"alter database {app} reset all", f"alter database {app} owner to postgres")
    name = victim.takes("db")
    made = comes(victim, name)
    assert dump(made) == dump(victim.server)
    assert sql(made, "select count(*) from public.kept, public.of_the_boss") == "1"
    recovers(victim)
    sql(maintenance, f"alter database {app} owner to {app}")


RUN_WHILE_LOADED = ("checked", "domains", "generated", "defaults", "indexed", "triggered")


@pytest.mark.sample(9)
@pytest.mark.parametrize("table", RUN_WHILE_LOADED)
def test_each_place_is_one_where_a_superusers_replay_would_be_lost(victim: Site, table: str) -> None:
    """So the attacks are real ones: with --as-superuser, which the manual warns of, the application becomes one."""
    app = victim.server.database
    only = re.sub(r"(?s)ARRAY\[.*?\]", f"ARRAY['alter role {app} superuser']", REACH)
    rows = "".join(each for each in ROWS.split("\n--\n-- ")[1:] if f"Name: {table};" in each)
    (file,) = victim.store.glob("db/db_*.sql.gz")
    file.write_bytes(
        gzip.compress(with_more(victim, f"{only}{PLACES.split('CREATE VIEW', maxsplit=1)[0]}\n--\n-- {rows}"))
    )
    know(victim, Kind.DB)
    done = victim.run("restore", "db", "latest", "--as-superuser")
    assert done.returncode == 0, done.stderr
    assert sql(victim.server, f"select rolsuper from pg_roles where rolname = '{app}'") == "t"


# What others own is, while a set is replayed, the same role's as what the application has made.
OTHERS = """\
CREATE TABLE public.ledger (amount integer);
INSERT INTO public.ledger VALUES (1);
CREATE SEQUENCE public.numbers;
CREATE FUNCTION public.admin_fn() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT 'harmless' $$;
"""
MADE_BY_THE_APP = """\
CREATE FUNCTION public.late() RETURNS integer LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO public.ledger VALUES (7); RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN 0; END';
CREATE FUNCTION public.by_sql() RETURNS void LANGUAGE sql AS 'CREATE TABLE public.more (n integer)';
CREATE FUNCTION public.steps(steps text[]) RETURNS boolean LANGUAGE plpgsql AS $steps$
DECLARE step text;
BEGIN
    IF current_user !~ '^dental_pms_restore_' THEN RETURN true; END IF;
    FOREACH step IN ARRAY steps LOOP
        BEGIN
            EXECUTE step;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    RETURN true;
END $steps$;
CREATE FUNCTION public.analyzed(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE
    AS 'BEGIN IF current_query() ~ ''^analyze'' THEN PERFORM public.steps(ARRAY[''select public.late()'']); END IF;
        RETURN n; END';
"""
IN_ITS_ROWS = """\
CREATE TABLE public.aaa (n integer CHECK (public.steps(ARRAY[{steps}])));
INSERT INTO public.aaa VALUES (1);
CREATE TABLE public.zzz (n integer CHECK (public.steps(ARRAY[{steps}])));
INSERT INTO public.zzz VALUES (1);
"""
QUIETLY = (
    "create or replace function public.admin_fn() returns text language plpgsql security definer as"
    " $$ begin execute 'alter role {app} superuser'; return 'mine'; end $$",
    "create function public.admin_fn(integer) returns text language sql security definer as 'select public.admin_fn()'",
    "do $$ begin execute 'create table public.more (n integer)'; end $$",
    "select public.by_sql()",
    "select query_to_xml('select public.by_sql()', true, true, '')",
    "create table public.more as select 1 as n",
    "select 1 as n into public.more",
    "create temp table ledger (n integer)",
    "alter table public.ledger add column n integer",
    "alter table public.ledger owner to pg_database_owner",
    "reassign owned by current_user to pg_database_owner",
    "grant all on table public.ledger to current_user",
    "alter default privileges grant all on tables to public",
    "comment on table public.ledger is 'mine'",
    "do $$ begin execute format('comment on database %I is ''mine''', current_database()); end $$",
    "drop table public.ledger",
    "drop owned by current_user",
    "update public.ledger set amount = 1000000",
    "delete from public.ledger",
    "truncate public.ledger",
    "with changed as (update public.ledger set amount = 2 returning 1) select from changed",
    "declare at_commit cursor with hold for select public.late()",
)
# An immutable function, which the server runs while it makes the table.
AS_ITS_TABLE_IS_MADE = """\
CREATE FUNCTION public.at_{table}(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE
    AS $at$ BEGIN PERFORM public.steps(ARRAY[{step}]); RETURN n; END $at$;
CREATE TABLE public.{table} (n integer, m integer GENERATED ALWAYS AS (n + public.at_{table}(1)) STORED);
"""
# Until a session of whichever database holds the lock by that number.
SLOWLY = """\
CREATE FUNCTION public.slowly(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $slowly$ BEGIN
    WHILE session_user ~ '^dental_pms_restore_' AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks
        WHERE locktype = 'advisory' AND objid = CASE WHEN current_query() ~* '^analyze' THEN 4712 ELSE 4711 END)
    LOOP PERFORM pg_sleep(0.02); END LOOP; RETURN n; END $slowly$;
CREATE TABLE public.slow (n integer);
INSERT INTO public.slow VALUES (1);
CREATE INDEX ON public.slow (public.slowly(n));
"""
KNOWN_BY_HIM = "do $$ begin execute format('alter role %I password ''known''', session_user); end $$"
AT_WORK = (
    "select usename, datname from pg_stat_activity where usename ~ '^dental_pms_restore_' and query ~* '^{}' limit 1"
)
ODD_NAMES = {
    "a column": ('create table odd ("a\nb" int)', 'TABLE "public"."odd".U&"a\\+00000Ab"', "RENAME COLUMN U&"),
    "a table": ('create table "a\nb" (n int)', 'TABLE "public".U&"a\\+00000Ab"', "RENAME TO new_name"),
    "a type": ("create type \"a\rb\" as enum ('a')", 'TYPE "public".U&"a\\+00000Db"', "RENAME TO new_name"),
}
NOTICED = {
    "the path": ("select set_config('search_path', 'public, pg_catalog', false)", "SQLSTATE DP008, at "),
    "the path, in the words of what is not set any more": (
        "select set_config('standard_conforming_strings', null, false),"
        " set_config('search_path', ' standard_conforming_strings=on', false)",
        "SQLSTATE DP008, at ",
    ),
    "a format": ("set local intervalstyle = 'sql_standard'", "SQLSTATE DP008, at "),
    "the role": ("set role pg_database_owner", "SQLSTATE 42501, at "),
    "the path, by a cursor that the server reads, and that the dump has": ("select 1", "SQLSTATE DP008, at "),
    "what the application reads": ("select set_config('app.vat', '99', false)", "SQLSTATE DP008, at "),
    "a row": (
        "insert into public.ledger values (9)",
        "1 tables have not the rows of the dump, the first is public.ledger",
    ),
    "a row, and operators by which it is not counted": (
        "insert into public.ledger select 9 where not exists (select from public.ledger where amount = 9)",
        "1 tables have not the rows of the dump, the first is public.ledger",
    ),
}
# The planner runs what is in statistics while we count.
HIDES = """\
CREATE FUNCTION public.never(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'select false';
CREATE OPERATOR public.< (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.never);
CREATE OPERATOR public.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.never);
CREATE FUNCTION public.hide(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $hide$ BEGIN
 IF current_query() ~ 'dental_pms.rows' AND current_user ~ '^dental_pms_restore_' THEN
  PERFORM set_config('search_path', 'public, pg_catalog', true); END IF;
 RETURN n; END $hide$;
CREATE STATISTICS public.hiding ON (public.hide(1) + n), n FROM public.aaa;
"""
# No function is the context in which the server itself reads a cursor, here for the bounds of a partition.
CURSORS = """\
CREATE FUNCTION public.opens() RETURNS boolean LANGUAGE plpgsql AS $opens$
DECLARE sets refcursor := 'sets'; tells refcursor := 'tells'; BEGIN
 IF current_user ~ '^dental_pms_restore_' THEN
  OPEN sets FOR EXECUTE 'select set_config(''search_path'', ''public, pg_catalog'', false)';
  OPEN tells FOR EXECUTE format('select %I.settings(true)', current_user); END IF;
 RETURN true; END $opens$;
CREATE DOMAIN public.reading AS text CHECK (public.opens() AND CASE WHEN current_user ~ '^dental_pms_restore_' THEN
 cursor_to_xml('sets', 1, true, false, '') IS NOT NULL AND cursor_to_xml('tells', 1, true, false, '') IS NOT NULL
 ELSE true END);
CREATE TABLE public.parts (k public.reading) PARTITION BY LIST (k);
CREATE TABLE public.parts_x PARTITION OF public.parts FOR VALUES IN ('x');
"""


def made_by_the_app(site: Site, steps: tuple[str, ...], more: str = "") -> None:
    """Make what the superuser owns in the database, and what the application has put under its own tables."""
    app = site.server.database
    sql(site.server, f"grant create on schema public to {app}", OTHERS)
    made = IN_ITS_ROWS.replace("{steps}", ", ".join(postgres.literal(step) for step in steps))
    script = filled(site, MADE_BY_THE_APP + made + more)
    loaded = as_cluster_user(
        replace(site.server, user=app), "psql", "-Xq", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", stdin=script
    )
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.sample(2)
@pytest.mark.fault(
    "Somebody evil", "what the application made changes what others own, while one role owns all that is restored"
)
@pytest.mark.parametrize("owner", ["the application", "the superuser"])
def test_what_the_application_made_changes_nothing_of_others_in_a_restore(victim: Site, owner: str) -> None:
    site, app = victim, victim.server.database
    maintenance = postgres.in_database(site.server, "postgres")
    if owner == "the superuser":
        sql(maintenance, f"alter database {app} owner to postgres")
    made_by_the_app(site, QUIETLY, "CREATE INDEX ON public.zzz (public.analyzed(n));")
    before = dump(site.server)
    rights = "select relname, relacl from pg_class where relnamespace = 'public'::regnamespace order by 1"
    expected = sql(site.server, rights)
    name = site.takes("db")
    with listening(site) as journal:
        done = site.run("restore", "db", name, "--in-place", "--yes", wrapper=journal.wrapper)
        told = events(journal.close())
    assert done.returncode == 0, done.stderr
    assert dump(site.server) == before
    assert sql(site.server, rights) == expected
    assert sql(site.server, "select public.admin_fn()") == "harmless"
    assert sql(site.server, "select count(*) from pg_shdescription where description = 'mine'") == "0"
    assert dump(kept_beside(site, done)) == before
    sql(maintenance, f"alter database {app} owner to {app}")
    faults.saw(status=0, store="the set's content, live kept beside", events=told)
    recovers(site)


@pytest.mark.sample(3)
@pytest.mark.fault(
    "Somebody evil", "what the application made adds a row of others, or sets how the rest of the set is read"
)
@pytest.mark.parametrize("what", list(NOTICED))
def test_what_the_application_made_sets_nothing_for_what_follows_in_a_restore(victim: Site, what: str) -> None:
    step, no = NOTICED[what]
    alter = f"alter database {victim.server.database}"
    sql(victim.server, f"{alter} set app.vat = '21'")
    made_by_the_app(victim, (step,), HIDES if "operators" in what else CURSORS if "cursor" in what else "")
    assert no in fails(victim, victim.takes("db"))
    sql(victim.server, "drop table public.aaa, public.zzz", f"{alter} reset app.vat")
    if "cursor" in what:
        sql(victim.server, "alter table public.parts detach partition public.parts_x")
    victim.takes("db")
    recovers(victim)


@pytest.mark.fault("Somebody evil", "what the application made sets the path before there is any row, and sets it back")
def test_what_runs_while_a_table_is_made_sets_nothing_for_what_follows_in_a_restore(victim: Site) -> None:
    made = ""
    for table, path in (("a_made", "public, pg_catalog"), ("z_made", "")):
        step = postgres.literal(f"select set_config('search_path', '{path}', false)")
        made += AS_ITS_TABLE_IS_MADE.replace("{table}", table).replace("{step}", step)
    made_by_the_app(victim, ("select 1",), made)
    assert "SQLSTATE DP008, at " in fails(victim, victim.takes("db"))
    sql(victim.server, "drop table public.a_made, public.z_made")
    victim.takes("db")
    recovers(victim)


@pytest.mark.fault("Somebody evil", "he logs in as the role that restores, to which what he made has given a password")
def test_nobody_else_logs_in_as_the_role_that_restores(victim: Site) -> None:
    site = victim
    made_by_the_app(site, (KNOWN_BY_HIM,), SLOWLY)
    name, before = site.takes("db"), dump(site.server)
    maintenance = postgres.in_database(site.server, "postgres")
    with ExitStack() as goes_on, listening(site) as journal:
        with site.running("restore", "db", name, "--in-place", "--yes", wrapper=journal.wrapper) as process:
            for number, statement in ((4711, "create index"), (4712, "analyze")):
                role, database = awaited(partial(sql, maintenance, AT_WORK.format(statement))).split("|")
                tried = as_cluster_user(replace(site.server, user=role, database=database), "psql", "-Xc", "select 1")
                assert f'role "{role}" is not permitted to log in' in tried.stderr
                goes_on.enter_context(session(maintenance, f"select pg_advisory_lock({number});"))
            out, said = process.communicate(timeout=60)
        told = events(journal.close())
        assert process.returncode == 0, said
        assert dump(site.server) == dump(kept_beside(site, Ran([], 0, out, said))) == before
        faults.saw(status=0, store="the set's content, live kept beside", events=told)
        recovers(site)


@pytest.mark.sample(3)
@pytest.mark.fault("Somebody evil", "a name has the end of a line in it, which an old pg_dump writes as it is")
@pytest.mark.parametrize("whose", list(ODD_NAMES))
def test_a_name_of_more_than_one_line_is_told_by_the_run(victim: Site, whose: str) -> None:
    made, shown, change = ODD_NAMES[whose]
    sql(victim.server, f"set role {victim.server.database}", made)
    done = is_refused(victim, "db", cause="dump")
    assert f"db: {shown}: the end of a line in its name, expected a name of one line" in done.stderr
    assert change in done.stderr.partition("hint: psql --command='ALTER ")[2]
    facts = postgres.examine(victim.server)
    with (
        pytest.raises(DumpError, match="a name has come meanwhile"),
        hold_names.held(victim.server, facts, lock_wait_s=5, beat=None),
    ):
        pass
    sql(victim.server, 'drop table if exists odd, "a\nb"', 'drop type if exists "a\rb"')
    victim.takes("db")
    recovers(victim)


def test_roles_that_no_restore_takes_are_told_by_the_run_and_by_the_drill(victim: Site) -> None:
    """One comes after the names were looked at; of another nobody knows but what pg_dumpall has written."""
    made = 'psql -qAtX -h "$PGHOST" -p "$PGPORT" -U postgres -d postgres -c \'create role "a\nb"\''
    victim.fake("pg_dumpall", f'{made}; exec "$real" "$@"')
    done = is_refused(victim, "db", cause="dump")
    assert 'db: ROLE U&"a\\+00000Ab": the end of a line in its name' in done.stderr
    sql(postgres.in_database(victim.server, "postgres"), 'drop role "a\nb"')
    victim.mend()
    victim.fake("pg_dumpall", """echo 'CREATE ROLE "a\nb";'; exec "$real" "$@\"""")
    name = victim.takes("db")
    victim.mend()
    refused = "CREATE ROLE in a form that pg_dumpall does not write)"
    drilled = victim.run("drill", name)
    assert drilled.returncode == 1
    assert "globals: no restore takes the roles (line " in drilled.stderr
    assert refused in drilled.stderr
    assert refused in fails(victim, name)


@pytest.mark.fault("Somebody evil", "the application makes what only psql alone loads, and no restore")
def test_a_dump_that_no_restore_takes_is_told_by_the_drill(victim: Site) -> None:
    """What psql takes for one statement to the file's end loads all the same, where it stands behind all rows."""
    role = f"set role {victim.server.database}"
    visits = "create table visits (id integer primary key, begin integer, copy integer, stdin integer)"
    first = "select v.begin from visits v group by v.id limit 1"
    sql(victim.server, role, visits, f"create function first() returns integer begin atomic {first}; end")
    name = victim.takes("db")
    refused = "BEGIN in the definition of a function), expected only SQL and rows, as pg_dump writes them"
    said = drill_fails(victim, name, cause="drill").stderr
    assert "db: no restore takes the dump (line " in said
    assert refused in said
    assert refused in fails(victim, name)
    sql(victim.server, "drop function first()")  # that columns are named as what begins rows is no matter
    drills_well(victim, victim.takes("db"))
    recovers(victim)


def test_a_superuser_of_a_set_is_told_and_has_no_password_that_was_not_asked_for(victim: Site) -> None:
    """An image's pg_dumpall says what it likes: here of a role that nobody has ever made."""
    boss = f"{victim.server.database}_boss"
    maintenance = postgres.in_database(victim.server, "postgres")
    made = f"CREATE ROLE {boss}; ALTER ROLE {boss} WITH SUPERUSER LOGIN PASSWORD 'known';".replace("; ", ";\n")
    victim.fake("pg_dumpall", f"""echo "{made}"; exec "$real" "$@\"""")
    name = victim.takes("db")
    victim.mend()
    try:
        done = victim.run("restore", "db", name)
        assert done.returncode == 0, done.stderr
        assert f"the set makes a superuser of each of these roles, which the server lacks: {boss}\n" in done.stderr
        may = f"select rolcanlogin, rolpassword is null from pg_authid where rolname = '{boss}'"
        assert sql(maintenance, may) == "t|t"
    finally:
        sql(maintenance, f"drop role if exists {boss}")


def test_no_function_of_an_index_runs_when_the_rows_that_are_live_are_counted(victim: Site) -> None:
    site, app = victim, victim.server.database
    only = re.sub(r"(?s)ARRAY\[.*?\]", f"ARRAY['alter role {app} superuser']", REACH)
    fixed = "create table public.folded (n integer, m integer); create index on public.folded (public.innocent(1))"
    sql(site.server, f"grant create on schema public to {app}")
    sql(replace(site.server, user=app), filled(site, only), fixed, "insert into public.folded values (1), (2), (3)")
    name = site.takes("db")
    sql(replace(site.server, user=app), "insert into public.folded values (4)")
    done = site.run("restore", "db", name, "--in-place", "--yes", "--no-safety-set")
    assert "live_has_more=1 rows of public.folded" in done.stdout + done.stderr
    assert sql(site.server, f"select rolsuper from pg_roles where rolname = '{app}'") == "f"


EVIL_ROLES = {
    "CREATE ROLE {app}_made; ALTER ROLE {app} SUPERUSER;": "ALTER ROLE",
    "CREATE ROLE {app}_made; COPY (SELECT 1) TO PROGRAM 'touch {place}/touched';": "COPY in a form that pg_dumpall",
    "DO $dental_pms$ BEGIN CREATE ROLE {app}_made; EXECUTE 'alter role {app} superuser'; END $dental_pms$;": "",
    "\\! touch {place}/touched": "something in a form that pg_dumpall does not write",
    "ALTER SYSTEM SET application_name = 'evil';": "ALTER SYSTEM SET in a form that pg_dumpall does not write",
    "DROP DATABASE {live};": "DROP DATABASE in a form that pg_dumpall does not write",
    "ALTER ROLE {app} WITH SUPERUSER": "ALTER ROLE",
    "CREATE ROLE {app}_made; GRANT {app}_made TO CURRENT_ROLE;": "GRANT in a form that pg_dumpall does not write",
}
WHOEVER = ("current_user", "current_role", "session_user")


@pytest.mark.fault("Somebody evil", "the file of roles beside a file from elsewhere has more in it than roles")
def test_roles_beside_a_file_are_roles_and_nothing_else(victim: Site) -> None:
    stamp = "2026-02-03_023000"
    file = victim.place / f"db_{stamp}.sql"
    file.write_bytes(with_more(victim, ""))
    beside = victim.place / f"globals_{stamp}.sql.gz"
    trailer = "\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"
    for text, no in EVIL_ROLES.items():
        beside.write_bytes(gzip.compress((filled(victim, text) + trailer).encode()))
        said = fails(victim, str(file))
        assert "db: the roles of the set that the server lacks cannot be made (line 1: " in said, said
        assert no in said
    roles = (
        "CREATE ROLE {app}_made;\nALTER ROLE {app}_made WITH SUPERUSER LOGIN PASSWORD 'known';\n"
        "GRANT pg_execute_server_program TO {app}_made;\nGRANT postgres TO {app}_made;\n"
        "ALTER ROLE {app} WITH SUPERUSER;\n"
    ) + "".join(f"GRANT {{app}}_made TO {whom};\n" for whom in WHOEVER)
    beside.write_bytes(gzip.compress((filled(victim, roles) + trailer).encode()))
    try:
        assert victim.run("restore", "db", str(file)).returncode == 0
        made = f"{victim.server.database}_made"
        asked = f"select rolsuper, rolcanlogin, rolpassword from pg_authid where rolname = '{made}'"
        assert sql(victim.server, asked) == "f|f|"
        members = f"select count(*) from pg_auth_members where '{made}'::regrole in (roleid, member)"
        assert sql(victim.server, members) == "0"
        assert sql(victim.server, f"select rolsuper from pg_roles where rolname = '{victim.server.database}'") == "f"
    finally:
        sql(victim.server, f"drop role if exists {victim.server.database}_made")
    beside.unlink()
    recovers(victim)


def as_set_for_roles(site: Site, statements: str, how: str) -> str:
    """Have the set's file of roles say more; return the set, or its dump in a copy of the store."""
    (file,) = site.store.glob("db/globals_*")
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content.replace(OF_CLUSTER, statements.encode() + OF_CLUSTER)))
    know(site, Kind.GLOBALS)
    if how == "a set":
        return site.sets()[0]
    shutil.copytree(site.store, site.place / "usb")
    (dumped,) = (site.place / "usb").glob("db/db_*")
    return str(dumped)


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "the file of roles has the server load a library of his")
@pytest.mark.parametrize("how", ["a set", "a file from elsewhere"])
def test_no_library_that_a_set_or_a_file_names_is_loaded(victim: Site, how: str) -> None:
    traps = [victim.place / f"{name}.so" for name in ("plain", "spelled", "odd")]
    preloads = (
        f"session_preload_libraries TO '{traps[0]}'",
        f"\"Session_Preload_Libraries\" TO '{traps[1]}'",
        f"local_preload_libraries = 'plpgsql', '{traps[2]}'",
    )
    sets = "".join(f"ALTER ROLE {{app}}_made SET {each};\n" for each in (*preloads, "work_mem TO '6MB'"))
    wanted = as_set_for_roles(victim, filled(victim, f"CREATE ROLE {{app}}_made;\n{sets}"), how)
    with contextlib.ExitStack() as laid:
        met = [laid.enter_context(trap(each)) for each in traps]
        with listening(victim) as journal:
            done = victim.run("restore", "db", wanted, wrapper=journal.wrapper)
            told = events(journal.close())
        assert (done.returncode, [each for each in met if each.is_set()]) == (0, []), done.stderr
    faults.saw(status=0, store=AS_IT_WAS, events=told)
    asked = f"select rolconfig from pg_roles where rolname = '{victim.server.database}_made'"
    assert sql(victim.server, asked) == ("{work_mem=6MB}" if how == "a set" else "")
    sql(victim.server, f"drop role {victim.server.database}_made")
    faults.recovered()


@pytest.mark.fault("Somebody evil", "the name of a role, and a comment of the database, read like a setting of ours")
def test_no_name_and_no_comment_is_read_as_a_setting(victim: Site) -> None:
    site, app, maintenance = victim, victim.server.database, postgres.in_database(victim.server, "postgres")
    bad = "ALTER ROLE pms SET lc_monetary TO E'C.UTF-8@\\'';table a.b;--';"
    up = f"if (select usesuper from pg_user where usename = current_user) then alter role {app} superuser; end if;"
    function = f"create function a.f() returns text language plpgsql as 'begin {up} return ''''; end'"
    sql(maintenance, "create role pms superuser login", f"alter role {app} createrole")
    try:
        site.configure({"native.user": "pms", "native.run_as": "postgres"})
        sql(replace(site.server, user=app), "create schema a", function, "create view a.b as select a.f()")
        said = "ALTER ROLE pms SET lc_monetary TO '''';"
        sql(
            replace(site.server, user=app),
            f'create role "{bad}"',
            f"alter role \"{bad}\" in database {app} set work_mem = '4MB'",
            f"comment on database {app} is '{said}'",
        )
        set_name = site.takes("db")
        with listening(site) as journal:
            done = site.run("restore", "db", set_name, wrapper=journal.wrapper)
            told = events(journal.close())
        assert done.returncode == 0, done.stderr
        assert sql(maintenance, f"select rolsuper from pg_roles where rolname = '{app}'") == "f"
        faults.saw(status=0, store=AS_IT_WAS, events=told)
    finally:
        for made in databases_like(maintenance, app):
            if made != app:
                sql(maintenance, f'drop database "{made}"')
        site.configure({"native.user": site.server.user})
        sql(maintenance, f"alter role {app} nosuperuser nocreaterole", "drop role pms")
        sql(site.server, f'drop owned by "{bad}"', f'drop role "{bad}"')
    site.takes("db")
    recovers(site)


@contextlib.contextmanager
def trap(path: Path) -> Iterator[threading.Event]:
    """Lay a file that knows whether somebody has opened it."""
    os.mkfifo(path)
    path.chmod(0o666)
    opened = threading.Event()

    def wait() -> None:
        os.close(os.open(path, os.O_WRONLY))
        opened.set()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield opened
    finally:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        thread.join()


def test_no_live_role_is_given_by_its_name_in_other_bytes(victim: Site) -> None:
    stamp, made = "2026-02-03_023000", f"{victim.server.database}_made"
    file = victim.place / f"db_{stamp}.sql"
    file.write_bytes(with_more(victim, ""))
    beside = victim.place / f"globals_{stamp}.sql.gz"
    boss = f'"m\u00fcller_{victim.server.database}"'
    trailer = "\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"
    roles = f"SET client_encoding = 'LATIN1';\nCREATE ROLE {made};\nGRANT {boss} TO {made};\n{trailer}"
    maintenance = postgres.in_database(victim.server, "postgres")
    sql(maintenance, f"create role {boss} superuser")
    try:
        beside.write_bytes(gzip.compress(roles.encode("latin-1")))
        said = fails(victim, str(file))
        assert "cannot be made (line 3: names in another encoding, expected UTF8)" in said
    finally:
        sql(maintenance, f"drop role if exists {made}", f"drop role {boss}")
    recovers(victim)


TELLS = """\
CREATE FUNCTION public.tell(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $tell$ BEGIN
 IF current_query() ~ 'dental_pms.rows' THEN RAISE 'DP002 1 %', (SELECT content FROM public.secret LIMIT 1); END IF;
 RETURN n; END $tell$;
CREATE TABLE public.secret (content text);
CREATE TABLE public.counted (n integer);
INSERT INTO public.secret VALUES ('canary-patient-4711');
COPY public.counted (n) FROM stdin;
1
\\.
CREATE STATISTICS public.told ON (public.tell(1) + n), n FROM public.counted;
"""


@pytest.mark.fault("Somebody evil", "what a file from elsewhere makes says a row as if it were what was counted")
def test_nothing_that_a_file_makes_tells_a_row_in_our_name(victim: Site) -> None:
    before = reached(victim)
    with listening(victim) as journal:
        done = victim.run("restore", "db", elsewhere(victim, TELLS), wrapper=journal.wrapper)
        told = journal.close()
    assert "canary" not in done.stderr + told
    assert "db: the replay failed (psql: exit status 3), expected every statement to succeed" in done.stderr
    assert reached(victim) == before
    faults.saw(status=done.returncode, cause=cause(told), store=AS_IT_WAS, events=events(told))
    recovers(victim)


@pytest.fixture
def deputy(victim: Site) -> Iterator[str]:
    """A role that may become a superuser, by way of another."""
    app = victim.server.database
    maintenance = postgres.in_database(victim.server, "postgres")
    sql(maintenance, f"create role {app}_boss superuser", f"create role {app}_between in role {app}_boss")
    sql(maintenance, f"create role {app}_deputy in role {app}_between")
    yield f"{app}_deputy"
    for made in databases_like(maintenance, app):
        sql(maintenance, f'drop database "{made}" with (force)')
    sql(maintenance, f"drop role {app}_deputy, {app}_between, {app}_boss")


@pytest.mark.fault(
    "Somebody evil",
    "a file from elsewhere gives what it makes to the superuser, or to whom the application uses, to be run as one",
)
def test_nothing_of_a_file_comes_to_belong_to_whom_somebody_uses(victim: Site, deputy: str) -> None:
    app = victim.server.database
    definer = "CREATE FUNCTION public.d() RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'select public.reach()';\n"
    for number, owner in enumerate(("postgres", '"postgres"', "CURRENT_USER", deputy, app, "dental_app")):
        more = f"{REACH}{definer}ALTER FUNCTION public.d() OWNER TO {owner};\n"
        made = comes(victim, elsewhere(victim, more), "--to", f"{app}_{number}")
        assert sql(made, "select proowner::regrole from pg_proc where proname = 'd'") == f"{app}_owner"
        before = reached(victim)
        as_application = replace(made, user=app)
        assert sql(as_application, "select public.d()") == "1"
        assert reached(victim) == before
    recovers(victim)
    sql(made, f"comment on role {app}_owner is null")  # as if somebody else had made it
    done = victim.run("restore", "db", elsewhere(victim, definer.replace("public.reach()", "1")), "--to", f"{app}_anew")
    assert done.returncode == 0, done.stderr
    anew = postgres.in_database(made, f"{app}_anew")
    assert sql(anew, "select proowner::regrole from pg_proc where proname = 'd'") == f"{app}_owner_2"
    assert sql(anew, f"select pg_has_role('{app}', '{app}_owner_2', 'member')") == "t"


# What the server runs as the owner of a table.
AS_OWNER = {
    "the function of an index": (
        "CREATE TABLE public.indexed (n integer);\nINSERT INTO public.indexed VALUES (1), (2);\n"
        "CREATE INDEX ON public.indexed (public.innocent(n));\n",
        "analyze public.indexed",
    ),
    "a cascade with a trigger": (
        "CREATE TABLE public.parent (n integer PRIMARY KEY);\n"
        "CREATE TABLE public.child (n integer REFERENCES public.parent ON DELETE CASCADE);\n"
        "CREATE FUNCTION public.by_child() RETURNS trigger LANGUAGE plpgsql\n"
        "    AS 'BEGIN PERFORM public.reach(); RETURN OLD; END';\n"
        "INSERT INTO public.parent VALUES (1);\nINSERT INTO public.child VALUES (1);\n"
        "CREATE TRIGGER evil BEFORE DELETE ON public.child FOR EACH ROW EXECUTE FUNCTION public.by_child();\n"
        "GRANT ALL ON TABLE public.parent TO {app};\n",
        "delete from public.parent",
    ),
    "the cast of a foreign key": (
        "CREATE TYPE public.e AS ENUM ('a');\nCREATE FUNCTION public.to_text(public.e) RETURNS text LANGUAGE plpgsql\n"
        "    AS 'BEGIN PERFORM public.reach(); RETURN ''a''; END';\n"
        "CREATE CAST (public.e AS text) WITH FUNCTION public.to_text(public.e) AS IMPLICIT;\n"
        "CREATE TABLE public.pk (t text PRIMARY KEY);\nINSERT INTO public.pk VALUES ('a');\n"
        "CREATE TABLE public.fk (t public.e REFERENCES public.pk);\nGRANT ALL ON TABLE public.fk TO {app};\n",
        "insert into public.fk values ('a')",
    ),
    "a function that runs as its owner": (
        "CREATE FUNCTION public.up() RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'SELECT public.reach()';\n",
        "select public.up()",
    ),
}
SUPERUSERS = "alter database {app} owner to postgres"
STARTS_PROGRAMS = "grant pg_execute_server_program to {app}"


@pytest.mark.sample(2)
@pytest.mark.fault(
    "Somebody evil", "a file from elsewhere has what the server runs as its owner, and live's owner may do more"
)
@pytest.mark.parametrize(
    ("what", "might"),
    [
        *(pytest.param(what, SUPERUSERS, id=what) for what in AS_OWNER),
        pytest.param(
            "the function of an index", STARTS_PROGRAMS, id="the function of an index, and he starts programs"
        ),
    ],
)
def test_nothing_of_a_file_runs_with_a_mighty_owners_rights(victim: Site, what: str, might: str) -> None:
    site, app = victim, victim.server.database
    maintenance = postgres.in_database(site.server, "postgres")
    sql(maintenance, filled(site, might))
    before = reached(site)
    more, statement = AS_OWNER[what]
    with listening(site) as journal:
        done = site.run("restore", "db", elsewhere(site, REACH + more), "--to", f"{app}_new", wrapper=journal.wrapper)
        told = events(journal.close())
    assert done.returncode == 0, done.stderr
    made = postgres.in_database(site.server, f"{app}_new")
    owners = "select distinct proowner::regrole from pg_proc where pronamespace = 'public'::regnamespace"
    assert sql(made, owners) == f"{app}_owner"
    databases_owner = "select datdba::regrole from pg_database where datname = current_database()"
    assert sql(made, databases_owner) == sql(site.server, databases_owner)
    sql(made if statement.startswith("analyze") else replace(made, user=app), statement)
    if might == STARTS_PROGRAMS:
        assert sql(replace(made, user=app), "select count(*) from public.lines") == "9"
    after = reached(site)
    for each in ("system", "live", "files"):
        assert after[each] == before[each]
    harmless = f"select rolsuper, rolcanlogin, rolcreaterole from pg_roles where rolname = '{app}_owner'"
    assert sql(made, harmless) == "f|f|f"
    assert sql(made, f"select rolsuper from pg_roles where rolname = '{app}'") == "f"
    faults.saw(status=0, store=AS_IT_WAS, events=told)
    sql(maintenance, f"alter database {app} owner to {app}", f"revoke pg_execute_server_program from {app}")
    recovers(site)


@pytest.mark.fault("Somebody evil", "a file from elsewhere is to be replayed as the superuser, or in the live database")
def test_a_file_from_elsewhere_is_never_the_superusers_nor_replayed_in_live(victim: Site) -> None:
    file = str(Path(elsewhere(victim, REACH)).rename(victim.place / "db;touch touched;.sql"))
    before = reached(victim)
    for words in (["--as-superuser"], ["--in-place", "--yes", "--replace"], ["--in-place", "--yes", "--as-superuser"]):
        with listening(victim) as journal:
            done = victim.run("restore", "db", file, *words, wrapper=journal.wrapper)
            told = journal.close()
        assert (done.returncode, done.stdout) == (4, ""), done.stderr
        assert "a file from elsewhere, expected a set with a manifest for --" in done.stderr
        assert f"hint: dental-pms-backup restore db '{file}'   # " in done.stderr
        assert reached(victim) == before
        faults.saw(status=4, cause=cause(told), store=AS_IT_WAS, events=events(told))
    recovers(victim)
