"""A swap of which a step fails, or each from there on: what was live is back, or what comes is whole in the end."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from dental_pms_backup.errors import RestoreError, SourceError
from dental_pms_backup.host import places
from dental_pms_backup.live import swap, swap_steps
from tests.unit.builders import files_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STAMP = "2026-11-23_023000"
OLD = {"a": b"old", "b/c": b"old", ".hidden": b"old"}
NEW = {"a": b"new", "d/e": b"new", ".hidden": b"new"}
PUT_ASIDE = f"{swap.CAME}-1"  # as an admin brings back what an earlier swap has put aside
for content in (OLD, NEW):
    content[f"{PUT_ASIDE}/f"] = content["a"]
STEPS = ("mkdir", "rename", "rmdir", "fsync", "utime")
ALL_THE_WAY = "nothing failed"


class Disk:
    """A disk that refuses the step of a number, or with ``from_there_on`` each from it until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused_at = self.taken = 0
        self.works, self.from_there_on = True, False
        for name in STEPS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(swap_steps, "rename_new", self.counted(swap_steps.rename_new))

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
        (directory / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (directory / name).write_bytes(content)


def swapped(place: Path, disk: Disk, number: int, *, from_there_on: bool = False) -> str:
    """Swap what is live for something else, with a disk that refuses a step; return what is said."""
    target = place / "attachments"
    laid_out(target, OLD)
    with swap.live(target, None) as live, contextlib.ExitStack() as stack:
        made = stack.enter_context(swap.fresh(live.around, live.beside(swap.RESTORING, STAMP)))
        laid_out(place / made.name / swap_steps.CONTENT, NEW)
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
    assert {name.split(".")[1].split("-2")[0] for name in beside(place)} <= {swap.KEPT, swap.CAME, swap.UNDONE}
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


def test_where_what_belongs_to_a_swap_fails_what_was_live_comes_back_and_nothing_stored_meanwhile_is_lost(
    tmp_path: Path, disk: Disk
) -> None:
    told = 0
    changed = {**NEW, "d/e": b"newer", "d/stored": b"meanwhile"}
    del changed["a"]
    for number in count(1):
        place = tmp_path / str(number)
        laid_out(place / "attachments", OLD)

        def then(number: int = number, target: Path = place / "attachments") -> None:
            laid_out(target, {"d/e": b"newer", "d/stored": b"meanwhile"})
            (target / "a").unlink()
            disk.refused_at, disk.taken, disk.works, disk.from_there_on = number, 0, False, True
            raise RestoreError("db: the switch failed")

        with swap.live(place / "attachments", None) as live, contextlib.ExitStack() as stack:
            made = stack.enter_context(swap.fresh(live.around, live.beside(swap.RESTORING, STAMP)))
            laid_out(place / made.name / swap_steps.CONTENT, NEW)
            with pytest.raises(RestoreError) as raised:
                swap.swap(live, made, STAMP, then=then)
            disk.works = True
        undone = place / f"attachments.{swap.UNDONE}-{STAMP}"
        if raised.value.message.startswith("db: the switch failed"):
            where = f"what was restored, with what the application stored in it meanwhile, is in {undone}"
            assert raised.value.message == f"db: the switch failed; {where}"
            assert (files_below(place / "attachments"), beside(place)) == (OLD, [undone.name])
            assert files_below(undone / swap_steps.CONTENT) == changed
            break
        told += 1
        assert "the swap failed and could not be undone: Input/output error; " in raised.value.message
        if files_below(place / "attachments") != OLD:
            with pytest.raises(SourceError, match="a restore was cut off while it swapped them"):
                swap.check_whole(place / "attachments")
        if (found := after_recovery(place)) != changed:
            assert (found, files_below(undone / swap_steps.CONTENT)) == (OLD, changed)
    assert told > 8


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with (
        places.opened(tmp_path) as around,
        pytest.raises(RestoreError, match="taken: File exists, expected a new directory there"),
        swap.fresh(around, "taken"),
    ):
        pass


class Writer:
    """Somebody who makes entries in the live directory at steps of a swap, as the application may."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.made = 0

    def write(self, *, often: int = 1) -> None:
        """Make all that a restore brings, each with something else in it, unless it is there."""
        for name in NEW if self.made < often else ():
            if not (self.target / name.partition("/")[0]).exists():
                laid_out(self.target, {name: b"newcomer"})
                self.made += 1

    def before(self, step: Callable[..., Any], often: int) -> Callable[..., Any]:
        def writing(*arguments: object, **more: object) -> object:
            self.write(often=often)
            return step(*arguments, **more)

        return writing


def newcomers(place: Path) -> list[bytes]:
    return [path.read_bytes() for path in place.glob(f"attachments.{swap.CAME}-{STAMP}-*/**/*") if path.is_file()]


def test_whatever_somebody_makes_in_the_way_is_kept_and_the_swap_ends(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "attachments")
    monkeypatch.setattr(swap_steps, "rename_new", writer.before(swap_steps.rename_new, 50))
    assert swapped(tmp_path, disk, 0) == ALL_THE_WAY
    kept = tmp_path / f"attachments.{swap.KEPT}-{STAMP}"
    assert files_below(tmp_path / "attachments") == NEW
    assert files_below(kept) == OLD
    assert newcomers(tmp_path) == [b"newcomer"] * writer.made
    assert writer.made == 50


def test_whoever_is_always_quicker_stops_it_and_the_next_ends_it(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "attachments")
    with monkeypatch.context() as patched:
        patched.setattr(swap_steps, "TRIES", 5)
        patched.setattr(swap_steps, "rename_new", writer.before(swap_steps.rename_new, 1000))
        assert swapped(tmp_path, disk, 0).startswith("attachments: the swap stopped: 5 times in a row somebody else ")
    assert after_recovery(tmp_path) == NEW
    kept = tmp_path / f"attachments.{swap.KEPT}-{STAMP}"
    assert newcomers(tmp_path) == [b"newcomer"] * writer.made
    assert files_below(kept) == OLD


@pytest.mark.parametrize("gone", [False, True])
def test_a_swap_that_was_cut_off_is_ended_over_what_the_application_made_since(
    tmp_path: Path, disk: Disk, *, gone: bool
) -> None:
    number = next(number for number in count(1) if "the swap stopped" in swapped(tmp_path / f"{number}", disk, number))
    place = tmp_path / f"{number}"
    kept = place / f"attachments.{swap.KEPT}-{STAMP}"
    if gone:
        shutil.rmtree(kept)
    (writer := Writer(place / "attachments")).write(often=9)
    assert writer.made > 0
    assert after_recovery(place) == NEW
    assert newcomers(place) == [b"newcomer"] * writer.made


def test_a_swap_is_undone_over_what_the_application_made_since(tmp_path: Path, disk: Disk) -> None:
    for number in count(1):
        said = swapped(place := tmp_path / f"{number}", disk, number, from_there_on=True)
        if "could not be undone" in said:
            break
    writer = Writer(place / "attachments")
    for name in OLD:
        if not (place / "attachments" / name.partition("/")[0]).exists():
            laid_out(place / "attachments", {name: b"newcomer"})
            writer.made += 1
    by_an_undoing_that_was_cut_off_as_well = place / f"attachments.{swap.CAME}-{STAMP}-1"
    laid_out(by_an_undoing_that_was_cut_off_as_well, {"a": b"newcomer"})
    assert after_recovery(place) == OLD
    assert newcomers(place) == [b"newcomer"] * (writer.made + 1)


def test_what_vanishes_under_a_swap_does_not_stop_it(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = places.Place.entries
    monkeypatch.setattr(
        places.Place,
        "entries",
        lambda place: [*entries(place), *(["gone"] if place.path.name == "attachments" else [])],
    )
    assert swapped(tmp_path, disk, 0) == ALL_THE_WAY
    assert files_below(tmp_path / "attachments") == NEW
