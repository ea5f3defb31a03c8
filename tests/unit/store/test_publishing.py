"""From drafts to a set and back to nothing: what is on disk after every step, also when the next one never came."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import resource
import stat
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dental_pms_backup.errors import RefusedError, StoreError
from dental_pms_backup.host import durable
from dental_pms_backup.store import marks, publishing, sets
from dental_pms_backup.store.marks import Mark
from dental_pms_backup.store.sets import Kind, Stream
from tests.unit.builders import NAME, NOW, content_of, drafted, files_below, name_of, published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OLD = "2026-11-22_023000"
STEPS = ((Path, "replace"), (Path, "unlink"), (os, "fsync"))


class PowerCutError(BaseException):
    """The machine stops here; no handler of ours runs."""


@contextlib.contextmanager
def failing(at: int, error: BaseException, steps: tuple[tuple[Any, str], ...] = STEPS) -> Iterator[None]:
    """Raise instead of taking the n-th step that changes the disk."""
    count = itertools.count(1)

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            if next(count) == at:
                raise error
            return original(*arguments, **options)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in steps:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield


def cut_off(at: int, work: Callable[[], object]) -> bool:
    """Cut the power at a step of some work; return whether it came that far."""
    try:
        with failing(at, PowerCutError()):
            work()
    except PowerCutError:
        return True
    return False


def drafts(store: Path) -> list[str]:
    return sorted(path.name for path in store.rglob("*.draft"))


def states(store: Path) -> dict[str, str]:
    return {stored.name: stored.state for stored in sets.listing(store)}


def checked(store: Path, name: str = NAME) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sha256sum", "-c", f"sets/{name}.sha256"], cwd=store, capture_output=True, text=True, check=False
    )


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_store_is_made_for_nobody_else(tmp_path: Path) -> None:
    store = tmp_path / "a" / "store"
    publishing.prepare(store)
    assert [mode_of(path) for path in (store, store / "db", store / "sets")] == [0o700, 0o700, 0o700]


def test_store_that_others_can_read_is_closed(tmp_path: Path) -> None:
    published(tmp_path / "store")
    for path in (tmp_path / "store", tmp_path / "store" / "db"):
        path.chmod(0o755)
    publishing.prepare(tmp_path / "store")
    assert [mode_of(path) for path in (tmp_path / "store", tmp_path / "store" / "db")] == [0o700, 0o700]


def test_directory_that_holds_anything_else_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "somebody's").touch()
    publishing.prepare(tmp_path)
    assert (mode_of(tmp_path), mode_of(tmp_path / "db")) == (0o755, 0o700)


def test_file_where_the_store_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(StoreError) as raised:
        publishing.prepare(tmp_path / "store")
    assert (raised.value.message, raised.value.hint) == (
        f"{tmp_path}/store: cannot be made: File exists, expected a store to write to",
        f"df -h {tmp_path}",
    )


def test_draft_is_hidden_beside_its_artefact_and_for_nobody_else(tmp_path: Path) -> None:
    publishing.prepare(tmp_path)
    with publishing.draft(tmp_path, Kind.DB, NAME) as draft:
        assert (draft.path, mode_of(draft.path)) == (tmp_path / "db" / f".db_{NAME}.sql.gz.draft", 0o600)
    assert sets.listing(tmp_path) == []


def test_draft_never_overwrites_another(tmp_path: Path) -> None:
    drafted(tmp_path)
    with pytest.raises(StoreError) as raised, publishing.draft(tmp_path, Kind.DB, NAME):
        pass
    assert raised.value.message == (
        f"{tmp_path}/db/.db_{NAME}.sql.gz.draft: cannot be written: File exists, expected a store to write to"
    )


def test_draft_never_follows_a_link(tmp_path: Path) -> None:
    publishing.prepare(tmp_path)
    (tmp_path / "db" / f".db_{NAME}.sql.gz.draft").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError), publishing.draft(tmp_path, Kind.DB, NAME):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_settled_draft_has_its_size(tmp_path: Path) -> None:
    publishing.prepare(tmp_path)
    with publishing.draft(tmp_path, Kind.DB, NAME) as draft:
        os.write(draft.descriptor, b"12345")
        assert publishing.settle(draft) == 5


def test_draft_that_the_disk_refuses_is_not_settled(tmp_path: Path) -> None:
    publishing.prepare(tmp_path)
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    with (
        publishing.draft(tmp_path, Kind.DB, NAME) as draft,
        failing(1, error),
        pytest.raises(StoreError, match="cannot be made durable: Input/output error"),
    ):
        publishing.settle(draft)


def test_published_set_is_listed_and_verified_by_sha256sum(tmp_path: Path) -> None:
    published(tmp_path)
    assert states(tmp_path) == {NAME: "verified"}
    result = checked(tmp_path)
    assert (result.returncode, result.stderr, result.stdout) == (
        0,
        "",
        f"db/db_{NAME}.sql.gz: OK\ndb/globals_{NAME}.sql.gz: OK\n"
        f"db/settings_{NAME}.sql.gz: OK\nattachments_{NAME}.tgz: OK\n",
    )


def test_sha256sum_sees_one_changed_byte(tmp_path: Path) -> None:
    published(tmp_path)
    path = tmp_path / Kind.DB.path(NAME)
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert checked(tmp_path).returncode == 1


def test_published_files_are_for_nobody_else_and_no_draft_is_left(tmp_path: Path) -> None:
    published(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path)): mode_of(path) for path in files} == dict.fromkeys(
        [
            f"db/db_{NAME}.sql.gz",
            f"db/globals_{NAME}.sql.gz",
            f"db/settings_{NAME}.sql.gz",
            f"attachments_{NAME}.tgz",
            f"sets/{NAME}.json",
            f"sets/{NAME}.sha256",
        ],
        0o600,
    )


def test_manifest_is_what_was_given(tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    publishing.publish(tmp_path, NAME, manifest)
    assert json.loads((tmp_path / "sets" / f"{NAME}.json").read_text()) == manifest


def test_content_is_durable_before_it_gets_its_name_and_the_manifest_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    rename = Path.replace

    def synced(descriptor: int) -> None:
        steps.append(f"sync {os.path.relpath(Path(f'/proc/self/fd/{descriptor}').readlink(), tmp_path)}")

    def renamed(source: Path, target: Path) -> Path:
        steps.append(f"name {target.relative_to(tmp_path)}")
        return rename(source, target)

    publishing.prepare(tmp_path)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    published(tmp_path)
    assert steps == [
        f"sync db/.db_{NAME}.sql.gz.draft",
        f"sync db/.globals_{NAME}.sql.gz.draft",
        f"sync db/.settings_{NAME}.sql.gz.draft",
        f"sync .attachments_{NAME}.tgz.draft",
        f"sync sets/.{NAME}.sha256.draft",
        f"sync sets/.{NAME}.json.draft",
        "sync db",
        "sync .",
        "sync sets",
        f"name db/db_{NAME}.sql.gz",
        f"name db/globals_{NAME}.sql.gz",
        f"name db/settings_{NAME}.sql.gz",
        f"name attachments_{NAME}.tgz",
        f"name sets/{NAME}.sha256",
        "sync db",
        "sync .",
        "sync sets",
        f"name sets/{NAME}.json",
        "sync sets",
    ]


@pytest.mark.parametrize("taken", [f"db/db_{NAME}.sql.gz", f"attachments_{NAME}.tgz", f"sets/{NAME}.json"])
def test_file_that_has_the_name_already_is_never_overwritten(taken: str, tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    (tmp_path / taken).write_text("somebody's")
    with pytest.raises(RefusedError) as raised:
        publishing.publish(tmp_path, NAME, manifest)
    assert raised.value.message == f"{tmp_path}/{taken}: exists already, expected a free name"
    assert (tmp_path / taken).read_text() == "somebody's"


@pytest.mark.parametrize("path", [*(kind.path(NAME) for kind in Kind), f"sets/{NAME}.json", f"sets/{NAME}.sha256"])
def test_name_of_any_file_in_the_store_is_not_given_again(path: str, tmp_path: Path) -> None:
    publishing.prepare(tmp_path)
    assert publishing.new_name(tmp_path, NOW) == NAME
    (tmp_path / path).symlink_to("nowhere")
    assert publishing.new_name(tmp_path, NOW) == name_of(NOW + timedelta(seconds=1))


def test_publication_cut_off_anywhere_is_all_or_nothing_after_recovery(tmp_path: Path) -> None:
    outcomes = []
    for at in itertools.count(1):
        store = tmp_path / str(at)
        published(store, OLD, taken_at=NOW - timedelta(days=1))
        before = files_below(store)
        manifest = drafted(store)
        if not cut_off(at, lambda: publishing.publish(store, NAME, manifest)):  # noqa: B023 - called at once
            break
        assert states(store)[OLD] == "verified"
        publishing.recover(store)
        outcomes.append(NAME in states(store))
        assert drafts(store) == []
        assert states(store) == {OLD: "verified"} | ({NAME: "verified"} if outcomes[-1] else {})
        assert {path: files_below(store)[path] for path in before} == before
        if outcomes[-1]:
            assert checked(store).returncode == 0
        else:
            assert files_below(store) == before
        assert publishing.recover(store) == []
    assert outcomes == sorted(outcomes)
    assert (outcomes.count(False) > 4, outcomes.count(True) > 4) == (True, True)


def test_recovery_tells_what_it_did(tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    with pytest.raises(PowerCutError), failing(2, PowerCutError(), ((Path, "replace"),)):
        publishing.publish(tmp_path, NAME, manifest)
    assert publishing.recover(tmp_path) == [f"set {NAME}: its publication, cut off after the proof, was finished"]
    drafted(tmp_path, OLD)
    counting = tmp_path / f"{publishing.COUNTING}x"
    counting.mkdir()
    (counting / "rows").write_text("in/a.jpg\t1\n")
    assert publishing.recover(tmp_path) == ["5 unfinished files of an earlier run were removed"]
    assert not counting.exists()


def test_recovery_cut_off_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    for at in itertools.count(1):
        store = tmp_path / str(at)
        manifest = drafted(store)
        drafted(store, OLD)
        with pytest.raises(PowerCutError), failing(2, PowerCutError(), ((Path, "replace"),)):
            publishing.publish(store, NAME, manifest)
        came_that_far = cut_off(at, lambda: publishing.recover(store))  # noqa: B023 - called at once
        publishing.recover(store)
        assert (states(store), drafts(store)) == ({NAME: "verified"}, [])
        if not came_that_far:
            break


def test_recovery_publishes_nothing_that_lacks_a_file(tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    with pytest.raises(PowerCutError), failing(2, PowerCutError(), ((Path, "replace"),)):
        publishing.publish(tmp_path, NAME, manifest)
    (tmp_path / f".attachments_{NAME}.tgz.draft").unlink()
    publishing.recover(tmp_path)
    assert (sets.manifest_path(tmp_path, NAME).exists(), drafts(tmp_path)) == (False, [])


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00"])
def test_recovery_believes_no_garbage(content: bytes, tmp_path: Path) -> None:
    drafted(tmp_path)
    (tmp_path / "sets" / f".{NAME}.json.draft").write_bytes(content)
    publishing.recover(tmp_path)
    assert files_below(tmp_path) == {}


def test_disk_that_refuses_before_the_first_rename_leaves_only_drafts(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    syncs = [(at, ((os, "fsync"),)) for at in range(1, 6)]
    for number, (at, steps) in enumerate([*syncs, (1, ((Path, "replace"),))]):
        store = tmp_path / str(number)
        manifest = drafted(store)
        said = "No space left on device, expected a store to write to"
        with failing(at, error, steps), pytest.raises(StoreError, match=said):
            publishing.publish(store, NAME, manifest)
        assert states(store) == {}
        publishing.discard(store, NAME)
        assert files_below(store) == {}


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_publication_that_the_disk_refuses_half_way_leaves_no_artefact(at: int, tmp_path: Path) -> None:
    published(tmp_path, OLD)
    before = files_below(tmp_path)
    manifest = drafted(tmp_path)
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    with failing(at, error, ((Path, "replace"),)), pytest.raises(StoreError, match="cannot get its name: Input/output"):
        publishing.publish(tmp_path, NAME, manifest)
    publishing.discard(tmp_path, NAME)
    assert files_below(tmp_path) == before


def test_publication_that_is_not_durable_at_its_very_end_is_taken_back(tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    with failing(9, error, ((os, "fsync"),)), pytest.raises(StoreError, match="sets: cannot be made durable"):
        publishing.publish(tmp_path, NAME, manifest)
    assert (states(tmp_path), len(drafts(tmp_path))) == ({}, 6)


@pytest.mark.parametrize("at", range(5, 19))
def test_disk_that_does_not_say_what_is_there_publishes_nothing(at: int, tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    with failing(at, error, ((Path, "lstat"),)), contextlib.suppress(StoreError):
        publishing.publish(tmp_path, NAME, manifest)
        assert at > 4 + 2 * 6, "every look counts"
        return
    assert (states(tmp_path), len(drafts(tmp_path))) == ({}, 6)


def test_store_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path) -> None:
    published(tmp_path)
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    for look in (publishing.recover, lambda store: publishing.discard(store, NAME), sets.listing):
        with (
            failing(3, error, ((os, "listdir"), (os, "scandir"))),
            pytest.raises(StoreError, match="cannot be read: In"),
        ):
            look(tmp_path)


@pytest.mark.parametrize(("mode", "kept"), [(0o600, False), (0o640, True), (0o777, True)])
def test_filesystem_that_keeps_no_modes_is_seen_by_the_lock(mode: int, kept: bool, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".lock").chmod(mode)
    assert publishing.keeps_no_modes(tmp_path) is kept


def test_publication_that_meets_a_strangers_file_takes_its_own_names_back(tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    (tmp_path / f"attachments_{NAME}.tgz").write_text("somebody's")
    with pytest.raises(RefusedError):
        publishing.publish(tmp_path, NAME, manifest)
    publishing.discard(tmp_path, NAME)
    assert files_below(tmp_path) == {f"attachments_{NAME}.tgz": b"somebody's"}


def test_publication_that_lacks_a_draft_publishes_nothing(tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    (tmp_path / f".attachments_{NAME}.tgz.draft").unlink()
    with pytest.raises(StoreError) as raised:
        publishing.publish(tmp_path, NAME, manifest)
    assert raised.value.message == (
        f"{tmp_path}/attachments_{NAME}.tgz: its draft has gone, expected every file of the set"
    )
    assert sets.listing(tmp_path) == []


def test_removal_takes_the_marks_of_a_set_with_it(tmp_path: Path) -> None:
    published(tmp_path, streams=[Stream.DB])
    for mark in Mark:
        marks.put(tmp_path, NAME, mark, now=NOW)
    publishing.remove(tmp_path, sets.find(tmp_path, NAME), Stream.DB)
    assert files_below(tmp_path) == {}


def test_manifest_that_does_not_fit_on_the_disk_publishes_nothing(tmp_path: Path) -> None:
    manifest = drafted(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreError, match="cannot be written: File too large"):
            publishing.publish(tmp_path, NAME, manifest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    publishing.discard(tmp_path, NAME)
    assert files_below(tmp_path) == {}


def test_discarding_touches_the_drafts_of_one_run_only(tmp_path: Path) -> None:
    published(tmp_path, OLD)
    before = files_below(tmp_path)
    drafted(tmp_path, "2026-11-23_000000")
    drafted(tmp_path)
    publishing.discard(tmp_path, NAME)
    publishing.discard(tmp_path, "2026-11-23_000000")
    assert files_below(tmp_path) == before


def test_removing_one_stream_leaves_the_other_a_whole_set(tmp_path: Path) -> None:
    stored = published(tmp_path)
    removed = publishing.remove(tmp_path, stored, Stream.DB)
    assert removed == [f"db/db_{NAME}.sql.gz", f"db/globals_{NAME}.sql.gz", f"db/settings_{NAME}.sql.gz"]
    assert sorted(files_below(tmp_path)) == [f"attachments_{NAME}.tgz", f"sets/{NAME}.json", f"sets/{NAME}.sha256"]
    assert states(tmp_path) == {NAME: "verified"}
    assert checked(tmp_path).stdout == f"attachments_{NAME}.tgz: OK\n"


def test_removing_the_other_stream_as_well_leaves_nothing(tmp_path: Path) -> None:
    publishing.remove(tmp_path, published(tmp_path), Stream.ATTACHMENTS)
    publishing.remove(tmp_path, sets.find(tmp_path, NAME), Stream.DB)
    assert files_below(tmp_path) == {}


def test_removing_touches_no_other_set(tmp_path: Path) -> None:
    published(tmp_path, OLD)
    before = files_below(tmp_path)
    stored = published(tmp_path)
    for stream in Stream:
        publishing.remove(tmp_path, stored if stream is Stream.DB else sets.find(tmp_path, NAME), stream)
    assert files_below(tmp_path) == before


def test_files_of_an_older_script_are_removed_without_a_manifest(tmp_path: Path) -> None:
    publishing.prepare(tmp_path)
    for kind in (Kind.DB, Kind.ATTACHMENTS):
        (tmp_path / kind.path(OLD)).write_bytes(content_of(kind))
    removed = publishing.remove(tmp_path, sets.find(tmp_path, OLD), Stream.DB)
    assert (removed, list(files_below(tmp_path))) == ([f"db/db_{OLD}.sql.gz"], [f"attachments_{OLD}.tgz"])


@pytest.mark.parametrize("stream", Stream)
def test_removal_cut_off_anywhere_never_leaves_a_damaged_set_and_can_be_repeated(
    stream: Stream, tmp_path: Path
) -> None:
    for at in itertools.count(1):
        store = tmp_path / str(at)
        stored = published(store)
        came_that_far = cut_off(at, lambda: publishing.remove(store, stored, stream))  # noqa: B023 - called at once
        assert states(store) == {NAME: "verified"}
        publishing.recover(store)
        assert (states(store), drafts(store)) == ({NAME: "verified"}, [])
        assert checked(store).returncode == 0
        found = sets.find(store, NAME)
        if found.size_bytes(stream) is not None:
            publishing.remove(store, found, stream)
        (left,) = sets.listing(store)
        assert (left.state, {each.stream for each in left.artefacts}) == ("verified", set(Stream) - {stream})
        assert checked(store).returncode == 0
        if not came_that_far:
            break
    assert at > 5


def test_recovery_lets_checksums_forget_a_stream_that_the_manifest_has_forgotten(tmp_path: Path) -> None:
    stored = published(tmp_path)
    sums = tmp_path / f"sets/{NAME}.sha256"
    whole = sums.read_text()
    publishing.remove(tmp_path, stored, Stream.DB)
    trimmed = sums.read_text()
    sums.write_text(whole)
    assert publishing.recover(tmp_path) == [f"set {NAME}: its checksums forgot the stream that was removed"]
    assert (sums.read_text(), publishing.recover(tmp_path)) == (trimmed, [])


@pytest.mark.parametrize("trimmed", [True, False])
def test_recovery_writes_no_checksums_that_are_wrong_for_another_reason(trimmed: bool, tmp_path: Path) -> None:
    stored = published(tmp_path)
    if trimmed:
        publishing.remove(tmp_path, stored, Stream.DB)
    sums = tmp_path / f"sets/{NAME}.sha256"
    for content in ("", sums.read_text().replace("a", "b"), sums.read_text() + "more\n" * (not trimmed)):
        sums.write_text(content)
        assert publishing.recover(tmp_path) == []
        assert sums.read_text() == content
    sums.unlink()
    assert publishing.recover(tmp_path) == []


def test_every_directory_on_the_way_to_a_new_store_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    publishing.prepare(tmp_path / "a/b/store")
    store = tmp_path / "a/b/store"
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a/b", store, store]


@pytest.mark.parametrize("stream", Stream)
def test_removal_of_all_that_is_left_cut_off_anywhere_is_no_lasting_damage(stream: Stream, tmp_path: Path) -> None:
    for at in itertools.count(1):
        store = tmp_path / str(at)
        stored = published(store, streams=[stream])
        came_that_far = cut_off(at, lambda: publishing.remove(store, stored, stream))  # noqa: B023 - called at once
        assert "damaged" not in states(store).values()
        publishing.recover(store)
        for left in sets.listing(store):
            publishing.remove(store, left, stream)
        assert [path for path in files_below(store) if not path.endswith(".sha256")] == []
        if not came_that_far:
            break


def test_small_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "last-run.json"
    durable.write(path, b"old")
    for at in itertools.count(1):
        came_that_far = cut_off(at, lambda: durable.write(path, b"new"))
        assert (path.read_bytes() in (b"old", b"new"), mode_of(path)) == (True, 0o600)
        if not came_that_far:
            break
    assert (path.read_bytes(), drafts(tmp_path)) == (b"new", [])


def test_fetched_set_is_durable_before_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "store" / ".fetching-x"
    stored = published(place)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    manifest = json.loads(sets.manifest_path(place, NAME).read_text())
    publishing.adopt(tmp_path / "store", place, stored, manifest)
    assert [path for path in synced if path.is_relative_to(place)] == [place / each.path for each in stored.artefacts]
    assert states(tmp_path / "store") == {NAME: "verified"}
    assert checked(tmp_path / "store").returncode == 0
