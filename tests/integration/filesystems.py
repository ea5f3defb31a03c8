"""Real filesystems in files, each mounted while a block lasts."""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

GET_FREE, CONFIGURE = 0x4C82, 0x4C0A  # ioctls of loop(4), and its struct loop_config
CONFIG_BYTES, FLAGS_AT, AUTOCLEAR = 304, 60, 4
SHUT_DOWN, WITHOUT_THE_JOURNAL = 0x8004587D, 2
LOOP, LOOP_CONTROL, FUSE = 7, os.makedev(10, 237), os.makedev(10, 229)
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-m", "0"],
    "btrfs": ["mkfs.btrfs", "--quiet", "--mixed"],
    "exfat": ["mkfs.exfat"],
    "erofs": ["mkfs.erofs", "--quiet"],
}
MOUNT = {"exfat": ["mount.exfat-fuse"]}


def made(kind: str, image: Path, size_bytes: int, *words: str | Path) -> Path:
    """Make a filesystem in a new file of that size; ``words`` follow the file."""
    with image.open("xb") as file:
        file.truncate(size_bytes)
    subprocess.run([*MAKE[kind], image, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return image


@contextlib.contextmanager
def mounted(kind: str, image: Path, directory: Path) -> Iterator[None]:
    """Mount the filesystem in a file on a directory, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    with fuse(), block_device(image) as device:
        mount: list[str | Path] = [*MOUNT.get(kind, ["mount", "--types", kind]), device, directory]
        subprocess.run(mount, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def lose_power(directory: Path) -> None:
    """Cut the filesystem on a directory off from its disk, which keeps what it has: all that was not synced is lost.

    It has to be mounted again. (The ioctl is EXT4_IOC_SHUTDOWN; its journal is not written out either.)
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, SHUT_DOWN, struct.pack("I", WITHOUT_THE_JOURNAL))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def block_device(image: Path) -> Iterator[Path]:
    """A loop device for a file, which goes when nobody has it open or mounted any more.

    In a chroot /dev has none, and losetup looks nowhere else.
    """
    control, device = image.with_suffix(".control"), image.with_suffix(".device")
    with contextlib.ExitStack() as stack:
        os.mknod(control, stat.S_IFCHR | 0o600, LOOP_CONTROL)
        stack.callback(control.unlink)
        stack.callback(device.unlink, missing_ok=True)
        asked = stack.enter_context(control.open("rb+", buffering=0))
        backing = stack.enter_context(image.open("rb+", buffering=0))
        config = bytearray(CONFIG_BYTES)
        struct.pack_into("I", config, 0, backing.fileno())
        struct.pack_into("I", config, FLAGS_AT, AUTOCLEAR)
        while True:
            number = fcntl.ioctl(asked, GET_FREE)
            device.unlink(missing_ok=True)
            os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(LOOP, number))
            opened = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(opened, CONFIGURE, bytes(config))
                break
            except OSError as error:
                os.close(opened)
                if error.errno != errno.EBUSY:  # somebody else was quicker
                    raise
        stack.callback(os.close, opened)
        yield device


@contextlib.contextmanager
def fuse() -> Iterator[None]:
    """The device by which filesystems in programs are mounted; in a chroot /dev lacks it."""
    device = Path("/dev/fuse")
    missing = not device.exists()
    if missing:
        os.mknod(device, stat.S_IFCHR | 0o600, FUSE)
    try:
        yield
    finally:
        if missing:
            device.unlink()
