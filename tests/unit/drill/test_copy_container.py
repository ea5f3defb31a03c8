"""What a drill runs in: clearing what killed ones left."""

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from dental_pms_backup.drill import copy_container
from dental_pms_backup.host import journal
from dental_pms_backup.live.postgres import InContainer, Inside
from tests.unit.builders import gone


@pytest.mark.parametrize("goes", ["No such container: x", "removal of container x is already in progress"])
def test_a_container_that_goes_by_itself_needs_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes: str
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n[ $1 = rm ] || {{ echo x; exit; }}\necho 'Error response: {goes}' >&2\nexit 1\n")
    docker.chmod(0o755)
    told: list[str] = []
    monkeypatch.setattr(journal, "write", lambda _event, text, **_: told.append(text))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert copy_container.clear("0123", tmp_path) == 1
    assert told == []
    docker.write_text(docker.read_text().replace(goes, "permission denied"))
    copy_container.clear("0123", tmp_path)
    assert told == ["the throwaway container x stays until the next drill (docker: exit status 1)"]


def test_a_process_that_ends_while_the_servers_of_killed_drills_are_looked_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for a file of its directory meanwhile hears ESRCH, not ENOENT."""
    server = subprocess.Popen(["/bin/sleep", "60"])
    ended = subprocess.Popen(["/bin/true"])
    directory = os.open(f"/proc/{ended.pid}", os.O_RDONLY)
    ended.wait()
    processes = tmp_path / "proc"
    processes.mkdir()
    (processes / str(ended.pid)).symlink_to(f"/proc/self/fd/{directory}")
    (processes / str(server.pid)).mkdir()
    (processes / str(server.pid) / "cmdline").write_text(
        f"/usr/lib/postgresql/17/bin/postgres\0-D\0{tmp_path}/dental-pms-drill-0123-x/data\0"
    )
    monkeypatch.setattr(copy_container, "PROCESSES", processes)
    try:
        assert copy_container.clear("0123", tmp_path) == 0
        assert server.wait(timeout=60) == -signal.SIGKILL
    finally:
        os.close(directory)
        if not gone(server.pid):
            server.kill()


def test_clients_of_a_throwaway_container_are_alone_where_they_do_not_end_with_it() -> None:
    by_exec = InContainer(container_id="c0ffee", name="db-1", image="postgres:16")
    entry = Inside(root=Path("/r"), uid=999, gid=998, settings=())
    found = copy_container._whose_clients_are_alone(dataclasses.replace(by_exec, entry=entry))  # noqa: SLF001 - needs docker
    assert found.entry == dataclasses.replace(entry, alone=True)
    assert copy_container._whose_clients_are_alone(by_exec) == by_exec  # noqa: SLF001 - as above
