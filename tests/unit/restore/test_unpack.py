"""What an archive's listing says of a live directory, whatever its length."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.errors import RestoreError
from dental_pms_backup.host import places
from dental_pms_backup.restore import unpack
from tests.unit.builders import program

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_KIB = 20 << 10
WATCHED = 'open our $status, "<", "/proc/self/status";'  # it becomes shut in
HOW_MUCH = "print grep /VmHWM/, <$status>;"


def line(name: str, size: int = 4, *, mode: str = "-rw-r--r-- ") -> str:
    return f"{mode} 0/0 {size} 2026-11-25 02:30:00 {name}\n"


def looked_through(live: Path, listing: Iterable[str]) -> tuple[list[int], int]:
    """Return what is counted, and the most memory that it took, in KiB."""
    done = subprocess.run(
        ["perl", "-e", WATCHED + unpack.LOOK_THROUGH + HOW_MUCH, "--", str(live)],
        input="".join(listing),
        capture_output=True,
        text=True,
        check=True,
    )
    counts, memory = done.stdout.splitlines()
    (kib,) = re.findall(r"\d+", memory)
    return [int(count) for count in counts.split()], int(kib)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A directory with two files as old as the listing, in one of a directory's own."""
    for name in ("one", "in/two"):
        path = tmp_path / "live" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("four")
        os.utime(path, (1, 1))
    return tmp_path / "live"


def test_a_long_archive_is_looked_through_in_little_memory(live: Path) -> None:
    listing = [line("./one"), *(line(f"./2026/{number:07d}.jpg") for number in range(200_000)), line("./in/two", 5)]
    counts, kib = looked_through(live, listing)
    assert counts == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert kib < MOST_KIB


def test_files_are_counted_that_the_listing_lacks_or_has_otherwise(live: Path) -> None:
    for name in ("mine", "0", "..\n", "in/..."):
        (live / name).write_text("mine")
    os.utime(live / "one")
    assert looked_through(live, [line("./one"), line("./in/two"), line("./gone")])[0] == [0, 0, 0, 4, 1, 0, 0, 0, 0]


def test_what_lends_rights_is_counted(live: Path) -> None:
    modes = {"one": "-rwsr-xr-x ", "in/two": "-rw-r-Sr--*", "team": "drwxrwsr-x "}
    modes |= {"ss": "-rw-r--r-- ", "t*": "-rw-r--r--*"}
    listing = [line(f"./{name}", mode=mode) for name, mode in modes.items()]
    assert looked_through(live, listing)[0] == [0, 0, 0, 0, 0, 0, 2, 1, 2]


def test_a_name_that_the_listing_repeats_hides_no_file(live: Path) -> None:
    (live / "mine").write_text("mine")
    assert looked_through(live, [line("./in/two"), line("./in/two"), line("./one")])[0] == [0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_what_lies_behind_a_live_link_hides_no_file(live: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}").write_text("four")
    (live / "link").symlink_to(tmp_path)
    listing = [line("./one"), line("./in/two"), *(line(f"./link/{number}") for number in range(3))]
    assert looked_through(live, listing)[0] == [0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_a_listing_with_a_name_far_from_its_first_place_counts_none_below_zero(live: Path) -> None:
    assert looked_through(live, [line("./one"), line("./in/two"), line("./one")])[0] == [0, 0, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sync", "expected all files on the disk; the live directory is as it was"),
        ("find", "while rights were taken off what was unpacked"),
    ],
)
def test_what_cannot_be_made_durable_or_harmless_is_not_restored(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    subprocess.run(["tar", "-C", live, "-cf", tmp_path / "archive.tar", "."], check=True)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    program(tmp_path / "bin", name, "exit 3\n")
    with (
        (tmp_path / "archive.tar").open("rb") as archive,
        places.opened(live) as content,
        pytest.raises(RestoreError) as raised,
    ):
        unpack.compare(archive.fileno(), ["cat"], content, unpack.Rights.NONE, beat=lambda: None)
    assert raised.value.message == f"attachments: {name}: exit status 3, {why}"
