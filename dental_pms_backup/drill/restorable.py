"""Would a restore take the dump? The filter of a restore reads all of it beside what a drill does, for nothing else."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from dental_pms_backup.drill import load
from dental_pms_backup.errors import DrillError, TemporaryError
from dental_pms_backup.host import descriptors, filters, programs
from dental_pms_backup.store import verify_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# As a restore of a set by a role says it, but for the roles that there are, which do not decide whether it is taken.
OF_A_SET = ("tell=0", "split=1", "ours=1", "restricts=1", "extension=x", "settings=x", "ends=--- ")


@contextlib.contextmanager
def reading(descriptor: int) -> Iterator[programs.Running]:
    """Have the filter read an open, compressed dump beside what the block does, for ``check``."""
    with verify_file.reopened(descriptor) as dump, descriptors.memory("control") as control:
        os.write(control, load.for_filter(dump, *OF_A_SET))
        os.lseek(dump, 0, os.SEEK_SET)
        argvs = verify_file.unpacker(), filters.argv("replay.pl", f"/proc/{os.getpid()}/fd/{control}")
        with descriptors.memory("told") as out, programs.running(*argvs, stdin=dump, out=out) as pipeline:
            yield pipeline


def check(pipeline: programs.Running, beat: Callable[[], None]) -> None:
    """Wait for the filter; DrillError where it takes no such dump, TemporaryError where it was ended."""
    unpacked, read = pipeline.wait(beat)
    load.check_not_killed(unpacked)
    if said := filters.complaint(read):
        raise DrillError(
            f"db: no restore takes the dump ({said}), expected only SQL and rows, as pg_dump writes them",
            hint="dental-pms-backup run   # a new set",
        )
    if not read.ok:
        raise TemporaryError(f"drill: {read}, expected it to read the dump to its end", hint="journalctl -k; df -h")
