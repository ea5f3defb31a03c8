"""Which tests are run where: DENTAL_PMS_SCOPE is what tests/run sets, without it nothing is left out.

quick   what needs no root: no sweep
build   the unit tests, where the package is built: no sweep
ci      each test on one Debian release, and on both what touches one; no sweep, and nothing thorough
all     everything on both
"""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import pytest

# Where a test is run in CI that is run on one release, by its module or its part: half of the time on each, so that the
# two lanes end together.
HOMES = {
    "test_evil_dump": "bookworm",
    "test_evil_dumps": "bookworm",
    "test_extract": "bookworm",
    "test_faults_drill": "bookworm",
    "test_lying_tools": "bookworm",
    "test_restore_new": "bookworm",
    "test_restorer": "bookworm",
    "test_shadows": "bookworm",
    "test_worst_day": "bookworm",
    "integration": "trixie",
    "test_2_section_4": "trixie",
    "system": "bookworm",
    "test_compare_dumps": "trixie",
    "test_retention": "trixie",
    "test_settings": "trixie",
    "test_publishing": "bookworm",
    "test_sets": "bookworm",
    "filters": "bookworm",
    "cli": "trixie",
    "config": "trixie",
    "store": "trixie",
}
Case = TypeVar("Case")
SCOPE = os.environ.get("DENTAL_PMS_SCOPE", "all")
MARKS = {
    "sweep": "long, many times the same: tests/run --all",
    "thorough": "of what a neighbour in CI would seldom miss: tests/run --all",
    "sample(every)": "of its cases CI runs the first, and each so manieth after it",
    "each_release": "of what the release brings (sh, systemd, Docker, PostgreSQL, ...): on both in CI, too",
}


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known."""
    for name, text in MARKS.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in scope."""
    cases = Counter[tuple[str, str]]()
    left_out = []
    for item in items:
        test = (str(item.path), getattr(item, "originalname", item.name))
        if not in_scope(item, cases[test]):
            left_out.append(item)
        cases[test] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def in_scope(item: pytest.Item, case: int) -> bool:
    """Tell whether a case of a test, counted from 0, is run here and now."""
    if SCOPE == "all":
        return True
    sample = item.get_closest_marker("sample")
    if item.get_closest_marker("sweep") or (sample and case % sample.args[0]):
        return False
    if SCOPE != "ci":
        return True
    if item.get_closest_marker("thorough"):
        return False
    where = {item.path.stem, *item.path.parts}
    home = next((suite for part, suite in HOMES.items() if part in where), release())
    asked_for = release() in getattr(item, "fixturenames", ())  # the machine of this release by its name
    return home == release() or asked_for or item.get_closest_marker("each_release") is not None


def some(cases: Sequence[Case], every: int) -> Sequence[Case]:
    """Return of the cases that one test goes through all, or what CI tries: the first, and each so manieth after it."""
    return cases if SCOPE == "all" else cases[::every]


def release() -> str:
    """Return the code name of the Debian release that the tests run on; of machines it is told."""
    return os.environ.get("DENTAL_PMS_TEST_SUITES") or platform.freedesktop_os_release()["VERSION_CODENAME"]
