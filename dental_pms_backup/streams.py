"""Taking the streams: pure argv builders, and functions that fill a draft and say what they saw."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup import places, postgres, stop, tools
from dental_pms_backup.errors import ArchiveError, BackupError, DumpError, SourceError, StoreError
from dental_pms_backup.keys import Road

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dental_pms_backup.places import Identity
    from dental_pms_backup.postgres import Facts, Server

MOUNTS = Path("/proc/self/mountinfo")
TAR_CHANGED = 1  # GNU tar manual, "Return values": some files differ, or changed while read; the archive is usable
USUAL_LEVEL = 6
IGZIP_LEVELS = (1, 2, 2, 2, 2, 2, 3, 3, 3)  # which has three of them
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
PATIENT = 5
COUNTS_S = 600
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the second from docker exec
INDEX_FULL = re.compile(r"(No space left on device|Disk quota exceeded)$")  # what tar reads is never that
FULL = re.compile(r"No space left|Disk quota|writing to file")
# GNU tar's words, in the C locale, for entries that are in the archive as they were at one moment, or not at all
TAR_CHANGE = re.compile(r"(file changed as we read it|File removed before we read it)$")
TAR_FINE = re.compile(TAR_CHANGE.pattern + r"|(socket ignored|Operation not supported)$")
TRIES = 3
LONGEST_PATH_BYTES = 4095  # PATH_MAX without its NUL: tar reads what is deeper directory by directory, and writes none
COUNT_TOO_LONG = rf"s/\\([0-7]{{3}}|.)/x/g; $found++ if length > {LONGEST_PATH_BYTES + 1}; END {{ print $found + 0 }}"
# Of a file that has fewer blocks than bytes but no hole that its filesystem tells of, as one that is compressed, tar
# --sparse takes the part before a read error for the whole, or without any block nothing, and exits 0.
TELL_OF_HOLES = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What tar saw: entries written, and entries that changed while they were read, the last of them by name.

    ``too_long_count`` entries have a path that can be archived, but is too long to be put back.
    """

    entry_count: int
    too_long_count: int
    changed: tuple[str, ...]
    more_changed: bool


def compressor(level: int = USUAL_LEVEL) -> list[str]:
    """Return the argv of the fastest compressor installed that writes plain gzip, at a level from 1 to 9."""
    if tools.installed("igzip"):
        return ["igzip", f"-{IGZIP_LEVELS[level - 1]}", "-c"]
    return ["pigz" if tools.installed("pigz") else "gzip", f"-{level}", "-c"]


def dump_argv(server: Server, facts: Facts, session: str, *, lock_wait_s: int) -> list[str]:
    """Return the argv that writes the database as plain SQL on stdout."""
    program = postgres.matching(server, facts, "pg_dump")
    options = ["--format=plain", "--no-password", f"--lock-wait-timeout={lock_wait_s * 1000}"]
    if encoding := facts.settings.get("encoding"):  # the database's own, whatever is set for it
        options.append(f"--encoding={encoding}")
    return postgres.client(server, program, *options, session=session)


def roles_argv(server: Server, facts: Facts, session: str, *, passwords: bool) -> list[str]:
    """Return the argv that writes the server's roles and memberships as SQL on stdout."""
    program = postgres.matching(server, facts, "pg_dumpall")
    options = ["--roles-only", "--no-password", f"--database={facts.database}"]
    if not passwords:
        options.append("--no-role-passwords")
    return postgres.client(server, program, *options, session=session)


def tar_argv(source: Path, index: Path, *, sparse: bool) -> list[str]:
    """Return the argv that archives a directory's content on stdout and the names of its entries in ``index``."""
    return [
        "tar",
        "--create",
        "--file=-",
        "--format=pax",
        "--pax-option=delete=atime,delete=ctime",  # reading changes them: two archives of one tree stay equal
        *(["--sparse"] if sparse else []),
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
    server: Server,
    facts: Facts,
    out: int,
    *,
    lock_wait_s: int,
    level: int = USUAL_LEVEL,
    beat: Callable[[], None] | None = None,
) -> None:
    """Write the database, compressed, to ``out``; DumpError unless every program of the pipeline exited 0."""
    session = new_session()
    argvs = [dump_argv(server, facts, session, lock_wait_s=lock_wait_s), compressor(level)]
    _dump(server, facts, session, argvs, out=out, beat=beat)


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
    _dump(server, facts, session, argvs, out=out, beat=beat)


def end_quietly(server: Server, session: str, *, attempts: int = PATIENT) -> None:
    """End what a killed client left running in the container; a server that does not answer has ended it."""
    if isinstance(server, postgres.InContainer) and server.road is Road.EXEC:
        with stop.deferred(), contextlib.suppress(BackupError):
            postgres.end_sessions(server, session, attempts=attempts)


def archive_attachments(
    source: Path,
    out: int,
    index: Path,
    *,
    identity: Identity | None = None,
    level: int = USUAL_LEVEL,
    last_try: bool = True,
    beat: Callable[[], None] | None = None,
) -> Archived | None:
    """Write the content of a directory, compressed, to ``out`` and its entries' names to ``index``.

    It is opened once, RefusedError unless it is that of ``identity``; tar follows no link below it. An entry that
    changed or vanished while it was read is returned by name; one that could not be read raises ArchiveError, with the
    names in ``unreadable``. None where another try may archive whole what shrank meanwhile.
    """
    with _opened(source, identity) as place:
        sparse = tells_of_holes(place, MOUNTS.read_text("utf-8", "surrogateescape"))
        argv = tar_argv(place, index, sparse=sparse)
        tar, packer = tools.pipeline(argv, compressor(level), out=out, beat=beat)
    if not packer.ok:
        raise _writing_failed("attachments", packer, out)
    usable = tar.exit_code in {0, TAR_CHANGED}
    whole = usable and not _may_lack_content(tar)
    if usable and not whole and not last_try:
        return None
    names = tuple(re.sub(r"^(/\S*/)?tar: ", "", text) for text in tar.said)
    if not whole:
        raise _not_whole(tar, names, index)
    changed = tuple(name for name in names if TAR_CHANGE.search(name))
    count, too_long = _counted(index, beat=beat)
    more_changed = len(tar.said) == tools.LINES_KEPT
    return Archived(entry_count=count, too_long_count=too_long, changed=changed, more_changed=more_changed)


def _not_whole(tar: tools.Ended, names: tuple[str, ...], index: Path) -> BackupError:
    if any(INDEX_FULL.search(name) for name in names):
        return StoreError(f"attachments: {tar}: no room for {index}, expected room in the store", hint="df -h; df -i")
    count = sum(1 for name in names if not TAR_FINE.search(name) and not name.startswith("Exiting"))
    return ArchiveError(
        f"attachments: tar could not read everything ({tar}, {count} complaints), expected every entry",
        hint="dental-pms-backup status   # names them; then: dental-pms-backup run",
        unreadable=names,
    )


def _may_lack_content(tar: tools.Ended) -> bool:
    """Tell whether an archive of which tar says that it is usable may not hold what the files do.

    Of a file that a read error ends in the middle of a block tar says that it shrank, and fills it with zeros. One
    that did shrink is taken whole by the next try.
    """
    if tar.ok:
        return any("Warning: Cannot" in line and not TAR_FINE.search(line) for line in tar.said)
    return len(tar.said) == tools.LINES_KEPT or not all(TAR_FINE.search(line) for line in tar.said)


def tells_of_holes(source: Path, mounts: str) -> bool:
    """Tell from /proc/self/mountinfo whether all filesystems at and below a directory tell where files have holes."""
    place = f"{os.path.realpath(source)}/"
    kinds = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        kinds[f"{point.rstrip('/')}/"] = after.split(" ")[0]
    around = max((point for point in kinds if place.startswith(point)), key=len, default="")
    found = {kind for point, kind in kinds.items() if point == around or point.startswith(place)}
    return bool(found) and found <= TELL_OF_HOLES


@contextlib.contextmanager
def _opened(source: Path, identity: Identity | None) -> Iterator[Path]:
    """Hold a directory open that is read, and return a path of programs to it, wherever it is by then."""
    check_source(source)
    with places.opened_as_it_is(source, identity) as place:
        yield place.for_programs


def check_source(source: Path) -> None:
    """Raise SourceError unless the directory of the attachments can be listed."""
    try:
        os.scandir(source).close()
    except OSError as error:
        raise SourceError(
            f"attachments: {source}: {error.strerror}, expected a directory to read", hint=f"ls -ld {source}"
        ) from None


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
    attempts = PATIENT
    try:
        dump, *rest = tools.pipeline(*argvs, out=out, beat=beat)
        by_itself = dump.exit_code > 0 and all(ended.ok for ended in rest)
        # once at least: docker exec fails, too, when dockerd is restarted over a container that goes on
        attempts = 0 if dump.ok else 1 if by_itself else PATIENT
    finally:
        end_quietly(server, session, attempts=attempts)
    failed = [ended for ended in rest if not ended.ok]
    if failed:
        raise _writing_failed("db", failed[0], out)
    if dump.broken_pipe:
        raise DumpError(f"db: {rest[0].program} ended before the dump did, expected it to take all of it")
    if not dump.ok:
        postgres.check_stayed(server, facts, dump)
        said = postgres.complaint(dump)
        raise DumpError(f"db: {dump}: {said}, expected exit status 0", hint=_dump_hint(dump, said))


def _writing_failed(stream: str, ended: tools.Ended, out: int) -> BackupError:
    """Return the error for a compressor that failed: mostly the disk is full, which not all of them say."""
    said = ended.said[-1] if ended.said else "it said nothing"
    if FULL.search(said) or _is_full(out):
        return StoreError(f"{stream}: {ended}: {said}, expected room in the store", hint="df -h; df -i")
    error = ArchiveError if stream == "attachments" else DumpError
    return error(f"{stream}: {ended}: {said}, expected exit status 0")


def full_store(out: int) -> StoreError | None:
    """Return the error for a draft that ends too early because its disk is full, which igzip may keep to itself."""
    if _is_full(out):
        return StoreError("the store: no space left, expected room for the set", hint="df -h; df -i")
    return None


def _is_full(descriptor: int) -> bool:
    status = os.fstatvfs(descriptor)
    return status.f_bavail * status.f_frsize < FULL_BELOW_BYTES or (status.f_files > 0 and status.f_favail == 0)


def _dump_hint(dump: tools.Ended, said: str) -> str:
    if dump.exit_code in KILLED:
        return "journalctl --dmesg --grep='killed process'   # mostly memory ran out; then: dental-pms-backup run"
    if "lock" in said or "statement timeout" in said:
        return "a migration or maintenance holds a table; try again later, or raise database.lock_wait_s"
    if "does not exist" in said:
        return "a migration changed tables as the dump began; when it is done: dental-pms-backup run"
    if "permission denied" in said:
        return "let the role read everything: GRANT pg_read_all_data TO it"
    return "dental-pms-backup run --verbose"


def _counted(index: Path, *, beat: Callable[[], None] | None) -> tuple[int, int]:
    """Return how many names an index has, and how many of them are too long."""
    count, longest = _numbers(["wc", "--lines", "--max-line-length", str(index)], 2, beat)
    if longest <= LONGEST_PATH_BYTES:
        return count, 0
    return count, _numbers(["perl", "-ne", COUNT_TOO_LONG, str(index)], 1, beat)[0]


def _numbers(argv: Sequence[str], count: int, beat: Callable[[], None] | None) -> tuple[int, ...]:
    ended, out = tools.capture(argv, timeout_s=COUNTS_S, beat=beat)
    numbers = re.findall(r"(?<!\S)[0-9]+(?!\S)", out)[:count]
    if not ended.ok or len(numbers) < count:
        raise ArchiveError(f"attachments: {ended}, expected to count the entries")
    return tuple(int(number) for number in numbers)
