"""The renames of a swap, in a directory in which others go on writing: they end, and nothing of anybody is lost.

What somebody makes there meanwhile, under a name that is to come in, gives way: each such newcomer goes into a
directory of its own beside, which nobody else enters. So no name in what is moved means anything.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError
from dental_pms_backup.host import journal, places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dental_pms_backup.host.places import Place

CONTENT = "content"
TRIES = 1000  # whoever is quicker than we so often in a row does it on purpose
IN_THE_WAY = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}
NOT_KNOWN = {errno.EINVAL, errno.ENOSYS}
RENAME_NOREPLACE = 1  # linux/fs.h
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True, kw_only=True)
class Newcomers:
    """Where newcomers go: directories ``around`` what is live, named like ``name``; ``count`` have gone there."""

    around: Place
    name: str
    count: int = 0

    def take(self, name: str, place: Place) -> None:
        """Move what has a name in a directory away, unless that is gone meanwhile; OSError."""
        own = self._new_name()
        try:
            with places.new(self.around, own) as made:
                try:
                    os.rename(name, name, src_dir_fd=place.descriptor, dst_dir_fd=made.descriptor)
                except FileNotFoundError:
                    os.rmdir(own, dir_fd=self.around.descriptor)
                    return
                made.sync()
        except RefusedError as error:
            raise FileExistsError(errno.EEXIST, error.message) from None
        self.count += 1

    def _new_name(self) -> str:
        number = self.count + 1
        while self.around.has(f"{self.name}-{number}"):
            number += 1
        return f"{self.name}-{number}"

    def tell(self, target: Place) -> None:
        """Say where they are, if there are any. Their names are not told, which may be patients'."""
        if self.count:
            where = self.around.path / f"{self.name}-*"
            text = f"attachments: what somebody made during the swap was in the way ({self.count}), and is in {where}"
            fields = {"target": str(target.path)}
            journal.write(journal.Event.RESTORE_NEWCOMERS, text, priority=journal.WARNING, fields=fields)


def move_in(emptied: Place, target: Place, newcomers: Newcomers) -> None:
    """Move every entry of a directory of ours into one in which others write, durably; OSError."""
    try:
        for name in emptied.entries():
            _move_in(name, emptied, target, newcomers)
    finally:
        newcomers.tell(target)
    newcomers.around.sync()
    emptied.sync()
    target.sync()


def take_in(
    target: Place, outer: Place, newcomers: Newcomers, then: Callable[[Sequence[str]], None] | None = None
) -> None:
    """Move the content, and then its attributes, into a directory, all of it durable before its own one goes.

    What is done ``then``, before it is over, is given the names that came in.
    """
    with places.inside(outer, CONTENT) as content:
        before = os.fstat(content.descriptor)  # the renames out of it change its time
        names = content.entries()
        move_in(content, target, newcomers)
        if then:
            then(names)
        copy_attributes(content, target)
    os.utime(target.descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
    target.sync()
    os.rmdir(CONTENT, dir_fd=outer.descriptor)


def copy_attributes(model: Place, target: Place) -> None:
    """Give a directory the owner, mode, times and attributes of another."""
    owner = os.fstat(model.descriptor)
    os.fchown(target.descriptor, owner.st_uid, owner.st_gid)
    shutil.copystat(model.for_programs, target.for_programs)


def remove_empty(around: Place, name: str, place: Place) -> None:
    """Remove a directory, durably, unless anything is in it or its name is another's by now; OSError."""
    if around.is_named(name, place) and not place.entries():
        os.rmdir(name, dir_fd=around.descriptor)
    around.sync()


def rename_new(name: str, source: Place, target: Place) -> None:
    """Move an entry into another directory, where at most an empty directory has its name; OSError."""
    if _is_directory(source, name):  # it replaces an empty one only
        os.rename(name, name, src_dir_fd=source.descriptor, dst_dir_fd=target.descriptor)
        return
    raw = os.fsencode(name)
    if not _libc.renameat2(source.descriptor, raw, target.descriptor, raw, RENAME_NOREPLACE):
        return
    number = ctypes.get_errno()
    if number in NOT_KNOWN and not target.has(name):
        os.rename(name, name, src_dir_fd=source.descriptor, dst_dir_fd=target.descriptor)
        return
    number = errno.EEXIST if number in NOT_KNOWN else number
    raise OSError(number, os.strerror(number))


def _move_in(name: str, emptied: Place, target: Place, newcomers: Newcomers) -> None:
    for _ in range(TRIES):
        try:
            return rename_new(name, emptied, target)
        except OSError as error:
            if error.errno not in IN_THE_WAY:
                raise
        newcomers.take(name, target)
    raise FileExistsError(errno.EEXIST, f"{TRIES} times in a row somebody else made what was to come in")


def _is_directory(place: Place, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=place.descriptor, follow_symlinks=False).st_mode)
