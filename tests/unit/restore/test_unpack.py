"""What was unpacked is durable and harmless, or it is not restored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.errors import RestoreError
from dental_pms_backup.host import places
from dental_pms_backup.restore import unpack
from tests.unit.builders import program, two_old_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return two_old_files(tmp_path / "live")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sync", "expected all files on the disk; the live directory is as it was"),
        ("find", "while rights were taken off what was unpacked"),
    ],
)
def test_what_cannot_be_made_durable_or_harmless_is_not_restored(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    program(tmp_path / "bin", name, "exit 3\n")
    with places.opened(live) as content, pytest.raises(RestoreError) as raised:
        unpack.make_durable(content, unpack.Rights.NONE, beat=lambda: None)
    assert raised.value.message == f"attachments: {name}: exit status 3, {said}"
