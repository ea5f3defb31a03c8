"""Asking the live database what the restored one is asked. Nothing is changed there, and no answer is ever told."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from dental_pms_backup.drill import admin_queries, load
from dental_pms_backup.errors import BackupError, DatabaseError, DatabaseRefusedError, DrillError
from dental_pms_backup.host import programs, stop
from dental_pms_backup.live import pinned, postgres, sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from dental_pms_backup.live.sources import DatabaseSource

    Beat = Callable[[], None] | None

ANSWERS_S = 60
TO_END_S = 15  # for a server to end by itself what takes longer
READY = "ready\n"
# SQLSTATE of what only says that live is busy: a canceled statement, a lock, a conflict with another transaction
BUSY = re.compile("57014|55P03|40")
IS_SUPERUSER = "select rolsuper from pg_roles where rolname = session_user"


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
    superuser = postgres.ask(live.server, IS_SUPERUSER) == "t"
    script = admin_queries.live_script(sql, superuser=superuser, major=live.facts.major, timeout_s=ANSWERS_S)
    ended, out = _told(live, script, beat)
    if ended.ok:
        return out.removeprefix(READY)
    state = load.sqlstate(ended)
    if not state or load.BEFALLS.match(state) or BUSY.match(state):
        raise DatabaseError(f"db: the live server does not answer ({state or ended}), expected it to")
    if not out.startswith(READY):
        raise DatabaseRefusedError(f"db: no role that may only read can be had on the live server (SQLSTATE {state})")
    if state == admin_queries.NO_RIGHT:
        raise DatabaseRefusedError("db: on the live server the query needs a right beyond reading")
    raise DrillError(f"check {name}: the query failed on the live database (SQLSTATE {state}), expected one value")


def _told(live: DatabaseSource, script: str, beat: Beat) -> tuple[programs.Ended, str]:
    """Run a script in one session, of which nothing is left on the server, whatever it does there."""
    session = sessions.new()
    argv = postgres.client(
        live.server,
        "psql",
        *load.ROWS,
        postgres.to_database(live.facts.database),
        session=session,
        stdin=True,
        options=pinned.AS_CONFIGURED,
    )
    done = False
    try:
        ended, out = programs.capture(argv, text_in=script, timeout_s=ANSWERS_S + TO_END_S, beat=beat)
        done = ended.ok
    finally:
        if not done:  # a function may have caught the time limit, and a session heeds no client that has gone
            with stop.deferred(), contextlib.suppress(BackupError):
                postgres.end_sessions(live.server, session, attempts=sessions.PATIENT)
    return ended, out
