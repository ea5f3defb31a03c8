"""A directory that is to be new, or empty, and gets what was unpacked beside it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError, RestoreError
from dental_pms_backup.host import places
from dental_pms_backup.live import swap, swap_steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dental_pms_backup.host.places import Place
    from dental_pms_backup.live.swap import Fresh


def check(around: Place, target: Path) -> None:
    """Raise RefusedError unless a directory is new, or empty, and no link."""
    try:
        with places.inside(around, target.name) as place:
            used = bool(place.entries()) or place.identity[0] != around.identity[0]
    except FileNotFoundError:
        used = False
    except OSError as error:
        raise RefusedError(f"{target}: {error.strerror}, expected a new or empty directory") from None
    if used:
        raise _not_new(target)


@contextlib.contextmanager
def around(target: Path) -> Iterator[Place]:
    """Hold the directory open in which a new one is to be made; RefusedError."""
    if not target.parent.is_dir():
        raise _not_new(target)
    with contextlib.ExitStack() as stack:
        with swap.told(target.parent, "expected a new or empty directory in it"):
            place = stack.enter_context(places.opened(target.parent))
        yield place


def give_name(around: Place, made: Fresh, target: Path) -> None:
    """Give what was unpacked the name of a directory that is new or empty; RestoreError when that is impossible."""
    try:
        os.rename(swap_steps.CONTENT, target.name, src_dir_fd=made.outer.descriptor, dst_dir_fd=around.descriptor)
        around.sync()
    except OSError as error:
        raise RestoreError(f"attachments: {target}: {error.strerror}, expected a new or empty directory") from None


def _not_new(target: Path) -> RefusedError:
    return RefusedError(
        f"{target}: expected a new or empty directory, in a directory that exists",
        hint="dental-pms-backup restore attachments SET --to ANOTHER_DIR",
    )
