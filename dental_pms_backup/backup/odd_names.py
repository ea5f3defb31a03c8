"""Names with the end of a line in them, which no dump may hold.

pg_dump and pg_dumpall before August 2025 write the name of a table that is partitioned, and of a role, into a comment
as it is (CVE-2025-8715): what stands behind the end of the line in it would be a statement of the dump. No restore
takes it, nor a COPY whose line does not end with it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DumpError, shell_word
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from dental_pms_backup.live.postgres import Server

ODD_NAMES = """\
select json_build_array(command, names) from (
 select 1 as place, 'SCHEMA' as command, array[nspname::text] as names from pg_namespace
 union all select 2, case relkind when 'v' then 'VIEW' when 'm' then 'MATERIALIZED VIEW' when 'S' then 'SEQUENCE'
   when 'f' then 'FOREIGN TABLE' when 'i' then 'INDEX' when 'I' then 'INDEX' when 'c' then 'TYPE' else 'TABLE' end,
  array[nspname::text, relname::text] from pg_class join pg_namespace n on n.oid = relnamespace
  where relpersistence <> 't'
 union all select 3, case relkind when 'c' then 'TYPE' else 'TABLE' end,
  array[nspname::text, relname::text, attname::text]
  from pg_attribute join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = relnamespace
  where relpersistence <> 't' and relkind not in ('i', 'I') and attnum > 0 and not attisdropped
 union all select 4, case typtype when 'd' then 'DOMAIN' else 'TYPE' end, array[nspname::text, typname::text]
  from pg_type join pg_namespace n on n.oid = typnamespace where typrelid = 0 and typelem = 0
 union all select 5, 'ROUTINE', array[nspname::text, proname::text]
  from pg_proc join pg_namespace n on n.oid = pronamespace
 union all select 6, 'ROLE', array[rolname::text] from pg_roles) named
 where names[array_length(names, 1)] ~ E'[\\n\\r]' order by place, names limit 1"""
LONGEST_SHOWN = 200


def refuse(server: Server) -> None:
    """Raise DumpError when something in the database, or a role, has a name of more than one line."""
    found = postgres.ask(server, ODD_NAMES)
    if not found:
        return
    try:
        command, names = json.loads(found)
        quoted = [quoted_on_one_line(name) for name in names]
    except (ValueError, TypeError):
        raise postgres.not_what_was_asked_for(server) from None
    what, column = ".".join(quoted[:2]), quoted[2:]
    part = "ATTRIBUTE" if command == "TYPE" else "COLUMN"
    change = " ".join(["RENAME", *([part, *column] if column else [])])
    statement = f"ALTER {command} {what} {change} TO new_name"
    raise DumpError(
        f"db: {command} {'.'.join(quoted)[:LONGEST_SHOWN]}: the end of a line in its name, expected a name of one "
        "line: no restore would take the dump",
        hint=f"psql --command={shell_word(statement)} DATABASE",
    )


def quoted_on_one_line(name: str) -> str:
    """Return a name as SQL quotes it, with escapes for what would command a terminal or end a line."""
    if name.isprintable():
        return '"' + name.replace('"', '""') + '"'
    escaped = (each if each.isprintable() else f"\\+{ord(each):06X}" for each in name.replace("\\", "\\\\"))
    return 'U&"' + "".join(escaped).replace('"', '""') + '"'
