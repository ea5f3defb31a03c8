"""The table of faults, tests/FAULTS.md: what each test that meets a fault saw, written from the tests' own results.

A test with the mark ``fault(area, text)`` is a row; the ids of its parameters are added to the text. What it saw it
tells by ``saw`` and ``recovered``: one that tells nothing, or not whether the next run succeeded, fails.

    tests/faults.py FILE...                     prints the table; DENTAL_PMS_FAULTS=FILE makes pytest write its results
                                                there, the name ends in "-" and the suite
    tests/faults.py --part-of TABLE FILE...     prints what the results have otherwise than the table, of which they may
                                                be a part, and exits 1 if that is anything
"""

import json
import os
import re
import sys
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

EVIL = "Somebody evil"
AREAS = ("Database", "Attachments", "Store", "Ourselves", "Content", EVIL)
SUITES = {"trixie": "13", "bookworm": "12"}
AS_BEFORE = "all sets as they were"
A_NEW_SET = "a new, verified set"
A_SUSPECT_SET = "a new set, marked suspect"
NOT_READ = "not read"
SUITE_IN_ID = re.compile(rf"(^|-)({'|'.join(SUITES)})(?=-|$)")
HEAD = """\
# Faults, and what happened

Each row is a test that makes the fault happen to the real thing: the installed package on a booted machine
(`tests/system`) or the program with a real PostgreSQL and real tools (`tests/integration`). Only where the exit is
"power lost, in a model" it is a model: of what a disk may have kept after each step that a real command took. What
stands here is what those tests saw: `tests/run --all` writes this table from their results and fails when it differs
from the committed one; `tests/run` compares the rows that it has seen.

**Exit** is the exit status of the run that met the fault, with the word after `failure=`. **In the store**: what it
left there. **Journal**: the events of its entries (`journalctl -u dental-pms-backup -x` explains them), or "not read".
**Next run**: what came of a run after the fault had gone. **Debian**: where it was seen.
"""
COLUMNS = ("Fault", "Exit", "In the store", "Journal", "Next run", "Debian", "Test")


@dataclass(slots=True, kw_only=True)
class Row:
    """What one test saw: ``exits``, ``stores`` and ``journals`` in the order in which its runs met the fault."""

    area: str
    fault: str
    test: str
    place: list[Any] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)
    journals: list[str] = field(default_factory=list)
    next_run: str = ""


class _Now:
    """The row of the test that runs now."""

    row: Row | None = None


def saw(*, status: int | str, cause: str = "", store: str, events: Sequence[str] | None) -> None:
    """Tell what a command that met the fault did; a status that is no number is for what was killed.

    ``events`` is nothing where the test did not read the journal.
    """
    if _Now.row is None:
        return
    for known, new in (
        (_Now.row.exits, f"{status} {cause}".strip()),
        (_Now.row.stores, store),
        (_Now.row.journals, NOT_READ if events is None else ", ".join(events)),
    ):
        if new not in known:
            known.append(new)


def recovered(how: str = "ok") -> None:
    """Tell that a run after the fault succeeded, and left the store as it has to be."""
    if _Now.row is not None:
        _Now.row.next_run = how


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "fault(area, text): a row of tests/FAULTS.md")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin the row of a test that is one."""
    _Now.row = _row(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Fail a test that is a row and did not tell what it saw, and write the row of one that passed."""
    outcome = yield
    report = outcome.get_result()
    row = _Now.row
    if row is None or report.when != "call" or not report.passed:
        return
    if not (row.exits and row.stores and row.next_run):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: a row of tests/FAULTS.md, expected to tell what it saw: {row}"
    elif "DENTAL_PMS_FAULTS" in os.environ:
        with Path(os.environ["DENTAL_PMS_FAULTS"]).open("a") as results:
            results.write(json.dumps(asdict(row)) + "\n")


def _row(item: pytest.Item) -> Row | None:
    mark = item.get_closest_marker("fault")
    if mark is None:
        return None
    area, text = mark.args
    assert area in AREAS, f"{item.name}: expected one of {AREAS}"
    call = getattr(item, "callspec", None)
    parameters = SUITE_IN_ID.sub("", call.id).strip("-") if call else ""
    path, line, _ = item.location
    return Row(
        area=area,
        fault=f"{text}: {parameters}" if parameters else text,
        test=getattr(item, "originalname", item.name),
        place=[Path(path).parent.name, Path(path).name, line or 0, list(call.indices.values()) if call else []],
    )


def _read(results: Iterable[Path]) -> tuple[dict[tuple[str, str], Row], dict[tuple[str, str], set[str]]]:
    rows: dict[tuple[str, str], Row] = {}
    seen_on: dict[tuple[str, str], set[str]] = {}
    for path in results:
        suite = SUITES[path.name.rpartition("-")[2]]
        for line in path.read_text().splitlines():
            row = Row(**json.loads(line))
            key = (row.area, row.fault)
            known = rows.setdefault(key, row)
            if _cells(known) != _cells(row) or suite in seen_on.get(key, set()):
                raise ValueError(f"{path}: {_cells(row)}, expected {_cells(known)}, once")
            seen_on.setdefault(key, set()).add(suite)
    return rows, seen_on


def table(results: Iterable[Path]) -> str:
    """Return the table as Markdown; ValueError when a fault came out differently in two results, or twice in one."""
    rows, seen_on = _read(results)
    text = [HEAD, f"{len(rows)} faults.\n"]
    for area in AREAS:
        chosen = sorted((row for row in rows.values() if row.area == area), key=lambda row: row.place)
        if chosen:
            text += [f"## {area}\n", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
            text += [_line([*_cells(row)[:-1], _suites(seen_on[area, row.fault]), row.test]) for row in chosen] + [""]
    return "\n".join(text)


def otherwise(known: str, results: Iterable[Path]) -> list[str]:
    """Return the rows of results that do not stand so in a table, which may have been seen on more releases."""
    lines = set(known.splitlines())
    rows, seen_on = _read(results)
    found = []
    for key, row in rows.items():
        *cells, test = _cells(row)
        more = [seen for seen in ("13, 12", _suites(seen_on[key])) if _line([*cells, seen, test]) in lines]
        if not more:
            found.append(_line([*cells, _suites(seen_on[key]), test]))
    return found


def _cells(row: Row) -> list[str]:
    return [
        row.fault,
        *("; then ".join(known) for known in (row.exits, row.stores, row.journals)),
        row.next_run,
        row.test,
    ]


def _suites(seen: set[str]) -> str:
    return ", ".join(sorted(seen, reverse=True))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    if sys.argv[1] == "--part-of":
        new = otherwise(Path(sys.argv[2]).read_text(), map(Path, sys.argv[3:]))
        sys.exit("\n".join([f"{sys.argv[2]}: expected these rows:", *new]) if new else 0)
    sys.stdout.write(table(Path(argument) for argument in sys.argv[1:]))
