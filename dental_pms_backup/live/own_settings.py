"""What belongs to a database itself, and is in no dump of its content: as SQL, for whichever database psql is told.

That are its owner, comment, limit of connections, settings (ALTER DATABASE ... SET, ALTER ROLE ... IN DATABASE ... SET)
and rights. pg_dump writes them with --create only, for a database of the same name (PostgreSQL manual, "pg_dump").
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DatabaseError, RefusedError, shell_word
from dental_pms_backup.host import descriptors, programs, wording
from dental_pms_backup.live import pinned_settings, postgres

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dental_pms_backup.live.postgres import Server

# In a database of SQL_ASCII text is whatever bytes somebody has typed: UTF-8 it need not be.
AS_LITERAL = r"""case when pg_encoding_to_char(d.encoding) = 'SQL_ASCII' and {text} ~ '[^\x01-\x7f]'
   then concat('E''', replace(encode(convert_to({text}, 'SQL_ASCII'), 'escape'), '''', ''''''), '''')
   else quote_literal({text}) end"""
# :"DBNAME" is psql's own name for the database that it is connected to. A setting that is a list is kept as one. What
# is set for all databases of the server (ALTER ROLE ALL), which no dump has, is one of this database, where it has no
# other. By which lc_monetary amounts are written, whoever set it, RESTORE.txt puts before the content. Rights stand
# here where they are not what every new database has, once, whoever gave them.
TEXT = """\
with d as (select * from pg_database where datname = current_database()), lines (place, whose, nth, line) as (
 select 0, '', 0, translate(concat_ws(' ', '-- made by: createdb --template=template0 --encoding='
   || pg_encoding_to_char(encoding), case j->>'datlocprovider' when 'i' then '--locale-provider=icu --icu-locale='
    || quote_literal(coalesce(j->>'datlocale', j->>'daticulocale')) when 'b' then
    '--locale-provider=builtin --builtin-locale=' || quote_literal(j->>'datlocale') end,
   '--lc-collate=' || quote_literal(j->>'datcollate'), '--lc-ctype=' || quote_literal(j->>'datctype'), 'NEWDB'),
  e'\\n\\r', '  ') from d, to_jsonb(d) j
 union all select 0, '', 1, 'SET client_encoding = ''UTF8'';'
 union all select 0, '', 2, 'SET standard_conforming_strings = on;'
 union all select 0, '', 3, translate(format('-- amounts of money: SET lc_monetary = %L;',
   current_setting('lc_monetary')), e'\\n\\r', '  ') where {has_money}
 union all select 1, '', 0, format('ALTER DATABASE :"DBNAME" OWNER TO %I;', rolname)
  from d join pg_roles r on r.oid = datdba
 union all select 2, '', 0, format('COMMENT ON DATABASE :"DBNAME" IS %s;', {comment})
  from d, shobj_description(oid, 'pg_database') comment where comment is not null
 union all select 3, '', 0, format('ALTER DATABASE :"DBNAME" CONNECTION LIMIT %s;', datconnlimit)
  from d where datconnlimit <> -1
 union all select 4, coalesce(rolname, ''), nth, format('ALTER %s SET %I TO %s;',
  case when rolname is null then 'DATABASE :"DBNAME"' else format('ROLE %I IN DATABASE :"DBNAME"', rolname) end, name,
  case when name in ('local_preload_libraries', 'search_path', 'session_preload_libraries', 'temp_tablespaces',
    'unix_socket_directories') then coalesce((
    select string_agg(quote_literal(coalesce(replace(m[1], '""', '"'), m[2])), ', ' order by found.nth)
     from regexp_matches(value, '"((?:[^"]|"")*)"|([^",[:space:]]+)', 'g') with ordinality as found (m, nth)),
   quote_literal('')) else {value} end)
  from d, pg_db_role_setting s left join pg_roles r on r.oid = s.setrole,
   unnest(s.setconfig) with ordinality as each (entry, nth), split_part(entry, '=', 1) name,
   substr(entry, strpos(entry, '=') + 1) value
  where s.setdatabase = d.oid or s.setdatabase = 0 and s.setrole = 0 and not exists (
   select from pg_db_role_setting o, unnest(o.setconfig) e
    where o.setdatabase = d.oid and o.setrole = 0 and split_part(e, '=', 1) = name)
 union all select 5, '', 0, format('REVOKE ALL ON DATABASE :"DBNAME" FROM %s;', case place when 1 then 'PUBLIC'
   else quote_ident(rolname) end)
  from d join pg_roles r on r.oid = datdba, generate_series(1, 2) place
  where not (datacl @> acldefault('d', datdba) and datacl <@ acldefault('d', datdba))
 union all select 6, case grantee when 0 then '' else rolname end, 0, format('GRANT %s ON DATABASE :"DBNAME" TO %s%s;',
   privilege_type, case grantee when 0 then 'PUBLIC' else quote_ident(rolname) end,
   case when bool_or(is_grantable) then ' WITH GRANT OPTION' else '' end)
  from d, aclexplode(datacl) left join pg_roles r on r.oid = grantee
  where (grantee = 0 or rolname is not null)
   and not (datacl @> acldefault('d', datdba) and datacl <@ acldefault('d', datdba))
  group by grantee, rolname, privilege_type
 union all select 9, '', 0, '-- settings of the database complete')
select line from lines order by place, whose collate "C", nth, line collate "C"
""".replace("{comment}", AS_LITERAL.format(text="comment")).replace("{value}", AS_LITERAL.format(text="value"))
TEXT = TEXT.replace("{has_money}", pinned_settings.HAS_MONEY)
# How those statements begin that are most of it.
MOST = TEXT[: TEXT.index("select line from lines order by")]
MOST += """\
select left(min(line), 300) from lines group by place, whose order by sum(octet_length(line)) desc limit 1"""
OF_ALL = """\
select name from pg_db_role_setting s, unnest(s.setconfig) entry, split_part(entry, '=', 1) name
 where s.setdatabase = 0 and s.setrole = 0 and not exists (select from pg_db_role_setting o, unnest(o.setconfig) e
  where o.setdatabase = (select oid from pg_database where datname = current_database()) and o.setrole = 0
   and split_part(e, '=', 1) = name)
"""
# Who owns what is computed when it is loaded, and computes it by other settings than ours; a date's style in part only.
OF_OWNERS = """\
select coalesce(json_agg(json_build_array(rolname, name, value) order by rolname, name), '[]') from (
 select r.rolname, lower(split_part(entry, '=', 1)) as name, substr(entry, strpos(entry, '=') + 1) as value,
   lower(current_setting(split_part(entry, '=', 1), true)) as ours
  from pg_db_role_setting s join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) entry
  where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
   and exists (select from pg_class c where c.relowner = r.oid and (c.relkind = 'm' or exists (
    select from pg_attribute a where a.attrelid = c.oid and a.attgenerated <> '')))) each
 where name = any (string_to_array('{names}', ' ')) and case name when 'datestyle'
  then strpos(replace(ours, ' ', ''), lower(replace(value, ' ', ''))) = 0 else ours <> lower(value) end
""".replace("{names}", " ".join(pinned_settings.WRITTEN_BY))
# A setting may be a secret of the application's.
UNLOGGED = """\
set log_statement = 'none'; set log_min_duration_statement = -1; set log_min_error_statement = 'panic';
"""
LARGEST_BYTES = 4 << 20
OWNER, RIGHTS = "owner", "rights"
IDENT = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
LITERAL = r"(?:'(?:[^'\\]|'')*'|E'(?:[^'\\]|''|\\\\|\\[0-7]{3})*')"
STATEMENT = re.compile(
    rf"""
    (?: --\ [^\r\n]*
      | SET\ client_encoding\ =\ 'UTF8'; | SET\ standard_conforming_strings\ =\ on;
      | ALTER\ DATABASE\ :"DBNAME"\ (?: OWNER\ TO\ {IDENT} | CONNECTION\ LIMIT\ [0-9]+ );
      | ALTER\ (?: DATABASE\ :"DBNAME" | ROLE\ (?P<role>{IDENT})\ IN\ DATABASE\ :"DBNAME" )
        \ SET\ (?P<setting>{IDENT})\ TO\ {LITERAL}(?:,\ {LITERAL})*;
      | COMMENT\ ON\ DATABASE\ :"DBNAME"\ IS\ {LITERAL};
      | REVOKE\ ALL\ ON\ DATABASE\ :"DBNAME"\ FROM\ (?:PUBLIC|{IDENT});
      | GRANT\ (?:CREATE|CONNECT|TEMPORARY)\ ON\ DATABASE\ :"DBNAME"\ TO\ (?:PUBLIC|{IDENT})(?:\ WITH\ GRANT\ OPTION)?;
    )\n""",
    re.VERBOSE,
)
BEGINS = re.compile(
    rf"""ALTER ROLE (?P<role>{IDENT}) IN """
    rf"""|(?:REVOKE|GRANT) \w+ ON DATABASE :"DBNAME" (?:FROM|TO) (?P<whose>{IDENT}|PUBLIC)"""
)
IS_BYTES = re.compile(r"E'(?:[^\\]|\\\\)*\\[0-7]")
ABOUT = {
    'ALTER DATABASE :"DBNAME" OWNER TO ': OWNER,
    'ALTER DATABASE :"DBNAME" CONNECTION LIMIT ': "connection limit",
    "COMMENT ": "comment",
    "GRANT ": RIGHTS,
    "REVOKE ": RIGHTS,
}
OUR_PREFIX = "dental_pms."  # of what our own statements tell each other
# What every new database has; a restore takes it away until all else is done.
FOR_EVERYBODY = 'GRANT CONNECT, TEMPORARY ON DATABASE :"DBNAME" TO PUBLIC;\n'


def argv(server: Server, program: str, session: str) -> list[str]:
    """Return the argv of the psql that writes them on stdout."""
    words = ("-XAtq", "-w", "-v", "ON_ERROR_STOP=1", "-c", pinned_settings.CHECK + TEXT)
    return postgres.client(server, program, *words, session=session)


def of(server: Server) -> str:
    """Return those of the database that a server is asked in; DatabaseError when it does not answer.

    RefusedError, with the statement that takes most of it away, where that is more than a restore reads.
    """
    try:
        text = postgres.ask(server, pinned_settings.CHECK + TEXT) + "\n"
    except DatabaseError as error:
        if programs.TOO_MUCH not in error.message:
            raise
    else:
        if len(text.encode()) <= LARGEST_BYTES:
            return text
    database, most = postgres.ask(server, "select current_database()"), postgres.ask(server, MOST)
    raise RefusedError(
        f"db: what database {database} has of its own, as comment, settings and rights, is more than "
        f"{LARGEST_BYTES >> 20} MiB, which no restore reads, expected less",
        hint=f"psql --command={shell_word(taking_away(most, database))} {shell_word(database)}",
    )


def taking_away(begins: str, database: str) -> str:
    """Return the statement that takes away what one that so ``begins`` gives a database, and what is like it."""
    match = BEGINS.match(begins)
    name = postgres.quoted(database)
    if match and match["role"]:
        return f"ALTER ROLE {match['role']} IN DATABASE {name} RESET ALL"
    if match and match["whose"]:
        return f"REVOKE ALL ON DATABASE {name} FROM {match['whose']}"
    return f"COMMENT ON DATABASE {name} IS NULL" if begins.startswith("COMMENT") else f"ALTER DATABASE {name} RESET ALL"


def of_all(server: Server) -> set[str]:
    """Return which statements of the database a server is asked in are those of all its databases, by their keys."""
    return {f"setting {name}" for name in wording.lines(postgres.ask(server, pinned_settings.CHECK + OF_ALL))}


def of_owners(server: Server) -> list[tuple[str, str, str]]:
    """Return which settings, and of which roles, have what is computed at a load be otherwise than where it was.

    Each is the role, the setting and its value; DatabaseError when the server does not answer.
    """
    try:
        return [(role, name, value) for role, name, value in json.loads(postgres.ask(server, OF_OWNERS))]
    except (ValueError, TypeError):
        raise postgres.not_what_was_asked_for(server) from None


def read(unpack: Sequence[str], descriptor: int) -> dict[str, str]:
    """Return the statements of an open file of them, as ``statements`` does; ValueError when it holds anything else."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with descriptors.memory("settings") as out:
        (ended,) = programs.pipeline(unpack, stdin=descriptor, out=out)
        if not ended.ok:
            raise ValueError(str(ended))
        if os.fstat(out).st_size > LARGEST_BYTES:
            raise ValueError(LARGEST_BYTES)
        return statements(os.pread(out, LARGEST_BYTES, 0).decode())


def statements(text: str) -> dict[str, str]:
    """Return the statements of such a text by what they are about, in words; ValueError where it has any other."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = STATEMENT.match(text, at)
        if match is None:
            raise ValueError(at)
        at = match.end()
        if about := _about(match):
            found[about] = found.get(about, "") + match[0]
    return found


def script(wanted: str, database: str) -> str:
    """Return the SQL that gives a database, whichever one the session is connected to, what stands in such a text."""
    told = database.replace("\\", "\\\\").replace("'", "\\'")  # psql's own quotes
    return f"{UNLOGGED}\\set DBNAME '{told}'\n{FOR_EVERYBODY}{wanted}"


def schemas(found: Mapping[str, str]) -> str:
    """Return the search_path of the database, as SQL names its schemas; empty where it has none that can be told."""
    statement = found.get("setting search_path", "")
    names = [unquoted(each) for each in re.findall(LITERAL, statement.partition(" SET ")[2])]
    if not all(name.isprintable() for name in names):
        return ""
    return ", ".join(name if name == "public" else postgres.quoted(name) for name in names)


def unquoted(literal: str) -> str:
    """Return the text that a literal in these statements stands for."""
    value = literal.removeprefix("E")[1:-1].replace("''", "'")
    return value.replace("\\\\", "\\") if literal.startswith("E") else value


def _about(match: re.Match[str]) -> str:
    """Return what a statement is about, empty for a comment."""
    if match["setting"]:
        whose = f" of role {plain(match['role'])}" if match["role"] else ""
        return f"setting {plain(match['setting'])}{whose}"
    return next((about for begins, about in ABOUT.items() if match[0].startswith(begins)), "")


def plain(name: str) -> str:
    """Return a name without its quotes, as it can be told."""
    bare = name[1:-1].replace('""', '"') if name.startswith('"') else name
    return bare if bare.isprintable() else "(not text)"
