"""What an archive's listing says of a live directory, whatever its length."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import FILTERS, filtered, two_old_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_KIB = 20 << 10
# the filter, by its path; it becomes shut in
WATCHED = """\
open our $status, "<", "/proc/self/status";
do shift @ARGV;
print STDERR $@ if $@;
print grep /VmHWM/, <$status>;
"""


def line(name: str, size: int = 4, *, mode: str = "-rw-r--r-- ", time: str = "2026-11-25 02:30:00") -> str:
    return f'{mode} 0/0 {size} {time} "{name}"\n'


def looked_through(live: Path, listing: Iterable[str]) -> tuple[list[int], int]:
    """Return what is counted, but for the bytes of files, and the most memory that it took, in KiB."""
    done = subprocess.run(
        ["perl", "-e", WATCHED, "--", FILTERS / "look_through.pl", live],
        input="".join(listing),
        capture_output=True,
        text=True,
        check=True,
    )
    counts, memory = done.stdout.splitlines()
    (kib,) = re.findall(r"\d+", memory)
    return [int(count) for count in counts.split()[:10]], int(kib)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return two_old_files(tmp_path / "live")


def test_a_long_archive_is_looked_through_in_little_memory(live: Path) -> None:
    listing = [line("./one"), *(line(f"./2026/{number:07d}.jpg") for number in range(200_000)), line("./in/two", 5)]
    counts, kib = looked_through(live, listing)
    assert counts == [0, 0, 0, 0, 1, 0, 0, 0, 0, 200_002]
    assert kib < MOST_KIB


def test_files_are_counted_that_the_listing_lacks_or_has_otherwise(live: Path) -> None:
    for name in ("mine", "0", "..\n", "in/..."):
        (live / name).write_text("mine")
    os.utime(live / "one")
    assert looked_through(live, [line("./one"), line("./in/two"), line("./gone")])[0] == [0, 0, 0, 4, 1, 0, 0, 0, 0, 3]


def test_what_lends_rights_is_counted(live: Path) -> None:
    modes = {"one": "-rwsr-xr-x ", "in/two": "-rw-r-Sr--*", "team": "drwxrwsr-x "}
    modes |= {"ss": "-rw-r--r-- ", "t*": "-rw-r--r--*"}
    listing = [line(f"./{name}", mode=mode) for name, mode in modes.items()]
    assert looked_through(live, listing)[0] == [0, 0, 0, 0, 0, 0, 2, 1, 2, 5]


def test_a_name_that_the_listing_repeats_hides_no_file(live: Path) -> None:
    (live / "mine").write_text("mine")
    assert looked_through(live, [line("./in/two"), line("./in/two"), line("./one")])[0][:6] == [0, 0, 0, 1, 0, 0]


def test_what_lies_behind_a_live_link_hides_no_file(live: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}").write_text("four")
    (live / "link").symlink_to(tmp_path)
    listing = [line("./one"), line("./in/two"), *(line(f"./link/{number}") for number in range(3))]
    assert looked_through(live, listing)[0] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 5]


def test_a_listing_with_a_name_far_from_its_first_place_counts_none_below_zero(live: Path) -> None:
    assert looked_through(live, [line("./one"), line("./in/two"), line("./one")])[0][:6] == [0] * 6


@pytest.mark.parametrize(
    ("entry", "counts"),
    [
        (line("/etc/passwd"), [0, 1, 0]),
        (line("./../x"), [0, 1, 0]),
        (line("./a/.."), [0, 1, 0]),
        (line("./a\\n/../x"), [0, 1, 0]),
        (line("./.../a..b/..c"), [0, 0, 0]),
        (line('./a" -> "/etc', mode="lrwxrwxrwx "), [0, 0, 0]),
        (line('./a" link to "/etc/passwd', mode="hrw-r--r-- "), [0, 1, 0]),
        (line('./a" link to "./../b', mode="hrw-r--r-- "), [0, 1, 0]),
        (line('./a" link to "./b', mode="hrw-r--r-- "), [0, 0, 0]),
        (line('./a link to /b" link to "./c link to ../d', mode="hrw-r--r-- "), [0, 0, 0]),
        (line('./a" link to "./b'), [0, 0, 1]),
        (line("./a", mode="hrw-r--r-- "), [0, 0, 1]),
        (line("./a", time="67768036191676800            "), [0, 0, 0]),
        (line("./a", time="-1901322341-08-04 13:20:00.5   "), [0, 0, 0]),
        (line("./a", mode="?rw-r--r-- "), [0, 0, 1]),
        ('brw-r--r-- 0/0 8,0 2026-11-25 02:30:00 "./disk"\n', [1, 0, 0]),
        ('crw-r--r-- 0/0 1, 3 2026-11-25 02:30:00 "./null"\n', [1, 0, 0]),
        ("\n\0\n\xff\n./a\n", [0, 0, 4]),
        (line("./" + "a/" * (2 << 20)), [0, 0, 1]),
    ],
    ids=range(19),
)
def test_what_must_not_be_unpacked_is_counted_and_so_are_lines_that_are_not_tars(
    entry: str, counts: list[int], live: Path
) -> None:
    for words in ((), (str(live),)):
        found = filtered("look_through.pl", *words, given=[b"", entry.encode("latin-1") + line("./one").encode()])
        assert (found.status, found.said) == (0, "")
        assert [int(count) for count in found.out.split()[:3]] == counts


ODD_NAMES = {
    b"tab\there": r"tab\there",
    b"new\nline": r"new\nline",
    b"back\\slash": r"back\\slash",
    b"\xff\r\x01": r"\377\r\001",
}


def test_a_name_of_whatever_bytes_is_the_file_of_that_name(live: Path) -> None:
    for name in ODD_NAMES:
        path = os.path.join(os.fsencode(live), name)  # noqa: PTH118 - no text
        with open(path, "wb") as file:
            file.write(b"four")
        os.utime(path, (1, 1))
    listing = [
        line("./one"),
        line("./in/two"),
        line(r"./no\000ne"),
        *(line(f"./{name}") for name in ODD_NAMES.values()),
    ]
    assert looked_through(live, listing)[0] == [0] * 9 + [len(listing)]
