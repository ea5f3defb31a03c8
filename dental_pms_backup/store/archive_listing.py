"""What tar lists of an archive of attachments: whether it may be unpacked at all, and what it needs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import TemporaryError, VerificationError
from dental_pms_backup.host import descriptors, filters, programs
from dental_pms_backup.host.wording import size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dental_pms_backup.host.places import Place

# Names are somebody else's: only this style quotes both of a link. What has attributes that lend rights is marked.
LIST = (
    *("tar", "--list", "--totals", "--verbose", "--full-time", "--utc", "--file=-", "--absolute-names"),
    *("--numeric-owner", "--xattrs", "--xattrs-include=security.*", "--xattrs-include=trusted.*", "--quoting-style=c"),
)
COUNTED = re.compile(r"(\d+)" + r" (\d+)" * 10 + r"\n")
MOST_HOLES_BYTES = 256 << 30  # tar reads each byte of a hole, some GiB a second, and the archive stands still
LOSSES = (
    "files that the set has not",
    "files that are newer than the set's, or of another size",
    "directories that cannot be read",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a look at an archive found: how much it unpacks to, and what is live and not in it, in words, counts only.

    ``tar_bytes`` are those of all that tar reads: what is in the files without their holes, and a little for each.
    """

    tar_bytes: int
    entry_count: int
    losses: tuple[str, ...]
    devices: int
    outside: int
    setuid_files: int
    setgid_directories: int
    attributes: int
    hole_bytes: int

    @property
    def not_compared(self) -> str:
        """Return why what is unpacked cannot be compared with the archive, empty when it can."""
        if self.hole_bytes <= MOST_HOLES_BYTES:
            return ""
        return f"its files have holes of {size(self.hole_bytes)}, and over {size(MOST_HOLES_BYTES)} are never compared"

    def wrong(self, *, ours: bool) -> str:
        """Return why an archive is not unpacked at all, empty when it may be; ``ours`` is one that a run made.

        It has an entry that lies or links outside of it. Or a device node, unless it has what was there.
        """
        found = {"device nodes": 0 if ours else self.devices, "entries outside of the directory": self.outside}
        counted = " and ".join(f"{count} {what}" for what, count in found.items() if count)
        return f"has {counted}, expected files, directories and links of the attachments" if counted else ""


def look_through(
    path: Path, descriptor: int, unpack: Sequence[str], *, live: Place | None = None, beat: Callable[[], None]
) -> Looked:
    """Look through an open archive, and return what is in it, and what ``live`` has that it has not.

    ``path`` is only named in VerificationError.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    with descriptors.memory("listed") as out:
        ended = programs.pipeline(unpack, LIST, _counting(live), stdin=descriptor, out=out, beat=beat)
        return _looked(path, ended, ended[1], out)


def look_at(path: Path, listed: int, tar: programs.Ended, *, beat: Callable[[], None] | None) -> Looked:
    """Return what is in an archive of which ``tar`` has written what LIST lists into an open file."""
    os.lseek(listed, 0, os.SEEK_SET)
    with descriptors.memory("listed") as out:
        (counted,) = programs.pipeline(_counting(None), stdin=listed, out=out, beat=beat)
        if not counted.ok:  # by who wanted memory, say: that is not the archive's fault
            raise TemporaryError(f"{path}: {counted}, while what it lists was looked through")
        return _looked(path, [counted], tar, out)


def _counting(live: Place | None) -> list[str]:
    return filters.argv("look_through.pl", *([str(live.for_programs)] if live else []))


def _looked(path: Path, ended: Sequence[programs.Ended], tar: programs.Ended, out: int) -> Looked:
    found = COUNTED.fullmatch(os.pread(out, 1000, 0).decode("ascii", "replace"))
    read = [total[1] for line in tar.said if (total := re.match(r"Total bytes read: (\d+)", line))]
    if found is None or not read or programs.failed(ended) or int(found[3]):
        raise VerificationError(f"{path}: the archive cannot be listed, expected a file that is readable to its end")
    devices, outside, _, *losses = map(int, found.groups()[:6])
    setuid_files, setgid_directories, attributes, entry_count, file_bytes = map(int, found.groups()[6:])
    return Looked(
        tar_bytes=int(read[-1]),
        entry_count=entry_count,
        losses=tuple(f"{count} {what}" for count, what in zip(losses, LOSSES, strict=True) if count),
        devices=devices,
        outside=outside,
        setuid_files=setuid_files,
        setgid_directories=setgid_directories,
        attributes=attributes,
        hole_bytes=max(0, file_bytes - int(read[-1])),
    )
