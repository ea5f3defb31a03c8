"""The names of some files come out of the rows of a dump, whatever else there is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import COPY_HEAD, filtered

if TYPE_CHECKING:
    from pathlib import Path

HEADING = b'COPY public.attachments (id, "the ""key""", note, name) FROM stdin;\n'
ROWS = rb"""1	in/a.jpg	n	Ada.jpg
2	in/\\b	\N	t\ta	b
3	in/c	n	\N
4	\N	n	nobody
5	in/d	n	new\nline\015\x41
6	other	n	not asked for
7	in/e	n	!
8	in/f
""".replace(b"!", b"")
NAMES = {"in/a.jpg": b"Ada.jpg", "in/\\b": b"t\ta", "in/d": b"new\nline\rA", "in/e": b""}
KEYS = [*NAMES, "in/c", "in/f", "missing", "x" * 4095]


def dump(rows: bytes, heading: bytes = HEADING) -> bytes:
    head = COPY_HEAD.encode()
    fake = b"COMMENT ON TABLE t IS '\n" + HEADING + b"1\tin/a.jpg\tn\tfake\n';\n"
    other = head + b"COPY public.other (k, n) FROM stdin;\n--\n\n" + HEADING + b"9\tin/a.jpg\tn\tother\n\\.\n\n"
    return (
        b"--\n" + fake + other + head + heading + rows + b"\\.\n\n" + head + HEADING + b"1\tin/a.jpg\tn\tlater\n\\.\n"
    )


def names(place: Path, given: bytes | list[bytes], table: str = "attachments", longest: int = 4096) -> dict[str, bytes]:
    keys = place / "keys"
    keys.write_bytes(b"".join(f"{key}\0".encode() for key in KEYS))
    found = filtered("original_names.pl", table, 'the "key"', "name", str(keys), str(longest), given=given)
    assert (found.status, found.said) == (0, "")
    parts = found.out.split(b"\0")[:-1]
    return {key.decode(): name for key, name in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("table", ["attachments", "public.attachments"])
def test_names_are_those_of_the_first_rows_of_the_table(tmp_path: Path, table: str) -> None:
    assert names(tmp_path, dump(ROWS), table) == NAMES


@pytest.mark.parametrize("shift", range(0, 200, 13))
def test_names_are_found_wherever_a_read_ends(tmp_path: Path, shift: int) -> None:
    filler = b"0\t%s\tn\tm\n" % (b"x" * ((1 << 20) - 800 + shift))
    assert names(tmp_path, dump(filler + ROWS)) == NAMES


@pytest.mark.parametrize("byte", [b"x", b"\t", b"\\", b"\0"])
def test_a_row_of_whatever_length_takes_little_memory_and_hides_no_name(tmp_path: Path, byte: bytes) -> None:
    whole = dump(b"0\tin/a.jpg\tn\tHERE\n" + ROWS.replace(b"1\tin/a.jpg", b"1\tno", 1))
    before, behind = whole.split(b"HERE", 1)
    long = [byte * (1 << 20)] * 128
    found = names(tmp_path, [before, b"first\t", *long, behind])
    assert found == NAMES | {"in/a.jpg": b"first"}
    before, behind = whole.split(b"n\tHERE", 1)
    found = names(tmp_path, [before, *long, b"\tlate", behind])
    assert found == {**NAMES, "in/a.jpg": b"" if byte == b"\t" else b"late"}


def test_a_name_is_cut_and_has_no_byte_that_would_end_it(tmp_path: Path) -> None:
    rows = b"1\tin/a.jpg\tn\t" + b"a\0b" * 5000 + b"\n2\tin/e\tn\t\\000x\n"
    assert names(tmp_path, dump(rows), longest=10) == {"in/a.jpg": b"ababababab", "in/e": b"x"}


@pytest.mark.parametrize(
    "given", [b"", b"\xff\xfe\0", dump(ROWS)[:400], dump(b"", b"COPY public.attachments (id, name) FROM stdin;\n")]
)
def test_without_the_columns_or_the_rows_there_is_no_name(tmp_path: Path, given: bytes) -> None:
    assert names(tmp_path, given) == {}
