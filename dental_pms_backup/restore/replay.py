"""The strict replay: all of a dump into a database, every row counted, in one transaction, or nothing of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DatabaseError, DockerError, RestoreError
from dental_pms_backup.host import descriptors, filters, programs
from dental_pms_backup.live import pinned_settings, postgres, psql, sessions
from dental_pms_backup.restore import (
    databases,
    empty,
    leftover_roles,
    materialized_views,
    mighty_roles,
    replay_errors,
    replay_filters,
    replay_guards,
    replay_role,
    shut_out,
)
from dental_pms_backup.restore.replay_filters import Dump
from dental_pms_backup.store.verify_file import GZIP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.backup_file import BackupFile
    from dental_pms_backup.restore.replay_filters import Dump
    from dental_pms_backup.restore.replay_role import Restorer
    from dental_pms_backup.store.verify_file import Verified

SUPERUSERS = replay_role.UNLOGGED | pinned_settings.TO_LOAD
READ_BY = "select set_config(key, value, false) from json_each_text({settings})"
SET = "select set_config(key, value, false) from json_each_text({settings}) where key in (select name from pg_settings)"
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
alter table pg_temp.dental_pms_guard enable always trigger whole;
insert into pg_temp.dental_pms_guard values (1)"""
MARK = "set local dental_pms.whole = '{mark}';"
# What a dump that is not pg_dump's may look for; ours are looked up in pg_catalog before it and after it.
AS_USUAL = 'set search_path = "$user", public'
# Whatever the dump has set: what is ours is read as what it is.
OURS_AGAIN = """\
reset session authorization;
reset search_path;
set local standard_conforming_strings = on;
set client_encoding = 'UTF8';
"""
# Fails unless each table has the rows of the dump. A name without a table is none, else the replay had stopped at it:
# its COPY stood in a comment or a function. An extension may fill its own tables of configuration, which the dump has
# in part. A partitioned table has, beside rows loaded through it, those of its partitions. Which table it was is said
# by its place in the list: what the application made can run here, and say what it likes. It runs between two lines of
# this, as the planner looks at a table, and may set a path by then: each name and operator is the system's by its name.
COUNT = """\
select set_config('dental_pms.rows', {rows}, true);
\\set VERBOSITY terse
do $$ declare dumped pg_catalog.json := pg_catalog.current_setting('dental_pms.rows'); name pg_catalog.text;
 rows pg_catalog.int8; counted pg_catalog.int8; of_rows pg_catalog.text; parent pg_catalog.bool; filled pg_catalog.bool;
 relation pg_catalog.regclass; wrong pg_catalog.int4 := 0; first pg_catalog.int4; place pg_catalog.int4; begin
 for name, rows, place in select * from pg_catalog.json_each_text(dumped) with ordinality loop
  relation := pg_catalog.to_regclass(name);
  select c.relkind operator(pg_catalog.=) 'p', exists (select from pg_catalog.pg_extension e
    where c.oid operator(pg_catalog.=) any (e.extconfig)), pg_catalog.format('%I.%I', n.nspname, c.relname)
   into parent, filled, of_rows
   from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
   where c.oid operator(pg_catalog.=) relation
    and c.relkind operator(pg_catalog.=) any (array['r', 'p']::pg_catalog."char"[]);
  if found then
   if parent then select pg_catalog.sum(value::pg_catalog.int8) into rows from pg_catalog.json_each_text(dumped)
    where pg_catalog.to_regclass(key) operator(pg_catalog.=) any (
     select t.relid from pg_catalog.pg_partition_tree(relation) t); end if;
   execute pg_catalog.format('select pg_catalog.count(*) from %s %s', case when parent then '' else 'only' end, of_rows)
    into counted;
   if counted operator(pg_catalog.<) rows or (counted operator(pg_catalog.>) rows and not filled) then
    wrong := wrong operator(pg_catalog.+) 1; first := coalesce(first, place); end if;
  end if;
 end loop;
 if wrong operator(pg_catalog.>) 0 then raise 'DP002 % %', wrong, first; end if; end $$;
\\set VERBOSITY sqlstate
"""
STRICT = (*psql.STRICT, "--output=/dev/null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Into:
    """Where a dump is replayed: ``database``, whose content it replaces or which is new.

    ``restorer`` is the role that does it, None for the superuser; ``written_by`` are the settings by which
    the values in the dump are read, ``custom`` those of the application's own, which may be secret: a new database has
    them already. ``search_path`` is the one that the set's database had, empty for the usual one. ``replacing`` is done
    once nobody else writes to the content that will be replaced; it is given what it calls as long as it goes on.
    """

    database: str
    replacing: Callable[[Callable[[], None]], object] | None = None
    restorer: Restorer | None = None
    written_by: Mapping[str, str] = field(default_factory=dict)
    custom: Mapping[str, str] = field(default_factory=dict)
    search_path: str = ""
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

        tables: list[str] = []

        def beat_and_open() -> None:
            beat()
            if not gate.is_open and (verified := ask()):
                tables.extend(verified.rows)
                gate.open(_after(dump, into, verified, mark))

        if by := into.restorer:
            databases.tell(live.server, replay_guards.let_in(by.role, by.verifier))
        with sessions.opened(live.server) as session:
            filling = (replay_filters.unpacking(dump, files), files.argv())
            client = _psql(live, into, session.name, mark)
            ended, lines = _filled(live, into, (*filling, client), dump.descriptor, beat_and_open)
            failed = _failed(session, ended)
        if failed:
            what = "" if failed.program == "perl" else _standing_at(failed, dump, live, into, lines)
            raise _error(failed, what, dump, into, tables)
        if into.restorer:
            _settle(live, into, into.restorer, files, beat)


def _error(failed: programs.Ended, what: str, dump: Dump, into: Into, tables: Sequence[str]) -> RestoreError:
    if failed.program == "perl":
        return replay_errors.not_sql(failed)
    if others := replay_errors.counted_others(failed, tables):
        return others
    if into.restorer:
        return replay_errors.of_role(failed, what, ours=dump.ours, path=into.search_path)
    return replay_errors.of_superuser(failed, what, into.search_path)


def _filled(
    live: DatabaseSource,
    into: Into,
    argvs: Sequence[Sequence[str]],
    stdin: int,
    beat: Callable[[], None],
) -> tuple[tuple[programs.Ended, ...], int]:
    """Run the pipeline of a replay; return how its programs ended, and how many lines stood before the dump's."""
    if into.replacing is None:
        return programs.pipeline(*argvs, stdin=stdin, beat=beat), 0
    *filling, client = argvs
    return shut_out.replaced(client, filling, stdin, _first(live.facts.major, into.custom), into.replacing, beat=beat)


def set_for_roles(live: DatabaseSource, descriptor: int, roles: BackupFile, *, too: str = "") -> Sequence[str]:
    """Return the statements of a set's open file of roles that will set something for a role; none if it has others.

    Those of the role ``too`` are among them, whatever it has now.
    """
    return _listed(live, descriptor, roles, "settings", f"too={too}")


def _listed(live: DatabaseSource, descriptor: int, roles: BackupFile, what: str, *more: str) -> Sequence[str]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with descriptors.memory("control") as control, descriptors.memory("listed") as out:
        replay_filters.write_roles_control(control, live, roles, lists=what)
        replay_filters.write(control, replay_filters.words(*more))
        argvs = GZIP, filters.argv("roles.pl", replay_filters.path(control))
        ended = programs.pipeline(*argvs, stdin=descriptor, out=out)
        listed = os.pread(out, os.fstat(out).st_size, 0).decode()  # of what is no UTF-8 nothing is listed
    return listed.split("\0")[:-1] if not programs.failed(ended) else []


def load_roles(
    live: DatabaseSource, descriptor: int, roles: BackupFile, *, left: Iterable[str] = (), beat: Callable[[], None]
) -> None:
    """Make the roles of an open file that the server lacks, with their memberships; RestoreError and none is made.

    The statements that are ``left`` out are not run. Those of a file from elsewhere may do nothing, and not log in.
    Who may do much is told first: in a set that is what the programs of an image said.
    """
    if roles.ours:
        mighty_roles.tell(live, _listed(live, descriptor, roles, "told"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    program = postgres.matching(live.server, live.facts, "psql")
    words = (*STRICT, postgres.to_database(databases.MAINTENANCE), "--single-transaction", "--file=-")
    with descriptors.memory("control") as control:
        replay_filters.write_roles_control(control, live, roles, left=left)
        missing = filters.argv("roles.pl", replay_filters.path(control))
        with sessions.opened(live.server) as session:
            client = postgres.client(live.server, program, *words, session=session.name, stdin=True)
            failed = _run(session, [GZIP, missing, client], descriptor, beat)
    if failed:
        state = psql.sqlstate(failed)
        why = f"SQLSTATE {state}" if state else filters.complaint(failed) or str(failed)
        raise RestoreError(f"db: the roles of the set that the server lacks cannot be made ({why})")


def _psql(live: DatabaseSource, into: Into, session: str, mark: str) -> list[str]:
    program = postgres.matching(live.server, live.facts, "psql")
    words = (
        *STRICT,
        postgres.to_database(into.database),
        *(f"--command={statement}" for statement in _before(into, mark)),
        "--file=-",
        "--command=commit",
        *(["--command=analyze"] if into.analyze and into.restorer else []),
    )
    if into.restorer:
        return into.restorer.psql(program, *words, session=session)
    return postgres.client(live.server, program, *words, session=session, stdin=True)


def _before(into: Into, mark: str) -> Sequence[str]:
    """Return the statements that stand before the dump."""
    superusers = [] if into.restorer else [SET.format(settings=postgres.literal(json.dumps(SUPERUSERS)))]
    read_by = [READ_BY.format(settings=postgres.literal(json.dumps(into.written_by)))] if into.written_by else []
    guard = GUARD.format(hash=hashlib.sha256(mark.encode()).hexdigest())
    alone = [replay_guards.alone(into.restorer.role)] if into.restorer else []
    waits = f"set local lock_timeout = '{into.lock_wait_s}s'"
    before = [*alone, *superusers, *read_by, "begin", guard, waits]
    return [*before, *(shut_out.before(into.lock_wait_s) if into.replacing else [AS_USUAL])]


def _first(major: int, custom: Mapping[str, str]) -> str:
    """Return what stands before the dump where it replaces a content, once nobody else writes to that."""
    read_by = READ_BY.format(settings=postgres.literal(json.dumps(custom)))
    return "".join(f"{statement};\n" for statement in (*empty.database(major), read_by, AS_USUAL))


def _after(dump: Dump, into: Into, verified: Verified, mark: str) -> str:
    """Return the SQL behind the dump: its rows are counted, and it is whole; RestoreError where it is another's."""
    if verified.unpack != dump.unpack:
        raise RestoreError(f"db: {dump.unpack[0]} does not unpack all of the dump, expected as {verified.unpack[0]}")
    rows = postgres.literal(json.dumps(verified.rows, ensure_ascii=False))
    ours = f"{OURS_AGAIN}{pinned_settings.TABLES_ONLY}"
    ours += replay_guards.rows_are_in(into.restorer.role) if into.restorer and dump.ours else ""
    return f"{ours}{COUNT.format(rows=rows)}{MARK.format(mark=mark)}\n"


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
        replay_filters.write(middle, _filling(into) if role.ours else "")
        replay_filters.write(commit, "commit;\n")
        cat = ["cat", "--", *(replay_filters.path(each) for each in (files.rights, middle, files.late, commit))]
        client = postgres.client(live.server, program, *words, session=session.name, stdin=True)
        failed = _run(session, [cat, client], None, beat)
        if failed:
            _, line = psql.stopped_at(failed)
            raise replay_errors.of_role(failed, replay_filters.right_at(line, cat), ours=role.ours)
    leftover_roles.remove_or_leave(live, role.role, filled=into.database)


def _filling(into: Into) -> str:
    """Return what stands before the materialized views are filled: by what the dump was read they are computed."""
    read_by = postgres.literal(json.dumps({**into.written_by, **into.custom}))
    to_load = SET.format(settings=postgres.literal(json.dumps(pinned_settings.TO_LOAD)))
    return f"{to_load};\n{READ_BY.format(settings=read_by)};\n{materialized_views.fill()}"


def _run(
    session: sessions.Session, argvs: Sequence[Sequence[str]], stdin: int | None, beat: Callable[[], None]
) -> programs.Ended | None:
    """Run a pipeline that ends in the psql of a session; return None, or the program that failed."""
    return _failed(session, programs.pipeline(*argvs, stdin=stdin, beat=beat))


def _failed(session: sessions.Session, ended: Sequence[programs.Ended]) -> programs.Ended | None:
    """Return the program that failed of those that end in the psql of a session, None where all went well."""
    session.done = not programs.failed(ended)
    if session.done:
        return None
    # what a filter says no to, psql only sees end
    by_filter = (program for program in ended if program.program == "perl" and program.exit_code > 0)
    return next(by_filter, None) or next(program for program in reversed(ended) if not program.ok)


def _standing_at(failed: programs.Ended, dump: Dump, live: DatabaseSource, into: Into, before: int) -> str:
    """Return what stood in the dump where the server said no, behind so many lines that stood ``before`` it.

    Empty where the server cannot be asked any more for what has to be known to read the dump.
    """
    _, line = psql.stopped_at(failed)
    with contextlib.suppress(DatabaseError, DockerError):
        return replay_filters.standing_at(line - before, dump, live, into.restorer) if line > before else ""
    return ""
