"""What status tells: of each stream by itself, and what systemd says of the timer."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.store import ledger
from dental_pms_backup.store.sets import Stream
from dental_pms_backup.watch import overview
from tests.unit.builders import NAME, NOW, name_of, night, program, published

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

KILLED = [{"stream": "db", "at": night(2).isoformat(), "cause": "interrupted"}]


def test_status_tells_of_each_stream_by_itself_and_takes_no_set_of_the_future_for_the_newest(tmp_path: Path) -> None:
    published(tmp_path, name_of(night(1)), taken_at=night(1))
    published(tmp_path, taken_at=NOW, streams=[Stream.ATTACHMENTS])
    published(tmp_path, name_of(night(400)), taken_at=night(400))
    runs = [
        (night(0), ["db", "attachments"], {"result": "failed", "cause": "tool"}),
        (night(1), ["db", "attachments"], {"result": "ok"}),
        (night(2), ["db", "attachments"], {"result": "failed", "cause": "database"}),
        (NOW, ["attachments"], {"result": "ok"}),
    ]
    for at, streams, facts in runs:
        ledger.record(tmp_path, "run", now=at, facts={"streams": streams, **facts})
    ledger.report(tmp_path, {"at": NOW.isoformat(), "result": "ok"})
    told = overview.status(tmp_path, now=NOW + timedelta(seconds=5))
    assert {stream: (newest or {})["set"] for stream, newest in told["newest"].items()} == {
        "db": name_of(night(1)),
        "attachments": NAME,
    }
    assert (told["sets"], told["dated_in_the_future"], told["newest"]["attachments"]["age_s"]) == (3, 1, 5)
    assert told["failed_before"] == [{"stream": "db", "at": night(2).isoformat(), "cause": "database"}]
    ledger.report(tmp_path, {"at": night(2).isoformat(), "result": "failed"})
    assert overview.status(tmp_path, now=NOW)["failed_before"] == []  # it is the last run, which is told


@pytest.mark.parametrize(
    ("result", "at", "ended", "told"),
    [
        (
            "unfinished",
            night(2).isoformat(),
            night(1),
            [{"stream": "db", "at": night(2).isoformat(), "cause": "interrupted"}],
        ),
        ("unfinished", night(2).isoformat(), night(2), []),
        ("ok", night(2).isoformat(), night(1), []),
        ("unfinished", "no moment", night(1), []),
        ("unfinished", "2026-11-20 02:30:00", night(1), []),
    ],
    ids=["killed", "killed once it was recorded", "ended", "of no moment", "of no time zone"],
)
def test_a_killed_run_of_one_stream_is_told_after_the_other_succeeded(
    tmp_path: Path, result: str, at: str, ended: datetime, told: list[dict[str, str]]
) -> None:
    ledger.record(tmp_path, "run", now=ended, facts={"streams": ["db"], "result": "ok"})
    ledger.report(tmp_path, {"at": at, "streams": ["db"], "result": result})
    for _ in range(2):
        ledger.record_killed(tmp_path)
    ledger.record(tmp_path, "run", now=NOW, facts={"streams": ["attachments"], "result": "ok"})
    ledger.report(tmp_path, {"at": NOW.isoformat(), "result": "ok"})
    assert overview.status(tmp_path, now=NOW)["failed_before"] == told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "UnitFileState=enabled ActiveState=active NextElapseUSecRealtime=Tue 2026-11-24 02:30:00 CET",
            "enabled, next run 2026-11-24 02:30:00 CET (2026-11-24 01:30:00 UTC)",
        ),
        ("UnitFileState=enabled ActiveState=active NextElapseUSecRealtime=soon", "enabled, next run soon"),
        ("UnitFileState=enabled ActiveState=active NextElapseUSecRealtime=", "enabled, next run now"),
        (
            "UnitFileState=disabled ActiveState=inactive NextElapseUSecRealtime=",
            "disabled, not running: no backup is made by itself; type: systemctl enable --now dental-pms-backup.timer",
        ),
        ("UnitFileState= ActiveState=inactive NextElapseUSecRealtime=", "unknown"),
    ],
)
def test_timer_is_told_with_its_next_run_in_local_time_beside_utc(
    said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = said.split(" ", 2)
    program(tmp_path / "bin", "systemctl", f"printf '%s\\n' '{first}' '{second}' '{third}'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert overview.timer_state() == told


def test_timer_is_unknown_where_there_is_no_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert overview.timer_state() == "unknown"
