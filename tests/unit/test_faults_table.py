"""tests/FAULTS.md and the tests that are its rows: nothing in it without a test, no such test that is not in it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests import faults
from tests.unit.builders import TREE

if TYPE_CHECKING:
    from pathlib import Path

TABLE = (TREE / "tests/FAULTS.md").read_text()
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith(("| Fault", "| ---"))]
MARKED = re.compile(r"^@pytest\.mark\.fault\((?:(?!^def ).)*?^def (test_\w+)", re.MULTILINE | re.DOTALL)
ROW = faults.Row(
    area="Store",
    fault="the disk is full",
    test="test_full",
    exits=["1 store"],
    stores=[faults.AS_BEFORE],
    journals=["run-failed"],
    next_run="ok",
)


def results(tmp_path: Path, suite: str, **changed: str | list[str]) -> Path:
    file = tmp_path / f"seen-{suite}"
    known = {name: getattr(ROW, name) for name in ROW.__dataclass_fields__}
    file.write_text(json.dumps({**known, "place": ["system", "test_x.py", 1, []], **changed}) + "\n")
    return file


def test_each_row_has_its_test_and_each_such_test_its_row() -> None:
    files = [path for part in ("integration", "system") for path in (TREE / "tests" / part).rglob("test_*.py")]
    marked = {name for path in files for name in MARKED.findall(path.read_text())}
    assert {row.rstrip(" |").rpartition(" | ")[2] for row in ROWS} == marked


def test_rows_are_counted() -> None:
    assert f"\n{len(ROWS)} faults.\n" in TABLE


def test_part_of_a_table_is_part_of_it(tmp_path: Path) -> None:
    both = faults.table([results(tmp_path, "trixie"), results(tmp_path, "bookworm")])
    assert faults.otherwise(both, [results(tmp_path, "trixie")]) == []
    one = faults.table([results(tmp_path, "trixie")])
    assert faults.otherwise(one, [results(tmp_path, "bookworm")]) != []


def test_row_that_came_out_otherwise_is_told(tmp_path: Path) -> None:
    known = faults.table([results(tmp_path, "trixie")])
    seen = results(tmp_path, "trixie", exits=["0"])
    assert faults.otherwise(known, [seen]) == [
        f"| the disk is full | 0 | {faults.AS_BEFORE} | run-failed | ok | 13 | test_full |"
    ]
