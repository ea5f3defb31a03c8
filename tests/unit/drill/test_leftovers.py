"""What killed drills leave, and that nothing else is removed with it."""

import errno
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from dental_pms_backup.drill import leftovers
from dental_pms_backup.errors import RefusedError, RoomError
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


def makes(mark: str, directory: Path) -> None:
    with leftovers.private_directory(mark, directory):
        pass


@pytest.mark.parametrize("where", [".", "above", "the way"])
@pytest.mark.parametrize("does", ["make", "clear"])
def test_a_directory_where_somebody_else_can_rename_is_refused_and_nothing_is_touched(
    tmp_path: Path, where: str, does: str
) -> None:
    directory, left = tmp_path / "a/b", tmp_path / "a/b/dental-pms-drill-0123-x"
    left.mkdir(parents=True)
    (tmp_path / "way").mkdir()
    (tmp_path / "way/link").symlink_to(directory)
    open_to_others = {".": directory, "above": directory.parent, "the way": tmp_path / "way"}[where]
    given = tmp_path / "way/link" if where == "the way" else directory
    for mode, refused in ((0o1777, False), (0o777, True), (0o775, True)):
        open_to_others.chmod(mode)
        if not refused:
            with leftovers.private_directory("4567", given) as made:
                assert (made.parent, stat.S_IMODE(made.stat().st_mode)) == (directory, 0o700)
            continue
        with pytest.raises(RefusedError) as raised:
            leftovers.clear("0123", given) if does == "clear" else leftovers.private_directory(
                "0123", given
            ).__enter__()
        assert raised.value.message == (
            f"drill.directory: {open_to_others} can be written to by others (mode {mode:04o}), expected {given} and "
            "what is above it to be root's alone, or sticky: whoever can rename there leads the drill astray; "
            "nothing was touched"
        )
        assert raised.value.hint == (
            "editor /etc/dental-pms/backup.yaml   # set drill.directory to such a directory, as /var/tmp is"
        )
    assert list(directory.iterdir()) == [left]


def test_what_only_has_the_name_of_a_killed_drills_directory_is_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(journal, "write", lambda _event, text, **_: told.append(text))
    with leftovers.private_directory("0123", tmp_path) as made:
        (made / "pg/data").mkdir(parents=True)
        shutil.copytree(made, killed := tmp_path / "dental-pms-drill-0123-killed")
        shutil.copytree(made, open_to_others := tmp_path / "dental-pms-drill-0123-open")
    open_to_others.chmod(0o777)  # whoever may write a directory can move it, and put a file of root's into it
    named = tmp_path / "dental-pms-drill-0123-named"
    (named / "sets").mkdir(parents=True)
    (tmp_path / "dental-pms-drill-0123-link").symlink_to(named)
    (tmp_path / "dental-pms-drill-0123-file").touch()
    (tmp_path / "dental-pms-drill-0123-just-begun").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    assert leftovers.clear("0123", tmp_path) == 2
    assert before - {path.name for path in tmp_path.iterdir()} == {killed.name, "dental-pms-drill-0123-just-begun"}
    assert (named / "sets").exists()
    assert told == []


def test_what_could_not_be_removed_does_not_count_as_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(journal, "write", lambda _event, text, **_: told.append(text))
    with leftovers.private_directory("0123", tmp_path) as made:
        (made / "pg").mkdir()
        shutil.copytree(made, killed := tmp_path / "dental-pms-drill-0123-killed")

    def refuse(_path: str, *, dir_fd: int | None) -> None:
        raise OSError(errno.EBUSY, f"busy {dir_fd is None}")

    with monkeypatch.context() as context:
        context.setattr(os, "rmdir", refuse)
        assert leftovers.clear("0123", tmp_path) == 0
    assert told == [f"{killed} stays until the next drill: busy False"]
    assert leftovers.clear("0123", tmp_path) == 1


def test_a_directory_for_the_drill_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(RoomError) as raised, leftovers.private_directory("0123", tmp_path / "gone"):
        pass
    assert (raised.value.message, raised.value.hint) == (
        f"{tmp_path}/gone: No such file or directory, expected that a directory for the drill can be made there",
        f"df -h {tmp_path}/gone",
    )
