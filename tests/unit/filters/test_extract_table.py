"""The rows of one table come out of a dump as they are, or as CSV, whatever they and the rest of the dump look like."""

from __future__ import annotations

import csv
import io
import sys
from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import COPY_HEAD, filtered

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_BYTES = 1 << 20
TABLE = '"odd ""table"" FROM stdin;"."t\tb"'
COLUMNS = r'id, "a ""b"", c", "tab' + "\t" + r'\n", plain'
HEADING = f"COPY {TABLE} ({COLUMNS}) FROM stdin;\n".encode()
OTHERS = (
    rb"1	\N		x"
    + b"\n"
    + rb"\\.	\\N	COPY public.other (a) FROM stdin;	\n--\n\nCOPY x FROM stdin;\n"
    + b"\n"
)
ODD = (
    b"2\ta\0b\r\t\xff\xfe\t\xc3\n",
    rb"3	\b\f\n\r\t\v\\\q	\x41\x4g\x\101\60\7z	a,b" + b"\n",
    b'4\t"\t""\t\'\n',
    b"\\.x\t \t,\t\\\\.\n",
    b"--\t\t\t\n",
)
VALUES = [
    ["1", "", "", "x"],
    ["\\.", "\\N", "COPY public.other (a) FROM stdin;", "\n--\n\nCOPY x FROM stdin;\n"],
    ["2", "a\0b\r", "\udcff\udcfe", "\udcc3"],
    ["3", "\b\f\n\r\t\v\\q", "A\x04gxA0\x07z", "a,b"],
    ["4", '"', '""', "'"],
    [".x", " ", ",", "\\."],
    ["--", "", "", ""],
]
ROWS = OTHERS + b"".join(ODD)
FAKES = b"""\
CREATE FUNCTION f() AS $$
--

COPY public.fake (a) FROM stdin;x
--
COPY public.fake (a) FROM stdin;
$$;
COMMENT ON TABLE a IS '

COPY public.fake (a) FROM stdin;
1
\\.
';
-- COPY public.fake (a) FROM stdin;
"""


def dump(rows: bytes, heading: bytes = HEADING, before: bytes = b"") -> bytes:
    head = COPY_HEAD.encode()
    first = head + b"COPY public.other (a) FROM stdin;\n" + b"\n--\n\n" + HEADING + b"9\n\\.\n\n"
    return before + FAKES + first + head + heading + rows + b"\\.\n\n" + head + b"COPY public.last FROM stdin;\n\\.\n\n"


def parsed(out: bytes) -> list[list[str]]:
    csv.field_size_limit(sys.maxsize)
    text = io.StringIO(out.decode(errors="surrogateescape"), newline="")
    return list(csv.reader(text, strict=True))


def test_tables_are_those_of_headings_and_nothing_that_looks_like_one() -> None:
    found = filtered("extract_table.pl", "list", given=dump(ROWS))
    assert (found.status, found.out.decode(), found.said) == (0, f"public.other\n{TABLE}\npublic.last\n", "rows 0\n")


@pytest.mark.parametrize("shift", [0, *range(READ_BYTES - 900, READ_BYTES - 200, 50), *range(3)])
def test_rows_come_out_as_they_are_wherever_a_read_ends(shift: int) -> None:
    found = filtered("extract_table.pl", "sql", TABLE, given=dump(ROWS, before=b"-- " + b"x" * shift + b"\n"))
    assert (found.status, found.out, found.said) == (0, HEADING + ROWS + b"\\.\n", "rows 7\n")


@pytest.mark.parametrize("shift", [0, *range(READ_BYTES - 900, READ_BYTES - 200, 50), *range(3)])
def test_rows_are_csv_as_postgresql_writes_it(shift: int) -> None:
    found = filtered("extract_table.pl", "csv", TABLE, given=dump(ROWS, before=b"-- " + b"x" * shift + b"\n"))
    assert (found.status, found.said) == (0, "rows 7\n")
    assert parsed(found.out) == [["id", 'a "b", c', "tab\t\\n", "plain"], *VALUES]
    lines = found.out.split(b"\n")
    assert lines[1] == b'1,,"",x', "of NULL nothing, and an empty text is quoted"
    assert b'\n"\\.",\\N,' in found.out


def test_a_table_of_one_column_has_rows_of_nothing_and_one_without_columns_rows_at_all() -> None:
    heading = b"COPY public.one (note) FROM stdin;\n"
    found = filtered("extract_table.pl", "csv", "public.one", given=dump(b"\n\\N\n\\.x\n", heading))
    assert (found.out, found.said) == (b'note\n""\n\n.x\n', "rows 3\n")
    found = filtered("extract_table.pl", "csv", "public.none", given=dump(b"\n\n", b"COPY public.none FROM stdin;\n"))
    assert (found.out, found.said) == (b'\n""\n""\n', "rows 2\n")


def test_partitions_of_a_table_have_one_line_of_names() -> None:
    part = b"\n--\n-- load via partition root public.p\n\nCOPY public.p (a) FROM stdin;\n%d\n\\.\n\n"
    found = filtered("extract_table.pl", "csv", "public.p", given=FAKES + part % 1 + part % 2)
    assert (found.out, found.said) == (b"a\n1\n2\n", "rows 2\n")


ESCAPES = ((rb"\n", "\n"), (rb"\\", "\\"), (rb"\101", "A"), (rb"\x4a", "J"), (b'"', '"'), (b"\xc3\xa4", "\u00e4"))


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize(("escape", "value"), ESCAPES, ids=[escape.decode() for escape, _ in ESCAPES])
def test_a_field_of_whatever_length_has_its_bytes_wherever_a_read_ends(escape: bytes, value: str, shift: int) -> None:
    count = (3 << 16) // len(escape)
    row = b"\t".join([b"1", b"x" * shift + escape * count, rb"\N", escape * count]) + b"\n"
    found = filtered("extract_table.pl", "csv", TABLE, given=dump(row + b"2\t\t\\N\t\n"))
    long = value * count
    assert (found.status, found.said) == (0, "rows 2\n")
    assert parsed(found.out)[1:] == [["1", "x" * shift + long, "", long], ["2", "", "", ""]]
    assert b'",,"' in found.out
    assert found.out.endswith(b'\n2,"",,""\n')


def endless(part: bytes, parts: int) -> Iterator[bytes]:
    yield dump(b"").partition(b"\\.\n\n" + COPY_HEAD.encode() + b"COPY public.last")[0]
    for _ in range(parts):
        yield part
    yield b"\n\\.\n"


# what is looked at byte by byte takes time, so that less of it has to do
LONG = {"text": (b"x", 24), "NULs": (b"\0", 24), "quotes": (b'"', 8), "backslashes": (b"\\", 1), "fields": (b"\t", 1)}


@pytest.mark.parametrize(("byte", "parts"), LONG.values(), ids=LONG)
@pytest.mark.parametrize("how", ["sql", "csv", "list"])
def test_a_row_of_whatever_length_takes_little_memory(how: str, byte: bytes, parts: int) -> None:
    found = filtered("extract_table.pl", how, TABLE, given=endless(byte * READ_BYTES, parts))
    assert (found.status, found.said) == (0, f"rows {int(how != 'list')}\n")


def test_a_comment_of_whatever_length_takes_little_memory() -> None:
    text = [b"-- ", *[b"x" * READ_BYTES] * 128, b"\n", dump(b"1\t\t\t\n")]
    assert filtered("extract_table.pl", "csv", TABLE, given=text).said == "rows 1\n"


@pytest.mark.parametrize("how", ["sql", "csv"])
def test_a_dump_that_ends_in_rows_has_no_count(how: str) -> None:
    whole = dump(ROWS)
    for end in (b"\\.\n\n\n--\n-- Data", b".x\t"):
        cut = whole[: whole.rindex(end)]
        found = filtered("extract_table.pl", how, TABLE, given=cut)
        assert (found.status != 0, found.said) == (True, "the dump ends in the rows of a table\n")
    assert (filtered("extract_table.pl", how, TABLE).out, filtered("extract_table.pl", how, TABLE).said) == (
        b"",
        "rows 0\n",
    )
