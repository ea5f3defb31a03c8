"""The other databases of the server: no set holds them, so that each run says which of them have tables."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, ConfigError
from dental_pms_backup.host import journal, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from dental_pms_backup.config.values import Names
    from dental_pms_backup.live.sources import DatabaseSource

CONFIGURED = "/etc/dental-pms/backup.yaml"
OTHERS = """\
select coalesce(json_agg(datname order by datname), '[]') from pg_database
 where datallowconn and not datistemplate and datname <> current_database()
"""
# An extension's tables are none of an application's: pg_cron has its own in the database postgres.
HAS_TABLES = """\
select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'm') and c.relpersistence <> 't' and n.nspname !~ '^pg_'
 and n.nspname <> 'information_schema' and not exists (select from pg_depend d
  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'))
"""
OF_A_RESTORE = re.compile(r"_(?:before_|restoring_)?[0-9]{4}(?:_[0-9]{2}){2}_[0-9]{6}$")


def check_named(source: DatabaseSource) -> None:
    """Raise ConfigError where nothing says which database is meant, and another one has tables."""
    if source.named:
        return
    others = _with_tables(source, frozenset())
    if others:
        raise ConfigError(
            (
                f"database.name: neither this key nor the container's environment names one database; beside "
                f"{source.facts.database} the server has {', '.join(others)} with tables, expected the practice's name",
            ),
            hint=f"editor {CONFIGURED}   # set database.name",
        )


def tell(source: DatabaseSource, left_out: Names | str) -> None:
    """Warn of the other databases with tables that may not be ``left_out``."""
    if isinstance(left_out, str):  # the word for all
        return
    if others := _with_tables(source, left_out):
        text = f"db: the server has other databases with tables, which no set holds: {', '.join(others)}"
        hint = f"editor {CONFIGURED}   # list them in database.others, or set database.name to the one that is meant"
        journal.write(Event.OTHER_DATABASES, text, priority=journal.WARNING, fields={"hint": hint})


def _with_tables(source: DatabaseSource, left_out: Names) -> list[str]:
    try:
        names = json.loads(postgres.ask(source.server, OTHERS))
    except ValueError:
        raise postgres.not_what_was_asked_for(source.server) from None
    wanted = [name for name in names if name not in left_out and not _is_of_a_restore(name, source.facts.database)]
    return [name for name in wanted if _may_have_tables(source, name)]


def _is_of_a_restore(name: str, live: str) -> bool:
    """Tell whether a restore has made or kept a database: its name begins as the live one's, cut to what fits."""
    suffix = OF_A_RESTORE.search(name)
    return suffix is not None and suffix.start() > 0 and live.startswith(name[: suffix.start()])


def _may_have_tables(source: DatabaseSource, name: str) -> bool:
    """Tell whether a database has tables, which is not ruled out of one that cannot be looked into."""
    try:
        return postgres.ask(source.server, HAS_TABLES, database=name) == "t"
    except BackupError:
        stop.check()
        return True
