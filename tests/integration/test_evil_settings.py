"""Somebody evil has psql read our words as something else, or has our sessions be his: none of it does him any good."""

import gzip
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dental_pms_backup.live import pinned_settings, postgres
from tests import faults
from tests.integration.conftest import databases_like
from tests.integration.faults import cause, events, fails, kept_beside, listening, recovers
from tests.integration.support import Ran, Site, as_cluster_user, bin_dir, dump, sql

AS_IT_WAS = "the live database as it was"
CAME_LATER = "create table public.later ()"
PROVEN = faults.AS_BEFORE + ", the drilled one proven"
REPLACED = "the set's content, live kept beside"
DUMP = """\
--
-- PostgreSQL database dump
--

-- Dumped from database version 15.1
-- Dumped by pg_dump version 15.1

SET client_encoding = '{encoding}';
SET standard_conforming_strings = on;

CREATE TABLE public."{table}" (n integer);

--
-- Data for Name: x; Type: TABLE DATA; Schema: public; Owner: postgres
--

COPY public."{table}" (n) FROM stdin;
1
\\.


{last}

--
-- PostgreSQL database dump complete
--

"""
ROLES = """\
--
-- PostgreSQL database cluster dump
--

SET default_transaction_read_only = off;

SET client_encoding = '{encoding}';
SET standard_conforming_strings = on;

{last}

--
-- PostgreSQL database cluster dump complete
--

"""
# The UTF-8 of this ends in a byte that psql takes for the first half of a character, a quote being the other, in SJIS.
HALF = "\u3042"
IN_COUNT = f"{HALF}'\t `touch {{trace}}`"
IN_RIGHTS = (
    f'GRANT SELECT ON TABLE public."x{HALF}" TO "a";\nGRANT SELECT ON TABLE public." \\! touch {{trace}} #" TO "b";'
)
IN_ROLES = f'CREATE ROLE "x{HALF}";\nCREATE ROLE " \\! touch {{trace}} #";'
# Other names of such encodings, each with bytes that are UTF-8, and of which the last takes a quote along.
ALIASES = {"WIN932": HALF.encode(), "WIN936": b"\xc3\xa9\xb0", "WIN949": b"\xc3\xa9\xb0", "WIN950": b"\xc3\xa9\xb0"}
HIDES = "an encoding in which psql may take a quote for a part of a character"
OF_THE_FILE = f"db: the file cannot be replayed (line 22: {HIDES}), expected"
OF_THE_ROLES = f"db: the roles of the set that the server lacks cannot be made (line 7: {HIDES})"
LATER = "SELECT pg_catalog.set_config('client_encoding', 'SJIS', false);"
# Last what is said of it; nothing where the encoding is as it was, by the time of what would be misread.
FILES = {
    "under the rows that are counted": (IN_COUNT, "SET client_encoding = 'SJIS';", "", OF_THE_FILE),
    "under the rows that are counted, by a function": (IN_COUNT, LATER, "", ""),
    "under the rights that are given": ("x", f"SET client_encoding = 'SJIS';\n{IN_RIGHTS}", "", OF_THE_FILE),
    "under the roles beside it": ("x", "", IN_ROLES, OF_THE_ROLES),
}


@pytest.fixture
def trace(own_database: Site) -> Path:
    """Where a command of somebody evil would leave its trace, whoever ran it."""
    directory = own_database.place / "traces"
    directory.mkdir()
    directory.chmod(0o777)
    return directory / "trace"


def typed(site: Site, *words: str, store: str) -> Ran:
    with listening(site) as journal:
        done = site.run(*words, wrapper=journal.wrapper)
        told = journal.close()
    faults.saw(status=done.returncode, cause=cause(told), store=store, events=events(told))
    return done


@pytest.mark.sample(2)
@pytest.mark.fault(
    "Somebody evil", "a file from elsewhere changes the encoding, so that psql sees no quote where one is"
)
@pytest.mark.parametrize("where", list(FILES))
def test_no_encoding_hides_a_quote_from_psql(own_database: Site, trace: Path, where: str) -> None:
    site = own_database
    table, last, roles, said = FILES[where]
    stamp = "2026-01-02_030405"
    evil = DUMP.format(encoding="UTF8", table=table, last=last).format(trace=trace)
    file = site.place / f"db_{stamp}.sql.gz"
    file.write_bytes(gzip.compress(evil.encode()))
    if roles:
        beside = ROLES.format(encoding="SJIS", last=roles.format(trace=trace))
        (site.place / f"globals_{stamp}.sql.gz").write_bytes(gzip.compress(beside.encode()))
    live = dump(site.server)
    done = typed(site, "restore", "db", str(file), "--to", f"{site.server.database}_new", store=AS_IT_WAS)
    assert (said in done.stderr, done.returncode) == (True, 1 if said else 0), done.stderr
    assert not trace.exists()
    for encoding, half in ALIASES.items() if roles else ():
        raw = ROLES.format(encoding=encoding, last=roles.format(trace=trace)).encode().replace(HALF.encode(), half)
        (site.place / f"globals_{stamp}.sql.gz").write_bytes(gzip.compress(raw))
        done = site.run("restore", "db", str(file), "--to", f"{site.server.database}_new")
        assert HIDES in done.stderr
        assert not trace.exists()
    assert dump(site.server) == live
    recovers(site)


@pytest.mark.fault(
    "Somebody evil", "the database has an encoding for its sessions in which psql sees no quote where one is"
)
def test_no_encoding_of_the_database_hides_a_quote_from_psql(own_database: Site, trace: Path) -> None:
    site = own_database
    site.takes()
    name = b"\x81\x5c".decode("gb18030") + f"\\u3042' \\! touch {trace} #"
    setting = f"alter database \"{site.server.database}\" set client_encoding = 'GB18030'"
    sql(site.server, f'create table public."{name}" (n int)', CAME_LATER, setting)
    done = typed(site, "restore", "db", "latest", "--in-place", "--yes", store=REPLACED)
    assert done.returncode == 0, done.stderr
    assert not trace.exists()
    has_replaced(site, done)
    recovers(site)


def has_replaced(site: Site, done: Ran) -> None:
    """Expect that what was live is kept beside, and what is live has not what came into that after the set."""
    seen = [sql(server, "select to_regclass('public.later')") for server in (site.server, kept_beside(site, done))]
    assert seen == ["", "later"]


APP = """\
set role {app};
create function evil_once() returns boolean language plpgsql as $evil$
begin
 begin set role none; exception when others then null; end;
 begin alter role {app} superuser; exception when others then null; end;
 begin copy (select current_user) to program 'touch {trace}'; exception when others then null; end;
 return true;
end $evil$;
create table guarded (n int); insert into guarded values (1);
alter table guarded enable row level security; alter table guarded force row level security;
create policy evil on guarded using (evil_once());
alter database "{database}" set role = '{app}';
"""


@pytest.fixture
def owned(own_database: Site, trace: Path) -> Iterator[tuple[Site, str]]:
    """A site whose database belongs to a role that has every session in it be itself, and the role."""
    site = own_database
    app = f"app_{site.place.name}"
    elsewhere = postgres.in_database(site.server, "postgres")
    database = site.server.database
    sql(elsewhere, f"create role {app} login", f'alter database "{database}" owner to {app}')
    sql(site.server, f"grant create on schema public to {app}")
    sql(site.server, *APP.format(app=app, trace=trace, database=database).split(";\n\n"))
    try:
        yield site, app
    finally:
        for made in databases_like(elsewhere, database):
            sql(elsewhere, f'drop database "{made}" with (force)')
        sql(elsewhere, f"drop role {app}")


@pytest.mark.fault("Somebody evil", "the database has every session be a role of his, which a function takes back")
def test_our_sessions_are_ours_whatever_role_the_database_gives_them(owned: tuple[Site, str], trace: Path) -> None:
    site, app = owned
    site.configure({"drill.same_as_live": {"evil": "select case when evil_once() then 'same' end"}})
    site.takes()
    drilled = typed(site, "drill", "latest", store=PROVEN)
    assert "proof_same_as_live_evil=passed\n" in drilled.stdout, drilled.stderr
    sql(site.server, CAME_LATER)
    done = typed(site, "restore", "db", "latest", "--in-place", "--yes", store=REPLACED)
    assert done.returncode == 0, done.stderr
    has_replaced(site, done)
    elsewhere = postgres.in_database(site.server, "postgres")
    assert sql(elsewhere, f"select rolsuper from pg_roles where rolname = '{app}'") == "f"  # noqa: S608 - ours
    assert not trace.exists()
    site.takes()
    faults.recovered()


LENDS = {
    "a function that runs as its owner": "CREATE FUNCTION public.up() RETURNS void LANGUAGE plpgsql SECURITY DEFINER"
    " AS $$ begin execute 'alter role dental_app superuser'; end $$;",
    "a view of the passwords": "CREATE VIEW public.hashes AS SELECT rolname, rolpassword FROM pg_authid;\n"
    "GRANT SELECT ON TABLE public.hashes TO PUBLIC;",
    "a view that writes to the system": "CREATE VIEW public.tables AS SELECT * FROM pg_catalog.pg_class;\n"
    "GRANT UPDATE ON TABLE public.tables TO PUBLIC;",
}
# How what was lent would be used, what is said of that, and how a superuser would have it to lend.
USES = {
    "a function that runs as its owner": (
        "select public.up()",
        "permission denied to alter role|must be superuser to alter superuser roles",
        "function public.up()",
    ),
    "a view of the passwords": (
        "select count(*) from public.hashes",
        "permission denied for table pg_authid",
        "view public.hashes",
    ),
    "a view that writes to the system": (
        "update public.tables set reltuples = 1",
        "permission denied for table pg_class",
        "view public.tables",
    ),
}


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "a file from elsewhere has what would lend the rights of the superuser who gets it")
@pytest.mark.parametrize("what", list(LENDS))
def test_a_superuser_gets_nothing_that_lends_his_rights(own_database: Site, what: str) -> None:
    site = own_database
    file = site.place / "evil.sql"
    file.write_text(DUMP.format(encoding="UTF8", table="x", last=LENDS[what]))
    live, new = dump(site.server), f"{site.server.database}_new"
    done = typed(site, "restore", "db", str(file), "--to", new, store=AS_IT_WAS)
    assert done.returncode == 0, done.stderr
    assert dump(site.server) == live
    made = postgres.in_database(site.server, new)
    statement, refused, lent = USES[what]
    for lends, said in (("select 1", f"^ERROR:  ({refused})"), (f"alter {lent} owner to postgres", "^$")):
        sql(made, lends)
        used = as_cluster_user(replace(made, user="dental_app"), "psql", "-Xc", f"begin; {statement}; rollback")
        assert re.match(said, used.stderr), (lends, used.stderr)
    recovers(site)


@pytest.mark.fault("Somebody evil", "a file from elsewhere says who may use what the superuser will make")
def test_a_file_says_nothing_of_what_a_superuser_will_make(own_database: Site) -> None:
    site = own_database
    file = site.place / "evil.sql"
    grant = "GRANT ALL ON TABLES TO PUBLIC;"
    whoever = ("", *(f" FOR ROLE {name}" for name in ("postgres", "current_user", "Session_User", "CURRENT_ROLE")))
    each = "\n".join(f"ALTER DEFAULT PRIVILEGES{role} {grant}" for role in whoever)
    file.write_text(DUMP.format(encoding="UTF8", table="x", last=each))
    live, new = dump(site.server), f"{site.server.database}_new"
    done = typed(site, "restore", "db", str(file), "--to", new, store=AS_IT_WAS)
    assert done.returncode == 0, done.stderr
    assert dump(site.server) == live
    assert sql(postgres.in_database(site.server, new), "select count(*) from pg_default_acl") == "0"
    recovers(site)


SETTINGS = {
    "quote_all_identifiers": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
}


def test_no_setting_of_the_database_hides_a_table_that_was_filled_anew_as_the_dump_began(own_database: Site) -> None:
    site = own_database
    sql(site.server, "create table public.anew as select generate_series(1, 3) n")
    sql(site.server, *(f'alter database "{site.server.database}" set {name} = {to}' for name, to in SETTINGS.items()))
    for name in SETTINGS:
        assert postgres.ask(site.server, f"show {name}") == pinned_settings.SETTINGS[name].replace("\\", "")
    site.place.chmod(0o1777)
    dumped, psql = site.place / "dumped", f"{bin_dir()}/psql -qX -v ON_ERROR_STOP=1 -c"
    emptied = f'{psql} "truncate public.anew"'
    filled = f'{psql} "insert into public.anew values (1)"'  # noqa: S608 - ours
    site.fake("pg_dump", f'set -e\n{emptied}\n"$real" "$@" >{dumped}\n{filled}\ncat {dumped}')
    met = fails(site, "db", cause="verification")
    assert "db: public.anew was rewritten, emptied or filled anew as the dump began" in met.stderr
    site.mend()
    # the counters of a server that has crashed know nothing of a table that was never analyzed
    sql(site.server, "select pg_stat_reset()")
    moved = "create table public.moved as select * from public.anew; truncate public.anew"
    site.fake("pg_dump", f'{psql} "{moved}"\nexec "$real" "$@"')
    met = fails(site, "db", cause="verification")
    assert "db: public.anew was rewritten, emptied or filled anew as the dump began" in met.stderr
    site.mend()
    site.takes("db")
