"""Putting an archive's content into a directory's place: unpacked beside it, then swapped in by renames."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from dental_pms_backup import tools
from dental_pms_backup.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def unpack(source: int, fresh: Path, *, beat: Callable[[], None]) -> None:
    """Unpack an open archive into an empty directory, durably; RestoreError unless every entry is there."""
    argv = ["tar", "--extract", "--file=-", "--preserve-permissions", "--same-owner", "--numeric-owner"]
    argv += ["--xattrs", "--xattrs-include=*", "--acls", f"--directory={fresh}"]
    with open(os.devnull, "wb") as nowhere:
        ended = tools.pipeline(
            ["gzip", "--decompress", "--stdout"], argv, source=source, out=nowhere.fileno(), beat=beat
        )
        if all(program.ok for program in ended):
            ended += tools.pipeline(["sync", "--file-system", str(fresh)], out=nowhere.fileno())
    failed = next((program for program in reversed(ended) if not program.ok), None)
    if failed:
        full = any("No space left" in line for line in failed.said)
        raise RestoreError(
            f"attachments: unpacking failed ({failed}{', no space left' if full else ''}), "
            "expected every entry; the live directory is as it was",
            hint=f"df -h {fresh.parent}",
        )


def swap_content(target: Path, fresh: Path, kept: Path) -> None:
    """Move what is in ``target`` to ``kept`` and what is in ``fresh`` to ``target``; undone when a rename fails.

    The directory itself stays, since containers have it mounted.
    """
    done: list[tuple[Path, Path]] = []
    attributes = fresh.stat()  # the renames out of it change its time
    try:
        kept.mkdir(mode=0o700)
        _sync(kept.parent)
        for source, place in ((target, kept), (fresh, target)):
            for path in list(source.iterdir()):
                path.rename(place / path.name)
                done.append((path, place / path.name))
            _sync(target, kept)  # what was live is safe in its new place before anything takes its names
        copy_attributes(fresh, target)
        os.utime(target, ns=(attributes.st_atime_ns, attributes.st_mtime_ns))
    except OSError as error:
        _move_back(done)
        raise RestoreError(
            f"attachments: the swap failed: {error.strerror}, expected to rename; the live directory is as it was"
        ) from None


def _sync(*directories: Path) -> None:
    """Make the names in directories durable."""
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move_back(done: list[tuple[Path, Path]]) -> None:
    for source, destination in reversed(done):
        try:
            destination.rename(source)
        except OSError as error:
            raise RestoreError(
                f"attachments: the swap failed and could not be undone: {error.strerror}; "
                f"{destination.parent} and {source.parent} together hold everything",
                hint=f"ls -la {destination.parent} {source.parent}",
            ) from None


def copy_attributes(source: Path, target: Path) -> None:
    """Give a directory the owner, mode, times and attributes of another."""
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)
    shutil.copystat(source, target)


@contextlib.contextmanager
def temporary_directory(path: Path) -> Iterator[None]:
    """Make a directory, mode 0700, that is gone when the block ends, with all that is left in it."""
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise RestoreError(f"attachments: {path}: {error.strerror}, expected to make a directory there") from None
    try:
        yield
    finally:
        shutil.rmtree(path)
