"""What is mounted, here and in containers: what an application sees, and what a rename would move."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError, shell_word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dental_pms_backup.host.places import Place

PROCESSES = Path("/proc")
OURS = PROCESSES / "self/mountinfo"
CONFIGURED = "/etc/dental-pms/backup.yaml"
NAMED = 3
GET_USER_NAMESPACE, GET_OWNER = 0xB701, 0xB704
NEVER_DONE = {errno.EBUSY, errno.EINVAL}  # what rename(2) says of "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of mountinfo: ``root`` of a filesystem's device is seen at ``point``, on the mount ``around``."""

    id: str
    around: str
    device: str
    root: str
    point: str
    kind: str


def listed(content: bytes) -> list[Mount]:
    """Return the mounts of a /proc/PID/mountinfo (see proc(5)), the ones that hide others last.

    Anybody can have a mount of any name in it, in which the kernel escapes space, tab, newline and backslash alone.
    """
    found = []
    for line in map(os.fsdecode, content.split(b"\n")):
        before, _, after = line.partition(" - ")
        match [_decoded(word) for word in before.split(" ")[:5]]:
            case [id_, around, device, root, point]:
                kind = after.partition(" ")[0]
                found.append(Mount(id=id_, around=around, device=device, root=root, point=point, kind=kind))
    return found


def of(file: Path = OURS) -> list[Mount]:
    """Return the mounts that a process sees; OSError."""
    return listed(file.read_bytes())


def below(directory: Path, mounts: Iterable[Mount]) -> set[Path]:
    """Return what is mounted below a directory, as paths that begin as its own does."""
    real = os.path.realpath(directory)
    points = {mount.point for mount in mounts if mount.point.startswith(f"{real.rstrip('/')}/")}
    return {directory / os.path.relpath(point, real) for point in points}


def is_mounted(directory: Path) -> bool:
    """Tell whether anything is mounted at a directory, be it another of the same disk."""
    return os.path.realpath(directory) in {mount.point for mount in of()}


def check_swappable(place: Place, around: Place, archive: Path) -> None:
    """Raise RefusedError unless all that is in a directory can be renamed into the one around it, moving no mount.

    Nothing is touched: a rename of "." is never done, which the kernel says only after it has compared the mounts.
    """
    try:
        for each in (place, around):
            if not os.access(each.for_programs, os.W_OK | os.X_OK):
                raise PermissionError(1, f"{each.path} cannot be written to")
        os.rename(".", ".", src_dir_fd=place.descriptor, dst_dir_fd=around.descriptor)
    except OSError as error:
        if error.errno not in NEVER_DONE:
            raise _not_swappable(place, around, archive, error) from None
    if found := in_the_way(place.path):
        process = next(filter(None, found.values()), "")
        seen = f", where process {process} sees it" if process else ""
        raise RefusedError(
            f"attachments: {_told(sorted(found))} mounted below {place.path}{seen}, expected no mount there: the swap "
            "would move it",
            hint=(
                f"ps -fp {shell_word(process)}; findmnt --task {shell_word(process)}"
                if process
                else f"findmnt --submounts {shell_word(place.path)}"
            )
            + "   # unmount what is there, or stop the container that has it; "
            "or restore with --to DIR, and copy what is needed",
        )


def in_the_way(directory: Path) -> dict[Path, str]:
    """Return what is mounted below a directory, here or where a process sees it that is not just anybody's.

    It moves with what it lies on. Of what is not mounted here, the process stands with it.
    """
    here = of()
    found = dict.fromkeys(below(directory, here), "")
    real = os.path.realpath(directory)
    if (ours := _in_filesystem(real, here)) is None:
        return found
    for process, mounts in _others({0, os.geteuid(), directory.stat().st_uid}):
        by_id = {mount.id: mount for mount in mounts}
        for mount in mounts:
            around = by_id.get(mount.around)
            if around is None or around is mount or around.device != ours[0]:
                continue
            lies_at = os.path.normpath(f"{around.root}/{os.path.relpath(mount.point, around.point)}")
            if lies_at.startswith(f"{ours[1].rstrip('/')}/"):
                found.setdefault(directory / os.path.relpath(lies_at, ours[1]), process)
    return found


def elsewhere(directory: Path) -> Path | None:
    """Return where else a directory is that is mounted from another one of a disk; None where it is nowhere else."""
    status = directory.stat()
    mounts = of()
    ours = _in_filesystem(os.path.realpath(directory), mounts)
    for mount in mounts if ours else ():
        if ours and mount.device == ours[0] and f"{ours[1]}/".startswith(f"{mount.root.rstrip('/')}/"):
            path = Path(os.path.normpath(f"{mount.point}/{os.path.relpath(ours[1], mount.root)}"))
            if not is_mounted(path) and path.is_dir() and os.path.samestat(path.stat(), status):
                return path
    return None


def _not_swappable(place: Place, around: Place, archive: Path, error: OSError) -> RefusedError:
    if not is_mounted(place.path):
        return RefusedError(
            f"attachments: {place.path}: {error.strerror}, expected a directory whose content can be swapped by rename",
            hint=f"findmnt -T {shell_word(place.path)}; lsattr -d {shell_word(place.path)} {shell_word(around.path)}",
        )
    other, status = elsewhere(place.path), os.fstat(place.descriptor)
    return RefusedError(
        f"attachments: {place.path} is a mount point, expected a directory whose content can be swapped by rename",
        hint=f"editor {CONFIGURED}   # set attachments.path to {shell_word(other)}, which is mounted there"
        if other
        # where others rename, a tar of root's may be led anywhere
        else f"dental-pms-backup restore attachments {shell_word(archive)} --to DIR   # a new one on a disk of root's; "
        f"then stop the application, remove what is in {shell_word(place.path)}, type what follows, and start it: "
        f"cd {shell_word(place.path)} && "
        f"tar --xattrs --acls -C DIR -cf - . | setpriv --reuid={status.st_uid} --regid={status.st_gid} --clear-groups "
        "tar --xattrs --acls -xpf -",
    )


def _told(found: list[Path]) -> str:
    more = len(found) - NAMED
    words = [*map(str, found[:NAMED]), *([f"{more} more"] if more > 0 else [])]
    return f"{' and '.join(words)} {'is' if len(found) == 1 else 'are'}"


def _in_filesystem(real: str, mounts: Iterable[Mount]) -> tuple[str, str] | None:
    """Return the device that a path lies on and its path there; None in a chroot, which does not see its own mount."""
    around = [mount for mount in mounts if f"{real}/".startswith(f"{mount.point.rstrip('/')}/")]
    if not around:
        return None
    last = max(reversed(around), key=lambda mount: len(mount.point))  # of several at one point the last is seen
    return last.device, os.path.normpath(f"{last.root}/{os.path.relpath(real, last.point)}")


def _others(users: set[int]) -> Iterator[tuple[str, list[Mount]]]:
    """Yield a process in each mount namespace of the host or of these users that can be looked at, and its mounts."""
    seen = set()
    for process in PROCESSES.iterdir():
        try:
            if not process.name.isdigit() or (name := (process / "ns/mnt").readlink()) in seen:
                continue
            seen.add(name)
            if not _is_of(process / "ns/mnt", users):
                continue
            found = of(process / "mountinfo")
        except OSError:
            continue
        yield process.name, found


def _is_of(namespace: Path, users: set[int]) -> bool:
    """Tell whether a mount namespace is the host's own or one of some users', as anybody may make one (ioctl_ns(2))."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        around = fcntl.ioctl(descriptor, GET_USER_NAMESPACE)
    except PermissionError:  # it is not below ours
        return True
    finally:
        os.close(descriptor)
    try:
        if os.path.samestat(os.fstat(around), (PROCESSES / "self/ns/user").stat()):
            return True
        (owner,) = struct.unpack("I", fcntl.ioctl(around, GET_OWNER, bytes(4)))
    finally:
        os.close(around)
    return owner in users


def _decoded(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), word)
