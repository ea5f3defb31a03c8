"""What the planner would run of a table's definition is run by no session of ours that has rights."""

import ast
import contextlib
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dental_pms_backup
from dental_pms_backup.host import programs
from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from tests import faults
from tests.integration.conftest import databases_like
from tests.integration.faults import FAILED, OK, assert_whole, at_rest, events, fails, kept_beside, listening, recovers
from tests.integration.support import Ran, Site, bin_dir, sql, wait_until
from tests.integration.test_evil_settings import AS_IT_WAS, REPLACED, typed

PACKAGE = Path(dental_pms_backup.__file__).parent
# The planner computes what is constant in what describes a table, as whoever asks about it.
EVIL = """\
set role {app};
create function public.evil_do() returns void language plpgsql as $$ begin
 begin execute 'alter role {app} superuser'; exception when others then null; end;
 begin copy (select current_user) to program 'cat >>{trace}'; exception when others then null; end; end $$;
create function public.evil(n integer) returns integer language plpgsql immutable as $$ begin
 perform public.evil_do(); return n; end $$;
create table public.indexed (n int, key text);
create index on public.indexed ((public.evil(1) + n));
create table public.partly (n int);
create index on public.partly (n) where public.evil(1) > 0;
create table public.counted (n int);
create statistics public.counts on (n + public.evil(1)), n from public.counted;
create table public.attachments (storage_key text, byte_size bigint, n int)
 partition by range ((n + public.evil(1)));
create table public.attachments_1 partition of public.attachments default;
create table public.empty ();
create table public.long (t text, m int generated always as (3) stored);
"""
TABLES = ("indexed", "partly", "counted", "attachments_1", "empty", "long")
FILLED = """\
insert into public.indexed values (1), (2); insert into public.partly values (1); insert into public.counted values (1);
insert into public.attachments values ('2026/0001.jpg', 3700, 1), ('2026/0002.jpg', null, 2);
insert into public.empty default values; insert into public.long values (repeat('x', 9000))"""
IS_SUPERUSER = "select rolsuper from pg_roles where rolname = '{app}'"


@pytest.fixture
def owned(new_site: Site, live: OnHost) -> Iterator[tuple[Site, str]]:
    """A site whose database is a role's without rights, which has made such tables there; the role."""
    site, app = new_site, f"planned_{new_site.place.name}".lower()
    site.place.chmod(0o1777)
    sql(live, f"create role {app} login", f'create database "{app}" owner {app}')
    site.server = postgres.in_database(live, app)
    site.configure({"native.database": app, "application.table": None})
    sql(site.server, EVIL.format(app=app, trace=site.place / "trace"), FILLED)
    try:
        yield site, app
    finally:
        for made in databases_like(live, app):
            sql(live, f'drop database "{made}" with (force)')
        sql(live, f"drop role {app}")


def truncates_as_the_dump_begins(site: Site, app: str) -> None:
    """Have the application truncate its tables between the look at their files and the dump."""
    tables = ", ".join(f"public.{table}" for table in TABLES)
    as_app = f'{bin_dir()}/psql -qXh {site.server.host} -p {site.server.port} -U {app} -d {app} -c "truncate {tables}"'
    site.fake("pg_dump", f'{as_app} >&2\nexec "$real" "$@"')


def nothing_ran(site: Site, app: str, done: Ran) -> None:
    assert done.returncode == 0, done.stderr
    assert sql(postgres.in_database(site.server, "postgres"), IS_SUPERUSER.format(app=app)) == "f"
    assert not (site.place / "trace").exists()


def test_the_planner_runs_what_describes_a_table_as_whoever_asks(owned: tuple[Site, str]) -> None:
    site, app = owned
    for table in ("indexed", "partly", "counted", "attachments"):
        sql(site.server, f"select count(*) from public.{table}")  # noqa: S608 - ours
        assert sql(site.server, IS_SUPERUSER.format(app=app)) == "t", table
        sql(site.server, f"alter role {app} nosuperuser")
    assert set((site.place / "trace").read_text().split()) == {"postgres"}


@pytest.mark.fault("Somebody evil", "a function of his stands under an index, in statistics and under a partition")
def test_no_session_of_ours_runs_what_describes_a_table(owned: tuple[Site, str]) -> None:
    site, app = owned
    truncates_as_the_dump_begins(site, app)
    done = typed(site, "run", store=faults.A_NEW_SET)
    nothing_ran(site, app, done)
    assert done.stdout.endswith(f"{OK}\n")
    assert_whole(site, site.sets()[-1])
    site.mend()
    sql(site.server, f"set role {app}; {FILLED}")
    (site.attachments / "attachments").symlink_to(".")
    taken = site.takes()
    empties = f"set role {app}; select count(*) from public.empty"  # noqa: S608 - ours
    set_has = sql(site.server, empties)
    for words, store in (
        ("restore db latest", AS_IT_WAS),
        (f"restore db {taken} --in-place --yes", REPLACED),
        (f"restore all {taken} --in-place --yes", REPLACED),
    ):
        sql(site.server, f"set role {app}; insert into public.empty default values")
        live_has = sql(site.server, empties)
        done = typed(site, *words.split(), store=store)
        nothing_ran(site, app, done)
        assert sql(site.server, empties) == (live_has if store == AS_IT_WAS else set_has)
        if store == REPLACED:
            assert sql(kept_beside(site, done), empties) == live_has
    recovers(site)
    nothing_ran(site, app, done)


SEQUENCES = """\
set role {app};
create schema his;
create sequence his.one;
create sequence his.typed;
create domain his.typed as int;
"""
HIS_TABLE = """\
create table his.one (last_value bigint, is_called boolean); insert into his.one values (7, true);
create index on his.one ((last_value + public.evil(1)));
"""
RENAMED = HIS_TABLE.replace("his.one", "his.three") + "alter table his.three rename to one;"
MOVED = HIS_TABLE.replace("his.one", "public.one") + "alter table public.one set schema his;"
TYPED = HIS_TABLE.replace("his.one", "his.typed")
# What he does, whether he began it before the dump and ends it now, and what becomes of the run.
SWAPS = {
    "it is dropped": (f"drop sequence his.one; {HIS_TABLE}", False, "dump"),
    "it is renamed": (f"alter sequence his.one rename to two; {HIS_TABLE}", False, "dump"),
    "it moves to another schema": (f"alter sequence his.one set schema public; {HIS_TABLE}", False, "dump"),
    "his table is renamed": (f"alter sequence his.one rename to two; {RENAMED}", False, "dump"),
    "his table moves to it": (f"alter sequence his.one rename to two; {MOVED}", False, "dump"),
    "its schema is renamed": (f"alter schema his rename to hers; create schema his; {HIS_TABLE}", False, ""),
    "it had a type beside it": (f"drop domain his.typed; drop sequence his.typed; {TYPED}", False, ""),
    "it is dropped as the dump begins": (f"drop sequence his.one; {HIS_TABLE}", True, "dump"),
    "its schema is renamed as the dump begins": (
        f"alter schema his rename to hers; create schema his; {HIS_TABLE}",
        True,
        "dump",
    ),
}
WAITING = "select count(*) from pg_locks l join pg_stat_activity using (pid) where not granted and {whose}"
OF_THE_DUMP = "application_name like 'dental-pms-backup-%'"


@contextlib.contextmanager
def his_session(site: Site, app: str) -> Iterator["subprocess.Popen[str]"]:
    argv = [str(bin_dir() / "psql"), "-qX", "-h", site.server.host, "-p", str(site.server.port), "-U", app, "-d", app]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def does(process: "subprocess.Popen[str]", statements: str) -> None:
    assert process.stdin
    process.stdin.write(f"{statements}\n")
    process.stdin.flush()


@pytest.mark.sample(9)
@pytest.mark.fault("Somebody evil", "while pg_dump waits for his table, he puts another one in a sequence's place")
@pytest.mark.parametrize(("swap", "before", "cause"), SWAPS.values(), ids=SWAPS)
def test_nothing_comes_into_the_place_of_a_sequence_that_is_dumped(
    owned: tuple[Site, str], swap: str, before: bool, cause: str
) -> None:
    site, app = owned
    sql(site.server, SEQUENCES.format(app=app))
    stored = site.set_files()
    waiting = (WAITING.format(whose=OF_THE_DUMP), WAITING.format(whose=f"usename = '{app}'"))
    with his_session(site, app) as holds, his_session(site, app) as swaps, listening(site) as journal:
        does(holds, "begin; lock table public.indexed in access exclusive mode;")
        does(swaps, f"begin; {swap}" if before else "")
        open_now = "select count(*) from pg_stat_activity where usename = '{}' and state = 'idle in transaction'"
        wait_until(lambda: sql(site.server, open_now.format(app)) == f"{1 + before}")
        with site.running("run", wrapper=journal.wrapper) as process:
            wait_until(lambda: sql(site.server, waiting[0]) == "1")
            does(swaps, f"{'commit;' if before else swap}\n\\q")
            wait_until(lambda: swaps.poll() is not None or before or sql(site.server, waiting[1]) == "1")
            does(holds, "commit;")
            out, err = process.communicate(timeout=120)
        told = journal.close()
        wait_until(lambda: swaps.poll() is not None)
    nothing_ran(site, app, Ran([], 0, out, err))
    assert (process.returncode, out) == (1, FAILED.format(cause)) if cause else out.endswith(f"{OK}\n"), err
    assert "hint: dental-pms-backup run   # when the migration that changed tables" in err or not cause, err
    if cause:
        assert site.set_files() == stored
    else:
        assert_whole(site, site.sets()[-1])
    store = faults.AS_BEFORE if cause else faults.A_NEW_SET
    faults.saw(status=process.returncode, cause=cause, store=store, events=events(told))
    at_rest(site)
    recovers(site)
    nothing_ran(site, app, Ran([], 0, out, err))


CONFIGURATION = """\
alter extension plpgsql add table public.indexed;
update pg_extension set extconfig = array['public.indexed'::regclass::oid], extcondition = array['where n > 0']
 where extname = 'plpgsql';
"""


@pytest.mark.fault("Somebody evil", "his function stands under a table of an extension's configuration, which is his")
def test_nothing_under_a_table_of_an_extensions_configuration_is_planned(owned: tuple[Site, str]) -> None:
    site, app = owned
    sql(site.server, CONFIGURATION)
    err = fails(site, "db", cause="dump").stderr
    assert "db: public.indexed: of an extension's configuration, but of a role that is no superuser" in err
    nothing_ran(site, app, Ran([], 0, "", err))
    sql(site.server, "drop index public.indexed_expr_idx")
    with his_session(site, app) as holds, his_session(site, app) as swaps:
        does(holds, "begin; lock table public.partly in access exclusive mode;")
        wait_until(lambda: sql(site.server, WAITING.format(whose=f"usename = '{app}'").replace("not ", "")) != "0")
        with site.running("run", "db") as process:
            wait_until(lambda: sql(site.server, WAITING.format(whose=OF_THE_DUMP)) == "1")
            does(swaps, "create index on public.indexed ((public.evil(1) + n));\n\\q")
            wait_until(lambda: sql(site.server, WAITING.format(whose=f"usename = '{app}'")) == "1")
            does(holds, "commit;")
            out, err = process.communicate(timeout=120)
        wait_until(lambda: swaps.poll() is not None)
    nothing_ran(site, app, Ran([], process.returncode, out, err))
    sql(site.server, "drop index public.indexed_expr_idx")
    recovers(site)


# More tables than an answer has room for, of names as long as can be.
MANY = """\
set role {app};
do $$ declare each name; begin for n in 1..120 loop each = rpad('many_' || n, 63, 'x');
 execute format('create table public.%I (n int)', each);
 execute format('create index on public.%I ((public.evil(1) + n))', each); end loop; end $$;
reset role;
do $$ declare each regclass; begin for each in select oid from pg_class where relkind = 'r' and relname ~ '^many_' loop
 execute format('alter extension plpgsql add table %s', each); end loop; end $$;
update pg_extension set (extconfig, extcondition) = (select array_agg(oid), array_agg('where n > 0'::text)
 from pg_class where relkind = 'r' and relname ~ '^many_') where extname = 'plpgsql';
"""


def test_however_many_tables_of_a_configuration_are_refused_it_names_some_and_ends(owned: tuple[Site, str]) -> None:
    site, app = owned
    sql(site.server, MANY.format(app=app))
    site.configure({"stall_timeout_s": 30})
    err = fails(site, "db", cause="dump").stderr
    assert re.search(r"db: public\.many_[\w., ]{100,200}: of an extension's configuration", err), err
    nothing_ran(site, app, Ran([], 0, "", err))


@pytest.mark.parametrize("when", ["before pg_dump", "beside pg_dump"])
def test_an_answer_without_end_ends_the_run_and_takes_no_memory(owned: tuple[Site, str], when: str) -> None:
    site, app = owned
    go = site.place / "go"
    os.mkfifo(go)
    begins = f"echo held; read go <{go};" if when == "beside pg_dump" else ""
    zeros = f"head -c {programs.LARGEST_OUTPUT_BYTES + 1} /dev/zero; exec cat >/dev/null"
    site.fake("psql", f'case "$*" in *" -v ON_ERROR_STOP=1") {begins} {zeros} ;; esac\nexec "$real" "$@"')
    site.configure({"database.lock_wait_s": 60, "stall_timeout_s": 30})
    before = site.set_files()
    with go.open("r+b", buffering=0) as letting, his_session(site, app) as holds, site.running("run", "db") as process:
        if begins:
            does(holds, "begin; lock table public.indexed in access exclusive mode;")
            wait_until(lambda: sql(site.server, WAITING.format(whose=OF_THE_DUMP)) == "1")
            letting.write(b"go\n")
        assert process.stdout
        assert process.stderr
        out, err = process.stdout.read(), process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
    assert (os.waitstatus_to_exitcode(status), out) == (1, FAILED.format("dump")), err
    assert "db: psql: an answer without end" in err
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # which a child begins with
    assert (used.ru_maxrss - ours) << 10 < programs.LARGEST_OUTPUT_BYTES, "of whichever of its processes took most"
    assert site.set_files() == before


def test_live_rows_are_counted_whatever_columns_their_tables_have(owned: tuple[Site, str]) -> None:
    site, _ = owned
    site.takes("db")
    sql(site.server, FILLED)
    done = site.run("restore", "db", "latest", "--in-place", "--yes")
    assert done.returncode == 0, done.stderr
    more = {"attachments_1": 2, "counted": 1, "empty": 1, "indexed": 2, "long": 1, "partly": 1}
    said = [f"live_has_more={rows} rows of public.{table}" for table, rows in more.items()]
    assert done.stdout.splitlines()[1 : len(said) + 1] == said


# What no session of ours asks of the practice's database, by module and what stands where a relation does.
ELSEWHERE = {
    ("cli/demo.py", "public.patients"): "the demo's own data, as those that follow",
    ("cli/demo.py", "public.notes"): "",
    ("cli/demo.py", "public.ledger_entries"): "",
    ("cli/demo.py", "public.attachments"): "",
    ("cli/demo.py", "ledger_entries"): "",
    ("backup/dump_client.py", "TABLE"): "text: what pg_dump said",
    ("live/own_settings.py", "lines"): "the query's own, which begins in another text",
    ("config/settings.py", "{self.table}"): "the admin's query, which is asked of the copy, as who may only read",
    ("restore/replay.py", "%s"): "the replay's count: as the role that replays, whose rights are those of the dump",
    ("restore/replay_guards.py", "{role}.said"): "a table of ours, in a schema in which nobody else may make anything",
    ("restore/databases.py", "{sessions}"): "pg_stat_activity, typed by the admin",
}
NO_QUERY = re.compile(r"\brevoke\b[^;\n]*?\bfrom\b|\bfrom (?:program|stdin)\b", re.IGNORECASE)
OURS = re.compile(r"pg_[a-z_]+|dental_pms_\w+|pg_temp\.\w+|pg_catalog\.\w+")
ENDS = re.compile(r"[;\\']|\b(?:where|group|order|limit|union|on|loop|join|left|using|order|returning)\b", re.I)


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield what a module has as text, without its docstrings; what a text is given is {…}."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            each = (
                f"{{{ast.unparse(part.value)}}}" if isinstance(part, ast.FormattedValue) else part.value  # type: ignore[attr-defined]
                for part in node.values
            )
            yield "".join(each)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said | parts:
            yield node.value


def listed(clause: str) -> Iterator[str]:
    """Yield what stands in a FROM clause, up to its end, each without what it is called."""
    depth, item = 0, ""
    for place, character in enumerate(clause):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0 or (depth == 0 and (character == "," or ENDS.match(clause, place))):
            yield item
            item = ""
            if character != ",":
                return
        else:
            item += character
    yield item


def relations(text: str) -> Iterator[str]:
    """Yield the names of relations in SQL that are none of the system's, of ours, or of the query itself."""
    named = set(re.findall(r"(\w+)(?: \([\w, ]+\))? as \(", text)) | {"excluded"}
    for found in re.finditer(r"(?<!distinct )\b(?:from|join)\b", NO_QUERY.sub("", text), re.IGNORECASE):
        for item in listed(found.string[found.end() :]):
            name = re.match(r"\s*(?:(?:only|lateral)\s+)?([^\s(),;]+)(\()?", item, re.IGNORECASE)
            if name and not name[2] and name[1].lower() not in named and not OURS.fullmatch(name[1].lower()):
                yield name[1]


def test_our_sql_asks_no_relation_that_is_not_the_systems() -> None:
    found = set()
    for path in PACKAGE.rglob("*"):
        module = str(path.relative_to(PACKAGE))
        if path.suffix == ".py":
            queries = [text for text in texts(ast.parse(path.read_text())) if re.search(r"\bselect\b", text, re.I)]
            found |= {(module, name) for text in queries for name in relations(text)}
    assert found == set(ELSEWHERE)


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("select count(*) from only {}", ["{}"]),
        ("copy (select a from {table}) to stdout", ["{table}"]),
        ("select 1 from pg_class c, patients p where true", ["patients"]),
        ("select 1 from pg_class c left join public.x on true", ["public.x"]),
        ("with a as (select from pg_proc) select from a, unnest(b) c where c is distinct from d", []),
        ("select from (select from t) s, pg_class", ["t"]),
        ("with recursive a (b, c) as (select from pg_proc) select from a join d on true", ["d"]),
    ],
)
def test_a_relation_in_a_query_is_found(query: str, asked: list[str]) -> None:
    assert list(relations(query)) == asked


# Bodies of ours, by module and beginning, that name the system's own shortly: in their sessions nobody's code has run.
NOTHING_RAN_BEFORE = {
    ("drill/load.py", "declare name text;"): "before anything of the set is there",
    ("drill/admin_queries.py", "declare setting text;"): "ours alone, in the copy, as the one that follows",
    ("drill/admin_queries.py", "declare name text;"): "",
    ("restore/empty.py", "declare s text;"): "before anything of the set is there, as the two that follow",
    ("restore/shut_out.py", "declare earlier xid[];"): "",
    ("restore/shut_out.py", "begin if current_setting('dental_pms.objects')"): "",
    ("restore/replay_role.py", "begin for turn"): "the superuser's, as the two that follow",
    ("restore/replay_role.py", "begin if exists"): "",
    ("restore/replay_guards.py", "declare each record;"): "",
    ("restore/replay_guards.py", "begin if exists"): "",
}
BODY = re.compile(r"(?P<head>[^;$]*)(?P<tag>[$][a-z_]*[$])(?P<body>.*?)(?P=tag)", re.DOTALL)
LITERAL = re.compile(r"'((?:[^']|'')*)'")
QUERY = re.compile(r"(?:select|update|delete|insert)\b")
NO_FUNCTION = re.compile("exists|coalesce|any|all|array|values|and|or|not|if|in|when|then")
FROM = re.compile(r"\s*(?:only )?([\w.{}]++)(?! ?\()")
NO_OPERATORS = re.compile(
    r"operator\(pg_catalog\.[^)]+\)|:=|::|(?<=\()\*(?=\))|select \*|\bfor [\w, ]+ in\b"
    r"|using errcode =|(?<=set settings )="
)
BY_OPERATORS = re.compile(
    r"[-+*/<>=~!@#%^&|?]+|\b(?:in|i?like|similar|between|nullif|greatest|least|using|distinct from|case (?!when)\w+)\b"
)


def bodies(text: str) -> Iterator[str]:
    """Yield what stands in plpgsql in a text, but for functions that have a path of their own."""
    for found in BODY.finditer(text):
        if "set search_path = " not in found["head"] and re.search(r"\bbegin\b", found["body"]):
            yield found["body"].strip()


def by_the_path(body: str) -> Iterator[str]:
    """Yield the names and operators in a body, and in what it executes, that are looked up along a path."""
    for literal in LITERAL.findall(body):
        if QUERY.match(literal):
            yield from by_the_path(re.sub("%[sIL]", "given.name", literal))
    plain = LITERAL.sub("''", body)
    called = NO_OPERATORS.sub(" ", plain)
    if declared := re.match(r"declare (.*?)\bbegin\b", plain, re.DOTALL):
        yield from re.findall(r"(?:^|;)\s*\w+ (\w+)(?![\w.])", declared[1])
    yield from re.findall(r"::(\w+)(?![\w.])", plain)
    yield from (name for name in re.findall(r"(?<![\w.}])(\w+) ?\(", called) if not NO_FUNCTION.fullmatch(name))
    yield from BY_OPERATORS.findall(called)
    for found in re.finditer(r"\b(?:from|join|update)\s", plain):
        names = (FROM.match(item) for item in listed(plain[found.end() :]))
        yield from (name[1] for name in names if name and "." not in name[1])


def test_no_name_in_a_body_of_ours_is_looked_up_once_code_of_the_application_may_have_run() -> None:
    found: set[tuple[str, str]] = set()
    for path in PACKAGE.rglob("*.py"):
        for text in texts(ast.parse(path.read_text())):
            looked = {body: list(by_the_path(body)) for body in bodies(text)}
            found |= {(str(path.relative_to(PACKAGE)), " ".join(body.split()[:3])) for body in looked if looked[body]}
    assert found == set(NOTHING_RAN_BEFORE)


@pytest.mark.parametrize(
    ("body", "looked_up"),
    [
        ("declare n bigint; m pg_catalog.int8; begin n := 1; end", ["bigint"]),
        ("begin if a operator(pg_catalog.<) b or a > b then raise 'a < b'; end if; end", [">"]),
        (
            "begin for a, b in select * from pg_catalog.f(x::text) loop m := to_regclass(a); end loop; end",
            ["text", "to_regclass"],
        ),
        ("begin perform from pg_class where n in (1); end", ["in", "pg_class"]),
        ("begin execute pg_catalog.format('select count(*) from only %s', t) into n; end", ["count"]),
        ("begin return case n when 1 then 2 end; end", ["case n"]),
    ],
)
def test_a_name_that_is_looked_up_along_a_path_is_found(body: str, looked_up: list[str]) -> None:
    assert sorted(by_the_path(body)) == sorted(looked_up)
