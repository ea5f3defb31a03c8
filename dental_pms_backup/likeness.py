"""Asking the live database what the restored one is asked. Nothing is changed there, and no answer is ever told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dental_pms_backup import pinned, postgres, rehearsal, streams, tools
from dental_pms_backup.errors import DatabaseError, DrillError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dental_pms_backup.sources import DatabaseSource

    Beat = Callable[[], None] | None

ANSWERS_S = 60
READ_ONLY = f"set default_transaction_read_only = on; set statement_timeout = '{ANSWERS_S}s';\n"
# SQLSTATE of what only says that live is busy: a canceled statement, a lock, a conflict with another transaction
BUSY = re.compile("57014|55P03|40")


def compare(here: str, live: DatabaseSource, name: str, sql: str, *, beat: Beat = None) -> None:
    """Raise DrillError unless a query that returned ``here`` of the copy returns one row, and the same, of live.

    DatabaseError when live does not answer, which says nothing of the copy.
    """
    there = _ask(live, name, sql, beat)
    if not re.fullmatch(r"[^\n]+\n", here):
        raise DrillError(f"check {name}: returned no value or more than one row, expected one value")
    if there != here:
        raise DrillError(f"check {name}: the live database returns something else, expected the same")


def _ask(live: DatabaseSource, name: str, sql: str, beat: Beat) -> str:
    session = streams.new_session()
    database = postgres.to_database(live.facts.database)
    argv = postgres.client(
        live.server,
        "psql",
        *rehearsal.ROWS,
        database,
        session=session,
        stdin=True,
        options=pinned.AS_CONFIGURED,
    )
    done = False
    try:
        ended, out = tools.capture(
            argv, text_in=READ_ONLY + rehearsal.statement(sql), timeout_s=2 * ANSWERS_S, beat=beat
        )
        done = ended.ok
    finally:
        if not done:
            streams.end_quietly(live.server, session)
    state = "" if done else rehearsal.sqlstate(ended)
    if not done and (not state or rehearsal.BEFALLS.match(state) or BUSY.match(state)):
        raise DatabaseError(f"db: the live server does not answer ({state or ended}), expected it to")
    if not done:
        raise DrillError(f"check {name}: the query failed on the live database (SQLSTATE {state}), expected one value")
    return out
