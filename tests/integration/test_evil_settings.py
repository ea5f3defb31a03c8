"""Somebody evil has psql read our words as something else, or has our sessions be his: none of it does him any good."""

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dental_pms_backup.live import pinned_settings, postgres
from tests import faults
from tests.integration.conftest import databases_like
from tests.integration.faults import events, fails, listening, recovers
from tests.integration.support import Ran, Site, as_cluster_user, bin_dir, sql

AS_IT_WAS = "the live database as it was"
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
LATER = "SELECT pg_catalog.set_config('client_encoding', 'SJIS', false);"
FILES = {
    "under the rows that are counted": (IN_COUNT, "SET client_encoding = 'SJIS';", ""),
    "under the rows that are counted, by a function": (IN_COUNT, LATER, ""),
    "under the rights that are given": ("x", f"SET client_encoding = 'SJIS';\n{IN_RIGHTS}", ""),
    "under the roles beside it": ("x", "", IN_ROLES),
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
    faults.saw(status=done.returncode, cause="restore" if done.returncode else "", store=store, events=events(told))
    return done


@pytest.mark.fault(
    "Somebody evil", "a file from elsewhere changes the encoding, so that psql sees no quote where one is"
)
@pytest.mark.parametrize("where", list(FILES))
def test_no_encoding_hides_a_quote_from_psql(own_database: Site, trace: Path, where: str) -> None:
    site = own_database
    table, last, roles = FILES[where]
    stamp = "2026-01-02_030405"
    dump = DUMP.format(encoding="UTF8", table=table, last=last).format(trace=trace)
    file = site.place / f"db_{stamp}.sql.gz"
    file.write_bytes(gzip.compress(dump.encode()))
    if roles:
        beside = ROLES.format(encoding="SJIS", last=roles.format(trace=trace))
        (site.place / f"globals_{stamp}.sql.gz").write_bytes(gzip.compress(beside.encode()))
    typed(site, "restore", "db", str(file), "--to", f"{site.server.database}_new", store=AS_IT_WAS)
    assert not trace.exists()
    for encoding, half in ALIASES.items() if roles else ():
        raw = ROLES.format(encoding=encoding, last=roles.format(trace=trace)).encode().replace(HALF.encode(), half)
        (site.place / f"globals_{stamp}.sql.gz").write_bytes(gzip.compress(raw))
        done = site.run("restore", "db", str(file), "--to", f"{site.server.database}_new")
        assert "an encoding in which psql may take a quote" in done.stderr
        assert not trace.exists()
    recovers(site)


@pytest.mark.fault(
    "Somebody evil", "the database has an encoding for its sessions in which psql sees no quote where one is"
)
def test_no_encoding_of_the_database_hides_a_quote_from_psql(own_database: Site, trace: Path) -> None:
    site = own_database
    site.takes()
    name = b"\x81\x5c".decode("gb18030") + f"\\u3042' \\! touch {trace} #"
    setting = f"alter database \"{site.server.database}\" set client_encoding = 'GB18030'"
    sql(site.server, f'create table public."{name}" (n int)', setting)
    done = typed(site, "restore", "db", "latest", "--in-place", "--yes", store="the set's content, live kept beside")
    assert done.returncode == 0, done.stderr
    assert not trace.exists()
    recovers(site)


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
    drilled = typed(site, "drill", "latest", store=AS_IT_WAS)
    assert drilled.returncode == 0, drilled.stderr
    done = typed(site, "restore", "db", "latest", "--in-place", "--yes", store=AS_IT_WAS)
    assert done.returncode == 0, done.stderr
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
USES = {
    "a function that runs as its owner": "select public.up()",
    "a view of the passwords": "select count(*) from public.hashes",
    "a view that writes to the system": "update public.tables set relname = relname",
}


@pytest.mark.fault("Somebody evil", "a file from elsewhere has what would lend the rights of the superuser who gets it")
@pytest.mark.parametrize("what", list(LENDS))
def test_a_superuser_gets_nothing_that_lends_his_rights(own_database: Site, what: str) -> None:
    site = own_database
    file = site.place / "evil.sql"
    file.write_text(DUMP.format(encoding="UTF8", table="x", last=LENDS[what]))
    new = f"{site.server.database}_new"
    done = typed(site, "restore", "db", str(file), "--to", new, store=AS_IT_WAS)
    assert done.returncode == 0, done.stderr
    used = as_cluster_user(
        replace(postgres.in_database(site.server, new), user="dental_app"), "psql", "-Xc", USES[what]
    )
    assert "permission denied" in used.stderr or "must be" in used.stderr.lower()
    recovers(site)


@pytest.mark.fault("Somebody evil", "a file from elsewhere says who may use what the superuser will make")
def test_a_file_says_nothing_of_what_a_superuser_will_make(own_database: Site) -> None:
    site = own_database
    file = site.place / "evil.sql"
    grant = "GRANT ALL ON TABLES TO PUBLIC;"
    whoever = ("", *(f" FOR ROLE {name}" for name in ("postgres", "current_user", "Session_User", "CURRENT_ROLE")))
    each = "\n".join(f"ALTER DEFAULT PRIVILEGES{role} {grant}" for role in whoever)
    file.write_text(DUMP.format(encoding="UTF8", table="x", last=each))
    new = f"{site.server.database}_new"
    done = typed(site, "restore", "db", str(file), "--to", new, store=AS_IT_WAS)
    assert done.returncode == 0, done.stderr
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
    site.place.chmod(0o777)
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
