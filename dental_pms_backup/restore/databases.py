"""Databases of one server: making an empty one like the live one, counting rows, putting it in the live one's place.

Every change of a name is one transaction: a program or a server that dies in it leaves all names as they were.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, DatabaseError, RestoreError
from dental_pms_backup.host import programs, wording
from dental_pms_backup.live import postgres, psql, sessions, table_files
from dental_pms_backup.live.postgres import literal, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dental_pms_backup.host.programs import Ended
    from dental_pms_backup.live.postgres import Server

MAINTENANCE = "template1"  # always there, and never the live one, as postgres may be
LONGEST_NAME_BYTES = 63  # NAMEDATALEN without its NUL
SHORT_S = 60
COUNTS_S = 3600
SWITCH_S = 60
KIB = 1024
UNFINISHED = re.compile(r".*_restoring_[0-9]{4}(?:_[0-9]{2}){2}_[0-9]{6}")
# The columns of pg_database that say which locale differ from version to version.
CREATE = """\
select format('create database %I template template0 owner %I encoding %L ', {new}, coalesce({owner}, r.rolname),
  pg_encoding_to_char(d.encoding)) || coalesce({order}, format('lc_collate %L lc_ctype %L', j->>'datcollate',
   j->>'datctype') || case j->>'datlocprovider' when 'c' then ' locale_provider libc'
  when 'i' then format(' locale_provider icu icu_locale %L', coalesce(j->>'datlocale', j->>'daticulocale'))
   || coalesce(format(' icu_rules %L', nullif(j->>'daticurules', '')), '')
  when 'b' then format(' locale_provider builtin builtin_locale %L', j->>'datlocale') else '' end)
 || format(' tablespace %I allow_connections false', t.spcname)
 from pg_database d join pg_roles r on r.oid = d.datdba join pg_tablespace t on t.oid = d.dattablespace,
  to_jsonb(d) j where d.datname = {live} \\gexec
revoke all on database {name} from public;
alter database {name} allow_connections true;
"""
# Whoever owned a new database could set for it, grant, and say what it is, until it was given away; of that nothing
# stays.
AS_MADE = """\
alter database {name} reset all;
alter database {name} with is_template false allow_connections true connection limit -1;
comment on database {name} is null;
select format('revoke all on database %I from %s cascade', datname, coalesce(nullif(grantee::regrole::text, '-'),
 'public')) from pg_database, aclexplode(datacl) where datname = {literal} and grantee <> datdba \\gexec
"""
# While pg_database is locked nobody can connect, so that nobody comes between the end of the sessions and the new
# names; and nothing has to be undone if the server or we die on the way.
LOCK_OUT = """\
lock table pg_database in access exclusive mode;
select count(pg_terminate_backend(pid)) from pg_stat_activity
 where datname in ({live}, {new}) and pid <> pg_backend_pid() \\g /dev/null
"""
# Rows are counted as COPY writes them, in one short column where there is one, to nowhere. A query would be planned,
# and the planner runs functions that stand under an index, in statistics or under a partition: with our rights. COPY of
# a table runs none, and of a view, which may have the name by then, is refused.
# Neither their text is converted nor a name: it may be none.
COUNTED = f"select coalesce(json_object_agg({table_files.NAME}, c.oid::bigint), '{{}}'){table_files.TABLES};"
IN_BYTES = """\
set row_security = off;
select set_config('client_encoding', 'SQL_ASCII', false) where getdatabaseencoding() = 'SQL_ASCII' \\g /dev/null
"""
COUNT = """\
select format('copy %I.%I %s to stdout with (encoding ''SQL_ASCII'')', n.nspname, c.relname, coalesce('(' || (
  select quote_ident(attname) from pg_attribute where attrelid = c.oid
   and attnum > 0 and not attisdropped and attgenerated = '' order by attlen < 0, attnum limit 1) || ')', ''))
  as counting
 from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = {oid} \\gset
:counting \\g /dev/null
\\echo :ROW_COUNT
"""
# Of what is live, without reading its rows: whose it is, its tables and their files, its functions, who may do what.
LOOK = """\
select json_build_array(d.oid, d.datdba, d.datacl,
 (select md5(json_agg(json_build_array(c.oid, c.relname, c.relnamespace, c.relowner, c.relacl,
    pg_relation_filenode(c.oid)) order by c.oid)::text)
  from pg_class c where relpersistence <> 't' and relkind in ('r', 'p', 'v', 'm', 'S', 'f')),
 (select md5(json_agg(json_build_array(p.oid, p.xmin) order by p.oid)::text) from pg_proc p))
 from pg_database d where d.datname = current_database()"""
# They are the whole server's, and keep their database from being dropped.
SUBSCRIPTIONS = """\
select coalesce(json_agg(subname order by subname), '[]') from pg_subscription
 where subdbid = (select oid from pg_database where datname = {database});
"""
# The server's own df, in its data directory: it alone sees where a database will lie, in a container or elsewhere.
FREE = """\
create temp table dental_pms_df (line text);
select format('copy dental_pms_df from program %L', 'LC_ALL=C df -Pk ''' ||
  coalesce(nullif(pg_tablespace_location(dattablespace), ''), '.') || '''')
 from pg_database where datname = {live} \\gexec
select line from dental_pms_df;
select 'wal', pg_size_bytes(current_setting('max_wal_size'));
"""
DF_LINE = re.compile(r"^\S.*?\s(\d+)\s+(\d+)\s+(-?\d+)\s+\d+%\s", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much is free, in bytes, where the live database lies, and how large the log of changes beside it may grow."""

    free_bytes: int
    wal_bytes: int


def names(server: Server) -> set[str]:
    """Return the names of all databases of a server."""
    found = tell(server, "select to_json(datname::text) from pg_database;")
    return {json.loads(name) for name in wording.lines(found)}


def unfinished(server: Server) -> list[str]:
    """Return the databases that a restore has left which was cut off."""
    return sorted(name for name in names(server) if UNFINISHED.fullmatch(name))


def name_like(database: str, suffix: str) -> str:
    """Return a name made of a database's, cut where the whole would be longer than a name may be, and a suffix."""
    room = LONGEST_NAME_BYTES - len(suffix.encode())
    return database.encode()[:room].decode(errors="ignore") + suffix


def room(server: Server, live: str) -> Room | None:
    """Return the room on the server's disk, None where the server does not let us ask its ``df``."""
    try:
        out = tell(server, FREE.format(live=literal(live)))
    except BackupError:
        return None
    line = DF_LINE.search(out)
    wal = re.search(r"^wal\|(\d+)$", out, re.MULTILINE)
    return Room(free_bytes=int(line[3]) * KIB, wal_bytes=int(wal[1])) if line and wal else None


def create_like(server: Server, live: str, new: str, *, owner: str | None = None, order: str = "") -> None:
    """Make an empty database, as template0 has it, with the owner, encoding, locale and tablespace of the live one.

    What ``order`` says, as SQL, it has instead of the live one's locale.

    Nobody but its owner and superusers can connect to it, until it has the live one's privileges.
    """
    named, ordered = "null" if owner is None else literal(owner), literal(order) if order else "null"
    tell(server, CREATE.format(new=literal(new), name=quoted(new), live=literal(live), owner=named, order=ordered))


def drop(server: Server, database: str) -> None:
    """Drop a database, whoever is connected to it; nothing when there is none."""
    no_template = "select format('alter database %I is_template false', datname) from pg_database"
    found = f"{no_template} where datname = {literal(database)} and datistemplate \\gexec\n"
    tell(server, f"{found}drop database if exists {quoted(database)} with (force);")


def look(server: Server) -> str:
    """Return what the live database is, but for its rows, as a text that is only ever compared; DatabaseError."""
    return postgres.ask(server, LOOK)


def row_counts(server: Server, database: str) -> dict[str, int]:
    """Return how many rows each table of a database has, named as pg_dump names them; BackupError without one of them.

    A name whose bytes are no text is as ``table_files.named`` returns it.
    """
    oids = json.loads(tell(server, COUNTED, database=database))
    script = IN_BYTES + "".join(COUNT.format(oid=oid) for oid in oids.values())
    out = tell(server, script, database=database, timeout_s=COUNTS_S)
    return {table_files.named(name): int(rows) for name, rows in zip(oids, wording.lines(out), strict=True)}


def analyze(server: Server, database: str) -> None:
    """Let the planner know the database's content, which a dump does not bring along."""
    tell(server, "analyze;", database=database, timeout_s=COUNTS_S)


def as_made(database: str) -> str:
    """Return the SQL that takes back what was set for a new database, and what was granted on it."""
    return AS_MADE.format(name=quoted(database), literal=literal(database))


def take_name(server: Server, made: str, name: str, own: str) -> None:
    """Give a database that was made beside the live one its name, and by SQL what is its own.

    Sessions of it are ended.
    """
    renamed = f"alter database {quoted(made)} rename to {quoted(name)};"
    locked = LOCK_OUT.format(live=literal(made), new=literal(made))
    script = f"begin;\nset local lock_timeout = '{SWITCH_S // 2}s';\n{as_made(made)}{own}{locked}{renamed}\ncommit;"
    tell(server, script, timeout_s=SWITCH_S)


def switch_command(server: Server, user: str, live: str, made: str, kept: str) -> list[str]:
    """Return the argv with which an admin does what ``switching`` does."""
    sessions = f"pg_stat_activity where datname in ({literal(live)}, {literal(made)})"
    ends = f"select pg_terminate_backend(pid) from {sessions};"  # noqa: S608 - quoted
    script = " ".join(["begin; lock table pg_database;", ends, *renames(live, made, kept), "commit"])
    return admins_psql(server, user, script)


def command_to_drop(server: Server, user: str, database: str) -> list[str]:
    """Return the argv with which an admin drops a database as it is now, or as far as the server says it."""
    subscriptions: list[str] = []
    with contextlib.suppress(BackupError):
        subscriptions = json.loads(tell(server, SUBSCRIPTIONS.format(database=literal(database))))
    return drop_command(server, user, database, subscriptions)


def drop_command(server: Server, user: str, database: str, subscriptions: Sequence[str] = ()) -> list[str]:
    """Return the argv with which an admin drops a database, and first its subscriptions, which would keep it.

    What a subscription has on the server that it is of stays there: the restored one may go on with it.
    """
    drop_it = f"drop database {quoted(database)}"
    if not subscriptions:
        return admins_psql(server, user, drop_it)
    ends = ("alter subscription {} disable", "alter subscription {} set (slot_name = none)", "drop subscription {}")
    first, *rest = [each.format(quoted(name)) for name in subscriptions for each in ends]
    more = [word for each in (*rest, f"\\connect {MAINTENANCE}", drop_it) for word in ("--command", each)]
    return [*admins_psql(server, user, first, database=database), *more]


def admins_psql(server: Server, user: str, sql: str, *, database: str = MAINTENANCE) -> list[str]:
    """Return the argv with which an admin runs SQL, in the maintenance database or in another."""
    at_database = ["--dbname", database] if re.fullmatch(r"\w+", database) else [postgres.to_database(database)]
    words = ["psql", "--username", user, *at_database, "--command", sql]
    match server:
        case postgres.OnHost(run_as=run_as, host=host, port=port):
            who = ["runuser", "-u", run_as, "--"] if run_as else []
            return [*who, *words[:1], "--host", host, "--port", str(port), *words[1:]]
        case _:
            at = ["--port", str(server.login.port)] if server.login.port else []
            return ["docker", "exec", server.name, *words[:1], *at, *words[1:]]


def renames(live: str, made: str, kept: str) -> tuple[str, str]:
    """Return the statements that put a database in the live one's place, which is kept under another name."""
    return (
        f"alter database {quoted(live)} rename to {quoted(kept)};",
        f"alter database {quoted(made)} rename to {quoted(live)};",
    )


def tell(server: Server, script: str, *, database: str = MAINTENANCE, timeout_s: float = SHORT_S) -> str:
    """Run SQL, strictly, and return what it prints; what a killed client leaves running is ended.

    RestoreError with the SQLSTATE when the server says no, DatabaseError when it does not answer.
    """
    words = (*psql.ROWS, postgres.to_database(database))
    with sessions.opened(server) as session:
        argv = postgres.client(server, "psql", *words, session=session.name, stdin=True)
        ended, out = programs.capture(argv, text_in=script, timeout_s=timeout_s)
        session.done = ended.ok
    if ended.ok:
        return out
    raise refusal(ended)


def refusal(ended: Ended) -> BackupError:
    """Return the error for a psql that failed: RestoreError with the SQLSTATE, or DatabaseError."""
    if state := psql.sqlstate(ended):
        return RestoreError(f"db: the server refuses (SQLSTATE {state}), expected every statement to succeed")
    said = postgres.complaint(ended)
    return DatabaseError(f"db: the server does not answer: {said}", hint="dental-pms-backup status")
