"""What stands in the file or in a variable, turned into the value of a key; ValueError says what was expected."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.config.values import CHECK_NAME, IGNORE
from dental_pms_backup.config.yaml_file import quoted

if TYPE_CHECKING:
    from dental_pms_backup.config.key import Key
    from dental_pms_backup.config.values import Checks, Names, Value
    from dental_pms_backup.config.yaml_file import Line

SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # those between stand for bytes of the environment
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def convert(key: Key, scalar: Line) -> Value:
    """Turn a scalar into the key's value; ValueError says what is wrong and what was expected."""
    match key.kind:
        case "checks":
            return _checks(key, scalar)
        case "names":
            return _names(key, scalar)
        case _:
            return _one(key, scalar)


def _one(key: Key, scalar: Line) -> Value:
    if scalar.tag == "null" and scalar.text.lower() in {"", "~", "null"}:
        if key.optional and not (key.null_too and not scalar.text):  # where null is off, it has to be said
            return None
        raise ValueError(f"no value, expected {key.expected}")
    if scalar.tag not in {"str", "int", "bool", "float", "timestamp"}:
        raise ValueError(f"the tag {quoted(scalar.tag)}, expected {key.expected}")
    match key.kind:
        case "number":
            return _number(key, scalar.text if scalar.tag == "int" else f"{scalar.text} ")
        case "switch":
            if scalar.tag != "bool" or scalar.text.lower() not in SWITCHES:
                raise ValueError(f"{quoted(scalar.text)}, expected {key.expected}")
            return SWITCHES[scalar.text.lower()]
        case "text" | "path" | "choice" if scalar.tag != "str":
            raise ValueError(f"{quoted(scalar.text)} is no text, expected {key.expected} (put it in quotes)")
        case _:
            return _text(key, scalar.text)


def _checks(key: Key, scalar: Line) -> Checks:
    """Turn a mapping into names and queries; ValueError as ``convert``."""
    if scalar.tag != "map":
        raise ValueError(f"{quoted(scalar.text)}, expected {key.expected}")
    return tuple((name, _query(name, line)) for name, line in scalar.entries)


def _names(key: Key, scalar: Line) -> Names | str:
    """Turn a list into names, which may also be the word that asks for none; ValueError as ``convert``."""
    if (scalar.tag, scalar.text) == ("str", IGNORE):
        return IGNORE
    if scalar.tag != "seq":
        raise ValueError(f"{quoted(scalar.text)}, expected {key.expected}")
    for _, name in scalar.entries:
        if name.tag != "str" or not name.text or CONTROL.search(name.text) or SURROGATE.search(name.text):
            raise ValueError(f"{quoted(name.text)} is no name, expected {key.expected}")
    return frozenset(name.text for _, name in scalar.entries)


def _query(name: str, scalar: Line) -> str:
    """Return the query of a check; ValueError as ``convert``."""
    if not re.fullmatch(CHECK_NAME, name):
        raise ValueError(f"{quoted(name)} as a name, expected letters, digits, spaces and . _ - (60 at most)")
    if scalar.tag != "str" or not scalar.text.strip():
        raise ValueError(f"{name}: {quoted(scalar.text)} is no query, expected SQL")
    if CONTROL.search(re.sub(r"[\n\t]", " ", scalar.text)) or SURROGATE.search(scalar.text):
        raise ValueError(f"{name}: a control character in {quoted(scalar.text)}, expected SQL")
    return scalar.text.strip()


def from_variable(key: Key, text: str) -> Value:
    """Turn a variable's text into the key's value; ValueError as ``convert``."""
    return _number(key, text) if key.kind == "number" else _text(key, text)


def _number(key: Key, text: str) -> int:
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text, re.ASCII):
        raise ValueError(f"{quoted(text.strip())} is not a whole number, expected {key.expected}")
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
        raise ValueError(f"a control character in {quoted(text)}, expected {key.expected}")
    if key.kind == "path":
        return _path(key, text)
    if key.kind == "choice" and text not in key.choices:
        raise ValueError(f"{quoted(text)}, expected {key.expected}")
    if text.startswith("-"):
        raise ValueError(f"{quoted(text)} starts with a dash, expected {key.expected}")
    return text


def _path(key: Key, text: str) -> Path:
    if not text.startswith(("/", "%d/") if key.credential else "/"):
        raise ValueError(f"{quoted(text)} is not absolute, expected {key.expected}")
    if ".." in Path(text).parts:
        raise ValueError(f'{quoted(text)} contains "..", expected {key.expected}')
    return Path(re.sub("^/+", "/", text))
