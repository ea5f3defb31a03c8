"""From draft to set, and removal: what is written, in which order, and what a killed run leaves.

Each draft is fsynced where it was written; then the checksum file and the manifest are written as drafts and fsynced;
then everything is renamed, the manifest last, and the directories are fsynced. A run killed before the first rename
leaves only drafts, which the next run clears; one killed between two renames is finished by the next run, since all
content had been proven before.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup import artefacts
from dental_pms_backup.artefacts import NAME_FORMAT, NAME_PATTERN, Kind, StoredSet, Stream
from dental_pms_backup.errors import BackupError, RefusedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

DRAFT_SUFFIX = ".draft"
OWN_NAME = re.compile(
    rf"db|sets|attachments_{NAME_PATTERN}\.tgz|RESTORE\.txt|last-run\.json|ledger\.jsonl|lost\+found|\.lock|\..*\.draft"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A file being written: hidden, in the directory of its artefact, open for writing and reading."""

    kind: Kind
    name: str
    path: Path
    descriptor: int


def prepare(store: Path) -> None:
    """Make the store's directories and close them to others, mode 0700; StoreError when that is impossible.

    A directory that holds anything else than a store does keeps its mode: it may be a mount point, or a typo.
    """
    try:
        for directory in (store, store / "db", store / "sets"):
            if not directory.is_dir():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sync_directory(directory.parent)
            elif _is_open_to_others(directory) and _is_only_a_store(store):
                directory.chmod(0o700)
    except OSError as error:
        raise _store_error(store, "cannot be made", error) from None


def new_name(store: Path, now: datetime) -> str | None:
    """Return the set name of a moment in local time, None when a file in the store has it already."""
    name = now.astimezone().strftime(NAME_FORMAT)
    taken = [kind.path(name) for kind in Kind] + [f"sets/{name}.json", f"sets/{name}.sha256"]
    return None if any(os.path.lexists(store / path) for path in taken) else name


@contextlib.contextmanager
def draft(store: Path, kind: Kind, name: str) -> Iterator[Draft]:
    """Open a new draft, mode 0600; it stays on disk as it is when the block ends."""
    path = _draft_path(store / kind.path(name))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _store_error(path, "cannot be written", error) from None
    try:
        yield Draft(kind=kind, name=name, path=path, descriptor=descriptor)
    finally:
        os.close(descriptor)


def settle(draft: Draft) -> int:
    """Make a draft's content durable and return its size in bytes; StoreError when the disk refuses."""
    try:
        os.fsync(draft.descriptor)
        return os.fstat(draft.descriptor).st_size
    except OSError as error:
        raise _store_error(draft.path, "cannot be made durable", error) from None


def publish(store: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Turn proven, durable drafts into a set; when this returns, the set is durable.

    StoreError when the disk refuses; before the first rename nothing but drafts is left then.
    """
    paths = [artefact["path"] for artefact in artefacts.entries(manifest)]
    sums = f"sets/{name}.sha256"
    _write_draft(store / sums, artefacts.checksum_lines(manifest).encode())
    _write_draft(artefacts.manifest_path(store, name), _encoded(manifest))
    for directory in ("db", ".", "sets"):
        _sync_directory(store / directory)
    _rename_drafts(store, [*paths, sums, f"sets/{name}.json"])


def adopt(store: Path, place: Path, stored: StoredSet, manifest: Mapping[str, Any]) -> None:
    """Publish a proven set that lies in another directory of the store's filesystem, as ``publish`` does."""
    prepare(store)
    for artefact in stored.artefacts:
        with open(place / artefact.path, "rb") as file:
            os.fsync(file.fileno())
        _replace(place / artefact.path, _draft_path(store / artefact.path))
    publish(store, stored.name, manifest)


def recover(store: Path) -> list[str]:
    """Bring a store that a killed run left back in order, and return what was done, in words.

    A publication that was under way is finished; every other draft is removed.
    """
    done = []
    for manifest_draft in sorted((store / "sets").glob(f".*.json{DRAFT_SUFFIX}")):
        name = manifest_draft.name.removeprefix(".").removesuffix(f".json{DRAFT_SUFFIX}")
        manifest = artefacts.read_manifest(manifest_draft, name)
        published = artefacts.manifest_path(store, name).exists()
        if manifest is not None and not published and _publication_began(store, name, manifest):
            paths = [artefact["path"] for artefact in artefacts.entries(manifest)]
            _rename_drafts(store, [*paths, f"sets/{name}.sha256", f"sets/{name}.json"])
            done.append(f"set {name}: its publication, cut off after the proof, was finished")
    drafts = [path for path in _hidden(store) if path.name.endswith(DRAFT_SUFFIX)]
    for path in drafts:
        _unlink(path)
    if drafts:
        done.append(f"{len(drafts)} unfinished files of an earlier run were removed")
    return done


def discard(store: Path, name: str) -> None:
    """Remove the drafts of one run."""
    for path in _hidden(store):
        if name in path.name and path.name.endswith(DRAFT_SUFFIX):
            _unlink(path)


def remove(store: Path, stored: StoredSet, stream: Stream) -> list[str]:
    """Remove one stream's files of a set and return their paths; the manifest forgets them first.

    A set without any file left loses its manifest before its files, so that no manifest ever lacks a file.
    """
    going = [artefact for artefact in stored.artefacts if artefact.stream is stream]
    staying = [artefact for artefact in stored.artefacts if artefact.stream is not stream]
    if stored.manifest is not None and staying:
        streams = {key: value for key, value in stored.manifest["streams"].items() if key != stream}
        manifest = {**stored.manifest, "streams": streams}
        sums = f"sets/{stored.name}.sha256"
        _write_draft(store / sums, artefacts.checksum_lines(manifest).encode())
        _write_draft(artefacts.manifest_path(store, stored.name), _encoded(manifest))
        for path in (artefacts.manifest_path(store, stored.name), store / sums):
            _replace(_draft_path(path), path)
    elif not staying:
        _unlink(artefacts.manifest_path(store, stored.name))
        for suffix in ("sha256", "accepted", "pinned"):
            _unlink(store / f"sets/{stored.name}.{suffix}")
    if (store / "sets").is_dir():
        _sync_directory(store / "sets")
    for artefact in going:
        _unlink(store / artefact.path)
    for directory in {(store / artefact.path).parent for artefact in going}:
        _sync_directory(directory)
    return [artefact.path for artefact in going]


def write_durably(path: Path, content: bytes) -> None:
    """Replace a small file, mode 0600, so that either the old or the new content is there, durably."""
    _write_draft(path, content)
    _replace(_draft_path(path), path)
    _sync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a small file, if it is there; durable on return."""
    _unlink(path)
    _sync_directory(path.parent)


def _is_open_to_others(directory: Path) -> bool:
    status = directory.stat()
    return bool(status.st_mode & 0o077) and status.st_uid == os.geteuid()


def _is_only_a_store(store: Path) -> bool:
    return all(OWN_NAME.fullmatch(path.name) for path in store.iterdir())


def _publication_began(store: Path, name: str, manifest: Mapping[str, Any]) -> bool:
    """Tell whether a rename happened and every file of the set is there, as draft or under its name."""
    paths = [store / entry["path"] for entry in artefacts.entries(manifest)] + [store / f"sets/{name}.sha256"]
    renamed = [path for path in paths if path.exists()]
    return bool(renamed) and all(path in renamed or _draft_path(path).exists() for path in paths)


def _rename_drafts(store: Path, paths: Sequence[str]) -> None:
    """Give drafts their names, in order; a name in use is never overwritten. Durable on return."""
    for path in (store / relative for relative in paths):
        if _draft_path(path).exists():
            if os.path.lexists(path) and path.suffix != ".sha256":
                raise RefusedError(f"{path}: exists already, expected a free name")
            _replace(_draft_path(path), path)
            if path.suffix == ".sha256":  # the last rename before the manifest: what it names must be durable
                for directory in ("db", ".", "sets"):
                    _sync_directory(store / directory)
    _sync_directory(store / "sets")


def _hidden(store: Path) -> Iterable[Path]:
    for directory in (store, store / "db", store / "sets"):
        yield from sorted(directory.glob(".*"))


def _draft_path(path: Path) -> Path:
    return path.with_name(f".{path.name}{DRAFT_SUFFIX}")


def _encoded(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2, ensure_ascii=True) + "\n").encode()


def _write_draft(path: Path, content: bytes) -> None:
    draft_path = _draft_path(path)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(draft_path, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(BackupError):
            _unlink(draft_path)
        raise _store_error(draft_path, "cannot be written", error) from None


def _replace(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        raise _store_error(target, "cannot get its name", error) from None


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _store_error(path, "cannot be removed", error) from None


def _sync_directory(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _store_error(directory, "cannot be made durable", error) from None


def _store_error(path: Path, what: str, error: OSError) -> StoreError:
    return StoreError(f"{path}: {what}: {error.strerror}, expected a store to write to", hint=f"df -h {path.parent}")
