"""What every unit test stands on: no journal, no environment of the caller's, a time zone with a summer time."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from dental_pms_backup.host import journal, stop
from tests import scope

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLES = tempfile.TemporaryDirectory(prefix="hypothesis-")  # not in the source tree, where it would keep them
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = TABLES.name
settings.register_profile(
    "unit",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("unit")

FOREIGN = (
    "ATTACHMENTS_PATH",
    "BACKUP_DIR",
    "BACKUP_KEEP",
    "CONFIRM",
    "CREDENTIALS_DIRECTORY",
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "TRIGGER_TIMER_REALTIME_USEC",
)


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.is_registered(scope):
        config.pluginmanager.register(scope)


def pytest_unconfigure() -> None:
    TABLES.cleanup()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the caller's environment out, and what a test does to the process in."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    monkeypatch.setattr(stop, "_signals", [])
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # the tests' disks need not outlive a power cut
    time.tzset()
    mask = os.umask(0o022)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with journal.silent():
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.umask(mask)
    journal.show(journal.Echo.NOTHING)
    monkeypatch.undo()
    time.tzset()
