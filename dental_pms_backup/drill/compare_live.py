"""Asking the live database what the restored one is asked. Nothing is changed there, and no answer is ever told."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from dental_pms_backup.drill import admin_queries, load
from dental_pms_backup.errors import DatabaseError, DatabaseRefusedError, DrillError
from dental_pms_backup.host import programs
from dental_pms_backup.live import pinned_settings, postgres, psql, sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from dental_pms_backup.drill.admin_queries import Question
    from dental_pms_backup.live.sources import DatabaseSource

    Beat = Callable[[], None] | None

ANSWERS_S = 60
TO_END_S = 15  # for a server to end by itself what takes longer
READY = "ready\n"
# SQLSTATE of what only says that live is busy: a canceled statement, a lock, a conflict with another transaction
BUSY = re.compile("57014|55P03|40")
# Who can ask for a superuser: a relation's owner, the database's, or who owns most of its relations, if he has no
# rights beyond what is his; and whether anything there is of somebody who is no superuser. Names are quoted.
WHO = """\
with plain as (select oid, rolname from pg_roles r where not exists (select from pg_roles m
  where (m.rolsuper or m.rolcreaterole or m.rolreplication or m.rolname ~ '^pg_' and m.rolname <> 'pg_database_owner')
  and pg_has_role(r.oid, m.oid, 'member'))),
 ours as (select oid from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
 owners as (select datdba as owner, null as relations from pg_database where datname = current_database()
  union all select relowner, count(*) from pg_class where relnamespace in (select oid from ours) group by relowner
  union all select proowner, 0 from pg_proc where pronamespace in (select oid from ours))
select json_build_object('user', quote_ident(session_user),
 'superuser', (select rolsuper from pg_roles where rolname = session_user),
 'plain', (select quote_ident(rolname) from owners join plain on oid = owner
  order by owner is not distinct from (select relowner from pg_class
   where oid = coalesce(to_regclass({relation}), to_regclass('public.' || {relation}))) desc,
   relations desc nulls first, rolname limit 1),
 'others', exists (select from owners join pg_roles on oid = owner where not rolsuper))
"""


def compare(here: str, live: DatabaseSource, name: str, sql: str, *, beat: Beat = None) -> None:
    """Raise DrillError unless a query that returned ``here`` of the copy returns one row, and the same, of live.

    DatabaseError when live does not answer, DatabaseRefusedError when it cannot be asked this: neither says anything of
    the copy.
    """
    there = _ask(live, name, sql, beat)
    if here == admin_queries.NO_VALUE or not re.fullmatch(r"[^\n]+\n", here):
        raise DrillError(f"check {name}: returned no value or more than one row, expected one value")
    if there != here:
        raise DrillError(f"check {name}: the live database returns something else, expected the same")


def _ask(live: DatabaseSource, name: str, sql: str, beat: Beat) -> str:
    text, role = script(live, admin_queries.one_row(sql), timeout_s=ANSWERS_S)
    ended, out = _told(live, text, beat)
    if ended.ok:
        return out.removeprefix(READY)
    state = psql.sqlstate(ended)
    if not state or load.BEFALLS.match(state) or BUSY.match(state):
        raise DatabaseError(f"db: the live server does not answer ({state or ended}), expected an answer")
    if not out.startswith(READY):
        raise DatabaseRefusedError(f"db: a role that only reads cannot be made on the live server (SQLSTATE {state})")
    if state == admin_queries.NO_RIGHT:
        raise DatabaseRefusedError(
            f"db: {role} asks on the live server and lacks a right that the query needs, expected to read all "
            "that is in the query",
            hint=f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};   # as their owner",
        )
    raise DrillError(f"check {name}: the query failed on the live database (SQLSTATE {state}), expected one value")


def script(live: DatabaseSource, asked: Question, *, timeout_s: float, relation: str = "") -> tuple[str, str]:
    """Return what one session on live is told, and the role that asks in it; DatabaseRefusedError without any.

    The owner of a relation is preferred, if it is there.
    Code of others that the query calls must not come to have more rights than it had.
    """
    named = postgres.literal(relation) if relation else "null"
    who = json.loads(postgres.ask(live.server, WHO.replace("{relation}", named)))
    if not who["superuser"]:
        return admin_queries.as_ourselves(asked, timeout_s=timeout_s), who["user"]
    if who["plain"]:
        return admin_queries.as_owner(asked, who["plain"], timeout_s=timeout_s), who["plain"]
    if who["others"]:
        raise DatabaseRefusedError(
            "db: a superuser asks nothing on the live server, and each owner there has rights beyond what is his, "
            "expected the database or a table to belong to a role without such rights"
        )
    if live.facts.major < admin_queries.READS_ALL_SINCE:
        raise DatabaseRefusedError(
            f"db: PostgreSQL {live.facts.major} has no role that may read everything, and a superuser asks nothing"
        )
    return admin_queries.as_reader(asked, timeout_s=timeout_s), "a role that may only read"


def _told(live: DatabaseSource, text: str, beat: Beat) -> tuple[programs.Ended, str]:
    """Run a script in one session, of which nothing is left on the server, whatever it does there."""
    words = (*psql.ROWS, postgres.to_database(live.facts.database))
    options = pinned_settings.AS_CONFIGURED
    with sessions.opened(live.server, on_any_road=True) as session:
        argv = postgres.client(live.server, "psql", *words, session=session.name, stdin=True, options=options)
        ended, out = programs.capture(argv, text_in=text, timeout_s=ANSWERS_S + TO_END_S, beat=beat)
        session.done = ended.ok
    return ended, out
