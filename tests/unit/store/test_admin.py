"""The admin's word on sets: on disk, on record, and no more than was said."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from dental_pms_backup.errors import LockHeldError, UsageError
from dental_pms_backup.store import admin, lock, marks, publishing, sets
from dental_pms_backup.store.marks import Mark
from dental_pms_backup.store.sets import Stream
from tests.unit.builders import NAME, NOW, files_below, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = "2026-11-22_023000"


def entries(store: Path) -> list[dict[str, Any]]:
    """Return the ledger's entries without their place in time and chain."""
    lines = (store / "ledger.jsonl").read_text().splitlines()
    return [{key: each for key, each in json.loads(line).items() if key not in {"at", "previous"}} for line in lines]


def state_of(store: Path, name: str = NAME) -> tuple[bool, bool, str]:
    found = sets.find(store, name)
    return found.pinned, found.accepted, found.state


def test_mark_is_a_small_file_with_its_time(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    for mark in Mark:
        marks.put(tmp_path, NAME, mark, now=NOW)
    said = b"2026-11-23T01:30:00+00:00\n"
    assert files_below(tmp_path) == {f"sets/{NAME}.pinned": said, f"sets/{NAME}.accepted": said}
    marks.take_off(tmp_path, NAME, Mark.PINNED)
    marks.take_off(tmp_path, NAME, Mark.PINNED)
    assert files_below(tmp_path) == {f"sets/{NAME}.accepted": said}


def test_pinned_set_is_marked_and_on_record(tmp_path: Path) -> None:
    published(tmp_path)
    assert admin.pin(tmp_path, NAME, now=NOW) == f"set {NAME} is pinned: it stays until it is released"
    assert (state_of(tmp_path), entries(tmp_path)) == ((True, False, "verified"), [{"what": "pin", "set": NAME}])


def test_released_set_is_no_longer_marked(tmp_path: Path) -> None:
    published(tmp_path)
    admin.pin(tmp_path, NAME, now=NOW)
    assert admin.release(tmp_path, NAME, now=NOW) == f"set {NAME} is released: retention decides again"
    assert (state_of(tmp_path), entries(tmp_path)[1:]) == (
        (False, False, "verified"),
        [{"what": "release", "set": NAME}],
    )


def test_accepted_set_is_no_longer_suspect_and_keeps_what_was_strange(tmp_path: Path) -> None:
    published(tmp_path, suspicions=["db: small", "attachments: empty"])
    assert state_of(tmp_path) == (False, False, "suspect")
    assert admin.accept(tmp_path, NAME, now=NOW) == f"set {NAME} is accepted: db: small"
    assert (state_of(tmp_path), entries(tmp_path)) == ((False, True, "verified"), [{"what": "accept", "set": NAME}])
    assert sets.find(tmp_path, NAME).suspicions == ("db: small", "attachments: empty")


def test_set_that_is_not_strange_is_not_accepted(tmp_path: Path) -> None:
    published(tmp_path)
    before = files_below(tmp_path)
    with pytest.raises(UsageError) as raised:
        admin.accept(tmp_path, NAME, now=NOW)
    assert raised.value.message == f"set {NAME}: it is not suspect, so there is nothing to accept"
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("say", [admin.pin, admin.release, admin.accept])
def test_set_that_does_not_exist_leaves_no_mark(say: Any, tmp_path: Path) -> None:  # noqa: ANN401 - one of three
    published(tmp_path)
    before = files_below(tmp_path)
    with pytest.raises(UsageError, match="no such set"):
        say(tmp_path, OLD, now=NOW)
    assert files_below(tmp_path) == before


def test_word_on_one_set_is_none_on_another(tmp_path: Path) -> None:
    for name in (OLD, NAME):
        published(tmp_path, name, suspicions=["db: small"])
    admin.pin(tmp_path, NAME, now=NOW)
    admin.accept(tmp_path, OLD, now=NOW)
    assert (state_of(tmp_path, OLD), state_of(tmp_path)) == ((False, True, "verified"), (True, False, "suspect"))


@pytest.mark.parametrize("say", [admin.pin, admin.accept])
def test_set_that_a_run_removed_meanwhile_leaves_no_mark(
    say: Any,  # noqa: ANN401 - one of two
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def held_after_a_removal(*_arguments: object, **_options: object) -> Iterator[None]:
        publishing.remove(tmp_path, sets.find(tmp_path, NAME), Stream.DB)
        yield

    published(tmp_path, OLD)
    published(tmp_path, streams=[Stream.DB], suspicions=["db: small"])
    monkeypatch.setattr(lock, "held", held_after_a_removal)
    with pytest.raises(UsageError, match="no such set"):
        say(tmp_path, NAME, now=NOW)
    assert [path for path in files_below(tmp_path) if NAME in path or path == "ledger.jsonl"] == []


def test_word_waits_for_a_run_and_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    monkeypatch.setattr(admin, "WAIT_S", 0)
    began = time.monotonic()
    with lock.held(tmp_path), pytest.raises(LockHeldError):
        admin.pin(tmp_path, NAME, now=NOW)
    assert (time.monotonic() - began < 30, state_of(tmp_path)[0]) == (True, False)
