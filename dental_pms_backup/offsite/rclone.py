"""The second place: an rclone remote of type crypt, so that nothing leaves the host in clear.

A set's files go first and its manifest last, as in the store. What rclone reports is not believed: every file is
compared after the copy. Nothing is ever removed over there, nor written over but what is known of a set by what is
known of it now: the admin's word, and what its last drill found.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import ConfigError, OffsiteError, UsageError, shell_word
from dental_pms_backup.host import owners, programs, wording
from dental_pms_backup.store import publishing, sets, verify_file
from dental_pms_backup.store.drill_record import Result
from dental_pms_backup.store.marks import Mark
from dental_pms_backup.store.sets import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dental_pms_backup.config.settings import Offsite
    from dental_pms_backup.store.sets import Artefact, StoredSet

    Beat = Callable[[], None] | None

ANSWERS_S = 300
NOT_ENCRYPTING = re.compile(r"^no_data_encryption\s*=\s*(?!false\s*$)", re.MULTILINE | re.IGNORECASE)
DIRECTORY_NOT_FOUND = 3  # rclone manual, "Exit code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """An encrypting remote that answered. ``address`` is rclone's NAME:path."""

    address: str
    config_file: Path


def connect(settings: Offsite) -> Remote:
    """Return the configured remote; ConfigError unless it exists and encrypts."""
    if settings.remote is None:
        raise ConfigError(
            ("offsite.remote: not set, expected an rclone remote of type crypt",),
            hint="man dental-pms-backup.yaml",
        )
    if not settings.rclone_config.is_file():
        raise ConfigError(
            (f"offsite.rclone_config: {settings.rclone_config}: no such file, expected rclone's configuration",),
            hint=f"rclone config --config {shell_word(settings.rclone_config)}",
        )
    if who := owners.who_changes(settings.rclone_config):
        raise ConfigError(
            (f"offsite.rclone_config: {who}, expected that only root can: it may name programs that rclone runs",),
            hint=f"namei -l {shell_word(settings.rclone_config)}   # each of these has to be root's, mode go-w",
        )
    remote = Remote(address=settings.remote, config_file=settings.rclone_config)
    name = settings.remote.partition(":")[0]
    hint = f"rclone config --config {shell_word(settings.rclone_config)}"
    types = dict(re.findall(r"^(.*?):\s+(\S+)$", _rclone(remote, "listremotes", "--long"), re.MULTILINE))
    if name not in types:
        raise ConfigError((f'offsite.remote: rclone knows no remote "{name}", expected one of {sorted(types)}',))
    if types[name] != "crypt":
        raise ConfigError(
            (f'offsite.remote: "{name}" is of type {types[name]}, expected crypt: nothing leaves here unencrypted',),
            hint=hint,
        )
    if NOT_ENCRYPTING.search(_rclone(remote, "config", "show", name)):  # it holds passwords: never quoted
        raise ConfigError((f'offsite.remote: "{name}" has no_data_encryption set, expected it to encrypt',), hint=hint)
    return remote


def names(remote: Remote) -> list[str]:
    """Return the names of the sets whose manifest is over there, oldest name first."""
    ended, out = _call(remote, "lsjson", "--recursive", "--files-only", "--include=/sets/*.json", remote.address)
    if ended.exit_code == DIRECTORY_NOT_FOUND:  # as before the first push
        return []
    _demand(remote, ended)
    listed = json.loads(out)
    found = (re.fullmatch(rf"sets/({NAME_PATTERN})\.json", entry["Path"]) for entry in listed)
    return sorted(match[1] for match in found if match)


def manifests(remote: Remote, wanted: Sequence[str], *, beat: Beat = None) -> dict[str, Mapping[str, Any]]:
    """Return what can be read of the manifests of sets over there, by name; OffsiteError when that is none."""
    with tempfile.TemporaryDirectory() as place:
        files = [f"sets/{name}.json" for name in wanted]
        ended, _ = _bring(remote, place, files, sets.LARGEST_MANIFEST_BYTES, beat)
        found = {name: sets.read_manifest(sets.manifest_path(Path(place), name), name) for name in wanted}
    if not any(found.values()):
        _demand(remote, ended)
    return {name: manifest for name, manifest in found.items() if manifest}


def push(remote: Remote, store: Path, stored: StoredSet, *, beat: Beat = None) -> None:
    """Copy a set and prove by comparison that every file arrived; OffsiteError otherwise."""
    _check_sums(store, stored, beat=beat)
    *files, manifest = _files(stored)
    _copy(remote, str(store), remote.address, files, beat)
    push_known(remote, store, [stored], beat=beat)
    _copy(remote, str(store), remote.address, [manifest], beat)
    compare(remote, store, stored, beat=beat)


def push_known(remote: Remote, store: Path, listed: Sequence[StoredSet], *, beat: Beat = None) -> None:
    """Copy what is known of sets beside their manifests, so that it comes back with them; OffsiteError unless it is so.

    A drill that has proven a set which is trimmed here says nothing of the whole one that may be over there, nor does
    one that found the store's files damaged.
    """
    files = [file for stored in listed for file in _known(store, stored)]
    stale = _unequal(remote, store, files, beat) if files else []
    if stale:
        arguments = ("copy", "--ignore-times", "--files-from-raw=-", str(store), remote.address)
        _rclone(remote, *arguments, text_in=_lines(stale), beat=beat)
        stale = _unequal(remote, store, stale, beat)
    if stale:
        raise OffsiteError(
            f"offsite: {len(stale)} files of what is known of sets are not the same offsite ({stale[0]}), expected all",
            hint="dental-pms-backup offsite push",
        )


def compare(remote: Remote, store: Path, stored: StoredSet, *, beat: Beat = None) -> None:
    """Download every file of a set and compare it with the store's; OffsiteError names how many differ.

    Of a set that retention has trimmed here, only the artefacts: its manifest over there still names all.
    """
    trimmed = (stored.manifest or {}).get("trimmed", False)
    files = [artefact.path for artefact in stored.artefacts] if trimmed else _files(stored)
    missing = _unequal(remote, store, files, beat)
    if missing:
        raise OffsiteError(
            f"set {stored.name}: {len(missing)} of {len(files)} files are not the same offsite ({missing[0]}), "
            "expected all",
            hint=f"dental-pms-backup offsite push {stored.name}",
        )


def fetch(remote: Remote, store: Path, name: str, *, beat: Beat = None) -> StoredSet:
    """Bring a set back into the store, verified before it gets its names; OffsiteError when it is not whole.

    What is known of it, that it is suspect or failed its drill, is no reason to refuse it: it comes back with the set.
    """
    if name not in names(remote):
        raise UsageError(
            f'"{name}": no such set offsite, expected one of the list', hint="dental-pms-backup offsite list"
        )
    if any(stored.name == name for stored in sets.listing(store)):
        raise UsageError(
            f"set {name} is in the store already, so it is not fetched",
            hint=f"dental-pms-backup verify {name}   # if it is damaged, move all of its files away, then fetch it",
        )
    with tempfile.TemporaryDirectory(prefix=publishing.FETCHING, dir=store) as temporary:
        place = Path(temporary)
        beside = [f"sets/{name}.{suffix}" for suffix in ("sha256", *publishing.KNOWN, "json")]
        _demand(remote, _bring(remote, temporary, beside, sets.LARGEST_MANIFEST_BYTES, beat)[0])
        manifest = sets.read_manifest(sets.manifest_path(place, name), name)
        if manifest:
            most = max(entry["size_bytes"] for entry in sets.entries(manifest))
            files = [entry["path"] for entry in sets.entries(manifest)]
            _demand(remote, _bring(remote, temporary, files, most, beat)[0])
        fetched = next((stored for stored in sets.listing(place) if stored.name == name), None)
        if fetched is None or fetched.problems or fetched.manifest is None:
            raise OffsiteError(f"set {name}: what came back is not whole, expected every file of its manifest")
        _check_all(place, fetched, beat=beat)
        publishing.adopt(store, place, fetched, fetched.manifest)
    return sets.find(store, name)


def _check_sums(directory: Path, stored: StoredSet, *, beat: Beat = None) -> None:
    for artefact in stored.artefacts:
        with (directory / artefact.path).open("rb") as file:
            if verify_file.sha256(directory / artefact.path, file.fileno(), beat=beat) != artefact.sha256:
                raise _differs(stored, artefact)


def _check_all(directory: Path, stored: StoredSet, *, beat: Beat = None) -> None:
    for artefact in stored.artefacts:
        with (directory / artefact.path).open("rb") as file:
            verified = verify_file.verify(directory / artefact.path, artefact.kind, file.fileno(), beat=beat)
            if verified.sha256 != artefact.sha256:
                raise _differs(stored, artefact)


def _differs(stored: StoredSet, artefact: Artefact) -> OffsiteError:
    return OffsiteError(
        f"set {stored.name}: {artefact.path} differs from its manifest, expected the same checksum",
        hint=f"dental-pms-backup verify {stored.name}",
    )


def _files(stored: StoredSet) -> list[str]:
    return [artefact.path for artefact in stored.artefacts] + [
        f"sets/{stored.name}.sha256",
        f"sets/{stored.name}.json",
    ]


def _known(store: Path, stored: StoredSet) -> list[str]:
    trimmed, proof = (stored.manifest or {}).get("trimmed", False), stored.proof or {"result": "", "proofs": {}}
    of_here = (trimmed and proof["result"] == Result.PASSED) or proof["proofs"].get("checksums") == Result.FAILED
    files = [f"sets/{stored.name}.{suffix}" for suffix in ([Mark.ACCEPTED] if of_here else publishing.KNOWN)]
    return [file for file in files if (store / file).is_file()]


def _unequal(remote: Remote, store: Path, files: Sequence[str], beat: Beat) -> list[str]:
    """Return which of the store's files are not the same over there, by downloading them."""
    arguments = ("check", "--download", "--one-way", "--combined=-", "--files-from-raw=-")
    # which files are equal is said on stdout; the exit status tells no more
    _, out = _call(remote, *arguments, str(store), remote.address, text_in=_lines(files), beat=beat)
    equal = {line[2:] for line in wording.lines(out) if line.startswith("= ")}
    return [file for file in files if file not in equal]


def _bring(remote: Remote, place: str, files: Sequence[str], most_bytes: int, beat: Beat) -> tuple[programs.Ended, str]:
    """Download files, but for any that is larger than it can be: whoever keeps them decides what is under a name.

    Of files that are named by --files-from rclone asks no size. Ours have no character that means anything in a filter.
    """
    arguments = ("copy", "--immutable", f"--max-size={most_bytes}B", "--include-from=-", remote.address, place)
    return _call(remote, *arguments, text_in="".join(f"/{file}\n" for file in files), beat=beat)


def _copy(remote: Remote, origin: str, destination: str, files: Sequence[str], beat: Beat) -> None:
    arguments = ("copy", "--immutable", "--files-from-raw=-", origin, destination)
    _rclone(remote, *arguments, text_in=_lines(files), beat=beat)


def _lines(files: Sequence[str]) -> str:
    return "".join(f"{file}\n" for file in files)


def _rclone(remote: Remote, *arguments: str, text_in: str = "", beat: Beat = None) -> str:
    """Return what rclone prints; OffsiteError unless it exits with 0."""
    ended, out = _call(remote, *arguments, text_in=text_in, beat=beat)
    _demand(remote, ended)
    return out


def _call(remote: Remote, *arguments: str, text_in: str = "", beat: Beat = None) -> tuple[programs.Ended, str]:
    argv = ["rclone", f"--config={remote.config_file}", "--retries=3", "--use-json-log", *arguments]
    ended, out = programs.capture(argv, text_in=text_in, timeout_s=None if beat else ANSWERS_S, beat=beat)
    if programs.TOO_MUCH in ended.said:  # what is lacking would look like what is not there
        raise OffsiteError(f"{remote.address}: rclone gives {programs.TOO_MUCH}, expected the names of the sets' files")
    return ended, out


def _demand(remote: Remote, ended: programs.Ended) -> None:
    if not ended.ok:
        raise OffsiteError(
            f"offsite: {ended}: {_complaint(ended.said)}, expected exit status 0",
            hint=f"rclone --config {shell_word(remote.config_file)} lsd {shell_word(remote.address)}",
        )


def _complaint(said: Sequence[str]) -> str:
    """Return the last message of rclone's JSON log; other lines may hold anything and are left out."""
    for line in reversed(said):
        try:
            return str(json.loads(line)["msg"]).strip()
        except (ValueError, KeyError, TypeError):
            continue
    return "it said nothing"
