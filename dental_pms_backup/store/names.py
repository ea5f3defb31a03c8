"""What a set can be called: a moment in local time."""

from __future__ import annotations

import re
from datetime import datetime

YEARS = range(1970, 9999)  # what every time zone can show
NAME = re.compile("([0-9]{4})-([0-9]{2})-([0-9]{2})_([0-9]{2})([0-9]{2})([0-9]{2})")


def is_moment(name: str) -> bool:
    """Tell whether a name is that of a set: a time that every time zone can show."""
    digits = NAME.fullmatch(name)
    if digits is None:
        return False
    try:
        return datetime(*map(int, digits.groups())).year in YEARS  # type: ignore[arg-type]  # noqa: DTZ001 - a name
    except ValueError:
        return False
