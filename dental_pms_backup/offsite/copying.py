"""Copying sets to the second place and back, each copy proven and put on record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.errors import OffsiteError, UsageError
from dental_pms_backup.host import journal, notify
from dental_pms_backup.host.journal import Event
from dental_pms_backup.host.wording import moment
from dental_pms_backup.offsite import rclone
from dental_pms_backup.store import ledger, lock, publishing, sets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.store.sets import StoredSet


def push(config: Config, wanted: Sequence[str], *, now: datetime) -> Iterator[str]:
    """Copy sets, by default those that are not there yet, and yield each name once its copy was compared.

    OffsiteError at the end for each set that is not one to copy, and each name that another set has over there.
    """
    with journal.failure_told(Event.OFFSITE_FAILED):
        remote = rclone.connect(config.offsite)
        there = set(rclone.names(remote))
        here = [stored for stored in sets.listing(config.store) if stored.manifest]
        kept = [stored for stored in here if stored.name in there]
        problems = _others(remote, kept)
        for stored in _named(config, wanted) or [each for each in here if each.name not in there]:
            if stored.state not in {"verified", "proven"}:
                problems[stored.name] = f"set {stored.name} is {stored.state}, expected a verified set"
            if stored.name in problems:
                continue
            rclone.push(remote, config.store, stored, beat=notify.alive)
            journal.write(
                Event.OFFSITE_PUSHED,
                f"set {stored.name} is offsite, every file compared",
                fields={"set": stored.name},
            )
            with lock.held(config.store, wait_s=config.lock_wait_s):
                ledger.record(config.store, "offsite", now=now, facts={"set": stored.name, "result": "ok"})
            yield stored.name
        known = [stored for stored in kept if stored.name not in problems]
        rclone.push_known(remote, config.store, known, beat=notify.alive)
        _raise_first(problems)


def names(config: Config) -> list[str]:
    """Return the names of the sets in the second place, oldest name first."""
    return rclone.names(rclone.connect(config.offsite))


def verify(config: Config, wanted: Sequence[str]) -> dict[str, str]:
    """Compare sets byte for byte with the store's and return a problem for each name, empty where it is the same.

    By default these are the sets of both places, and those of which the ledger knows that they were copied there.
    """
    problems = {}
    with journal.failure_told(Event.OFFSITE_FAILED):
        remote = rclone.connect(config.offsite)
        there = rclone.names(remote)
        here = {stored.name: stored for stored in sets.listing(config.store)}
        chosen = [stored.name for stored in _named(config, wanted)] or [name for name in there if name in here]
        lost = {} if wanted else _lost(config, there)
        if not chosen and not lost:
            raise UsageError("offsite: no set to compare, expected at least one", hint="dental-pms-backup offsite push")
        for name in chosen:
            problems[name] = _problem(remote, config, here[name])
    for name, problem in lost.items():
        journal.write(Event.OFFSITE_FAILED, problem, priority=journal.ERROR, fields={"set": name})
    return {**problems, **lost}


def fetch(config: Config, name: str, *, now: datetime) -> StoredSet:
    """Bring a set back from the second place; it is proven before it becomes a set of the store."""
    with journal.failure_told(Event.OFFSITE_FAILED):
        remote = rclone.connect(config.offsite)
        publishing.prepare(config.store)
        with lock.held(config.store, wait_s=config.lock_wait_s):
            stored = rclone.fetch(remote, config.store, name, beat=notify.alive)
            ledger.record(config.store, "fetch", now=now, facts={"set": name, "result": "ok"})
        journal.write(Event.OFFSITE_FETCHED, f"set {name} was fetched and verified", fields={"set": name})
    return stored


def told(stored: StoredSet) -> str:
    """Return in a line that a set was fetched, and what is known of it."""
    known = "" if stored.is_good else f"it is {stored.state}"
    if not known and stored.suspicions:
        known = "what its run found strange was accepted"
    look = f"; {known}: dental-pms-backup show {stored.name}" if known else ""
    return f"{stored.name}: fetched and verified{look}"


def _named(config: Config, wanted: Sequence[str]) -> list[StoredSet]:
    return [sets.find(config.store, name) for name in wanted]


def _others(remote: rclone.Remote, kept: Sequence[StoredSet]) -> dict[str, str]:
    """Return a problem for each set of whose name another is over there, or one that cannot be read.

    Of a set that was trimmed here since, the whole one is there.
    """
    found = rclone.manifests(remote, [stored.name for stored in kept], beat=notify.alive) if kept else {}
    problems = {}
    for stored in kept:
        here, there = stored.manifest or {}, found.get(stored.name)
        if there is None:
            problems[stored.name] = f"set {stored.name}: its manifest cannot be read offsite, expected the store's"
        elif here["taken_at"] != there["taken_at"] or not here["streams"].items() <= there["streams"].items():
            problems[stored.name] = (
                f"set {stored.name}: another set of this name is offsite, expected this store's; "
                "does another store copy there?"
            )
    return problems


def _lost(config: Config, there: Sequence[str]) -> dict[str, str]:
    """Return a problem for each set that was copied, as the ledger has it, and is not over there."""
    pushed = {str(entry.get("set")): at for at, entry in ledger.entries(config.store, "offsite")}
    return {
        name: f"set {name}: not offsite, expected it there: it was copied at {moment(at)}"
        for name, at in sorted(pushed.items())
        if name not in there
    }


def _raise_first(problems: Mapping[str, str]) -> None:
    if problems:
        name, problem = next(iter(problems.items()))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise OffsiteError(problem + more, hint=f"dental-pms-backup show {name}")


def _problem(remote: rclone.Remote, config: Config, stored: StoredSet) -> str:
    try:
        rclone.compare(remote, config.store, stored, beat=notify.alive)
    except OffsiteError as error:
        journal.write(Event.OFFSITE_FAILED, error.message, priority=journal.ERROR, fields={"set": stored.name})
        return error.message
    journal.write(Event.OFFSITE_VERIFIED, f"set {stored.name} is the same offsite", fields={"set": stored.name})
    return ""
