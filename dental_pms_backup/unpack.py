"""Putting an archive's content into a directory's place: unpacked beside it, compared, then swapped in by renames.

The names of the directories say how far a swap is, so that one that was cut off can be brought to an end. Beside TARGET
lie ``TARGET.restoring-STAMP``, what is unpacked; ``TARGET.before-restore-STAMP``, where what was there goes first; and
from the moment on in which all of it is there ``TARGET.replacing-STAMP``, what has still to come in.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from typing import TYPE_CHECKING

from dental_pms_backup import durable, tools
from dental_pms_backup.artefacts import NAME_PATTERN
from dental_pms_backup.errors import RefusedError, RestoreError, SourceError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Beat = Callable[[], None]

RESTORING, KEPT, REPLACING = "restoring", "before-restore", "replacing"
AS_STORED = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")
# Counts, in the lines of tar --list --verbose --full-time, what must not be unpacked; then, in a live directory where
# one is given, what these lines lack, what is newer or of another size, and what cannot be read. What stands behind the
# name of a link is its target: a symbolic link may point anywhere, tar follows none that it made; a hard link may not.
# No name is kept, there may be millions: what they lack is all that is live but for what is met while they are read.
LOOK_THROUGH = r"""
my ($live) = @ARGV; @ARGV = ();
my ($devices, $outside, $unknown, $all, $met, $other, $unread, $walked) = (0) x 8;
my ($before, $parent) = ("", "/");
my %plain = qw(a 7 b 8 t 9 n 10 v 11 f 12 r 13);
sub comes_into {
    my $path = $live;
    for my $part (split m{/}, $_[0]) {
        lstat($path .= "/$part");
        return 0 if !-d _;
    }
    return opendir my $entries, "$path/";
}
while (<STDIN>) {
    my ($type, $size, $time, $name) = /^(.)\S*\s+\S+\s+(\S+(?:\s*,\s*\d+)?)\s+(\S+ [\d:]+)\S* +(.*)$/s
        or ++$unknown, next;
    $name =~ s/ -> .*//s if $type eq "l";
    ++$devices if $type =~ /[bc]/;
    ++$unknown if $type !~ /[-dlhpbcsC]/;
    ++$outside if $name =~ m{^/|(?:^|/)\.\.(?:/|$)} || ($type eq "h" && $name =~ m{ link to (?:/|(?:.*/)?\.\.(?:/|$))});
    next if !defined $live || $type eq "d";
    chomp $name;
    $name =~ s/ link to .*//s if $type eq "h";
    $name =~ s/\\([0-7]{3}|.)/length $1 == 3 ? chr oct $1 : exists $plain{$1} ? chr $plain{$1} : $1/ges;
    $name =~ s{^(?:\./+)+}{};
    next if $name eq $before;
    $before = $name;
    my $directory = $name =~ m{^(.+)/}s ? $1 : "";
    ($parent, $walked) = ($directory, comes_into($directory)) if $directory ne $parent;
    my @found = $walked ? lstat "$live/$name" : ();
    next if !@found || -d _;
    ++$met;
    my @now = gmtime $found[9];
    my $is = sprintf "%04d-%02d-%02d %02d:%02d:%02d", $now[5] + 1900, $now[4] + 1, @now[3, 2, 1, 0];
    ++$other if $is gt $time || (-f _ && $type eq "-" && $size != $found[7]);
}
my @directories = defined $live ? ("") : ();
while (defined(my $directory = pop @directories)) {
    opendir(my $entries, "$live/$directory") or ++$unread, next;
    while (defined(my $name = readdir $entries)) {
        next if $name =~ /^\.\.?\z/ || !lstat "$live/$directory$name";
        if (-d _) { push @directories, "$directory$name/" } else { ++$all }
    }
}
my $more = $all > $met ? $all - $met : 0;
print "$devices $outside $unknown $more $other $unread\n";
"""
LOSSES = (
    "files that the set has not",
    "files that are newer than the set's, or of another size",
    "directories that cannot be read",
)


def look_through(
    file: Path, source: int, unpack: Sequence[str], *, ours: bool, live: Path | None = None, beat: Beat
) -> list[str]:
    """Look through an open archive, and return what ``live`` has that it has not, in words, counts only.

    RefusedError when it has an entry that lies or links outside of it. Or a device node, unless it is ``ours``: a
    proven file of a set has what was there.
    """
    os.lseek(source, 0, os.SEEK_SET)
    listing = [
        "tar",
        "--list",
        "--verbose",
        "--full-time",
        "--utc",
        "--file=-",
        "--absolute-names",
        "--numeric-owner",
        "--quoting-style=escape",
    ]
    counting = ["perl", "-e", LOOK_THROUGH, "--", *([str(live)] if live else [])]
    with tools.memory("listed") as out:
        ended = tools.pipeline(unpack, listing, counting, source=source, out=out, beat=beat)
        answer = os.pread(out, 1000, 0).decode("ascii", "replace")
    found = re.fullmatch(r"(\d+) (\d+) (\d+) (\d+) (\d+) (\d+)\n", answer)
    if found is None or not all(program.ok for program in ended) or int(found[3]):
        raise VerificationError(f"{file}: the archive cannot be listed, expected it to be readable to its end")
    wrong = {"device nodes": 0 if ours else int(found[1]), "entries outside of the directory": int(found[2])}
    counted = " and ".join(f"{count} {what}" for what, count in wrong.items() if count)
    if counted:
        raise RefusedError(
            f"{file}: has {counted}, expected files, directories and links of the attachments; nothing was touched",
            hint="dental-pms-backup list   # choose another set: this archive was not made from attachments",
        )
    losses = zip(found.groups()[3:], LOSSES, strict=True)
    return [f"{count} {what}" for count, what in losses if count != "0"]


def check_room(file: Path, directory: Path) -> None:
    """Raise RefusedError when not even the compressed archive would find room beside what is in its place."""
    status = os.statvfs(directory)
    free, needed = status.f_bavail * status.f_frsize, file.stat().st_size
    if free < needed:
        raise RefusedError(
            f"attachments: {free} bytes free in {directory}, expected over {needed} for a second copy; "
            "nothing was touched",
            hint=f"df -h {directory}   # or, onto another disk: dental-pms-backup restore attachments SET --to DIR",
        )


def extract(source: int, unpack: Sequence[str], fresh: Path, *, beat: Beat) -> None:
    """Unpack an open archive into an empty directory; RestoreError unless every entry came out."""
    argv = ["tar", "--extract", "--file=-", "--preserve-permissions", "--same-owner", *AS_STORED]
    _through(source, unpack, [*argv, f"--directory={fresh}"], fresh, "unpacking failed", beat)


def compare(source: int, unpack: Sequence[str], fresh: Path, *, beat: Beat) -> None:
    """Compare every entry of an open archive with what was unpacked, and make it durable; RestoreError otherwise."""
    argv = ["tar", "--compare", "--file=-", "--numeric-owner", f"--directory={fresh}"]
    _through(source, unpack, argv, fresh, "what was unpacked is not what is in the archive", beat)
    with open(os.devnull, "wb") as nowhere:
        (synced,) = tools.pipeline(["sync", "--file-system", str(fresh)], out=nowhere.fileno(), beat=beat)
    if not synced.ok:
        raise RestoreError(f"attachments: {synced}, expected to make them durable; the live directory is as it was")


def _through(source: int, unpack: Sequence[str], argv: Sequence[str], fresh: Path, what: str, beat: Beat) -> None:
    os.lseek(source, 0, os.SEEK_SET)
    with open(os.devnull, "wb") as nowhere:
        ended = tools.pipeline(unpack, argv, source=source, out=nowhere.fileno(), beat=beat)
    failed = next((program for program in reversed(ended) if not program.ok), None)
    if failed:
        full = any("No space left" in line or "Disk quota" in line for line in failed.said)
        raise RestoreError(
            f"attachments: {what} ({failed}{', no space left' if full else ''}), "
            "expected every entry; the live directory is as it was",
            hint=f"df -h {fresh.parent}",
        )


def swap(target: Path, stamp: str) -> Path:
    """Move what is in ``target`` away, what was unpacked beside it in, and return where what was there is kept.

    The directory itself stays, since containers have it mounted. Undone when a rename fails; one that is cut off is
    brought to an end by ``recover``.
    """
    fresh, kept, coming = (beside(target, word, stamp) for word in (RESTORING, KEPT, REPLACING))
    attributes = fresh.stat()  # the renames out of it change its time
    try:
        kept.mkdir(mode=0o700)
        _sync(kept.parent)
        _move_all(target, kept)
        fresh.rename(coming)
        _sync(coming.parent)  # from here on there is only the way ahead
    except OSError as error:
        _undo(target, kept, error)
    _come_in(coming, target)
    os.utime(target, ns=(attributes.st_atime_ns, attributes.st_mtime_ns))
    return kept


def recover(target: Path) -> list[str]:
    """Bring what a killed restore left beside a directory to an end, and return what was done, in words.

    What was live is back, or what was restored is whole in its place. RestoreError when a rename fails.
    """
    done = []
    for coming in _all_beside(target, REPLACING):
        _come_in(coming, target)
        done.append(f"{target}: a restore, cut off in its swap, was brought to its end")
    for fresh in _all_beside(target, RESTORING):
        kept = beside(target, KEPT, fresh.name[-len("YYYY-MM-DD_HHMMSS") :])
        if kept.is_dir():
            _move_all(kept, target)
            kept.rmdir()
            _sync(kept.parent)
            done.append(f"{target}: a restore, cut off in its swap, was undone; what was live is back")
        durable.remove_tree(fresh)
        done.append(f"{fresh}: what a restore that was cut off had unpacked is removed")
    return done


def check_whole(target: Path) -> None:
    """Raise SourceError when a restore was cut off in its swap: what is live is neither the old nor the new content."""
    place = target.resolve()
    for word in (REPLACING, RESTORING):
        for left in _all_beside(place, word):
            if word == REPLACING or beside(place, KEPT, left.name[-len("YYYY-MM-DD_HHMMSS") :]).is_dir():
                raise SourceError(
                    f"attachments: a restore was cut off while it swapped them ({left}), expected them to be whole",
                    hint="CONFIRM=YES dental-pms-backup restore attachments SET --in-place   # ends that one first",
                )


def check_new(target: Path) -> None:
    """Raise RefusedError unless a directory is new, with its parent there, or empty."""
    try:
        used = any(target.iterdir()) or target.is_mount()
    except FileNotFoundError:
        used = not target.parent.is_dir()
    except OSError as error:
        raise RefusedError(f"{target}: {error.strerror}, expected a new or empty directory") from None
    if used:
        raise RefusedError(
            f"{target}: no new or empty directory in one that is there, expected one",
            hint="dental-pms-backup restore attachments SET --to ANOTHER_DIR",
        )


def into_new(fresh: Path, target: Path) -> None:
    """Give what was unpacked the name of a directory that is new or empty; RestoreError when that is impossible."""
    try:
        fresh.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise RestoreError(f"attachments: {target}: {error.strerror}, expected a new or empty directory") from None


def beside(target: Path, word: str, stamp: str) -> Path:
    """Return where something of a restore lies beside its target."""
    return target.with_name(f"{target.name}.{word}-{stamp}")


def copy_attributes(source: Path, target: Path) -> None:
    """Give a directory the owner, mode, times and attributes of another."""
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)
    shutil.copystat(source, target)


@contextlib.contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """Make a directory, mode 0700, that is gone when the block ends, with all that is left in it."""
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise RestoreError(f"attachments: {path}: {error.strerror}, expected to make a directory there") from None
    try:
        yield path
    finally:
        durable.remove_tree(path)


def _all_beside(target: Path, word: str) -> list[Path]:
    pattern = re.compile(rf"{re.escape(f'{target.name}.{word}-')}{NAME_PATTERN}")
    return sorted(path for path in target.parent.iterdir() if pattern.fullmatch(path.name))


def _move_all(source: Path, target: Path) -> None:
    """Move every entry of a directory into another, durably."""
    for path in list(source.iterdir()):
        path.rename(target / path.name)
    _sync(source, target)


def _undo(target: Path, kept: Path, error: OSError) -> None:
    """Bring what was live back after a rename failed, and raise RestoreError."""
    try:
        if kept.is_dir():
            _move_all(kept, target)
            kept.rmdir()
    except OSError as second:
        raise RestoreError(
            f"attachments: the swap failed and could not be undone: {second.strerror}; "
            f"{kept} and {target} together hold what was live",
            hint="the same command again undoes it first",
        ) from None
    raise RestoreError(
        f"attachments: the swap failed: {error.strerror}, expected to rename; the live directory is as it was"
    ) from None


def _come_in(coming: Path, target: Path) -> None:
    """Move what was unpacked into the emptied directory; RestoreError says how to go on from where it stands."""
    try:
        _move_all(coming, target)
        copy_attributes(coming, target)
        coming.rmdir()
        _sync(coming.parent)
    except OSError as error:
        raise RestoreError(
            f"attachments: the swap stopped: {error.strerror}; {target} and {coming} together hold what was restored",
            hint="the same command again brings it to its end first",
        ) from None


def _sync(*directories: Path) -> None:
    """Make the names in directories durable."""
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
