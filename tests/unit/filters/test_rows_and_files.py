"""Each row names a file, which is there, of its size, or counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import filtered

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory whose files have four bytes, in one that has a file of four bytes, too."""
    for path in ("outside", "place/in/one", "place/in/tab\there", "place/in/back\\slash", "place/in/new\nline"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text("four")
    (tmp_path / "place/in/led").symlink_to("../../outside")
    return tmp_path / "place"


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (b"", "0 0 0"),
        (b"one\t4\n", "1 0 0"),
        (b"one\t5\none\t\\N\none\t4\n", "3 0 1"),
        (b"gone\t4\n\\N\t4\n\\N\t\\N\n", "1 1 0"),
        (rb"tab\there	4" + b"\n" + rb"back\\slash	4" + b"\n" + rb"new\nline	4" + b"\n", "3 0 0"),
        (rb"tab\011here	4" + b"\n" + rb"t\x61b\there	4" + b"\n", "2 0 0"),
        (b"../../outside\t4\n../in/one\t4\na/../one\t4\n..\t4\n", "4 4 0"),
        (b"led\t4\n.\t4\n\t4\n", "3 3 0"),
        (b"\xff\xfe\t4\none\0\t4\none\r\t4\n", "3 3 0"),
        (b"x" * (5 << 20) + b"\t4\none\t4\n" + b"y" * (1 << 20) + b"\t4\n", "3 2 0"),
        (b"one\t" + b"4" * (5 << 20) + b"\none\t4\n", "2 1 0"),
    ],
    ids=range(11),
)
def test_rows_without_their_file_are_counted(place: Path, rows: bytes, counts: str) -> None:
    found = filtered("rows_and_files.pl", place, "in", given=rows)
    assert (found.status, found.out.decode(), found.said) == (0, f"{counts}\n", "")


@pytest.mark.parametrize("rows", [b"\n", b"one\n", b"one\t4\t4\n", b"one\t4\n\none\t4\n", b"one\t4"])
def test_what_is_no_row_is_no_answer(place: Path, rows: bytes) -> None:
    found = filtered("rows_and_files.pl", place, "in", given=rows)
    assert (found.status != 0, found.out) == (True, b"")


def test_rows_without_end_take_little_memory(place: Path) -> None:
    assert filtered("rows_and_files.pl", place, "in", given=[b"x" * (1 << 20)] * 128 + [b"\n"]).out == b"1 1 0\n"
    assert filtered("rows_and_files.pl", place, "in", given=[b"\t4\n" * 30_000] * 10).out == b"300000 300000 0\n"
