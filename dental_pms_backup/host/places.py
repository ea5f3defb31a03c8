"""Directories that are held open, so that whoever renames above them changes nothing of what is done in them.

A path is walked once. From then on names are looked up from the descriptor, and programs are given its path in /proc.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError, shell_word
from dental_pms_backup.host import durable

if TYPE_CHECKING:
    from collections.abc import Iterator

    Identity = tuple[int, int]

ROOT = 0
MOST_LINKS = 40  # as many as the kernel follows
PASSING = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NO_DIRECTORY = {errno.ENOTDIR, errno.ELOOP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory that is held open. ``path`` is where it was when it was opened, for messages."""

    path: Path
    descriptor: int

    @property
    def for_programs(self) -> Path:
        """Return a path by which our programs come to this very directory, wherever it is by now."""
        return Path(f"/proc/{os.getpid()}/fd/{self.descriptor}")

    @property
    def identity(self) -> Identity:
        """Return device and number, which no other directory has meanwhile."""
        return identity_of(os.fstat(self.descriptor))

    def entries(self) -> list[str]:
        """Return the names here, in no order."""
        return os.listdir(self.descriptor)  # noqa: PTH208 - a descriptor has no path

    def has(self, name: str) -> bool:
        """Tell whether anything has a name here, be it a link to nothing, or what cannot be looked at."""
        try:
            os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def is_named(self, name: str, place: Place) -> bool:
        """Tell whether a name here is that of a directory that is held open."""
        try:
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return identity_of(found) == place.identity

    def sync(self) -> None:
        """Make the names here durable."""
        os.fsync(self.descriptor)


def identity_of(status: os.stat_result) -> Identity:
    """Return the device and the number that tell a file from every other."""
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def opened(path: Path, identity: Identity | None = None) -> Iterator[Place]:
    """Hold the directory at a path open while the block lasts; OSError.

    RefusedError when a link on the way belongs to another user, who may have made it at any time, and when it is not
    the directory that was looked at before.
    """
    with _held(_readable(path)) as place:
        check_is(place, path, identity)
        yield place


def pinned(path: Path) -> Identity:
    """Return device and number of the directory at a path, which nothing else gets before the program ends; OSError.

    RefusedError when a link on the way belongs to another user. It is left open: filesystems that make up their
    numbers, as CIFS does, may give it another one otherwise.
    """
    return identity_of(os.fstat(_readable(path)))


def _readable(path: Path) -> int:
    passing = walked(path)
    try:
        return os.open(".", READING, dir_fd=passing)
    finally:
        os.close(passing)


def check_is(place: Place, path: Path, identity: Identity | None) -> None:
    """Raise RefusedError when a directory is not the one that was looked at before."""
    if identity not in {None, place.identity}:
        raise RefusedError(
            f"{path}: another directory was put there after it was looked at; nothing was touched",
            hint=f"ls -ld {shell_word(path)} {shell_word(path.parent)}   # who may do that? then try again",
        )


@contextlib.contextmanager
def inside(place: Place, name: str) -> Iterator[Place]:
    """Hold a directory of another open while the block lasts; OSError, also for a link."""
    with _held(os.open(name, READING, dir_fd=place.descriptor)) as found:
        yield found


@contextlib.contextmanager
def around(place: Place) -> Iterator[Place]:
    """Hold the directory open that another lies in."""
    with _held(os.open("..", READING, dir_fd=place.descriptor)) as found:
        yield found


@contextlib.contextmanager
def new(place: Place, name: str) -> Iterator[Place]:
    """Make a directory in another, mode 0700, and hold it open; OSError. RefusedError unless it is ours alone."""
    os.mkdir(name, 0o700, dir_fd=place.descriptor)
    with inside(place, name) as made:
        check_ours(made, place.path / name)
        if made.entries() or made.identity[0] != place.identity[0]:
            raise _not_ours(place.path / name, "not the one that was made")
        yield made


def check_ours(place: Place, path: Path) -> None:
    """Raise RefusedError unless a directory belongs to the user who runs this, and nobody else may enter it."""
    status = os.fstat(place.descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid() or mode & 0o077:
        raise _not_ours(path, f"of user {status.st_uid}, mode {mode:04o}")


def _not_ours(path: Path, what: str) -> RefusedError:
    return RefusedError(
        f"{path}: {what}, expected a directory of user {os.geteuid()}, mode 0700; it is left alone",
        hint=f"ls -ld {shell_word(path)} {shell_word(path.parent)}   # "
        "somebody else may have put it there; move it away",
    )


def remove(place: Place, name: str, made: Place) -> None:
    """Remove a directory that is held open, with all that is in it; OSError.

    What has its name by now, and is another, is left alone: then it is emptied, wherever it is.
    """
    empty(made)
    if place.is_named(name, made):
        os.rmdir(name, dir_fd=place.descriptor)


def empty(place: Place) -> None:
    """Remove all that is in a directory; OSError."""
    while entries := place.entries():
        for entry in entries:
            durable.remove_tree(entry, within=place.descriptor)


def move_all(emptied: Place, target: Place) -> None:
    """Move every entry of a directory into a new one, but for what others have removed meanwhile, durably; OSError."""
    for name in emptied.entries():
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, name, src_dir_fd=emptied.descriptor, dst_dir_fd=target.descriptor)
    emptied.sync()
    target.sync()


def walked(path: Path) -> int:
    """Walk a path and return a descriptor of the directory there, which cannot be read; OSError.

    RefusedError when a link on the way is another user's. ``O_DIRECTORY`` has the kernel mount what mounts by itself.
    """
    rest = list(reversed(path.absolute().parts[1:]))
    links = 0
    here = os.open("/", PASSING)
    try:
        while rest:
            following, parts = _step(here, rest.pop(), path, links)
            links += bool(parts)
            rest += reversed(parts)
            os.close(here)
            here = following
    except BaseException:
        os.close(here)
        raise
    return here


def _step(here: int, name: str, path: Path, links: int) -> tuple[int, list[str]]:
    """Return what a name leads to and the names that follow before the rest of the path, as they do after a link."""
    try:
        return os.open(name, PASSING, dir_fd=here), []
    except OSError as error:
        if error.errno not in NO_DIRECTORY or links == MOST_LINKS:
            raise
    return _followed(here, name, path)


def _followed(here: int, name: str, path: Path) -> tuple[int, list[str]]:
    link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    try:
        status = os.fstat(link)
        if not stat.S_ISLNK(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        target = PurePath(os.readlink("", dir_fd=link))
    finally:
        os.close(link)
    if status.st_uid not in {ROOT, os.geteuid()}:
        raise RefusedError(
            f'{path}: "{name}" on the way is a link of user {status.st_uid}, who may let it lead anywhere, '
            "expected directories, or links of root; nothing was touched",
            hint=f"readlink -f {shell_word(path)}   # if that is the right place, give that path instead",
        )
    if target.is_absolute():
        return os.open("/", PASSING), [*target.parts[1:], "."]
    return os.dup(here), [*target.parts, "."]


@contextlib.contextmanager
def _held(descriptor: int) -> Iterator[Place]:
    try:
        yield Place(path=Path(f"/proc/self/fd/{descriptor}").readlink(), descriptor=descriptor)
    finally:
        os.close(descriptor)
