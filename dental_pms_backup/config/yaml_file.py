"""The configuration file as YAML: its values as text, each with its line, and every problem of its shape.

Nothing is constructed from the file: its nodes are walked, so that no tag can run anything.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import yaml

from dental_pms_backup.config.keys import KEY_OF, KEYS, SECTIONS
from dental_pms_backup.errors import ConfigError, shell_word

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGEST_FILE_BYTES = 64 << 10
DEEPEST_NESTING = 8
LONGEST_SHOWN = 60


class _Mark(Protocol):
    """A place in the file, as either of PyYAML's parsers gives it; ``line`` counts from 0."""

    @property
    def line(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A scalar of the file: its text, its resolved YAML tag, and its line from 1.

    In ``entries`` the scalars of a mapping, or of a list under no name.
    """

    text: str
    tag: str
    line: int
    entries: tuple[tuple[str, Line], ...] = ()


def scalars(path: Path, problems: list[str]) -> dict[str, Line]:
    """Return the values of the known keys that stand in the file; what is wrong with others is added to ``problems``.

    ConfigError when the file cannot be read, or is not YAML, or holds nothing.
    """
    return _scalars(path, _parse(path), problems)


def quoted(text: str) -> str:
    """Return the text in quotes, printable and short: what stands in the file may be anything."""
    shown = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown) + '"'


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
            _check_trusted(path, os.fstat(descriptor))
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


def _check_trusted(path: Path, status: os.stat_result) -> None:
    """Raise ConfigError for what is no file, or what somebody else can write: it names programs that we run."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError((f"{path}: not a regular file, expected a YAML file",))
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            (
                f"{path}: can be written by others (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}), "
                "expected by root alone",
            ),
            hint=f"chown root {shell_word(path)}; chmod go-w {shell_word(path)}",
        )


def _scalars(path: Path, node: yaml.Node, problems: list[str]) -> dict[str, Line]:
    found: dict[str, Line] = {}
    for name, value, line in _entries(path, node, "", problems):
        if name in SECTIONS:
            for inner, scalar, inner_line in _entries(path, value, f"{name}.", problems):
                _take(path, inner_line, inner, scalar, found, problems)
        elif "." in name:
            problems.append(_unknown(f"{path}:{line}", name))
        else:
            _take(path, line, name, value, found, problems)
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
            shown = name if name.isprintable() else quoted(name)
            problems.append(f"{path}:{line}: {shown}: given twice, expected once (first on line {seen[name]})")
            continue
        seen[name] = line
        yield name, value, line


def _take(path: Path, line: int, name: str, node: yaml.Node, found: dict[str, Line], problems: list[str]) -> None:
    where = f"{path}:{line}"
    if name not in KEY_OF:
        problems.append(_unknown(where, name))
    elif KEY_OF[name].kind == "checks" and isinstance(node, yaml.MappingNode):
        found[name] = Line(text="", tag="map", line=line, entries=tuple(_named(path, name, node, problems)))
    elif KEY_OF[name].kind == "names" and isinstance(node, yaml.SequenceNode) and _all_scalars(node):
        found[name] = Line(text="", tag="seq", line=line, entries=tuple(("", _scalar(each)) for each in node.value))
    elif not isinstance(node, yaml.ScalarNode):
        problems.append(f"{where}: {name}: {_describe(node)}, expected {KEY_OF[name].expected}")
    else:
        found[name] = _scalar(node)


def _all_scalars(node: yaml.SequenceNode) -> bool:
    return node.tag == "tag:yaml.org,2002:seq" and all(isinstance(each, yaml.ScalarNode) for each in node.value)


def _named(path: Path, name: str, node: yaml.MappingNode, problems: list[str]) -> Iterator[tuple[str, Line]]:
    """Yield the scalars of a mapping whose names are the admin's own, none of an empty one."""
    for inner, value, line in _entries(path, node, f"{name}.", problems) if node.value else ():
        if isinstance(value, yaml.ScalarNode):
            yield inner.removeprefix(f"{name}."), _scalar(value)
        else:
            problems.append(f"{path}:{line}: {quoted(inner)}: {_describe(value)}, expected text")


def _scalar(node: yaml.ScalarNode) -> Line:
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    return Line(text=node.value, tag=tag, line=_line_of(node.start_mark))


def _unknown(where: str, name: str) -> str:
    return f"{where}: {quoted(name)}: unknown key, expected one of {', '.join(_siblings(name))}"


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
            return quoted(node.value)
        case _:
            return f"the tag {quoted(node.tag)}"
