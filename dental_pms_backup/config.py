"""The configuration: read from YAML with the line of everything, turned into frozen values.

Nothing is constructed from the file: its nodes are walked, so that no tag can run anything and every problem
has a line. All problems are reported at once.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from dental_pms_backup.errors import ConfigError
from dental_pms_backup.keys import KEY_OF, KEYS, SECTIONS, Key, Source, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_FILE = Path("/etc/dental-pms/backup.yaml")
USUAL_STORE = Path("/srv/dental-pms/backups")
LARGEST_FILE_BYTES = 64 << 10
DEEPEST_NESTING = 8
LONGEST_SHOWN = 60
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # those between stand for bytes of the environment
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """How the containers of the project are found."""

    project_dir: Path
    project: str | None
    db_service: str
    backend_service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which sets stay: the newest ``keep``, all within some days, and the newest of each of the last periods."""

    keep: int
    keep_within_days: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the store has to be like before a run: megabytes left free after it, and a mount of its own."""

    reserve_mb: int
    require_mount: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """From when on a set is suspect: percent smaller than the last good one; a table whose rows have files."""

    db_shrink_percent: int
    rows_shrink_percent: int
    attachments_shrink_percent: int
    attachments_table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, and how far apart in seconds, the sources are tried."""

    attempts: int
    wait_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """What is dumped, and how long pg_dump waits for a lock, in seconds."""

    source: Source
    lock_wait_s: int
    role_passwords: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """How a PostgreSQL outside of compose is reached; ``database`` is set when it is the source."""

    host: str
    port: int
    user: str
    run_as: str
    database: str | None
    pgpass_file: Path | None
    bin_dir: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachments:
    """Where the attachments lie."""

    path: Path | None
    mount: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsite:
    """The second place."""

    remote: str | None
    rclone_config: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective configuration. ``origins`` says of every key where its value came from."""

    store: Path
    retention: Retention
    room: Room
    lock_wait_s: int
    stall_timeout_s: int
    suspect: Suspect
    retry: Retry
    compose: Compose
    database: Database
    native: Native
    attachments: Attachments
    offsite: Offsite
    values: Mapping[str, Value] = field(repr=False)
    origins: Mapping[str, str] = field(repr=False)


class _Mark(Protocol):
    """A place in the file, as either of PyYAML's parsers gives it; ``line`` counts from 0."""

    @property
    def line(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A scalar of the file: its text, its resolved YAML tag, and its line from 1."""

    text: str
    tag: str
    line: int


def load(path: Path, environment: Mapping[str, str]) -> Config:
    """Read the configuration file and the overriding variables.

    Raises ConfigError with every problem found, each naming file, line, key and what was expected.
    """
    values: dict[str, Value] = {key.name: key.default for key in KEYS}
    origins = {key.name: "default" for key in KEYS}
    problems: list[str] = []
    scalars = _scalars(path, _parse(path), problems)
    for name, scalar in scalars.items():
        try:
            values[name] = _convert(KEY_OF[name], scalar)
            origins[name] = f"{path}:{scalar.line}"
        except ValueError as error:
            problems.append(f"{path}:{scalar.line}: {name}: {error}")
    for key in KEYS:
        if key.variable and key.variable in environment:
            try:
                values[key.name] = _from_variable(key, environment[key.variable])
                origins[key.name] = f"environment {key.variable}"
            except ValueError as error:
                problems.append(f"environment: {key.variable}: {error}")
    if not problems:
        problems.extend(_contradictions(values, origins))
    if problems:
        raise ConfigError(tuple(problems), hint="man dental-pms-backup.yaml")
    return _config(values, origins, Path(environment.get("CREDENTIALS_DIRECTORY", "/run/credentials")))


def _parse(path: Path) -> yaml.Node:
    text = _read(path)
    try:
        _check_events(path, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = _line_of(error.problem_mark)
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError((f"{path}:{line}: the file is not YAML: {what}",)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError((f"{path}:{line}: a control character stands here, expected text",)) from None
    except (ValueError, OverflowError):  # of int() and chr() in PyYAML
        raise ConfigError((f"{path}:1: the file is not YAML: a number in it is too large",)) from None
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
        raise ConfigError(
            (f"{path}:1: the file is empty, expected at least one key",),
            hint="printf 'compose:\\n  project_dir: /srv/dental-pms\\n' > " + str(path),
        )
    return node


def _check_events(path: Path, text: str) -> None:
    """Refuse what two levels of keys and plain values never need, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        problem = ""
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "an anchor or alias stands here, expected plain values only"
        elif depth > DEEPEST_NESTING:  # PyYAML would take minutes
            problem = "nested too deeply, expected two levels"
        if problem:
            raise ConfigError((f"{path}:{_line_of(event.start_mark)}: {problem}",))


def _line_of(mark: _Mark | None) -> int:
    return mark.line + 1 if mark else 1


def _read(path: Path) -> str:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError((f"{path}: not a regular file, expected a YAML file",))
            content = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {error.strerror}, expected a YAML file",)) from None
    if len(content) > LARGEST_FILE_BYTES:
        raise ConfigError((f"{path}: larger than {LARGEST_FILE_BYTES} bytes, expected a short YAML file",))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError((f"{path}:{line}: not UTF-8 text, expected a YAML file in UTF-8",)) from None


def _scalars(path: Path, node: yaml.Node, problems: list[str]) -> dict[str, _Line]:
    found: dict[str, _Line] = {}
    for name, value, line in _entries(path, node, "", problems):
        if name in SECTIONS:
            for inner, scalar, inner_line in _entries(path, value, f"{name}.", problems):
                _take(f"{path}:{inner_line}", inner, scalar, found, problems)
        elif "." in name:
            problems.append(_unknown(f"{path}:{line}", name))
        else:
            _take(f"{path}:{line}", name, value, found, problems)
    return found


def _entries(path: Path, node: yaml.Node, prefix: str, problems: list[str]) -> Iterator[tuple[str, yaml.Node, int]]:
    """Yield full key, value node and line of each entry of a mapping; a key given twice is a problem."""
    line = _line_of(node.start_mark)
    where = prefix.rstrip(".") or "the file"
    if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
        problems.append(f"{path}:{line}: {where}: {_describe(node)}, expected keys and values")
        return
    if not node.value:
        problems.append(f"{path}:{line}: {where}: empty, expected at least one key")
    seen: dict[str, int] = {}
    for key_node, value in node.value:
        line = _line_of(key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            problems.append(f"{path}:{line}: {where}: {_describe(key_node)} as a key, expected a name")
            continue
        name = prefix + key_node.value
        if name in seen:
            shown = name if name.isprintable() else _quoted(name)
            problems.append(f"{path}:{line}: {shown}: given twice, expected once (first on line {seen[name]})")
            continue
        seen[name] = line
        yield name, value, line


def _take(where: str, name: str, node: yaml.Node, found: dict[str, _Line], problems: list[str]) -> None:
    if name not in KEY_OF:
        problems.append(_unknown(where, name))
    elif not isinstance(node, yaml.ScalarNode):
        problems.append(f"{where}: {name}: {_describe(node)}, expected {KEY_OF[name].expected}")
    else:
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        found[name] = _Line(text=node.value, tag=tag, line=_line_of(node.start_mark))


def _unknown(where: str, name: str) -> str:
    return f"{where}: {_quoted(name)}: unknown key, expected one of {', '.join(_siblings(name))}"


def _siblings(name: str) -> list[str]:
    """Return the keys that may stand where a name stands."""
    head = name.partition(".")[0]
    section = head if head in SECTIONS and name != head else ""
    known = [key.name for key in KEYS if key.name.rpartition(".")[0] == section]
    return known if section else known + list(SECTIONS)


def _describe(node: yaml.Node) -> str:
    match node:
        case yaml.SequenceNode():
            return "a list"
        case yaml.MappingNode() if node.tag == "tag:yaml.org,2002:map":
            return "keys and values"
        case yaml.ScalarNode() if node.tag.startswith("tag:yaml.org,2002:") and ":python/" not in node.tag:
            return _quoted(node.value)
        case _:
            return f"the tag {_quoted(node.tag)}"


def _convert(key: Key, scalar: _Line) -> Value:
    """Turn a scalar into the key's value; ValueError says what is wrong and what was expected."""
    if scalar.tag == "null" and scalar.text.lower() in {"", "~", "null"}:
        if key.default is None:
            return None
        raise ValueError(f"no value, expected {key.expected}")
    if scalar.tag not in {"str", "int", "bool", "float", "timestamp"}:
        raise ValueError(f"the tag {_quoted(scalar.tag)}, expected {key.expected}")
    match key.kind:
        case "number":
            return _number(key, scalar.text if scalar.tag == "int" else f"{scalar.text} ")
        case "switch":
            if scalar.tag != "bool" or scalar.text.lower() not in SWITCHES:
                raise ValueError(f"{_quoted(scalar.text)}, expected {key.expected}")
            return SWITCHES[scalar.text.lower()]
        case "text" | "path" | "choice" if scalar.tag != "str":
            raise ValueError(f"{_quoted(scalar.text)} is no text, expected {key.expected} (put it in quotes)")
        case _:
            return _text(key, scalar.text)


def _from_variable(key: Key, text: str) -> Value:
    return _number(key, text) if key.kind == "number" else _text(key, text)


def _number(key: Key, text: str) -> int:
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text, re.ASCII):
        raise ValueError(f"{_quoted(text.strip())} is not a whole number, expected {key.expected}")
    number = int(text)
    if number < key.least:
        raise ValueError(f"{number} is too small, expected {key.expected}")
    if number > key.most:
        raise ValueError(f"{number} is too large, expected {key.expected}")
    return number


def _text(key: Key, text: str) -> Value:
    if not text.strip():
        raise ValueError(f"empty, expected {key.expected}")
    if CONTROL.search(text) or SURROGATE.search(text):
        raise ValueError(f"a control character in {_quoted(text)}, expected {key.expected}")
    if key.kind == "path":
        return _path(key, text)
    if key.kind == "choice" and text not in key.choices:
        raise ValueError(f"{_quoted(text)}, expected {key.expected}")
    if text.startswith("-"):
        raise ValueError(f"{_quoted(text)} starts with a dash, expected {key.expected}")
    return text


def _path(key: Key, text: str) -> Path:
    if not text.startswith(("/", "%d/") if key.credential else "/"):
        raise ValueError(f"{_quoted(text)} is not absolute, expected {key.expected}")
    if ".." in Path(text).parts:
        raise ValueError(f'{_quoted(text)} contains "..", expected {key.expected}')
    return Path(re.sub("^/+", "/", text))


def _quoted(text: str) -> str:
    """Return the text in quotes, printable and short: what stands in the file may be anything."""
    shown = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown) + '"'


def _contradictions(values: Mapping[str, Value], origins: Mapping[str, str]) -> Iterator[str]:
    """Yield what no key shows alone."""

    def where(name: str) -> str:
        return f"{origins[name]}: {name}"

    if values["database.source"] == Source.NATIVE and values["native.database"] is None:
        yield f"{where('database.source')}: native, expected native.database to name the database"
    remote = values["offsite.remote"]
    if isinstance(remote, str) and not re.match(r"[\w.+@ -]+:", remote, re.ASCII):
        yield f"{where('offsite.remote')}: names no remote, expected NAME: or NAME:path"
    store, attachments = values["backup_dir"], values["attachments.path"]
    if isinstance(store, Path) and isinstance(attachments, Path) and (store.is_relative_to(attachments)):
        yield f"{where('backup_dir')}: {store} lies in attachments.path, expected a directory outside of it"
    if store == Path("/"):
        yield f"{where('backup_dir')}: / is the whole system, expected a directory of its own"
    if attachments == Path("/"):
        yield f"{where('attachments.path')}: / is the whole system, expected a directory of its own"


def _config(values: Mapping[str, Any], origins: Mapping[str, str], credentials: Path) -> Config:
    def credential(path: Path | None) -> Path | None:
        return credentials.joinpath(*path.parts[1:]) if path and path.parts[0] == "%d" else path

    def section(name: str) -> dict[str, Any]:
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}

    native = section("native")
    offsite = section("offsite")
    database = section("database")
    return Config(
        store=_store(values["backup_dir"], values["compose.project_dir"]),
        retention=Retention(**{name: value for name, value in values.items() if name.startswith("keep")}),
        room=Room(reserve_mb=values["reserve_mb"], require_mount=values["require_mount"]),
        lock_wait_s=values["lock_wait_s"],
        stall_timeout_s=values["stall_timeout_s"],
        suspect=Suspect(**section("suspect")),
        retry=Retry(**section("retry")),
        compose=Compose(**section("compose")),
        database=Database(**database | {"source": Source(database["source"])}),
        native=Native(**native | {"pgpass_file": credential(native["pgpass_file"])}),
        attachments=Attachments(**section("attachments")),
        offsite=Offsite(**offsite | {"rclone_config": credential(offsite["rclone_config"])}),
        values=values,
        origins=origins,
    )


def _store(backup_dir: Path | None, project_dir: Path) -> Path:
    """Return where the store is: contract section 3."""
    if backup_dir is not None:
        return backup_dir
    return USUAL_STORE if USUAL_STORE.is_dir() else project_dir / ".run" / "backups"
