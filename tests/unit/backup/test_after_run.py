"""The drill's service is started after a run when the configuration wants it; what comes of that is a warning."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.backup import after_run
from dental_pms_backup.config import settings
from tests.unit.builders import program

if TYPE_CHECKING:
    from pathlib import Path

    from dental_pms_backup.config.settings import Config


def configured(tmp_path: Path, *, wanted: bool) -> Config:
    file = tmp_path / "backup.yaml"
    file.write_text(f"drill:\n  after_run: {'true' if wanted else 'false'}\n")
    return settings.load(file, {})


@pytest.mark.parametrize("wanted", [True, False])
def test_the_service_is_started_only_when_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    program(tmp_path / "bin", "systemctl", f'echo "$*" >{tmp_path}/called\n')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    after_run.follow(configured(tmp_path, wanted=wanted))
    called = tmp_path / "called"
    assert (called.read_text() if called.exists() else "") == (
        "start --no-block dental-pms-backup-drill.service\n" if wanted else ""
    )


def test_a_service_that_does_not_start_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "systemctl", "exit 5\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    after_run.follow(configured(tmp_path, wanted=True))
