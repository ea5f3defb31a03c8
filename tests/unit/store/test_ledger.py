"""The record that grows at its end only, and shows when somebody changed it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dental_pms_backup.errors import StoreError
from dental_pms_backup.store import ledger
from tests.unit.builders import NOW

FIRST = "0" * 64


def recorded(store: Path, *results: str) -> list[bytes]:
    for result in results:
        ledger.record(store, "run", now=NOW, facts={"result": result})
    return (store / "ledger.jsonl").read_bytes().splitlines()


def previous(lines: list[bytes]) -> list[Any]:
    return [json.loads(line)["previous"] for line in lines]


def digests(lines: list[bytes]) -> list[str]:
    return [hashlib.sha256(line).hexdigest() for line in lines]


def test_entry_is_one_line_of_json(tmp_path: Path) -> None:
    (line,) = recorded(tmp_path, "ok")
    assert json.loads(line) == {
        "at": "2026-11-23T01:30:00+00:00",
        "what": "run",
        "result": "ok",
        "previous": FIRST,
    }


def test_each_entry_holds_the_digest_of_the_one_before(tmp_path: Path) -> None:
    lines = recorded(tmp_path, "ok", "failed", "ok")
    assert previous(lines) == [FIRST, *digests(lines[:-1])]


@pytest.mark.parametrize("changed", [0, 1])
def test_changed_entry_breaks_the_chain(changed: int, tmp_path: Path) -> None:
    lines = recorded(tmp_path, "failed", "failed", "ok")
    lines[changed] = lines[changed].replace(b"failed", b"ok")
    assert previous(lines) != [FIRST, *digests(lines[:-1])]


def test_entry_taken_out_breaks_the_chain(tmp_path: Path) -> None:
    lines = recorded(tmp_path, "ok", "failed", "ok")
    del lines[1]
    assert previous(lines) != [FIRST, *digests(lines[:-1])]


def test_line_that_a_power_cut_tore_is_closed_and_stays(tmp_path: Path) -> None:
    recorded(tmp_path, "ok")
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"at": "2026-1')
    lines = recorded(tmp_path, "ok")
    assert lines[1] == b'{"at": "2026-1'
    assert [json.loads(lines[2])[key] for key in ("result", "previous")] == ["ok", digests(lines)[1]]
    assert previous(recorded(tmp_path, "ok")[2:]) == [digests(lines)[1], digests(lines)[2]]


def test_earlier_entries_are_never_rewritten(tmp_path: Path) -> None:
    before = recorded(tmp_path, *["ok"] * 300)
    assert recorded(tmp_path, "failed")[:300] == before


def test_text_with_newlines_stays_one_line(tmp_path: Path) -> None:
    assert len(recorded(tmp_path, "a\nb\r\u2028c", "ok")) == 2


def test_ledger_is_for_nobody_else(tmp_path: Path) -> None:
    recorded(tmp_path, "ok")
    assert stat.S_IMODE((tmp_path / "ledger.jsonl").stat().st_mode) == 0o600


def test_first_entry_and_the_ledgers_name_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    recorded(tmp_path, "ok", "ok")
    assert synced == [tmp_path / "ledger.jsonl", tmp_path, tmp_path / "ledger.jsonl"]


def test_ledger_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(StoreError) as raised:
        recorded(tmp_path, "ok")
    assert raised.value.message == f"{tmp_path}/ledger.jsonl: cannot be written: Is a directory"


def test_ledger_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        ledger.record(tmp_path, "run", now=NOW, facts={})
    assert not (tmp_path / "elsewhere").exists()


def test_report_is_read_back(tmp_path: Path) -> None:
    assert ledger.last_report(tmp_path) is None
    ledger.report(tmp_path, {"at": "1", "result": "failed"})
    ledger.report(tmp_path, {"at": "2", "result": "ok"})
    assert ledger.last_report(tmp_path) == {"at": "2", "result": "ok"}
    assert stat.S_IMODE((tmp_path / "last-run.json").stat().st_mode) == 0o600


@given(
    st.binary(max_size=100)
    | st.sampled_from([b"[]", b"3", b"null", b'"x"', b'{"x": 1}', b'{"at": 1, "result": "ok"}', b"[" * 100_000])
)
def test_report_that_is_garbage_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last-run.json").write_bytes(content)
    assert ledger.last_report(tmp_path) is None


def test_report_that_cannot_be_written_leaves_none_of_an_older_run(tmp_path: Path) -> None:
    ledger.report(tmp_path, {"at": "1", "result": "ok"})
    (tmp_path / ".last-run.json.draft").symlink_to("nowhere")  # never followed
    with pytest.raises(StoreError):
        ledger.report(tmp_path, {"at": "2", "result": "failed"})
    assert ledger.last_report(tmp_path) is None
