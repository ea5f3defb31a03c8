"""What is said of a replay that failed, where the server has gone with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import DatabaseError
from dental_pms_backup.host.programs import Ended
from dental_pms_backup.restore import replay, replay_filters
from dental_pms_backup.restore.replay import Into

if TYPE_CHECKING:
    import pytest

NONE: Any = SimpleNamespace()


def test_why_a_replay_failed_is_told_although_the_server_cannot_be_asked_where(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def gone(line: int, *_: object) -> str:
        asked.append(line)
        raise DatabaseError("db: the server does not answer")

    monkeypatch.setattr(replay_filters, "standing_at", gone)
    failed = Ended(program="psql", exit_code=3, said=("psql:<stdin>:9: FATAL:  57P01",))
    assert replay._standing_at(failed, NONE, NONE, Into(database="new"), 2) == ""  # noqa: SLF001 - needs a server to go
    assert asked == [7]
