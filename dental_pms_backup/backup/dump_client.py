"""How a client that dumps has ended: pg_dump, pg_dumpall, or the psql that stands beside it."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DumpError
from dental_pms_backup.host.journal import redacted
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from dental_pms_backup.host import programs
    from dental_pms_backup.live.postgres import Facts, Server

# what pg_dump asked as it failed; its line with the error has the name without the schema
ASKED = re.compile(
    r'pg_dump: detail: (?:Command was: COPY|Query was: LOCK TABLE) ((?:"(?:[^"]|"")+"|[^\s,(";])+)(?: |$)'
)
TABLE_SHOWN = 130  # characters
HINTS = {
    "No space left": "docker ps; df -h   # the server's own disk is full; with room there: dental-pms-backup run",
    "invalid memory alloc request size|[Cc]annot enlarge string buffer|out of memory": "psql -U OWNER -c 'SELECT "
    "max(octet_length(COLUMN)) FROM TABLE'   # as the table's owner, no superuser; a value of over 500 MB cannot be "
    "dumped: keep it in parts, or as a file",
    "invalid page in block|could not read block|page verification failed": "journalctl -k   # the disk under the "
    "server, or what is on it, is damaged: keep all sets, and ask for help before anything is written there",
    r"\block|statement timeout": "dental-pms-backup run   "
    "# when the migration or maintenance that holds a table is done",
    "does not exist|already exists|unique constraint|could not serialize": "dental-pms-backup run   "
    "# when the migration that changed tables as the dump began is done",
    "temp_file_limit": "ALTER ROLE ROLE SET temp_file_limit = -1;   # in psql as a superuser, for the role that dumps",
    "permission denied": "GRANT pg_read_all_data TO ROLE;   "
    "# in psql, for the role that dumps: it has to read everything",
}
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the second from docker exec


def check(server: Server, facts: Facts, client: programs.Ended) -> None:
    """Raise DumpError unless a client exited 0; DatabaseError or DockerError when the server went away under it."""
    if client.ok:
        return
    postgres.check_stayed(server, facts, client)
    said = postgres.complaint(client)
    raise DumpError(f"db: {client}: {_table(client)}{said}, expected exit status 0", hint=_hint(client, said))


def _table(client: programs.Ended) -> str:
    """Return the table that pg_dump was at, with a colon behind it, empty where it does not say one."""
    asked = next((found for line in client.said if (found := ASKED.search(line))), None)
    return f"table {redacted(asked[1])[:TABLE_SHOWN]}: " if asked else ""


def _hint(dump: programs.Ended, said: str) -> str:
    if dump.exit_code in KILLED:
        return "journalctl --dmesg --grep='killed process'   # mostly memory ran out; then: dental-pms-backup run"
    return next((hint for words, hint in HINTS.items() if re.search(words, said)), "dental-pms-backup run --verbose")
