"""What stands beside pg_dump, so that nothing of somebody else's runs with our rights in what pg_dump asks by a query.

pg_dump reads a sequence by its name, and does not lock it first, as it does a table. Whoever owns the sequence could
put a table or a view in its place, for which the planner would run his functions as us. A lock on the sequence would
not do: whoever waits to drop it keeps pg_dump out. But a table, a view and the like each need a type of their name:
until the transaction ends, none can be made, since there is one, be it ours, and no schema changes its name. What was
changed since the snapshot, which pg_dump gets, is an error here.

It asks a query, too, of a table of configuration whose extension says which rows are dumped. Where such a table is not
a superuser's, a lock keeps it as it is, and it is refused if the planner would run something of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from dental_pms_backup.backup import dump_client, odd_names
from dental_pms_backup.errors import DumpError
from dental_pms_backup.host import descriptors, programs, stop
from dental_pms_backup.live import pinned_settings, postgres, sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dental_pms_backup.live.postgres import Facts, Server

# Its session ends by itself when it hears nothing, since a client in a container that dockerd has forgotten never sees
# the end of its input, and the next run would wait for it. No log of the server gets what is said here.
HOLD_NAMES = """\
set lock_timeout = '{lock_wait_s}s';
select current_setting('is_superuser') = 'on' and not pg_is_in_recovery() as can_hold \\gset
\\if :can_hold
set log_statement = 'none';
set log_min_duration_statement = -1;
set session_replication_role = replica;
select from pg_settings
 where case when name = 'event_triggers' then set_config(name, '0', false) = '' end;
set idle_in_transaction_session_timeout = '{silent_s}s';
select count(*) > 0 as of_others, coalesce(string_agg(configured::text, ','), '0') as others,
 string_agg(format('only %I.%I', nspname, relname), ', ') as tables
 from pg_extension cross join unnest(extconfig, extcondition) as _ (configured, condition)
 join pg_class c on c.oid = configured join pg_namespace n on n.oid = relnamespace join pg_roles r on r.oid = relowner
 where condition <> '' and not rolsuper \\gset
begin isolation level repeatable read;
\\if :of_others
lock table :tables in share update exclusive mode;
\\endif
select pg_export_snapshot() as snapshot \\gset
select count(*) > 0 as odd from ({odd_names}) odd \\gset
\\if :odd
\\echo odd
\\else
select count(*) > 0 as planned, left(string_agg(format('%I.%I', nspname, relname), ', '), {shown}) as tables
 from pg_class c join pg_namespace n on n.oid = relnamespace where c.oid in (:others) and (relkind <> 'r'
 or not exists (select from pg_locks where relation = c.oid and pid = pg_backend_pid() and granted
  and mode = 'ShareUpdateExclusiveLock')
 or exists (select from pg_index where indrelid = c.oid and (indexprs is not null or indpred is not null))
 or exists (select from pg_statistic_ext s where stxrelid = c.oid and to_jsonb(s) ->> 'stxexprs' is not null)) \\gset
\\if :planned
\\echo planned :tables
\\else
select count(*) as schemas from (select from pg_namespace where oid in
 (select relnamespace from pg_class where relkind = 'S' and relpersistence <> 't')
 or oid in (select relnamespace from pg_class where oid in (:others)) for key share) n \\gset
select count(*) as types from (select from pg_type where (typname, typnamespace) in
 (select relname, relnamespace from pg_class where relkind = 'S' and relpersistence <> 't') for key share) t \\gset
select format('create type %I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace
 where relkind = 'S' and relpersistence <> 't'
 and not exists (select from pg_type where typname = relname and typnamespace = relnamespace) \\gexec
\\echo held :snapshot
\\endif
\\endif
\\else
\\echo held
\\endif
"""
HELD = re.compile(r"held(?: (?P<snapshot>[0-9A-F]+(?:-[0-9A-F]+)+))?\n+")
STILL_HERE = b"select;\n"
LET_GO = b"rollback;\n"
SAID_EVERY_S = 5
SILENT_S = 30
TABLES_SHOWN = 200  # characters
LARGEST_ANSWER_BYTES = 4096
FIRST_TO_HOLD = 10  # the first that has psql's \\if
HOLDING_NAP_S = 0.01


@contextlib.contextmanager
def held(
    server: Server, facts: Facts, *, lock_wait_s: int, beat: Callable[[], None] | None
) -> Iterator[tuple[str, Callable[[], None] | None]]:
    """Let nothing take a sequence's name while the block lasts; yield the snapshot that has these, and the beat.

    The snapshot is empty where that cannot be, on a standby, or need not be: code would have no rights of a superuser.
    """
    if facts.major < FIRST_TO_HOLD:
        yield "", beat
        return
    session, attempts = sessions.new(), sessions.PATIENT
    words, options = ("-XAtq", "-w", "-v", "ON_ERROR_STOP=1"), pinned_settings.options(facts.major)
    argv = postgres.client(server, "psql", *words, session=session, stdin=True, options=options)
    try:
        with (
            descriptors.memory("held") as out,
            descriptors.pipe() as (reading, script),
            programs.running(argv, stdin=reading, out=out) as holder,
        ):
            said_at = time.monotonic()

            def watched() -> None:
                nonlocal said_at
                if holder.has_ended:
                    dump_client.check(server, facts, *holder.wait())
                    raise DumpError(f"db: {holder.names[0]} ended before the dump did")
                if os.fstat(out).st_size > programs.LARGEST_OUTPUT_BYTES:
                    raise DumpError(f"db: {holder.names[0]}: an answer without end")
                if time.monotonic() > said_at + SAID_EVERY_S:
                    script.write(STILL_HERE)
                    said_at = time.monotonic()
                if beat:
                    beat()

            script.write(
                HOLD_NAMES.format(
                    lock_wait_s=lock_wait_s, silent_s=SILENT_S, shown=TABLES_SHOWN, odd_names=odd_names.ODD_NAMES
                ).encode()
            )
            snapshot = _snapshot(out, watched)
            attempts = 1  # it has connected
            yield snapshot, watched
            script.write(LET_GO)
            script.close()
            dump_client.check(server, facts, *holder.wait(beat))
            attempts = 0
    finally:
        sessions.end_quietly(server, session, attempts=attempts)


def _snapshot(out: int, watched: Callable[[], None]) -> str:
    """Wait until the names are held, and return the snapshot, which is empty where they are not."""
    while not (said := os.pread(out, LARGEST_ANSWER_BYTES, 0).decode("utf-8", "replace")).endswith("\n"):
        watched()
        stop.rest(HOLDING_NAP_S)
    if said == "odd\n":
        raise DumpError(
            "db: a name has come meanwhile that has the end of a line in it, expected names of one line",
            hint="dental-pms-backup run   # it names what has that name",
        )
    if said.startswith("planned"):
        tables = said.removeprefix("planned").strip()
        raise DumpError(
            f"db: {tables}: of an extension's configuration, but of a role that is no superuser, with an index or"
            " statistics on an expression, expected none: it would be run with the rights of whoever dumps",
            hint="drop them, or: ALTER TABLE ... OWNER TO a superuser",
        )
    if not (held := HELD.fullmatch(said)):
        raise DumpError("db: psql: an answer that is none, expected that names are held", hint="dental-pms-backup run")
    return held["snapshot"] or ""
