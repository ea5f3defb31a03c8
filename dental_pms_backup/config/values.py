"""The values that a key of the configuration may have, and how they are written."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

Checks = tuple[tuple[str, str], ...]
Names = frozenset[str]
Value = str | int | bool | Path | Checks | Names | None
IGNORE = "ignore"
CHECK_NAME = r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,59}"


class Source(StrEnum):
    """Where the database runs."""

    COMPOSE = "compose"
    NATIVE = "native"


class Road(StrEnum):
    """How a server in a container is reached, beside ``auto`` the fastest first."""

    AUTO = "auto"
    NAMESPACE = "namespace"
    SOCKET = "socket"
    EXEC = "exec"


class Where(StrEnum):
    """Where a drill restores to."""

    AUTO = "auto"
    CONTAINER = "container"
    CLUSTER = "cluster"


def render(value: Value) -> str:
    """Return a value as the configuration file spells it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case frozenset():
            return json.dumps(sorted(value))  # JSON is YAML
        case tuple():
            return json.dumps(dict(value))
        case _:
            return str(value)


def plain(value: Value) -> object:
    """Return a value as JSON has it."""
    match value:
        case Path() | StrEnum():
            return str(value)
        case frozenset():
            return sorted(value)
        case tuple():
            return dict(value)
        case _:
            return value
