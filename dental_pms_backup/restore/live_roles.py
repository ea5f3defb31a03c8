"""The roles of the live server, by what they can do: what a file from elsewhere makes must not come to belong to them.

The server itself runs what is in an index or in statistics, when it likes and as the table's owner, beside a database
that nobody uses yet (PostgreSQL manual, "The Autovacuum Daemon").
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dental_pms_backup.host import wording
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from dental_pms_backup.live.sources import DatabaseSource

# Roles that may do more than what every role may, and whoever is a member of one, at whatever depth.
MIGHTY = """\
select r.rolname from pg_roles r where r.rolname ~ '^pg_' or exists (select from pg_roles p where
 (p.rolsuper or p.rolcreaterole or p.rolcreatedb or p.rolreplication or p.rolbypassrls
  or p.rolname ~ '^pg_' and p.rolname <> 'pg_database_owner') and pg_has_role(r.oid, p.oid, 'member'))"""
# Roles that are in use: of one that logs in the password could be changed, of a database's owner what is set there.
IN_USE = """\
select r.rolname from pg_roles r where exists (select from pg_roles p where
 (p.rolcanlogin or exists (select from pg_database where datdba = p.oid)) and pg_has_role(r.oid, p.oid, 'member'))"""
# For a role r: whether it reaches the whole server, as a superuser, as one of the server's own roles that reach its
# programs, its files or all data, or as a member of one; of the own ones these only look at counts, or end what runs.
REACHES = """\
exists (select from pg_roles p where (p.rolsuper or p.rolname ~ '^pg_' and p.rolname <> all (array['pg_monitor',
  'pg_read_all_settings', 'pg_read_all_stats', 'pg_stat_scan_tables', 'pg_signal_backend', 'pg_checkpoint',
  'pg_use_reserved_connections', 'pg_signal_autovacuum_worker', 'pg_database_owner']))
 and pg_has_role(r.oid, p.oid, 'member'))"""
SUPERUSERS = "select rolname from pg_roles where rolsuper"


def superusers(live: DatabaseSource) -> list[str]:
    """Return the names of the roles that may do everything."""
    return _names(live, SUPERUSERS)


def mighty(live: DatabaseSource) -> list[str]:
    """Return the roles that a file from elsewhere may give nothing to, nor set what they give."""
    return _names(live, MIGHTY)


def in_use(live: DatabaseSource) -> list[str]:
    """Return the roles that nothing of a file from elsewhere may belong to, besides."""
    return _names(live, IN_USE)


def _names(live: DatabaseSource, sql: str) -> list[str]:
    answer = postgres.ask(live.server, f"select to_json(rolname::text) from ({sql}) roles")  # noqa: S608 - ours
    return [json.loads(line) for line in wording.lines(answer)]
