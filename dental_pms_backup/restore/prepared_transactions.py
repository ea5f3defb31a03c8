"""Transactions that were prepared and forgotten: no database is renamed and no table dropped before they are ended."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError
from dental_pms_backup.host import wording
from dental_pms_backup.live import postgres
from dental_pms_backup.restore import databases

if TYPE_CHECKING:
    from dental_pms_backup.live.sources import DatabaseSource

PREPARED = """\
select json_build_array(gid, owner, prepared::timestamp(0)) from pg_prepared_xacts
 where database = current_database() order by prepared
"""


def check(live: DatabaseSource) -> None:
    """Raise RefusedError when a transaction was prepared in the live database and never ended."""
    found = [json.loads(line) for line in wording.lines(postgres.ask(live.server, PREPARED))]
    if found:
        gid, owner, since = found[0]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        is_text = gid.isprintable() and owner.isprintable()
        named = f'transaction "{gid}" of {owner}' if is_text else "a transaction"
        ends = f"rollback prepared {postgres.literal(gid)}" if is_text else "select * from pg_prepared_xacts"
        command = shlex.join(databases.admins_psql(live.server, live.facts.user, ends, database=live.facts.database))
        raise RefusedError(
            f"db: {named}, prepared at {since}{more}, is not ended, expected no prepared transaction in the live "
            "database; nothing was touched",
            hint=f"{command}   # commit prepared or rollback prepared, as is wanted",
        )
