"""Taking the streams: pure argv builders, and functions that fill a draft and say what they saw."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup import postgres, stop, tools
from dental_pms_backup.errors import ArchiveError, BackupError, DumpError, SourceError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dental_pms_backup.postgres import Facts, Server

TAR_CHANGED = 1  # GNU tar manual, "Return values": some files differ, or changed while read; the archive is usable
COMPRESSORS = (("igzip", "-2", "-c"), ("pigz", "-6", "-c"), ("gzip", "-6", "-c"))
# Makes every role of pg_dumpall's output come into being only where it is missing, so that the file loads under
# ON_ERROR_STOP on a server that has some of them; and forgets who granted a membership, which must be a role with
# rights of its own on a server that has another superuser.
ROLE_IF_MISSING = (
    r"s/^CREATE ROLE (.+);$/DO $dental_pms$ BEGIN CREATE ROLE \1; "
    r"EXCEPTION WHEN duplicate_object THEN NULL; END $dental_pms$;/"
)
WITHOUT_GRANTOR = r"s/^(GRANT .+ TO .+) GRANTED BY .+;$/\1;/"
# igzip says of any failed write only that it failed
FULL_BELOW_BYTES = 1 << 20
FULL = re.compile(r"No space left|Disk quota|writing to file")
# GNU tar's words, in the C locale, for what it could not take whole
TAR_CHANGE = re.compile(r"file changed as we read it|File removed before we read it|File shrank by|contents changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What tar saw: entries written, and entries that changed while they were read, the last of them by name."""

    entry_count: int
    changed: tuple[str, ...]
    more_changed: bool


def compressor() -> list[str]:
    """Return the argv of the fastest compressor installed that writes plain gzip."""
    return next(list(argv) for argv in COMPRESSORS if tools.installed(argv[0]) or argv[0] == "gzip")


def dump_argv(server: Server, facts: Facts, session: str, *, lock_wait_s: int) -> list[str]:
    """Return the argv that writes the database as plain SQL on stdout."""
    program = postgres.matching(server, facts, "pg_dump")
    options = ("--format=plain", "--no-password", f"--lock-wait-timeout={lock_wait_s * 1000}")
    return postgres.client(server, program, *options, session=session)


def roles_argv(server: Server, facts: Facts, session: str, *, passwords: bool) -> list[str]:
    """Return the argv that writes the server's roles and memberships as SQL on stdout."""
    program = postgres.matching(server, facts, "pg_dumpall")
    options = ["--roles-only", "--no-password", f"--database={facts.database}"]
    if not passwords:
        options.append("--no-role-passwords")
    return postgres.client(server, program, *options, session=session)


def tar_argv(source: Path, index: Path) -> list[str]:
    """Return the argv that archives a directory's content on stdout and the names of its entries in ``index``."""
    return [
        "tar",
        "--create",
        "--file=-",
        "--format=pax",
        "--pax-option=delete=atime,delete=ctime",  # reading changes them: two archives of one tree stay equal
        "--sparse",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--verbose",
        "--quoting-style=escape",
        f"--index-file={index}",
        f"--directory={source}",
        ".",
    ]


def new_session() -> str:
    """Return a session name that no other dump has."""
    return f"dental-pms-backup-{secrets.token_hex(6)}"


def dump_database(
    server: Server, facts: Facts, out: int, *, lock_wait_s: int, beat: Callable[[], None] | None = None
) -> None:
    """Write the database, compressed, to ``out``; DumpError unless every program of the pipeline exited 0."""
    session = new_session()
    _dump(server, session, [dump_argv(server, facts, session, lock_wait_s=lock_wait_s), compressor()], out, beat)


def dump_roles(
    server: Server, facts: Facts, out: int, *, passwords: bool, beat: Callable[[], None] | None = None
) -> None:
    """Write the server's roles, compressed, to ``out``; DumpError unless every program exited 0."""
    session = new_session()
    argvs = [
        roles_argv(server, facts, session, passwords=passwords),
        ["sed", "--regexp-extended", f"--expression={ROLE_IF_MISSING}", f"--expression={WITHOUT_GRANTOR}"],
        compressor(),
    ]
    _dump(server, session, argvs, out, beat)


def end_quietly(server: Server, session: str) -> None:
    """End what a killed client left running in the container; a server that does not answer has ended it."""
    if isinstance(server, postgres.InContainer):
        with stop.deferred(), contextlib.suppress(BackupError):
            postgres.end_sessions(server, session, attempts=5)


def archive_attachments(source: Path, out: int, index: Path, *, beat: Callable[[], None] | None = None) -> Archived:
    """Write the content of a directory, compressed, to ``out`` and its entries' names to ``index``.

    An entry that changed or vanished while it was read is returned by name; one that could not be read raises
    ArchiveError, with the names in ``unreadable``.
    """
    check_source(source)
    tar, packer = tools.pipeline(tar_argv(source, index), compressor(), out=out, beat=beat)
    if not packer.ok:
        raise _writing_failed("attachments", packer, out)
    names = tuple(re.sub(r"^(/\S*/)?tar: ", "", text) for text in tar.said)
    if tar.exit_code not in {0, TAR_CHANGED}:
        count = sum(1 for name in names if "Cannot" in name or "error" in name)
        raise ArchiveError(
            f"attachments: tar could not read everything ({tar}, {count} complaints), expected every entry",
            hint="dental-pms-backup status   # names them; then: dental-pms-backup run",
            unreadable=names,
        )
    changed = tuple(name for name in names if TAR_CHANGE.search(name))
    return Archived(entry_count=_lines_of(index), changed=changed, more_changed=len(tar.said) == tools.LINES_KEPT)


def check_source(source: Path) -> None:
    """Raise SourceError unless the directory of the attachments can be listed."""
    try:
        os.scandir(source).close()
    except OSError as error:
        raise SourceError(
            f"attachments: {source}: {error.strerror}, expected a directory to read", hint=f"ls -ld {source}"
        ) from None


def _dump(
    server: Server, session: str, argvs: Sequence[Sequence[str]], out: int, beat: Callable[[], None] | None
) -> None:
    ended_by_itself = False
    try:
        dump, *rest = tools.pipeline(*argvs, out=out, beat=beat)
        ended_by_itself = dump.ok or (dump.exit_code > 0 and all(ended.ok for ended in rest))
    finally:
        if not ended_by_itself:
            end_quietly(server, session)
    failed = [ended for ended in rest if not ended.ok]
    if failed:
        raise _writing_failed("db", failed[0], out)
    if not dump.ok:
        said = postgres.complaint(dump)
        raise DumpError(f"db: {dump}: {said}, expected exit status 0", hint=_dump_hint(said))


def _writing_failed(stream: str, ended: tools.Ended, out: int) -> BackupError:
    """Return the error for a compressor that failed: mostly the disk is full, which not all of them say."""
    said = ended.said[-1] if ended.said else "it said nothing"
    if FULL.search(said) or _is_full(out):
        return StoreError(f"{stream}: {ended}: {said}, expected room in the store", hint="df -h; df -i")
    error = ArchiveError if stream == "attachments" else DumpError
    return error(f"{stream}: {ended}: {said}, expected exit status 0")


def _is_full(descriptor: int) -> bool:
    status = os.fstatvfs(descriptor)
    return status.f_bavail * status.f_frsize < FULL_BELOW_BYTES or (status.f_files > 0 and status.f_favail == 0)


def _dump_hint(said: str) -> str:
    if "lock" in said or "statement timeout" in said:
        return "a migration or maintenance holds a table; try again later, or raise database.lock_wait_s"
    if "permission denied" in said:
        return "let the role read everything: GRANT pg_read_all_data TO it"
    return "dental-pms-backup run --verbose"


def _lines_of(index: Path) -> int:
    ended, out = tools.capture(["wc", "--lines", str(index)], timeout_s=600)
    if not ended.ok:
        raise ArchiveError(f"attachments: {ended}, expected to count the entries")
    return int(out.split()[0])
