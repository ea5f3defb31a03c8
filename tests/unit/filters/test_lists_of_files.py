"""What list_files.pl, compare_sizes.pl and count_too_long.pl make of lists, whatever somebody called a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import filtered

if TYPE_CHECKING:
    from pathlib import Path

LISTED = rb"""drwxr-xr-x 0/0               0 2026-11-25 02:30 "./"
drwxr-xr-x 0/0               0 2026-11-25 02:30 "./in/"
-rw-r--r-- 0/0              12 2026-11-25 02:30 "./in/plain name"
-rw-r--r-- 0/0               3 2026-11-25 02:30 "./in/tab\tnew\nline\\\r\377\001"
hrw-r--r-- 0/0               0 2026-11-25 02:30 "./in/linked" link to "./in/plain name"
lrwxrwxrwx 0/0               0 2026-11-25 02:30 "./in/points" -> "plain name"
-rw-r--r-- 0/0               7 2026-11-25 "./other/of a day"
-rw-r--r-- 0/0               8 2026-11-25 02:30 "./inner"
"""
OF_IN = b"plain name\t12\ntab\\tnew\\nline\\\\\\r\xff\x01\t3\nlinked\t*\n"


def test_files_of_a_directory_are_listed_as_copy_writes_names() -> None:
    found = filtered("list_files.pl", "in", given=LISTED)
    assert (found.status, found.out, found.said) == (0, OF_IN, "")
    everywhere = b"".join(b"in/" + line + b"\n" for line in OF_IN.splitlines())
    assert filtered("list_files.pl", "", given=LISTED).out == everywhere + b"other/of a day\t7\ninner\t8\n"
    assert filtered("list_files.pl", "a/b", given=LISTED).out == b""


def test_beside_the_files_of_a_directory_the_names_of_all_entries_are_printed_as_tar_does(tmp_path: Path) -> None:
    found = filtered("list_files.pl", "in", tmp_path / "files", given=LISTED)
    assert (found.status, (tmp_path / "files").read_bytes(), found.said) == (0, OF_IN, "")
    names = (
        rb"./ ./in/ ./in/plain_name ./in/tab\tnew\nline\\\r\377\001 ./in/linked ./in/points ./other/of_a_day ./inner"
    )
    assert found.out.replace(b" ", b"_").split(b"\n") == [*names.split(b" "), b""]
    assert filtered("list_files.pl", "in", tmp_path / "no/files", given=LISTED).status != 0
    assert filtered("list_files.pl", "in", "/dev/full", given=LISTED).status != 0


@pytest.mark.parametrize(
    "line", [b"", b"\0", b"\xff", b'-rw-r--r-- 0/0 3 2026-11-25 02:30 "/etc"', b"x" * (3 << 20)], ids=range(5)
)
def test_what_is_no_line_of_tar_is_no_list(line: bytes) -> None:
    assert filtered("list_files.pl", "", given=LISTED + line + b"\n").status != 0


def test_a_long_list_takes_little_memory() -> None:
    line = b'-rw-r--r-- 0/0 1 2026-11-25 02:30 "./in/' + b"x" * 200 + b'"\n'
    assert len(filtered("list_files.pl", "in", given=[line * 1000] * 60).out) == 60_000 * 203


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        (b"", "0 0 0"),
        (b"1\t1\n1\t*\n1\t2\n\t0\n\\N\t1\n01\t1\n*\t*\n", "1 3 3"),
        (b"1\0\t1\n\xff\t1\n1\r\t1\n", "0 0 3"),
        (b"9" * (3 << 20) + b"\t1\n1\t1\n", "1 0 1"),
    ],
    ids=range(4),
)
def test_sizes_are_compared(lines: bytes, counts: str) -> None:
    found = filtered("compare_sizes.pl", given=lines)
    assert (found.status, found.out.decode(), found.said) == (0, f"{counts}\n", "")


def test_what_is_not_two_sizes_is_no_answer() -> None:
    for line in (b"1\n", b"\n", b"1\t1"):
        found = filtered("compare_sizes.pl", given=line)
        assert (found.status != 0, found.out) == (True, b"")


def test_names_that_are_too_long_are_counted_by_their_bytes_on_the_disk(tmp_path: Path) -> None:
    index = tmp_path / "index"
    fine = [b"./" + b"a" * 98, b"./" + rb"\377" * 98, b"./" + rb"\n\\" * 49, b""]
    long = [b"./" + b"a" * 99, b"./" + rb"\001" * 99, b"b" * (5 << 20), b"\0" * 101]
    index.write_bytes(b"".join(name + b"\n" for name in [*fine, *long, *fine]))
    found = filtered("count_too_long.pl", index, "100")
    assert (found.status, found.out, found.said) == (0, b"4\n", "")
    index.write_bytes(b"")
    assert filtered("count_too_long.pl", index, "100").out == b"0\n"
    assert filtered("count_too_long.pl", tmp_path / "missing", "100").status != 0
