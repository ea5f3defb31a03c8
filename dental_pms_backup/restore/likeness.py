"""Whether text reads on the live server as it did where a set was taken.

In another encoding the same bytes are other letters, or none: no way to load a set puts that right. In another order
of text only what is sorted comes otherwise.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import postgres
from dental_pms_backup.restore import databases

if TYPE_CHECKING:
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.backup_file import BackupFile

ORDER = ("collate", "ctype", "locale_provider", "locale")


def check(dump: BackupFile, live: DatabaseSource, said: str | None) -> None:
    """Raise RefusedError where the live database has another encoding than the set's, and tell of another order.

    Where no manifest has the encoding, it is what the dump has ``said`` in its first lines. The server makes text of
    that one its own, but for SQL_ASCII, which is bytes and no text. Of the order that no manifest has nobody knows.
    """
    taken, now = dump.written_by, live.facts.settings
    encoding = taken.get("encoding", now.get("encoding"))
    if "encoding" not in taken and said and "SQL_ASCII" in {said.upper(), now.get("encoding")}:
        encoding = said.upper()
    if encoding != now.get("encoding"):
        raise _other_encoding(str(encoding), live)
    other = [name for name in ORDER if name in taken and taken[name] != now.get(name)]
    if other:
        differs = ", ".join(f"{name} {now.get(name)} instead of {taken[name]}" for name in other)
        journal.write(
            Event.RESTORE_OTHER_ORDER,
            f"the live database sorts text otherwise than the one of the set did ({differs}); the content is the same",
            priority=journal.WARNING,
            fields={"target": live.facts.database},
        )


def _other_encoding(taken: str, live: DatabaseSource) -> RefusedError:
    server, name = live.server, live.facts.database
    aside = databases.name_like(name, f"_{live.facts.settings['encoding'].lower()}")
    statements = (
        f"alter database {postgres.quoted(name)} rename to {postgres.quoted(aside)}",
        f"create database {postgres.quoted(name)} template template0 encoding {postgres.literal(taken)} "
        f"locale {postgres.literal('C.UTF-8' if taken == 'UTF8' else 'C')}",
    )
    command = shlex.join([*databases.admins_psql(server, live.facts.user, statements[0]), "--command", statements[1]])
    return RefusedError(
        f"db: the live database has the encoding {live.facts.settings['encoding']}, expected {taken}, as the set has: "
        "the same text would be other text; nothing was touched",
        hint=f"{command}   # nobody may be connected",
    )
