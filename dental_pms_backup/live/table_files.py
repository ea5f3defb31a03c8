"""The files that a server keeps its tables in: what tells that a table was rewritten, and that it has rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dental_pms_backup.errors import VerificationError
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from dental_pms_backup.live.postgres import Server

TABLES = """\
 from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
"""
# Named as pg_dump names them. In a database of SQL_ASCII a name is whatever bytes somebody has typed, and no session of
# UTF-8 gets it.
NAME = """\
encode(convert_to(format('%I.%I', n.nspname, c.relname),
  case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end), 'hex')"""
TABLE_FILES = f"select json_object_agg({NAME}, pg_relation_filenode(c.oid)){TABLES}"
# As the server's own counters say, and the sizes of the files: neither takes a lock that a migration may hold. After a
# crash there is nothing in the counters; the sizes are for a superuser.
FILLED = f"""\
select json_agg({NAME}){TABLES} and (c.relpages > 0 or pg_stat_get_live_tuples(c.oid) > 0{{or_by_file}})
"""
# Who may not call that is refused, wherever it stands.
BY_FILE = " or (pg_stat_file(pg_relation_filepath(c.oid), true)).size > 0"
# Of the size of its file, never of the table: the planner runs functions that stand under an index or a partition, and
# they would have our rights. Rows that were deleted since count as well. Of a name in other bytes nothing is known.
HAS_ROWS = "set lock_timeout = '30s'; select pg_relation_size(to_regclass({})) > 0"

# Of a table that is a member of an extension pg_dump writes nothing, but for those of its configuration.
NOT_DUMPED = """\
set lock_timeout = '30s';
select coalesce(json_agg(array[e.extname, format('%I.%I', n.nspname, c.relname)] order by n.nspname, c.relname), '[]')
 from pg_depend d join pg_extension e on e.oid = d.refobjid join pg_class c on c.oid = d.objid
  join pg_namespace n on n.oid = c.relnamespace
 where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
  and c.relkind = 'r' and c.oid <> all (coalesce(e.extconfig, '{}')) and pg_relation_size(c.oid) > 0
"""

# A dump has char(n) with all of its spaces; a query that asks for text does not.
PADS = """\
select exists (select from pg_attribute a join pg_type t on t.oid = a.atttypid
 where a.attrelid = to_regclass({table}) and a.attname in ({key}, {size})
  and 'bpchar'::regtype in (t.oid, t.typbasetype))
"""

# What somebody has made beside tables, and no extension.
OTHERS = """\
select exists (select from pg_largeobject_metadata) or exists (
 select from (select 'pg_class'::regclass as kind, oid from pg_class where relkind in ('v', 'm', 'S', 'f', 'p')
   union all select 'pg_proc'::regclass, oid from pg_proc) o
  where oid >= 16384 and not exists (
   select from pg_depend where classid = o.kind and objid = o.oid and deptype = 'e'))
"""


def numbers(server: Server) -> dict[str, int]:
    """Return the number of each table's file by the table's name; one that is rewritten or truncated gets a new file.

    DatabaseError when the server does not answer.
    """
    try:
        found = json.loads(postgres.ask(server, TABLE_FILES) or "{}")  # nothing without any table
        return {named(name): file for name, file in dict(found).items()}
    except (ValueError, TypeError):
        raise postgres.not_what_was_asked_for(server) from None


def named(name: str) -> str:
    """Return a table's name from the bytes that NAME gives, as a dump's rows are named by it."""
    return bytes.fromhex(name).decode("utf-8", "backslashreplace")


def has_others(server: Server) -> bool:
    """Tell whether a database has large objects, views, functions or the like; DatabaseError without an answer."""
    return postgres.ask(server, OTHERS) == "t"


def filled(server: Server, *, superuser: bool) -> set[str]:
    """Return the names of the tables that have rows, or had some; DatabaseError when the server does not answer."""
    try:
        found = json.loads(postgres.ask(server, FILLED.format(or_by_file=BY_FILE if superuser else "")) or "[]")
        return {named(name) for name in found}
    except (ValueError, TypeError):
        raise postgres.not_what_was_asked_for(server) from None


def not_dumped(server: Server) -> list[tuple[str, str]]:
    """Return the tables with rows that are in no dump, as an extension has them, each behind the extension's name.

    DatabaseError when the server does not answer.
    """
    try:
        return [(extension, table) for extension, table in json.loads(postgres.ask(server, NOT_DUMPED))]
    except (ValueError, TypeError):
        raise postgres.not_what_was_asked_for(server) from None


def pads(server: Server, table: str, columns: tuple[str, str]) -> bool:
    """Tell whether a column fills its values up with spaces; ``table`` is as a dump has it. DatabaseError."""
    key, size = (postgres.literal(column) for column in columns)
    return postgres.ask(server, PADS.format(table=postgres.literal(table), key=key, size=size)) == "t"


def check_not_rewritten(
    server: Server, rows: Mapping[str, int], files: Mapping[str, int], had_rows: Container[str]
) -> None:
    """Raise VerificationError when a dump with these rows by table has none of a table that was filled anew meanwhile.

    pg_dump takes its snapshot first and locks the tables then. Of one that a migration rewrote, or truncated and
    filled, between the two, the snapshot sees no row, and pg_dump exits 0 (PostgreSQL manual, "Concurrency Control",
    "Caveats"). What it had may be in another table by then, which the snapshot does not have either. ``files`` and
    ``had_rows`` are what ``numbers`` and ``filled`` returned before the dump.
    """
    empty = [table for table, count in rows.items() if count == 0 and table in files]
    after = numbers(server) if empty else {}
    for table in empty:
        if after.get(table, files[table]) != files[table] and (
            table in had_rows or postgres.ask(server, HAS_ROWS.format(postgres.literal(table))) != "f"
        ):
            raise VerificationError(
                f"db: {table} was rewritten, emptied or filled anew as the dump began, so the dump has none of its "
                "rows",
                hint="dental-pms-backup run   # when the migration is done",
            )
