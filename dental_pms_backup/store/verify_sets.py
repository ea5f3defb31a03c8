"""Verifying sets that are in the store: the checksum of every file, and its content to the last byte."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import VerificationError
from dental_pms_backup.host import durable, journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.store import sets, verify_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.store.sets import Artefact, StoredSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What verifying a set found; it is good when there are no problems."""

    stored: StoredSet
    problems: tuple[str, ...]


def verify_set(store: Path, stored: StoredSet, *, watch: Watch) -> Verdict | None:
    """Read every file of a set to its end and compare it with the manifest; nothing is changed.

    None when a rotation removed the set meanwhile.
    """
    problems = [*stored.problems, *_problems(store, stored, watch=watch)]
    if problems and has_changed(store, stored):
        return None
    if problems:
        journal.write(
            Event.SET_DAMAGED,
            f"set {stored.name} is damaged: {problems[0]}",
            priority=journal.ERROR,
            fields={"set": stored.name},
        )
    else:
        journal.write(Event.SET_VERIFIED, f"set {stored.name} is verified", fields={"set": stored.name})
    return Verdict(stored=stored, problems=tuple(problems))


def has_changed(store: Path, stored: StoredSet) -> bool:
    """Tell whether retention has removed the set, or a stream of it, since it was listed."""
    found = next((other for other in sets.listing(store) if other.name == stored.name), None)
    return found is None or found.manifest != stored.manifest


def _problems(store: Path, stored: StoredSet, *, watch: Watch) -> Iterator[str]:
    if stored.manifest is not None and not _has_its_checksums(store, stored.name, stored.manifest):
        yield f"sets/{stored.name}.sha256: not as the manifest has it, expected the same checksums"
    for artefact in stored.artefacts:
        try:
            _verify_artefact(store, artefact, watch=watch)
        except VerificationError as error:
            yield error.message
        except OSError as error:
            yield f"{artefact.path}: cannot be read: {error.strerror}"


def _has_its_checksums(store: Path, name: str, manifest: Mapping[str, Any]) -> bool:
    try:
        return durable.read(store / f"sets/{name}.sha256").decode() == sets.checksum_lines(manifest)
    except (OSError, UnicodeDecodeError):
        return False


def _verify_artefact(store: Path, artefact: Artefact, *, watch: Watch) -> None:
    path = store / artefact.path
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with verify_file.reading(path, artefact.kind, descriptor) as both:
            content, checksum = both.descriptors
            with watch.showing(artefact.path, content, artefact.size_bytes, beside=checksum) as beat:
                both.verify(expected=artefact.sha256, beat=beat)
    finally:
        os.close(descriptor)
