"""One run at a time, and no lock that outlives its run."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.errors import InterruptedRunError, LockHeldError, StoreError
from dental_pms_backup.host import stop
from dental_pms_backup.store import lock
from tests.unit.builders import python

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import pathlib, sys, time
from dental_pms_backup.store import lock
with lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def another_run(store: Path, *, lasts_s: float = 60) -> Iterator[subprocess.Popen[str]]:
    with python(HOLD, str(store), str(lasts_s)) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_second_run_on_a_store_is_told_who_is_in_its_way(tmp_path: Path) -> None:
    with another_run(tmp_path), pytest.raises(LockHeldError) as raised, lock.held(tmp_path):
        pass
    assert (raised.value.message, raised.value.hint, raised.value.exit_status, raised.value.cause) == (
        f"{tmp_path}: another run holds the lock",
        f"fuser -v {tmp_path}/.lock",
        75,
        "locked",
    )


def test_lock_of_a_killed_run_is_free_at_once(tmp_path: Path) -> None:
    with another_run(tmp_path) as process:
        assert lock.is_held(tmp_path)
        process.kill()
        process.wait()
        assert not lock.is_held(tmp_path)
        with lock.held(tmp_path):
            assert lock.is_held(tmp_path)


def test_run_that_may_wait_gets_the_lock_when_the_other_ends(tmp_path: Path) -> None:
    with another_run(tmp_path, lasts_s=0.7), lock.held(tmp_path, wait_s=20):
        assert lock.is_held(tmp_path)


def test_waiting_ends_with_a_wish_to_stop(tmp_path: Path) -> None:
    with another_run(tmp_path):
        began = time.monotonic()
        stop.request(15)
        with pytest.raises(InterruptedRunError), lock.held(tmp_path, wait_s=60):
            pass
    assert time.monotonic() - began < 30


def test_lock_is_free_after_the_block_and_after_its_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock.held(tmp_path):
        raise RuntimeError
    assert not lock.is_held(tmp_path)


def test_looking_at_the_lock_does_not_keep_a_run_out(tmp_path: Path) -> None:
    assert not lock.is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with lock.held(tmp_path):
        pass
    assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o600
    assert not lock.is_held(tmp_path)


def test_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError) as raised, lock.held(tmp_path):
        pass
    assert raised.value.message == (
        f"{tmp_path}: no lock can be made: Too many levels of symbolic links, expected a store that can be written"
    )
    assert not (tmp_path / "elsewhere").exists()


def test_filesystem_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(StoreError) as raised, lock.held(tmp_path):
        pass
    expected = f"{tmp_path}: the lock does not work: No locks available, expected a filesystem with flock"
    assert raised.value.message == expected


def test_store_that_does_not_exist_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no lock can be made: No such file or directory"), lock.held(tmp_path / "x"):
        pass
