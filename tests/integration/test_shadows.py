"""Whoever may create things in the practice's database shadows every name in our SQL; none of it ever runs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dental_pms_backup
from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from tests import faults
from tests.integration.conftest import databases_like
from tests.integration.drills import without_records
from tests.integration.faults import (
    OK,
    assert_whole,
    events,
    fails,
    is_suspect,
    kept_beside,
    listening,
    recovers,
)
from tests.integration.support import Ran, Site, sql
from tests.integration.test_evil_settings import AS_IT_WAS, PROVEN, REPLACED

PACKAGE = Path(dental_pms_backup.__file__).parent
FILTERS = ".sed", ".pl", ".perl", ""
WORD = re.compile(r"[a-z_][a-z0-9_]*")
OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|?]+")
# Tells the trap's file which statement has sprung it, and does what it is there for, where it has the rights for it.
TRAP = """\
create schema evil;
create function evil.sprung() returns boolean language plpgsql as $$ begin
 if (select rolsuper from pg_catalog.pg_roles where rolname operator(pg_catalog.=) current_user) then
  copy (select pg_catalog.current_query()) to program 'cat >>{trap}';
  begin alter role evil_app superuser; exception when read_only_sql_transaction then null; end;
 end if;
 return true; end $$;
"""
# With each set of arguments that the server has for the name; for "any", which takes every type, with some.
BODY = "as $f$ begin perform evil.sprung(); return{} end $f$"
FUNCTIONS = """\
select format('create function evil.%I(%s) returns %s %s language plpgsql {body}', proname, oidvectortypes(proargtypes),
  case when proretset then 'setof' end, prorettype::regtype)
 from pg_proc p where pronamespace = 'pg_catalog'::regnamespace and proname = any ({names}) and prokind <> 'p'
 and not exists (select from pg_aggregate where aggfnoid = p.oid and aggkind <> 'n')
 and not proargtypes::oid[] && array['internal', '"any"']::regtype[]::oid[]
 and (proretset or prorettype = 'void'::regtype) = {is_set}
 and prorettype not in ('internal'::regtype, 'trigger'::regtype, 'event_trigger'::regtype) \\gexec
"""
OF_ANY = """\
select format('create or replace function evil.%I(%s) returns %s language plpgsql {body}', proname, arguments, result)
 from (select proname, pg_get_function_result(oid) result from pg_proc
  where pronamespace = 'pg_catalog'::regnamespace and proname = any ({names}) and '"any"'::regtype = any (proargtypes)
  and prokind = 'f') of_any, unnest(array['text', 'name', 'text, text', 'text, name', 'text, name, name',
  'text, text, text', 'text, name, text']) arguments \\gexec
"""
OPERATORS = """\
select format('create or replace function evil.%I(%s) returns %s language plpgsql {body}', 'operator_' || oid,
  concat_ws(', ', nullif(oprleft, 0)::regtype, oprright::regtype), oprresult::regtype)
 from pg_operator where oprnamespace = 'pg_catalog'::regnamespace and oprname = any ({names})
 and oprright <> 0 and oprcode <> 0
 and not array[oprleft, oprright] && array['internal', '"any"']::regtype[]::oid[] \\gexec
select format('create operator evil.%s (%s rightarg = %s, function = evil.%I)', oprname,
  case when oprleft <> 0 then format('leftarg = %s,', oprleft::regtype) end, oprright::regtype, 'operator_' || o.oid)
 from pg_operator o join pg_proc p on p.proname = 'operator_' || o.oid \\gexec
"""
RELATIONS = """\
select format('create view evil.%I as select %s from pg_catalog.%I where evil.sprung()', relname,
  string_agg(quote_ident(attname), ', ' order by attnum), relname)
 from pg_class join pg_attribute on attrelid = pg_class.oid and attnum > 0 and atttypid <> 'anyarray'::regtype
 where relnamespace = 'pg_catalog'::regnamespace and relkind in ('r', 'v') and relname = any ({names})
 group by relname \\gexec
"""
TYPES = """\
select format('create domain evil.%I as pg_catalog.%I check (evil.sprung())', typname, typname) from pg_type
 where typnamespace = 'pg_catalog'::regnamespace and typtype = 'b' and typname = any ({names}) \\gexec
"""
COUNTED = """\
select (select count(distinct proname) from pg_proc where pronamespace = 'evil'::regnamespace and proname !~ '^oper'),
 (select count(distinct oprname) from pg_operator where oprnamespace = 'evil'::regnamespace),
 (select count(*) from pg_class where relnamespace = 'evil'::regnamespace and relkind = 'v'),
 (select count(*) from pg_type where typnamespace = 'evil'::regnamespace and typtype = 'd')
"""
COMMANDS = {
    "run --dry-run": faults.AS_BEFORE,
    "status": faults.AS_BEFORE,
    "drill": PROVEN,
    "restore db latest": AS_IT_WAS,
    "restore db latest --in-place --yes": REPLACED,
    "restore all latest --in-place --yes": REPLACED,
}
ROWS = "set search_path = pg_catalog; select count(*) from public.attachments"
IS_SUPERUSER = "select rolsuper from pg_roles where rolname = 'evil_app'"


def our_texts() -> str:
    """Return all that our modules have as text and all filters: what SQL there is stands in it."""
    texts = []
    for path in PACKAGE.rglob("*"):
        if path.suffix == ".py":
            tree = ast.parse(path.read_text())
            texts += [
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
        elif path.is_file() and path.suffix in FILTERS:
            texts.append(path.read_text())
    return "\n".join(texts).lower()


def array(found: set[str]) -> str:
    return "array[" + ", ".join(postgres.literal(name) for name in sorted(found)) + "]::name[]"


def plant(server: OnHost, trap: Path) -> None:
    """Make a shadow of all that our SQL may name, as the owner of the database can, and have it found first."""
    text = our_texts()
    words, operators = array(set(WORD.findall(text))), array(set(OPERATOR.findall(text)))
    script = [
        "set role evil_app;\n",
        TRAP.format(trap=trap),
        FUNCTIONS.format(names=words, is_set="false", body=BODY.format(" null;")),
        FUNCTIONS.format(names=words, is_set="true", body=BODY.format(";")),
        OF_ANY.format(names=words, body=BODY.format(" null;")),
        OPERATORS.format(names=operators, body=BODY.format(" null;")),
        RELATIONS.format(names=words),
        TYPES.format(names=words),
        f'alter database "{server.database}" set search_path = evil, pg_catalog, public;\n',
    ]
    file = trap.with_name("plant.sql")
    file.write_text("".join(script))
    sql(server, f"\\i {file}")


@pytest.fixture
def shadowed(own_database: Site) -> Iterator[tuple[Site, Path]]:
    """A site whose database belongs to somebody evil, and the file that the server writes when a trap is sprung."""
    site = own_database
    trap = site.place / "sprung"
    trap.touch()
    trap.chmod(0o666)
    elsewhere = postgres.in_database(site.server, "postgres")
    sql(elsewhere, "create role evil_app login", f'alter database "{site.server.database}" owner to evil_app')
    try:
        yield site, trap
    finally:
        for made in databases_like(elsewhere, site.server.database):
            sql(elsewhere, f'drop database "{made}" with (force)')
        sql(elsewhere, "drop role evil_app")


def did(site: Site, *words: str, store: str) -> Ran:
    """Type a command, which has to succeed, and tell the table of it."""
    with listening(site) as journal:
        done = site.run(*words, wrapper=journal.wrapper)
        told = journal.close()
    assert done.returncode == 0, done.stderr
    faults.saw(status=done.returncode, store=store, events=events(told))
    return done


def test_the_shadows_are_sprung_by_whoever_does_not_pin_names(shadowed: tuple[Site, Path]) -> None:
    site, trap = shadowed
    plant(site.server, trap)
    functions, operators, relations, types = map(
        int, sql(site.server, f"set search_path = pg_catalog; {COUNTED}").splitlines()[-1].split("|")
    )
    assert functions > 60
    assert operators > 10
    assert relations > 10
    assert types > 8
    sql(site.server, "select format('%I.%I', 'a'::name, 'b'::name)")
    assert "select format(" in trap.read_text()
    assert sql(postgres.in_database(site.server, "postgres"), IS_SUPERUSER) == "t"


@pytest.mark.fault(
    "Somebody evil", "each function, operator, table and type that our SQL names is there once more, and found first"
)
def test_nothing_of_the_database_runs_under_a_name_of_ours(shadowed: tuple[Site, Path]) -> None:
    site, trap = shadowed
    site.configure({"application.table": None, "application.directory": "."})
    sql(site.server, "create table attachments (id int, storage_key text not null, byte_size bigint)")
    sql(site.server, "insert into attachments values (1, '2026/0001.jpg', 3700)")
    plant(site.server, trap)
    assert did(site, "run", store=faults.A_NEW_SET).stdout.endswith(f"{OK}\n")
    assert_whole(site, site.sets()[-1])
    for words, store in COMMANDS.items():
        stored = without_records(site)
        sql(site.server, "insert into public.attachments values (2, '2026/0002.jpg', 4400)")
        live = sql(site.server, ROWS)
        done = did(site, *words.split(), store=store)
        assert sql(site.server, ROWS) == ("1" if store == REPLACED else live), words
        if store == REPLACED:
            assert sql(kept_beside(site, done), ROWS) == live
        else:
            assert without_records(site) == stored, words
        assert ("drill_status=proven" in done.stdout) == (store == PROVEN)
        assert trap.read_text() == "", words
    assert_whole(site, site.takes())
    assert trap.read_text() == ""
    assert sql(postgres.in_database(site.server, "postgres"), IS_SUPERUSER) == "f"
    faults.recovered()


@pytest.mark.fault("Somebody evil", "something between us and the server drops the options of our sessions")
def test_a_session_whose_names_are_not_pinned_is_not_used(site: Site) -> None:
    site.fake("psql", 'unset PGOPTIONS; exec "$real" "$@"')
    met = fails(site, cause="database")
    assert "the search_path that was asked for is not in force" in met.stderr
    hint = "editor /etc/dental-pms/backup.yaml   # set native.host and native.port to those of the server itself"
    assert f"hint: {hint}\n" in met.stderr
    site.mend()
    recovers(site)


@pytest.mark.fault("Somebody evil", "a table's name holds what commands a terminal")
def test_a_name_cannot_command_the_terminal_of_whoever_reads_it(own_database: Site) -> None:
    site = own_database
    name = 'public."\x1b]0;owned\x07\x1b[2J"'
    sql(site.server, f"create table {name} as select n from generate_series(1, 500) n")  # noqa: S608 - ours
    site.takes()
    sql(site.server, f"delete from {name}")  # noqa: S608 - ours
    _, met = is_suspect(site)
    taken = site.sets()[-1]
    shown = site.run("show", taken)
    for text in (met.stdout, met.stderr, met.told, shown.stdout, shown.stderr):
        assert not set("\x1b\x07\r") & set(text)
    assert "\\x1b]0;owned" in shown.stdout
    assert site.run("accept", taken).returncode == 0
    recovers(site)
