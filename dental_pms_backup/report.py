"""What the commands print: key=value lines, tables and JSON values, from what the flows return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dental_pms_backup.artefacts import Kind, Stream
from dental_pms_backup.progress import duration, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.artefacts import StoredSet
    from dental_pms_backup.audit import Verdict
    from dental_pms_backup.restore import Restored
    from dental_pms_backup.retention import Choice
    from dental_pms_backup.run import Taken
    from dental_pms_backup.sources import Sources

KIND_OF = {Stream.DB: Kind.DB, Stream.ATTACHMENTS: Kind.ATTACHMENTS}


def run_lines(taken: Taken) -> Iterator[str]:
    """Yield the key=value lines of a complete run, the seed's names, without the last."""
    both = []
    for stream, kind in KIND_OF.items():
        artefact = taken.stored.artefact(kind)
        if artefact is None:
            continue
        path = taken.store / artefact.path
        yield f"backup_type={stream}"
        yield f"backup_root={taken.store}"
        yield f"backup_file={path}"
        yield f"backup_size_bytes={artefact.size_bytes}"
        if stream is Stream.ATTACHMENTS:
            yield f"attachments_source={taken.attachments_source}"
        yield f"retention_keep={taken.keep}"
        yield f"retention_deleted={sum(1 for choice in taken.removed if choice.stream is stream)}"
        both += [f"{stream}_file={path}", f"{stream}_size_bytes={artefact.size_bytes}"]
    yield from both
    yield f"duration_seconds={round(taken.duration_s)}"


def rehearsal_lines(store: Path, sources: Sources, going: Sequence[Choice]) -> Iterator[str]:
    """Yield what a run would do."""
    yield f"backup_root={store}"
    if sources.database:
        facts = sources.database.facts
        yield f"would dump database {facts.database} ({size(facts.size)} in PostgreSQL {facts.major})"
    if sources.attachments:
        yield f"would archive {sources.attachments.path}"
    for choice in going:
        yield f"would remove {choice.stream} of set {choice.stored.name}: {choice.reason}"
    yield "nothing was done: dry run"


def set_summary(stored: StoredSet) -> dict[str, Any]:
    """Return a set as ``list --json`` shows it."""
    return {
        "set": stored.name,
        "taken_at": stored.taken_at.isoformat(),
        "state": stored.state,
        "db_size_bytes": stored.size_bytes(Stream.DB),
        "attachments_size_bytes": stored.size_bytes(Stream.ATTACHMENTS),
        "problems": list(stored.problems),
    }


def set_table(sets: Sequence[StoredSet], now: datetime, *, color: bool = False) -> Iterator[str]:
    """Yield the lines of ``list``, oldest first; with ``color``, a damaged set is red."""
    yield f"{'SET':<19}{'AGE':>14}{'DB':>11}{'ATTACHMENTS':>13}  STATE"
    for stored in sets:
        age = duration(max(0.0, (now - stored.taken_at).total_seconds()))
        sizes = [stored.size_bytes(stream) for stream in Stream]
        state = f"\033[31m{stored.state}\033[0m" if color and stored.state == "damaged" else stored.state
        database, attachments = (size(count) if count is not None else "-" for count in sizes)
        yield f"{stored.name:<19}{age:>14}{database:>11}{attachments:>13}  {state}"


def set_details(store: Path, stored: StoredSet) -> Iterator[str]:
    """Yield the lines of ``show``."""
    yield f"set: {stored.name}"
    yield f"taken: {stored.taken_at.astimezone().isoformat(sep=' ', timespec='seconds')}"
    yield f"state: {stored.state}"
    for problem in stored.problems:
        yield f"problem: {problem}"
    for artefact in stored.artefacts:
        yield f"{artefact.kind}: {store / artefact.path} ({artefact.size_bytes} bytes)"
        if artefact.sha256:
            yield f"  sha256: {artefact.sha256}"
    for stream, part in (stored.manifest or {"streams": {}})["streams"].items():
        for key, value in part.get("source", {}).items():
            yield f"{stream} {key.replace('_', ' ')}: {value}"
        if "entries" in part:
            yield f"{stream} entries: {part['entries']}"
        for name in part.get("changed", ()):
            yield f"{stream} changed while it was read: {name}"


def verdict_summary(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as ``verify --json`` shows it."""
    return {"set": verdict.stored.name, "good": not verdict.problems, "problems": list(verdict.problems)}


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """Yield the lines of ``verify`` for one set."""
    yield f"{verdict.stored.name}: {'damaged' if verdict.problems else 'good'}"
    for problem in verdict.problems:
        yield f"  {problem}"


def restored_lines(restored: Restored) -> Iterator[str]:
    """Yield what a restore did, as key=value lines."""
    yield f"restore_type={restored.stream}"
    yield f"restore_file={restored.file}"
    yield f"restore_target={restored.target}"
    if restored.kept:
        yield f"restore_kept={restored.kept}"
    yield "restore_status=ok"


def status_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of ``status``."""
    yield f"store: {facts['store']} ({facts['sets']} sets)"
    newest = facts["newest_set"]
    yield (
        f"newest set: {newest['set']}, {duration(newest['age_s'])} old, {newest['state']}"
        if newest
        else ("newest set: none")
    )
    last = facts["last_run"]
    if last:
        yield f"last run: {last['result']}" + (f" ({last['cause']}: {last['message']})" if "cause" in last else "")
        for name in last.get("unreadable", ()):
            yield f"  unreadable: {name}"
    else:
        yield "last run: none recorded"
    yield f"running now: {'yes' if facts['running'] else 'no'}"
    yield f"timer: {facts['timer']}"
