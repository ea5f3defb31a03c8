"""The dump of the database and of the roles: pg_dump and pg_dumpall, compressed into a draft."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from typing import TYPE_CHECKING

from dental_pms_backup.backup import compressor
from dental_pms_backup.errors import DumpError
from dental_pms_backup.host import programs, stop
from dental_pms_backup.live import postgres, sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dental_pms_backup.live.postgres import Facts, Server

# Makes every role of pg_dumpall's output come into being only where it is missing, so that the file loads under
# ON_ERROR_STOP on a server that has some of them; and forgets who granted a membership, which must be a role with
# rights of its own on a server that has another superuser.
ROLE_IF_MISSING = (
    r"s/^CREATE ROLE (.+);$/DO $dental_pms$ BEGIN CREATE ROLE \1; "
    r"EXCEPTION WHEN duplicate_object THEN NULL; END $dental_pms$;/"
)
WITHOUT_GRANTOR = r"s/^(GRANT .+ TO .+) GRANTED BY .+;$/\1;/"
# pg_dump reads a sequence by its name, and does not lock it first, as it does a table. Whoever owns the sequence could
# put a table or a view in its place, for which the planner would run his functions as us. A lock on the sequence would
# not do: whoever waits to drop it keeps pg_dump out. But a table, a view and the like each need a type of their name:
# until the transaction ends, none can be made, since there is one, be it ours, and no schema changes its name. What was
# changed since the snapshot, which pg_dump gets, is an error here. A client in a container that dockerd has forgotten
# never sees the end of its input: its session ends by itself, for the next run would wait for it. No log of the server
# gets what is said here.
HOLD_NAMES = """\
set lock_timeout = '{lock_wait_s}s';
select from pg_settings where case when name = 'transaction_timeout' then set_config(name, '0', false) = '' end;
select current_setting('is_superuser') = 'on' and not pg_is_in_recovery() as can_hold \\gset
\\if :can_hold
set log_statement = 'none';
set log_min_duration_statement = -1;
set session_replication_role = replica;
set idle_in_transaction_session_timeout = '{silent_s}s';
begin isolation level repeatable read;
select pg_export_snapshot() as snapshot \\gset
select count(*) as schemas from (select from pg_namespace where oid in
 (select relnamespace from pg_class where relkind = 'S' and relpersistence <> 't') for key share) n \\gset
select count(*) as types from (select from pg_type where (typname, typnamespace) in
 (select relname, relnamespace from pg_class where relkind = 'S' and relpersistence <> 't') for key share) t \\gset
select format('create type %I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace
 where relkind = 'S' and relpersistence <> 't'
 and not exists (select from pg_type where typname = relname and typnamespace = relnamespace) \\gexec
\\echo held :snapshot
\\else
\\echo held
\\endif
"""
STILL_HERE = b"select;\n"
LET_GO = b"rollback;\n"
SAID_EVERY_S = 5
SILENT_S = 30
# the first that has psql's \\if, and the first that pg_dump asks for sequences by number
HOLDS_NAMES = range(10, 18)
HOLDING_NAP_S = 0.01
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the second from docker exec


def database_argv(server: Server, facts: Facts, session: str, *, lock_wait_s: int, snapshot: str = "") -> list[str]:
    """Return the argv that writes the database, as a snapshot has it if one is given, as plain SQL on stdout."""
    program = postgres.matching(server, facts, "pg_dump")
    options = ["--format=plain", "--no-password", f"--lock-wait-timeout={lock_wait_s * 1000}"]
    if encoding := facts.settings.get("encoding"):  # the database's own, whatever is set for it
        options.append(f"--encoding={encoding}")
    if snapshot:
        options.append(f"--snapshot={snapshot}")
    return postgres.client(server, program, *options, session=session)


def roles_argv(server: Server, facts: Facts, session: str, *, passwords: bool) -> list[str]:
    """Return the argv that writes the server's roles and memberships as SQL on stdout."""
    program = postgres.matching(server, facts, "pg_dumpall")
    options = ["--roles-only", "--no-password", f"--database={facts.database}"]
    if not passwords:
        options.append("--no-role-passwords")
    return postgres.client(server, program, *options, session=session)


def database(
    server: Server,
    facts: Facts,
    out: int,
    *,
    lock_wait_s: int,
    level: int = compressor.USUAL_LEVEL,
    beat: Callable[[], None] | None = None,
) -> None:
    """Write the database, compressed, to ``out``; DumpError unless every program of the pipeline exited 0."""
    session = sessions.new()
    with _names_held(server, facts, lock_wait_s=lock_wait_s, beat=beat) as (snapshot, watched):
        argv = database_argv(server, facts, session, lock_wait_s=lock_wait_s, snapshot=snapshot)
        _dump(server, facts, session, [argv, compressor.argv(level)], out=out, beat=watched)


def roles(server: Server, facts: Facts, out: int, *, passwords: bool, beat: Callable[[], None] | None = None) -> None:
    """Write the server's roles, compressed, to ``out``; DumpError unless every program exited 0."""
    session = sessions.new()
    argvs = [
        roles_argv(server, facts, session, passwords=passwords),
        ["sed", "--regexp-extended", f"--expression={ROLE_IF_MISSING}", f"--expression={WITHOUT_GRANTOR}"],
        compressor.argv(),
    ]
    _dump(server, facts, session, argvs, out=out, beat=beat)


def _dump(
    server: Server,
    facts: Facts,
    session: str,
    argvs: Sequence[Sequence[str]],
    *,
    out: int,
    beat: Callable[[], None] | None,
) -> None:
    """Run a pipeline that begins with a client; DatabaseError or DockerError when the server went away under it."""
    attempts = sessions.PATIENT
    try:
        dump, *rest = programs.pipeline(*argvs, out=out, beat=beat)
        by_itself = dump.exit_code > 0 and all(ended.ok for ended in rest)
        # once at least: docker exec fails, too, when dockerd is restarted over a container that goes on
        attempts = 0 if dump.ok else 1 if by_itself else sessions.PATIENT
    finally:
        sessions.end_quietly(server, session, attempts=attempts)
    failed = [ended for ended in rest if not ended.ok]
    if failed:
        raise compressor.writing_failed("db", failed[0], out)
    if dump.broken_pipe:
        raise DumpError(f"db: {rest[0].program} ended before the dump did, expected it to take all of it")
    _check_client(server, facts, dump)


@contextlib.contextmanager
def _names_held(
    server: Server, facts: Facts, *, lock_wait_s: int, beat: Callable[[], None] | None
) -> Iterator[tuple[str, Callable[[], None] | None]]:
    """Let nothing take a sequence's name while the block lasts; yield the snapshot that has these, and the beat.

    The snapshot is empty where that cannot be, on a standby, or need not be: code would have no rights of a superuser.
    """
    if facts.major not in HOLDS_NAMES:
        yield "", beat
        return
    session, attempts = sessions.new(), sessions.PATIENT
    argv = postgres.client(server, "psql", "-XAtq", "-w", "-v", "ON_ERROR_STOP=1", session=session, stdin=True)
    try:
        with (
            programs.memory("held") as out,
            programs.pipe() as (reading, script),
            programs.running(argv, source=reading, out=out) as holder,
        ):
            said_at = time.monotonic()

            def watched() -> None:
                nonlocal said_at
                if holder.over:
                    _check_client(server, facts, *holder.wait())
                    raise DumpError(f"db: {holder.names[0]} ended before the dump did, expected it to stay")
                if time.monotonic() > said_at + SAID_EVERY_S:
                    script.write(STILL_HERE)
                    said_at = time.monotonic()
                if beat:
                    beat()

            script.write(HOLD_NAMES.format(lock_wait_s=lock_wait_s, silent_s=SILENT_S).encode())
            snapshot = _snapshot(out, watched)
            attempts = 1  # it has connected
            yield snapshot, watched
            script.write(LET_GO)
            script.close()
            _check_client(server, facts, *holder.wait(beat))
            attempts = 0
    finally:
        sessions.end_quietly(server, session, attempts=attempts)


def _snapshot(out: int, watched: Callable[[], None]) -> str:
    """Wait until the names are held, and return the snapshot, which is empty where they are not."""
    while not (said := os.pread(out, programs.LINE_LENGTH, 0).decode()).endswith("\n"):
        watched()
        stop.rest(HOLDING_NAP_S)
    return said.removeprefix("held").strip()


def _check_client(server: Server, facts: Facts, client: programs.Ended) -> None:
    """Raise DumpError unless a client exited 0; DatabaseError or DockerError when the server went away under it."""
    if client.ok:
        return
    postgres.check_stayed(server, facts, client)
    said = postgres.complaint(client)
    raise DumpError(f"db: {client}: {said}, expected exit status 0", hint=_hint(client, said))


def _hint(dump: programs.Ended, said: str) -> str:
    if dump.exit_code in KILLED:
        return "journalctl --dmesg --grep='killed process'   # mostly memory ran out; then: dental-pms-backup run"
    if "lock" in said or "statement timeout" in said:
        return "a migration or maintenance holds a table; try again later, or raise database.lock_wait_s"
    if re.search("does not exist|already exists|unique constraint|could not serialize", said):
        return "a migration changed tables as the dump began; when it is done: dental-pms-backup run"
    if "permission denied" in said:
        return "let the role read everything: GRANT pg_read_all_data TO it"
    return "dental-pms-backup run --verbose"
