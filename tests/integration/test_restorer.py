"""The role that replays a dump comes in by the road there is, makes what was there, and leaves nothing of itself."""

import contextlib
import gzip
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from dental_pms_backup.store.sets import Kind
from tests.integration.drills import know
from tests.integration.support import Site, as_cluster_user, bin_dir, dump, free_port, sql
from tests.integration.test_faults_restore import pg_ctl, small_site
from tests.integration.test_restore_new import at_end, beside, in_new, printed

DEFINITIONS = Path(__file__).with_name("definitions.sql")
LEFT = "select rolname from pg_roles where rolname ~ '^dental_pms_restore_'"
OWNERS_AND_RIGHTS = r"""
create extension if not exists pg_trgm;
create extension if not exists pgstattuple;
create extension if not exists pageinspect;
alter schema wide owner to dental_owner;
grant usage on schema wide to dental_app with grant option;
revoke usage on schema public from public;
grant create on schema public to dental_owner;
alter table wide.patients owner to dental_owner;
alter view wide.v1 owner to "dental reports";
alter materialized view wide.mv owner to dental_owner;
alter function wide.f(varchar, int) owner to dental_app;
revoke all on function wide.f(varchar, int) from public;
grant execute on function wide.f(varchar, int) to dental_reader;
alter aggregate wide.agg(text) owner to dental_owner;
alter type wide.mood owner to dental_owner;
alter domain wide.email owner to dental_app;
alter table wide.part owner to dental_owner;
alter table wide.part1 owner to "dental reports";
alter sequence wide.s1 owner to dental_reader;
alter statistics wide.st owner to dental_owner;
grant select (id, status), update (kind) on wide.patients to dental_app with grant option;
set session authorization dental_app;
grant select (id) on wide.patients to dental_reader;
reset session authorization;
create schema parameter authorization dental_owner;
create table parameter.database (tablespace int);
alter table parameter.database owner to dental_owner;
revoke all on parameter.database from dental_owner;
grant usage on schema parameter to dental_app;
grant select (tablespace) on parameter.database to dental_app with grant option;
set session authorization dental_app;
grant select (tablespace) on parameter.database to dental_reader;
reset session authorization;
alter default privileges for role dental_owner in schema parameter grant select on tables to dental_reader;
revoke update on wide.patients from dental_owner;
grant usage on type wide.mood to dental_reader;
revoke usage on type wide.mood from public;
alter default privileges for role dental_owner in schema wide grant select on tables to "dental reports"
 with grant option;
alter default privileges for role dental_app revoke execute on functions from public;
alter default privileges grant select on sequences to dental_reader;
create function wide.told() returns event_trigger language plpgsql as $$ begin end $$;
create event trigger told on ddl_command_end when tag in ('CREATE TABLE', 'DROP TABLE') execute function wide.told();
create event trigger asleep on sql_drop execute function wide.told();
alter event trigger asleep disable;
comment on event trigger told is 'it''s PRACTICE\told\';
create publication everything for all tables with (publish = 'insert, update');
comment on publication everything is 'PRACTICE\everything';
create publication a_few for table wide.child where (id > 3), tables in schema wide;
alter publication a_few owner to dental_owner;
comment on publication a_few is 'a few';
select lo_from_bytea(4711, 'letter');
alter large object 4711 owner to dental_owner;
grant select on large object 4711 to dental_reader;
create operator wide.=== (leftarg = int, rightarg = int, function = int4eq);
alter operator wide.=== (int, int) owner to dental_owner;
create collation wide.c (provider = libc, locale = 'C');
alter collation wide.c owner to dental_owner;
create text search configuration wide.german (copy = pg_catalog.simple);
alter text search configuration wide.german owner to dental_owner;
create type wide.span as range (subtype = int);
alter type wide.span owner to dental_owner;
create procedure wide.p(inout n int) language sql begin atomic select n; end;
alter procedure wide.p(int) owner to dental_owner;
create table wide.guarded (n int);
insert into wide.guarded select generate_series(1, 5);
alter table wide.guarded owner to dental_owner;
alter table wide.guarded enable row level security;
alter table wide.guarded force row level security;
create policy none on wide.guarded to dental_app using (n > 3);
grant connect on database "{0}" to dental_app;
insert into wide.child select n, null, 'a' from generate_series(1, 9) n;
"""


@pytest.fixture
def wide(new_site: Site, live: OnHost) -> Iterator[Site]:
    """A site with a database of all kinds of objects, owners and rights, and a set of it."""
    site, name = new_site, f"wide_{new_site.place.name}"
    odd = f'"{name}\u2028\x0b"'  # no end of a line
    sql(live, f'create database "{name}"', f"create role {odd}")
    site.server = postgres.in_database(live, name)
    site.configure({"native.database": name})
    script = DEFINITIONS.read_text() + OWNERS_AND_RIGHTS.replace("{0}", name)
    loaded = as_cluster_user(site.server, "psql", "-Xq", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", stdin=script)
    assert loaded.returncode == 0, loaded.stderr
    site.takes("db")
    try:
        yield site
    finally:
        for made in [*beside(site), name]:
            sql(live, f'drop database "{made}" with (force)')
        sql(live, f"drop role {odd}")


def dumps_like(site: Site, name: str, *, heir: bool = False) -> None:
    """Compare two dumps of the same, but for casts that PostgreSQL writes otherwise once it has read its own.

    With ``heir`` another got what was a superuser's, and may use schema public.
    """
    found, expected = (
        sorted(re.sub(r"::[a-z ]+|[()\[\]]", "", line) for line in lines)
        for lines in (in_new(site, name), dump(site.server))
    )
    if heir:
        found.remove("GRANT USAGE ON SCHEMA public TO postgres;")
    assert found == expected


@pytest.mark.each_release
@pytest.mark.parametrize("source", ["latest", "elsewhere"])
def test_owners_rights_and_extensions_come_back_as_they_were(wide: Site, source: str) -> None:
    site = wide
    if source == "elsewhere":  # these only a superuser may make, or be given
        sql(site.server, "drop event trigger told", "drop event trigger asleep", "drop publication everything")
        sql(site.server, "alter publication a_few drop tables in schema wide")
        sql(site.server, "alter default privileges revoke select on sequences from dental_reader")
        sql(site.server, "reassign owned by dental_app, dental_reader to dental_owner")
        file = site.place / "elsewhere.sql"
        file.write_text(as_cluster_user(site.server, "pg_dump").stdout)
        source = str(file)
    done = site.run("restore", "db", source)
    as_we_see = "" if source == "latest" else ", until they are refreshed: wide.mv\n"
    assert (done.returncode, done.stderr[-len(as_we_see) :] if as_we_see else done.stderr) == (0, as_we_see), (
        done.stderr
    )
    dumps_like(site, printed(done)["restore_target"], heir=source != "latest")
    made = postgres.in_database(site.server, printed(done)["restore_target"])
    if source == "latest":
        whose = "select distinct typowner::regrole from pg_type where typname in ('span', 'span_multirange')"
        assert sql(made, whose) == "dental_owner"
    assert sql(made, LEFT, "select nspname from pg_namespace where nspname ~ '^dental_pms'") == ""
    acl = "select a from pg_database, unnest(datacl) a where datname = current_database() order by a::text"
    assert sql(made, acl) == sql(site.server, acl)


def test_a_set_with_what_only_a_superuser_may_make_names_it_and_the_option(wide: Site) -> None:
    site = wide
    internal = "create function wide.raw(int) returns int language internal as 'int4abs'"
    sql(site.server, internal, "alter function wide.raw(int) owner to dental_owner")
    name = site.takes("db")
    done = site.run("restore", "db", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert "db: the replay failed (SQLSTATE 42501, at CREATE FUNCTION wide.raw), expected nothing in it" in done.stderr
    assert (
        "hint: --as-superuser does it: whoever could make objects in that database can then do on the " in done.stderr
    )
    done = site.run("restore", "db", name, "--as-superuser")
    assert done.returncode == 0, done.stderr
    dumps_like(site, printed(done)["restore_target"])


def loads_as_superuser(site: Site, why: str) -> None:
    name = site.takes("db")
    done = site.run("restore", "db", name)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        f"db: the replay failed ({why}); all owners in the set are superusers, so that it is replayed as a superuser\n"
    )
    assert in_new(site, printed(done)["restore_target"]) == dump(site.server)


def test_a_set_of_superusers_alone_is_replayed_as_one_where_that_is_needed_and_it_is_told(new_site: Site) -> None:
    site, live = new_site, new_site.server
    name = f"alone_{site.place.name}"
    sql(live, f'create database "{name}"')
    site.server = postgres.in_database(live, name)
    site.configure({"native.database": name})
    try:
        sql(
            site.server,
            "create table lines as select 1 as n",
            "create function raw(int) returns int language internal as 'int4abs'",
        )
        loads_as_superuser(site, "SQLSTATE 42501, at CREATE FUNCTION public.raw")
        sql(site.server, "drop function raw(int)", "alter table lines add constraint whose check (user = 'postgres')")
        loads_as_superuser(site, "SQLSTATE 23514, at rows of public.lines: a row breaks the check whose")
        assert sql(site.server, LEFT) == ""
    finally:
        for made in [*beside(site), name]:
            sql(live, f'drop database "{made}" with (force)')


def test_an_extension_that_the_server_lacks_is_named(own_database: Site) -> None:
    site = own_database
    (file,) = site.store.glob("db/db_*.sql.gz")
    begins = b"CREATE TYPE "
    more = b"CREATE EXTENSION IF NOT EXISTS no_such_one WITH SCHEMA public;\n\n\n"
    text = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(text.replace(begins, more + begins, 1)))
    know(site, Kind.DB)
    done = site.run("restore", "db", "latest")
    assert (done.returncode, done.stdout) == (1, "")
    assert "at CREATE EXTENSION no_such_one: the server does not have it installed" in done.stderr
    untrusted = site.place / "untrusted.sql"
    untrusted.write_bytes(text.replace(begins, more.replace(b"no_such_one", b"pageinspect") + begins, 1))
    done = site.run("restore", "db", str(untrusted))
    assert "at CREATE EXTENSION pageinspect: it is not a trusted one, and none of the harmless" in done.stderr
    sql(site.server, "create extension pageinspect")
    assert site.run("restore", "db", str(untrusted)).returncode == 0


@pytest.mark.thorough
@pytest.mark.parametrize("extension", ["dblink", "file_fdw"])
def test_a_file_from_elsewhere_gets_no_mighty_extension_even_where_live_has_it(
    own_database: Site, extension: str
) -> None:
    site = own_database
    (file,) = site.store.glob("db/db_*.sql.gz")
    begins = b"CREATE TYPE "
    more = f"CREATE EXTENSION IF NOT EXISTS {extension} WITH SCHEMA public;\n\n\n".encode()
    mighty = site.place / "mighty.sql"
    mighty.write_bytes(gzip.decompress(file.read_bytes()).replace(begins, more + begins, 1))
    sql(site.server, f"create extension {extension}")
    done = site.run("restore", "db", str(mighty))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"at CREATE EXTENSION {extension}: it is not a trusted one" in done.stderr
    assert "hint: zgrep -n 'CREATE EXTENSION' FILE   # take it out" in done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("owner", ["the role that replays it", "pg_database_owner"])
def test_no_extension_is_made_once_there_is_something_that_its_script_could_meet(
    own_database: Site, owner: str
) -> None:
    site = own_database
    (file,) = site.store.glob("db/db_*.sql.gz")
    begins = b"CREATE TYPE "
    more = "CREATE FUNCTION public.mine(text) RETURNS text LANGUAGE sql AS 'select $1';\n"
    if owner == "pg_database_owner":
        more += f"DO $$ begin execute 'alter function public.mine(text) owner to {owner}'; end $$;\n"
    more += "CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;\n\n\n"
    late = site.place / "late.sql"
    late.write_bytes(gzip.decompress(file.read_bytes()).replace(begins, more.encode() + begins, 1))
    done = site.run("restore", "db", str(late))
    assert (done.returncode, done.stdout) == (1, "")
    assert "at CREATE EXTENSION hstore: it stands behind what the dump makes" in done.stderr


@contextlib.contextmanager
def restarted(site: Site, *options: str) -> Iterator[Path]:
    """Have the server of a small site started anew, with a file for its log, while the block lasts."""
    server = site.server
    pg_ctl(server, "stop", "--mode=fast")
    words = f"-k {server.host} {' '.join(options)}"
    pg_ctl(server, "start", f"--options={words}", f"--log={server.host}/log")
    try:
        yield Path(server.host) / "log"
    finally:
        pg_ctl(server, "stop", "--mode=immediate")


BAD_ROW = b"""\
CREATE TABLE public.bills (amount integer);
COPY public.bills (amount) FROM stdin;
canary-patient-9
\\.

"""


@pytest.mark.sample(2)
@pytest.mark.parametrize("words", [(), ("--as-superuser",)], ids=["as a role", "as the superuser"])
def test_no_row_of_a_replay_that_fails_is_in_the_servers_log(site: Site, words: tuple[str, ...]) -> None:
    (file,) = site.store.glob("db/db_*.sql.gz")
    file.write_bytes(gzip.compress(at_end(gzip.decompress(file.read_bytes()), BAD_ROW)))
    know(site, Kind.DB)
    loud = ("-c log_min_messages=debug1", "-c log_min_error_statement=debug1")
    with small_site(site, site.place / "pg"), restarted(site, *loud) as log:
        done = site.run("restore", "db", "latest", *words)
        sql(site.server, "do $$ begin raise log 'it is loud'; end $$")
        assert "SQLSTATE 22P02" in done.stderr
        assert "it is loud" in log.read_text()
        assert "canary-patient" not in log.read_text()


@pytest.mark.thorough
def test_a_transaction_that_was_prepared_and_forgotten_is_named_before_anything_is_touched(site: Site) -> None:
    with small_site(site, site.place / "pg"), restarted(site, "-c max_prepared_transactions=2"):
        gid = "it''s; forgotten"
        sql(site.server, "begin", "create table odd (n int)", f"prepare transaction '{gid}'")
        for words in ((), ("--replace", "--as-superuser", "--no-safety-set")):
            done = site.run("restore", "db", "latest", "--in-place", "--yes", *words)
            assert (done.returncode, len(site.sets())) == (4, 1), done.stderr
            assert 'db: transaction "it\'s; forgotten" of postgres, prepared ' in done.stderr
        command = done.stderr.partition("hint: ")[2].partition("   #")[0]
        subprocess.run(["sh", "-c", command.replace("psql", str(bin_dir() / "psql"))], check=True)
        assert site.run("restore", "db", "latest", "--in-place", "--yes").returncode == 0


PEER = "local all postgres trust\nlocal all all reject\n"


def password_files() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("dental-pms-restore-*"))


@pytest.mark.each_release
def test_where_a_socket_lets_no_stranger_in_the_role_comes_by_its_password(site: Site) -> None:
    port = free_port()
    before = password_files()
    with small_site(site, site.place / "pg"):
        server = site.server
        hba = Path(server.host) / "data/pg_hba.conf"
        hba.write_text(PEER)
        os.utime(hba)
        with (
            restarted(site, f"-p {port}", "-c listen_addresses="),
            socket.create_server(("127.0.0.1", port)) as anybody,
        ):
            site.server = replace(server, port=port)
            site.configure({"native.port": port})
            done = site.run("restore", "db", "latest")
            assert (done.returncode, done.stdout) == (4, "")
            assert "the server does not let a role that is made for the replay log in" in done.stderr
            anybody.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody has connected
                anybody.accept()
        pg_ctl(server, "start", f"--options=-k {server.host} -c listen_addresses=", f"--log={server.host}/log")
        site.server = server
        with restarted(site, f"-p {port}", "-c listen_addresses=127.0.0.1"):
            site.server = replace(server, port=port)
            site.configure({"native.port": port})
            done = site.run("restore", "db", "latest")
            assert (done.returncode, done.stdout) == (4, "")
            assert "the server does not let a role that is made for the replay log in" in done.stderr
            assert "add the line 'host all all 127.0.0.1/32 scram-sha-256' to pg_hba.conf" in done.stderr
            assert (sql(site.server, LEFT), beside(site)) == ("", [])
            hba.write_text(PEER + "host all all 127.0.0.1/32 scram-sha-256\n")
            sql(site.server, "select pg_reload_conf()")
            seen = site.place / "seen"
            seen.touch()
            seen.chmod(0o666)
            site.fake("psql", f'ls -d "${{PGPASSFILE%/*}}" >>{seen} 2>&1; exec "$real" "$@"')
            done = site.run("restore", "db", "latest")
            assert done.returncode == 0, done.stderr
            site.mend()
            assert f"{tempfile.gettempdir()}/dental-pms-restore-" in seen.read_text()
            assert (sql(site.server, LEFT), beside(site)) == ("", [printed(done)["restore_target"]])
            assert password_files() == before
