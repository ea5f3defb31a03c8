"""Beside the rows of a dump, the files that a table names are listed as COPY writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import COPY_HEAD, filtered

if TYPE_CHECKING:
    from pathlib import Path

HEADING = b'COPY public.attachments (id, bytes, note, "the ""key""") FROM stdin;\n'
ROWS = rb"""1	12	n	in/a.jpg
2	\N	\N	t\ta\\b\nc
3	0	n	\N
4	\N	n	\N
5	7	n	/../\r
6		n	!
""".replace(b"!", b"")
NAMED = b"in/a.jpg\t12\nt\\ta\\\\b\\nc\t\\N\n\\N\t0\n\\N\t\\N\n/../\\r\t7\n\t\n"
COLUMNS = ('the "key"', "bytes")
COUNTED = b"archive.attachments_2\t3\npublic.attachments\t%d\npublic.uploads\t1\n\0"


def dump(rows: bytes, heading: bytes = HEADING) -> bytes:
    head = COPY_HEAD.encode()
    fake = b"COMMENT ON TABLE t IS '\n" + HEADING + b"1\t1\tn\tfake\n';\n"
    other = head + b"COPY archive.attachments_2 (k, n) FROM stdin;\n--\n\n" + HEADING + b"\\.\n\n"
    later = head + HEADING.replace(b"attachments", b"uploads") + b"1\t1\tn\tlater\n\\.\n"
    return b"--\n" + fake + other + head + heading + rows + b"\\.\n\n" + later


def listed(place: Path, given: bytes | list[bytes], table: str = "attachments") -> tuple[bytes, bytes]:
    """Return what was counted and what was listed."""
    found = filtered("count_rows.pl", place / "rows", table, *COLUMNS, given=given)
    assert (found.status, found.said) == (0, "")
    return found.out[: found.out.index(b"\0") + 1], (place / "rows").read_bytes()


@pytest.mark.parametrize("table", ["attachments", "public.attachments"])
def test_files_of_all_rows_are_listed_as_copy_writes_them(tmp_path: Path, table: str) -> None:
    assert listed(tmp_path, dump(ROWS), table) == (COUNTED % 6, NAMED)
    assert listed(tmp_path, dump(b""), table) == (COUNTED % 0, b"")


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        (HEADING, "tachments"),
        (HEADING, "public_attachments"),
        (HEADING, "archive.uploads"),
        (HEADING.replace(b"bytes", b"Bytes"), "attachments"),
    ],
    ids=range(4),
)
def test_a_table_that_is_not_there_or_has_no_such_columns_names_none(
    tmp_path: Path, heading: bytes, table: str
) -> None:
    assert listed(tmp_path, dump(ROWS, heading), table) == (COUNTED % 6, b"")


@pytest.mark.parametrize("shift", range(0, 200, 13))
def test_files_are_listed_wherever_a_read_ends(tmp_path: Path, shift: int) -> None:
    filler = b"0\t1\t" + b"x" * ((1 << 20) - 800 + shift) + b"\tm\n"
    assert listed(tmp_path, dump(filler + ROWS)) == (COUNTED % 7, b"m\t1\n" + NAMED)


@pytest.mark.parametrize("byte", [b"x", b"\t", b"\\", b"\0"])
def test_a_row_of_whatever_length_takes_little_memory_and_hides_no_other(tmp_path: Path, byte: bytes) -> None:
    before, behind = dump(b"0\t1\tn\tin/HERE\n" + ROWS).split(b"HERE", 1)
    counted, named = listed(tmp_path, [before, *[byte * (1 << 20)] * 100, behind])
    assert (counted, named.endswith(b"\n" + NAMED), len(named) < 2 << 20) == (COUNTED % 7, True, True)


@pytest.mark.parametrize("row", [b"\n", b"1\n", b"1\t2\n", b"1\t2\tn\n"])
def test_a_row_without_these_fields_is_no_answer(tmp_path: Path, row: bytes) -> None:
    found = filtered("count_rows.pl", tmp_path / "rows", "attachments", *COLUMNS, given=dump(row))
    assert (found.status != 0, found.said) == (True, "not a row\n")


def test_what_cannot_be_written_is_no_answer(tmp_path: Path) -> None:
    for path in ("/dev/full", tmp_path / "no/rows"):
        assert filtered("count_rows.pl", path, "attachments", *COLUMNS, given=dump(ROWS)).status != 0
