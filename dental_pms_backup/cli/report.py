"""What the commands print: key=value lines, tables and JSON values, from what the flows return."""

from __future__ import annotations

import json
import shlex
from datetime import UTC
from typing import TYPE_CHECKING, Any

from dental_pms_backup.config.values import Source
from dental_pms_backup.host.wording import duration, moment, moment_of, size
from dental_pms_backup.store import named_files
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.backup.run import Taken
    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.drill.drill import Drilled
    from dental_pms_backup.live.sources import Sources
    from dental_pms_backup.restore.terms import Prospect, Restored
    from dental_pms_backup.store.retention import Choice
    from dental_pms_backup.store.sets import StoredSet
    from dental_pms_backup.store.verify_sets import Verdict

WORD_OF = {Stream.DB: "database", Stream.ATTACHMENTS: "attachments"}
NOTHING_TO_DRILL = "Every set that can be drilled has been drilled."
DRY_RUN = "nothing was done: dry run"
SWITCH_REPLACES = "the live database, whose sessions it ends; what was live is kept under a name with _before_"
NOT_IN_STORE = (
    "on a new server, set again what is in no set: this configuration, rclone.conf, what alerts need, and passwords of "
    "roles, unless database.role_passwords was set"
)
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


def run_told(taken: Taken) -> str:
    """Return in a sentence what a complete run has made."""
    sizes = {WORD_OF[stream]: taken.stored.size_bytes(stream) for stream in Stream}
    parts = " and ".join(f"{size(count)} of the {word}" for word, count in sizes.items() if count is not None)
    name, at = taken.stored.name, moment(taken.stored.taken_at)
    return f"The set {name} of {at} is complete and verified. It holds {parts}."


def dry_run_lines(store: Path, sources: Sources, going: Sequence[Choice]) -> Iterator[str]:
    """Yield what a run would do."""
    yield f"backup_root={store}"
    if sources.database:
        facts = sources.database.facts
        yield f"would dump database {facts.database} ({size(facts.size)} in {sources.database.told})"
    if sources.attachments:
        yield f"would archive {sources.attachments.path}"
    for choice in going:
        yield f"would remove {choice.stream} of set {choice.stored.name}: {choice.reason}"
    yield DRY_RUN


def set_summary(stored: StoredSet) -> dict[str, Any]:
    """Return a set as ``list --json`` shows it."""
    return {
        "set": stored.name,
        "taken_at": stored.taken_at.isoformat(),
        "state": stored.state,
        "db_size_bytes": stored.size_bytes(Stream.DB),
        "attachments_size_bytes": stored.size_bytes(Stream.ATTACHMENTS),
        "problems": list(stored.problems),
        "suspicions": list(stored.suspicions),
        "pinned": stored.pinned,
        "drill": stored.proof,
    }


def set_table(sets: Sequence[StoredSet], now: datetime, *, color: bool = False) -> Iterator[str]:
    """Yield the lines of ``list``, oldest first; with ``color``, a set that is not good is red."""
    yield f"{'SET':<19}{'UTC':>18}{'AGE':>13}{'DB':>11}{'ATTACHMENTS':>13}  STATE"
    for stored in sets:
        age_s = (now - stored.taken_at).total_seconds()
        age = duration(age_s) if age_s >= 0 else f"in {duration(-age_s)}"
        sizes = [stored.size_bytes(stream) for stream in Stream]
        database, attachments = (size(count) if count is not None else "-" for count in sizes)
        state = f"{stored.state}{' (pinned)' if stored.pinned else ''}"
        if color and not stored.is_good:
            state = f"\033[31m{state}\033[0m"
        taken = stored.taken_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
        yield f"{stored.name:<19}{taken:>18}{age:>13}{database:>11}{attachments:>13}  {state}"


def set_details(store: Path, stored: StoredSet) -> Iterator[str]:
    """Yield the lines of ``show``."""
    yield f"set: {stored.name}"
    yield f"taken: {moment(stored.taken_at)}"
    yield f"state: {stored.state}{' (pinned)' if stored.pinned else ''}"
    yield from (f"problem: {problem}" for problem in stored.problems)
    accepted = " (accepted)" if stored.accepted else ""
    yield from (f"strange: {suspicion}{accepted}" for suspicion in stored.suspicions)
    if stored.proof:
        yield from _proof_lines(stored.proof)
    for artefact in stored.artefacts:
        yield f"{artefact.kind}: {store / artefact.path} ({size(artefact.size_bytes)})"
        if artefact.sha256:
            yield f"  sha256: {artefact.sha256}"
    for stream, part in (stored.manifest or {"streams": {}})["streams"].items():
        yield from _source_lines(stream, part.get("source", {}))
        yield from _content_lines(stream, part)


def _proof_lines(proof: Mapping[str, Any]) -> Iterator[str]:
    yield f"drill: {proof['result']} at {moment_of(proof['drilled_at'])}"
    for name, result in proof["proofs"].items():
        reason = proof.get("reasons", {}).get(name)
        yield f"  {name}: {result}{f' ({reason})' if reason else ''}"
    yield from (f"  {problem}" for problem in proof.get("problems", ()))
    if "restore_s" in proof:
        yield f"  the database was restored in {duration(proof['restore_s'])}"
    if "data_age_s" in proof:
        yield f"  its data was {duration(proof['data_age_s'])} old"


def drilled_lines(drilled: Drilled) -> Iterator[str]:
    """Yield what a drill found, as key=value lines, without the last."""
    yield f"drill_set={drilled.stored.name}"
    if drilled.where:
        yield f"drill_where={drilled.where}"
    for name, result in drilled.results.items():
        yield f"proof_{name.replace(' ', '_')}={result}"
    for name, figure in drilled.figures.items():
        yield f"{name}={figure}"


def drilled_told(drilled: Drilled) -> str:
    """Return in sentences what a drill that passed has shown."""
    text = f"The set {drilled.stored.name} was restored into a throwaway server, and what came back is what went in."
    if "restore_s" in drilled.figures:
        text += f" Restoring the database took {duration(drilled.figures['restore_s'])}."
    return text


def _source_lines(stream: str, source: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a stream was taken from; what else the manifest says of a server is for ``--json``."""
    told = [str(source["path"])] if source.get("path") else []
    if source.get("database"):
        told.append(f"database {source['database']}")
    if isinstance(size_bytes := source.get("database_bytes"), int):
        told.append(f"{size(size_bytes)} on the server's disk")
    if isinstance(version := source.get("server_version"), int):
        told.append("PostgreSQL {}.{}".format(*divmod(version, 10_000)))
    if source.get("container"):
        told.append(f"container {source['container']}")
    if told:
        yield f"{stream} source: {', '.join(told)}"


def _content_lines(stream: str, part: Mapping[str, Any]) -> Iterator[str]:
    if "rows" in part:
        yield f"{stream} content: {sum(part['rows'].values()):,} rows in {_counted(len(part['rows']), 'table')}"
    if "entries" in part:
        yield f"{stream} content: {part['entries']:,} files and directories"
    for key, what in (named_files.MISSING, "no file"), (named_files.OTHER_SIZE, "a file of another size"):
        if part.get(key):
            yield f"{stream} have {what} for {_counted(part[key], 'row')} of the database"
    yield from (f"{stream} is without: {what}" for what in part.get("without", ()))
    yield from (f"{stream} changed while being read: {name}" for name in part.get("changed", ()))
    yield from (f"{stream} are without what is behind the link: {name}" for name in part.get("leading_out", ()))


def verdict_summary(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as ``verify --json`` shows it."""
    return {"set": verdict.stored.name, "good": not verdict.problems, "problems": list(verdict.problems)}


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """Yield the lines of ``verify`` for one set."""
    yield f"{verdict.stored.name}: {'damaged' if verdict.problems else 'good'}"
    for problem in verdict.problems:
        yield f"  {problem}"


def choice_lines(choices: Sequence[Choice], *, dry_run: bool) -> Iterator[str]:
    """Yield what ``prune`` did, or with ``dry_run`` would do: each choice with its reason."""
    words = {True: "keep", False: "remove" if dry_run else "removed"}
    for choice in choices:
        yield f"{words[choice.keep]} {choice.stream} of set {choice.stored.name}: {choice.reason}"
    yield DRY_RUN if dry_run else f"retention_deleted={len(choices)}"


def prospect_lines(prospect: Prospect) -> Iterator[str]:
    """Yield what a restore would do."""
    yield f"would restore {prospect.stream} into {prospect.target}"
    yield f"from {prospect.origin}: {prospect.content}"
    yield f"room: {prospect.room}"
    yield from (f"first: {left}; that is ended first" for left in prospect.ends)
    yield f"live: {prospect.live}"
    yield from (f"live_has_more={loss}" for loss in prospect.losses)


def next_lines(config: Config) -> Iterator[str]:
    """Yield what is to be typed once both streams are back, on a new server or on the old one."""
    if config.database.source is Source.COMPOSE:
        project = shlex.quote(str(config.compose.project_dir))
        yield f"next=cd {project} && docker compose up --detach --wait   # then look at the application"
    yield "next=dental-pms-backup run   # the first set of what is live now"
    yield "next=systemctl enable --now dental-pms-backup.timer dental-pms-backup-drill.timer   # tonight's backup"
    yield f"next=dental-pms-backup config show   # {NOT_IN_STORE}"


def restored_lines(restored: Restored) -> Iterator[str]:
    """Yield what a restore did, as key=value lines."""
    yield f"restore_type={restored.stream}"
    yield f"restore_file={restored.file}"
    yield f"restore_target={restored.target}"
    if restored.rows is not None:
        yield f"restore_rows={restored.rows}"
    if restored.safety_set:
        yield f"restore_safety_set={restored.safety_set}"
    if restored.kept:
        yield f"restore_kept={restored.kept}"
    if restored.switch:
        yield f"restore_switch_replaces={SWITCH_REPLACES}"
        yield f"restore_switch={shlex.join(restored.switch)}"
    if restored.drop:
        yield f"restore_drop={shlex.join(restored.drop)}"
    yield "restore_status=ok"


def restored_told(restored: Restored) -> str:
    """Return in sentences what a restore did, and what is left to do."""
    if restored.switch:
        return (
            f"The database was restored into the new database {restored.target}; the live one is as it was. "
            "Look at the new one first: the command after restore_switch= replaces the live database by it."
        )
    if restored.kept:
        kept = f"What was live before is kept in {restored.kept}."
        return f"{restored.target} has the {WORD_OF[restored.stream]} of the backup now. {kept}"
    return f"{restored.target} has the {WORD_OF[restored.stream]} of the backup now."


def extracted_lines(paths: Sequence[str], found: Sequence[Path], *, as_json: bool) -> Iterator[str]:
    """Yield where each path of an archive is now."""
    pairs = list(zip(paths, found, strict=True))
    if as_json:
        listed = [{"path": path, "extracted": str(file)} for path, file in pairs]
        yield from json.dumps(listed, indent=2).split("\n")
        return
    for path, file in pairs:
        yield f"extracted_path={path}"
        yield f"extracted={file}"


def status_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of ``status``."""
    yield f"store: {facts['store']} ({_counted(facts['sets'], 'set')})"
    if facts["dated_in_the_future"]:
        yield f"dated in the future: {_counted(facts['dated_in_the_future'], 'set')}, passed over here and by latest"
    for stream, newest in facts["newest"].items():
        yield f"newest {WORD_OF[stream]}: {_set_told(newest)}"
    yield f"newest proven database: {_set_told(facts['newest_proven'][Stream.DB])}"
    yield from _last_run_lines(facts["last_run"])
    for failed in facts["failed_before"]:
        yield f"last run of the {WORD_OF[failed['stream']]}: failed, began at {moment_of(failed['at'])}"
        yield f"  {failed['cause']}"
    yield f"running now: {'yes' if facts['running'] else 'no'}"
    yield f"timer: {facts['timer']}"


def _last_run_lines(last: Mapping[str, Any] | None) -> Iterator[str]:
    if last is None:
        yield "last run: none recorded"
        return
    alone = next((f" of the {word} alone" for stream, word in WORD_OF.items() if last.get("streams") == [stream]), "")
    yield f"last run{alone}: {last['result']}, began at {moment_of(last['at'])}"
    if "cause" in last:
        yield f"  {last['cause']}: {last.get('message', '')}"
    yield from (f"  unreadable: {name}" for name in last.get("unreadable", ()))


def _set_told(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "none"
    return f"{told['set']}, taken at {moment_of(told['taken_at'])}, {duration(told['age_s'])} ago, {told['state']}"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
