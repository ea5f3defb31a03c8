"""What the roles of a set would do with those of the server, told before it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import unknown_settings
from dental_pms_backup.restore import database_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dental_pms_backup.live.sources import DatabaseSource

NAMED = 3


def tell(live: DatabaseSource, listed: Iterable[str]) -> None:
    """Say what the filter of roles has told: who comes to reach the whole server, and who gets no settings for it."""
    told: dict[str, list[str]] = {"superuser": [], "right": [], "withheld": []}
    for each in listed:
        kind, _, what = each.partition("=")
        told[kind].append(what)
    if told["superuser"]:
        _tell(f"the set makes a superuser of each of these roles, which the server lacks: {_named(told['superuser'])}")
    if told["right"]:
        _tell(f"the set gives these roles rights on the whole server: {_named(told['right'])}")
    if told["withheld"]:
        named = ", ".join(unknown_settings.told(statement) for statement in told["withheld"])
        text = (
            f"the set's own {named} is not set, for what is set for a superuser, or for a member of one, decides what "
        )
        text += "is run with his rights; if you know it, set it by hand"
        database_settings.tell_left(live, text)


def _tell(text: str) -> None:
    journal.write(Event.RESTORE_MAKES_SUPERUSER, text, priority=journal.WARNING)


def _named(found: Sequence[str]) -> str:
    named = " and ".join(each if each.isprintable() else "(not text)" for each in found[:NAMED])
    return f"{named} and {len(found) - NAMED} more" if len(found) > NAMED else named
