"""What moved.pl and sum_holes.pl find in a directory that was archived while others worked in it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import filtered

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "./\n./old/\n./old/a\n./kept/\n./kept/new\\nline\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of which all is old, and of which INDEX has a part."""
    tree = tmp_path / "tree"
    for name in ("old/a", "old/x", "gone/b", "gone/c", "gone/in/d", "kept/new\nline"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
        os.utime(tree / name, (1, 1))
    (tmp_path / "index").write_text(INDEX)
    return tree


def moved(tree: Path, began: float) -> int:
    found = filtered("moved.pl", tree, tree.parent / "index", f"{began:.3f}", str(int(began)))
    assert (found.status, found.said) == (0, "")
    count, unknown = found.out.split()
    assert unknown == b"0"
    return int(count)


def test_files_that_were_moved_are_named_and_no_others(tree: Path) -> None:
    began = int(time.time()) + 1
    while time.time() < began:
        time.sleep(0.05)
    assert moved(tree, began) == 0
    (tree / "old/a").chmod(0o600)
    (tree / "kept/new\nline").chmod(0o600)
    (tree / "kept/made").mkdir()
    (tree / "kept/made/written").write_text("x")
    (tree / "kept/link").symlink_to("/")
    assert moved(tree, began) == 0
    (tree / "old/x").rename(tree / "kept/x")
    assert moved(tree, began) == 1
    (tree / "gone").rename(tree / "kept/made/gone")
    assert moved(tree, began) == 4
    (tree / "kept/made/gone/in").rename(tree / "kept/in")
    assert moved(tree, began) == 4
    (tree / "kept/came").write_text("x")
    os.utime(tree / "kept/came", (1, 1))
    assert moved(tree, began) == 4
    assert moved(tree, time.time() + 1) == 0


def test_what_cannot_be_looked_through_is_no_answer(tree: Path) -> None:
    for words in ((tree / "missing", tree.parent / "index"), (tree, tree / "missing")):
        assert filtered("moved.pl", *words, "1", "1").status != 0


@pytest.mark.parametrize(
    ("lines", "bytes_"), [(b"", 0), (b"1 8\n", 0), (b"9223372036854771712 0\n1024 1\n" * 3, 2.767e19)]
)
def test_holes_are_added_up(lines: bytes, bytes_: float) -> None:
    found = filtered("sum_holes.pl", given=lines)
    assert (found.status, found.said) == (0, "")
    assert int(found.out) == pytest.approx(bytes_, rel=0.001)
    assert filtered("sum_holes.pl", given=lines + b"x\n").status != 0
