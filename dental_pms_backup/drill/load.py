"""Loading a set's roles and dump into a throwaway server, strictly, and dumping that again."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import BackupError, DrillError, RoomError, TemporaryError, ToolMissingError
from dental_pms_backup.host import descriptors, filters, programs, stop
from dental_pms_backup.live import own_settings, pinned_settings, postgres, psql, reasons, unknown_settings
from dental_pms_backup.live.postgres import OnHost
from dental_pms_backup.store import verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dental_pms_backup.live.postgres import Server

    Beat = Callable[[], None] | None

DATABASE = "dental_pms_drill"
IN_COPY = f"--dbname={DATABASE}"
# Our sessions in the copy, whatever the set's roles have: no event trigger of the set sees them.
# Where the server has no setting for that, they are as those of a replica, which no usual trigger sees; and those that
# do are made when all else is loaded.
OURS = """\
do $$ declare name text; value text; begin
 for name, value in select key, j.value from json_each_text({settings}) j
  where key in (select s.name from pg_settings s)
 loop execute format('alter role current_user in database {database} set %I to %L', name, value); end loop;
 if not exists (select from pg_settings s where s.name = 'event_triggers') then
  alter role current_user in database {database} set session_replication_role to replica; end if; end $$"""
# Without a library that the set's roles name nobody could connect; no name at all is not one that can be set.
NO_LIBRARY = {"session_preload_libraries": "plpgsql"}
NO_EVENT_TRIGGERS_SINCE = 17
# What only looks like it, in a text, costs time.
SEES_A_REPLICA = ("--quiet", "--regexp-extended", "/^ALTER EVENT TRIGGER .* ENABLE (ALWAYS|REPLICA);$/{p;q;}")
LAST_LINE = "-- PostgreSQL database dump complete"
LIBC = "locale_provider libc"
SESSION = "dental-pms-backup-drill"
HEAD_LINES = 60
HEAD = (
    rf"1,{HEAD_LINES}{{s/^-- Dumped from database version \([0-9]*\).*/\1/p;"
    rf"s/^SET client_encoding = '\(.*\)';$/\1/p;}};{HEAD_LINES}q"
)
# pg_dump may see no row less. With it off, a materialized view over a table with policies cannot be refreshed as its
# owner. The line stands in the head, of which no byte too much is read.
WITH_POLICIES = rf"sed --unbuffered --expression='/^SET row_security = off;$/{{s/off/on/;q}};{HEAD_LINES}q' && exec cat"
RESTRICT = rf"1,{HEAD_LINES}s/^\\restrict \([A-Za-z0-9]*\)$/\1/p;{HEAD_LINES}q"
# As pg_dumpall writes a role like the one that initdb made, where the manifest does not say which that was.
SUPERUSER = (
    r"/^ALTER ROLE [a-z_][a-z0-9_]* WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS\b/"
    r"{s/^ALTER ROLE \([a-z0-9_]*\) .*/\1/p;q;}"
)
# initdb fails with these in the name (extension.c, "invalid character in extension owner"): it came by renaming.
NOT_FOR_INITDB = re.compile(r"""["$'\\]""")
FULL = "53100"
# SQLSTATE of what befalls a server, whatever it was told: a shutdown, a crash, a full disk, no memory, a bad disk
BEFALLS = re.compile("57P|08|53|58030")
# what a statement needs that a server may lack which has all that the set has: by the SQLSTATE, or what it names
LACKING = {
    "55000": "a library that has to be preloaded, or what else has to be ready",
    "58P01": "a file",
}
NO_OTHER_SERVER = re.compile("08(?!P01)|HV")
NO_SUCH_VALUE = "22023"  # of a setting that the server knows
SETTING = re.compile(r"(?:ALTER ROLE [^']*)?SET (\w+) (?:=|TO) ")
TABLESPACE = re.compile(r'SET default_tablespace = ("[\w -]+"|\w+);')
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


def superuser(source: Mapping[str, Any], globals_descriptor: int | None) -> str:
    """Return the role that made the cluster of which the manifest says ``source``: the system's objects are its own.

    Of an older manifest, the first one in the open, compressed file of roles that may be it; or else ``postgres``.
    """
    named = str(source.get("superuser", ""))
    if named and named.isprintable() and not NOT_FOR_INITDB.search(named):
        return named
    argv = ["sed", "--quiet", "--expression", SUPERUSER]
    found = _first_lines("globals", globals_descriptor, argv) if globals_descriptor is not None else []
    return found[0] if found else "postgres"


def make_database(server: Server, encoding: str, source: Mapping[str, Any], custom: Mapping[str, str]) -> str:
    """Make the empty database that is loaded, with locale and settings of that of which the manifest says ``source``.

    It gets its ``custom`` settings, too. Where the server lacks the locale, or the manifest has none, the database gets
    a plain one; then why is returned.
    """
    create = f"create database {DATABASE} template template0 encoding '{encoding}'"
    plain = "C.UTF-8" if encoding == "UTF8" else "C"
    wanted, why = locale(source), ""
    try:
        postgres.ask(server, f"{create} {wanted or f'locale {postgres.literal(plain)}'}", timeout_s=600)
    except BackupError:
        stop.check()
        if not wanted:
            raise
        postgres.ask(server, f"{create} locale {postgres.literal(plain)} {LIBC if 'locale_provider' in source else ''}")
        why = f"with locale {plain}, for the throwaway server lacks {source.get('locale', source['collate'])}"
    ours = postgres.literal(json.dumps(pinned_settings.TO_LOAD | {"event_triggers": "off", **NO_LIBRARY}))
    postgres.ask(server, OURS.format(database=DATABASE, settings=ours))
    settings = {name: str(source[name]) for name in pinned_settings.WRITTEN_BY if name in source}
    settings.update(custom)
    lacking = [name for name, value in settings.items() if not _is_set(server, name, value)]
    return "; ".join([*([why] if why else []), *(f"without live's {name}" for name in lacking)])


def _is_set(server: Server, name: str, value: str) -> bool:
    """Give our sessions in the copy a setting, whatever the set's roles have; tell if the server has such a value."""
    statement = f"alter role current_user in database {DATABASE} set {postgres.quoted(name)} to"
    ended, _ = programs.capture(script_argv(server), text_in=f"{statement} {postgres.literal(value)};\n")
    stop.check()
    return ended.ok


def locale(source: Mapping[str, Any]) -> str:
    """Return the options that make a database order text as another, nothing where the manifest does not say how."""
    if not source.keys() >= {"collate", "ctype"}:
        return ""
    named = {key: postgres.literal(str(source.get(key, ""))) for key in ("collate", "ctype", "locale")}
    both = f"lc_collate {named['collate']} lc_ctype {named['ctype']}"
    match source.get("locale_provider"):
        case "c":
            return f"{both} {LIBC}"
        case "i":
            rules = f" icu_rules {postgres.literal(str(source['icu_rules']))}" if source.get("icu_rules") else ""
            return f"{both} locale_provider icu icu_locale {named['locale']}{rules}"
        case "b":
            return f"{both} locale_provider builtin builtin_locale {named['locale']}"
        case _:
            return both


def takes(server: Server, script: str) -> bool:
    """Tell whether the throwaway server takes a script; TemporaryError or RoomError where that cannot be told."""
    ended, _ = programs.capture(script_argv(server), text_in=script)
    if not ended.ok and (befell := not_of_the_set(psql.sqlstate(ended), ended)):
        raise befell
    return ended.ok


def roles(server: Server, descriptor: int, *, beat: Beat = None) -> str:
    """Replay an open, compressed file of roles; return in words what the server does not take for one of them."""
    role = postgres.ask(server, "select session_user")
    known = [f"there={role}", f"bare={role}", "ours=1"]
    listed = _filtered(descriptor, [*known, "lists=1"]).split("\0")[:-1]
    left = unknown_settings.among(listed, lambda script: takes(server, script))
    if not left:
        load(server, "globals", descriptor, beat=beat)
        return ""
    text = _filtered(descriptor, [*known, *(f"left={each}" for each in left)])
    ended, _ = programs.capture(script_argv(server), text_in=text, beat=beat)
    if not ended.ok:
        raise _load_error("globals", descriptor, ended)
    return ", ".join(f"without {unknown_settings.told(each)}" for each in left)


def _filtered(descriptor: int, control: Sequence[str]) -> str:
    """Return what the filter of a restore makes of an open, compressed file of roles; DrillError where it takes none.

    Nothing where the file cannot be read: of that the load tells.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    with descriptors.memory("control") as words, descriptors.memory("roles") as out:
        os.write(words, "".join(f"{word}\0" for word in control).encode())
        argvs = verify_file.GZIP, filters.argv("roles.pl", f"/proc/{os.getpid()}/fd/{words}")
        unpacked, filtered = programs.pipeline(*argvs, stdin=descriptor, out=out)
        if said := filters.complaint(filtered):
            raise DrillError(
                f"globals: no restore takes the roles ({said}), expected them as pg_dumpall writes them",
                hint="dental-pms-backup run   # a new set",
            )
        if not (unpacked.ok and filtered.ok):
            return ""
        return os.pread(out, own_settings.LARGEST_BYTES, 0).decode("utf-8", "replace")


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
    argvs = verify_file.unpacker(), ["sh", "-c", WITH_POLICIES], _client(server, "psql", *words, stdin=True)
    unpacked, passed_on, loaded = programs.pipeline(*argvs, stdin=descriptor, beat=beat)
    check_not_killed(unpacked)
    check_not_killed(passed_on)
    if not loaded.ok:
        raise _load_error(what, descriptor, loaded)
    if not unpacked.ok:
        raise DrillError(f"{what}: {unpacked}, expected a dump readable to its end", hint="dental-pms-backup verify")


def load_with_event_triggers_last(server: Server, descriptor: int, *, beat: Beat = None) -> bool:
    """Replay an open, compressed dump, if need be, so that no event trigger of it sees the rest; tell if that was done.

    Else nothing was changed: what does not load so, ``load`` names.
    """
    if head(descriptor).major >= NO_EVENT_TRIGGERS_SINCE or not _first_lines(
        "db", descriptor, ["sed", *SEES_A_REPLICA]
    ):
        return False
    words = (*psql.STRICT, IN_COPY, "--command=begin", "--output=/dev/null", "--file=-")
    with descriptors.memory("control") as control, descriptors.memory("after") as after:
        os.write(control, for_filter(descriptor, "late=1", f"ends={LAST_LINE}"))
        os.write(after, b"commit;\n")
        late = filters.argv("replay.pl", _path(control), "/dev/null", _path(after))
        os.lseek(descriptor, 0, os.SEEK_SET)
        argvs = verify_file.unpacker(), late, _client(server, "psql", *words, stdin=True)
        ended = programs.pipeline(*argvs, stdin=descriptor, beat=beat)
    return not programs.failed(ended)


def dump_argv(server: Server, encoding: str, source: Mapping[str, Any]) -> list[str]:
    """Return the argv that dumps what was loaded, as the set's own dump was made of its ``source``."""
    less = ["--no-unlogged-table-data"] if source.get("standby") else []
    return _client(server, "pg_dump", "--format=plain", "--no-password", f"--encoding={encoding}", *less, IN_COPY)


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
    if NO_OTHER_SERVER.match(state):
        return _lacking("another server that is asked there", f"SQLSTATE {state}")
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
    if excuse and (not line or (state and not NO_OTHER_SERVER.match(state))):
        return excuse
    why = f"SQLSTATE {state}, line {line}" if state else f"line {line}"
    standing = _standing_at(descriptor, line)
    where = f"{why}{reasons.at(standing)}" if standing else why
    if lacks := _lacks(state, _statement(what, descriptor, line)):
        return _lacking(lacks, where)
    where += reasons.why(state, standing) if standing else ""
    return DrillError(f"{what}: the set does not load ({where}), expected every statement to succeed")


def _lacks(state: str, failed: str) -> str:
    """Return what of live the throwaway server lacks for a statement, nothing where the set may be at fault."""
    if extension := EXTENSION.match(failed):  # that it is in the dump says that live has it
        return f"the extension {extension[1]}"
    if NO_OTHER_SERVER.match(state):
        return "another server that is asked there"
    if state == NO_SUCH_VALUE and (tablespace := TABLESPACE.match(failed)):
        return f"the tablespace {tablespace[1]}"
    if state == NO_SUCH_VALUE and (setting := SETTING.match(failed)):
        return f"what the setting {setting[1]} names"
    return LACKING.get(state, "")


def _lacking(what: str, where: str) -> ToolMissingError:
    return ToolMissingError(
        f"drill: the set cannot be proven here ({where}): the throwaway server lacks {what}, which the live one has",
        hint="dental-pms-backup config show   # drill.where: container has the live server's own image",
    )


def _standing_at(descriptor: int, line: int) -> str:
    """Return what stands in a line of a dump, by kind and name, as the filter of a restore tells it; or nothing."""
    with descriptors.memory("control") as control, descriptors.memory("told") as out:
        os.write(control, for_filter(descriptor, f"tell={line + 1}", "restricts=1", "ends=--- "))
        telling = filters.argv("replay.pl", _path(control))
        os.lseek(descriptor, 0, os.SEEK_SET)
        *_, ended = programs.pipeline(verify_file.GZIP, telling, stdin=descriptor, out=out)
        return os.pread(out, 1000, 0).decode("utf-8", "replace") if ended.ok else ""


def for_filter(descriptor: int, *words: str) -> bytes:
    """Return what the filter of a restore is told of an open dump, and those words besides."""
    token = _first_lines("db", descriptor, ["sed", "--quiet", "--expression", RESTRICT])
    return "".join(f"{word}\0" for word in ("token=0", *words, *(f"head={each}" for each in token[:1]))).encode()


def _path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _statement(what: str, descriptor: int, line: int) -> str:
    """Return a line of a dump, to be looked at and never told: it may hold what must not be."""
    return next(iter(_first_lines(what, descriptor, ["sed", "--quiet", f"{line}{{p;q;}}"])), "")
