"""How a client that dumps has ended: pg_dump, pg_dumpall, or the psql that stands beside it."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DumpError
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from dental_pms_backup.host import programs
    from dental_pms_backup.live.postgres import Facts, Server

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the second from docker exec


def check(server: Server, facts: Facts, client: programs.Ended) -> None:
    """Raise DumpError unless a client exited 0; DatabaseError or DockerError when the server went away under it."""
    if client.ok:
        return
    postgres.check_stayed(server, facts, client)
    said = postgres.complaint(client)
    raise DumpError(f"db: {client}: {said}, expected exit status 0", hint=_hint(client, said))


def _hint(dump: programs.Ended, said: str) -> str:
    if dump.exit_code in KILLED:
        return "journalctl --dmesg --grep='killed process'   # mostly memory ran out; then: dental-pms-backup run"
    if "No space left" in said:
        return "docker ps; df -h   # the server's own disk is full; with room there: dental-pms-backup run"
    if "lock" in said or "statement timeout" in said:
        return "dental-pms-backup run   # when the migration or maintenance that holds a table is done"
    if re.search("does not exist|already exists|unique constraint|could not serialize", said):
        return "dental-pms-backup run   # when the migration that changed tables as the dump began is done"
    if "permission denied" in said:
        return "GRANT pg_read_all_data TO ROLE;   # in psql, for the role that dumps: it has to read everything"
    return "dental-pms-backup run --verbose"
