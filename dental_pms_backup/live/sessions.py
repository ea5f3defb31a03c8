"""The sessions of ours at a server: each has a name of its own, by which it is ended when its client is gone."""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.config.values import Road
from dental_pms_backup.errors import BackupError
from dental_pms_backup.host import stop
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dental_pms_backup.live.postgres import Server

PATIENT = 5
BETWEEN_ATTEMPTS_S = 0.4
END_SESSIONS = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = '{}'"


@dataclass(slots=True)
class Session:
    """A session of a client program; ``done`` once nothing of it can be left on the server."""

    name: str
    done: bool = False


@contextlib.contextmanager
def opened(server: Server, *, on_any_road: bool = False) -> Iterator[Session]:
    """Give a client program a session name; what a killed one left running is ended with the block.

    That is in a container, or ``on_any_road``: a function may catch its time limit, and heeds no client that has gone.
    """
    session = Session(new())
    try:
        yield session
    finally:
        if not session.done:
            end_quietly(server, session.name, on_any_road=on_any_road)


def new() -> str:
    """Return a session name that no other session has."""
    return f"dental-pms-backup-{secrets.token_hex(6)}"


def end(server: Server, session: str, *, attempts: int) -> None:
    """End what a client program still does on the server under this session name.

    Killing ``docker exec`` leaves the program in the container running; this ends it within a second. One that was
    only just started may not have connected yet, so that it is looked for several times.
    """
    for _ in range(attempts):
        if postgres.ask(server, END_SESSIONS.format(session), session="dental-pms-backup-stop", timeout_s=10) != "0":
            return
        time.sleep(BETWEEN_ATTEMPTS_S)


def end_quietly(server: Server, session: str, *, attempts: int = PATIENT, on_any_road: bool = False) -> None:
    """End what a killed client left running in the container; a server that does not answer has ended it."""
    if on_any_road or (isinstance(server, postgres.InContainer) and server.road is Road.EXEC):
        with stop.deferred(), contextlib.suppress(BackupError):
            end(server, session, attempts=attempts)
