"""The dump of the database, of the roles and of its own settings, compressed into a draft."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.backup import compressor, dump_client, hold_names
from dental_pms_backup.errors import DumpError
from dental_pms_backup.host import filters, programs
from dental_pms_backup.live import own_settings, pinned_settings, postgres, sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dental_pms_backup.live.postgres import Facts, Server
    from dental_pms_backup.live.sources import DatabaseSource


def database_argv(server: Server, facts: Facts, session: str, *, lock_wait_s: int, snapshot: str = "") -> list[str]:
    """Return the argv that writes the database, as a snapshot has it if one is given, as plain SQL on stdout."""
    program = postgres.matching(server, facts, "pg_dump")
    options = ["--format=plain", "--no-password", f"--lock-wait-timeout={lock_wait_s * 1000}"]
    if encoding := facts.settings.get("encoding"):  # the database's own, whatever is set for it
        options.append(f"--encoding={encoding}")
    if snapshot:
        options.append(f"--snapshot={snapshot}")
    return postgres.client(server, program, *options, session=session, options=pinned_settings.options(facts.major))


def roles_argv(server: Server, facts: Facts, session: str, *, passwords: bool) -> list[str]:
    """Return the argv that writes the server's roles and memberships as SQL on stdout."""
    program = postgres.matching(server, facts, "pg_dumpall")
    options = ["--roles-only", "--no-password", f"--database={facts.database}"]
    if not passwords:
        options.append("--no-role-passwords")
    return postgres.client(server, program, *options, session=session, options=pinned_settings.options(facts.major))


def database(
    source: DatabaseSource,
    out: int,
    *,
    lock_wait_s: int,
    level: int = compressor.USUAL_LEVEL,
    beat: Callable[[], None] | None = None,
    held: Callable[[], object] = bool,
) -> Sequence[str]:
    """Write the database, compressed, to ``out``, and return what pg_dump said; DumpError unless all exited 0.

    ``held`` is called once what is in it is decided, where that is known before its end.
    """
    session, server, facts = sessions.new(), source.server, source.facts
    with hold_names.held(server, facts, lock_wait_s=lock_wait_s, beat=beat) as (snapshot, watched):
        if snapshot:
            held()
        argv = database_argv(server, facts, session, lock_wait_s=lock_wait_s, snapshot=snapshot)
        return _dump(server, facts, session, [argv, compressor.argv(level)], out=out, beat=watched)


def roles(server: Server, facts: Facts, out: int, *, passwords: bool, beat: Callable[[], None] | None = None) -> None:
    """Write the server's roles, compressed, to ``out``; DumpError unless every program exited 0."""
    session = sessions.new()
    argvs = [
        roles_argv(server, facts, session, passwords=passwords),
        filters.argv("portable_roles.pl"),
        compressor.argv(),
    ]
    _dump(server, facts, session, argvs, out=out, beat=beat)


def settings(server: Server, facts: Facts, out: int, *, beat: Callable[[], None] | None = None) -> None:
    """Write what belongs to the database itself, compressed, to ``out``; DumpError unless every program exited 0."""
    session = sessions.new()
    argv = own_settings.argv(server, postgres.matching(server, facts, "psql"), session)
    _dump(server, facts, session, [argv, compressor.argv()], out=out, beat=beat)


def _dump(
    server: Server,
    facts: Facts,
    session: str,
    argvs: Sequence[Sequence[str]],
    *,
    out: int,
    beat: Callable[[], None] | None,
) -> Sequence[str]:
    """Run a pipeline that begins with a client, and return what that said.

    DatabaseError or DockerError when the server went away under it.
    """
    attempts = sessions.PATIENT
    try:
        dump, *rest = programs.pipeline(*argvs, out=out, beat=beat)
        by_itself = dump.exit_code > 0 and all(ended.ok for ended in rest)
        # once at least: docker exec fails, too, when dockerd is restarted over a container that goes on
        attempts = 0 if dump.ok else 1 if by_itself else sessions.PATIENT
    finally:
        sessions.end_quietly(server, session, attempts=attempts)
    failed = [ended for ended in rest if not ended.ok]
    unread = filters.complaint(failed[0]) if failed else ""
    if unread and not dump.ok and not dump.broken_pipe:
        dump_client.check(server, facts, dump)  # why it ends in the middle of a statement
    if unread:
        raise DumpError(
            f"db: {dump.program} wrote what cannot be read ({unread}), expected roles to their last statement",
            hint="dental-pms-backup run --verbose",
        )
    if failed:
        raise compressor.writing_failed("db", failed[0], out)
    if dump.broken_pipe:
        raise DumpError(f"db: {rest[0].program} ended before the dump did, so that a part of it is missing")
    dump_client.check(server, facts, dump)
    return dump.said
