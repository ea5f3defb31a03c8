"""Small steps on disk: in which order they are made to last, and what they say when the disk refuses."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from dental_pms_backup.errors import StoreError
from dental_pms_backup.host import durable
from tests.unit.builders import as_nobody, files_below

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SAID = "No space left on device, expected a store to write to"


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write down each step on disk."""
    done: list[str] = []
    rename, unlink = Path.replace, Path.unlink

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"sync {os.path.relpath(path, tmp_path)} {path.read_text() if path.is_file() else ''}".strip())

    def renamed(source: Path, target: Path) -> Path:
        done.append(f"name {target.name}")
        return rename(source, target)

    def unlinked(path: Path, *, missing_ok: bool = False) -> None:
        done.append(f"remove {path.name}")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    monkeypatch.setattr(Path, "unlink", unlinked)
    return done


def test_content_is_durable_before_its_name_and_the_name_on_return(tmp_path: Path, steps: list[str]) -> None:
    durable.write(tmp_path / "file", b"new")
    assert steps == ["sync .file.draft new", "name file", "sync ."]


def test_removal_is_durable_on_return(tmp_path: Path, steps: list[str]) -> None:
    (tmp_path / "file").touch()
    durable.remove(tmp_path / "file")
    assert (steps, files_below(tmp_path)) == (["remove file", "sync ."], {})


def test_file_that_is_not_there_may_be_removed(tmp_path: Path) -> None:
    durable.remove(tmp_path / "file")


def test_draft_of_a_small_file_is_hidden_beside_it() -> None:
    assert durable.draft_path(Path("/store/sets/x.json")) == Path("/store/sets/.x.json.draft")


def test_small_file_is_for_nobody_else(tmp_path: Path) -> None:
    durable.write(tmp_path / "file", b"new")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_small_file_is_replaced_although_a_killed_run_left_its_draft(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a longer old content")
    (tmp_path / ".file.draft").write_text("what a killed run left, longer than the new")
    durable.write(tmp_path / "file", b"new")
    assert files_below(tmp_path) == {"file": b"new"}


def test_draft_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".file.draft").symlink_to("elsewhere")
    with pytest.raises(StoreError, match="cannot be written: Too many levels of symbolic links"):
        durable.write(tmp_path / "file", b"new")
    assert files_below(tmp_path) == {}


def test_full_disk_leaves_the_old_content_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")

    def full(_descriptor: int) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError) as raised:
        durable.write(tmp_path / "file", b"new")
    assert (raised.value.message, raised.value.hint) == (
        f"{tmp_path}/.file.draft: cannot be written: {SAID}",
        f"df -h {tmp_path}",
    )
    assert files_below(tmp_path) == {"file": b"old"}


def test_file_that_cannot_get_its_name_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(StoreError, match="/file: cannot get its name: Is a directory, "):
        durable.write(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("rename", "no/file: cannot get its name: No such file or directory"),
        ("unlink", "directory: cannot be removed: Is a directory"),
        ("sync_directory", "no: cannot be made durable: No such file or directory"),
    ],
)
def test_step_that_the_disk_refuses_is_named(step: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    steps = {
        "rename": lambda: durable.rename(tmp_path / "no" / "x", tmp_path / "no" / "file"),
        "unlink": lambda: durable.unlink(tmp_path / "directory"),
        "sync_directory": lambda: durable.sync_directory(tmp_path / "no"),
    }
    with pytest.raises(StoreError) as raised:
        steps[step]()
    assert raised.value.message == f"{tmp_path}/{said}, expected a store to write to"


def test_only_what_is_not_there_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    names = ("file", "link", "missing", "file/below", "missing/below")
    assert [durable.exists(tmp_path / name) for name in names] == [True, True, False, False, False]
    tmp_path.chmod(0o700)
    with as_nobody(), pytest.raises(StoreError, match="/file: cannot be looked at: Permission denied, "):
        durable.exists(tmp_path / "file")


def test_directory_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o555)
    monkeypatch.chdir(tmp_path)
    with as_nobody(), pytest.raises(StoreError, match=r"^\.file\.draft: cannot be written: Permission denied, "):
        durable.write(Path("file"), b"new")
    tmp_path.chmod(0o755)
    assert files_below(tmp_path) == {}


def test_a_directory_is_removed_in_which_a_killed_program_writes_for_a_moment_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmdir, left = os.rmdir, [errno.ENOTEMPTY, errno.ENOENT]

    def meets_it(path: Path, *, dir_fd: int | None) -> None:
        if left:
            raise OSError(left.pop(), "it came or went meanwhile")
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", meets_it)
    place = tmp_path / "restoring"
    (place / "2026").mkdir(parents=True)
    durable.remove_tree(place)
    assert not place.exists()
    durable.remove_tree(place)


def test_a_directory_that_cannot_be_removed_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(path: Path, *, dir_fd: int | None) -> None:
        asked.append((path, dir_fd))
        raise OSError(errno.EACCES, "no")

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(OSError, match="no"):
        durable.remove_tree(tmp_path)
    assert asked == [(tmp_path, None)]


def test_a_directory_is_removed_however_deep_it_is_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    top = os.open(tmp_path, os.O_RDONLY)
    here = os.dup(top)
    for _ in range(1100):  # more than calls in calls, or descriptors, may be
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.symlink(tmp_path / "kept", "link", dir_fd=here)
    os.close(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 20, hard))
    try:
        durable.remove_tree("d", within=top)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(top)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "kept"]


def test_a_pipe_that_nobody_writes_to_is_no_small_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        durable.read(tmp_path / "pipe")
