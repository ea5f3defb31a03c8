"""Machines for the system tests; `tests/run system` makes what they need and sets DENTAL_PMS_TEST_WORK."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import faults, scope
from tests.system import practice
from tests.system.machine import Machine

SUITES = ("trixie", "bookworm")
CHOSEN = os.environ.get("DENTAL_PMS_TEST_SUITES", " ".join(SUITES)).split()


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests that meet a fault be rows of tests/FAULTS.md, and leave out what is not in scope."""
    for plugin in (faults, scope):
        if not config.pluginmanager.is_registered(plugin):
            config.pluginmanager.register(plugin)


def booted(suite: str) -> Iterator[Machine]:
    """Boot the suite's machine, or take it over from an earlier run, with this run's package in /root."""
    machine = Machine(work_directory(), suite)
    if not machine.is_running():
        machine.boot(suite)
    machine.run("rm -f /root/*.deb")
    for package in machine.work.glob(f"deb/{suite}/*.deb"):
        machine.copy_in(package, f"/root/{package.name}")
    yield machine
    if "DENTAL_PMS_TEST_KEEP_MACHINES" not in os.environ:
        machine.power_off()


@pytest.fixture(scope="session")
def trixie() -> Iterator[Machine]:
    """Debian 13, with the package's file in /root but not installed."""
    yield from booted("trixie")


@pytest.fixture(scope="session")
def bookworm() -> Iterator[Machine]:
    """Debian 12, with the package's file in /root but not installed."""
    yield from booted("bookworm")


@pytest.fixture(scope="session", params=CHOSEN)
def machine(request: pytest.FixtureRequest) -> Machine:
    """Both machines, one after the other (or the one that DENTAL_PMS_TEST_SUITES names)."""
    booted_machine: Machine = request.getfixturevalue(request.param)
    return booted_machine


@pytest.fixture(scope="session")
def practice_machine(machine: Machine) -> Machine:
    """Both machines, each with the practice's containers up and its sample data in them."""
    practice.ensure(machine)
    return machine


@pytest.fixture(scope="session")
def practice_trixie(trixie: Machine) -> Machine:
    """Debian 13 with the practice's compose project up and its sample data in it."""
    practice.ensure(trixie)
    return trixie


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of a machine that is not among the chosen ones."""
    others = set(SUITES) - set(CHOSEN)
    left_out = [item for item in items if others & set(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CallInfo[None], None]:
    """Show what the machines' journals say when a test fails."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's Result, which it does not export
    if not report.failed:
        return
    since = f"-{int(report.duration) + 2}s"
    used = [found for found in getattr(item, "funcargs", {}).values() if isinstance(found, Machine)]
    for found in {found.name: found for found in used if found.is_running()}.values():
        report.sections.append((f"journal of {found.name}", found.journal(since=since)))


def work_directory() -> Path:
    """Return the directory that holds the roots, the package and the machines of this run."""
    if "DENTAL_PMS_TEST_WORK" not in os.environ:
        pytest.exit("the system tests need machines: start them by tests/run system", returncode=4)
    return Path(os.environ["DENTAL_PMS_TEST_WORK"]).resolve()
