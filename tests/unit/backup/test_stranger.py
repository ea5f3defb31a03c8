"""Whose database it is: each thing that makes it a stranger, beside the last good set only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dental_pms_backup.backup import stranger
from dental_pms_backup.backup.one_stream import Part
from dental_pms_backup.host import journal
from dental_pms_backup.store import latest, ledger
from dental_pms_backup.store.sets import StoredSet, Stream
from tests.unit.builders import NOW, name_of, night, stored

if TYPE_CHECKING:
    from pathlib import Path

SOURCE: dict[str, Any] = {"system_identifier": "7301", "database": "pms", "database_oid": 16384}
TABLES = {"public.patients": 3, "public.notes": 0, "public.teeth": 32, "public.users": 2}


def anew() -> str:
    name = name_of(night(1))
    return (
        f"db: the database pms is not the one that set {name} was taken of: "
        "somebody has made it anew under the same name since\n"
    )


def part(tables: dict[str, int] | None = None, **source: object) -> Part:
    return Part(stream=Stream.DB, manifest={"source": SOURCE | source, "rows": TABLES if tables is None else tables})


def earlier(
    number: int = 1, *, safety: bool = False, suspect: bool = False, accepted: bool = False, **source: object
) -> StoredSet:
    manifest = {
        "suspicions": ["db: small"] if suspect else [],
        "streams": {"db": {"source": SOURCE | source, "rows": TABLES}},
        **({"safety": True} if safety else {}),
    }
    return stored(name_of(night(number)), taken_at=night(number), manifest=manifest, accepted=accepted)


def of(store: Path, new: Part, *sets: StoredSet) -> list[str]:
    good = latest.measure(sets, now=NOW)
    return [*stranger.suspicions(store, [new], good), *stranger.unlike([new], good)]


def told(store: Path, capsys: pytest.CaptureFixture[str], new: Part, *sets: StoredSet) -> str:
    journal.show(journal.Echo.WARNINGS)
    stranger.tell_of_new(store, [new], sets)
    return capsys.readouterr().err


def test_first_set_is_of_no_stranger(tmp_path: Path) -> None:
    old = StoredSet(name="x", taken_at=night(1), artefacts=(), manifest=None)
    assert of(tmp_path, part()) == of(tmp_path, part(), old) == of(tmp_path, part(), earlier()) == []
    archive = Part(stream=Stream.ATTACHMENTS, manifest={})
    assert list(stranger.suspicions(tmp_path, [archive], [earlier()])) == []


def test_another_server_is_suspect_whatever_it_has(tmp_path: Path) -> None:
    assert of(tmp_path, part(system_identifier="7302"), earlier()) == [
        f"db: another server, with the system identifier 7302, expected that of set {name_of(night(1))}, 7301; "
        "is it the practice's, moved or upgraded?"
    ]


def test_another_database_of_the_server_is_suspect(tmp_path: Path) -> None:
    said = f"db: the database postgres, expected pms as in set {name_of(night(1))}"
    assert of(tmp_path, part(database="postgres"), earlier()) == [said]


@pytest.mark.parametrize(("left", "suspect"), [(4, False), (2, False), (1, True)])
def test_database_without_half_of_the_tables_is_suspect(left: int, suspect: bool, tmp_path: Path) -> None:
    tables = dict(list(TABLES.items())[:left]) | {"public.new": 1, "public.newer": 1}
    said = f"db: {left} of the 4 tables of set {name_of(night(1))} are there, expected at least half; "
    assert of(tmp_path, part(tables), earlier()) == ([said + "is it the practice's database?"] if suspect else [])


def test_last_good_set_is_the_measure_and_an_accepted_one_is_good(tmp_path: Path) -> None:
    new = part(system_identifier="7302")
    moved: dict[str, Any] = {"system_identifier": "7302"}
    of_the_future = earlier(400, **moved)
    for no_measure in (earlier(2, suspect=True, **moved), earlier(2, safety=True, **moved), of_the_future):
        assert len(of(tmp_path, new, earlier(), no_measure)) == 1
    assert of(tmp_path, new, earlier(), earlier(2, suspect=True, accepted=True, **moved)) == []
    assert of(tmp_path, new, of_the_future) == []  # where all are, this clock is wrong
    assert len(of(tmp_path, part(), of_the_future)) == 1


@pytest.mark.parametrize(
    ("moment", "where", "known"),
    [
        (2, {"system_identifier": "7302", "database": "pms"}, True),
        (0, {"system_identifier": "7302", "database": "pms"}, False),
        (2, {"system_identifier": "7302", "database": "other"}, False),
        (2, {"system_identifier": "7303", "database": "pms"}, False),
        (2, {}, False),
    ],
)
def test_server_that_a_restore_went_to_since_is_no_stranger(
    moment: int, where: dict[str, str], known: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ledger.jsonl").write_text(
        '{"what": "restore", "at": 3}\n[]\n{"what": "restore", "at": "2027-01-01"}\n'
    )
    ledger.record(tmp_path, "restore", now=night(moment), facts={"stream": "db", "result": "ok", **where})
    assert (of(tmp_path, part(system_identifier="7302"), earlier()) == []) is known
    new = part(system_identifier="7302", database_oid=16999)
    said = told(tmp_path, capsys, new, earlier(system_identifier="7302"))
    assert said == ("" if known else anew())


def test_database_that_was_made_anew_is_told_and_not_suspect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = part(database_oid=16999)
    assert of(tmp_path, new, earlier()) == []
    assert told(tmp_path, capsys, new, earlier()) == anew()
    assert told(tmp_path, capsys, part(), earlier()) == ""
    assert told(tmp_path, capsys, part(database="other", database_oid=1), earlier()) == ""  # suspect
