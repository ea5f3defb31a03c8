"""What is mounted is read from the kernel's own list, whatever anybody calls a mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.live import mounts

if TYPE_CHECKING:
    from pathlib import Path

# The kernel escapes space, tab, newline and backslash alone.
ENDS = [b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xff"]


@pytest.mark.parametrize("end", ENDS)
def test_a_mount_of_anybody_is_one_mount_whatever_its_name(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "mountinfo"
    names = b"/srv/a%bb\\040c" % end
    lines = [b"21 1 254:0 / / rw - ext4 /dev/vda rw", b"30 21 0:5 / %b rw - tmpfs none rw" % names, b"not a mount", b""]
    file.write_bytes(b"\n".join(lines))
    assert [(mount.point, mount.kind) for mount in mounts.of(file)] == [
        ("/", "ext4"),
        (os.fsdecode(b"/srv/a%bb c" % end), "tmpfs"),
    ]
