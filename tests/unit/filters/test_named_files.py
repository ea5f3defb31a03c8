"""The files that a table names come out of the rows of a dump, as COPY writes them, whatever else there is in it."""

from __future__ import annotations

import pytest

from tests.unit.builders import COPY_HEAD, filtered

HEADING = b'COPY public.attachments (id, bytes, note, "the ""key""") FROM stdin;\n'
ROWS = rb"""1	12	n	in/a.jpg
2	\N	\N	t\ta\\b\nc
3	0	n	\N
4	\N	n	\N
5	7	n	/../\r
6		n	!
""".replace(b"!", b"")
NAMED = b"in/a.jpg\t12\nt\\ta\\\\b\\nc\t\\N\n/../\\r\t7\n\t\n"
COLUMNS = ('the "key"', "bytes")


def dump(rows: bytes, heading: bytes = HEADING) -> bytes:
    head = COPY_HEAD.encode()
    fake = b"COMMENT ON TABLE t IS '\n" + HEADING + b"1\t1\tn\tfake\n';\n"
    other = head + b"COPY archive.attachments (k, n) FROM stdin;\n--\n\n" + HEADING + b"9\t9\tn\tother\n\\.\n\n"
    return b"--\n" + fake + other + head + heading + rows + b"\\.\n\n" + head + HEADING + b"1\t1\tn\tlater\n\\.\n"


def named(given: bytes | list[bytes], table: str = "public.attachments") -> tuple[bytes, str]:
    found = filtered("named_files.pl", table, *COLUMNS, given=given)
    assert found.status == 0
    return found.out, found.said


def test_files_of_all_rows_that_have_a_key_are_named_as_copy_writes_them() -> None:
    assert named(dump(ROWS)) == (NAMED, "rows 4\n")
    assert named(dump(b"")) == (b"", "rows 0\n")


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        (HEADING, "attachments"),
        (HEADING, "public.uploads"),
        (HEADING.replace(b"bytes", b"Bytes"), "public.attachments"),
        (b"COPY public.attachments  FROM stdin;\n", "public.attachments"),
    ],
    ids=range(4),
)
def test_a_table_that_is_not_there_or_has_no_such_columns_names_none(heading: bytes, table: str) -> None:
    assert named(dump(ROWS, heading), table) == (b"", "")


@pytest.mark.parametrize("shift", range(0, 200, 13))
def test_files_are_named_wherever_a_read_ends(shift: int) -> None:
    filler = b"0\t1\t" + b"x" * ((1 << 20) - 800 + shift) + b"\tm\n"
    assert named(dump(filler + ROWS)) == (b"m\t1\n" + NAMED, "rows 5\n")


@pytest.mark.parametrize("byte", [b"x", b"\t", b"\\", b"\0"])
def test_a_row_of_whatever_length_takes_little_memory_and_hides_no_other(byte: bytes) -> None:
    before, behind = dump(b"0\t1\tn\tin/HERE\n" + ROWS).split(b"HERE", 1)
    out, said = named([before, *[byte * (1 << 20)] * 100, behind])
    assert (out.endswith(b"\n" + NAMED), said) == (True, "rows 5\n")
    assert len(out) < 2 << 20


def test_a_dump_that_ends_in_the_rows_is_no_answer() -> None:
    whole = dump(ROWS)
    for cut in (
        whole[: whole.index(b"in/a.jpg")],
        whole[: whole.index(b"\t7\tn")],
        whole[: whole.index(b"\n\\.\n", -200)],
    ):
        found = filtered("named_files.pl", "public.attachments", *COLUMNS, given=cut)
        assert (found.status != 0, "rows" in found.said.replace("in the rows of the table", "")) == (True, False)


@pytest.mark.parametrize("row", [b"\n", b"1\n", b"1\t2\n", b"1\t2\tn\n"])
def test_a_row_without_these_fields_is_no_answer(row: bytes) -> None:
    found = filtered("named_files.pl", "public.attachments", *COLUMNS, given=dump(row))
    assert (found.status != 0, found.said) == (True, "not a row\n")
