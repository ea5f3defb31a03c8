"""Which tests are run where: DENTAL_PMS_SCOPE is what tests/run sets, without it nothing is left out.

quick   what needs no root: no sweep
ci      each test on one Debian release, and on both what touches one; no sweep
all     everything on both
"""

import os
import platform

import pytest

# Where a test is run in CI that is run on one release: half of them on each, so that the two lanes end together.
HOMES = {"integration": "trixie", "system": "bookworm"}
SCOPE = os.environ.get("DENTAL_PMS_SCOPE", "all")
MARKS = {
    "sweep": "long, many times the same: tests/run --all",
    "each_release": "of what the release brings (sh, systemd, Docker, PostgreSQL, ...): on both in CI, too",
}


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known."""
    for name, text in MARKS.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in scope."""
    left_out = [item for item in items if not in_scope(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def in_scope(item: pytest.Item) -> bool:
    """Tell whether a test is run here and now."""
    if SCOPE == "all":
        return True
    if item.get_closest_marker("sweep"):
        return False
    home = next((release for part, release in HOMES.items() if part in item.path.parts), None)
    return home in {None, release()} or item.get_closest_marker("each_release") is not None


def release() -> str:
    """Return the code name of the Debian release that the tests run on; of machines it is told."""
    return os.environ.get("DENTAL_PMS_TEST_SUITES") or platform.freedesktop_os_release()["VERSION_CODENAME"]
