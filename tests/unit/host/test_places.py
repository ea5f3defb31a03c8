"""A directory that is held open stays what it is, and nobody else's link leads to one."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.errors import RefusedError
from dental_pms_backup.host import places

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def test_a_path_leads_where_the_kernel_says_whatever_it_is_made_of(tmp_path: Path) -> None:
    wanted = tmp_path / "a/b"
    wanted.mkdir(parents=True)
    (tmp_path / "absolute").symlink_to(wanted)
    (tmp_path / "a/relative").symlink_to("../absolute")
    for path in ("a/b", "a/./b/../b", "absolute", "a/relative", "a/relative/../../absolute/."):
        with places.opened(tmp_path / path) as place:
            assert place.path == wanted
            assert place.identity == places.identity_of(wanted.stat())


def test_what_is_no_directory_and_what_is_not_there_are_the_disk_s_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, number in (
        ("file", errno.ENOTDIR),
        ("file/below", errno.ENOTDIR),
        ("loop", errno.ENOTDIR),
        ("dangling", errno.ENOENT),
        ("nothing", errno.ENOENT),
    ):
        with pytest.raises(OSError) as raised, places.opened(tmp_path / name):  # noqa: PT011 - its number is looked at
            pass
        assert raised.value.errno == number, name


@as_root
def test_a_link_of_another_user_is_refused_wherever_it_stands_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    (tmp_path / "ours").symlink_to("link/below")
    for name in ("link", "link/below", "ours"):
        with pytest.raises(RefusedError, match="is a link of user"):
            places.pinned(tmp_path / name)
        with pytest.raises(RefusedError) as raised, places.opened(tmp_path / name):
            pass
        assert raised.value.message == (
            f'{tmp_path / name}: "link" on the way is a link of user {NOBODY}, who may let it lead anywhere, '
            "expected directories, or links of root; nothing was touched"
        )
        assert raised.value.hint.startswith(f"readlink -f {tmp_path / name}  ")


def test_a_directory_that_is_held_open_is_the_same_after_it_was_renamed(tmp_path: Path) -> None:
    with places.opened(tmp_path) as around, places.new(around, "made") as made:
        assert around.is_named("made", made)
        (tmp_path / "made").rename(tmp_path / "away")
        (tmp_path / "made").mkdir()
        assert not around.is_named("made", made)
        (made.for_programs / "file").write_text("here")
        assert (tmp_path / "away/file").read_text() == "here"


def test_only_the_directory_that_was_made_is_removed(tmp_path: Path) -> None:
    with places.opened(tmp_path) as around, places.new(around, "made") as made:
        (made.for_programs / "below").mkdir()
        (made.for_programs / "below/file").touch()
        (tmp_path / "made").rename(tmp_path / "away")
        (tmp_path / "made").mkdir()
        (tmp_path / "made/another's").touch()
        places.remove(around, "made", made)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["away", "made", "made/another's"]


def test_what_is_removed_leads_to_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with places.opened(tmp_path) as around, places.new(around, "made") as made:
        (made.for_programs / "link").symlink_to(tmp_path / "other")
        places.remove(around, "made", made)
    assert [path.name for path in tmp_path.rglob("*")] == ["other", "file"]


def test_a_directory_is_ours_only_when_nobody_else_enters_it(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir(mode=0o700)
    with places.opened(tmp_path / "made") as made:
        places.check_ours(made, made.path)
        (tmp_path / "made").chmod(0o710)
        with pytest.raises(RefusedError, match="mode 0710, expected a directory of user"):
            places.check_ours(made, made.path)


def test_another_directory_than_the_one_that_was_looked_at_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    identity = places.identity_of((tmp_path / "one").stat())
    with places.opened(tmp_path / "one", identity):
        pass
    with (
        pytest.raises(RefusedError, match="another directory was put there after it was looked at"),
        places.opened(tmp_path / "two", identity),
    ):
        pass
