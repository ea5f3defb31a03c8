"""The strict replay: all of a dump into a database, every row counted, in one transaction, or nothing of it."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RestoreError, SuperuserNeededError
from dental_pms_backup.host import descriptors, filters, programs
from dental_pms_backup.live import pinned_settings, postgres, psql, sessions
from dental_pms_backup.restore import databases, leftover_roles, replay_filters, replay_guards, replay_role
from dental_pms_backup.restore.replay_filters import Dump
from dental_pms_backup.store.verify_file import GZIP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.replay_filters import Dump
    from dental_pms_backup.restore.replay_role import Restorer
    from dental_pms_backup.store.verify_file import Verified

# What the seed's strict replay drops, and what else the dump brings back: other schemas, large objects.
DROP = """\
do $$ declare s name; begin
 perform lo_unlink(oid) from pg_largeobject_metadata;
 for s in select nspname from pg_namespace n where nspname !~ '^pg_' and nspname <> 'information_schema'
  and not exists (select from pg_depend where classid = 'pg_namespace'::regclass and objid = n.oid and deptype = 'e')
 loop execute format('drop schema %I cascade', s); end loop; end $$"""
# psql takes the end of its input as the end of a COPY and would commit half a dump. So nothing can be committed before
# the mark, which follows the last byte of a whole dump, and which nothing in it can know: the server has its hash.
GUARD = """\
create temp table dental_pms_guard (n int);
create function pg_temp.dental_pms_guard() returns trigger language plpgsql as $$ begin
 if pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
  coalesce(pg_catalog.current_setting('dental_pms.whole', true), ''), 'UTF8')), 'hex') operator(pg_catalog.<>) '{hash}'
 then raise 'the dump is not whole' using errcode = 'DP001'; end if;
 return null; end $$;
create constraint trigger whole after insert on pg_temp.dental_pms_guard deferrable initially deferred
 for each row execute function pg_temp.dental_pms_guard();
insert into pg_temp.dental_pms_guard values (1)"""
MARK = "set local dental_pms.whole = '{mark}';"
# What a dump that is not pg_dump's may look for; ours are looked up in pg_catalog before it and after it.
AS_USUAL = 'set search_path = "$user", public'
# Fails unless each table has the rows of the dump. A name without a table is none, else the replay had stopped at it:
# its COPY stood in a comment or a function. An extension may fill its own tables of configuration, which the dump has
# in part. A partitioned table has, beside rows loaded through it, those of its partitions. No message of it can quote a
# row, so that it may say which table.
COUNT = """\
reset session authorization;
reset search_path;
set local standard_conforming_strings = on;
select set_config('dental_pms.rows', {rows}, true);
\\set VERBOSITY terse
do $$ declare dumped jsonb := current_setting('dental_pms.rows'); name text; rows bigint; relation regclass;
 parent boolean; filled boolean; counted bigint; wrong int := 0; first text; begin
 for name, rows in select * from jsonb_each_text(dumped) loop
  relation := to_regclass(name);
  if relation is not null and exists (select from pg_class where oid = relation and relkind in ('r', 'p')) then
   select relkind = 'p', exists (select from pg_extension where relation = any (extconfig)) into parent, filled
    from pg_class where oid = relation;
   if parent then select sum(value::bigint) into rows from jsonb_each_text(dumped)
    where to_regclass(key) in (select relid from pg_partition_tree(relation)); end if;
   execute format('select count(*) from %s %s', case when parent then '' else 'only' end, relation) into counted;
   if counted < rows or counted > rows and not filled then
    wrong := wrong + 1; first := coalesce(first, name); end if;
  end if;
 end loop;
 if wrong > 0 then raise 'DP002 % %', wrong, first; end if; end $$;
\\set VERBOSITY sqlstate
"""
COUNTED_OTHERS = re.compile(r"DP002 (\d+) (.+)")
ROLE_MISSING = "42704"
WAITING_STATES = {"55P03", "57014", "40P01"}  # lock not available, canceled, deadlock
FULL = "53100"
OUT_OF_MEMORY = "53200"  # mostly shared memory: each table that a transaction makes holds a lock there to its end
NOT_ALLOWED = "42501"
UNTRUSTED = "DP004"
EXTENSION_STATES = {
    "DP003": "the server does not have it installed",
    UNTRUSTED: "it is not a trusted one, and none of the harmless ones that live has too",
    "DP005": "it stands behind what the dump makes, expected to stand before",
}
OTHERS_CHANGED = "DP006"
AS_SUPERUSER = (
    "--as-superuser does it: whoever could make objects in that database can then do on the server all that its "
    "superuser can"
)
STRICT = (*psql.STRICT, "--output=/dev/null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Into:
    """Where a dump is replayed: ``database``, whose content it replaces or which is new.

    ``restorer`` is the role that does it, None for the superuser.
    """

    database: str
    replacing: bool = False
    restorer: Restorer | None = None
    lock_wait_s: int = 60
    analyze: bool = False


def replay(
    live: DatabaseSource,
    dump: Dump,
    into: Into,
    *,
    ask: Callable[[], Verified | None],
    beat: Callable[[], None],
) -> None:
    """Replay an open dump into a database of the live server; RestoreError, and nothing of it is committed.

    SuperuserNeededError where a role without rights may not do what stands in it. ``ask`` returns what was
    verified as soon as all of the dump is, before which nothing is committed; that has to be by ``dump.unpack``.
    """
    token, mark = secrets.token_hex(16), secrets.token_hex(16)
    with replay_filters.opened() as (files, gate):
        replay_filters.write_control(files, live, dump, into.restorer, token)

        def beat_and_open() -> None:
            beat()
            if not gate.is_open and (verified := ask()):
                gate.open(_after(dump, into, verified, mark))

        beat_and_open()
        with sessions.opened(live.server) as session:
            argvs = [replay_filters.unpacking(dump, files), files.argv(), _psql(live, into, session.name, mark)]
            failed = _run(session, argvs, dump.descriptor, beat_and_open)
        if failed:
            if failed.program == "perl":
                raise _not_sql(failed)
            what = _standing_at(failed, dump, live, into)
            if into.restorer:
                raise _error(failed, what, ours=dump.ours)
            raise _refused(failed, psql.sqlstate(failed), what)
        if into.restorer:
            _settle(live, into, into.restorer, files, beat)


def load_roles(live: DatabaseSource, descriptor: int, *, ours: bool, beat: Callable[[], None]) -> None:
    """Make the roles of an open file that the server lacks, with their memberships; RestoreError and none is made.

    Those of a file from elsewhere may do nothing, and not log in.
    """
    program = postgres.matching(live.server, live.facts, "psql")
    words = (*STRICT, postgres.to_database(databases.MAINTENANCE), "--single-transaction", "--file=-")
    with descriptors.memory("control") as control:
        replay_filters.write_roles_control(control, live, ours=ours)
        missing = filters.argv("roles.pl", replay_filters.path(control))
        with sessions.opened(live.server) as session:
            client = postgres.client(live.server, program, *words, session=session.name, stdin=True)
            failed = _run(session, [GZIP, missing, client], descriptor, beat)
    if failed:
        state = psql.sqlstate(failed)
        why = f"SQLSTATE {state}" if state else replay_filters.complaint(failed) or str(failed)
        raise RestoreError(f"db: the roles of the set that the server lacks cannot be made ({why})")


def _psql(live: DatabaseSource, into: Into, session: str, mark: str) -> list[str]:
    program = postgres.matching(live.server, live.facts, "psql")
    words = (
        *STRICT,
        postgres.to_database(into.database),
        *(f"--command={statement}" for statement in _before(into, live.facts.major, mark)),
        "--file=-",
        "--command=commit",
        *(["--command=analyze"] if into.analyze and into.restorer else []),
    )
    if into.restorer:
        return into.restorer.psql(program, *words, session=session)
    return postgres.client(live.server, program, *words, session=session, stdin=True)


def _before(into: Into, major: int, mark: str) -> Sequence[str]:
    """Return the statements that stand before the dump."""
    unlogged = [] if into.restorer else [f"set {name} = '{value}'" for name, value in replay_role.UNLOGGED.items()]
    guard = GUARD.format(hash=hashlib.sha256(mark.encode()).hexdigest())
    before = [*unlogged, "begin", guard, f"set local lock_timeout = '{into.lock_wait_s}s'"]
    return [*before, *([DROP, *_public(major)] if into.replacing else []), AS_USUAL]


def _after(dump: Dump, into: Into, verified: Verified, mark: str) -> str:
    """Return the SQL behind the dump: its rows are counted, and it is whole; RestoreError where it is another's."""
    if verified.unpack != dump.unpack:
        raise RestoreError(f"db: {dump.unpack[0]} does not unpack all of the dump, expected as {verified.unpack[0]}")
    rows = postgres.literal(json.dumps(verified.rows, ensure_ascii=False))
    # whatever the dump has set: what is ours is read as what it is
    ours = f"set client_encoding = 'UTF8';\n{pinned_settings.TABLES_ONLY}"
    ours += replay_guards.rows_are_in(into.restorer.role) if into.restorer and dump.ours else ""
    return f"{ours}{COUNT.format(rows=rows)}{MARK.format(mark=mark)}\n"


def _public(major: int) -> tuple[str, ...]:
    """Return what makes schema public as a new database has it: a dump holds only what differs from that."""
    comment = "comment on schema public is 'standard public schema'"
    if major >= replay_role.PUBLIC_IS_OWNED_SINCE:
        owned = "create schema public authorization pg_database_owner"
        return (owned, "grant usage on schema public to public", comment)
    return ("create schema public", "grant all on schema public to public", comment)


def _settle(
    live: DatabaseSource, into: Into, role: Restorer, files: replay_filters.Filter, beat: Callable[[], None]
) -> None:
    """Give what was made to whom the dump says, and to the live database's owner what it names nobody for."""
    replay_role.lock_out(live, role, into.database)
    program = postgres.matching(live.server, live.facts, "psql")
    words = (*STRICT, postgres.to_database(into.database), "--file=-")
    with (
        descriptors.memory("middle") as middle,
        descriptors.memory("commit") as commit,
        sessions.opened(live.server) as session,
    ):
        replay_filters.write(middle, replay_role.after_rights(role, into.database))
        replay_filters.write(commit, "commit;\n")
        cat = ["cat", "--", *(replay_filters.path(each) for each in (files.rights, middle, files.late, commit))]
        client = postgres.client(live.server, program, *words, session=session.name, stdin=True)
        failed = _run(session, [cat, client], None, beat)
    if failed:
        raise _error(failed, "", ours=role.ours)
    leftover_roles.remove_or_leave(live, role.role, filled=into.database)


def _run(
    session: sessions.Session, argvs: Sequence[Sequence[str]], stdin: int | None, beat: Callable[[], None]
) -> programs.Ended | None:
    """Run a pipeline that ends in the psql of a session; return None, or the program that failed."""
    ended = programs.pipeline(*argvs, stdin=stdin, beat=beat)
    session.done = not programs.failed(ended)
    if session.done:
        return None
    # what a filter says no to, psql only sees end
    by_filter = (program for program in ended if program.program == "perl" and program.exit_code > 0)
    return next(by_filter, None) or next(program for program in reversed(ended) if not program.ok)


def _standing_at(failed: programs.Ended, dump: Dump, live: DatabaseSource, into: Into) -> str:
    """Return what stood in the dump where a role without rights was refused something."""
    state, line = psql.stopped_at(failed)
    if line and state in {NOT_ALLOWED, replay_guards.NESTED, *EXTENSION_STATES}:
        return replay_filters.standing_at(line, dump, live, into.restorer)
    return ""


def _error(failed: programs.Ended, what: str, *, ours: bool) -> RestoreError:
    state = psql.sqlstate(failed)
    if state in EXTENSION_STATES:
        return RestoreError(
            f"db: the replay failed at {what}: {EXTENSION_STATES[state]} (SQLSTATE {state}), expected to be able to "
            "make the extension",
            hint="zgrep -n 'CREATE EXTENSION' FILE   # take it out, and what uses it; then try again"
            if state == UNTRUSTED
            else "install its package on the server; or make it in the live database first; then try again",
        )
    if state == NOT_ALLOWED:
        where = f", at {what}" if what else ""
        return SuperuserNeededError(
            f"db: the replay failed (SQLSTATE {state}{where}), expected nothing in it that only a superuser may do",
            hint=AS_SUPERUSER if ours else "take that out of the file, and make it by hand in the new database",
        )
    if state == replay_guards.NESTED:
        return RestoreError(
            f"db: the replay failed (SQLSTATE {state}, at {what or 'the end'}): a function that runs while the set is "
            "restored, as the check of a table, makes or sets something, expected only the dump's own statements to",
            hint=f"look at the functions that are used there, in the set and in the live database; {AS_SUPERUSER}",
        )
    if state == OTHERS_CHANGED:
        return RestoreError(
            "db: the file changes owners or rights of what it does not make itself, expected of its own objects only"
        )
    return _refused(failed, state)


def _not_sql(failed: programs.Ended) -> RestoreError:
    said = replay_filters.complaint(failed) or failed
    return RestoreError(
        f"db: the file cannot be replayed ({said}), expected only SQL and rows, as pg_dump writes them",
        hint="PGOPTIONS='-c standard_conforming_strings=on' pg_dump DATABASE >FILE   # without --create; of "
        "pg_dumpall's output the part of one database alone",
    )


def _refused(failed: programs.Ended, state: str, what: str = "") -> RestoreError:
    why = f"SQLSTATE {state}{f', at {what}' if what else ''}" if state else str(failed)
    hint = "dental-pms-backup list   # another set"
    others = next((found for line in failed.said if (found := COUNTED_OTHERS.search(line))), None)
    if others:
        why = f"{others[1]} tables have not the rows of the dump, the first is {others[2]}"
    if state == ROLE_MISSING:
        why += ", the server lacks a role"
        hint = "zgrep -oE '(OWNER|GRANT .*) TO [^;]+' FILE | sort -u   # make the roles that it names; then try again"
    if state in WAITING_STATES:
        why += ", a session of the application holds a table"
        hint = "docker compose stop backend   # or whatever uses the database; then try again"
    if state == FULL:
        why += ", the server's disk is full"
        hint = "df -h   # on the server; then try again"
    if state == OUT_OF_MEMORY:
        why += ", more tables than the server's memory for locks has room for in one transaction, or no memory left"
        hint = (
            "max_locks_per_transaction = 1024 in postgresql.conf, or in the compose file, service db: "
            "command: postgres -c max_locks_per_transaction=1024   # restart the server; then try again"
        )
    return RestoreError(f"db: the replay failed ({why}), expected every statement to succeed", hint=hint)
