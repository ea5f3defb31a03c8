"""A restore into a new database touches nothing that is live, and its result is the source, row by row."""

import contextlib
import gzip
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from dental_pms_backup.drill import compare_settings, load
from dental_pms_backup.errors import DrillError, RefusedError, RestoreError
from dental_pms_backup.live import own_settings, postgres
from dental_pms_backup.live.postgres import OnHost
from dental_pms_backup.live.sources import DatabaseSource
from dental_pms_backup.restore import database_settings, databases, leftover_roles
from dental_pms_backup.store.sets import Kind
from tests.integration.conftest import databases_like
from tests.integration.drills import change_manifest, know
from tests.integration.faults import filtered
from tests.integration.support import (
    CANARIES,
    Ran,
    Site,
    as_cluster_user,
    bin_dir,
    cluster_user,
    connection,
    dump,
    environment,
    major,
    session,
    signalled,
    sql,
    wait_until,
)

CHANGES = ("delete from lines", "create table later (id int)")
SETTINGS = (
    "alter database \"{0}\" set search_path to public, reports, '$user'",
    'alter database "{0}" set dental.secret to \'setting-canary, "x"\'',
    "alter role dental_app in database \"{0}\" set statement_timeout to '7min'",
    'revoke all on database "{0}" from public',
    'grant connect, temporary on database "{0}" to dental_app with grant option',
    "comment on database \"{0}\" is E'it''s\\nlive'",
    'alter database "{0}" connection limit 0',
)
OF_DATABASE = """\
select pg_encoding_to_char(encoding), datcollate, datctype, datdba::regrole, datconnlimit,
 shobj_description(oid, 'pg_database'),
 (select string_agg(a.grantee::text || privilege_type || is_grantable, ',' order by a.grantee, privilege_type)
  from aclexplode(datacl) a),
 (select string_agg(setrole::text || setconfig::text, ',' order by setrole)
  from pg_db_role_setting where setdatabase = d.oid)
 from pg_database d where datname = '{}'"""


def beside(site: Site) -> list[str]:
    """Return the databases that a restore made, or kept, beside the live one."""
    found = sql(postgres.in_database(site.server, "postgres"), "select datname from pg_database").splitlines()
    return sorted(name for name in found if name.startswith(site.server.database) and name != site.server.database)


def printed(done: Ran) -> dict[str, str]:
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def stamp(site: Site) -> str:
    return site.sets()[0].replace("-", "_")


def fails(site: Site, *words: str, status: int = 1, **variables: str) -> str:
    """Restore, expecting that it fails and leaves the live database, and nothing beside it."""
    before = (dump(site.server), beside(site), site.set_files())
    done = site.run("restore", "db", *words, **variables)
    assert (done.returncode, done.stdout) == (status, ""), done.stdout + done.stderr
    assert (dump(site.server), beside(site), site.set_files()) == before
    assert "Traceback" not in done.stderr
    for canary in CANARIES:
        assert canary not in done.stderr
    return done.stderr


def in_new(site: Site, name: str) -> list[str]:
    """Return a dump of a new database; what was the superuser's in a file from elsewhere is told as still his."""
    heir = f"{site.server.database}_owner"
    return [line.replace(heir, "postgres") for line in dump(postgres.in_database(site.server, name))]


@pytest.mark.each_release
def test_a_set_comes_into_a_new_database_named_after_it_and_live_is_not_touched(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    sql(site.server, *CHANGES)
    spoilt = dump(site.server)
    done = site.run("restore", "db", "latest")
    assert (done.returncode, done.stderr) == (0, "")
    name = f"{site.server.database}_{stamp(site)}"
    assert beside(site) == [name]
    assert in_new(site, name) == before
    assert dump(site.server) == spoilt
    lines = printed(done)
    assert (lines["restore_type"], lines["restore_target"], lines["restore_status"]) == ("db", name, "ok")
    assert int(lines["restore_rows"]) > 3000
    assert done.stdout.endswith("\nrestore_status=ok\n")


@pytest.mark.thorough
def test_the_commands_that_a_restore_prints_switch_over_and_drop(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    sql(site.server, *CHANGES)
    lines = printed(site.run("restore", "db", "latest", "--to", "other copy"))
    try:
        with session(site.server, "select count(*) from patients;"):
            run_as_admin(lines["restore_switch"])
        assert dump(site.server) == before
        (kept,) = beside(site)
        assert re.fullmatch(rf"{site.server.database}_before_[0-9_]{{17}}", kept)
        assert sql(postgres.in_database(site.server, kept), "select to_regclass('later')") == "later"
        run_as_admin(lines["restore_drop"].replace("other copy", kept))
        assert beside(site) == []
    finally:
        sql(postgres.in_database(site.server, "postgres"), 'drop database if exists "other copy"')


def run_as_admin(command: str) -> None:
    programs = environment(PATH=f"{bin_dir()}:{environment()['PATH']}")
    subprocess.run(shlex.split(command), env=programs, check=True, capture_output=True, cwd="/")


@pytest.mark.thorough
def test_a_name_that_exists_is_refused(own_database: Site) -> None:
    site = own_database
    said = fails(site, "latest", "--to", site.server.database, status=4)
    assert f"db: database {site.server.database} exists already, expected a name for a new one" in said
    said = fails(site, "latest", "--to", "x" * 64, status=2)
    assert f'"{"x" * 64}": no name for a database, expected 1 to 63 bytes' in said
    assert site.run("restore", "db", "latest").returncode == 0
    fails(site, "latest", status=4)


def test_settings_privileges_owner_and_locale_of_the_live_database_carry_over(own_database: Site) -> None:
    site = own_database
    name = site.server.database
    sql(site.server, *(text.format(name) for text in SETTINGS))
    before = sql(site.server, OF_DATABASE.format(name))
    assert "setting-canary" in before
    done = site.run("restore", "db", "latest")
    assert done.returncode == 0, done.stderr
    assert sql(site.server, OF_DATABASE.format(printed(done)["restore_target"])) == before


def test_what_belonged_to_the_database_itself_comes_back_to_a_new_one(own_database: Site) -> None:
    site = own_database
    name, elsewhere = site.server.database, postgres.in_database(site.server, "postgres")
    sql(site.server, *(text.format(name) for text in SETTINGS), f'alter database "{name}" owner to dental_app')
    sql(elsewhere, "create role dental_front login connection limit 5", "alter role dental_front set lock_timeout to 7")
    sql(elsewhere, "alter role all set intervalstyle = 'sql_standard'")
    sql(elsewhere, "alter role postgres set maintenance_work_mem to '33MB'")  # of a superuser by which nothing is run
    roles = (
        "select rolconnlimit, rolconfig from pg_roles where rolname in ('dental_front', 'postgres') order by rolname"
    )
    try:
        before = sql(elsewhere, OF_DATABASE.format(name), roles)
        taken = site.takes("db")
        assert "proof_settings=passed\n" in site.run("drill").stdout
        sql(elsewhere, f'drop database "{name}" with (force)', f'create database "{name}" template template0')
        sql(elsewhere, "alter role dental_front connection limit -1", "alter role dental_front reset all")
        sql(elsewhere, "alter role postgres reset all")
        sql(elsewhere, "alter role all set search_path = public")  # the set's own goes before it
        for reset in ("role all", f'database "{name}"'):  # to an empty database; then in the place of one that has it
            sql(elsewhere, "alter role all reset intervalstyle")
            done = site.run("restore", "db", taken, "--in-place", "--yes")
            assert (done.returncode, done.stderr) == (0, "")
            assert sql(site.server, "show intervalstyle") == "sql_standard"
            sql(elsewhere, f"alter {reset} reset intervalstyle")
            sql(elsewhere, f'alter database "{name}" reset intervalstyle')
            assert sql(elsewhere, OF_DATABASE.format(name), roles) == before
        changes = ("set search_path to reports", "owner to postgres")
        sql(
            elsewhere, *(f'alter database "{name}" {each}' for each in changes), f'comment on database "{name}" is null'
        )
        done = site.run("restore", "db", taken, "--in-place", "--yes")
        stay = (
            "the database's own owner, rights, setting search_path are other in the set than in live, and stay as live"
        )
        assert stay in done.stderr
        kept = sql(elsewhere, OF_DATABASE.format(name))
        assert "|C|C|postgres|0|it's\nlive|" in kept
        assert '{IntervalStyle=sql_standard,search_path=reports,"dental.secret=setting-canary' in kept
    finally:
        sql(elsewhere, "drop role dental_front", "alter role all reset all", "alter role postgres reset all")


def test_a_live_database_in_which_text_is_other_text_is_refused_and_the_hint_makes_one(own_database: Site) -> None:
    site = own_database
    name, elsewhere = site.server.database, postgres.in_database(site.server, "postgres")
    (taken,) = site.sets()
    gone = f'drop database "{name}" with (force)'
    sql(elsewhere, gone, f"create database \"{name}\" template template0 encoding 'SQL_ASCII' locale 'C'")
    said = fails(site, taken, "--in-place", "--yes", status=4)
    assert "the live database has the encoding SQL_ASCII, expected UTF8, as the set has" in said
    file = site.place / "elsewhere.sql.gz"
    shutil.copy(site.store / f"db/db_{taken}.sql.gz", file)
    assert "has the encoding SQL_ASCII, expected UTF8" in fails(site, str(file), "--in-place", "--yes", status=4)
    run_as_admin(said.partition("hint: ")[2].partition("   #")[0])
    try:
        done = site.run("restore", "db", taken, "--in-place", "--yes")
        assert done.returncode == 0, done.stderr
        assert "sorts text otherwise" not in done.stderr
    finally:
        sql(elsewhere, f'drop database "{name}_aside"')


# Computed as it is loaded: letters of another size, what comes first, in which partition a row is.
OF_TEXT = """\
create table people (name text, sought text generated always as (upper(name)) stored) partition by range (name);
create table people_a_m partition of people for values from (minvalue) to ('n');
create table people_n_z partition of people for values from ('n') to (maxvalue);
insert into people (name) values ('ärztin'), ('özil'), ('Zoe');
create materialized view first as select min(name) as name from people;
"""
COMPUTED = "select (select string_agg(sought, ' ' order by sought) from people_n_z), (table first)"


def test_what_is_computed_of_text_is_so_again_where_live_sorts_text_otherwise(new_site: Site, live: OnHost) -> None:
    site, name, elsewhere = new_site, f"order_{new_site.place.name}", postgres.in_database(live, "postgres")
    gone, as_icu = f'drop database "{name}" with (force)', "locale 'C.UTF-8' locale_provider icu icu_locale 'de'"
    made, plain = f"create database \"{name}\" template template0 encoding 'UTF8' ", "locale 'C' locale_provider libc"
    sql(elsewhere, made + as_icu)
    site.server = postgres.in_database(live, name)
    site.configure({"native.database": name})
    try:
        assert as_cluster_user(site.server, "psql", "-Xq", stdin=OF_TEXT).returncode == 0
        assert sql(site.server, COMPUTED) == "ÖZIL ZOE|ärztin"
        taken = site.takes("db")
        sql(elsewhere, gone, made + plain)
        done = site.run("restore", "db", taken, "--in-place", "--yes")
        assert done.returncode == 0, done.stderr
        differs = "(collate C instead of C.UTF-8, ctype C instead of C.UTF-8, locale_provider c instead of i, locale "
        assert f"sorts text otherwise than the one of the set did {differs}none instead of de)" in done.stderr
        assert sql(site.server, COMPUTED) == "ÖZIL ZOE|ärztin"
        sql(elsewhere, gone, made + plain)
        said = fails(site, taken, "--in-place", "--replace", "--yes", status=4)
        assert f"{differs}none instead of de), expected the same for --replace" in said
        run_as_admin(said.partition("hint: ")[2].partition("   #")[0])
        done = site.run("restore", "db", taken, "--in-place", "--replace", "--yes")
        assert (done.returncode, sql(site.server, COMPUTED)) == (0, "ÖZIL ZOE|ärztin"), done.stderr
        change_manifest(site, taken, lambda has: has["streams"]["db"]["source"].update(ctype="xx_XX.UTF-8"))
        said = fails(site, taken, "--in-place", "--yes", status=4)
        assert (
            "db: the database of the set sorted text by the locale xx_XX.UTF-8, expected a server that has it" in said
        )
        assert "hint: localedef -i xx_XX -c -f UTF-8 xx_XX.UTF-8 && systemctl restart postgresql" in said
        change_manifest(site, taken, lambda has: has["streams"]["db"]["source"].update(ctype=f"{site.place}/x"))
        assert fails(site, taken, "--in-place", "--yes", status=4).endswith("hint: locale -a\n")
    finally:
        for each in databases_like(live, name):
            sql(elsewhere, f'drop database "{each}" with (force)')


DATES = "select to_char('03/04/1970'::date, 'DD Mon'), current_setting('TimeZone')"


def test_dates_are_read_as_they_were_on_another_server_and_told_with_the_command_on_the_same(
    own_database: Site,
) -> None:
    site, name = own_database, own_database.server.database
    was = {"datestyle": "ISO, DMY", "timezone": "America/Toronto", "intervalstyle": "postgres"}  # of postgresql.conf
    sql(site.server, f"alter role postgres in database \"{name}\" set intervalstyle to 'iso_8601'")
    taken = site.takes("db")
    change_manifest(site, taken, lambda has: has["streams"]["db"]["source"].update(was))
    done = site.run("restore", "db", taken, "--to", f"{name}_new")
    assert sql(postgres.in_database(site.server, f"{name}_new"), DATES).startswith("04 Mar|")
    told = "dates and times otherwise than the one of the set did (DateStyle ISO, MDY instead of ISO, DMY, TimeZone "
    assert f"the live database reads and writes {told}" in done.stderr
    assert "IntervalStyle" not in done.stderr  # it is the role's that dumps, not the server's
    sql(site.server, done.stderr.partition("to have it as it was: ")[2].partition("\n")[0])
    assert sql(site.server, DATES) == "03 Apr|America/Toronto"
    sql(site.server, f'alter database "{name}" reset all')
    change_manifest(site, taken, lambda has: has["streams"]["db"]["source"].update(system_identifier="1"))
    done = site.run("restore", "db", taken, "--in-place", "--yes", CONFIRM=name)
    assert (done.returncode, "dates and times" in done.stderr) == (0, False), done.stderr
    assert sql(site.server, DATES) == "03 Apr|America/Toronto"


def test_what_was_set_for_a_new_database_before_it_was_given_away_is_taken_back(live: OnHost) -> None:
    sql(live, "create database planted", "alter database planted set search_path = mine")
    sql(live, "grant create on database planted to dental_app with grant option")
    sql(live, "alter database planted with is_template true connection limit 0")
    try:
        databases.take_name(live, "planted", "planted_new", "")
        assert sql(live, OF_DATABASE.format("planted_new")).endswith(
            "|-1||10CONNECTfalse,10CREATEfalse,10TEMPORARYfalse|"
        )
        assert sql(live, "select datistemplate from pg_database where datname = 'planted_new'") == "f"
    finally:
        sql(live, "update pg_database set datistemplate = false where datname ~ '^planted'")
        sql(live, "drop database if exists planted", "drop database if exists planted_new")


# As a database has it that comes from an older server.
OF_NO_SERVER = """\
update pg_db_role_setting set setconfig = setconfig || array['operator_precedence_warning=on']
 || case when setrole = 'dental_front'::regrole then array['lc_time=xx_XX.UTF-8'] end
 where setdatabase = (select oid from pg_database where datname = '{}') or setrole = 'dental_front'::regrole"""


@pytest.mark.thorough
def test_a_setting_with_which_nobody_could_connect_is_left_out_and_told(own_database: Site) -> None:
    site = own_database
    name, elsewhere = site.server.database, postgres.in_database(site.server, "postgres")
    libraries = bin_dir().parent / "lib"
    (libraries / "plugins").mkdir(exist_ok=True)
    copies = [libraries / "pms_hints.so", libraries / "plugins/pms_local.so"]
    for copy in copies:
        shutil.copy(libraries / "auto_explain.so", copy)
    preloads = ("session_preload_libraries to pms_hints, plpgsql", "local_preload_libraries to pms_local")
    sql(elsewhere, f"alter database \"{name}\" set work_mem to '5MB'", "create role dental_front login")
    sql(elsewhere, *(f"alter role dental_front set {each}" for each in (*preloads, "work_mem to '6MB'")))
    sql(elsewhere, f'alter database "{name}" set {preloads[0]}', OF_NO_SERVER.format(name))
    try:
        taken = site.takes("db")
        sql(elsewhere, f'drop database "{name}" with (force)', f'create database "{name}" template template0')
        sql(elsewhere, "drop role dental_front")
        for copy in copies:
            copy.unlink()
        assert (
            "proof_load=passed\nproof_settings=not checked\nproof_identity=passed\n" in site.run("drill", taken).stdout
        )
        done = site.run("restore", "db", taken, "--in-place", "--yes")
        assert done.returncode == 0, done.stderr
        left = "setting operator_precedence_warning", "setting operator_precedence_warning of role dental_front"
        preload = "setting session_preload_libraries", "setting session_preload_libraries of role dental_front"
        named = ", ".join(
            (
                *left,
                "setting lc_time of role dental_front",
                *preload,
                "setting local_preload_libraries of role dental_front",
            )
        )
        assert f"the server does not take the set's own {named}, as it lacks" in done.stderr
        assert sql(site.server, "show work_mem") == "5MB"
        roles = "select rolconfig from pg_roles where rolname = 'dental_front'"
        assert sql(elsewhere, roles) == "{work_mem=6MB}"
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)
        sql(elsewhere, f'alter database "{name}" reset all', "drop role if exists dental_front")


UNKNOWN = ("lc_monetary TO 'xx_YY'", "operator_precedence_warning TO 'on'")


def test_settings_that_do_not_come_back_are_seen_and_those_that_cannot_be_tried_are_told(live: OnHost) -> None:
    sql(live, f"create database {load.DATABASE}")
    try:
        for line, found in (
            ("ALTER DATABASE :\"DBNAME\" SET work_mem TO '4MB';\n" * 2, "setting work_mem"),
            ('GRANT CREATE ON DATABASE :"DBNAME" TO PUBLIC;\n', "rights"),
            ('ALTER DATABASE :"DBNAME" OWNER TO nobody_there;\n', "SQLSTATE 42704"),
            ("DROP DATABASE x;\n", "something else is in the file"),
        ):
            with settings_file(live, line) as file, pytest.raises(DrillError, match=found):
                compare_settings.compare(live, file.fileno(), lambda: None)
        with settings_file(live, "") as file:
            assert compare_settings.compare(live, file.fileno(), lambda: None) == ""
        unknown = "".join(f'ALTER DATABASE :"DBNAME" SET {each};\n' for each in UNKNOWN)
        with settings_file(live, unknown) as file:
            why = compare_settings.compare(live, file.fileno(), lambda: None)
            assert why.endswith("does not take the database's setting lc_monetary, setting operator_precedence_warning")
        source = DatabaseSource(server=live, facts=postgres.examine(live))
        time_of = "ALTER {} SET lc_time TO 'xx_XX.UTF-8';\n"
        of_another = time_of.format("ROLE dental_reader")
        assert database_settings.left_out(source, [of_another]) == [of_another]
        for whose in ('DATABASE :"DBNAME"', f"ROLE {live.user}"):
            with pytest.raises(RefusedError, match=r"does not take the set's setting lc_time.* \(a value that it does"):
                database_settings.left_out(source, [time_of.format(whose)])
        given = f"grant connect on database {load.DATABASE} to"
        sql(live, f"{given} dental_app with grant option", f"{given} dental_reader")
        sql(live, "set session authorization dental_app", f"{given} dental_reader")
        rights = own_settings.statements(own_settings.of(postgres.in_database(live, load.DATABASE)))["rights"]
        assert rights.count(" TO dental_reader;") == 1
        after = "select count(*) from pg_db_role_setting join pg_database d on d.oid = setdatabase where datname = '{}'"
        assert sql(live, after.format(load.DATABASE)) == "0"
    finally:
        sql(live, f"drop database {load.DATABASE}")


@contextlib.contextmanager
def settings_file(live: OnHost, more: str) -> Iterator[IO[bytes]]:
    """Make a set's file of what belongs to a new database, with something more in it."""
    text = own_settings.of(postgres.in_database(live, load.DATABASE))
    with tempfile.TemporaryFile() as file:
        file.write(gzip.compress(text.replace("-- settings of", f"{more}-- settings of").encode()))
        file.flush()
        yield file


def test_roles_that_are_missing_are_made_and_those_that_exist_stay_as_they_are(own_database: Site) -> None:
    site = own_database
    roles = "select rolname, rolcanlogin, rolconnlimit, rolpassword from pg_authid where rolname ~ '^dental' order by 1"
    sql(site.server, "alter role dental_app connection limit 3 nologin")
    sql(site.server, 'create role "dental gone" login connection limit 8', "create table odd (n int)")
    sql(site.server, 'alter table odd owner to "dental gone"', 'grant "dental gone" to dental_reader')
    given = """select has_parameter_privilege(oid, 'log_statement', 'set'), shobj_description(oid, 'pg_authid'),
 rolconfig from pg_roles where rolname = 'dental gone'"""
    no_right = 'revoke set on parameter log_statement from "dental gone"'
    sql(site.server, no_right.replace("revoke", "grant").replace("from", "to"))
    sql(
        site.server,
        r"""comment on role "dental gone" is 'PRACTICE\gone''s'; alter role "dental gone" set my.x = 'a\b'""",
    )
    name = site.takes("db")
    before = sql(site.server, roles), sql(site.server, given)
    sql(site.server, "drop table odd", no_right, 'drop role "dental gone"')
    try:
        done = site.run("restore", "db", name)
        assert done.returncode == 0, done.stderr
        assert (sql(site.server, roles), sql(site.server, given)) == before
        assert before[1].startswith(r"t|PRACTICE\gone's|")
        assert sql(site.server, "select pg_has_role('dental_reader', 'dental gone', 'member')") == "t"
    finally:
        for other in beside(site):
            sql(postgres.in_database(site.server, "postgres"), f'drop database "{other}"')
        sql(site.server, no_right, 'drop role "dental gone"', "alter role dental_app connection limit 40 login")


def of_set(site: Site) -> bytes:
    (file,) = site.store.glob("db/db_*.sql.gz")
    return gzip.decompress(file.read_bytes())


def test_a_dump_of_a_newer_server_is_refused_before_anything_is_touched(own_database: Site) -> None:
    site = own_database
    file = site.place / "newer.sql"
    newer = re.sub(rb"(?m)^(-- Dumped (?:from database|by pg_dump) version )\d+", rb"\g<1>99", of_set(site))
    file.write_bytes(newer)
    said = fails(site, str(file), status=4)
    assert f"{file}: a dump of PostgreSQL 99, expected of {major()}, the server's, or older" in said
    assert "image postgres:99" in said


@pytest.mark.sample(2)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_a_file_of_an_older_version_and_without_a_set_is_restored(own_database: Site, packed: bool) -> None:
    site = own_database
    before = dump(site.server)
    file = site.place / ("older.sql.gz" if packed else "older.sql")
    older = re.sub(rb"(?m)^(-- Dumped (?:from database|by pg_dump) version )\d+", rb"\g<1>9", of_set(site))
    older = re.sub(rb"(?m)^\\(un)?restrict \w+\n\n", b"", older)
    file.write_bytes(gzip.compress(older) if packed else older)
    done = site.run("restore", "db", str(file))
    assert done.returncode == 0, done.stderr
    assert in_new(site, printed(done)["restore_target"]) == before


@pytest.mark.each_release
def test_a_psql_that_does_not_know_restrict_gets_a_dump_without_it(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    site.fake(
        "psql",
        """case "$*" in
*"--command=\\restrict x"*) echo "invalid command" >&2; exit 1 ;;
*--command=commit*) tee "$0.seen" | "$real" "$@"; exit ;;
esac
exec "$real" "$@\"""",
    )
    (site.place / "clients").chmod(0o1777)
    done = site.run("restore", "db", "latest")
    assert done.returncode == 0, done.stderr
    assert in_new(site, printed(done)["restore_target"]) == before
    seen = (site.place / "clients/psql.seen").read_bytes()
    assert b"\n\\restrict " not in seen.replace(b"\n\\restrict abc", b"")
    assert b"database dump complete" in seen


@pytest.mark.thorough
def test_a_set_that_was_changed_is_refused_before_a_database_is_made(own_database: Site) -> None:
    site = own_database
    site.fake("psql", 'case "$*" in *--file=-*) tee -a "$0.seen" | "$real" "$@"; exit ;; esac\nexec "$real" "$@"')
    (site.place / "clients").chmod(0o1777)
    seen = site.place / "clients/psql.seen"
    (file,) = site.store.glob("db/db_*.sql.gz")
    content = file.read_bytes()
    file.write_bytes(gzip.compress(of_set(site).replace(b"canary-patient-4711", b"canary-patient-4712")))
    assert "the checksum differs from the manifest's" in fails(site, site.sets()[-1])
    assert b"create database" not in seen.read_bytes()
    file.write_bytes(content)
    assert site.run("restore", "db", "latest").returncode == 0
    assert b"create database" in seen.read_bytes()


# What counts the rows; that of the roles and of the settings goes on.
COUNTING = r"""case "$*" in *count_rows.pl*) cat >"$0.$$" ;; *) exec "$real" "$@" ;; esac
! grep --quiet "database cluster dump\|settings of the database" "$0.$$" || exec "$real" "$@" <"$0.$$"
"""
SAYS_WHEN_COMMITTED = """case "$*" in *--command=commit*) "$real" "$@" && echo committed >"$0.said"; exit ;; esac
exec "$real" "$@\""""
GIVEN = SAYS_WHEN_COMMITTED.replace('"$real" "$@" &&', 'tee "$0.given" | "$real" "$@" &&')


def test_nothing_is_committed_before_the_proof_however_late_it_comes(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    proven = site.place / "proven"
    given = site.place / "clients/psql.given"
    whole = f'until grep --quiet "database dump complete" {given}; do sleep 0.05; done; sleep 1'
    path = site.fake_on_path("perl", f'{COUNTING}{whole}; "$real" "$@" <"$0.$$" && touch {proven}')
    site.fake("psql", GIVEN.replace("committed", f'$(ls {proven}) >>"$0.order"; echo committed'))
    (site.place / "clients").chmod(0o1777)
    done = site.run("restore", "db", "latest", PATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (site.place / "clients/psql.order").read_text() == f"{proven}\n"
    assert in_new(site, printed(done)["restore_target"]) == before


def test_what_turns_out_not_to_be_whole_is_not_committed(own_database: Site) -> None:
    site = own_database
    path = site.fake_on_path("perl", f"{COUNTING}cat >/dev/null; exit 1")
    site.fake("psql", SAYS_WHEN_COMMITTED)
    (site.place / "clients").chmod(0o1777)
    assert "the content is not sound (perl: exit status 1)" in fails(site, "latest", PATH=path)
    assert not (site.place / "clients/psql.said").exists()
    assert site.run("restore", "db", "latest").returncode == 0
    assert (site.place / "clients/psql.said").exists()


def test_a_proof_that_stands_still_is_given_up(own_database: Site) -> None:
    site = own_database
    site.configure({"stall_timeout_s": 5})
    path = site.fake_on_path("perl", f"{COUNTING}sleep 60")
    assert "db: verifying: no byte moved for 5 s" in fails(site, "latest", PATH=path)


@pytest.mark.sample(2)
@pytest.mark.parametrize(("stored", "by_gzip"), [(True, 8), (False, 2)], ids=["of a set", "from elsewhere"])
def test_what_only_gzip_says_is_whole_is_replayed_by_gzip(own_database: Site, stored: bool, by_gzip: int) -> None:
    """A file of two parts: its last field is not the length of all that comes out."""
    site = own_database
    before = dump(site.server)
    (file,) = site.store.glob("db/db_*.sql.gz")
    text = gzip.decompress(file.read_bytes())
    file = file if stored else site.place / "parts.sql.gz"
    file.write_bytes(gzip.compress(text[:5000]) + gzip.compress(text[5000:]))
    know(site, Kind.DB)
    path = site.fake_on_path("gzip", 'echo "$@" >>"$0.said"; exec "$real" "$@"')
    (site.place / "fakes").chmod(0o1777)
    done = site.run("restore", "db", "latest" if stored else str(file), PATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    # proven and replayed; of a set, its roles were looked at, and made before the replay by igzip and the one by gzip
    assert (site.place / "fakes/gzip.said").read_text() == "--decompress --stdout\n" * by_gzip
    assert in_new(site, printed(done)["restore_target"]) == before


@pytest.mark.sample(2)
@pytest.mark.parametrize("program", ["\\connect postgres", "\\! touch {place}/touched"])
def test_nothing_of_a_file_from_elsewhere_runs_before_it_is_proven(own_database: Site, program: str) -> None:
    site = own_database
    file = site.place / "elsewhere.sql.gz"
    (site.place).chmod(0o1777)
    lines = [program.format(place=site.place), "create table touched (n int);", *["-- nothing" * 100] * 40_000]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert "does not end with its completion mark" in fails(site, str(file))
    assert not (site.place / "touched").exists()
    assert sql(postgres.in_database(site.server, "postgres"), "select to_regclass('touched')") == ""


def test_a_dump_that_is_damaged_is_said_to_be_so_and_not_what_the_server_made_of_it(own_database: Site) -> None:
    site = own_database
    text = of_set(site)
    file = site.place / "cut.sql.gz"
    file.write_bytes(gzip.compress(text)[:-5000])
    assert "the content is not sound (gzip: exit status 1)" in fails(site, str(file))
    file.write_bytes(gzip.compress(text[: len(text) // 2]))
    assert "the dump does not end with its completion mark, expected a whole dump" in fails(site, str(file))


def test_rows_that_did_not_arrive_are_noticed(own_database: Site) -> None:
    site = own_database
    site.fake(
        "psql",
        'case "$*" in *output*--file=-*) sed "/canary-patient-4711/d" | "$real" "$@"; exit ;; esac\nexec "$real" "$@"',
    )
    said = fails(site, "latest")
    assert "1 tables have not the rows of the dump, the first is public.patients), expected" in said


# What CREATE EXTENSION does, and what pg_dump writes of a table whose rows only the extension makes.
FILLED = b"""\
CREATE TABLE public.reference_systems (n int);
INSERT INTO public.reference_systems SELECT generate_series(1, 9);
UPDATE pg_catalog.pg_extension SET extconfig = ARRAY['public.reference_systems'::regclass]::oid[],
 extcondition = ARRAY['WHERE false'] WHERE extname = 'plpgsql';
"""
OF_ITS_OWN = b"""\
--
-- Data for Name: reference_systems; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public.reference_systems (n) FROM stdin;
10
11
\\.

"""
AT_END = b"--\n-- PostgreSQL database dump complete\n"


def filled(site: Site, more: bytes) -> tuple[str, str]:
    """Make the set's dump one with a table that an extension fills, before its rows are loaded and after."""
    (file,) = site.store.glob("db/db_*.sql.gz")
    file.write_bytes(gzip.compress(at_end(of_set(site), FILLED + OF_ITS_OWN + more)))
    know(site, Kind.DB)
    return "latest", "--as-superuser"  # as no dump does, it writes into a catalog


def at_end(text: bytes, more: bytes) -> bytes:
    before, end, after = text.rpartition(AT_END)
    return before + more + end + after


def test_a_table_that_an_extension_fills_may_have_more_rows_than_the_dump(own_database: Site) -> None:
    site = own_database
    done = site.run("restore", "db", *filled(site, b""))
    assert done.returncode == 0, done.stderr
    made = postgres.in_database(site.server, printed(done)["restore_target"])
    assert sql(made, "select count(*) from reference_systems") == "11"


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "more",
    [b"DELETE FROM public.reference_systems WHERE n > 1;\n", b"UPDATE pg_catalog.pg_extension SET extconfig = NULL;\n"],
    ids=["fewer", "no extension's"],
)
def test_a_table_that_an_extension_fills_may_not_have_fewer_nor_any_other_more(own_database: Site, more: bytes) -> None:
    said = fails(own_database, *filled(own_database, more))
    assert "1 tables have not the rows of the dump, the first is public.reference_systems), expected" in said


# A new database hashes such rows otherwise, so that pg_dump (from version 16 on by itself) writes them under the root.
PARTITIONED = """\
create type mood as enum ('glad', 'afraid');
create table visits (mood mood, n int) partition by range (n);
create table visits_old partition of visits for values from (1) to (5);
create table visits_new partition of visits for values from (5) to (99) partition by hash (mood);
create table visits_0 partition of visits_new for values with (modulus 2, remainder 0);
create table visits_1 partition of visits_new for values with (modulus 2, remainder 1);
insert into visits select (array['glad', 'afraid'])[1 + n % 2]::mood, n from generate_series(1, 10) n;
"""


def with_partitions(site: Site) -> str:
    sql(site.server, PARTITIONED)
    file = site.place / "partitioned.sql"
    file.write_text(as_cluster_user(site.server, "pg_dump", "--load-via-partition-root").stdout)
    return str(file)


@pytest.mark.thorough
def test_rows_that_come_through_the_root_of_their_partitions_are_counted(own_database: Site) -> None:
    site = own_database
    file = with_partitions(site)
    before = sorted(dump(site.server))
    done = site.run("restore", "db", file)
    assert done.returncode == 0, done.stderr
    assert sorted(in_new(site, printed(done)["restore_target"])) == before


def test_a_row_that_is_lost_on_its_way_through_the_root_is_noticed(own_database: Site) -> None:
    site = own_database
    file = Path(with_partitions(site))
    file.write_bytes(at_end(file.read_bytes(), b"DELETE FROM public.visits WHERE n = 7;\n"))
    said = fails(site, str(file))
    assert "1 tables have not the rows of the dump, the first is public.visits), expected" in said


@pytest.mark.thorough
def test_a_dump_of_more_tables_than_one_transaction_may_lock_says_which_setting_to_raise(own_database: Site) -> None:
    site = own_database
    file = site.place / "many.sql"
    file.write_bytes(
        at_end(of_set(site), b"SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 1000000) n;\n")
    )
    said = fails(site, str(file))
    assert (
        "(SQLSTATE 53200, at SELECT, more tables than the server's memory for locks has room for in one transaction"
        in said
    )
    assert "disk" not in said
    assert "hint: max_locks_per_transaction = 1024 in postgresql.conf, or in the compose file, service db: " in said
    assert "command: postgres -c max_locks_per_transaction=1024   # restart the server; then try again\n" in said


def test_a_disk_of_the_server_without_room_is_told_before_anything_is_made(own_database: Site) -> None:
    site = own_database
    site.fake(
        "psql",
        """case "$*" in *--file=-*) sed 's/LC_ALL=C df -Pk/echo x 100 99 1 99% \\/ #/' | "$real" "$@"; exit ;; esac
exec "$real" "$@\"""",
    )
    said = fails(site, "latest", status=4)
    assert "db: 1.0 kB free on the server's disk, as df says of its data directory, expected " in said


def test_a_signal_drops_the_new_database(own_database: Site) -> None:
    site = own_database
    before = dump(site.server)
    site.fake("psql", 'case "$*" in *--command=commit*) sleep 60 ;; esac\nexec "$real" "$@"')
    with site.running("restore", "db", "latest") as process:
        wait_until(lambda: beside(site) != [])
        status, out, err = signalled(process, signal.SIGTERM, within_s=30)
    assert (status, out) == (1, "")
    assert "stopped by signal 15" in err
    assert beside(site) == []
    assert dump(site.server) == before


@pytest.mark.thorough
def test_what_a_killed_restore_leaves_is_named_by_the_next_and_not_in_its_way(own_database: Site) -> None:
    site = own_database
    site.fake("psql", 'case "$*" in *--command=commit*) sleep 60 ;; esac\nexec "$real" "$@"')
    with site.running("restore", "db", "latest") as process:
        wait_until(lambda: beside(site) != [])
        signalled(process, signal.SIGKILL, within_s=30)
    site.mend()
    (left,) = beside(site)
    assert re.fullmatch(rf"{site.server.database}_restoring_[0-9_]{{17}}", left)
    done = site.run("restore", "db", "latest")
    assert done.returncode == 0
    assert done.stderr == f"database {left} is left of a restore that was cut off; nothing needs it\n"


def test_a_path_with_no_database_in_it_makes_none(own_database: Site) -> None:
    site = own_database
    empty = site.place / "empty.sql"
    empty.write_text("")
    fails(site, str(empty))
    fails(site, str(Path("missing.sql")), status=2)


def test_a_file_without_its_roles_says_how_to_find_those_that_the_server_lacks(own_database: Site) -> None:
    site = own_database
    sql(site.server, "create role gone_owner", "create table odd (n int)", "alter table odd owner to gone_owner")
    file = site.place / "seed.sql.gz"
    file.write_bytes(gzip.compress(as_cluster_user(site.server, "pg_dump").stdout.encode()))
    sql(site.server, "drop table odd", "drop role gone_owner")
    said = fails(site, str(file))
    assert "failed (SQLSTATE 42704, at ALTER TABLE public.odd OWNER TO gone_owner: the server lacks a role)" in said
    command = said.partition("hint: ")[2].partition("   #")[0].replace("FILE", str(file))
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert "OWNER TO gone_owner\n" in found


def test_nobody_connects_to_a_new_database_before_it_has_the_rights_of_the_live_one(own_database: Site) -> None:
    server = own_database.server
    made, name = f"{server.database}_made", f"{server.database}_new"
    acl = (
        "select a from pg_database, unnest(coalesce(datacl, acldefault('d', datdba))) a where datname = '{}' "
        "order by a::text"
    )
    sql(server, "create role stranger login")
    try:
        databases.create_like(server, server.database, made)
        stranger = replace(postgres.in_database(server, made), user="stranger")
        refused = as_cluster_user(stranger, "psql", "-XAtc", "select 1").stderr
        assert "permission denied for database" in refused
        live = DatabaseSource(server=server, facts=postgres.examine(server))
        databases.take_name(server, made, name, database_settings.script(live, made, {}))
        assert sql(server, acl.format(name)) == sql(server, acl.format(server.database))
        assert as_cluster_user(postgres.in_database(stranger, name), "psql", "-XAtc", "select 1").stdout == "1\n"
    finally:
        sql(server, "drop role stranger", f'drop database if exists "{made}"')


# Where a restore is held in its own sessions: before the first such line of what it tells the server.
MOMENTS = {
    "created": "^revoke all on database",
    "filled": "^lock table pg_database",
    "locked": "^alter database .* rename to",
}
CONNECTED = "select string_agg(application_name, ' ') from pg_stat_get_activity(null) where application_name ~ '^in-'"
WAIT_FOR_NAMES = "select count(*) from pg_locks where relation = 1262 and not granted"  # pg_database, which names it


@contextlib.contextmanager
def held(site: Site) -> Iterator[Callable[[str], Callable[[], object]]]:
    """Hold a restore at each of the moments: wait for one, and return what lets it go on."""
    place = site.place / "moments"
    place.mkdir()
    place.chmod(0o777)
    waits = r"\\! [ -e {0} ] || {{ touch {0}; read go <{0}.go; }}"
    lines = [f"/{line}/i\\\n{waits.format(place / name)}\n" for name, line in MOMENTS.items()]
    (site.place / "waits.sed").write_text("".join(lines))
    filtered(site, f"exec sed --unbuffered --file={site.place}/waits.sed")
    gates = {}
    for name in MOMENTS:
        os.mkfifo(place / f"{name}.go")
        gates[name] = os.open(place / f"{name}.go", os.O_RDWR)

    def wait_for(name: str) -> Callable[[], object]:
        wait_until((place / name).exists)
        return lambda: os.write(gates[name], b"go\n")

    try:
        yield wait_for
    finally:
        for gate in gates.values():
            os.close(gate)  # whoever still waits goes on: with the names locked, nobody else could connect


@contextlib.contextmanager
def asking(server: OnHost) -> Iterator[Callable[[str], str]]:
    """Ask, in a session that is there already, when nobody can connect."""
    argv = [*cluster_user(server), str(bin_dir() / "psql"), "-XAtq"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=environment(**connection(server)), stdin=pipe, stdout=pipe, text=True) as psql:
        assert psql.stdin
        assert psql.stdout
        given, answers = psql.stdin, psql.stdout

        def ask(query: str) -> str:
            given.write(f"{query};\n")
            given.flush()
            return answers.readline().strip()

        try:
            assert ask("select 'there'") == "there"
            yield ask
        finally:
            psql.kill()


def connects(server: OnHost) -> "subprocess.Popen[str]":
    """Begin to connect, and to ask for the table that only the database that was live has."""
    asked = "select coalesce(to_regclass('later')::text, 'in')"
    argv = [*cluster_user(server), str(bin_dir() / "psql"), "-XAtc", asked]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=environment(**connection(server)), stdout=pipe, stderr=pipe, text=True)


@pytest.mark.sample(2)
@pytest.mark.parametrize("how", ["beside", "in place"])
def test_nobody_is_in_a_database_while_it_is_made_and_while_it_gets_its_name(own_database: Site, how: str) -> None:
    site, live = own_database, own_database.server
    sql(live, *CHANGES)
    words = ("--in-place", "--yes", "--no-safety-set") if how == "in place" else ("--to", f"{live.database}_new")
    elsewhere = postgres.in_database(live, "postgres")
    with held(site) as wait_for, asking(elsewhere) as ask, site.running("restore", "db", "latest", *words) as restore:
        go_on = wait_for("created")
        (name,) = beside(site)
        made = postgres.in_database(live, name)
        assert "is not currently accepting connections" in connects(made).communicate()[1]
        go_on()
        go_on = wait_for("filled")
        with session(made, "set application_name = 'in-new';"), session(live, "set application_name = 'in-live';"):
            go_on()
            go_on = wait_for("locked")
            wait_until(lambda: ask(CONNECTED) == ("" if how == "in place" else "in-live"))
            tries = [connects(made), connects(live)]
            wait_until(lambda: int(ask(WAIT_FOR_NAMES)) >= len(tries) or any(each.poll() is not None for each in tries))
            go_on()
            (refused, why), (let_in, _) = (each.communicate() for each in tries)
        _, err = restore.communicate(timeout=120)
    assert (restore.returncode, err) == (0, "")
    assert (refused, f'database "{name}" does not exist' in why) == ("", True), refused + why
    assert let_in == ("in\n" if how == "in place" else "later\n")


def test_rights_that_somebody_gives_the_restores_role_undo_no_restore_but_what_it_still_owns_does(
    own_database: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    server = own_database.server
    live = DatabaseSource(server=server, facts=postgres.examine(server))
    role, filled = f"{leftover_roles.PREFIX}0123456789ab", f"{server.database}_filled"
    sql(server, f"create role {role} nologin", "create table given (n int)", f"grant select on given to {role}")
    sql(server, f'create database "{filled}"')
    try:
        leftover_roles.remove_or_leave(live, role, filled=filled)
        assert (
            f"somebody has given role {role}, which the restore has made, rights meanwhile" in capsys.readouterr().err
        )
        sql(postgres.in_database(server, filled), "create table kept (n int)", f"alter table kept owner to {role}")
        with pytest.raises(RestoreError):
            leftover_roles.remove_or_leave(live, role, filled=filled)
    finally:
        sql(server, f'drop database "{filled}" with (force)', f"drop owned by {role}", f"drop role {role}")
