"""What killed drills leave, and that nothing else is removed with it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from dental_pms_backup.drill import leftovers
from dental_pms_backup.errors import RoomError
from dental_pms_backup.host import journal
from tests.unit.builders import gone, program


@pytest.mark.parametrize("goes", ["No such container: x", "removal of container x is already in progress"])
def test_a_container_that_goes_by_itself_needs_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes: str
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        "#!/bin/sh\n[ $1 = rm ] || { echo x dental-pms-drill-0123-c; exit; }\n"
        f"echo 'Error response: {goes}' >&2\nexit 1\n"
    )
    docker.chmod(0o755)
    told: list[str] = []
    monkeypatch.setattr(journal, "write", lambda _event, text, **_: told.append(text))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert leftovers.clear("0123", tmp_path) == 1
    assert told == []
    docker.write_text(docker.read_text().replace(goes, "permission denied"))
    leftovers.clear("0123", tmp_path)
    assert told == ["the throwaway container x stays until the next drill (docker: exit status 1)"]


def test_a_drill_removes_no_container_but_those_that_drills_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image can have the label of a drill, by its store's path; the container of the practice has it then."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    rows = (
        "live dental-pms-db-1 False",
        "named dental-pms-drill-0123-db False",
        "other dental-pms-drill-4567-a ",
        "ours dental-pms-drill-0123-a ",
    )
    (tmp_path / "rows").write_text("\n".join(rows))
    program(tmp_path / "bin", "docker", f'[ $1 = ps ] && cat {tmp_path}/rows || echo "$@" >>{tmp_path}/asked\n')
    assert leftovers.clear("0123", tmp_path) == 1
    assert (tmp_path / "asked").read_text() == "rm --force --volumes ours\n"


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
    monkeypatch.setattr(leftovers, "PROCESSES", processes)
    try:
        assert leftovers.clear("0123", tmp_path) == 0
        assert server.wait(timeout=60) == -signal.SIGKILL
    finally:
        os.close(directory)
        if not gone(server.pid):
            server.kill()


def test_a_directory_for_the_drill_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(RoomError) as raised, leftovers.private_directory("0123", tmp_path / "gone"):
        pass
    assert (raised.value.message, raised.value.hint) == (
        f"{tmp_path}/gone: No such file or directory, expected that a directory for the drill can be made there",
        f"df -h {tmp_path}/gone",
    )
