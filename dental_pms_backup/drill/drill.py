"""A drill: restore a set into a throwaway server, compare what came back with what went in, put it on record.

The store's lock is not held meanwhile, for runs go on. The set's files are opened first, so that they can be read to
their end whatever retention does; what became of the set is looked at before anything is recorded of it.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dental_pms_backup.drill import leftovers, proofs
from dental_pms_backup.drill.findings import Findings
from dental_pms_backup.drill.limit import Limit
from dental_pms_backup.drill.proofs import Job
from dental_pms_backup.errors import (
    BackupError,
    DrillError,
    TemporaryError,
    UsageError,
    cause_of,
)
from dental_pms_backup.host import descriptors, journal, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.host.progress import Watch
from dental_pms_backup.host.wording import duration
from dental_pms_backup.store import drill_record, ledger, lock, sets, verify_sets
from dental_pms_backup.store.drill_record import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.store.sets import Kind, StoredSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Drilled:
    """What a drill that came to its end found. ``figures`` are seconds, and counts of rows and files.

    ``reasons`` say of a proof why it was not checked, or how.
    """

    stored: StoredSet
    where: str
    results: Mapping[str, Result]
    figures: Mapping[str, float]
    problems: tuple[str, ...]
    reasons: Mapping[str, str]

    @property
    def failure(self) -> DrillError | None:
        """Return the error that a set which failed ends with; the journal has it."""
        if not self.problems:
            return None
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        error = DrillError(
            f"set {self.stored.name} failed its drill: {self.problems[0]}{more}",
            hint=f"dental-pms-backup show {self.stored.name}",
        )
        error.told = True
        return error


def perform(config: Config, wanted: str | None, *, now: datetime, watch: Watch) -> Drilled | None:
    """Drill a set, by default the newest that was not, and put on record what that found; None when none is left.

    What speaks against the set is returned. BackupError when the drill could not be done, which says nothing of it.
    """
    began = time.monotonic()
    store, mark = config.store, leftovers.mark_of(config.store)
    stored = _chosen(store, wanted)
    if stored is None:
        return None
    limit = Limit(config.drill.timeout_s)
    with (
        journal.failure_told(Event.DRILL_NOT_DONE, "drill failed: ", {"set": stored.name}),
        lock.held(store, wait_s=config.lock_wait_s, beat=limit.beat, name=lock.DRILLS),
        _entered(store, stored, now),
        descriptors.room_for("the drill cannot go on"),
    ):
        _clear(mark, config.drill.directory)
        journal.write(Event.DRILL_STARTED, f"drill of set {stored.name} started", fields={"set": stored.name})
        findings = Findings()
        with _opened(store, stored) as files, leftovers.private_directory(mark, config.drill.directory) as place:
            job = Job(
                config=config,
                stored=stored,
                manifest=stored.manifest or {},
                files=files,
                place=place,
                findings=findings,
                watch=Watch(bar=watch.bar),  # building an index moves no byte for hours: the limit is that of the whole
                limit=limit,
            )
            proofs.prove(job)
        ended_at = now + timedelta(seconds=time.monotonic() - began)
        findings.figures["data_age_s"] = round(max(0.0, (now - stored.taken_at).total_seconds()))
        findings.figures["drill_s"] = round(time.monotonic() - began, 1)
        drilled = Drilled(
            stored=stored,
            where=findings.where,
            results=findings.results,
            figures=findings.figures,
            problems=tuple(findings.problems),
            reasons=findings.reasons,
        )
        _record(store, drilled, ended_at, limit)
    return drilled


def _chosen(store: Path, wanted: str | None) -> StoredSet | None:
    listed = sets.listing(store)
    if wanted is None and listed:
        undrilled = [each for each in listed if each.manifest and not each.proof and not each.problems]
        return undrilled[-1] if undrilled else None
    stored = sets.find(store, wanted or "")
    if stored.manifest is None:
        raise UsageError(f"set {stored.name}: it has no manifest to compare with, expected a set of this program")
    return stored


def _clear(mark: str, directory: Path) -> None:
    left = leftovers.clear(mark, directory)
    if left:
        text = f"{left} leftovers of a killed drill were removed"
        journal.write(Event.DRILL_CLEARED, text, priority=journal.WARNING)


@contextlib.contextmanager
def _opened(store: Path, stored: StoredSet) -> Iterator[dict[Kind, int]]:
    with contextlib.ExitStack() as stack:
        files = {}
        for artefact in (each for each in stored.artefacts if each.sha256):  # what the manifest has forgotten is going
            try:
                files[artefact.kind] = os.open(store / artefact.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise _gone(stored) from None
            except OSError as error:
                raise TemporaryError(f"{store / artefact.path}: cannot be read: {error.strerror}") from None
            stack.callback(os.close, files[artefact.kind])
        yield files


def _gone(stored: StoredSet) -> TemporaryError:
    return TemporaryError(
        f"set {stored.name} was removed or changed during the drill, so nothing is recorded of this drill",
        hint="dental-pms-backup drill   # the newest set",
    )


def _record(store: Path, drilled: Drilled, ended_at: datetime, limit: Limit) -> None:
    """Put a drill that came to its end beside the set, into the ledger and into the journal."""
    stored = drilled.stored
    result = Result.FAILED if drilled.problems else Result.PASSED
    facts = {"result": result, "where": drilled.where, "proofs": dict(drilled.results), **drilled.figures}
    with lock.held(store, wait_s=limit.left_s, beat=limit.beat):  # a run may go on for hours
        if stored.manifest is None or verify_sets.has_changed(store, stored):
            raise _gone(stored)
        details: dict[str, Any] = {"drilled_at": ended_at.astimezone(UTC).isoformat()}
        details |= {"problems": list(drilled.problems), "reasons": dict(drilled.reasons)}
        drill_record.write(store, stored.name, stored.manifest, {**facts, **details})
        ledger.record(store, "drill", now=ended_at, facts={"set": stored.name, **facts})
    if drilled.failure:
        _tell(Event.DRILL_FAILED, stored, drilled.failure.message, priority=journal.ERROR)
    else:
        text = f"set {stored.name} is proven: what came back is what went in"
        took = f", the database in {duration(drilled.figures['restore_s'])}" if "restore_s" in drilled.figures else ""
        left = [name for name, result in drilled.results.items() if result is Result.NOT_CHECKED]
        _tell(Event.DRILL_PASSED, stored, text + took + (f"; not checked: {', '.join(left)}" if left else ""))


@contextlib.contextmanager
def _entered(store: Path, stored: StoredSet, now: datetime) -> Iterator[None]:
    """Put a drill that could not be done into the ledger, unless a run holds it; the failure goes on as it is."""
    try:
        yield
    except Exception as error:
        facts = {"set": stored.name, "result": "not done", "cause": cause_of(error)}
        with stop.deferred(), contextlib.suppress(BackupError), lock.held(store):  # if not, the journal has it
            ledger.record(store, "drill", now=now, facts=facts)
        raise


def _tell(event: Event, stored: StoredSet, text: str, *, priority: int = journal.INFO) -> None:
    journal.write(event, text, priority=priority, fields={"set": stored.name})
