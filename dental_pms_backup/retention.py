"""Which artefacts stay: a pure function from what is stored to choices, each with its reason in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dental_pms_backup.artefacts import StoredSet, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Keep or remove one stream's files of one set, and why."""

    stored: StoredSet
    stream: Stream
    keep: bool
    reason: str


def choices(sets: Sequence[StoredSet], stream: Stream, *, keep: int, made: str = "", coming: int = 0) -> list[Choice]:
    """Choose which sets keep their files of a stream, newest first by the UTC time in the manifest.

    The set ``made`` by the run that asks always stays and counts first, whatever the clock says; ``coming`` sets
    that do not exist yet are counted as newest. A damaged set takes no place: it never pushes a good one out.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}, expected at least 1")
    having = [stored for stored in sets if stored.size_bytes(stream) is not None]
    newest_first = sorted(having, key=lambda stored: (stored.name == made, stored.taken_at), reverse=True)
    chosen, places = [], coming
    for stored in newest_first:
        stays = places < keep
        if stored.state == "damaged":
            reason = f"damaged, takes no place; {places} newer ones are counted, {keep} stay"
        else:
            places += 1
            reason = f"number {places} from the newest, {keep} stay"
        chosen.append(Choice(stored=stored, stream=stream, keep=stays, reason=reason))
    return chosen
