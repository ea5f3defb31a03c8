"""What is found in a store: sets in the order of their UTC time, whatever else lies there."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dental_pms_backup.cli import report
from dental_pms_backup.config.settings import Retention
from dental_pms_backup.errors import UsageError
from dental_pms_backup.store import publishing, retention, sets
from dental_pms_backup.store.sets import Kind, Stream
from tests.unit.builders import NAME, NOW, name_of, night, packed, published, stored

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(
        ["db", "globals", NAME, "2026-11-23T01:30:00+00:00", "2026-11-23T01:30:00", f"db/db_{NAME}.sql.gz"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["format", "set", "taken_at", "streams", "db", "artefacts", "kind", "path", "size_bytes", "sha256"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def names(store: Path) -> list[str]:
    return [each.name for each in sets.listing(store)]


def legacy(store: Path, name: str, *kinds: Kind) -> None:
    """Leave files as an older script did."""
    for kind in kinds:
        path = store / kind.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed("old"))


def manifest_of(store: Path, name: str = NAME) -> dict[str, Any]:
    found = json.loads(sets.manifest_path(store, name).read_text())
    assert isinstance(found, dict)
    return found


def rewritten(store: Path, manifest: object, name: str = NAME) -> None:
    sets.manifest_path(store, name).write_text(json.dumps(manifest))


def looked_at(store: Path) -> list[str]:
    """Do with a store what every reading command does, and return the states of its sets."""
    listed = sets.listing(store)
    for each in listed:
        list(report.set_details(store, each))
    for stream in Stream:
        retention.choices(listed, stream, Retention(keep=1, keep_weekly=2), now=NOW)
    list(report.set_table(listed, NOW))
    return [report.set_summary(stored)["state"] for stored in listed]


def test_store_that_does_not_exist_has_no_sets(tmp_path: Path) -> None:
    assert sets.listing(tmp_path / "store") == []


def test_sets_are_listed_by_utc_although_the_clock_went_back(tmp_path: Path) -> None:
    # the same wall clock twice: 02:30 summer time, then 02:10 winter time, 40 minutes later
    summer = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    winter = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert (name_of(summer), name_of(winter)) == ("2026-10-25_023000", "2026-10-25_021000")
    for moment in (winter, summer):
        published(tmp_path, name_of(moment), taken_at=moment)
    assert names(tmp_path) == ["2026-10-25_023000", "2026-10-25_021000"]


def test_sets_are_listed_by_the_manifest_when_the_names_say_otherwise(tmp_path: Path) -> None:
    published(tmp_path, "2026-01-01_000000", taken_at=NOW)
    published(tmp_path, "2026-12-31_000000", taken_at=NOW - timedelta(days=1))
    assert names(tmp_path) == ["2026-12-31_000000", "2026-01-01_000000"]


def test_time_zone_of_a_manifest_does_not_matter(tmp_path: Path) -> None:
    published(tmp_path, "2026-01-01_000000", taken_at=datetime.fromisoformat("2026-01-01T12:00:00+09:00"))
    published(tmp_path, "2026-01-01_000001", taken_at=datetime.fromisoformat("2026-01-01T02:00:00+00:00"))
    assert names(tmp_path) == ["2026-01-01_000001", "2026-01-01_000000"]


def test_files_of_an_older_script_are_listed_by_the_local_time_in_their_names(tmp_path: Path) -> None:
    published(tmp_path, NAME, taken_at=NOW)
    legacy(tmp_path, "2026-11-22_023000", Kind.DB)
    legacy(tmp_path, "2026-11-23_023001", Kind.ATTACHMENTS)
    assert [(each.name, each.state, each.taken_at) for each in sets.listing(tmp_path)] == [
        ("2026-11-22_023000", "unproven", NOW - timedelta(days=1)),
        (NAME, "verified", NOW),
        ("2026-11-23_023001", "unproven", NOW + timedelta(seconds=1)),
    ]


@pytest.mark.parametrize(
    ("suspicions", "problems", "accepted", "state"),
    [
        ([], (), False, "verified"),
        (["db: small"], (), False, "suspect"),
        (["db: small"], (), True, "verified"),
        (["db: small"], ("db: missing",), False, "damaged"),
        ([], (), True, "verified"),
    ],
)
def test_state_is_the_worst_that_is_known(
    suspicions: list[str], problems: tuple[str, ...], accepted: bool, state: str
) -> None:
    found = stored(manifest={"suspicions": suspicions}, problems=problems, accepted=accepted)
    assert (found.state, found.suspicions) == (state, tuple(suspicions))


def test_marks_of_the_admin_are_part_of_a_set(tmp_path: Path) -> None:
    published(tmp_path, suspicions=["db: small"])
    for suffix, found in (("pinned", (True, False, "suspect")), ("accepted", (True, True, "verified"))):
        (tmp_path / f"sets/{NAME}.{suffix}").touch()
        (each,) = sets.listing(tmp_path)
        assert (each.pinned, each.accepted, each.state) == found


def test_set_has_its_files_with_their_sizes_and_checksums(tmp_path: Path) -> None:
    found = published(tmp_path)
    entries = sets.entries(manifest_of(tmp_path))
    assert [(each.kind, each.path, each.size_bytes, each.sha256) for each in found.artefacts] == [
        (entry["kind"], entry["path"], entry["size_bytes"], entry["sha256"]) for entry in entries
    ]
    assert [each.path for each in found.artefacts] == [
        f"db/db_{NAME}.sql.gz",
        f"db/globals_{NAME}.sql.gz",
        f"db/settings_{NAME}.sql.gz",
        f"attachments_{NAME}.tgz",
    ]


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.json",
        "notes.json",
        f"{NAME}.json.bak",
        f".{NAME}.json.draft",
        "2026-11-23.json",
        f"x{NAME}.json",
    ],
)
def test_other_files_among_the_manifests_are_no_sets(name: str, tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / name).write_text("{}")
    assert sets.listing(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        f"db/.db_{NAME}.sql.gz.draft",
        f"db/db_{NAME}.sql",
        f"db/db_{NAME}.sql.gz.part",
        f"db/xdb_{NAME}.sql.gz",
        "db/db_2026-02-30_023000.sql.gz",
        "db/db_2026-11-23_250000.sql.gz",
        f"db_{NAME}.sql.gz",
        f"db/attachments_{NAME}.tgz",
    ],
)
def test_other_files_are_no_artefacts(name: str, tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / name).write_bytes(packed("x"))
    assert sets.listing(tmp_path) == []


def test_directory_under_an_artefact_name_is_no_artefact(tmp_path: Path) -> None:
    (tmp_path / Kind.DB.path(NAME)).mkdir(parents=True)
    assert sets.listing(tmp_path) == []


def test_file_that_is_missing_damages_its_set(tmp_path: Path) -> None:
    published(tmp_path)
    size_bytes = (tmp_path / Kind.DB.path(NAME)).stat().st_size
    (tmp_path / Kind.DB.path(NAME)).unlink()
    (found,) = sets.listing(tmp_path)
    assert (found.state, found.problems) == (
        "damaged",
        (f"db/db_{NAME}.sql.gz: missing, expected {size_bytes} bytes",),
    )
    assert found.artefact(Kind.DB) is None


def test_file_of_another_size_damages_its_set(tmp_path: Path) -> None:
    published(tmp_path)
    size_bytes = (tmp_path / Kind.ATTACHMENTS.path(NAME)).stat().st_size
    os.truncate(tmp_path / Kind.ATTACHMENTS.path(NAME), 3)
    (found,) = sets.listing(tmp_path)
    assert found.problems == (f"attachments_{NAME}.tgz: 3 bytes, expected {size_bytes}",)


def test_set_as_its_manifest_describes_it_is_the_one_that_is_found(tmp_path: Path) -> None:
    published(tmp_path)
    found = sets.find(tmp_path, NAME)
    assert found.manifest
    assert sets.described(found.manifest) == found


def test_garbage_for_a_manifest_damages_its_set_and_hides_no_other(tmp_path: Path) -> None:
    published(tmp_path, "2026-11-22_023000", taken_at=NOW - timedelta(days=1))
    published(tmp_path)
    sets.manifest_path(tmp_path, NAME).write_bytes(b"\x00garbage")
    listed = sets.listing(tmp_path)
    assert [(stored.name, stored.state) for stored in listed] == [("2026-11-22_023000", "verified"), (NAME, "damaged")]
    assert listed[1].problems == (f"sets/{NAME}.json: not a manifest, expected one of format 1",)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), 2),
        (("set",), "2026-11-23_023001"),
        (("taken_at",), "2026-11-23T01:30:00"),
        (("taken_at",), "yesterday"),
        (("taken_at",), 1),
        (("streams",), {}),
        (("streams",), []),
        (("streams", "db", "artefacts", 0, "path"), "/etc/passwd"),
        (("streams", "db", "artefacts", 0, "path"), "db/../../../etc/passwd"),
        (("streams", "db", "artefacts", 0, "path"), "db/db_2026-11-22_023000.sql.gz"),
        (("streams", "db", "artefacts", 0, "kind"), "attachments"),
        (("streams", "db", "artefacts", 0, "kind"), "wal"),
        (("streams", "db", "artefacts", 0, "size_bytes"), "12"),
        (("streams", "db", "artefacts", 0, "size_bytes"), None),
        (("streams", "db", "artefacts", 0, "sha256"), "0"),
        (("streams", "db", "artefacts", 0, "sha256"), "Z" * 64),
        (("streams", "db", "artefacts", 0), "db"),
        (("streams", "db", "artefacts"), []),
        (("streams", "db", "source"), 5),
        (("streams", "db", "changed"), 5),
        (("streams", "db", "changed"), [5]),
        (("streams", "db", "leading_out"), [5]),
        (("streams", "db", "entries"), "5"),
        (("streams", "db", "entries"), True),
        (("streams", "db", "rows_without_file"), "1"),
        (("streams", "db", "rows_with_other_size"), None),
        (("taken_at",), "0001-01-01T00:00:00+23:00"),
        (("taken_at",), "9999-12-31T23:59:59+00:00"),
        (("suspicions",), "db: small"),
        (("suspicions",), [5]),
    ],
)
def test_manifest_with_one_wrong_value_is_not_believed(
    where: tuple[str | int, ...], value: object, tmp_path: Path
) -> None:
    published(tmp_path)
    manifest: Any = manifest_of(tmp_path)
    place = manifest
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    rewritten(tmp_path, manifest)
    (found,) = sets.listing(tmp_path)
    assert (found.state, found.manifest, found.taken_at) == ("damaged", None, NOW)
    assert [each.kind for each in found.artefacts] == list(Kind)


def test_manifest_that_is_too_large_to_read_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    monkeypatch.setattr(sets, "LARGEST_MANIFEST_BYTES", 100)
    assert looked_at(tmp_path) == ["damaged"]


def test_manifest_that_is_nested_without_end_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    sets.manifest_path(tmp_path, NAME).write_text('{"streams":' * 100_000)
    assert looked_at(tmp_path) == ["damaged"]


@pytest.mark.parametrize("name", ["9999-99-99_999999", "0000-00-00_000000", "0001-01-01_000000", "9999-12-31_235959"])
def test_manifest_named_after_no_moment_is_no_set(name: str, tmp_path: Path) -> None:
    published(tmp_path)
    sets.manifest_path(tmp_path, name).write_text("{}")
    assert looked_at(tmp_path) == ["verified"]


@given(st.binary(max_size=200))
def test_any_bytes_for_a_manifest_are_no_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sets").mkdir(exist_ok=True)
    sets.manifest_path(tmp_path, NAME).write_bytes(content)
    assert looked_at(tmp_path) == ["damaged"]


@given(VALUES)
def test_any_json_for_a_manifest_is_no_error(tmp_path: Path, manifest: object) -> None:
    (tmp_path / "sets").mkdir(exist_ok=True)
    rewritten(tmp_path, manifest)
    assert looked_at(tmp_path) == ["damaged"]


@given(st.data())
def test_any_value_in_a_manifest_is_no_error(tmp_path: Path, data: st.DataObject) -> None:
    good = tmp_path / "good.json"
    if not good.exists():
        published(tmp_path / "store")
        sets.manifest_path(tmp_path / "store", NAME).rename(good)
    manifest = json.loads(good.read_text())
    place = manifest
    while True:
        step = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not place[step] or not isinstance(place[step], dict | list) or data.draw(st.booleans()):
            place[step] = data.draw(VALUES)
            break
        place = place[step]
    rewritten(tmp_path / "store", manifest)
    assert looked_at(tmp_path / "store") in (["verified"], ["damaged"], ["suspect"])


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("2026-01-02_023000", "2026-01-02_023000"),
        ("STORE/sets/2026-01-02_023000.json", "2026-01-02_023000"),
        ("STORE/sets/2026-01-02_023000.sha256", "2026-01-02_023000"),
        ("STORE/db/db_2026-01-02_023000.sql.gz", "2026-01-02_023000"),
        ("STORE/attachments_2026-01-02_023000.tgz", "2026-01-02_023000"),
        ("STORE/db/../attachments_2026-01-02_023000.tgz", "2026-01-02_023000"),
    ],
)
def test_set_is_found_by_every_word_for_it(wanted: str, name: str, tmp_path: Path) -> None:
    for number in (2, 1):
        published(tmp_path, name_of(night(number)), taken_at=night(number))
    assert sets.find(tmp_path, wanted.replace("STORE", str(tmp_path))).name == name


@pytest.mark.parametrize(
    "wanted",
    [
        "2026-01-01_000000",
        "newest",
        "",
        "db",
        f"/other/store/db/db_{NAME}.sql.gz",
        f"../db_{NAME}",
        f"{NAME}1",
        f"x{NAME}",
        f"2{NAME}",
        f"db/wal_{NAME}.gz",
        f"{NAME}.pinned",
    ],
)
def test_unknown_set_is_a_usage_error_that_names_the_list(wanted: str, tmp_path: Path) -> None:
    published(tmp_path)
    with pytest.raises(UsageError) as raised:
        sets.find(tmp_path, wanted)
    assert (raised.value.message, raised.value.hint) == (
        f'"{wanted}": no such set in {tmp_path}, expected a name of the list',
        "dental-pms-backup list",
    )


@pytest.mark.parametrize("lacks", [Kind.DB, Kind.ATTACHMENTS])
def test_a_set_that_lacks_what_is_asked_for_is_told_by_what_it_lacks(lacks: Kind, tmp_path: Path) -> None:
    published(tmp_path, streams=[stream for stream in Stream if stream is not lacks.stream])
    with pytest.raises(UsageError) as raised:
        sets.find(tmp_path, NAME, having=lacks)
    assert raised.value.message == f'"{NAME}": the set has no {lacks}, expected a set that has'


def test_empty_store_has_nothing_to_find(tmp_path: Path) -> None:
    publishing.prepare(tmp_path)
    with pytest.raises(UsageError) as raised:
        sets.find(tmp_path, NAME)
    assert (raised.value.message, raised.value.hint) == (
        f"{tmp_path}: no set, expected at least one",
        "dental-pms-backup run",
    )


@pytest.mark.parametrize(
    ("key", "value"), [("database_bytes", 10**4000), ("server_version", "x"), ("server_version", -1), ("image", {})]
)
def test_a_set_that_says_what_cannot_be_of_where_it_came_from_is_not_believed(
    tmp_path: Path, key: str, value: object
) -> None:
    published(tmp_path)
    manifest = manifest_of(tmp_path)
    manifest["streams"]["db"].setdefault("source", {})[key] = value
    sets.manifest_path(tmp_path, NAME).write_text(json.dumps(manifest))
    assert sets.read_manifest(sets.manifest_path(tmp_path, NAME), NAME) is None
