"""The admin's queries: asked read-only, with a time limit, as a role that may do nothing but read.

What they read is the application's: a view, a function or an operator of it may be anything, and would have every right
of who asks. In the copy a role of its own logs in, which may read everything. On live that is too much: the passwords'
hashes are part of it, and there is somebody to tell them to. There an owner asks. A superuser's session could get back
what it gave up (SET ROLE); but not within a function of another role: that is made, asked, and all rolled back.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.drill import load
from dental_pms_backup.errors import ConfigError, DatabaseRefusedError, DrillError
from dental_pms_backup.host import programs
from dental_pms_backup.live import pinned_settings, postgres, psql

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dental_pms_backup.live.postgres import Server

    Beat = Callable[[], None] | None

READS_ALL_SINCE = 14  # pg_read_all_data
NO_VALUE = "()\n"
NO_RIGHT = "42501"
LOCK_WAIT_S = 10
MAKE = "create role {role} login bypassrls connection limit 8"
READS_ALL = "grant pg_read_all_data to {role}"
# Our sessions write values as those of live, and no event trigger of the set sees them: so do the reader's.
WRITES_LIKE_US = """\
do $do$
declare setting text;
begin
 for setting in select unnest(setconfig) from pg_db_role_setting
  where setrole = (select oid from pg_roles where rolname = current_user)
   and setdatabase = (select oid from pg_database where datname = '{database}') loop
  execute format('alter role {role} in database {database} set %I to %L', split_part(setting, '=', 1),
   substr(setting, strpos(setting, '=') + 1));
 end loop;
end $do$"""
# What pg_read_all_data is, for a server that has no such role.
READS_EACH = """\
do $do$
declare name text;
begin
 for name in select quote_ident(nspname) from pg_namespace where nspname !~ '^pg_' loop
  execute 'grant usage on schema ' || name || ' to {role}';
  execute 'grant select on all tables in schema ' || name || ' to {role}';
  execute 'grant select on all sequences in schema ' || name || ' to {role}';
 end loop;
end $do$;
"""
# One line says that all is ready, the others are the answer. No event trigger of the database sees what is made.
AS_ANOTHER = """\
set client_min_messages = error;
set log_min_messages = fatal;
set log_min_error_statement = panic;
set temp_file_limit = '1GB';
begin;
set local session_replication_role = replica;
set local check_function_bodies = off;
{made}
create function pg_temp.{name}() returns {returns} language sql security definer
 as ${name}$ {query} ${name}$;
alter function pg_temp.{name}() owner to {role};
set local session_replication_role = origin;
set local lock_timeout = '{lock_wait_s}s';
set local statement_timeout = '{timeout_s:.0f}s';
set transaction read only;
{told}
rollback;
"""
READER = "create role {role} bypassrls;\ngrant pg_read_all_data to {role};"
OWNER = "set local row_security = off;"  # what a policy hides from him is an error, and not fewer rows
AS_OURSELVES = """\
set client_min_messages = error;
begin read only;
set local row_security = off;
set local lock_timeout = '{lock_wait_s}s';
set local statement_timeout = '{timeout_s:.0f}s';
{told}
rollback;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A query, what a function of it returns, and how what it returns is told."""

    query: str
    returns: str
    told: str


def make(server: Server, major: int) -> str:
    """Make in a throwaway server the role that reads the copy, and return its name: one that no dump can have."""
    role = _new_name()
    rights = READS_ALL.format(role=role) if major >= READS_ALL_SINCE else ""
    like_us = WRITES_LIKE_US.format(role=role, database=load.DATABASE)
    made = ";\n".join(sql for sql in (MAKE.format(role=role), rights, like_us) if sql)
    postgres.ask(server, made, database=load.DATABASE)  # in its encoding
    if not rights:
        each = READS_EACH.format(role=role)
        ended, _ = programs.capture(load.script_argv(server), text_in=each)
        if not ended.ok:
            raise load.not_of_the_set(psql.sqlstate(ended), ended) or DatabaseRefusedError(
                f"drill: {ended}, while a role was given the right to read the copy"
            )
    return role


def argv(server: Server, role: str, *, timeout_s: float) -> Sequence[str]:
    """Return the argv that runs the SQL on its stdin, as the role that reads the copy, and prints what it returns."""
    limits = f"-c default_transaction_read_only=on -c statement_timeout={max(1, round(timeout_s * 1000))}"
    return load.rows_argv(server, f"--username={role}", options=f"{pinned_settings.AS_CONFIGURED} {limits}")


def row(sql: str) -> str:
    """Return the query for the text of the one row that a query returns; of two, if there are more."""
    return f"select dental_pms_row::pg_catalog.text from (\n{query(sql)}\n) as dental_pms_row limit 2"  # noqa: S608 - the admin's


def one_row(sql: str) -> Question:
    """Return what asks for the one row of a query, told behind a line "ready"."""
    return Question(query=row(sql), returns="setof pg_catalog.text", told="\\echo ready\n{};")


def every_file(sql: str) -> Question:
    """Return what asks a query for the path and the size of each file, told as COPY writes them."""
    returns = "table (path pg_catalog.text, size pg_catalog.text)"
    return Question(query=files(sql), returns=returns, told="copy ({}) to stdout;")


def files(sql: str) -> str:
    """Return the query for the texts of the path and the size of each file, but for rows that have none."""
    asked = f"select k::pg_catalog.text, s::pg_catalog.text from (\n{query(sql)}\n) as dental_pms_files (k, s)"  # noqa: S608 - the admin's
    return f"{asked} where k is not null"


def query(sql: str) -> str:
    """Return a query without the semicolon at its end."""
    return sql.strip().rstrip(";")


def answer(server: Server, role: str, name: str, sql: str, *, timeout_s: float, beat: Beat = None) -> str:
    """Return the row that a query returns of the copy; DrillError, which names it but nothing that it returned."""
    asked = argv(server, role, timeout_s=timeout_s)
    ended, out = programs.capture(asked, text_in=f"{row(sql)};\n", timeout_s=timeout_s, beat=beat)
    if ended.ok:
        return out
    state = psql.sqlstate(ended)
    if state == NO_RIGHT:
        raise ConfigError(
            (f"check {name}: the query needs a right beyond reading, expected one that only reads",),
            hint="man dental-pms-backup.yaml   # section drill, key checks",
        )
    raise load.not_of_the_set(state, ended) or DrillError(
        f"check {name}: the query failed (SQLSTATE {state}), expected an answer"
    )


def check(server: Server, role: str, name: str, sql: str, *, timeout_s: float, beat: Beat = None) -> None:
    """Raise DrillError, which names a query but nothing that it returned, unless that is one true."""
    out = answer(server, role, name, sql, timeout_s=timeout_s, beat=beat)
    if out != "(t)\n":
        what = "returned false" if out == "(f)\n" else "returned neither true nor false"
        raise DrillError(f"check {name}: {what}, expected true")


def as_ourselves(asked: Question, *, timeout_s: float) -> str:
    """Return what psql is told to print the answer."""
    told = asked.told.format(asked.query)
    return AS_OURSELVES.format(told=told, lock_wait_s=LOCK_WAIT_S, timeout_s=timeout_s)


def as_owner(asked: Question, owner: str, *, timeout_s: float) -> str:
    """Return what a superuser's psql is told to print the same, asked by a role that is there, by its quoted name."""
    return _as_another(asked, owner, OWNER, timeout_s)


def as_reader(asked: Question, *, timeout_s: float) -> str:
    """Return what a superuser's psql is told to print the same, asked by a role that may read everything."""
    role = _new_name()
    return _as_another(asked, role, READER.format(role=role), timeout_s)


def _as_another(asked: Question, role: str, made: str, timeout_s: float) -> str:
    name = _new_name()
    return AS_ANOTHER.format(
        made=made,
        role=role,
        name=name,
        query=asked.query,
        returns=asked.returns,
        told=asked.told.format(f"select * from pg_temp.{name}()"),  # noqa: S608 - ours
        lock_wait_s=LOCK_WAIT_S,
        timeout_s=timeout_s,
    )


def _new_name() -> str:
    return f"dental_pms_reader_{secrets.token_hex(8)}"
