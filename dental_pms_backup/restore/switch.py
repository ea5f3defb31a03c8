"""Putting a restored database in the live one's place: all that may wait or be refused first, then in a moment.

Until then it is a transaction in which nobody connects: whatever is killed, program or server, all is as it was.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, DatabaseError, RestoreError
from dental_pms_backup.host import stop
from dental_pms_backup.live import postgres, psql, sessions
from dental_pms_backup.live.postgres import literal
from dental_pms_backup.restore import database_settings, databases, shut_out
from dental_pms_backup.restore.databases import LOCK_OUT, SWITCH_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dental_pms_backup.live.postgres import Server
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.database_settings import Statements

FIRST = """\
\\o /dev/null
begin;
{silence};
set local lock_timeout = '{lock_timeout_s}s';
"""


@contextlib.contextmanager
def about_to(live: DatabaseSource, made: str, kept: str, own: Statements, *, hint: str) -> Iterator[Callable[[], None]]:
    """Give a database what is its ``own`` and the live one's name, which is ``kept``, when what is yielded is called.

    Sessions of both are ended before the block. RestoreError when it does not work out, or the block ends without it:
    all is as it was. Whether it came about where the server could not say it any more, the names say.
    """
    name = live.facts.database
    with contextlib.ExitStack() as stack:
        try:
            with stop.deferred():
                gives = databases.as_made(made) + database_settings.script(live, made, own)
                locked = LOCK_OUT.format(live=literal(name), new=literal(made))
                script = "\n".join((f"{gives}{locked}", *databases.renames(name, made, kept)))
                commit = stack.enter_context(_begun(live.server, script))
        except BackupError as error:
            raise _failed(error, hint) from None

        def switch() -> None:
            with stop.deferred():
                try:
                    commit()
                except BackupError as error:
                    if not _has_come_about(live, kept, error):
                        raise _failed(error, hint) from None

        yield switch


def _has_come_about(live: DatabaseSource, kept: str, error: BackupError) -> bool:
    """Tell by the names whether a switch came about that failed as it was committed; RestoreError when nobody can."""
    try:
        return {kept, live.facts.database} <= databases.names(live.server)
    except BackupError:
        raise RestoreError(
            f"db: whether the restored database has the live one's name is not known: {error.message}; it has if there "
            f"is a database {kept}",
            hint="dental-pms-backup status   # when the server answers again, look for that database",
        ) from None


def _failed(error: BackupError, hint: str) -> RestoreError:
    return RestoreError(f"db: the switch failed: {error.message}", hint=hint)


@contextlib.contextmanager
def _begun(server: Server, script: str) -> Iterator[Callable[[], None]]:
    """Run SQL in a transaction before the block, and commit it when what is yielded is called; else it is undone.

    RestoreError when the server says no, DatabaseError when it does not answer.
    """
    first = FIRST.format(silence=shut_out.SILENCE, lock_timeout_s=SWITCH_S // 2)
    with sessions.opened(server) as session:
        words = (*psql.ROWS, postgres.to_database(databases.MAINTENANCE))
        argv = postgres.client(server, "psql", *words, session=session.name, stdin=True)
        with shut_out.begun(argv, f"{first}{script}\n{shut_out.SAYS_SO}\n", _within()) as (told, running):

            def end(last: bytes = b"") -> None:
                if last:
                    told.say(last)
                told.end()
                (ended,) = running.wait(_within())
                session.done = ended.ok
                if not ended.ok:
                    raise databases.refusal(ended)

            if running.has_ended:
                end()
            try:
                yield lambda: end(b"commit;\n")
            except BaseException:
                with stop.deferred(), contextlib.suppress(BackupError):  # before anybody asks the server
                    end()
                raise


def _within() -> Callable[[], None]:
    """Return what raises DatabaseError once a switch has taken too long."""
    ends = time.monotonic() + SWITCH_S

    def check() -> None:
        if time.monotonic() > ends:
            why = f"no answer within {SWITCH_S} s"
            raise DatabaseError(f"db: the server does not answer: {why}", hint="dental-pms-backup status")

    return check
