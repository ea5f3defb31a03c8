"""Transactions that were prepared in the live database and neither committed nor rolled back: no session ends them.

While there is one, the database cannot be renamed, and what it has locked cannot be replaced (PostgreSQL manual,
"PREPARE TRANSACTION").
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError
from dental_pms_backup.host.wording import duration
from dental_pms_backup.live import postgres
from dental_pms_backup.restore import databases

if TYPE_CHECKING:
    from dental_pms_backup.live.sources import DatabaseSource

PREPARED = """\
select json_agg(json_build_array(gid, owner, extract(epoch from clock_timestamp() - prepared)::int) order by prepared)
 from pg_prepared_xacts where database = current_database()"""
LONGEST = 60  # characters of a name that somebody else chose


def check_none(live: DatabaseSource) -> None:
    """Raise RefusedError, with the command that ends it, when a prepared transaction is open in the live database."""
    found = json.loads(postgres.ask(live.server, PREPARED) or "[]")
    if not found:
        return
    gid, owner, age_s = found[0]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    ends = databases.admins_psql(live.server, live.facts.user, f"rollback prepared {postgres.literal(gid)}")
    ends[ends.index(databases.MAINTENANCE)] = live.facts.database
    command = shlex.join(ends)
    raise RefusedError(
        f'db: transaction "{_shown(gid)}" of {_shown(owner)}, prepared {duration(max(0, age_s))} ago{more}, is still '
        "open in the live database, expected none: it keeps the database in its place; nothing was touched",
        hint=f"{command}   # or: commit prepared; then try again",
    )


def _shown(name: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in name)[:LONGEST]
