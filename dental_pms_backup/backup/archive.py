"""The archive of the attachments: tar, compressed into a draft, and what it may not hold."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.backup import compressor, links
from dental_pms_backup.errors import ArchiveError, BackupError, StoreError, shell_word
from dental_pms_backup.host import descriptors, filters, places, programs
from dental_pms_backup.host.wording import size
from dental_pms_backup.live import mounts, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from dental_pms_backup.live.sources import AttachmentsSource

TAR_CHANGED = 1  # GNU tar manual, "Return values": some files differ, or changed while read; the archive is usable
COUNTS_S = 600
INDEX_FULL = re.compile(r"(No space left on device|Disk quota exceeded)$")  # what tar reads is never that
# GNU tar's words, in the C locale, for entries that are in the archive as they were at one moment, or not at all
TAR_CHANGE = re.compile(r"(file changed as we read it|File removed before we read it)$")
TAR_FINE = re.compile(TAR_CHANGE.pattern + r"|(socket ignored|Operation not supported)$")
TRIES = 3
LONGEST_PATH_BYTES = 4095  # PATH_MAX without its NUL: tar reads what is deeper directory by directory, and writes none
# Of a file that has fewer blocks than bytes but no hole that its filesystem tells of, as one that is compressed, tar
# --sparse takes the part before a read error for the whole, or without any block nothing, and exits 0.
# It also reads each byte of a hole there, which takes an hour and more for each TiB.
MOST_HOLES_BYTES = 16 << 40
SLACK_S = 60
TELL_OF_HOLES = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What tar saw: entries written, and entries that changed while they were read, the last of them by name.

    ``moved_count`` files were moved meanwhile, and are not in the archive where they are now; ``came_count`` more were
    moved or came in with an old time: their filesystem does not say which.
    ``too_long_count`` entries have a path that can be archived, but is too long to be put back. ``leading_out`` are
    links, the first by name, of which only they themselves are in the archive.
    """

    entry_count: int
    moved_count: int
    came_count: int
    too_long_count: int
    changed: tuple[str, ...]
    more_changed: bool
    leading_out: tuple[str, ...]
    leading_out_count: int


def argv(directory: Path, index: Path, *, sparse: bool) -> list[str]:
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
        f"--directory={directory}",
        ".",
    ]


def attachments(
    source: AttachmentsSource,
    out: int,
    index: Path,
    *,
    level: int = compressor.USUAL_LEVEL,
    tries: int = 1,
    beat: Callable[[], None] | None = None,
) -> Archived | None:
    """Write the content of a directory, compressed, to ``out`` and its entries' names to ``index``.

    It is opened once, RefusedError unless it is the one that was found; tar follows no link below it. An entry that
    changed or vanished while it was read is returned by name; one that could not be read raises ArchiveError, with the
    names in ``unreadable``. None where another one of ``tries`` may archive whole what shrank meanwhile, or what was
    moved; where nobody knows whether anything was, that is worth one more.
    """
    with _opened(source) as place:
        sparse = tells_of_holes(place, mounts.of())
        if not sparse:
            _check_holes(source.path, place, beat)
        tar_argv, began = argv(place, index, sparse=sparse), time.time()
        tar, packer = programs.pipeline(tar_argv, compressor.argv(level), out=out, beat=beat)
        usable = tar.exit_code in {0, TAR_CHANGED}
        whole = usable and not _may_lack_content(tar)
        moved_count, came_count = _moved(place, index, began, beat) if whole else (0, 0)
        known_as = [path for path in (source.path, source.path.resolve(), source.mount) if path]
        named, leading_out_count = links.leading_out(place, known_as, beat)
    if not packer.ok:
        raise compressor.writing_failed("attachments", packer, out)
    if usable and tries > 1 and (moved_count or not whole or (came_count and tries == TRIES)):
        return None
    names = tuple(re.sub(r"^(/\S*/)?tar: ", "", text) for text in tar.said)
    if not whole:
        raise _not_whole(tar, names)
    changed = tuple(name for name in names if TAR_CHANGE.search(name))
    count, too_long = _counted(index, beat=beat)
    more_changed = len(tar.said) == programs.LINES_KEPT
    return Archived(
        entry_count=count,
        moved_count=moved_count,
        came_count=came_count,
        too_long_count=too_long,
        changed=changed,
        more_changed=more_changed,
        leading_out=tuple(named),
        leading_out_count=leading_out_count,
    )


def _not_whole(tar: programs.Ended, names: tuple[str, ...]) -> BackupError:
    if any(INDEX_FULL.search(name) for name in names):
        return StoreError(
            f"attachments: {tar}: no room for the list of entries, expected room in the store", hint="df -h; df -i"
        )
    count = sum(1 for name in names if not TAR_FINE.search(name) and not name.startswith("Exiting"))
    return ArchiveError(
        f"attachments: tar could not read everything ({tar}, {count} complaints), expected every entry",
        hint="dental-pms-backup status   # names them; then: dental-pms-backup run",
        unreadable=names,
    )


def _may_lack_content(tar: programs.Ended) -> bool:
    """Tell whether an archive of which tar says that it is usable may not hold what the files do.

    Of a file that a read error ends in the middle of a block tar says that it shrank, and fills it with zeros. One
    that did shrink is taken whole by the next try.
    """
    if tar.ok:
        return any("Warning: Cannot" in line and not TAR_FINE.search(line) for line in tar.said)
    told_all = 0 < len(tar.said) < programs.LINES_KEPT
    return not told_all or not all(TAR_FINE.search(line) for line in tar.said)


def tells_of_holes(directory: Path, mounted: Iterable[mounts.Mount]) -> bool:
    """Tell whether all filesystems at and below a directory tell where files have holes."""
    place = f"{os.path.realpath(directory)}/"
    kinds = {f"{mount.point.rstrip('/')}/": mount.kind for mount in mounted}
    around = max((point for point in kinds if place.startswith(point)), key=len, default="")
    found = {kind for point, kind in kinds.items() if point == around or point.startswith(place)}
    return bool(found) and found <= TELL_OF_HOLES


@contextlib.contextmanager
def _opened(source: AttachmentsSource) -> Iterator[Path]:
    """Hold a directory open that is read, and return a path of programs to it, wherever it is by then."""
    sources.check_readable(source.path)
    with places.opened(source.path, source.identity) as place:
        yield place.for_programs


def _counted(index: Path, *, beat: Callable[[], None] | None) -> tuple[int, int]:
    """Return how many names an index has, and how many of them are too long."""
    count, longest = _numbers(["wc", "--lines", "--max-line-length", str(index)], 2, beat)
    if longest <= LONGEST_PATH_BYTES:
        return count, 0
    return count, _numbers(filters.argv("count_too_long.pl", str(index), str(LONGEST_PATH_BYTES)), 1, beat)[0]


def _moved(place: Path, index: Path, began: float, beat: Callable[[], None] | None) -> tuple[int, int]:
    """Return how many files an archive lacks that was begun at a moment, since they were moved meanwhile.

    And how many of which the filesystem does not say when they were made.
    """
    words = str(place), str(index), f"{began:.3f}", str(int(began) - SLACK_S)
    moved_count, unknown_count = _numbers(filters.argv("moved.pl", *words), 2, beat, timeout_s=None)
    return moved_count, unknown_count


def _check_holes(directory: Path, place: Path, beat: Callable[[], None] | None) -> None:
    """Raise ArchiveError where files have more holes than tar, which has to read them here, would ever get through."""
    finding = ["find", f"{place}/.", "-type", "f", "-size", "+1M", "-printf", "%s %b\\n"]
    with descriptors.memory("holes") as out:
        _, summed = programs.pipeline(finding, filters.argv("sum_holes.pl"), out=out, beat=beat)
        answer = os.pread(out, 100, 0)
    if not summed.ok or not answer:
        raise ArchiveError(f"attachments: {summed}, while the holes of files were added up")
    if int(answer) > MOST_HOLES_BYTES:
        raise ArchiveError(
            f"attachments: the files in {directory} have holes of {size(int(answer))}, each byte of which is read "
            f"on that filesystem, expected at most {size(MOST_HOLES_BYTES)}",
            hint=f"find {shell_word(directory)} -type f -size +100G   # then remove what is no file of the practice's",
        )


def _numbers(
    argv: Sequence[str], count: int, beat: Callable[[], None] | None, *, timeout_s: float | None = COUNTS_S
) -> tuple[int, ...]:
    ended, out = programs.capture(argv, timeout_s=timeout_s, beat=beat)
    numbers = re.findall(r"(?<!\S)[0-9]+(?!\S)", out)[:count]
    if not ended.ok or len(numbers) < count:
        raise ArchiveError(f"attachments: {ended}, while the entries were counted")
    return tuple(int(number) for number in numbers)
