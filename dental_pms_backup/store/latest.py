"""Which sets the words ``latest`` and ``oldest`` mean, the same ones for every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.errors import UsageError
from dental_pms_backup.store import sets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.store.sets import Kind

GOOD = " that is not suspect, failed, damaged, dated in the future or a safety set"
LATEST, OLDEST = "latest", "oldest"


def named(store: Path, wanted: str, *, having: Sequence[Kind] = (), now: datetime) -> str:
    """Return the name of the set that a word means, of those with all these files; what is no such word as it is.

    ``latest`` is never a set that something is known against, nor what a restore took of what was live before.
    UsageError when there is no such set.
    """
    if wanted not in {LATEST, OLDEST}:
        return wanted
    every = sets.listing(store)
    found = [stored for stored in every if all(stored.artefact(kind) for kind in having)]
    what = f" with {' and '.join(having)}" if having and every else ""
    hint = "dental-pms-backup run"
    if wanted == LATEST and found:
        what, hint = what + GOOD, "dental-pms-backup list   # then type the name of the set that you want"
        found = [each for each in found if each.is_good and each.taken_at <= now and not each.is_safety]
    if not found:
        raise UsageError(f"{store}: no set{what}, expected at least one", hint=hint)
    return found[-1 if wanted == LATEST else 0].name
