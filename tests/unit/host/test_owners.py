"""Whose a store is, and who else could put something in the place of what root trusts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.errors import RefusedError
from dental_pms_backup.host import owners

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
@pytest.mark.parametrize("part", [".", "db", "sets"])
def test_a_store_to_which_others_can_write_is_refused(tmp_path: Path, part: str, mode: int) -> None:
    for name in ("db", "sets"):
        (tmp_path / name).mkdir(mode=0o700)
    owners.check_store(tmp_path)
    (tmp_path / part).chmod(mode)
    with pytest.raises(RefusedError) as raised:
        owners.check_store(tmp_path)
    assert f"{tmp_path / part}: can be written to by others (owner {os.geteuid()}, mode {mode:04o})" in str(
        raised.value.message
    )
    assert raised.value.hint == f"chmod go-w {tmp_path / part}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "sets"]


def test_a_store_that_is_empty_may_be_open_to_others_until_it_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    owners.check_store(tmp_path, closing=True)
    (tmp_path / "attachments_2026-02-03_023000.tgz").touch()  # as if it were ours
    with pytest.raises(RefusedError, match="can be written to by others"):
        owners.check_store(tmp_path, closing=True)


def test_a_store_that_is_not_there_yet_is_nobody_s(tmp_path: Path) -> None:
    owners.check_store(tmp_path / "new/store")


@as_root
def test_who_can_move_a_store_away_is_named(tmp_path: Path) -> None:
    store = tmp_path / "home/store"
    store.mkdir(parents=True)
    (tmp_path / "home").chmod(0o755)
    assert owners.who_moves(store) == ""
    (tmp_path / "home").chmod(0o1777)
    assert owners.who_moves(store) == ""
    (tmp_path / "home").chmod(0o775)
    assert owners.who_moves(store) == f"{tmp_path / 'home'} can be written to by others (mode 0775)"
    os.chown(tmp_path / "home", NOBODY, NOBODY)
    assert owners.who_moves(store) == f"{tmp_path / 'home'} belongs to user {NOBODY}"


@as_root
def test_who_can_put_something_else_at_a_path_is_named(tmp_path: Path) -> None:
    """Each directory and each link on the way counts, and the file that a link leads to."""
    (tmp_path / "home").mkdir()
    (tmp_path / "etc").mkdir()
    file, link = tmp_path / "home/rclone.conf", tmp_path / "etc/rclone.conf"
    file.touch(mode=0o600)
    link.symlink_to("../home/rclone.conf")
    assert owners.who_changes(link) == ""
    for each in (file, tmp_path / "home", tmp_path / "etc", link):
        os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
        assert owners.who_changes(link) == f"{each} belongs to user {NOBODY}".replace(
            f"{file} ", f"{tmp_path}/etc/../home/rclone.conf "
        ).replace(f"{tmp_path / 'home'} ", f"{tmp_path}/etc/../home ")
        os.chown(each, 0, 0, follow_symlinks=False)
    file.chmod(0o1666)  # it is a directory that is sticky
    assert "rclone.conf can be written to by others (mode 1666)" in owners.who_changes(link)
    file.unlink()
    file.symlink_to(link)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        owners.who_changes(link)
