"""What is whole but may be wrong: each rule, at its threshold, beside the last good set only."""

from __future__ import annotations

import pytest

from dental_pms_backup.backup import suspicion
from dental_pms_backup.backup.one_stream import Part
from dental_pms_backup.config.settings import Suspect
from dental_pms_backup.store import latest
from dental_pms_backup.store.sets import Kind, StoredSet, Stream
from tests.unit.builders import NOW, name_of, night, stored

ROWS = {"public.patients": 1000}
SMALL = "db: 499 B, expected at least 50 % of the last good one's 1.0 kB"


def limits(*, db: int = 50, rows: int = 50, attachments: int = 50) -> Suspect:
    return Suspect(
        db_shrink_percent=db,
        rows_shrink_percent=rows,
        attachments_shrink_percent=attachments,
    )


def earlier(  # noqa: PLR0913 - each has its default
    number: int = 1,
    *,
    size_bytes: int = 1000,
    rows: dict[str, int] | None = None,
    entries: int | None = None,
    suspicions: tuple[str, ...] = (),
    accepted: bool = False,
    problems: tuple[str, ...] = (),
    kinds: tuple[Kind, ...] = tuple(Kind),
) -> StoredSet:
    """Return a set of some night."""
    streams = {
        "db": {} if rows is None else {"rows": rows},
        "attachments": {} if entries is None else {"entries": entries},
    }
    return stored(
        name_of(night(number)),
        taken_at=night(number),
        kinds=kinds,
        size_bytes=size_bytes,
        manifest={"suspicions": suspicions, "streams": streams},
        accepted=accepted,
        problems=problems,
    )


def dump(size_bytes: int, rows: dict[str, int]) -> Part:
    return Part(stream=Stream.DB, manifest={"artefacts": [{"size_bytes": size_bytes}], "rows": rows})


def archive(size_bytes: int, entries: int, *, too_long_count: int = 0, links: tuple[str, ...] = ()) -> Part:
    manifest = {"artefacts": [{"size_bytes": size_bytes}], "entries": entries, "leading_out": links}
    return Part(
        stream=Stream.ATTACHMENTS, manifest=manifest, too_long_count=too_long_count, leading_out_count=len(links)
    )


def of_database(
    size_bytes: int, *sets: StoredSet, rows: dict[str, int] | None = None, limit: Suspect | None = None
) -> list[str]:
    good = latest.measure(sets, now=NOW)
    return list(suspicion.of_set([dump(size_bytes, ROWS if rows is None else rows)], good, limit or limits(), None))


def of_attachments(
    size_bytes: int, entries: int, *sets: StoredSet, rows_with_files: int = 0, limit: Suspect | None = None
) -> list[str]:
    beside = [dump(10**6, {"public.attachments": rows_with_files})] if rows_with_files else []
    parts = [archive(size_bytes, entries), *beside]
    return list(suspicion.of_set(parts, latest.measure(sets, now=NOW), limit or limits(), "attachments"))


def test_first_set_has_nothing_to_be_compared_with() -> None:
    assert (of_database(1), of_attachments(1, 2)) == ([], [])


def test_dump_without_any_table_is_suspect_although_it_is_the_first() -> None:
    assert of_database(1000, rows={}) == ["db: the dump has no table, expected the practice's tables"]


@pytest.mark.parametrize(
    ("percent", "least"), [(0, 1000), (1, 990), (10, 900), (50, 500), (90, 100), (99, 10), (100, 0)]
)
def test_stream_may_shrink_by_its_share_and_not_by_a_byte_more(percent: int, least: int) -> None:
    limit = limits(db=percent, attachments=percent)
    assert (of_database(least, earlier(), limit=limit), of_attachments(least, 9, earlier(), limit=limit)) == ([], [])
    if least:
        said = f"{least - 1} B, expected at least {100 - percent} % of the last good one's 1.0 kB"
        assert of_database(least - 1, earlier(), limit=limit) == [f"db: {said}"]
        assert of_attachments(least - 1, 9, earlier(), limit=limit) == [f"attachments: {said}"]


def test_stream_may_grow_as_it_likes() -> None:
    limit = limits(db=0, rows=0, attachments=0)
    before = earlier(rows=ROWS, entries=5)
    assert of_database(10**12, before, rows={"public.patients": 10**9}, limit=limit) == []
    assert of_attachments(10**12, 10**9, before, limit=limit) == []


def test_each_stream_has_its_own_share() -> None:
    limit = limits(db=100, attachments=0)
    assert (of_database(1, earlier(), limit=limit), len(of_attachments(999, 9, earlier(), limit=limit))) == ([], 1)


@pytest.mark.parametrize(
    "no_measure",
    [
        earlier(2, size_bytes=10, suspicions=("db: small",)),
        earlier(2, size_bytes=10, problems=("db: missing",)),
        earlier(2, size_bytes=10, kinds=(Kind.ATTACHMENTS,)),
        earlier(400, size_bytes=10),  # by a clock that was wrong
    ],
    ids=["suspect", "damaged", "without the stream", "dated in the future"],
)
def test_last_good_set_is_the_measure_behind_any_other(no_measure: StoredSet) -> None:
    assert of_database(499, earlier(), no_measure) == [SMALL]


def test_shrinking_stays_suspect_night_after_night() -> None:
    sets = [earlier()]
    for number in range(2, 30):
        assert of_database(499, *sets) == [SMALL]
        sets.append(earlier(number, size_bytes=499, suspicions=(SMALL,)))


def test_accepted_set_is_the_new_measure() -> None:
    accepted = earlier(2, size_bytes=100, suspicions=("db: small",), accepted=True)
    assert (of_database(50, earlier(), accepted), len(of_database(49, earlier(), accepted))) == ([], 1)


def test_newest_good_set_is_the_measure() -> None:
    assert of_database(60, earlier(1, size_bytes=1000), earlier(2, size_bytes=100)) == []


def test_set_of_an_older_script_is_a_measure_of_size() -> None:
    old = StoredSet(name="x", taken_at=night(1), artefacts=earlier().artefacts, manifest=None)
    assert of_database(499, old) == [SMALL]
    assert of_attachments(1000, 1, old) == []


@pytest.mark.parametrize(("percent", "least"), [(0, 1000), (50, 500), (99, 10), (100, 0)])
def test_table_may_lose_its_share_of_rows_and_not_one_more(percent: int, least: int) -> None:
    before, limit = earlier(rows=ROWS), limits(rows=percent)
    assert of_database(1000, before, rows={"public.patients": least}, limit=limit) == []
    if least:
        said = f"{least - 1} rows, expected at least {100 - percent} % of the last good dump's 1000"
        found = of_database(1000, before, rows={"public.patients": least - 1}, limit=limit)
        assert found == [f"db: public.patients has {said}"]


def test_table_that_has_gone_is_suspect() -> None:
    assert of_database(1000, earlier(rows={**ROWS, "public.notes": 100})) == [
        "db: public.notes has 0 rows, expected at least 50 % of the last good dump's 100"
    ]


def test_small_table_may_be_emptied() -> None:
    assert of_database(1000, earlier(rows={**ROWS, "public.sessions": 99}), rows={**ROWS, "public.sessions": 0}) == []


def test_rows_are_compared_with_the_last_good_dump_that_counted_them() -> None:
    few = {"public.patients": 1}
    sets = [
        earlier(1, rows=ROWS),
        earlier(2, rows=few, suspicions=("x",)),
        earlier(3, rows=few, problems=("x",)),
        earlier(4),
    ]
    assert len(of_database(1000, *sets, rows={"public.patients": 499})) == 1


def test_empty_archive_is_suspect_when_the_database_has_rows_with_files() -> None:
    assert of_attachments(100, 1, rows_with_files=42) == ["attachments: empty, expected files (42 rows with files)"]


@pytest.mark.parametrize(
    ("table", "suspect"), [("files", True), ("public.files", True), ("other.files", False), (None, False)]
)
def test_rows_with_files_are_those_of_the_table_that_is_configured(table: str | None, suspect: bool) -> None:
    parts = [dump(1000, {"public.files": 3}), archive(100, 1)]
    assert bool(list(suspicion.of_set(parts, [], limits(), table))) is suspect


def test_empty_archive_is_suspect_when_there_were_files_last_time() -> None:
    assert of_attachments(100, 1, earlier(entries=890)) == [
        "attachments: empty, expected files (890 entries last time)"
    ]


def test_archive_that_was_always_empty_is_fine() -> None:
    assert of_attachments(1000, 1, earlier(entries=1)) == []


def test_archive_with_one_file_is_not_empty() -> None:
    assert of_attachments(1000, 2, earlier(entries=2), rows_with_files=42) == []


def test_empty_archive_is_suspect_whatever_it_may_shrink_by() -> None:
    assert len(of_attachments(1000, 1, earlier(entries=890), limit=limits(attachments=100))) == 1


def test_entries_that_tar_cannot_put_back_are_suspect() -> None:
    assert list(suspicion.of_set([archive(1000, 9)], [], limits(), None)) == []
    assert list(suspicion.of_set([archive(1000, 9, too_long_count=2)], [], limits(), None)) == [
        "attachments: 2 entries have a path of over 4095 bytes, which tar cannot put back"
    ]


def test_files_last_time_are_those_of_the_last_good_set() -> None:
    sets = [earlier(1, entries=890), earlier(2, entries=1, suspicions=("x",)), earlier(3, entries=1, problems=("x",))]
    assert of_attachments(100, 1, *sets) == ["attachments: empty, expected files (890 entries last time)"]
    accepted = earlier(4, entries=1, suspicions=("x",), accepted=True)
    assert of_attachments(1000, 1, *sets, accepted) == []


@pytest.mark.parametrize(
    ("links", "rows", "entries", "directory", "suspect"),
    [
        (("attachments",), 20, 1000, "attachments", True),
        (("attachments",), 20, 1000, "attachments/p", True),
        (("attachments",), 0, 1000, "attachments", False),
        (("other",), 20, 1000, "attachments", False),
        (("attachments/q",), 20, 1000, "attachments", False),
        (("attachments/q",), 20, 22, "attachments", False),
        (("attachments/q",), 20, 21, "attachments", True),
        (("q",), 20, 2, ".", True),
        ((), 20, 2, ".", False),
    ],
)
def test_links_that_lead_out_make_a_set_suspect_where_rows_lack_their_files(
    links: tuple[str, ...], rows: int, entries: int, directory: str, *, suspect: bool
) -> None:
    parts = [dump(1000, {"public.attachments": rows}), archive(1000, entries, links=links)]
    found = list(suspicion.of_set(parts, [], limits(), "attachments", directory))
    told = f"attachments: links lead out of them (1), expected the files of {rows} rows in the archive"
    assert found == ([told] if suspect else [])
