"""From draft to set, and removal: what is written, in which order, and what a killed run leaves.

Each draft is fsynced where it was written; then the checksum file and the manifest are written as drafts and fsynced;
then everything is renamed, the manifest last, and the directories are fsynced. A run killed before the first rename
leaves only drafts, which the next run clears; one killed between two renames is finished by the next run, since all
content had been verified before.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import BackupError, RefusedError, StoreError
from dental_pms_backup.host import durable, owners, wording
from dental_pms_backup.store import drill_record, sets
from dental_pms_backup.store.marks import Mark
from dental_pms_backup.store.sets import NAME_PATTERN, Kind, StoredSet, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

FETCHING = ".fetching-"
COUNTING = ".counting-"
KNOWN = (Mark.ACCEPTED, drill_record.SUFFIX)  # the files beside a manifest that say what its set is known to be
DRAFT_OF_MANIFEST = re.compile(rf"\.({NAME_PATTERN})\.json{re.escape(durable.DRAFT_SUFFIX)}")
OWN_NAME = re.compile(
    rf"db|sets|attachments_{NAME_PATTERN}\.tgz|RESTORE\.txt|last-run\.json|ledger\.jsonl|lost\+found|\.lock|\.drill-lock|\..*\.draft"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A file being written: hidden, in the directory of its artefact, open for writing and reading.

    ``settled`` is set once nobody writes it any more, by which those who read it meanwhile know its end.
    """

    kind: Kind
    name: str
    path: Path
    descriptor: int
    settled: threading.Event


def prepare(store: Path) -> None:
    """Make the store's directories and close them to others, mode 0700; StoreError when that is impossible.

    A directory that holds anything else than a store does keeps its mode: it may be a mount point, or a typo.
    RefusedError when one of them is another user's, or reached by his link, or he may have put something into it.
    """
    owners.check_store(store, closing=True)
    for directory in (store, store / "db", store / "sets"):
        try:
            if not directory.is_dir():
                _make(directory)
            elif _is_open_to_others(directory) and _is_only_a_store(store):
                directory.chmod(0o700)
        except OSError as error:
            raise durable.refusal(directory, "cannot be made", error) from None


def keeps_no_modes(store: Path) -> bool:
    """Tell whether others can read what was made for nobody else: the lock is the oldest of these files."""
    return bool((store / ".lock").stat().st_mode & 0o077)


def new_name(store: Path, now: datetime) -> str:
    """Return the set name of a moment in local time, or of a later second when a file in the store has it already."""

    def is_taken(name: str) -> bool:
        paths = [kind.path(name) for kind in Kind] + [f"sets/{name}.json", f"sets/{name}.sha256"]
        return any(os.path.lexists(store / path) for path in paths)

    return sets.free_stamp(now, is_taken)


@contextlib.contextmanager
def draft(store: Path, kind: Kind, name: str) -> Iterator[Draft]:
    """Open a new draft, mode 0600; it stays on disk as it is when the block ends."""
    path = durable.draft_path(store / kind.path(name))
    with opened_draft(path) as descriptor:
        yield Draft(kind=kind, name=name, path=path, descriptor=descriptor, settled=threading.Event())


@contextlib.contextmanager
def opened_draft(path: Path) -> Iterator[int]:
    """Make a new file, mode 0600, and have it open while the block lasts; StoreError when the disk refuses."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise durable.refusal(path, "cannot be written", error) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def empty(draft: Draft) -> None:
    """Begin a draft anew; StoreError when the disk refuses."""
    try:
        os.lseek(draft.descriptor, 0, os.SEEK_SET)
        os.ftruncate(draft.descriptor, 0)
    except OSError as error:
        raise durable.refusal(draft.path, "cannot be written anew", error) from None


def write_back(draft: Draft, start: int, end: int) -> None:
    """Have the disk begin to write a part of a draft, without waiting, so that ``settle`` has less to wait for."""
    with contextlib.suppress(OSError):  # no more than a wish; what the disk refuses, fsync tells
        os.posix_fadvise(draft.descriptor, start, end - start, os.POSIX_FADV_DONTNEED)  # pages not yet written stay


def settle(draft: Draft) -> int:
    """Make a draft durable that nobody writes any more, and return its size in bytes; StoreError."""
    try:
        draft.settled.set()
        os.fsync(draft.descriptor)
        return os.fstat(draft.descriptor).st_size
    except OSError as error:
        raise durable.refusal(draft.path, "cannot be made durable", error) from None


def publish(store: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Turn verified, durable drafts into a set; when this returns, the set is durable.

    StoreError when the disk refuses, RefusedError when a name is in use; nothing but drafts is left then.
    """
    for path in (store / entry["path"] for entry in sets.entries(manifest)):
        if not durable.exists(durable.draft_path(path)):
            raise StoreError(f"{path}: its draft has gone, expected every file of the set")
    durable.write_draft(store / f"sets/{name}.sha256", sets.checksum_lines(manifest).encode())
    durable.write_draft(sets.manifest_path(store, name), _encoded(manifest))
    _sync_directories(store)
    named: list[Path] = []
    try:
        _give_names(store, name, manifest, named)
    except BackupError:
        _take_names_back(named)
        raise


def adopt(store: Path, place: Path, stored: StoredSet, manifest: Mapping[str, Any]) -> None:
    """Publish a verified set that lies in another directory of the store's filesystem, as ``publish`` does.

    What is known of it comes first: at no moment does a set that failed look like one that did not.
    """
    prepare(store)
    for artefact in stored.artefacts:
        with open(place / artefact.path, "rb") as file:
            os.fsync(file.fileno())
        durable.rename(place / artefact.path, durable.draft_path(store / artefact.path))
    for name in (f"sets/{stored.name}.{suffix}" for suffix in KNOWN):
        if durable.exists(place / name):
            durable.write(store / name, durable.read(place / name))
    publish(store, stored.name, manifest)


def recover(store: Path) -> list[str]:
    """Bring a store that a killed run left back in order, and return what was done, in words.

    A publication that was under way is finished, and so is the removal of a stream from a set's manifest; every other
    draft, and what a fetch or the counting of rows left, is removed.
    """
    done = []
    hidden = _hidden(store)
    for path in hidden:
        match = DRAFT_OF_MANIFEST.fullmatch(path.name)
        if not match:
            continue
        name = match[1]
        manifest = sets.read_manifest(path, name)
        if manifest is not None and _publication_began(store, name, manifest):
            _give_names(store, name, manifest, [])
            done.append(f"set {name}: its publication, cut off after the proof, was finished")
    drafts = [path for path in _hidden(store) if path.name.endswith(durable.DRAFT_SUFFIX)]
    for path in drafts:
        durable.unlink(path)
    left = [path for path in hidden if path.name.startswith((FETCHING, COUNTING))]
    for path in left:
        try:
            durable.remove_tree(path)
        except OSError as error:
            raise durable.refusal(path, "cannot be removed", error) from None
    done += _trim_checksums(store)
    if drafts or left:
        done.append(f"{len(drafts) + len(left)} unfinished files of an earlier run were removed")
    return done


def discard(store: Path, name: str) -> None:
    """Remove the drafts of one run."""
    for path in _hidden(store):
        if name in path.name and path.name.endswith(durable.DRAFT_SUFFIX):
            durable.unlink(path)


def remove(store: Path, stored: StoredSet, stream: Stream) -> list[str]:
    """Remove one stream's files of a set and return their paths; the manifest forgets them first.

    A set without any file left loses its manifest before its files, so that no manifest ever lacks a file.
    """
    going = [artefact for artefact in stored.artefacts if artefact.stream is stream]
    staying = [artefact for artefact in stored.artefacts if artefact.stream is not stream]
    if stored.manifest is not None and staying:
        streams = {key: value for key, value in stored.manifest["streams"].items() if key != stream}
        manifest = {**stored.manifest, "streams": streams, "trimmed": True}
        sums = f"sets/{stored.name}.sha256"
        durable.write_draft(store / sums, sets.checksum_lines(manifest).encode())
        durable.write_draft(sets.manifest_path(store, stored.name), _encoded(manifest))
        for path in (sets.manifest_path(store, stored.name), store / sums):
            durable.rename(durable.draft_path(path), path)
            durable.sync_directory(store / "sets")  # never the checksums first: ``recover`` knows the other case only
    elif not staying and durable.exists(store / "sets"):
        durable.remove(sets.manifest_path(store, stored.name))
        for suffix in ("sha256", Mark.PINNED, *KNOWN):
            durable.unlink(store / f"sets/{stored.name}.{suffix}")
        durable.sync_directory(store / "sets")
    for artefact in going:
        durable.unlink(store / artefact.path)
    for directory in {(store / artefact.path).parent for artefact in going}:
        durable.sync_directory(directory)
    return [artefact.path for artefact in going]


def _make(directory: Path) -> None:
    """Make a directory and what is missing above it; all of them last."""
    if not directory.parent.is_dir():
        _make(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    durable.sync_directory(directory.parent)


def _is_open_to_others(directory: Path) -> bool:
    status = directory.stat()
    return bool(status.st_mode & 0o077) and status.st_uid == os.geteuid()


def _is_only_a_store(store: Path) -> bool:
    return all(OWN_NAME.fullmatch(path.name) for path in store.iterdir())


def _publication_began(store: Path, name: str, manifest: Mapping[str, Any]) -> bool:
    """Tell whether renames were under way: each file is there once, as draft or named, and at least one is named."""
    if durable.exists(sets.manifest_path(store, name)):
        return False
    paths = _paths(store, name, manifest)
    named = [path for path in paths if durable.exists(path)]
    return bool(named) and all((path in named) != durable.exists(durable.draft_path(path)) for path in paths)


def _paths(store: Path, name: str, manifest: Mapping[str, Any]) -> list[Path]:
    """Return a set's files but the manifest, in the order in which they get their names."""
    return [*(store / entry["path"] for entry in sets.entries(manifest)), store / f"sets/{name}.sha256"]


def _give_names(store: Path, name: str, manifest: Mapping[str, Any], named: list[Path]) -> None:
    """Rename the drafts, the manifest last: what it names is durable before it is. Each is put into ``named``."""
    for path in _paths(store, name, manifest):
        _give_name(path, named)
    _sync_directories(store)
    _give_name(sets.manifest_path(store, name), named)
    durable.sync_directory(store / "sets")


def _give_name(path: Path, named: list[Path]) -> None:
    draft_path = durable.draft_path(path)
    if not durable.exists(draft_path):
        return
    if durable.exists(path):
        raise RefusedError(f"{path}: exists already, expected a free name")
    named.append(path)
    durable.rename(draft_path, path)


def _trim_checksums(store: Path) -> Iterator[str]:
    """Write anew the checksums of each set whose manifest has forgotten a stream, but whose checksums have not."""
    for path in (path for path in _entries(store) if path.parent.name == "sets" and path.suffix == ".json"):
        manifest = sets.read_manifest(path, path.stem)
        if manifest is not None and manifest.get("trimmed", False):
            wanted = sets.checksum_lines(manifest)
            sums = path.with_suffix(".sha256")
            if set(wording.lines(wanted)) < set(wording.lines(_text(sums))):
                durable.write(sums, wanted.encode())
                yield f"set {path.stem}: its checksums forgot the stream that was removed"


def _text(file: Path) -> str:
    try:
        return durable.read(file).decode(errors="replace")
    except OSError:
        return ""


def _take_names_back(named: Iterable[Path]) -> None:
    """Make drafts again of what got its name, the manifest first."""
    for path in reversed(list(named)):
        with contextlib.suppress(BackupError):  # the failure that brought us here is the one to tell
            durable.rename(path, durable.draft_path(path))


def _sync_directories(store: Path) -> None:
    for directory in (store / "db", store, store / "sets"):
        durable.sync_directory(directory)


def _hidden(store: Path) -> list[Path]:
    return [path for path in _entries(store) if path.name.startswith(".")]


def _entries(store: Path) -> list[Path]:
    """Return all files of a store; StoreError when they cannot be listed, which is not the same as none."""
    try:
        return sorted(path for part in ("", "db", "sets") for path in (store / part).iterdir())
    except OSError as error:
        raise durable.refusal(store, "cannot be read", error) from None


def _encoded(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2, ensure_ascii=True) + "\n").encode()
