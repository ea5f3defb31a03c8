"""Taking all streams of a run: one after the other, or side by side where neither slows the other down."""

from __future__ import annotations

import contextlib
import os
from concurrent import futures
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dental_pms_backup.backup import one_stream, rows_without_file
from dental_pms_backup.errors import BackupError, TemporaryError
from dental_pms_backup.host import disks, journal, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import postgres
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from dental_pms_backup.backup.one_stream import Part
    from dental_pms_backup.config import settings
    from dental_pms_backup.live.sources import Sources

CORES_FOR_BOTH = 4  # a stream keeps two of them busy


@dataclass(slots=True)
class _Attempts:
    """The streams of a run as they come in: verified ones and failures."""

    parts: dict[Stream, Part] = field(default_factory=dict)
    failures: dict[Stream, BackupError] = field(default_factory=dict)

    def make(self, stream: Stream, take: Callable[[], Part]) -> None:
        """Take a stream, keeping its failure for later, so that the other is tried too; a wish to stop goes through."""
        try:
            self.parts[stream] = take()
        except BackupError as error:
            stop.check()
            self.failures[stream] = error
            journal.write(
                Event.STREAM_FAILED,
                error.message,
                priority=journal.ERROR,
                fields={"stream": stream, "cause": error.cause, "hint": error.hint or "dental-pms-backup status"},
            )


def take_all(order: one_stream.Order, found: Sources, wanted: settings.Database) -> list[Part]:
    """Take every stream that was found; one stream's failure is raised only after the other was tried.

    The archive is begun once the dump's snapshot is held: the files of its rows are there by then. Of both streams, how
    many rows lack their file is counted.
    """
    attempts = _Attempts()
    takes: dict[Stream, Callable[[], Part]] = {}
    if database := found.database:
        takes[Stream.DB] = lambda: one_stream.database(order, database, wanted)
    if attachments := found.attachments:
        takes[Stream.ATTACHMENTS] = lambda: one_stream.attachments(order, attachments)
    if _side_by_side(found):
        with futures.ThreadPoolExecutor() as pool:
            ended = [pool.submit(attempts.make, Stream.DB, takes[Stream.DB])]
            while not (order.snapshot_held.wait(stop.LONGEST_NAP_S) or ended[0].done()):
                pass
            ended += [pool.submit(attempts.make, Stream.ATTACHMENTS, takes[Stream.ATTACHMENTS])]
            while futures.wait(ended, timeout=stop.LONGEST_NAP_S).not_done:
                pass  # awake now and then: a signal that comes as this thread falls asleep is heard only then
        for each in ended:
            each.result()
    else:
        for stream, take in takes.items():
            attempts.make(stream, take)
    _raise_failures(attempts)
    stop.check()
    parts = [attempts.parts[stream] for stream in takes]
    return rows_without_file.counted(order, parts, database.server) if database else parts


def _side_by_side(found: Sources) -> bool:
    """Tell whether both streams are wanted, from different disks, on a machine that has cores for both."""
    if not found.database or not found.attachments or len(os.sched_getaffinity(0)) < CORES_FOR_BOTH:
        return False
    data = None
    with contextlib.suppress(BackupError):  # what is only quicker is worth no failure
        data = postgres.data_directory(found.database.server)
    return data is not None and disks.differ(data, found.attachments.path)


def _raise_failures(attempts: _Attempts) -> None:
    """Raise the failure that is least worth a retry, if any."""
    failures = [attempts.failures[stream] for stream in Stream if stream in attempts.failures]
    lasting = [error for error in failures if not isinstance(error, TemporaryError)]
    for error in [*lasting, *failures]:
        raise error
