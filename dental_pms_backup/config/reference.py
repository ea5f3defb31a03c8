"""What else is made of the table of keys: the JSON Schema of the configuration file, and an example of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dental_pms_backup.config.keys import KEYS, SECTIONS
from dental_pms_backup.config.values import CHECK_NAME, IGNORE, plain, render

if TYPE_CHECKING:
    from dental_pms_backup.config.key import Key

TEXT = {"type": "string", "minLength": 1}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration file."""
    top: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "/etc/dental-pms/backup.yaml",
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {name: {"type": "object", "additionalProperties": False, "properties": {}} for name in SECTIONS},
    }
    for key in KEYS:
        section, _, leaf = key.name.rpartition(".")
        place = top["properties"][section]["properties"] if section else top["properties"]
        place[leaf] = _key_schema(key)
    return top


def example() -> str:
    """Return a configuration file that holds every key with its default and what it does."""
    lines = [
        "# Every key of /etc/dental-pms/backup.yaml with its default. Copy what you want to change.",
        "# A key that says null is unset, but for application.table, where it means that there is none.",
    ]
    section = ""
    for key in sorted(KEYS, key=lambda key: "." in key.name):
        head, _, leaf = key.name.rpartition(".")
        if head != section:
            lines += ["", f"{head}:"]
            section = head
        indent = "  " if head else ""
        lines += [f"{indent}# {key.says}", f"{indent}{leaf}: {render(key.default)}"]
    return "\n".join(lines) + "\n"


def _key_schema(key: Key) -> dict[str, Any]:
    kind = _of_kind(key)
    if key.optional:
        kind["type"] = [kind["type"], "null"]
    default = plain(key.default)
    return kind | {"description": key.says, "default": default}


def _of_kind(key: Key) -> dict[str, Any]:
    kind: dict[str, Any]
    match key.kind:
        case "number":
            kind = {"type": "integer", "minimum": key.least, "maximum": key.most}
        case "switch":
            kind = {"type": "boolean"}
        case "text":
            kind = dict(TEXT)
        case "path":
            kind = {"type": "string", "pattern": "^(/|%d/)" if key.credential else "^/"}
        case "choice":
            kind = {"enum": list(key.choices)}
        case "checks":
            names = {"pattern": f"^{CHECK_NAME}$"}
            kind = {"type": "object", "propertyNames": names, "additionalProperties": TEXT}
        case "names":
            kind = {"type": ["string", "array"], "pattern": f"^{IGNORE}$", "items": TEXT}
    return kind
