"""A swap of which a step fails, or each from there on: what was live is back, or what comes is whole in the end."""

from __future__ import annotations

import contextlib
import errno
import os
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from dental_pms_backup.errors import RestoreError, SourceError
from dental_pms_backup.host import places
from dental_pms_backup.live import swap
from tests.unit.builders import files_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STAMP = "2026-11-23_023000"
OLD = {"a": b"old", "b/c": b"old", ".hidden": b"old"}
NEW = {"a": b"new", "d/e": b"new", ".hidden": b"new"}
STEPS = ("mkdir", "rename", "rmdir", "fsync", "utime")
ALL_THE_WAY = "nothing failed"


class Disk:
    """A disk that refuses the step of a number, or with ``from_there_on`` each from it until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused_at = self.taken = 0
        self.works, self.from_there_on = True, False
        for name in STEPS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))

    def counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: object, **more: object) -> object:
            self.taken += 1
            refused = self.taken >= self.refused_at if self.from_there_on else self.taken == self.refused_at
            if refused and not self.works:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return step(*arguments, **more)

        return counting

    @contextlib.contextmanager
    def refusing(self, number: int, *, from_there_on: bool) -> Iterator[None]:
        self.refused_at, self.taken, self.works, self.from_there_on = number, 0, False, from_there_on
        try:
            yield
        finally:
            self.works = True


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def laid_out(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def swapped(place: Path, disk: Disk, number: int, *, from_there_on: bool = False) -> str:
    """Swap what is live for something else, with a disk that refuses a step; return what is said."""
    target = place / "attachments"
    laid_out(target, OLD)
    with swap.live(target, None) as live, contextlib.ExitStack() as stack:
        made = stack.enter_context(swap.fresh(live.around, live.beside(swap.RESTORING, STAMP)))
        laid_out(place / made.name / swap.CONTENT, NEW)
        with disk.refusing(number, from_there_on=from_there_on):
            try:
                swap.swap(live, made, STAMP)
            except RestoreError as error:
                return error.message
    return ALL_THE_WAY


def beside(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob("attachments.*"))


def after_recovery(place: Path) -> dict[str, bytes]:
    with swap.live(place / "attachments", None) as live:
        swap.recover(live)
    assert [name for name in beside(place) if swap.KEPT not in name] == []
    return files_below(place / "attachments")


def test_a_step_that_fails_is_undone_until_there_is_only_the_way_ahead(tmp_path: Path, disk: Disk) -> None:
    ends = []
    for number in count(1):
        (place := tmp_path / str(number)).mkdir()
        said = swapped(place, disk, number)
        if said.startswith("attachments: the swap failed: "):
            assert said == f"attachments: the swap failed: Input/output error; {swap.AS_IT_WAS}"
            assert (files_below(place / "attachments"), beside(place)) == (OLD, []), number
        elif said != ALL_THE_WAY:
            assert said.startswith("attachments: the swap stopped: Input/output error; "), said
            assert after_recovery(place) == NEW, number
        if said == ALL_THE_WAY:
            assert files_below(place / "attachments") == NEW
            break
        ends.append(said.split(":")[1])
    assert ends == sorted(ends), "first those that are undone"
    assert min(ends.count(" the swap failed"), ends.count(" the swap stopped")) > 5


def test_what_cannot_be_undone_either_is_told_and_undone_by_the_next(tmp_path: Path, disk: Disk) -> None:
    told = 0
    for number in count(1):
        (place := tmp_path / str(number)).mkdir()
        said = swapped(place, disk, number, from_there_on=True)
        if said == ALL_THE_WAY:
            break
        kept = place / f"attachments.{swap.KEPT}-{STAMP}"
        if "could not be undone" in said:
            told += 1
            assert said == (
                "attachments: the swap failed and could not be undone: Input/output error; "
                f"{kept} and {place / 'attachments'} together hold what was live"
            )
            assert files_below(place / "attachments") | files_below(kept) == OLD
        if files_below(place / "attachments") not in (OLD, NEW):
            with pytest.raises(SourceError, match="a restore was cut off while it swapped them"):
                swap.check_whole(place / "attachments")
        found = after_recovery(place)
        assert found == OLD or (found == NEW and files_below(kept) == OLD), said
    assert told > 5


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with (
        places.opened(tmp_path) as around,
        pytest.raises(RestoreError, match="taken: File exists, expected a new directory there"),
        swap.fresh(around, "taken"),
    ):
        pass
