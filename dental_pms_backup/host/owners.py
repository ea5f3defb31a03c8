"""Whose the directories and files are that root trusts, and who else could put something in their place."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError, shell_word
from dental_pms_backup.host import durable
from dental_pms_backup.host.places import MOST_LINKS, ROOT, walked

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # what a filesystem says that cannot hold one
FULL = {errno.ENOSPC, errno.EDQUOT}
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_store(store: Path, *, closing: bool = False) -> None:
    """Raise RefusedError when another user can rename what lies in a store, or in one of its directories.

    What is not there is made by us, and what is empty may be open to others while we are ``closing`` it. A filesystem
    that cannot hold a link leads nobody astray: there modes do not count. StoreError when the disk does not say.
    """
    for directory in (store, store / "db", store / "sets"):
        try:
            descriptor = walked(directory)
        except (FileNotFoundError, NotADirectoryError):  # what is to be done there says so
            continue
        except OSError as error:
            raise durable.refusal(directory, "cannot be looked at", error) from None
        try:
            _check_directory(descriptor, directory, closing=closing)
        finally:
            os.close(descriptor)


def check_file(status: os.stat_result, path: Path) -> None:
    """Raise RefusedError where an open file of a store is another user's, or others can write to it.

    Whoever could move the store away for a moment has put his own there. Modes do not count as in ``check_store``.
    """
    us = os.geteuid()
    foreign = status.st_uid not in {ROOT, us}
    if not foreign and not status.st_mode & OTHERS_WRITE:
        return
    parent = walked(path.parent)
    try:
        if not _holds_links(parent, path.parent):
            return
    finally:
        os.close(parent)
    what = f"belongs to user {status.st_uid}" if foreign else "can be written to by others"
    raise RefusedError(
        f"{path}: {what}, expected a file of user {us} to which nobody else can write; nothing was touched",
        hint=f"chown {us} {shell_word(path)} && chmod 600 {shell_word(path)}   # if you know who put it there"
        + (f"; or type it as user {status.st_uid}, where the service runs as it" if foreign else ""),
    )


def is_as_ours(status: os.stat_result, beside: os.stat_result | None) -> bool:
    """Tell whether a file is root's, ours, or of whom a file beside it is, where that is not heeded either."""
    return status.st_uid in {ROOT, os.geteuid(), *([beside.st_uid] if beside else [])}


def is_heeded(mark: os.DirEntry[str] | None, beside: os.stat_result | None) -> bool:
    """Tell whether a mark that was listed is there, and is as ``is_as_ours`` has it; OSError."""
    with contextlib.suppress(FileNotFoundError):
        return mark is not None and is_as_ours(mark.stat(follow_symlinks=False), beside)
    return False


def who_moves(store: Path) -> str:
    """Return in words who can move a store away, since a directory above it is his; empty when only root can."""
    for directory in Path(os.path.realpath(store)).parents:
        with contextlib.suppress(OSError):
            if who := _who_renames(directory):
                return who
    return ""


def who_changes(path: Path) -> str:
    """Return in words who can write what is at a path, or put something else there; empty when only root can. OSError.

    That is whoever owns or may write it, a directory above it, or a link on the way or a directory above that. In a
    sticky directory of root's nobody renames what is not his.
    """
    return next(filter(None, map(_who_renames, _on_the_way(path.absolute()))), "")


def _on_the_way(path: Path, links: int = 0) -> Iterator[Path]:
    if links > MOST_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    for each in (path, *path.parents):
        yield each
        if each.is_symlink():
            yield from _on_the_way(each.parent / each.readlink(), links + 1)


def _who_renames(path: Path) -> str:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in {ROOT, os.geteuid()}:
        return f"{path} belongs to user {status.st_uid}"
    kept = stat.S_ISLNK(status.st_mode) or (stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX)
    return f"{path} can be written to by others (mode {mode:04o})" if mode & OTHERS_WRITE and not kept else ""


def _check_directory(descriptor: int, path: Path, *, closing: bool) -> None:
    status = os.fstat(descriptor)
    mode, us = stat.S_IMODE(status.st_mode), os.geteuid()
    foreign = status.st_uid not in {ROOT, us}
    if not foreign and (not mode & OTHERS_WRITE or (closing and _is_empty(descriptor))):
        return
    if not _holds_links(descriptor, path):
        return
    what = f"belongs to user {status.st_uid}" if foreign else "can be written to by others"
    raise RefusedError(
        f"{path}: {what} (owner {status.st_uid}, mode {mode:04o}), expected a directory of user {us} to which nobody "
        "else can write: whoever can rename there leads the backup astray; nothing was touched",
        hint=f"chown {us} {shell_word(path)}   # or type it as user {status.st_uid}, where the service runs as it"
        if foreign
        else f"chmod go-w {shell_word(path)}",
    )


def _is_empty(descriptor: int) -> bool:
    try:
        with os.scandir(f"/proc/self/fd/{descriptor}/") as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _holds_links(descriptor: int, path: Path) -> bool:
    """Tell whether somebody could make a link in a directory, by making one; StoreError when that cannot be tried."""
    name = f".dental-pms-link-{secrets.token_hex(8)}"
    try:
        os.symlink("nowhere", name, dir_fd=descriptor)
    except OSError as error:
        if error.errno in NO_LINKS or error.errno in FULL:
            return error.errno in FULL
        raise durable.refusal(path, "cannot be written to", error) from None
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=descriptor)
    return True
