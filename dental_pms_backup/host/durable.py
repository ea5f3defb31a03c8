"""Small steps on disk that last: after each the file or directory is as it should be even if power fails."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, StoreError, shell_word

if TYPE_CHECKING:
    from pathlib import Path

DRAFT_SUFFIX = ".draft"
WRITTEN_TO_S = 10.0
WRITTEN_TO = {errno.ENOTEMPTY, errno.ENOENT, errno.ESTALE}  # what is said while somebody still writes
LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LARGEST_BYTES = 16 << 20


def write(path: Path, content: bytes) -> None:
    """Replace a small file, mode 0600, so that either the old or the new content is there, durably."""
    write_draft(path, content)
    try:
        rename(draft_path(path), path)
    except BackupError:
        with contextlib.suppress(BackupError):
            unlink(draft_path(path))
        raise
    sync_directory(path.parent)


def read(path: Path, most_bytes: int = LARGEST_BYTES) -> bytes:
    """Return what is in a small file; OSError where it is no file, as a link or a pipe that nobody would write to."""
    return read_whose(path, most_bytes)[0]


def read_whose(path: Path, most_bytes: int = LARGEST_BYTES) -> tuple[bytes, os.stat_result]:
    """Return what is in a small file, as ``read`` does, and whose the very file is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most_bytes), status


def remove(path: Path) -> None:
    """Remove a small file, if it is there; durable on return."""
    unlink(path)
    sync_directory(path.parent)


def remove_tree(path: Path | str, *, within: int | None = None) -> None:
    """Remove a directory, if it is there, in which programs that were just killed may write for a moment more; OSError.

    It may be as deep as it likes; a file is removed as well. It is no more than gone: a power failure may bring it
    back. ``within`` is a descriptor of the directory that a name is of; no link is followed.
    """
    deadline = None
    while _is_there(path, within):
        try:
            if not _is_removed(path, within):
                descriptor = os.open(path, LISTING, dir_fd=within)
                try:
                    _empty(descriptor)
                finally:
                    os.close(descriptor)
                os.rmdir(path, dir_fd=within)
        except OSError as error:
            deadline = deadline or time.monotonic() + WRITTEN_TO_S
            if error.errno not in WRITTEN_TO or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _empty(descriptor: int) -> None:
    """Remove all that is in a directory; neither descriptors nor the stack limit how deep, and no link is followed."""
    way: list[
        tuple[tuple[int, int], str, list[str]]
    ] = []  # of each directory above: itself, where we are, what is left
    here = os.dup(descriptor)
    try:
        left = os.listdir(here)  # noqa: PTH208 - a descriptor has no path
        while left or way:
            if left:
                name = left.pop()
                if not _is_removed(name, here):
                    below = os.open(name, LISTING, dir_fd=here)
                    way.append((_identity(here), name, left))
                    here = _instead(here, below)
                    left = os.listdir(here)  # noqa: PTH208 - as above
                continue
            here = _instead(here, os.open("..", LISTING, dir_fd=here))
            above, name, left = way.pop()
            if above != _identity(here):
                raise OSError(errno.ESTALE, "somebody moved a directory while it was removed")
            os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)


def _is_removed(name: Path | str, within: int | None) -> bool:
    """Remove what is no directory, and tell whether that is gone."""
    try:
        os.unlink(name, dir_fd=within)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    except PermissionError:  # a sticky directory of another user's
        if within is None or os.fstat(within).st_uid == os.geteuid():
            raise
        os.chown(within, os.geteuid(), -1)
        return _is_removed(name, within)
    return True


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _instead(descriptor: int, other: int) -> int:
    os.close(descriptor)
    return other


def _is_there(path: Path | str, within: int | None) -> bool:
    try:
        os.stat(path, dir_fd=within, follow_symlinks=False)
    except OSError:  # as lexists() has it
        return False
    return True


def draft_path(path: Path) -> Path:
    """Return where the draft of a file lies: hidden, in the same directory, matched by no artefact pattern."""
    return path.with_name(f".{path.name}{DRAFT_SUFFIX}")


def write_draft(path: Path, content: bytes) -> None:
    """Write the draft of a small file, mode 0600; its content is durable on return, its name is not."""
    draft = draft_path(path)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(draft, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(BackupError):
            unlink(draft)
        raise refusal(draft, "cannot be written", error) from None


def rename(path: Path, target: Path) -> None:
    """Give a file its name, over an older one; durable after ``sync_directory``."""
    try:
        path.replace(target)
    except OSError as error:
        raise refusal(target, "cannot get its name", error) from None


def unlink(path: Path) -> None:
    """Remove a file, if it is there; durable after ``sync_directory``."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, "cannot be removed", error) from None


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise refusal(directory, "cannot be made durable", error) from None


def exists(path: Path) -> bool:
    """Tell whether anything has that name; StoreError when the disk does not say."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise refusal(path, "cannot be looked at", error) from None
    return True


def refusal(path: Path, what: str, error: OSError) -> StoreError:
    """Return the error for what the disk refused, in its own words."""
    return StoreError(
        f"{path}: {what}: {error.strerror}, expected a store to write to", hint=f"df -h {shell_word(path.parent)}"
    )
