"""On which terms something is put back: what it would replace, whether the admin wants that, what was done."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, RefusedError
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.host.wording import moment
from dental_pms_backup.store import ledger, lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.restore.backup_file import BackupFile
    from dental_pms_backup.store.sets import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did.

    ``kept`` is where what was live before is, None where nothing was replaced. ``rows`` were counted and compared.
    ``switch`` and ``drop`` are what an admin may type next: to put a new database in the live one's place, to let a
    kept one go.
    """

    stream: Stream
    file: Path
    target: str
    kept: Path | str | None = None
    rows: int | None = None
    safety_set: str = ""
    switch: Sequence[str] = ()
    drop: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a restore will do, in words: ``content`` of ``backup`` comes into ``target``, where there is ``room``.

    ``live`` says what becomes of what is live, ``losses`` what of it the backup has not, counts only. ``answer`` is
    what the admin types if he wants that, empty where nothing is replaced. ``ends`` says what an earlier restore has
    left, which is brought to its end first; ``strange`` why this may not be what was meant.
    """

    stream: Stream
    backup: BackupFile
    content: str
    target: str
    room: str
    live: str
    losses: Sequence[str] = ()
    answer: str = ""
    ends: Sequence[str] = ()
    strange: str = ""

    @property
    def origin(self) -> str:
        """Return what is restored, in words: set and time, or file."""
        stored = self.backup.stored
        return f"set {stored.name} of {moment(stored.taken_at)}" if stored else f"file {self.backup.file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How what is live may be replaced.

    ``consent`` is given what a restore will do, of each stream; it raises where the admin does not want that.
    ``replay`` in the live database itself is for a disk that cannot hold two. ``as_superuser`` is for what a role
    without rights may not make. In a ``dry_run`` nothing is changed, not even what an earlier restore has left.
    """

    consent: Callable[[Sequence[Prospect]], None]
    safety_set: bool = True
    replay: bool = False
    as_superuser: bool = False
    dry_run: bool = False


def agree(terms: Terms, *prospects: Prospect) -> None:
    """Have the admin say whether he wants what a restore will do; RefusedError says what was touched before."""
    try:
        terms.consent(prospects)
    except RefusedError as error:
        ended = any(prospect.ends for prospect in prospects)
        error.message += "; but for the earlier restore nothing was touched" if ended else "; nothing was touched"
        raise


def held(store: Path, terms: Terms) -> contextlib.AbstractContextManager[None]:
    """Hold the store while a restore lasts, if there is one and anything is changed."""
    return lock.held(store) if store.is_dir() and not terms.dry_run else contextlib.nullcontext()


@contextlib.contextmanager
def recorded(
    store: Path, stream: Stream, target: str, terms: Terms, now: datetime, where: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Put the restore of a stream into journal and ledger, however it ends; nothing of a dry run.

    ``where`` is what tells the next run that it is no stranger where this one went.
    """
    if terms.dry_run:
        yield
        return
    fields: dict[str, journal.Field] = {"stream": stream, "target": target}
    journal.write(Event.RESTORE_STARTED, f"restore of {stream} into {target} started", fields=fields)
    try:
        with journal.failure_told(Event.RESTORE_FAILED, "restore failed: ", fields):
            yield
    except BackupError as error:
        with contextlib.suppress(BackupError):  # the journal has it
            _enter(store, stream, now, {"result": "failed", "cause": error.cause})
        raise
    journal.write(Event.RESTORE_SUCCEEDED, f"restore of {stream} into {target} finished", fields=fields)
    _enter(store, stream, now, {"result": "ok", **(where or {})})


def _enter(store: Path, stream: Stream, now: datetime, facts: dict[str, str]) -> None:
    if store.is_dir():
        ledger.record(store, "restore", now=now, facts={"stream": stream, **facts})
