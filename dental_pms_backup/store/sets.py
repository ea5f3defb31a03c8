"""What is in the store: artefacts, manifests, sets; what a name means and what makes a file count."""

from __future__ import annotations

import itertools
import json
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import StoreError, UsageError
from dental_pms_backup.host import durable, owners
from dental_pms_backup.store import drill_record, named_files, names
from dental_pms_backup.store.drill_record import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMAT = 1
NAME_FORMAT = "%Y-%m-%d_%H%M%S"
NAME_PATTERN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{6}"
FILE_OF_SET = re.compile(
    rf"(?:db_|globals_|settings_|attachments_)?({NAME_PATTERN})(?:\.json|\.sha256|\.sql\.gz|\.tgz)?"
)
LARGEST_MANIFEST_BYTES = 16 << 20
TOO_LARGE = 1 << 63
COUNTS = ("entries", named_files.MISSING, named_files.OTHER_SIZE)
NUMBERS = {"database_bytes", "server_version"}
TEXTS = {"database", "system_identifier", "source", "container", "image", "image_id", "encoding", "superuser"}
SHA256 = re.compile("[0-9a-f]{64}")


class Stream(StrEnum):
    """What is backed up."""

    DB = "db"
    ATTACHMENTS = "attachments"


class Kind(StrEnum):
    """What a file of a set holds. GLOBALS, the roles, and SETTINGS, the database's own, belong to the db stream."""

    DB = "db"
    GLOBALS = "globals"
    SETTINGS = "settings"
    ATTACHMENTS = "attachments"

    @property
    def stream(self) -> Stream:
        """Return the stream that the file belongs to."""
        return Stream.ATTACHMENTS if self is Kind.ATTACHMENTS else Stream.DB

    def path(self, name: str) -> str:
        """Return where in the store the file of the set ``name`` lies."""
        match self:
            case Kind.ATTACHMENTS:
                return f"attachments_{name}.tgz"
            case _:
                return f"db/{self}_{name}.sql.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A finished file. ``path`` is relative to the store; ``sha256`` is empty where no manifest has it."""

    kind: Kind
    path: str
    size_bytes: int
    sha256: str = ""

    @property
    def stream(self) -> Stream:
        """Return the stream that the file belongs to."""
        return self.kind.stream


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSet:
    """A set on disk, or files that an older script left under such names: those have no manifest.

    ``problems`` says what is missing or of another size than the manifest has it, ``proof`` what a drill found, and
    ``status`` whose the manifest is that was read.
    """

    name: str
    taken_at: datetime
    artefacts: tuple[Artefact, ...]
    manifest: Mapping[str, Any] | None
    problems: tuple[str, ...] = ()
    pinned: bool = False
    accepted: bool = False
    proof: Mapping[str, Any] | None = None
    status: os.stat_result | None = field(default=None, compare=False)

    @property
    def suspicions(self) -> tuple[str, ...]:
        """Return what its run found strange about the set."""
        return tuple((self.manifest or {}).get("suspicions", ()))

    @property
    def state(self) -> str:
        """Return how far the set can be trusted, the worst first.

        ``damaged``; ``suspect``: it is whole, but waits for the admin to accept it; ``failed``: its drill; ``proven``:
        its drill passed; ``verified``, as its run proved it; ``unproven``: it has no manifest.
        """
        if self.problems:
            return "damaged"
        if self.suspicions and not self.accepted:
            return "suspect"
        if self.proof:
            return "proven" if self.proof["result"] == Result.PASSED else "failed"
        return "unproven" if self.manifest is None else "verified"

    @property
    def is_good(self) -> bool:
        """Tell whether nothing is known against the set."""
        return self.state not in {"damaged", "suspect", "failed"}

    @property
    def is_safety(self) -> bool:
        """Tell whether a restore took the set of what it was about to replace."""
        return bool((self.manifest or {}).get("safety"))

    def artefact(self, kind: Kind) -> Artefact | None:
        """Return the set's file of a kind, if it has one."""
        return next((artefact for artefact in self.artefacts if artefact.kind is kind), None)

    def size_bytes(self, stream: Stream) -> int | None:
        """Return how large the set's files of a stream are together, None without any."""
        sizes = [artefact.size_bytes for artefact in self.artefacts if artefact.stream is stream]
        return sum(sizes) if sizes else None


def listing(store: Path) -> list[StoredSet]:
    """Return all sets, and files that an older script left under such names, oldest first by UTC time.

    A manifest that cannot be understood makes its set ``damaged``; it is never an error. StoreError when the
    directories cannot be read.
    """
    try:
        entries = {part: _entries(store / part) for part in ("", "db", "sets")}
        files = _named_files(entries)
        manifests = {name[:-5] for name in entries["sets"] if name.endswith(".json") and names.is_moment(name[:-5])}
        sets = [_stored(store, name, files.get(name, {}), entries["sets"]) for name in manifests | files.keys()]
    except OSError as error:
        raise StoreError(
            f"{store}: cannot be read: {error.strerror}, expected a store to list", hint="sudo dental-pms-backup list"
        ) from None
    return sorted(sets, key=lambda stored: (stored.taken_at, stored.name))


def find(store: Path, wanted: str, *, having: Kind | None = None) -> StoredSet:
    """Return the set with a name, or the path of one of its files.

    With ``having``, only sets with a file of that kind are looked at. UsageError when there is no such set.
    """
    every = listing(store)
    sets = [stored for stored in every if having is None or stored.artefact(having)]
    if not every:
        raise UsageError(f"{store}: no set, expected at least one", hint="dental-pms-backup run")
    by_name = {stored.name: stored for stored in sets}
    name = FILE_OF_SET.fullmatch(Path(wanted).name)
    inside = "/" not in wanted or Path(wanted).resolve().is_relative_to(store.resolve())
    if name and inside and name[1] in by_name:
        return by_name[name[1]]
    if name and inside and name[1] in {stored.name for stored in every}:
        message = f'"{wanted}": the set has no {having}, expected a set that has'
        raise UsageError(message, hint="dental-pms-backup list   # what a set lacks has a dash there")
    raise UsageError(f'"{wanted}": no such set in {store}, expected a name of the list', hint="dental-pms-backup list")


def read_manifest(path: Path, name: str) -> dict[str, Any] | None:
    """Return a manifest that is whole and sound, else None."""
    return _read_manifest(path, name)[0]


def _read_manifest(path: Path, name: str) -> tuple[dict[str, Any], os.stat_result] | tuple[None, None]:
    try:
        content, status = durable.read_whose(path, LARGEST_MANIFEST_BYTES)
        manifest = json.loads(content)
        sound = _is_sound(manifest, name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, None
    return (manifest, status) if sound else (None, None)


def free_stamp(now: datetime, is_taken: Callable[[str], bool], form: str = NAME_FORMAT) -> str:
    """Return a moment in local time as part of a name, or a later second's where that is taken: clocks go back."""
    stamps = ((now + timedelta(seconds=later)).astimezone().strftime(form) for later in itertools.count())
    return next(stamp for stamp in stamps if not is_taken(stamp))


def described(manifest: Mapping[str, Any]) -> StoredSet:
    """Return a set as its manifest describes it, without a look at the disk."""
    return StoredSet(
        name=manifest["set"],
        taken_at=datetime.fromisoformat(manifest["taken_at"]),
        artefacts=tuple(_described(entry, entry["size_bytes"]) for entry in entries(manifest)),
        manifest=manifest,
    )


def entries(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a manifest says of each of its files."""
    return [entry for stream in manifest["streams"].values() for entry in stream["artefacts"]]


def manifest_path(store: Path, name: str) -> Path:
    """Return where a set's manifest lies."""
    return store / "sets" / f"{name}.json"


def checksum_lines(manifest: Mapping[str, Any]) -> str:
    """Return what ``sha256sum -c`` reads, for a manifest."""
    return "".join(f"{entry['sha256']}  {entry['path']}\n" for entry in entries(manifest))


def _stored(
    store: Path, name: str, files: Mapping[Kind, os.DirEntry[str]], beside: Mapping[str, os.DirEntry[str]]
) -> StoredSet:
    """Return the set of a name, of which these files are there; ``beside`` has the names in ``sets``."""
    present = {kind: size for kind, file in files.items() if (size := _size(file)) is not None}
    pinned, named = f"{name}.pinned" in beside, f"{name}.json" in beside
    manifest, status = _read_manifest(manifest_path(store, name), name) if named else (None, None)
    accepted = owners.is_heeded(beside.get(f"{name}.accepted"), status)
    if manifest is None:
        found = tuple(_unlisted(kind, name, size) for kind, size in present.items())
        unread = (f"sets/{name}.json: not a manifest, expected one of format {FORMAT}",) if named else ()
        moment = datetime.strptime(name, NAME_FORMAT).astimezone(UTC)
        return StoredSet(
            name=name,
            taken_at=moment,
            artefacts=found,
            manifest=None,
            problems=unread,
            pinned=pinned,
            accepted=accepted,
        )
    artefacts, problems = [], []
    for entry in entries(manifest):
        kind = Kind(entry["kind"])
        size = present.pop(kind, None)
        if size is None:
            problems.append(f"{entry['path']}: missing, expected {entry['size_bytes']} bytes")
            continue
        if size != entry["size_bytes"]:
            problems.append(f"{entry['path']}: {size} bytes, expected {entry['size_bytes']}")
        artefacts.append(_described(entry, size))
    artefacts += [_unlisted(kind, name, size) for kind, size in present.items()]
    return StoredSet(
        name=name,
        taken_at=datetime.fromisoformat(manifest["taken_at"]),
        artefacts=tuple(artefacts),
        manifest=manifest,
        problems=tuple(problems),
        pinned=pinned,
        accepted=accepted,
        proof=drill_record.read(store, name, manifest, status) if f"{name}.{drill_record.SUFFIX}" in beside else None,
        status=status,
    )


def _described(entry: Mapping[str, Any], size_bytes: int) -> Artefact:
    return Artefact(kind=Kind(entry["kind"]), path=entry["path"], size_bytes=size_bytes, sha256=entry["sha256"])


def _size(file: os.DirEntry[str]) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a rotation beside us was quicker
        return None


def _unlisted(kind: Kind, name: str, size_bytes: int) -> Artefact:
    """Return a file that no manifest lists: an older script's, or one whose removal was cut off."""
    return Artefact(kind=kind, path=kind.path(name), size_bytes=size_bytes)


def _named_files(entries: Mapping[str, Mapping[str, os.DirEntry[str]]]) -> dict[str, dict[Kind, os.DirEntry[str]]]:
    """Return the files under artefact names, by set name."""
    found: dict[str, dict[Kind, os.DirEntry[str]]] = {}
    for kind in Kind:
        directory, _, pattern = kind.path("@").rpartition("/")
        head, tail = pattern.split("@")
        for name, entry in entries[directory].items():
            moment = name[len(head) : -len(tail)]
            if name.startswith(head) and name.endswith(tail) and names.is_moment(moment) and entry.is_file():
                found.setdefault(moment, {})[kind] = entry
    return found


def _entries(directory: Path) -> dict[str, os.DirEntry[str]]:
    """Return what is in a directory by name, nothing when it is not there; an error is never taken for "nothing"."""
    try:
        with os.scandir(directory) as entries:
            return {entry.name: entry for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _is_sound(manifest: Mapping[str, Any], name: str) -> bool:
    """Tell whether a manifest is of our format and shape; of what is not even near it, an exception tells."""
    taken_at = datetime.fromisoformat(manifest["taken_at"])
    return (
        manifest["format"] == FORMAT
        and manifest["set"] == name
        and taken_at.tzinfo is not None
        and taken_at.year in names.YEARS
        and _are_texts(manifest.get("suspicions", []))
        and bool(manifest["streams"])
        and all(_part_is_sound(Stream(stream), part, name) for stream, part in manifest["streams"].items())
    )


def _part_is_sound(stream: Stream, part: Mapping[str, Any], name: str) -> bool:
    kinds = [Kind(entry["kind"]) for entry in part["artefacts"]]
    return (
        len(kinds) == len(set(kinds)) > 0
        and all(kind.stream is stream for kind in kinds)
        and all(_entry_is_sound(entry, name) for entry in part["artefacts"])
        and all(_is_sound_of_source(*each) for each in part.get("source", {}).items())
        and all(type(part.get(count, 0)) is int for count in COUNTS)
        and all(type(count) is int for count in part.get("rows", {}).values())
        and all(_are_texts(part.get(names, [])) for names in ("changed", "leading_out"))
    )


def _is_sound_of_source(key: str, value: object) -> bool:
    if key in NUMBERS:
        return type(value) is int and 0 <= value < TOO_LARGE
    return key not in TEXTS or isinstance(value, str)


def _entry_is_sound(entry: Mapping[str, Any], name: str) -> bool:
    return (
        entry["path"] == Kind(entry["kind"]).path(name)
        and type(entry["size_bytes"]) is int
        and SHA256.fullmatch(entry["sha256"]) is not None
    )


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
