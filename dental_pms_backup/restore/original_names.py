"""The names by which the application knows its files, from the table of attachments in a set's own dump.

They come from whoever uploaded a file: as names of files they are only ever used harmless.
"""

from __future__ import annotations

import itertools
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, InterruptedRunError, RestoreError
from dental_pms_backup.host import descriptors, filters, journal, programs
from dental_pms_backup.restore import backup_file
from dental_pms_backup.store import verify_file
from dental_pms_backup.store.sets import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.store.sets import StoredSet

LONGEST_NAME_BYTES = 255  # NAME_MAX of Linux's filesystems
LONGEST_SUFFIX = 16
READ_BYTES = 4096


def names(config: Config, stored: StoredSet | None, paths: Sequence[str], *, watch: Watch) -> dict[str, str]:
    """Return by path of an archive the name that the dump of its set has for it, for those that have one.

    A dump that cannot be read is warned of: the files themselves are what is wanted.
    """
    application = config.application
    keys = {
        member(path).removeprefix(application.below): path
        for path in paths
        if member(path).startswith(application.below)
    }
    artefact = stored.artefact(Kind.DB) if stored else None
    if artefact is None or not keys or not application.table:
        return {}
    dump = backup_file.BackupFile(file=config.store / artefact.path, kind=Kind.DB, stored=stored)
    columns = (application.table, application.key_column, application.name_column)
    try:
        with backup_file.opened(dump) as descriptor, watch.reading("db: original names", descriptor) as beat:
            found = _found(descriptor, columns, list(keys), beat)
    except InterruptedRunError:
        raise
    except BackupError as error:
        journal.say(
            f"dental-pms-backup: the original names cannot be read ({error.message}), files keep those of the archive"
        )
        return {}
    return {keys[key]: name for key, name in found.items()}


def member(path: str) -> str:
    """Return a path in an archive without what stands before it."""
    return path.removeprefix("./").strip("/")


def file_names(paths: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Return a name for the file of each path: the known one, made harmless, and apart from the others."""
    wanted = [(harmless(known.get(path, "")), PurePosixPath(path).name) for path in paths]
    taken = {stored for name, stored in wanted if not name}
    chosen = []
    for name, stored in wanted:
        numbered = (_numbered(name, number) for number in itertools.count(1))
        chosen.append(next(each for each in numbered if each not in taken) if name else stored)
        taken.add(chosen[-1])
    return chosen


def harmless(name: str) -> str:
    """Return a text as the name of a file that lies where it should, is seen, no option, and harmless at a terminal.

    Empty when nothing is left of it.
    """
    plain = "".join(each if each.isprintable() and each != "/" else "_" for each in name.strip())
    return f"_{plain[1:]}" if plain.startswith((".", "-")) else plain


def _numbered(name: str, number: int) -> str:
    """Return a name with a number before its suffix where it is not the first, cut to what a name may be."""
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(suffix) <= LONGEST_SUFFIX else ""
    ending = f"{f' ({number})' if number > 1 else ''}{suffix}".encode()
    stem = name.removesuffix(suffix).encode()
    return (stem[: LONGEST_NAME_BYTES - len(ending)] + ending).decode(errors="ignore")


def _found(descriptor: int, columns: Sequence[str], keys: Sequence[str], beat: Callable[[], None]) -> dict[str, str]:
    with descriptors.memory("keys") as asked, descriptors.memory("names") as out:
        os.write(asked, b"".join(b"%b\0" % os.fsencode(key) for key in keys))
        words = [*columns, f"/proc/{os.getpid()}/fd/{asked}", str(READ_BYTES)]
        perl = filters.argv("original_names.pl", *words)
        unpacked, read = programs.pipeline(verify_file.GZIP, perl, stdin=descriptor, out=out, beat=beat)
        if not read.ok or not (unpacked.ok or unpacked.broken_pipe):
            raise RestoreError(f"db: {read if unpacked.ok else unpacked}, expected a dump that can be read")
        parts = os.pread(out, os.fstat(out).st_size, 0).split(b"\0")[:-1]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {os.fsdecode(key): name.decode("utf-8", "replace") for key, name in pairs}
