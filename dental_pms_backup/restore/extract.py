"""Getting a part of a set out, without touching what is live: some of its files, or the rows of one table."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, OutputError, RefusedError, RestoreError, UsageError, shell_word
from dental_pms_backup.host import descriptors, durable, filters, journal, places, programs
from dental_pms_backup.host.journal import Event
from dental_pms_backup.restore import backup_file, original_names, unpack
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.places import Place
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.restore.backup_file import BackupFile

    Beat = Callable[[], None]

LARGEST_LIST_BYTES = 4 << 20
SQL, CSV, LIST = "sql", "csv", "list"
TABLES_SHOWN = 12


def files(
    config: Config, wanted: str, paths: Sequence[str], directory: Path, *, stored_names: bool, watch: Watch
) -> list[Path]:
    """Get files or directories of a set's attachments out into a directory, and return where each of them is.

    A file has the name that the set's own dump knows it by, where it has one and ``stored_names`` are not wanted; else
    the last name of its path. Nothing is ever written over: RefusedError. UsageError names what the archive does not
    have.
    """
    archive = backup_file.find(config.store, wanted, Kind.ATTACHMENTS)
    _check_paths(paths)
    known = {} if stored_names else original_names.names(config, archive.stored, paths, watch=watch)
    targets = [directory / name for name in original_names.file_names(paths, known)]
    with backup_file.opened(archive) as descriptor, _opened(directory) as place:
        _check_free(place, targets)
        with _draft_directory(place) as content:
            verified = backup_file.verify(archive, descriptor, watch=watch)
            with watch.reading("attachments: extracting", descriptor) as beat:
                _untar(archive, descriptor, verified.unpack, paths, content, beat=beat)
            found = [_found(content, path) for path in paths]
            for file, target in zip(found, targets, strict=True):
                _move(file, place, target)
    _tell(archive, Stream.ATTACHMENTS, f"{len(targets)} files or directories")
    return targets


def table(config: Config, wanted: str, name: str, target: Path | None, *, csv: bool, watch: Watch) -> int:
    """Write the rows of one table of a set's dump, as SQL's COPY or as CSV, to a new file, or without one to stdout.

    Returns how many. UsageError when there is no such table, or several.
    """
    dump = backup_file.find(config.store, wanted, Kind.DB)
    with backup_file.opened(dump) as descriptor:
        verified = backup_file.verify(dump, descriptor, watch=watch)
        chosen = _table(dump, descriptor, verified.unpack, name)
        with _output(target) as out, watch.reading(f"db: {chosen}", descriptor) as beat:
            ended = _through(descriptor, verified.unpack, [CSV if csv else SQL, chosen], out, beat)
            count = _count(ended, to_stdout=target is None)
            if count != verified.rows.get(chosen, count):
                raise RestoreError(f"db: {count} rows of {chosen} came out, expected {verified.rows[chosen]}")
    _tell(dump, Stream.DB, f"{count} rows of {chosen}")
    return count


def _check_paths(paths: Sequence[str]) -> None:
    for path in paths:
        if not Path(path).name or ".." in Path(path).parts or "\0" in path:
            raise UsageError(f'"{path}": no path in an archive, expected one of "tar -tzf", below the attachments')


def _check_free(place: Place, targets: Sequence[Path]) -> None:
    for target in targets:
        if targets.count(target) > 1:
            raise UsageError(f"{target}: two of the paths end in this name, expected each to have a name of its own")
        if place.has(target.name):
            hint = "ls   # or type another place after --to"
            raise _unrecorded(RefusedError(f"{target}: exists already, expected a free name", hint=hint))


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[Place]:
    """Hold the directory open that something is to be extracted to: whoever renames above it changes nothing."""
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(places.opened(directory))
        except OSError as error:
            raise UsageError(f"{directory}: {error.strerror}, expected a directory to extract to") from None
        yield place


@contextlib.contextmanager
def _draft_directory(place: Place) -> Iterator[Place]:
    """Make a directory in a hidden one, mode 0700, of another; both are gone when the block ends."""
    name = f".dental-pms-extract-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        try:
            outer = stack.enter_context(places.new(place, name))
            stack.callback(places.remove, place, name, outer)
            content = stack.enter_context(places.new(outer, "content"))
        except OSError as error:
            raise UsageError(f"{place.path}: {error.strerror}, expected a directory to extract to") from None
        yield content


def _untar(
    archive: BackupFile, descriptor: int, how: Sequence[str], paths: Sequence[str], content: Place, *, beat: Beat
) -> None:
    """Unpack the entries that have one of the paths, with what is below them."""
    plain = [os.fsencode(original_names.member(path)) for path in paths]
    rights = unpack.rights(ours=archive.ours, in_place=False)
    argv = [*unpack.extraction(content, rights), "--no-wildcards", "--anchored", "--null"]
    with descriptors.memory("names") as names:  # not in argv, which everyone can read
        os.write(names, b"".join(b"./%b\0%b\0" % (path, path) for path in plain))
        argv += [f"--files-from=/proc/{os.getpid()}/fd/{names}"]
        leaving_room = unpack.leaves_room(content, beat)
        unpacked, tar = programs.pipeline(how, argv, stdin=descriptor, beat=leaving_room)
    # a path is in the archive with "./" or without, so that one of each pair is not found
    other = [
        line
        for line in tar.said
        if not re.search(r": (Not found in archive|Exiting with failure status due to previous errors)$", line)
    ]
    if not unpacked.ok or (not tar.ok and other):
        raise RestoreError(
            f"attachments: unpacking failed ({tar if unpacked.ok else unpacked}), expected every entry that was named",
            hint=f"dental-pms-backup restore attachments {shell_word(archive.file)} --to DIR   # all of them",
        )
    if count := unpack.take_bits_off(content, rights, beat=beat):
        unpack.warn_of_rights(f"{count} of what was extracted lost a setuid or setgid bit")


def _found(content: Place, path: str) -> Path:
    """Return where an entry was unpacked; UsageError without it, RefusedError for a device or its like."""
    member = Path(original_names.member(path))
    found = content.for_programs / member
    through_link = any((content.for_programs / parent).is_symlink() for parent in member.parents[:-1])
    if through_link or not durable.exists(found):
        raise UsageError(f'"{path}": not in the archive, expected a path as "tar -tzf" lists it')
    for each in (found, *(found.rglob("*") if found.is_dir() and not found.is_symlink() else ())):
        mode = each.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            raise _unrecorded(RefusedError(f'"{path}": neither a file nor a directory nor a link'))
    return found


def _move(file: Path, place: Place, target: Path) -> None:
    """Give something its name, unless another has it by now; a file's content and its name are durable."""
    try:
        if file.is_dir() and not file.is_symlink():
            os.mkdir(target.name, 0o700, dir_fd=place.descriptor)  # fails where something is: a rename may replace it
            os.rename(file, target.name, dst_dir_fd=place.descriptor)
        else:
            os.link(file, target.name, dst_dir_fd=place.descriptor, follow_symlinks=False)
        place.sync()
    except FileExistsError:
        raise _unrecorded(RefusedError(f"{target}: exists already, expected a free name")) from None
    except OSError as error:
        raise _unrecorded(RestoreError(f"{target}: cannot be written: {error.strerror}")) from None


def _unrecorded(error: BackupError) -> BackupError:
    """Return an error that names a patient's file: it is for whoever typed that, not for the journal."""
    error.told = True
    return error


def _table(dump: BackupFile, descriptor: int, how: Sequence[str], name: str) -> str:
    """Return the one table of a dump that a name means, as the dump names it: with its schema or without."""
    with descriptors.memory("tables") as out:
        ended = _through(descriptor, how, [LIST], out, lambda: None)
        if failed := programs.failed(ended):
            raise RestoreError(f"db: {failed}, expected the tables of the dump")
        listed = os.pread(out, LARGEST_LIST_BYTES, 0).decode("utf-8", "surrogateescape").splitlines()
    found = list(dict.fromkeys(listed))  # one that has partitions may come in several parts
    chosen = [table for table in found if name in {table, *_names(table)}]
    if len(chosen) == 1:
        return chosen[0]
    shown = ", ".join(shell_word(table) for table in (chosen or found)[:TABLES_SHOWN])
    raise UsageError(
        f'"{name}": {len(chosen) or "no"} such tables in {dump.file.name}, expected one of its {len(found)}',
        hint=f"its tables: {shown}{', ...' if len(chosen or found) > TABLES_SHOWN else ''}",
    )


def _names(table: str) -> tuple[str, str]:
    """Return a table's name of a dump without quotes: with its schema and without."""
    parts = [
        part[1:-1].replace('""', '"') if part.startswith('"') else part
        for part in re.findall(r'"(?:[^"]|"")*"|[^".]+', table)
    ]
    return ".".join(parts), parts[-1]


def _through(
    descriptor: int, how: Sequence[str], words: Sequence[str], out: int, beat: Beat
) -> tuple[programs.Ended, ...]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return programs.pipeline(how, filters.argv("extract_table.pl", *words), stdin=descriptor, out=out, beat=beat)


def _count(ended: Sequence[programs.Ended], *, to_stdout: bool) -> int:
    """Return how many rows were written; OutputError or RestoreError unless all of them were."""
    *_, perl = ended
    counted = re.fullmatch(r"rows (\d+)", perl.said[-1] if perl.said else "")
    failed = programs.failed(ended)
    if counted and not failed:
        return int(counted[1])
    if to_stdout and not perl.ok:
        raise OutputError("standard output: it takes no more rows, so not all of them were printed")
    raise RestoreError(f"db: {failed or perl}, expected all rows", hint="df -h")


@contextlib.contextmanager
def _output(target: Path | None) -> Iterator[int]:
    """Open where rows go: stdout, or a new file, mode 0600, which is there, durably, when the block ends well.

    Until then it is a draft, of which nothing is left otherwise.
    """
    if target is None:
        sys.stdout.flush()
        yield sys.stdout.fileno()
        return
    with _opened(target.parent) as place:
        if place.has(target.name):
            raise RefusedError(
                f"{target}: exists already, expected a free name", hint="ls   # or type another file after --to"
            )
        draft = durable.draft_path(target).name
        descriptor = _new_file(place, draft, target)
        try:
            yield descriptor
            _give_name(descriptor, place, target)
        finally:
            os.close(descriptor)
            _unlink(place, draft)


def _new_file(place: Place, name: str, target: Path) -> int:
    """Make a file, mode 0600, in the place of what a killed command left; never write to what another has put there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        _unlink(place, name)
        return os.open(name, flags, 0o600, dir_fd=place.descriptor)
    except OSError as error:
        raise UsageError(f"{target}: {error.strerror}, expected a new file to write to") from None


def _unlink(place: Place, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place.descriptor)


def _give_name(descriptor: int, place: Place, target: Path) -> None:
    try:
        os.fsync(descriptor)
        # the file that was written, whatever has its draft's name by now
        os.link(f"/proc/self/fd/{descriptor}", target.name, dst_dir_fd=place.descriptor, follow_symlinks=True)
        place.sync()
    except FileExistsError:
        raise RefusedError(f"{target}: exists already, expected a free name") from None
    except OSError as error:  # the disk; or a filesystem without links
        raise RestoreError(
            f"{target}: cannot be written: {error.strerror}", hint="df -h   # or type another place after --to"
        ) from None


def _tell(backup: BackupFile, stream: Stream, what: str) -> None:
    """Put it on record that data were taken out; no name of a file."""
    name = backup.stored.name if backup.stored else ""
    origin = f"set {name}" if name else "a file"
    journal.write(Event.EXTRACTED, f"{what} were extracted from {origin}", fields={"stream": stream, "set": name})
