"""What a dump's strings, bodies and comments hold is text, wherever a read ends and whatever it looks like."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.builders import COPY_HEAD, FILTERS, filtered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# reads all of a dump, and hands it over in blocks of the sizes that it is told
IN_BLOCKS = r"""
use lib shift; use Copy; local $/; my $all = <STDIN>; my ($text, $rest, %rows, $table, @sql) = ("", "");
my $take = Copy::reader(begun => sub { $rows{$table = $_[0]} += 0 }, rows => sub { $rows{$table} += $_[0] =~ tr/\n// },
    ended => sub { $table = undef }, besides => sub { $rest .= $_[0] });
for my $size (@ARGV, length $all) { $text .= substr($all, 0, $size, ""); $take->($text) }
die "in rows" if defined $table;
print map("$_\t$rows{$_}\n", sort keys %rows), "\0", $rest, $text;
"""
FAKES = (
    f"{COPY_HEAD}COPY public.patients (id, name) FROM stdin;\n",
    f"{COPY_HEAD}COPY public.patients (id, name) FROM stdin;\n1\tx\n\\.\n\n",
    ";\nCOPY public.patients (id, name) FROM stdin;\n1\tx\n",
    "\n--\n-- load via partition root public.patients\n\nCOPY public.patients (id, name) FROM stdin;\n",
)
AWKWARD = (
    *FAKES,
    *("'", '"', "$$", "$x$", "$_$", "$", "\\", "\\\\", "/*", "*/", "--", "-", "/", "*", "\n", "\r", ";", "(", ")", ","),
    *("e'", "E", "BEGIN ATOMIC", "begin", "END", "CASE", "CREATE FUNCTION", "COPY", "\\.\n", "\nSET x = 1;", "\u00e4"),
    *("a", "1", " "),
)


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def escaped(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def slashed(text: str) -> str:
    return "e'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def dollars(text: str) -> str:
    """As pg_dump does it: a tag that is not in the text, and at its end neither."""
    tag = "_"
    while f"${tag}" in text + "$":
        tag += "XX_"
    return f"${tag}${text}${tag}$" if "$$" in text + "$" else f"$${text}$$"


def nested(text: str) -> str:
    for each in ("/*", "*/"):
        text = text.replace(each, "")
    return f"/* /*{text.strip('*/')} */{text.strip('*/')} */"


def line(text: str) -> str:
    return "-- " + " ".join(text.splitlines())


STATEMENTS: dict[str, Callable[[str], str]] = {
    "comment on": lambda text: f"COMMENT ON TABLE public.patients IS {literal(text)};\n",
    "label": lambda text: f"SECURITY LABEL FOR x ON TABLE public.t IS {escaped(text)};\n",
    "default": lambda text: f"ALTER TABLE public.t ALTER COLUMN a SET DEFAULT {slashed(text)}::text;\n",
    "name": lambda text: f"CREATE TABLE public.{identifier(text)} (a integer DEFAULT (1), {identifier(text)} text);\n",
    "body": lambda text: f"CREATE FUNCTION public.f(a integer) RETURNS text\n    AS {dollars(text)};\n",
    "atomic": lambda text: (
        f"CREATE OR REPLACE FUNCTION public.f() RETURNS text\n    LANGUAGE sql\n    BEGIN ATOMIC\n"
        f" SELECT CASE WHEN (a) THEN {literal(text)} ELSE {escaped(text)} END;\n"
        f" SELECT t.begin, {identifier(text)};\nEND;\n"
    ),
    "procedure": lambda text: f"CREATE PROCEDURE public.begin()\n    LANGUAGE plpgsql\n    AS {dollars(text)};\n",
    "rule": lambda text: f"CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT {literal(text)}; SELECT 1);\n",
    "view": lambda text: f"CREATE VIEW v AS\n SELECT (a - 1) / 2 AS {identifier(text)} WHERE b$c$ = {literal(text)};\n",
    "line": lambda text: f"{line(text)}\n",
    "nested": lambda text: f"{nested(text)}\nSELECT 1 {nested(text)};\n",
    "psql": lambda text: f"\\connect {' '.join(text.splitlines())}\n",
    "odd strings": lambda text: f"SELECT N{literal(text)}, type{literal(text)}, U&{literal(text)}, $1, 1e5;\n",
}
TABLES = ("public.patients", 'public."a ""b"" FROM stdin;"', "s.none", 'public."(x), E\'"')
ROWS = (
    "1\tx\n",
    "\n",
    "it's\t\"\n",
    "\\\\.\n",
    "\\.x\n",
    "$$\n",
    "-- /*\n",
    "COPY public.t (a) FROM stdin;\n",
    "x\\.\n",
)


def copy(table: str, rows: Sequence[str]) -> str:
    columns = "  " if table == "s.none" else ' (id, "the (na""me)", note) '
    return f"COPY {table}{columns}FROM stdin;\n{''.join(rows)}\\.\n"


def in_blocks(dump: str, sizes: Sequence[int]) -> tuple[dict[str, int], str]:
    """Return the rows of each table, and all the rest."""
    done = subprocess.run(
        ["perl", "-w", "-e", IN_BLOCKS, FILTERS, *map(str, sizes)],
        input=dump.encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    counts, _, rest = done.stdout.decode().partition("\0")
    return {table: int(rows) for table, rows in (each.rsplit("\t", 1) for each in counts.splitlines())}, rest


text = st.lists(st.sampled_from(AWKWARD), max_size=8).map("".join)
statement = st.tuples(st.sampled_from(sorted(STATEMENTS)), text)
rows_of = st.tuples(st.sampled_from(TABLES), st.lists(st.sampled_from(ROWS), max_size=4))
dumps = st.lists(st.one_of(statement, rows_of), min_size=1, max_size=8)
sizes = st.lists(st.one_of(st.integers(1, 9), st.integers(1, 400)), max_size=60)


def is_told_apart(parts: Sequence[tuple[str, str | list[str]]], sizes: Sequence[int]) -> None:
    dump, rest = "", ""
    expected: dict[str, int] = {}
    for what, content in parts:
        if isinstance(content, str):
            made = STATEMENTS[what](content)
            rest += made
        else:
            made = copy(what, content)
            rest += made.partition("\n")[0] + "\n"
            expected[what] = expected.get(what, 0) + len(content)
        dump += made
    assert in_blocks(dump, sizes) == (expected, rest)


@settings(max_examples=40)
@given(parts=dumps, sizes=sizes)
def test_rows_and_all_the_rest_are_told_apart_wherever_a_read_ends(
    parts: list[tuple[str, str | list[str]]], sizes: list[int]
) -> None:
    is_told_apart(parts, sizes)


@pytest.mark.sweep
@settings(max_examples=2000)
@given(parts=dumps, sizes=sizes)
def test_rows_and_all_the_rest_are_told_apart_many_times(
    parts: list[tuple[str, str | list[str]]], sizes: list[int]
) -> None:
    is_told_apart(parts, sizes)


@pytest.mark.sample(5)
@pytest.mark.parametrize("fake", FAKES, ids=["unended", "ended", "behind a statement", "of a partition"])
@pytest.mark.parametrize("how", [*STATEMENTS])
def test_what_looks_like_rows_of_a_table_is_none_for_any_filter(how: str, fake: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(b"1\0")
    rows = copy("public.patients", ["1\tname\tnote\n"]).replace('"the (na""me)"', "name").encode()
    dump = STATEMENTS[how](fake + fake).encode() + rows + STATEMENTS[how](fake).encode() + copy("t", []).encode()
    assert filtered("count_rows.pl", given=dump).out.partition(b"\0")[0] == b"public.patients\t1\nt\t0\n"
    assert [each.split()[0] for each in filtered("tally.pl", given=dump).out.splitlines()[1::2]] == [b"1", b"0", b"-"]
    assert filtered("extract_table.pl", "list", given=dump).out == b"public.patients\nt\n"
    assert filtered("extract_table.pl", "sql", "public.patients", given=dump).out == rows
    assert filtered("original_names.pl", "patients", "id", "name", keys, "99", given=dump).out == b"1\0name\0"
    dump += STATEMENTS[how]("fee money, ::money").encode()
    assert filtered("has_money.pl", given=dump).status == 0
    assert filtered("has_money.pl", given=dump + b"CREATE DOMAIN public.fee AS money;\n").status == 1


@pytest.mark.parametrize("off", [False, True])
def test_a_backslash_is_a_byte_as_long_as_the_dump_says_so(off: bool) -> None:
    head = "SET standard_conforming_strings = off;\n" if off else "SET standard_conforming_strings = on;\n"
    comment = f"COMMENT ON TABLE t IS 'C:\\{chr(39) if off else ''}\n--\n\nCOPY t (a) FROM stdin;\n';\n"
    assert in_blocks(head + comment + copy("t", ["1\n"]), []) == (
        {"t": 1},
        head + comment + copy("t", []).removesuffix("\\.\n"),
    )


def test_a_name_with_the_end_of_a_line_is_told_in_one() -> None:
    rows, _ = in_blocks(copy('public."a\nb\t"', ["it's\n"]) + copy("t", []), [])
    assert rows == {'public."a\\nb\t"': 1, "t": 0}


@pytest.mark.parametrize("begins", ["E'", '"', "$a$", "/*", "--", "\\", "COPY ", "CREATE FUNCTION "])
def test_a_statement_of_whatever_length_takes_little_memory(begins: str) -> None:
    dump = [f"SELECT 1;\n{begins}".encode(), *[b"x" * (1 << 20)] * 96, b"\n"]
    assert filtered("count_rows.pl", given=dump).status == 0
