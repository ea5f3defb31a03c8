"""The programs of ``filters/``, through which data flows that never comes into this process."""

from __future__ import annotations

from pathlib import Path

FILTERS = Path(__file__).parents[1] / "filters"


def argv(name: str, *words: str) -> list[str]:
    """Return the argv of a filter, which is perl."""
    return ["perl", str(FILTERS / name), *words]
