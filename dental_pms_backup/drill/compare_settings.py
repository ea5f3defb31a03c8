"""Giving the copy what was the database's own, and comparing; in a transaction that is rolled back.

In force, a limit, a right or a setting of it could keep out who asks the copy next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.drill import load
from dental_pms_backup.errors import DrillError
from dental_pms_backup.host import programs
from dental_pms_backup.live import own_settings, psql, unknown_settings
from dental_pms_backup.store import verify_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from dental_pms_backup.live.postgres import Server

GIVE = """\
begin;
alter role current_user in database {database} reset all;
{script}{text};
rollback;
"""


def compare(server: Server, descriptor: int, beat: Callable[[], None]) -> str:
    """Raise DrillError when something of an open file does not come back; return why where that cannot be tried here.

    RoomError and TemporaryError are not the set's fault.
    """
    try:
        went_in = own_settings.read(verify_file.unpacker(), descriptor)
    except ValueError:
        raise DrillError("settings: something else is in the file, expected what belongs to the database") from None
    lacking = unknown_settings.among(went_in.values(), lambda script: load.takes(server, script))
    went_in = {about: statement for about, statement in went_in.items() if statement not in lacking}
    script = own_settings.script("".join(went_in.values()), load.DATABASE)
    asked = GIVE.format(database=load.DATABASE, script=script, text=own_settings.TEXT)
    ended, out = programs.capture(load.script_argv(server), text_in=asked, beat=beat)
    if not ended.ok:
        state = psql.sqlstate(ended)
        raise load.not_of_the_set(state, ended) or DrillError(
            f"settings: they cannot be given to a database (SQLSTATE {state}), expected every statement to succeed"
        )
    came_back = own_settings.statements(out)
    other = sorted(about for about in went_in.keys() | came_back.keys() if went_in.get(about) != came_back.get(about))
    if other:
        raise DrillError(f"settings: what came back is not what went in: {', '.join(other)}")
    if lacking:
        return f"the throwaway server does not take the database's {', '.join(map(unknown_settings.told, lacking))}"
    return ""
