"""Latest: the newest set that nothing is known against, by UTC time, with all that is asked for."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from dental_pms_backup.errors import UsageError
from dental_pms_backup.host import journal
from dental_pms_backup.store import drill_record, latest, publishing
from dental_pms_backup.store.sets import Kind, Stream
from tests.unit.builders import NAME, NOW, drafted, name_of, published

if TYPE_CHECKING:
    from pathlib import Path

OLD, OLDER = name_of(NOW - timedelta(days=1)), name_of(NOW - timedelta(days=2))
BOTH = (Kind.DB, Kind.ATTACHMENTS)


def named(store: Path, word: str = "latest", having: tuple[Kind, ...] = ()) -> str:
    return latest.named(store, word, having=having, now=NOW)


def known(store: Path, what: str) -> None:
    """Publish a newest set that something is known against."""
    more: dict[str, Any] = {"suspicions": ["db: strange"]} if what == "suspect" else {}
    at = NOW + timedelta(seconds=1) if what == "dated in the future" else NOW
    manifest = {**drafted(store, taken_at=at, **more), **({"safety": True} if what == "a safety set" else {})}
    publishing.publish(store, NAME, manifest)
    if what == "failed":
        found = {"drilled_at": NOW.isoformat(), "result": "failed", "proofs": {}, "problems": ["x"], "reasons": {}}
        drill_record.write(store, NAME, manifest, found)
    if what == "damaged":
        (store / f"attachments_{NAME}.tgz").write_bytes(b"")


@pytest.mark.parametrize("what", ["suspect", "failed", "damaged", "dated in the future", "a safety set"])
def test_latest_is_no_set_that_something_is_known_against_and_says_so(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known(tmp_path, what)
    with pytest.raises(UsageError) as raised:
        named(tmp_path, having=BOTH)
    assert (raised.value.message, raised.value.hint) == (
        f"{tmp_path}: no set with db and attachments that is not suspect, failed, damaged, dated in the future or a "
        "safety set, expected at least one",
        "dental-pms-backup list   # then type the name of the set that you want",
    )
    published(tmp_path, OLDER, taken_at=NOW - timedelta(days=2))
    published(tmp_path, OLD, taken_at=NOW - timedelta(days=1))
    journal.show(journal.Echo.WARNINGS)
    assert (named(tmp_path), named(tmp_path, "oldest"), named(tmp_path, NAME)) == (OLD, OLDER, NAME)
    said = f"latest is the set {OLD}: the newer set {NAME} is {what}\n"
    assert capsys.readouterr().err.startswith(said if what != "a safety set" else "")


def test_latest_has_all_that_is_asked_for(tmp_path: Path) -> None:
    published(tmp_path, OLDER, taken_at=NOW - timedelta(days=2))
    published(tmp_path, OLD, taken_at=NOW - timedelta(days=1), streams=[Stream.ATTACHMENTS])
    published(tmp_path, taken_at=NOW, streams=[Stream.DB])
    assert [named(tmp_path, having=having) for having in ((), (Kind.DB,), (Kind.ATTACHMENTS,), BOTH)] == [
        NAME,
        NAME,
        OLD,
        OLDER,
    ]
    assert named(tmp_path, "oldest", (Kind.DB,)) == OLDER
    assert latest.every(tmp_path, "latest", now=NOW) == [OLDER, NAME, OLD]
    assert [latest.every(tmp_path, word, now=NOW) for word in ("oldest", NAME)] == [[OLDER], [NAME]]


def test_latest_is_the_latest_by_utc_and_not_by_name(tmp_path: Path) -> None:
    published(tmp_path, "2026-12-31_000000", taken_at=NOW - timedelta(days=1))
    published(tmp_path, "2026-01-01_000000", taken_at=NOW)
    assert [named(tmp_path, word) for word in ("latest", "oldest")] == ["2026-01-01_000000", "2026-12-31_000000"]


def test_without_any_set_a_run_is_to_be_typed(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        named(tmp_path, having=BOTH)
    assert (raised.value.message, raised.value.hint) == (
        f"{tmp_path}: no set, expected at least one",
        "dental-pms-backup run",
    )
    published(tmp_path, streams=[Stream.DB])
    with pytest.raises(UsageError) as raised:
        named(tmp_path, "oldest", BOTH)
    assert raised.value.message == f"{tmp_path}: no set with db and attachments, expected at least one"
