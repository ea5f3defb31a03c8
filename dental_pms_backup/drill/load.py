"""Loading a set's roles and dump into a throwaway server, strictly, and dumping that again."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import BackupError, DrillError, RoomError, TemporaryError, ToolMissingError
from dental_pms_backup.host import descriptors, programs, stop
from dental_pms_backup.live import pinned_settings, postgres, psql
from dental_pms_backup.live.postgres import OnHost
from dental_pms_backup.store import verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dental_pms_backup.live.postgres import Server

    Beat = Callable[[], None] | None

DATABASE = "dental_pms_drill"
IN_COPY = f"--dbname={DATABASE}"
# settings, in the manifest, by which the dump's values are written
WRITTEN_BY = ("timezone", "bytea_output", "standard_conforming_strings", "lc_monetary")
LIBC = "locale_provider libc"
SESSION = "dental-pms-backup-drill"
HEAD_LINES = 60
HEAD = (
    rf"1,{HEAD_LINES}{{s/^-- Dumped from database version \([0-9]*\).*/\1/p;"
    rf"s/^SET client_encoding = '\(.*\)';$/\1/p;}};{HEAD_LINES}q"
)
# as pg_dumpall writes the role that initdb made: objects of the system are its own, and dumps tell what differs
SUPERUSER = (
    r"/^ALTER ROLE [a-z_][a-z0-9_]* WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS\b/"
    r"{s/^ALTER ROLE \([a-z0-9_]*\) .*/\1/p;q;}"
)
FULL = "53100"
# SQLSTATE of what befalls a server, whatever it was told: a shutdown, a crash, a full disk, no memory, a bad disk
BEFALLS = re.compile("57P|08|53|58030")
ROLE_OR_SETTING_MISSING = "42704"
LACKING = {"58P01", "0A000"}
EXTENSION = re.compile(r'CREATE EXTENSION IF NOT EXISTS ("[\w -]+"|\w+) WITH SCHEMA ')


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a dump says of itself in its first lines: the server's major version, and the encoding."""

    major: int
    encoding: str


def head(descriptor: int) -> Head:
    """Return what an open, compressed dump says of itself; DrillError when it says nothing."""
    said = _first_lines("db", descriptor, ["sed", "--quiet", "--expression", HEAD])
    if len(said) < 2 or not said[0].isdigit() or not re.fullmatch(r"\w+", said[1]):  # noqa: PLR2004 - those of HEAD
        raise DrillError("db: the dump does not begin with its version and encoding, expected a dump of pg_dump")
    return Head(major=int(said[0]), encoding=said[1])


def superuser(globals_descriptor: int) -> str:
    """Return the role that made the cluster of an open, compressed file of roles, ``postgres`` if that is not clear."""
    return next(
        iter(_first_lines("globals", globals_descriptor, ["sed", "--quiet", "--expression", SUPERUSER])), "postgres"
    )


def make_database(server: Server, encoding: str, source: Mapping[str, Any]) -> str:
    """Make the empty database that is loaded, with locale and settings of that of which the manifest says ``source``.

    Where the server lacks the locale, or the manifest has none, the database gets a plain one; then why is returned.
    """
    create = f"create database {DATABASE} template template0 encoding '{encoding}'"
    plain = "C.UTF-8" if encoding == "UTF8" else "C"
    wanted, why = _locale(source), ""
    try:
        postgres.ask(server, f"{create} {wanted or f'locale {postgres.literal(plain)}'}", timeout_s=600)
    except BackupError:
        stop.check()
        if not wanted:
            raise
        postgres.ask(server, f"{create} locale {postgres.literal(plain)} {LIBC if 'locale_provider' in source else ''}")
        why = f"with locale {plain}, for the throwaway server lacks {source.get('locale', source['collate'])}"
    lacking = [name for name in WRITTEN_BY if name in source and not _is_set(server, name, str(source[name]))]
    return "; ".join([*([why] if why else []), *(f"without live's {name}" for name in lacking)])


def _is_set(server: Server, name: str, value: str) -> bool:
    """Give our sessions in the copy a setting, whatever the set's roles have; tell if the server has such a value."""
    try:
        postgres.ask(server, f"alter role current_user in database {DATABASE} set {name} to {postgres.literal(value)}")
    except BackupError:
        stop.check()
        return False
    return True


def _locale(source: Mapping[str, Any]) -> str:
    """Return the options that make a database order text as another, nothing where the manifest does not say how."""
    if not source.keys() >= {"collate", "ctype"}:
        return ""
    named = {key: postgres.literal(str(source.get(key, ""))) for key in ("collate", "ctype", "locale")}
    both = f"lc_collate {named['collate']} lc_ctype {named['ctype']}"
    match source.get("locale_provider"):
        case "c":
            return f"{both} {LIBC}"
        case "i":
            return f"{both} locale_provider icu icu_locale {named['locale']}"
        case "b":
            return f"{both} locale_provider builtin builtin_locale {named['locale']}"
        case _:
            return both


def load(server: Server, what: str, descriptor: int, *, whole: bool = False, beat: Beat = None) -> None:
    """Replay an open, compressed SQL file, every statement of which has to succeed.

    As a ``whole`` in one transaction, which a file of roles need not bear: faster, and only so do the rows stand in the
    order in which they came, so that a dump of them is the same. Where the table is not new in its transaction, COPY
    puts a short row where an earlier page has room. DrillError says what does not load; RoomError, ToolMissingError and
    TemporaryError are not the set's fault.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    at_once = ["--single-transaction"] if whole else []
    words = (*psql.STRICT, IN_COPY, *at_once, "--output=/dev/null", "--file=-")
    argvs = verify_file.unpacker(), _client(server, "psql", *words, stdin=True)
    unpacked, loaded = programs.pipeline(*argvs, stdin=descriptor, beat=beat)
    check_not_killed(unpacked)
    if not loaded.ok:
        raise _load_error(what, descriptor, loaded)
    if not unpacked.ok:
        raise DrillError(f"{what}: {unpacked}, expected a dump readable to its end", hint="dental-pms-backup verify")


def dump_argv(server: Server, encoding: str) -> list[str]:
    """Return the argv that dumps what was loaded, as the set's own dump was made."""
    return _client(server, "pg_dump", "--format=plain", "--no-password", f"--encoding={encoding}", IN_COPY)


def rows_argv(server: Server, *arguments: str, options: str) -> list[str]:
    """Return the argv that runs the SQL on its stdin in the copy and prints what it returns."""
    return _client(server, "psql", *psql.ROWS, IN_COPY, *arguments, stdin=True, options=options)


def script_argv(server: Server) -> list[str]:
    """Return the argv that runs statements of ours, on its stdin, in the copy."""
    return rows_argv(server, options=pinned_settings.OPTIONS)


def not_of_the_set(state: str, client: programs.Ended) -> BackupError | None:
    """Return the error for what befell the throwaway server or its client, None when it only said no."""
    if state == FULL:
        return RoomError("drill: no space left for a copy of the database, expected room for all of it", hint="df -h")
    if not state or BEFALLS.match(state):
        why = f"{client}, SQLSTATE {state}" if state else str(client)
        return TemporaryError(
            f"drill: {why}, expected the throwaway server and its programs to go on", hint="journalctl -k; df -h"
        )
    return None


def check_not_killed(program: programs.Ended) -> None:
    """Raise TemporaryError when a program that reads a set was killed: that says nothing about the set."""
    if program.exit_code < 0 and not program.broken_pipe:
        raise TemporaryError(f"drill: {program}, expected it to reach the end of the dump", hint="journalctl -k")


def _client(
    server: Server, program: str, *arguments: str, stdin: bool = False, options: str = pinned_settings.OPTIONS
) -> list[str]:
    found = str(server.bin_dir / program) if isinstance(server, OnHost) and server.bin_dir else program
    return postgres.client(server, found, *arguments, session=SESSION, stdin=stdin, options=options)


def _first_lines(what: str, descriptor: int, argv: Sequence[str]) -> list[str]:
    """Return what a program prints that needs only the first lines of an open, compressed file."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with descriptors.memory("head") as out:
        unpacked, ended = programs.pipeline(verify_file.GZIP, argv, stdin=descriptor, out=out)
        check_not_killed(unpacked)
        if not ended.ok or not (unpacked.ok or unpacked.broken_pipe):
            raise DrillError(f"{what}: cannot be read, expected gzip", hint="dental-pms-backup verify")
        return os.pread(out, 4096, 0).decode("utf-8", "replace").split("\n")[:-1]


def _load_error(what: str, descriptor: int, client: programs.Ended) -> BackupError:
    state, line = psql.stopped_at(client)
    excuse = not_of_the_set(state, client)
    if excuse and not (line and not state):
        return excuse
    failed = _statement(what, descriptor, line)
    extension = EXTENSION.match(failed)
    if state in LACKING and extension:
        return ToolMissingError(
            f"drill: the throwaway server lacks the extension {extension[1]}, which the live one has",
            hint="dental-pms-backup config show   # drill.where: container has the live server's own image",
        )
    why = f"SQLSTATE {state}, line {line}" if state else f"line {line}"
    if state == ROLE_OR_SETTING_MISSING and re.match("SET ", failed):
        why += ": a setting that this version does not know, the dump is of a newer one"
    elif state == ROLE_OR_SETTING_MISSING and re.match("ALTER |GRANT |REVOKE |SET SESSION|CREATE POLICY", failed):
        why += ": a role that is missing"
    return DrillError(f"{what}: the set does not load ({why}), expected every statement to succeed")


def _statement(what: str, descriptor: int, line: int) -> str:
    """Return a line of a dump, to be looked at and never told: it may hold what must not be."""
    return next(iter(_first_lines(what, descriptor, ["sed", "--quiet", f"{line}{{p;q;}}"])), "")
