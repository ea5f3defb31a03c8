"""What the filters make of what a real tar lists, whatever somebody called files and links, and what links lead to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dental_pms_backup.store import archive_listing
from tests.unit.builders import filtered

COPIED = {8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 92: b"\\\\"}
PART = st.sampled_from([b" link to ", b" -> ", b'"', b"\\", b"\n", b" ", b"..", b"\\n", b'" link to "', b"\xff"])
NAME = (
    st.lists(PART | st.binary(min_size=1, max_size=3), min_size=1, max_size=8)
    .map(lambda parts: b"".join(parts).replace(b"/", b"").replace(b"\0", b""))
    .filter(lambda name: name not in {b"", b".", b".."})
)
NAMES = st.lists(NAME, min_size=5, max_size=5, unique=True)
TARGET = st.lists(NAME | st.just(b".."), min_size=1, max_size=3).map(b"/".join)


def listed(tree: bytes) -> bytes:
    """Return what tar lists of an archive of a directory."""
    packed = subprocess.run(["tar", "--create", "--format=pax", "-C", tree, "."], capture_output=True, check=True)
    done = subprocess.run(
        archive_listing.LIST, input=packed.stdout, capture_output=True, check=True, env=os.environ | {"LC_ALL": "C"}
    )
    return done.stdout


@given(names=NAMES, target=TARGET, absolute=st.booleans())
@example(names=[b"x link to ", b"a", b"b", b"c", b"d"], target=b"a link to /b", absolute=True)
@settings(max_examples=40)
def test_no_name_is_taken_for_another_and_no_target_for_a_name(
    names: list[bytes], target: bytes, *, absolute: bool
) -> None:
    tree = tempfile.mkdtemp().encode()
    try:
        file, hard, link, linked = (b"/".join([tree, names[0], name]) for name in names[1:])
        Path(os.fsdecode(file)).parent.mkdir()
        Path(os.fsdecode(file)).write_bytes(b"12345")
        os.link(file, hard)
        os.symlink(b"/" * absolute + target, link)  # noqa: PTH211 - no text
        os.link(link, linked, follow_symlinks=False)
        lines = listed(tree)
        for words in ((), (os.fsdecode(tree),)):
            found = filtered("look_through.pl", *words, given=lines)
            assert (found.out, found.said) == (b"0 0 0 0 0 0 0 0 0 6 5\n", "")
        sizes = dict(line.split(b"\t") for line in filtered("list_files.pl", "", given=lines).out.splitlines())
    finally:
        shutil.rmtree(tree)
    plain = {b"".join(COPIED.get(byte, bytes([byte])) for byte in names[0] + b"/" + name): name for name in names[1:]}
    assert {plain[name] for name in sizes} in ({*names[1:3], names[3]}, {*names[1:3], names[4]})
    assert sorted(sizes.values()) == [b"*", b"*", b"5"]


@pytest.mark.parametrize("time", [67768036191676800, -(10**13), 10**13, -1])
def test_a_time_that_no_calendar_has_is_a_line_of_tars(time: int, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "file").write_text("four")
    header = subprocess.run(
        ["tar", "--create", "--format=pax", f"--mtime=@{time}", "-C", packed, "."], capture_output=True, check=True
    )
    lines = subprocess.run(archive_listing.LIST, input=header.stdout, capture_output=True, check=True).stdout
    os.utime(packed / "file", (1, 1))
    found = filtered("look_through.pl", str(packed), given=lines)
    assert (found.out, found.said) == (b"0 0 0 0 %d 0 0 0 0 2 4\n" % (time < 1), "")
    assert filtered("list_files.pl", "", given=lines).out == b"file\t4\n"
