"""What is said of a switch that failed as it was committed."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from dental_pms_backup.errors import DatabaseError, RestoreError
from dental_pms_backup.restore import database_settings, databases, switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIVE: Any = SimpleNamespace(server=None, facts=SimpleNamespace(database="pms"))


@contextlib.contextmanager
def begun(*_: object) -> Iterator[Callable[[], None]]:
    def commit() -> None:
        raise DatabaseError("db: the server does not answer")

    yield commit


def names(*found: str) -> Callable[[object], set[str]]:
    def ask(_: object) -> set[str]:
        if not found:
            raise DatabaseError("db: the server does not answer")
        return set(found)

    return ask


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (("pms", "pms_made"), "db: the switch failed: "),
        ((), "db: whether the restored database has the live one's name is not known: "),
        (("pms", "pms_before"), ""),
    ],
    ids=["it did not come about", "nobody knows", "it came about"],
)
def test_a_switch_whose_end_nobody_heard_is_told_as_it_is(
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(switch, "_begun", begun)
    monkeypatch.setattr(database_settings, "script", lambda *_: "")
    monkeypatch.setattr(databases, "names", names(*found))
    expected = pytest.raises(RestoreError, match=said) if said else contextlib.nullcontext()
    with expected, switch.about_to(LIVE, "pms_made", "pms_before", {}, hint="") as now:
        now()
