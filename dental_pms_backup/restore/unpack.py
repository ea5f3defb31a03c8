"""Unpacking an archive into a directory that nobody else reaches, and comparing; first a look at what is in it."""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError, RestoreError, shell_word
from dental_pms_backup.host import client_cage, descriptors, disks, journal, programs
from dental_pms_backup.host.journal import Event
from dental_pms_backup.host.wording import size
from dental_pms_backup.store import archive_listing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dental_pms_backup.host.places import Place
    from dental_pms_backup.restore.backup_file import BackupFile
    from dental_pms_backup.store.archive_listing import Looked

    Beat = Callable[[], None]

AS_STORED = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")
WITHOUT_RIGHTS = ("--numeric-owner", "--xattrs", "--xattrs-include=user.*", "--acls")
DEVICES = ("(", "-type", "b", "-o", "-type", "c", ")")
TAKE_OFF = ("-exec", "chmod", "ug-s", "{}", "+")
# Root's links are followed on the way to a directory: what an archive says are root's could be moved onto that way.
ROOTS_LINKS = ("-type", "l", "-uid", "0", "-exec", "chown", "--no-dereference", client_cage.STRANGER, "{}", "+")
# What unpacking leaves at least, on a small disk a twentieth of it: what is live may be on the same.
LEAST_BYTES = 64_000_000
LEAST_FILES = 1000
SMALL = 20


class Rights(enum.Enum):
    """What is kept that lends rights: setuid and setgid bits, attributes ``security.*`` and ``trusted.*``, devices."""

    ALL = enum.auto()
    OF_DIRECTORIES = enum.auto()
    NONE = enum.auto()


def rights(*, ours: bool, in_place: bool) -> Rights:
    """Return what is kept of an archive: ``ours`` is a verified file of a set, ``in_place`` where it came from.

    Nobody knows who wrote any other; and elsewhere than in the application's own volume a file with its owner's rights
    is a program for whoever passes by.
    """
    if not ours:
        return Rights.NONE
    return Rights.ALL if in_place else Rights.OF_DIRECTORIES


def look_through(
    archive: BackupFile,
    descriptor: int,
    unpack: Sequence[str],
    *,
    rights: Rights,
    live: Place | None = None,
    beat: Beat,
) -> Looked:
    """Look through an open archive, and return what it needs, and what ``live`` has that it has not.

    It warns of the rights that will be missing. RefusedError when it has an entry that lies or links outside of it. Or
    a device node, unless it is a verified file of a set, which has what was there.
    """
    looked = archive_listing.look_through(archive.file, descriptor, unpack, live=live, beat=beat)
    if wrong := looked.wrong(ours=archive.ours):
        raise RefusedError(
            f"{archive.file}: {wrong}; nothing was touched",
            hint="dental-pms-backup list   # choose another set: this archive was not made from attachments",
        )
    if rights is not Rights.ALL:
        _warn(looked, rights)
    return looked


def _warn(looked: Looked, rights: Rights) -> None:
    """Tell of what an archive has that lends rights, and that is not unpacked."""
    counts = {
        "files with a setuid or setgid bit": looked.setuid_files,
        "entries with security.* or trusted.* attributes": looked.attributes,
    }
    if rights is Rights.NONE:
        counts["directories with a setgid bit"] = looked.setgid_directories
    told = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    if told:
        warn_of_rights(f"the archive has {told}, which are unpacked without")
    if looked.devices:
        warn_of_rights(f"the archive has {looked.devices} device nodes, which are left out")


def warn_of_rights(text: str) -> None:
    """Tell that something is unpacked without the rights that it lends."""
    text = f"attachments: {text}: only a set that is restored in place keeps these"
    journal.write(Event.RIGHTS_LEFT_OUT, text, priority=journal.WARNING)


def check_room(looked: Looked, directory: Place) -> None:
    """Raise RefusedError when what is in an archive would find no room beside what is in its place."""
    room = disks.room(directory.descriptor)
    least_bytes, least_files = _least(room)
    needed, files = looked.tar_bytes + least_bytes, looked.entry_count + least_files
    if room.free_bytes < needed or room.free_files < files:
        free, expected = size(room.free_bytes), size(needed)
        if room.free_bytes >= needed:
            free, expected = f"room for {room.free_files} files", f"{files}"
        raise RefusedError(
            f"attachments: {free} free in {directory.path}, expected over {expected} for a second copy; "
            "nothing was touched",
            hint=f"df -h {shell_word(directory.path)}   # or, onto another disk: "
            "dental-pms-backup restore attachments SET --to DIR",
        )


def extraction(content: Place, rights: Rights) -> list[str]:
    """Return the argv of the tar that unpacks what it reads; attributes that lend rights are not even written."""
    how = AS_STORED if rights is Rights.ALL else WITHOUT_RIGHTS
    argv = ["tar", "--extract", "--file=-", "--preserve-permissions", "--same-owner", *how]
    return [*argv, f"--directory={content.for_programs}"]


def extract(descriptor: int, unpack: Sequence[str], content: Place, rights: Rights, *, beat: Beat) -> None:
    """Unpack an open archive into an empty directory; RestoreError unless every entry came out."""
    leaving_room = leaves_room(content, beat)
    _through(descriptor, unpack, extraction(content, rights), content, "unpacking failed", leaving_room)


def leaves_room(content: Place, beat: Beat) -> Beat:
    """Return a beat that also ends the unpacking before the disk is full: an archive may be larger than it looks.

    RestoreError then.
    """

    def look() -> None:
        beat()
        room = disks.room(content.descriptor)
        least_bytes, least_files = _least(room)
        if room.free_bytes < least_bytes or room.free_files < least_files:
            target = content.path.parent.parent
            raise RestoreError(
                f"attachments: {target}: what is in the archive has taken all room but {size(least_bytes)} and "
                f"{least_files} files, expected it to need less; it is removed, and the live directory is as it was",
                hint=f"df -h {shell_word(target)}; df -i {shell_word(target)}",
            )

    return look


def _least(room: disks.Room) -> tuple[int, int]:
    return min(LEAST_BYTES, room.total_bytes // SMALL), min(LEAST_FILES, room.total_files // SMALL)


def compare(descriptor: int, unpack: Sequence[str], content: Place, *, beat: Beat) -> None:
    """Compare every entry of an open archive with what was unpacked; RestoreError otherwise."""
    argv = ["tar", "--compare", "--file=-", "--numeric-owner", f"--directory={content.for_programs}"]
    _through(descriptor, unpack, argv, content, "what was unpacked is not what is in the archive", beat)


def make_durable(content: Place, rights: Rights, *, beat: Beat) -> None:
    """Make what was unpacked and compared durable; RestoreError otherwise.

    Only then, before anybody else reaches the directory, does it lose its bits and device nodes that lend ``rights``.
    """
    take_bits_off(content, rights, beat=beat)
    if rights is not Rights.ALL:
        _find(content, [*DEVICES, "-delete"], beat)
    (synced,) = programs.pipeline(["sync", "--file-system", str(content.for_programs)], beat=beat)
    if not synced.ok:
        raise RestoreError(f"attachments: {synced}, expected all files on the disk; the live directory is as it was")


def take_bits_off(content: Place, rights: Rights, *, beat: Beat) -> int:
    """Take setuid and setgid bits off what was unpacked, in a directory that nobody else reaches; return of how many.

    Links of root become nobody's. RestoreError unless all are gone.
    """
    if rights is Rights.ALL:
        return 0
    _find(content, ROOTS_LINKS, beat)
    but = ["!", "-type", "d"] if rights is Rights.OF_DIRECTORIES else []
    return _find(content, ["-perm", "/6000", "!", "-type", "l", *but, "-printf", "s", *TAKE_OFF], beat)


def _find(content: Place, words: Sequence[str], beat: Beat) -> int:
    """Do something with what find finds of what was unpacked, and return how many bytes it prints; RestoreError."""
    with descriptors.memory("found") as out:
        (ended,) = programs.pipeline(["find", f"{content.for_programs}/.", *words], out=out, beat=beat)
        count = os.fstat(out).st_size
    if not ended.ok:
        raise RestoreError(f"attachments: {ended}, while rights were taken off what was unpacked")
    return count


def _through(
    descriptor: int, unpack: Sequence[str], argv: Sequence[str], content: Place, what: str, beat: Beat
) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    ended = programs.pipeline(unpack, argv, stdin=descriptor, beat=beat)
    if failed := programs.failed(ended):
        full = any("No space left" in line or "Disk quota" in line for line in failed.said)
        raise RestoreError(
            f"attachments: {what} ({failed}{', no space left' if full else ''}), "
            "expected every entry; the live directory is as it was",
            hint=f"df -h {shell_word(content.path.parent.parent)}",
        )
