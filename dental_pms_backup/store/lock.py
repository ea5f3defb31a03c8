"""One run at a time on a store: flock on a file in it, so that a dead machine leaves no stale lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from dental_pms_backup.errors import LockHeldError, StoreError, shell_word
from dental_pms_backup.host import owners, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RUNS, DRILLS = ".lock", ".drill-lock"
POLL_S = 0.1
LEAST_WAIT_S = 0.5  # longer than is_held() looks


@contextlib.contextmanager
def held(store: Path, *, wait_s: float = 0, beat: Callable[[], None] | None = None, name: str = RUNS) -> Iterator[None]:
    """Hold a lock of the store, waiting up to ``wait_s`` seconds; LockHeldError when another run keeps it.

    ``beat`` is called about ten times a second while it waits. Under the name RUNS whoever holds it may change the
    store; under DRILLS it is the only drill, beside which runs go on. RefusedError when another user can rename there:
    whoever writes to a store holds one of its locks.
    """
    owners.check_store(store)
    wait_s = max(wait_s, LEAST_WAIT_S)
    try:
        descriptor = os.open(store / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(
            f"{store}: no lock can be made: {error.strerror}, expected a store that can be written",
            hint=f"findmnt -T {shell_word(store)}",
        ) from None
    try:
        _lock(descriptor, store / name, time.monotonic() + wait_s, beat)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, deadline: float, beat: Callable[[], None] | None) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockHeldError(
                    f"{path.parent}: another {'drill' if path.name == DRILLS else 'run'} holds the lock",
                    hint=f"fuser -v {shell_word(path)}",
                ) from None
            stop.rest(POLL_S, beat=beat)
        except OSError as error:
            raise StoreError(
                f"{path.parent}: the lock does not work: {error.strerror}, expected a filesystem with flock"
            ) from None
        else:
            return


def is_held(store: Path) -> bool:
    """Tell whether a run holds the store now."""
    try:
        descriptor = os.open(store / RUNS, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
