"""The roles of restores that are done with: dropped, or left where they cannot log in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, RestoreError
from dental_pms_backup.host import journal, wording
from dental_pms_backup.live.postgres import literal
from dental_pms_backup.restore import databases

if TYPE_CHECKING:
    from dental_pms_backup.live.sources import DatabaseSource

PREFIX = "dental_pms_restore_"
LEFT = f"select rolname from pg_roles where rolname ~ '^{PREFIX}[0-9a-f]{{12}}$';"
NO_LOGIN = """\
select format('alter role %I nologin', rolname) from pg_roles where rolname = '{role}'
 and not exists (select from pg_stat_activity where usename = '{role}') \\gexec
"""
REMOVE = """\
select format(word, rolname) from pg_roles, unnest(array['drop owned by %I', 'drop role %I']) word
 where rolname = '{role}' \\gexec
"""
HAS_IN_IT = """\
select count(*) from pg_shdepend s join pg_roles r on r.oid = s.refobjid join pg_database d on d.datname = {database}
 where s.refclassid = 'pg_authid'::regclass and r.rolname = '{role}'
 and (s.dbid = d.oid or s.classid = 'pg_database'::regclass and s.objid = d.oid)"""


def remove(live: DatabaseSource, role: str) -> None:
    """Drop a role, if there is one; RestoreError where it owns a database still."""
    databases.tell(live.server, REMOVE.format(role=role))


def remove_or_leave(live: DatabaseSource, role: str, *, filled: str = "") -> None:
    """Drop a role that is done with; a warning where that fails, as anybody may have given it rights meanwhile.

    Then it cannot log in any more, and the next restore tries again. RestoreError where it has anything still in the
    database that it ``filled``: that was to be given away.
    """
    try:
        remove(live, role)
    except RestoreError:
        if filled and databases.tell(live.server, HAS_IN_IT.format(database=literal(filled), role=role)).strip() != "0":
            raise
        databases.tell(live.server, NO_LOGIN.format(role=role))
        why = f"somebody has given role {role}, which the restore has made, rights meanwhile, so that it is left"
        journal.say(f"restore: {why}; it cannot log in, and the next restore tries again to remove it")
        journal.say(f"hint: DROP OWNED BY {role}; in each database where it has rights, then DROP ROLE {role};")


def clear(live: DatabaseSource) -> None:
    """Drop the roles that restores have left which were cut off, but for those whose database is still there."""
    for role in wording.lines(databases.tell(live.server, LEFT)):
        try:
            remove(live, role)
        except BackupError:  # it owns what is left of that restore, until somebody drops it
            with contextlib.suppress(BackupError):
                databases.tell(live.server, NO_LOGIN.format(role=role))
