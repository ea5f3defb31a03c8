"""What a drill has proven counts only for exactly the manifest that it drilled; that a set failed stays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dental_pms_backup.store import drill_record, publishing, sets
from dental_pms_backup.store.drill_record import Result
from dental_pms_backup.store.sets import Stream
from tests.unit.builders import NAME, drafted, published

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = {"set": NAME, "streams": {"db": {"artefacts": [{"sha256": "0" * 64}]}}}
PASSED = {"result": Result.PASSED, "proofs": {"load": Result.PASSED}, "drilled_at": "2026-11-23T05:00:00+00:00"}
FAILED = PASSED | {"result": Result.FAILED, "proofs": {"load": Result.FAILED}}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "sets").mkdir()
    return tmp_path


def test_record_comes_back_as_it_was_written(store: Path) -> None:
    drill_record.write(store, NAME, MANIFEST, PASSED)
    found = drill_record.read(store, NAME, MANIFEST)
    assert found
    assert {key: found[key] for key in PASSED} == PASSED
    assert (store / f"sets/{NAME}.drill.json").stat().st_mode & 0o777 == 0o600


def test_record_of_another_manifest_proves_nothing(store: Path) -> None:
    drill_record.write(store, NAME, MANIFEST, PASSED)
    other = json.loads(json.dumps(MANIFEST).replace("0000", "0001"))
    assert drill_record.read(store, NAME, other) is None
    assert drill_record.read(store, NAME, {**MANIFEST, "suspicions": []}) is None


def test_record_of_another_set_proves_nothing(store: Path) -> None:
    drill_record.write(store, NAME, MANIFEST, PASSED)
    (store / f"sets/{NAME}.drill.json").rename(store / "sets/2026-01-01_000000.drill.json")
    assert drill_record.read(store, "2026-01-01_000000", MANIFEST) is None


@pytest.mark.parametrize(
    "facts",
    [
        PASSED | {"proofs": {}},
        PASSED | {"proofs": {"load": Result.NOT_CHECKED}},
        PASSED | {"proofs": {"load": Result.PASSED, "rows": Result.FAILED}},
        PASSED | {"proofs": {"load": "perhaps"}},
        PASSED | {"result": "ok"},
        PASSED | {"proofs": ["load"]},
        PASSED | {"drilled_at": None},
        PASSED | {"format": 2},
        {},
    ],
)
def test_record_that_contradicts_itself_proves_nothing(store: Path, facts: dict[str, Any]) -> None:
    drill_record.write(store, NAME, MANIFEST, facts)
    assert drill_record.read(store, NAME, MANIFEST) is None


@pytest.mark.parametrize(("facts", "state"), [(PASSED, "proven"), (FAILED, "failed")])
def test_set_is_called_what_its_drill_found(tmp_path: Path, facts: dict[str, Any], state: str) -> None:
    stored = published(tmp_path)
    assert stored.state == "verified"
    drill_record.write(tmp_path, NAME, stored.manifest or {}, facts)
    (drilled,) = sets.listing(tmp_path)
    assert (drilled.state, drilled.is_good) == (state, state == "proven")


@pytest.mark.parametrize("facts", [PASSED, FAILED])
def test_drill_hides_no_suspicion_and_no_damage(tmp_path: Path, facts: dict[str, Any]) -> None:
    manifest = drafted(tmp_path, suspicions=["db: small"])
    publishing.publish(tmp_path, NAME, manifest)
    drill_record.write(tmp_path, NAME, manifest, facts)
    assert sets.find(tmp_path, NAME).state == "suspect"
    (tmp_path / f"attachments_{NAME}.tgz").unlink()
    assert sets.find(tmp_path, NAME).state == "damaged"


def test_set_that_failed_stays_failed_without_one_of_its_streams_until_a_drill_of_what_is_left_passes(
    tmp_path: Path,
) -> None:
    stored = published(tmp_path)
    drill_record.write(tmp_path, NAME, stored.manifest or {}, FAILED)
    publishing.remove(tmp_path, stored, Stream.ATTACHMENTS)
    trimmed = sets.find(tmp_path, NAME)
    assert trimmed.state == "failed"
    drill_record.write(tmp_path, NAME, trimmed.manifest or {}, PASSED)
    assert sets.find(tmp_path, NAME).state == "proven"


def test_record_goes_with_its_set_and_a_set_without_a_stream_is_proven_no_more(tmp_path: Path) -> None:
    stored = published(tmp_path)
    drill_record.write(tmp_path, NAME, stored.manifest or {}, PASSED)
    publishing.remove(tmp_path, stored, Stream.ATTACHMENTS)
    trimmed = sets.find(tmp_path, NAME)
    assert trimmed.state == "verified"
    publishing.remove(tmp_path, trimmed, Stream.DB)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
