"""The programs of ``filters/``, through which data flows that never comes into this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dental_pms_backup.host.programs import Ended

FILTERS = Path(__file__).parents[1] / "filters"
FILTERS_WORD = re.compile(r"line \d+: [ -~]+")


def argv(name: str, *words: str) -> list[str]:
    """Return the argv of a filter, which is perl."""
    return ["perl", str(FILTERS / name), *words]


def complaint(ended: Ended) -> str:
    """Return what a filter said, which is of the place in the file and never of what it holds; empty for all else."""
    return ended.said[-1] if ended.said and FILTERS_WORD.fullmatch(ended.said[-1]) else ""
