"""The sessions of ours at a server: each has a name of its own, by which it is ended when its client is gone."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from dental_pms_backup.config.values import Road
from dental_pms_backup.errors import BackupError
from dental_pms_backup.host import stop
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from dental_pms_backup.live.postgres import Server

PATIENT = 5


def new() -> str:
    """Return a session name that no other session has."""
    return f"dental-pms-backup-{secrets.token_hex(6)}"


def end_quietly(server: Server, session: str, *, attempts: int = PATIENT) -> None:
    """End what a killed client left running in the container; a server that does not answer has ended it."""
    if isinstance(server, postgres.InContainer) and server.road is Road.EXEC:
        with stop.deferred(), contextlib.suppress(BackupError):
            postgres.end_sessions(server, session, attempts=attempts)
