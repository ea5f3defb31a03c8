"""What systemd says of the timer, for people."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.watch import overview
from tests.unit.builders import program

if TYPE_CHECKING:
    from pathlib import Path


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
