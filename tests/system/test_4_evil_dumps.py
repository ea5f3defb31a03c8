"""A file from elsewhere, restored in compose by each road: it fills a new database, and reaches nothing else."""

from collections.abc import Iterator

import pytest

from tests import faults as table
from tests import scope
from tests.system import admin, faults, practice
from tests.system.machine import Machine

FILE = "/root/elsewhere.sql"
# all but who comes to own what is in the file, since the database is a superuser's
ROLES = "select string_agg(r::text, ' ' order by rolname) from pg_authid r where rolname <> 'dental_pms_owner'"
AS_IT_WAS = "the live database as it was"
COMMANDS = (
    "\\connect dental_pms",
    "\\! touch /tmp/touched",
    "SELECT 1 \\g |touch /tmp/touched",
    "\\copy public.evil from program 'touch /tmp/touched'",
    "/* */ \\! touch /tmp/touched",
)
RUNS_WHILE_LOADED = """\
CREATE FUNCTION public.evil() RETURNS integer LANGUAGE plpgsql AS $evil$ BEGIN
 BEGIN EXECUTE 'alter role evil superuser'; EXCEPTION WHEN OTHERS THEN NULL; END;
 BEGIN EXECUTE 'create role evil_too superuser'; EXCEPTION WHEN OTHERS THEN NULL; END;
 BEGIN EXECUTE 'copy (select 1) to program ''touch /tmp/touched'''; EXCEPTION WHEN OTHERS THEN NULL; END;
 RETURN 1; END $evil$;
CREATE TABLE public.evil (n integer CHECK (n = public.evil()));
COPY public.evil (n) FROM stdin;
1
\\.
"""
DROP_NEW = (
    "select format('drop database %I with (force)', datname) from pg_database where datname ~ '^dental_pms_[0-9r]'"
    " \\gexec"
)


@pytest.fixture(params=[pytest.param("exec", marks=pytest.mark.sweep), "namespace"])
def host(request: pytest.FixtureRequest, practice_machine: Machine) -> Iterator[Machine]:
    """Both machines, with a good set in the store, each road, and a role that would like to be more."""
    faults.make_ready(practice_machine)
    practice_machine.write(admin.CONFIG, f"{faults.AUTO_CONFIG}database: {{road: {request.param}}}\n")
    admin.took(practice_machine, "restore db latest")  # removes the role of a restore that another test killed
    drop_new(practice_machine)
    practice.sql(practice_machine, "create role evil")
    yield practice_machine
    practice_machine.run(f"rm -f {FILE}")
    drop_new(practice_machine)
    practice.sql(practice_machine, "drop role evil")


def drop_new(host: Machine) -> None:
    """Drop the databases that restores made."""
    psql = practice.in_db(f"psql -Xq -U {practice.USER} -d template1")
    host.run(f'echo "{DROP_NEW}" | {psql}')


def elsewhere(host: Machine, more: str) -> None:
    """Make a file from elsewhere: a dump of what is live, with something more near its beginning."""
    dump = practice.in_db(f"pg_dump -U {practice.USER} {practice.DATABASE}")
    host.write("/root/more", more)
    host.run(f"{dump} | sed '/^SET row_security = off;/r /root/more' >{FILE}")


def reached(host: Machine) -> tuple[str, ...]:
    """Return what could have been reached: roles, databases, what is live, and files here and in the container."""
    dump = practice.in_db(f"pg_dump -U {practice.USER} {practice.DATABASE}")
    return (
        practice.sql(host, ROLES),
        practice.sql(host, "select string_agg(datname, ' ' order by 1) from pg_database"),
        host.run(f"{dump} | grep -v '^\\\\\\(un\\)\\?restrict ' | sha256sum").stdout,
        host.run("ls /tmp/touched", check=False).stdout,
        host.run(practice.in_db("ls /tmp/touched"), check=False).stdout,
    )


def entries(host: Machine, began: str) -> list[admin.Entry]:
    """Return what a command that was typed told the journal since a moment."""
    return admin.entries(host, began, matches=f"-t {admin.PACKAGE}")


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "a file from elsewhere has commands of psql in it, and is restored in compose, by")
def test_no_command_in_a_file_is_run_here_or_in_the_container(host: Machine) -> None:
    for command in scope.some(COMMANDS, 6):
        elsewhere(host, f"\n{command}\n")
        before, began = reached(host), admin.moment(host)
        done = admin.dental(host, f"restore db {FILE}")
        assert (done.returncode, done.stdout) == (1, "")
        assert "a command of psql), expected only SQL and rows" in done.stderr
        assert "the live database is as it was, and nothing is left of the new one" in done.stderr
        assert reached(host) == before
        told = entries(host, began)
        (cause,) = {entry["DENTAL_PMS_CAUSE"] for entry in told if "DENTAL_PMS_CAUSE" in entry}
        table.saw(status=1, cause=cause, store=AS_IT_WAS, events=admin.events(told))
    assert ("restore_status", "ok") in admin.took(host, "restore db latest")
    table.recovered()


@pytest.mark.fault("Somebody evil", "what a file from elsewhere makes runs while it is loaded in compose, by")
def test_what_a_file_makes_runs_as_a_role_without_rights(host: Machine) -> None:
    elsewhere(host, f"\n{RUNS_WHILE_LOADED}\n")
    before, began = reached(host), admin.moment(host)
    values = admin.took(host, f"restore db {FILE} --to dental_pms_restored")
    assert practice.sql(host, "select n from evil", "dental_pms_restored") == "1"
    after = reached(host)
    assert (after[0], after[2:]) == (before[0], before[2:])
    table.saw(status=0, store=AS_IT_WAS, events=admin.events(entries(host, began)))
    assert values[-1] == ("restore_status", "ok")
    assert ("restore_status", "ok") in admin.took(host, "restore db latest")
    table.recovered()
