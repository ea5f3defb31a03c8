"""Figures for people: sizes, time spans and moments; and the lines of what a program or the kernel prints."""

from __future__ import annotations

from datetime import UTC, datetime

UNIT_STEP = 1000
UNITS = ("B", "kB", "MB", "GB", "TB")
FORMAT = "%Y-%m-%d %H:%M:%S"


def size(size_bytes: float) -> str:
    """Return a size for people, decimal units: ``8.4 MB``."""
    for unit in UNITS[:-1]:
        shown = f"{size_bytes:.0f}" if unit == "B" else f"{size_bytes:.1f}"
        if float(shown) < UNIT_STEP:
            return f"{shown} {unit}"
        size_bytes /= UNIT_STEP
    return f"{size_bytes:.1f} {UNITS[-1]}"


def duration(seconds: float) -> str:
    """Return a time span for people, in its two largest units: ``2 min 5 s``."""
    whole = round(seconds)
    parts = [(whole // 86_400, "d"), (whole // 3_600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "0 s"


def moment(at: datetime) -> str:
    """Return a moment in local time, with UTC beside it: ``2026-11-23 02:30:00 CET (2026-11-23 01:30:00 UTC)``."""
    local, utc = at.astimezone(), at.astimezone(UTC).strftime(f"{FORMAT} UTC")
    return f"{local.strftime(f'{FORMAT} %Z')} ({utc})" if local.utcoffset() else utc


def moment_of(text: str) -> str:
    """Return a moment that is written as in ISO 8601 for people; what is written otherwise as it is."""
    try:
        return moment(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return text


def lines(text: str) -> list[str]:
    """Return the lines of what a program prints, without their ends: nothing but a newline ends one.

    A name in it may hold whatever else ``splitlines`` takes for an end, from a form feed to U+2028.
    """
    return text.removesuffix("\n").split("\n") if text else []
