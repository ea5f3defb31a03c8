"""What is true of all filters: they are perl, say what they are for, and end as programs that were given nothing do."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import FILTERS, TREE, filtered

if TYPE_CHECKING:
    from pathlib import Path

EACH = sorted(FILTERS.iterdir())
PROGRAM = re.compile(r"""["']perl["'],\s*["']-\w*[eE]""")
EVERYWHERE = [
    b"\0",
    b"\r\n",
    b"\xff\xfe\n",
    b"\\.\n",
    b"\n\n\n",
    b"x" * (3 << 20),
    b"\t" * (1 << 18),
    b"\\" * (1 << 18),
]
OF_LINES = (
    ("look_through.pl",),
    ("rows_and_files.pl", "/", "."),
    ("list_files.pl", ""),
    ("list_files.pl", "", "/dev/null"),
    ("compare_sizes.pl",),
)
OF_DUMPS = (
    ("extract_table.pl", "csv", "t"),
    ("extract_table.pl", "sql", "t"),
    ("original_names.pl", "t", "k", "n"),
    ("count_rows.pl", "/dev/null", "t", "k", "n"),
    ("has_money.pl",),
)


@pytest.mark.parametrize("path", EACH, ids=lambda path: path.name)
def test_a_filter_is_perl_and_says_first_what_it_is_for(path: Path) -> None:
    done = subprocess.run(["perl", "-wc", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, f"{path} syntax OK\n")
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", [path for path in EACH if path.suffix == ".pl"], ids=lambda path: path.name)
def test_a_filter_has_tests_of_its_own(path: Path) -> None:
    tests = [
        each.read_text() for each in (TREE / "tests/unit").rglob("test_*.py") if each.name != "test_every_filter.py"
    ]
    assert any(path.name in text for text in tests)


def test_no_module_has_a_filter_in_a_text() -> None:
    for module in (TREE / "dental_pms_backup").rglob("*.py"):
        assert not PROGRAM.search(module.read_text()), module


@pytest.mark.parametrize("words", OF_LINES, ids=lambda words: words[0])
def test_lines_of_nothing_are_none_and_one_without_an_end_is_not_taken(words: tuple[str, ...]) -> None:
    empty = filtered(*words)
    assert (empty.status, empty.said, empty.out.strip(b"0 \n")) == (0, "", b"")
    for cut in (b'-rw-r--r-- 0/0 1 2026-11-25 02:30:00 "./a"', b"1\t1", b"\0", b"1\t1\n" + b"x" * (2 << 20)):
        assert filtered(*words, given=cut).status != 0


@pytest.mark.parametrize("junk", EVERYWHERE, ids=lambda junk: repr(junk[:4]))
@pytest.mark.parametrize("words", [*OF_LINES, *OF_DUMPS], ids=lambda words: " ".join(words[:2]))
def test_whatever_bytes_come_are_never_told(words: tuple[str, ...], junk: bytes, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.touch()
    more = (str(keys), "4096") if words[0] == "original_names.pl" else ()
    text = b"canary\t" + junk + b"\ncanary\n"
    if words in OF_DUMPS:
        text = b"\n--\n\nCOPY t (k, n) FROM stdin;\n" + text + b"\\.\n"
    assert "canary" not in filtered(*words, *more, given=text).said
