"""What has to be so before a run writes anything, with the numbers that were seen and needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from dental_pms_backup.backup import preflight
from dental_pms_backup.errors import RefusedError, RoomError
from dental_pms_backup.store.sets import Kind, Stream
from tests.unit.builders import stored

ELSEWHERE = Path("/proc/self")  # on no machine on the root filesystem


@dataclass(frozen=True)
class Filesystem:
    """What statvfs says of a filesystem; blocks have 4096 bytes."""

    f_blocks: int = 2_000_000
    f_bavail: int = 1_000_000
    f_frsize: int = 4096
    f_bfree: int = 10**12  # root's share of it, too: what counts is what is available
    f_files: int = 1_000_000
    f_favail: int = 1_000_000


def refused(
    monkeypatch: pytest.MonkeyPatch, filesystem: Filesystem, needed: int = 0, reserve_mb: int = 0
) -> RoomError | None:
    monkeypatch.setattr(os, "statvfs", lambda _path: filesystem)
    try:
        preflight.check_room(Path("/store"), needed, reserve_mb)
    except RoomError as error:
        return error
    return None


def test_store_with_room_is_fine(tmp_path: Path) -> None:
    preflight.check_room(tmp_path, 1, 0)


def test_real_disk_has_no_room_for_everything(tmp_path: Path) -> None:
    with pytest.raises(
        RoomError, match=r" free, expected 1000000\.0 TB \(1000000\.0 TB for the set and 0 MB in reserve\)$"
    ):
        preflight.check_room(tmp_path, 10**18, 0)


@pytest.mark.parametrize(
    ("blocks", "needed", "reserve_mb", "fits"),
    [
        (1000, 4_096_000, 0, True),
        (1000, 4_096_001, 0, False),
        (1000, 96_000, 4, True),
        (1000, 96_001, 4, False),
        (0, 0, 0, True),
        (0, 0, 1, False),
    ],
)
def test_set_and_reserve_have_to_fit_to_the_byte(
    blocks: int, needed: int, reserve_mb: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (refused(monkeypatch, Filesystem(f_bavail=blocks), needed, reserve_mb) is None) is fits


def test_too_little_room_is_told_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, Filesystem(f_bavail=1000), 300_000_000, 500)
    assert error
    assert (error.message, error.hint, error.cause, error.exit_status) == (
        "/store: 4.1 MB free, expected 800.0 MB (300.0 MB for the set and 500 MB in reserve)",
        "df -h /store; dental-pms-backup prune --dry-run",
        "room",
        1,
    )


@pytest.mark.parametrize(
    ("total", "available", "fits"), [(100, 32, True), (100, 31, False), (100, 0, False), (0, 0, True)]
)
def test_full_inode_table_is_seen_where_there_is_one(
    total: int, available: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(monkeypatch, Filesystem(f_files=total, f_favail=available))
    told = (error.message, error.hint) if error else None
    assert told == (None if fits else (f"/store: {available} inodes free, expected at least 32", "df -i /store"))


def test_first_set_needs_half_of_the_database() -> None:
    assert preflight.needed_bytes(list(Stream), [], 1_000_001) == 500_000
    assert preflight.needed_bytes([Stream.ATTACHMENTS], [], 0) == 0


def test_next_set_needs_somewhat_more_than_the_last() -> None:
    assert preflight.needed_bytes(list(Stream), [stored(size_bytes=1000)], 10**12) == 4800
    assert preflight.needed_bytes([Stream.DB], [stored(kinds=[Kind.DB])], 10**12) == 1200


def test_each_stream_needs_what_its_own_last_set_had() -> None:
    sets = [stored(size_bytes=10**6), stored(kinds=[Kind.DB], size_bytes=1000)]
    assert preflight.needed_bytes(list(Stream), sets, 10**12) == 1_201_200
    assert preflight.needed_bytes([Stream.DB], sets, 10**12) == 1200
    assert preflight.needed_bytes([Stream.ATTACHMENTS], sets, 0) == 1_200_000


def test_store_that_needs_no_mount_may_be_anywhere() -> None:
    preflight.check_mount(Path("/store"), required=False)


@pytest.mark.parametrize("store", ["/", "/no/such/store"])
def test_store_on_the_root_filesystem_is_refused_where_a_mount_is_required(store: str) -> None:
    with pytest.raises(RoomError) as raised:
        preflight.check_mount(Path(store), required=True)
    assert (raised.value.message, raised.value.hint) == (
        f"{store}: on the root filesystem, expected a disk of its own (require_mount)",
        f"findmnt -T {store}",
    )


@pytest.mark.parametrize("store", [ELSEWHERE, ELSEWHERE / "no" / "such" / "store"])
def test_store_on_a_disk_of_its_own_is_fine_before_its_directories_exist(store: Path) -> None:
    preflight.check_mount(store, required=True)


def test_link_from_the_root_filesystem_to_a_disk_is_as_good_as_the_disk(tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(ELSEWHERE)
    preflight.check_mount(tmp_path / "store", required=True)


@pytest.mark.parametrize(
    ("place", "other"), [("a/db", "a"), ("a/sets", "a"), ("a/b/c", "a"), ("link/new", "a"), ("b", "b/db")]
)
def test_store_that_overlaps_with_another_is_refused(place: str, other: str, tmp_path: Path) -> None:
    for store in ("a", "b/db"):
        (tmp_path / store / "sets").mkdir(parents=True)
        (tmp_path / store / "ledger.jsonl").touch()
    (tmp_path / "link").symlink_to("a/db")
    with pytest.raises(RefusedError) as raised:
        preflight.check_place(tmp_path / place)
    assert raised.value.message == (
        f"{tmp_path}/{place}: overlaps with the store {tmp_path}/{other}, expected a directory of its own"
    )


def test_store_itself_and_a_directory_beside_it_overlap_with_none(tmp_path: Path) -> None:
    for path in ("a/sets", "a/db", "other/sets"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "a/ledger.jsonl").touch()
    (tmp_path / "loop").symlink_to("loop")
    for place in ("a", "b", "other/new", "a/db/../../c"):
        preflight.check_place(tmp_path / place)


def lies_apart(tmp_path: Path, attachments: str) -> bool:
    try:
        preflight.check_apart(tmp_path / "store", tmp_path / attachments)
    except RefusedError as error:
        told = f"attachments: {tmp_path / attachments} and the store {tmp_path}/store lie in each other, "
        return error.message != f"{told}expected two directories apart"
    return True


def test_store_and_attachments_may_not_lie_in_each_other(tmp_path: Path) -> None:
    for path in ("store/sets", "linked/db"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "store/db").symlink_to("../linked/db")
    together = ("store", ".", "store/db", "store/sets/x", "linked")
    assert [lies_apart(tmp_path, path) for path in together] == [False] * len(together)
    apart = ("store/attachments", "attachments", "store-2")
    assert [lies_apart(tmp_path, path) for path in apart] == [True] * len(apart)
