"""What the tests build their cases from."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dental_pms_backup.store import publishing, sets
from dental_pms_backup.store.sets import Artefact, Kind, StoredSet, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TREE = Path(__file__).resolve().parents[2]
FILTERS = TREE / "dental_pms_backup/filters"
MOST_MEMORY_KIB = 80 << 10
NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
NAME = "2026-11-23_023000"  # NOW in the time zone of the tests
TRAILER = "--\n-- PostgreSQL database dump complete\n--\n\n"
SETTINGS_TRAILER = "-- settings of the database complete\n"
ROLES_TRAILER = "--\n-- PostgreSQL database cluster dump complete\n--\n\n"
COPY_HEAD = "\n--\n-- Data for Name: a; Type: TABLE DATA; Schema: public; Owner: dental\n--\n\n"
DUMP = f"CREATE TABLE patients (id int);\n{COPY_HEAD}COPY patients (id) FROM stdin;\n1\n2\n\\.\n\n" + TRAILER
KINDS = {Stream.DB: (Kind.DB, Kind.GLOBALS, Kind.SETTINGS), Stream.ATTACHMENTS: (Kind.ATTACHMENTS,)}
BOTH = tuple(Stream)
# cases of a fake client, by its arguments: what holds the names of sequences while pg_dump runs, and what looks for
# names of more than one line
HOLDS = "*ON_ERROR_STOP=1) echo held$SNAPSHOT; exec cat >/dev/null ;; *array_length*) ;;"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """How a filter ended, and what it printed and said."""

    status: int
    out: bytes
    said: str


def filtered(name: str, *words: str | Path, given: bytes | Iterable[bytes] = b"") -> Filtered:
    """Run a filter, which has little memory, and give it bytes, until it wants no more of them."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        limited = f'ulimit -v {MOST_MEMORY_KIB}; exec perl "$@"'
        argv = ["sh", "-c", limited, "sh", FILTERS / name, *words]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out, stderr=said) as process:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError), process.stdin as to:
                for part in [given] if isinstance(given, bytes) else given:
                    to.write(part)
        out.seek(0)
        said.seek(0)
        return Filtered(status=process.returncode, out=out.read(), said=said.read().decode(errors="replace"))


def night(number: int) -> datetime:
    """Return the moment of a run, a day apart from the next."""
    return datetime(2026, 1, 1, 1, 30, tzinfo=UTC) + timedelta(days=number)


def name_of(moment: datetime) -> str:
    """Return the set name of a moment."""
    return moment.astimezone().strftime(sets.NAME_FORMAT)


def packed(text: str) -> bytes:
    """Return a text as gzip writes it."""
    return gzip.compress(text.encode(), mtime=0)


def content_of(kind: Kind) -> bytes:
    """Return something to put into a file of a kind."""
    return packed(f"{kind}: " + DUMP)


def draft_entry(store: Path, kind: Kind, name: str, content: bytes) -> dict[str, Any]:
    """Write a draft into a prepared store and return its entry for the manifest."""
    with publishing.draft(store, kind, name) as draft:
        os.write(draft.descriptor, content)
        size_bytes = publishing.settle(draft)
    return {
        "kind": kind,
        "path": kind.path(name),
        "size_bytes": size_bytes,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def drafted(
    store: Path,
    name: str = NAME,
    *,
    taken_at: datetime = NOW,
    streams: Iterable[Stream] = BOTH,
    suspicions: Iterable[str] = (),
) -> dict[str, Any]:
    """Write the drafts of a set into a store and return its manifest."""
    publishing.prepare(store)
    parts = {
        str(stream): {"artefacts": [draft_entry(store, kind, name, content_of(kind)) for kind in KINDS[stream]]}
        for stream in streams
    }
    return {
        "format": 1,
        "set": name,
        "taken_at": taken_at.isoformat(),
        "suspicions": list(suspicions),
        "streams": parts,
    }


def published(
    store: Path,
    name: str = NAME,
    *,
    taken_at: datetime = NOW,
    streams: Iterable[Stream] = BOTH,
    suspicions: Iterable[str] = (),
) -> StoredSet:
    """Publish a set into a store."""
    manifest = drafted(store, name, taken_at=taken_at, streams=streams, suspicions=suspicions)
    publishing.publish(store, name, manifest)
    return sets.find(store, name)


def stored(  # noqa: PLR0913 - each has its default
    name: str = NAME,
    *,
    taken_at: datetime = NOW,
    kinds: Iterable[Kind] = tuple(Kind),
    manifest: Mapping[str, Any] | None = None,
    problems: tuple[str, ...] = (),
    pinned: bool = False,
    accepted: bool = False,
    size_bytes: int = 1000,
    proof: Mapping[str, Any] | None = None,
) -> StoredSet:
    """Return a set that is on no disk; each file has ``size_bytes`` bytes."""
    files = tuple(Artefact(kind=kind, path=kind.path(name), size_bytes=size_bytes) for kind in kinds)
    return StoredSet(
        name=name,
        taken_at=taken_at,
        artefacts=files,
        manifest={"streams": {}} if manifest is None else manifest,
        problems=problems,
        pinned=pinned,
        accepted=accepted,
        proof=proof,
    )


def files_below(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory with its content."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def program(directory: Path, name: str, script: str) -> Path:
    """Write a small executable."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    return path


def python_path() -> str:
    """Return where a program that a test starts finds its modules, without a journal: it would be this machine's."""
    return os.pathsep.join([str(Path(__file__).with_name("without_journal")), str(TREE), *sys.path])


def python(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python code of its own in the source tree; the caller waits for it or kills it."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=TREE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": python_path(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Be no root while the block lasts: all capabilities are out of effect meanwhile."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


def gone(process_id: int) -> bool:
    """Tell whether a process has ended, collected or not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return True


def told_ids(path: Path, count: int) -> list[int]:
    """Wait until programs have written their process ids into a file."""
    deadline = time.monotonic() + 60
    while len(ids := path.read_text().split() if path.exists() else []) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(ids) == count
    return [int(each) for each in ids]


def gone_within(process_ids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(gone(each) for each in process_ids):
            return True
        time.sleep(0.02)
    return False


def two_old_files(directory: Path) -> Path:
    """Make a directory with two files of four bytes, as old as files can be, one of them in a directory."""
    for name in ("one", "in/two"):
        path = directory / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("four")
        os.utime(path, (1, 1))
    return directory
