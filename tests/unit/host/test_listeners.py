"""Who listens on a port of this host."""

import os
import socket
from pathlib import Path

import pytest

from dental_pms_backup.host import listeners


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
def test_who_listens_is_known_by_the_user(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        assert listeners.uids(port) == {os.geteuid()}
    assert listeners.uids(port) == set()


def test_another_address_and_what_cannot_be_read_are_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        assert listeners.uids(port) == set()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(listeners, "TABLE", tmp_path / "none")
        assert listeners.uids(server.getsockname()[1]) == set()
