"""Two dumps are equal when, but for versions and tokens, every byte is; else the tables that differ are named."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.drill import compare_dumps, throwaway_container
from dental_pms_backup.drill.throwaway_container import Identity
from dental_pms_backup.errors import DrillError, RefusedError
from dental_pms_backup.store import verify_file
from dental_pms_backup.store.sets import Kind
from tests.unit.builders import COPY_HEAD, filtered, packed

if TYPE_CHECKING:
    from pathlib import Path

    from dental_pms_backup.drill.compare_dumps import Tally

DUMP = """\
--
-- PostgreSQL database dump
--

\\restrict abcDEF123

-- Dumped from database version 16.4
-- Dumped by pg_dump version 16.4

SET statement_timeout = 0;
CREATE TABLE public.patients (id integer, name text);

--
-- Data for Name: patients; Type: TABLE DATA; Schema: public; Owner: dental
--

COPY public.patients (id, name) FROM stdin;
1\tAda
2\t-- Dumped from database version 16.4
3\t\\\\.
\\.


--
-- Data for Name: notes; Type: TABLE DATA; Schema: public; Owner: dental
--

COPY public.notes (id) FROM stdin;
\\.


--
-- Data for Name: odd; Type: TABLE DATA; Schema: public; Owner: dental
--

COPY public."odd ""name"" FROM stdin;" (id) FROM stdin;
9
\\.

ALTER TABLE public.patients ADD PRIMARY KEY (id);
--
-- PostgreSQL database dump complete
--

\\unrestrict abcDEF123

"""


def tally(tmp_path: Path, dump: str) -> Tally:
    file = tmp_path / "dump.sql.gz"
    file.write_bytes(packed(dump))
    return counted(file)


def counted(file: Path) -> Tally:
    with file.open("rb") as source, compare_dumps.counting_packed(source.fileno()) as counting:
        return counting.tally()


def differences(tmp_path: Path, old: str, new: str, dump: str = DUMP) -> list[str]:
    assert old in dump
    return list(compare_dumps.differences(tally(tmp_path, dump), tally(tmp_path, dump.replace(old, new))))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("abcDEF123", "xyz"),
        ("version 16.4\n-- Dumped by pg_dump version 16.4", "version 16.9 (Debian)\n-- Dumped by pg_dump version 16.9"),
        ("\\restrict abcDEF123\n\n", ""),
        ("\\unrestrict abcDEF123\n\n", ""),
    ],
)
def test_versions_and_tokens_make_no_difference(tmp_path: Path, old: str, new: str) -> None:
    assert differences(tmp_path, old, new) == []


def test_head_of_a_dump_ends_before_its_rows(tmp_path: Path) -> None:
    found = tally(tmp_path, DUMP.replace("1\tAda\n", "1\tAda\n-- Dumped from the old system\n"))
    assert found.rows["public.patients"] == 4


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("live", "copy"),
    [
        (
            "((status)::text = ANY ((ARRAY['new'::character varying, 'it''s'::character varying])::text[]))",
            "((status)::text = ANY (ARRAY[('new'::character varying)::text, ('it''s'::character varying)::text]))",
        ),
        ("(ARRAY['a'::character varying])::character varying(5)[]", "ARRAY['a'::character varying(5)]"),
        ("((a)::double precision AND b)", '(a AND (b)::public."Mood (x)")'),
        ("(('0'::interval) AND ('1'::interval day to second(3) > x))", "('0'::interval AND '1'::interval > x)"),
        ("('1'::timestamp(3) without time zone)::time with time zone", "'1'::timestamp with time zone"),
        ("(x)::numeric(10,-2) * 2", "(x * 2)"),
    ],
)
def test_casts_and_parentheses_that_postgresql_writes_anew_make_no_difference(
    tmp_path: Path, live: str, copy: str
) -> None:
    filler = "-- ".ljust(120, "x") + "\n"
    for lines in (0, 1, 40_000):  # wherever a read ends
        dump = DUMP.replace(
            "ALTER TABLE", f"{filler * lines}ALTER TABLE public.patients ADD CHECK ({live});\nALTER TABLE"
        )
        assert differences(tmp_path, live, copy, dump) == []
        assert differences(tmp_path, live, f"{copy} OR true", dump) == [DEFINITIONS]


@pytest.mark.sample(4)
@pytest.mark.parametrize("shift", [0, 1, 7, 13])
def test_casts_in_a_line_of_whatever_length_make_no_difference(tmp_path: Path, shift: int) -> None:
    cast = 'a::character varying(10)[] OR b::"Odd ""type"."x"(3,-2) OR c::time(3) without time zone OR '
    live, copy, other = (
        tally(tmp_path, DUMP.replace("PRIMARY KEY (id)", f"CHECK ({'x' * shift} {each})"))
        for each in (cast * 40_000, "a OR b OR c OR " * 40_000, "a OR b OR c OR " * 39_999 + "a OR b OR d OR ")
    )
    assert list(compare_dumps.differences(live, copy)) == []
    assert list(compare_dumps.differences(live, other)) == [DEFINITIONS]


def test_casts_and_parentheses_of_rows_make_a_difference(tmp_path: Path) -> None:
    for old, new in (("Ada", "Ada::text"), ("Ada", "(Ada)")):
        told = ["public.patients: all 3 rows came back, but not all with the content that they had"]
        assert differences(tmp_path, old, new) == told


DEFINITIONS = "the definitions that came back (tables, indexes, constraints, functions, rights) are not the set's"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("1\tAda\n", "", ["public.patients: 2 rows, expected 3"]),
        ("9\n\\.", "9\n8\n\\.", ['public."odd ""name"" FROM stdin;": 2 rows, expected 1']),
        ("Ada", "Ida", ["public.patients: all 3 rows came back, but not all with the content that they had"]),
        (
            "2\t-- Dumped from database version 16.4\n",
            "2\t-- Dumped from database version 16.5\n",
            ["public.patients: all 3 rows came back, but not all with the content that they had"],
        ),
        ("PRIMARY KEY", "UNIQUE", [DEFINITIONS]),
        ("COPY public.notes (id) FROM stdin;\n\\.\n\n", "", ["public.notes: missing, expected 0 rows", DEFINITIONS]),
        (
            "public.notes",
            "public.other",
            ["public.notes: missing, expected 0 rows", "public.other: 0 rows, expected no such table", DEFINITIONS],
        ),
    ],
)
def test_what_differs_is_told_by_table_and_never_by_row(tmp_path: Path, old: str, new: str, told: list[str]) -> None:
    assert differences(tmp_path, old, new) == told


@pytest.mark.parametrize("length", [0, 1, 400, 4000, 70_000, 1 << 20])
def test_rows_are_counted_as_verify_counts_them_wherever_a_read_ends(tmp_path: Path, length: int) -> None:
    dump = DUMP.replace("Ada", "A" * length).replace(
        "ALTER TABLE", f"COMMENT IS '{'x' * length}\nCOPY a FROM stdin;\n';\nALTER TABLE"
    )
    found = tally(tmp_path, dump)
    assert found.rows == {"public.patients": 3, "public.notes": 0, 'public."odd ""name"" FROM stdin;"': 1}
    file = tmp_path / "dump.sql.gz"
    source = os.open(file, os.O_RDONLY)
    try:
        assert found.rows == verify_file.verify(file, Kind.DB, source).rows
    finally:
        os.close(source)


def test_a_dump_that_cannot_be_read_to_its_end_has_no_tally(tmp_path: Path) -> None:
    file = tmp_path / "cut.sql.gz"
    file.write_bytes(packed(DUMP)[:-20])
    with pytest.raises(DrillError, match=r"gzip: exit status \d+, expected the dump to be readable to its end"):
        counted(file)


def test_rows_are_compared_both_ways() -> None:
    assert list(compare_dumps.row_differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4})) == [
        "b: 3 rows, expected 2",
        "c: missing, expected 3 rows",
        "d: 4 rows, expected no such table",
    ]


LIVE = Identity(system="7301", container="c0ffee", mounts=frozenset({"/var/lib/docker/volumes/live/_data"}))


@pytest.mark.parametrize(
    ("target", "same"),
    [
        (Identity(system="7301"), "system identifier"),
        (Identity(system="9", container="c0ffee"), "container"),
        (Identity(system="9", container="d", mounts=LIVE.mounts | {"/x"}), "volume"),
        (LIVE, "system identifier and the container and the volume"),
        (Identity(system=""), "nameless system identifier"),
    ],
)
def test_server_that_is_in_anything_the_live_one_is_refused(target: Identity, same: str) -> None:
    with pytest.raises(RefusedError, match=rf"has the {same} of the live one, expected another server; nothing was"):
        throwaway_container.check_apart(target, LIVE)


def test_server_that_has_nothing_of_the_live_one_is_taken() -> None:
    throwaway_container.check_apart(Identity(system="9", container="d", mounts=frozenset({"/y"})), LIVE)
    throwaway_container.check_apart(Identity(system="9"), Identity(system="7301"))


OBJECT = "--\n-- Name: {0}; Type: {1}; Schema: public; Owner: dental\n--\n\n{2}\n\n\n"
DATA = "--\n-- Data for Name: {0}; Type: TABLE DATA; Schema: public; Owner: dental\n--\n\n"
BODY = "CREATE FUNCTION public.f() RETURNS integer\n    AS $$\n{0}$$;"
CHILD = (
    OBJECT.format("kid", "TABLE", "CREATE TABLE public.kid (\n    x integer,\n    a text\n)\nINHERITS (public.par);")
    + OBJECT.format("COLUMN kid.x", "COMMENT", "COMMENT ON COLUMN public.kid.x IS 'one';")
    + OBJECT.format("COLUMN kid.a", "COMMENT", "COMMENT ON COLUMN public.kid.a IS 'two';")
    + OBJECT.format("f()", "FUNCTION", BODY.format("one\ntwo\n"))
    + f"{DATA.format('kid')}COPY public.kid (x, a) FROM stdin;\n1\tone\n2\t\\N\n\\.\n\n\n"
)
TURNED = (
    OBJECT.format("kid", "TABLE", "CREATE TABLE public.kid (\n    a text,\n    x integer\n)\nINHERITS (public.par);")
    + OBJECT.format("COLUMN kid.a", "COMMENT", "COMMENT ON COLUMN public.kid.a IS 'two';")
    + OBJECT.format("COLUMN kid.x", "COMMENT", "COMMENT ON COLUMN public.kid.x IS 'one';")
    + OBJECT.format("f()", "FUNCTION", BODY.format("one\ntwo\n"))
    + f"{DATA.format('kid')}COPY public.kid (a, x) FROM stdin;\none\t1\n\\N\t2\n\\.\n\n\n"
)
IN_KID = ["public.kid: all 2 rows came back, but not all with the content that they had"]


def meant(tmp_path: Path, live: str, copy: str) -> list[str]:
    """Return the differences of two dumps that a second look leaves."""
    files = [tmp_path / name for name in ("live.sql.gz", "copy.sql.gz")]
    for file, objects in zip(files, (live, copy), strict=True):
        file.write_bytes(packed(DUMP.replace("ALTER TABLE", objects + "ALTER TABLE")))
    stored, restored = map(counted, files)
    with files[0].open("rb") as source:
        argv = ["gzip", "--decompress", "--stdout", str(files[1])]
        seen = compare_dumps.by_meaning(stored, restored, source.fileno(), argv, tmp_path)
    return list(compare_dumps.differences(stored, seen))


def test_columns_are_compared_by_name_and_rows_in_whatever_order(tmp_path: Path) -> None:
    assert meant(tmp_path, CHILD, TURNED) == []
    assert meant(tmp_path, CHILD, TURNED.replace("one\t1\n\\N\t2\n", "\\N\t2\none\t1\n")) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("one\t1\n", "one\t3\n", IN_KID),
        ("one\t1\n", "\\N\t1\n", IN_KID),
        ("one\t1\n\\N\t2", "one\t2\n\\N\t1", IN_KID),
        ("one\t1\n\\N\t2", "\\N\t2\n\\N\t2", IN_KID),
        ("(a, x)", "(x, a)", IN_KID),
        ("x integer", "x bigint", [DEFINITIONS]),
        ("x integer", "x integer NOT NULL", [DEFINITIONS]),
        ("a text,\n    ", "a text,\n    b text,\n    ", [DEFINITIONS]),
        ("\nINHERITS (public.par)", "", [DEFINITIONS]),
        ("IS 'two'", "IS 'one'", [DEFINITIONS]),
        ("one\ntwo", "two\none", [DEFINITIONS]),
    ],
)
def test_what_means_something_else_is_found_by_the_second_look_too(
    tmp_path: Path, old: str, new: str, told: list[str]
) -> None:
    assert old in TURNED
    assert meant(tmp_path, CHILD, TURNED.replace(old, new, 1)) == told


def test_rows_may_be_in_another_partition_than_they_were(tmp_path: Path) -> None:
    copy = "-- load via partition root public.p\n\nCOPY public.p (m) FROM stdin;\n"
    live = f"{DATA.format('p1')}{copy}a\nb\n\\.\n\n\n{DATA.format('p2')}{copy}c\n\\.\n\n\n"
    moved = f"{DATA.format('p1')}{copy}c\n\\.\n\n\n{DATA.format('p2')}{copy}b\na\n\\.\n\n\n"
    assert meant(tmp_path, live, moved) == []
    assert meant(tmp_path, live, moved.replace("b\na", "b\nb")) == [
        "public.p: all 3 rows came back, but not all with the content that they had"
    ]


@pytest.mark.parametrize("length", [70, (1 << 20) - 4, 1 << 20, (3 << 20) + 1])
def test_a_row_of_whatever_length_is_compared(tmp_path: Path, length: int) -> None:
    live = CHILD.replace("1\tone\n", f"1\t{'x' * length}\n")
    assert meant(tmp_path, live, TURNED.replace("one\t1", f"{'x' * length}\t1")) == []
    assert meant(tmp_path, live, TURNED.replace("one\t1", f"{'x' * (length - 1)}y\t1")) == IN_KID
    assert meant(tmp_path, live, TURNED.replace("one\t1", f"{'x' * length}\t3")) == IN_KID


def test_however_many_tables_are_compared(tmp_path: Path) -> None:
    lives, copies = (
        "".join(each.replace("kid", f"kid{'_' * 1000}{number}") for number in range(70)) for each in (CHILD, TURNED)
    )
    assert meant(tmp_path, lives, copies) == []


def test_a_second_look_takes_little_memory_whatever_is_long(tmp_path: Path) -> None:
    """``by_meaning.pl`` with rows, definitions and lines that are longer than all of its memory."""
    part = b"x" * (1 << 20)
    head = COPY_HEAD.encode()
    long = [part] * 96
    definitions = [b"COMMENT ON TABLE t IS '", *long, b"';\n", b"--\n" * (1 << 18)]
    rows = [head, b"COPY t (a) FROM stdin;\n1\n", *long, b"\n2\n\\.\n", head, b"COPY u (a) FROM stdin;\n"]
    given = [*definitions, *rows, b"1\n" * (1 << 20), b"\\.\n"]
    tables = tmp_path / "tables"
    tables.write_text("t\nu\n")
    found = filtered("by_meaning.pl", tmp_path, tables, given=given)
    assert (found.status, found.said) == (0, "")
    assert [line.partition(b"\t") for line in found.out.splitlines()[1::2]] == [
        (b"3", b"\t", b"t"),
        (b"1048576", b"\t", b"u"),
        (b"-", b"\t", b""),
    ]
    assert list(tmp_path.iterdir()) == [tables]
