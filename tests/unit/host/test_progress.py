"""What is said while a run moves."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.errors import StalledError
from dental_pms_backup.host import notify, progress
from dental_pms_backup.host.progress import Watch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("done", "expected", "elapsed_s", "text"),
    [
        (0, 0, 0.0, "db: 0 B"),
        (5_000_000, 0, 3.0, "db: 5.0 MB"),
        (0, 10_000_000, 0.0, "db: 0 B, 0 % of the last run's 10.0 MB"),
        (2_500_000, 10_000_000, 10.0, "db: 2.5 MB, 25 % of the last run's 10.0 MB, about 30 s left"),
        (9_999_999, 10_000_000, 10.0, "db: 10.0 MB, 99 % of the last run's 10.0 MB, about 0 s left"),
        (30_000_000, 10_000_000, 10.0, "db: 30.0 MB, 99 % of the last run's 10.0 MB"),
    ],
)
def test_status_line_has_bytes_share_and_time_left(done: int, expected: int, elapsed_s: float, text: str) -> None:
    assert progress.line("db", done, expected, elapsed_s) == text


def told(listener: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Listen where systemd would."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    listener.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return listener


def test_bytes_that_move_are_told_to_systemd_and_prolong_the_run(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    with (tmp_path / "draft").open("wb") as file, Watch().showing("db", file.fileno(), 2000) as beat:
        began = told(systemd)
        os.write(file.fileno(), b"x" * 1000)
        beat()
        moved = told(systemd)
        beat()
        stalled = told(systemd)
    systemd.close()
    assert began == ["STATUS=db", "EXTEND_TIMEOUT_USEC=900000000"]
    assert [message.partition(", about")[0] for message in moved] == [
        "EXTEND_TIMEOUT_USEC=900000000",
        "STATUS=db: 1.0 kB, 50 % of the last run's 2.0 kB",
    ]
    assert [message.partition(", about")[0] for message in stalled] == [
        "STATUS=db: 1.0 kB, 50 % of the last run's 2.0 kB",
    ]


def test_systemd_is_told_no_more_than_once_a_second(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with (tmp_path / "draft").open("wb") as file, Watch().showing("db", file.fileno(), 0) as beat:
        told(systemd)
        for _ in range(50):
            beat()
        assert told(systemd) == []
    systemd.close()


def test_early_end_is_told_to_systemd(systemd: socket.socket) -> None:
    notify.stopping("failed: x")
    assert told(systemd) == ["STOPPING=1\nSTATUS=failed: x"]
    systemd.close()


def test_bar_is_shown_only_when_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "draft").open("wb") as file:
        with Watch().showing("db", file.fileno(), 2000):
            pass
        assert capfd.readouterr().err == ""
        with Watch(bar=True).showing("db", file.fileno(), 2000):
            pass
        assert "db:   0%" in capfd.readouterr().err


def test_file_that_does_not_grow_for_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with (tmp_path / "draft").open("wb") as file, Watch(stall_timeout_s=900).showing("db", file.fileno(), 0) as beat:
        now = 1900.0
        beat()
        os.write(file.fileno(), b"x")
        now = 1901.0
        beat()
        now = 2801.0  # exactly the time is not too long
        beat()
        now = 2803.0
        with pytest.raises(StalledError) as raised:
            beat()
    assert (raised.value.message, raised.value.hint, raised.value.cause, raised.value.exit_status) == (
        "db: no byte moved for 15 min 2 s",
        "docker ps; df -h   # raise stall_timeout_s if it is only slow",
        "stalled",
        1,
    )


def test_file_may_stand_still_for_ever_where_no_time_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with (tmp_path / "draft").open("wb") as file, Watch().showing("db", file.fileno(), 0) as beat:
        now = 1e9
        beat()


def test_bar_is_taken_away_by_a_failure_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        (tmp_path / "draft").open("wb") as file,
        pytest.raises(ZeroDivisionError),
        Watch(bar=True).showing("db", file.fileno(), 2000),
    ):
        raise ZeroDivisionError
    assert capfd.readouterr().err.endswith("\r")
