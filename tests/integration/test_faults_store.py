"""A run that meets a fault of the store publishes nothing or a good set, and takes no earlier one along."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dental_pms_backup.store import sets
from tests import faults
from tests.integration.faults import (
    FAILED,
    OK,
    WITHOUT_READ_OVERRIDE,
    events,
    fails,
    listening,
    recovers,
    succeeds,
)
from tests.integration.filesystems import made, mounted
from tests.integration.support import PATH, Site, mounted_tmpfs, on_disk, resize

PAGE_BYTES = 4096
ROOMY_BYTES = 64 << 20
NOBODY = 12345
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS")


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the store's own that is roomy until the first compressor starts."""

    site: Site

    def filled_up_to(self, free_bytes: int, compressor: str) -> str:
        """Return a PATH whose compressor first makes the disk so small that, of what is free now, this is left."""
        used = os.statvfs(self.site.store)
        size_bytes = (used.f_blocks - used.f_bfree) * used.f_bsize + free_bytes
        remount = f"mount -o remount,size={size_bytes} {self.site.store}"
        return self.site.fake_compressor("igzip", f"{remount} && exec {shutil.which(compressor, path=PATH)} -c")

    def widen(self) -> None:
        resize(self.site.store, ROOMY_BYTES)


@pytest.fixture
def disk(site: Site) -> Iterator[Disk]:
    """The store on a disk of its own."""
    aside = moved_aside(site)
    with mounted_tmpfs(site.store, ROOMY_BYTES):
        shutil.copytree(aside, site.store, copy_function=shutil.copy2, dirs_exist_ok=True)
        yield Disk(site)


@contextlib.contextmanager
def store_on(kind: str, site: Site, size_bytes: int, *words: str) -> Iterator[Path]:
    """The store on a new filesystem while the block lasts; what it yields is the file that it is in."""
    aside = moved_aside(site)
    image = made(kind, site.place / "image", size_bytes, *words)
    with mounted(kind, image, site.store):
        shutil.copytree(aside, site.store, copy_function=shutil.copy2, dirs_exist_ok=True)
        yield image


def moved_aside(site: Site) -> Path:
    """Move the store away, let the next one be small, and return where it is."""
    site.configure({"reserve_mb": 0})
    return site.store.rename(site.place / "aside")


def pages(site: Site, beginning: str) -> int:
    """Return how many bytes the files of the newest set with such names take on disk."""
    name = site.sets()[-1]
    sizes = [facts[2] for path, facts in site.set_files().items() if path.startswith(beginning) and name in path]
    return sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes)


def at_the_first_compressor(site: Site, command: str) -> str:
    """Return a PATH whose compressor runs a command before its work, the first time."""
    met = site.place / "met"
    return site.fake_compressor("igzip", f'[ -e {met} ] || {{ touch {met}; {command}; }}\nexec "$real" "$@"')


def says_the_truth(site: Site, *words: str, wrapper: Sequence[str] = (), **variables: str) -> int:
    """Run, expecting that it fails and all is as it was, or that it succeeds and its set is good; the exit status."""
    before = site.set_files()
    names = site.sets()
    with listening(site) as journal:
        done = site.run("run", *words, wrapper=[*journal.wrapper, *wrapper], **variables)
        told = [event for event in events(journal.close()) if event in {"run-failed", "run-succeeded"}]
    if done.returncode:
        assert (done.returncode, done.stdout) == (1, FAILED.format("store")), done.stderr
        assert site.set_files() == before
        faults.saw(status=1, cause="store", store=faults.AS_BEFORE, events=told)
    else:
        assert done.stdout.splitlines()[-1] == OK
        (name,) = set(site.sets()) - set(names)
        assert {path: facts for path, facts in site.set_files().items() if name not in path} == before
        subprocess.run(["sha256sum", "--check", "--quiet", f"sets/{name}.sha256"], cwd=site.store, check=True)
        faults.saw(status=0, store=faults.A_NEW_SET, events=told)
    assert "Traceback" not in done.stderr
    return done.returncode


@pytest.mark.sample(2)
@pytest.mark.fault("Store", "the disk is full at the first byte of a set, on")
@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_run_publishes_nothing_when_the_disk_is_full_at_the_first_byte(site: Site, kind: str) -> None:
    with store_on(kind, site, 128 << 20):
        ballast = site.store / "ballast"
        done = fails(
            site, cause="store", PATH=at_the_first_compressor(site, f"cat /dev/zero >{ballast}; sync -f {ballast}")
        )
        assert "expected room in the store" in done.stderr
        assert "last run: ok" not in site.run("status").stdout
        ballast.unlink()
        recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Store", "the disk is full in the middle of the database, with the compressor")
@pytest.mark.parametrize("compressor", ["igzip", "pigz", "gzip"])
def test_a_run_publishes_nothing_when_the_disk_is_full_in_the_database(site: Site, disk: Disk, compressor: str) -> None:
    path = disk.filled_up_to(pages(site, "db/") // 2, compressor)
    done = fails(site, cause="store", PATH=path)
    assert "expected room in the store" in done.stderr
    disk.widen()
    recovers(site)


@pytest.mark.sample(2)
@pytest.mark.fault("Store", "the disk is full in the middle of the attachments, with the compressor")
@pytest.mark.parametrize("compressor", ["igzip", "gzip"])
def test_a_run_publishes_nothing_when_the_disk_is_full_in_the_attachments(
    site: Site, disk: Disk, compressor: str
) -> None:
    path = disk.filled_up_to(pages(site, "db/") + pages(site, "attachments_") // 2, compressor)
    fails(site, cause="store", PATH=path)
    disk.widen()
    recovers(site)


@pytest.mark.sample(2)
@pytest.mark.fault(
    "Store", "the disk is full at each page in turn, from the last of the streams to the ledger, in a run of"
)
@pytest.mark.parametrize("words", [(), ("db",)], ids=["both", "the database"])
def test_a_run_says_the_truth_wherever_the_disk_gets_full_between_the_streams_and_the_manifest(
    site: Site, disk: Disk, words: tuple[str, ...]
) -> None:
    site.takes(*words, PATH=site.fake_compressor("igzip", "exec gzip -c"))
    taken = pages(site, "db/") + pages(site, "attachments_")
    outcomes = set()
    for more in range(-1, 6):
        before = set(site.set_files())
        outcomes.add(says_the_truth(site, *words, PATH=disk.filled_up_to(taken + more * PAGE_BYTES, "gzip")))
        disk.widen()
        for path in set(site.set_files()) - before:
            (site.store / path).unlink()
    assert outcomes == {0, 1}
    recovers(site)


@pytest.mark.fault("Store", "there is no room for a set")
@pytest.mark.usefixtures("disk")
def test_a_run_touches_nothing_when_there_is_no_room_for_it(site: Site) -> None:
    site.configure({"reserve_mb": 100})
    done = fails(site, cause="room")
    assert re.search(
        r": 6\d\.\d MB free, expected 100\.\d MB \(\d+\.\d kB for the set and 100 MB in reserve\)", done.stderr
    )
    site.configure({"reserve_mb": 0})
    recovers(site)


@pytest.mark.fault("Store", "the disk is full to its last byte before the run")
def test_a_run_tells_what_it_needs_when_the_disk_is_full_before_it(site: Site, disk: Disk) -> None:
    ballast = site.store / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(PAGE_BYTES))
    done = fails(site, cause="room")
    assert re.search(r": \d+\.\d kB free, expected (\d+\.\d kB) \(\1 for the set and 0 MB in reserve\)", done.stderr)
    assert "last run: ok" not in site.run("status").stdout
    ballast.unlink()
    disk.widen()
    recovers(site)


@pytest.mark.fault("Store", "the filesystem has hardly an inode left, before the run")
def test_a_run_touches_nothing_when_there_are_too_few_inodes(site: Site) -> None:
    with store_on("ext4", site, 16 << 20, "-N", "96"):
        crowd = crowded(site.store, inodes_left=20)
        done = fails(site, cause="room")
        assert f"{site.store}: 20 inodes free, expected at least 32\nhint: df -i {site.store}\n" in done.stderr
        shutil.rmtree(crowd)
        recovers(site)


@pytest.mark.fault("Store", "the filesystem has no inode left, in the middle of the database")
def test_a_run_publishes_nothing_when_the_inodes_run_out_under_it(site: Site) -> None:
    with store_on("ext4", site, 16 << 20, "-N", "96"):
        crowd = crowded(site.store, inodes_left=40)
        fill = f"i=0; while touch {crowd}/more-$i; do i=$((i + 1)); done"
        done = fails(site, cause="store", PATH=at_the_first_compressor(site, fill))
        assert "sql.gz.draft: cannot be written: No space left on device, expected a store to write to" in done.stderr
        shutil.rmtree(crowd)
        recovers(site)


def crowded(store: Path, *, inodes_left: int) -> Path:
    """Make files in a directory until that many inodes are left, and return it."""
    crowd = store / "crowd"
    crowd.mkdir()
    for number in range(os.statvfs(store).f_favail - inodes_left):
        (crowd / f"{number}").touch()
    return crowd


@pytest.mark.fault("Store", "the quota is used up in the middle of the database")
def test_a_run_publishes_nothing_when_the_quota_is_used_up(site: Site) -> None:
    with store_on("btrfs", site, 128 << 20):
        subprocess.run(["btrfs", "quota", "enable", site.store], check=True)
        room = f"$(($(btrfs qgroup show --raw {site.store} | sed -n 's,^0/5 *\\([0-9]*\\).*,\\1,p') + 32768))"
        path = at_the_first_compressor(site, f"sync -f {site.store}; btrfs qgroup limit {room} {site.store}")
        done = fails(site, cause="store", PATH=path)
        assert "expected room in the store" in done.stderr
        subprocess.run(["btrfs", "qgroup", "limit", "none", site.store], check=True)
        recovers(site)


@pytest.mark.fault("Store", "the disk below the store's disk is full, in the middle of the database")
def test_a_run_publishes_nothing_when_only_its_flush_tells_that_the_disk_is_full(site: Site) -> None:
    aside = moved_aside(site)
    below = site.place / "below"
    with mounted_tmpfs(below, ROOMY_BYTES):
        image = made("ext4", below / "image", 48 << 20)
        with mounted("ext4", image, site.store):
            shutil.copytree(aside, site.store, copy_function=shutil.copy2, dirs_exist_ok=True)
            used = f"$(df --block-size=1 --output=used {below} | tail -n 1)"
            full = f"sync -f {site.store}; mount -o remount,size={used} {below}"
            done = fails(site, cause="store", PATH=at_the_first_compressor(site, full))
            assert ".sql.gz.draft: cannot be made durable: No space left on device" in done.stderr
        resize(below, ROOMY_BYTES)
        subprocess.run(["e2fsck", "-fy", image], capture_output=True, check=False)
        with mounted("ext4", image, site.store):
            recovers(site)


CALLS = {
    "an fsync": ("fsync",),
    "a rename": ("rename",),
    "a removal": ("unlink",),
    "a write": ("write",),
    "the lock or the look for room": ("flock", "statfs"),
    "an opening of a file or directory": ("openat",),
}


@pytest.mark.sample(6)
@pytest.mark.fault("Store", "the disk refuses one call, each in turn and with another error")
@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS)
def test_a_run_says_the_truth_whichever_call_the_disk_refuses(site: Site, calls: tuple[str, ...]) -> None:
    first = site.store.rename(site.place / "first")
    outcomes = set()
    for number, (call, nth) in enumerate(calls_on(site, first, calls, "run", "attachments")):
        put_back(site, first)
        trace = site.place / "trace"
        refusal = f"--inject={call}:error={ERRORS[number % len(ERRORS)]}:when={nth}"
        status = says_the_truth(site, "attachments", wrapper=traced(trace, [call], refusal))
        outcomes.add(status)
        assert_refused(trace, site.store)
        if status:
            assert (site.run("run", "attachments").returncode, site.drafts()) == (0, [])
    assert outcomes == ({1} if "flock" in calls else {0} if "unlink" in calls else {0, 1})
    recovers(site)


@pytest.mark.sweep
@pytest.mark.fault("Store", "the disk refuses one call, each in turn, while old sets are removed")
def test_a_removal_leaves_no_set_half_wherever_the_disk_refuses_it(site: Site) -> None:
    newest = site.takes()
    first = site.store.rename(site.place / "first")
    calls = calls_on(site, first, ["fsync", "rename", "unlink"], "prune", BACKUP_KEEP="1")
    for number, (call, nth) in enumerate(calls):
        put_back(site, first)
        trace = site.place / "trace"
        refusal = f"--inject={call}:error={ERRORS[number % len(ERRORS)]}:when={nth}"
        with listening(site) as journal:
            wrapper = [*journal.wrapper, *traced(trace, [call], refusal)]
            done = site.run("prune", wrapper=wrapper, BACKUP_KEEP="1")
            told = [event for event in events(journal.close()) if event == "command-failed"]
        assert_refused(trace, site.store)
        assert (done.returncode, done.stdout) == (1, "")
        states = {stored.name: stored.state for stored in sets.listing(site.store)}
        assert states.pop(newest) == "verified"
        assert set(states.values()) <= {"verified", "unproven"}
        faults.saw(status=1, store="the newest set as it was, no older one damaged", events=told)
        assert site.run("prune", BACKUP_KEEP="1").returncode == 0
        assert {path for path in site.set_files() if newest not in path} == set()
    assert site.run("verify").stdout == f"{newest}: good\n"
    recovers(site)


def calls_on(site: Site, first: Path, calls: Sequence[str], *words: str, **variables: str) -> list[tuple[str, int]]:
    """Return which of a command's own calls of some kinds are about the store, each with its number of its kind."""
    put_back(site, first)
    trace = site.place / "trace"
    done = site.run(*words, wrapper=traced(trace, calls), **variables)
    assert done.returncode == 0, done.stderr
    counts = dict.fromkeys(calls, 0)
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        call = line.partition("(")[0]
        if call in counts:
            counts[call] += 1
            found += [(call, counts[call])] if str(site.store) in line else []
    assert {call for call, _ in found} == set(calls)
    return found


def traced(trace: Path, calls: Sequence[str], *options: str) -> list[str]:
    """Return what a command is run by so that its own calls are written down, without those of its programs."""
    return ["strace", f"--output={trace}", "--decode-fds=path", "-qq", f"--trace={','.join(calls)}", *options]


def assert_refused(trace: Path, store: Path) -> None:
    (refused,) = [line for line in trace.read_text(errors="replace").splitlines() if line.endswith("(INJECTED)")]
    assert str(store) in refused.replace('>, "', "/")  # a name in a directory that is held open


def put_back(site: Site, first: Path) -> None:
    shutil.rmtree(site.store, ignore_errors=True)
    shutil.copytree(first, site.store, copy_function=shutil.copy2)


@pytest.mark.fault("Store", "a record cannot be written, only a set can")
@pytest.mark.parametrize("record", ["ledger.jsonl", "last-run.json"], ids=["the ledger", "the report"])
def test_a_record_that_cannot_be_written_does_not_cost_the_set(site: Site, record: str) -> None:
    (site.store / record).unlink()
    (site.store / record).mkdir()
    name, done = succeeds(site)
    assert f"set {name} is published, but {site.store}/{record}: cannot" in done.stderr
    (site.store / record).rmdir()
    recovers(site)


@pytest.mark.fault("Store", "the filesystem is read only")
@pytest.mark.usefixtures("disk")
def test_a_run_fails_on_a_store_that_is_read_only(site: Site) -> None:
    subprocess.run(["mount", "-o", "remount,ro", site.store], check=True)
    done = fails(site, cause="store")
    said = "no lock can be made: Read-only file system, expected a store that can be written"
    assert f"dental-pms-backup: {site.store}: {said}\nhint: findmnt -T {site.store}\n" in done.stderr
    subprocess.run(["mount", "-o", "remount,rw", site.store], check=True)
    recovers(site)


@pytest.mark.fault("Store", "the store has gone")
def test_a_store_that_has_gone_is_made_anew(site: Site) -> None:
    shutil.rmtree(site.store)
    succeeds(site)
    recovers(site)


NO_STORES: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("kept"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link into a file": lambda path: path.symlink_to("backup.yaml/store"),
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.sample(3)
@pytest.mark.fault("Store", "the store is")
@pytest.mark.parametrize("make", NO_STORES.values(), ids=NO_STORES)
def test_a_run_fails_on_a_store_that_is_no_directory(site: Site, make: Callable[[Path], object]) -> None:
    aside = site.store.rename(site.place / "aside")
    make(site.store)
    left = on_disk(site.place)
    done = fails(site, cause="store")
    assert re.search(rf"-backup: {site.store}.*: cannot be .*: .*, expected a store to write to\nhint: ", done.stderr)
    assert on_disk(site.place) == left
    site.store.unlink()
    aside.rename(site.store)
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Store", "a directory of the store is a file")
@pytest.mark.parametrize("part", ["db", "sets"], ids=["its db", "its sets"])
def test_a_run_fails_on_a_store_with_a_file_for_a_directory(site: Site, part: str) -> None:
    aside = (site.store / part).rename(site.place / "aside")
    (site.store / part).write_text("kept")
    done = fails(site, cause="store")
    assert f"dental-pms-backup: {site.store}/{part}: cannot be made: File exists" in done.stderr
    assert (site.store / part).read_text() == "kept"
    (site.store / part).unlink()
    aside.rename(site.store / part)
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Store", "a directory is a link to another")
@pytest.mark.parametrize("part", [".", "db", "sets"], ids=["the store", "its db", "its sets"])
def test_a_directory_may_be_a_link_to_another(site: Site, part: str) -> None:
    aside = (site.store / part).rename(site.place / "aside")
    (site.store / part).symlink_to(aside)
    succeeds(site)
    recovers(site)


@pytest.mark.fault("Store", "the store belongs to another user, and root has no right over it")
def test_a_run_fails_on_a_store_of_another_user(site: Site) -> None:
    for path in (site.store / "db", site.store):
        os.chown(path, NOBODY, NOBODY)
    done = fails(site, cause="store", wrapper=WITHOUT_READ_OVERRIDE)
    assert ": Permission denied, expected a store to write to" in done.stderr
    for path in (site.store, site.store / "db"):
        os.chown(path, 0, 0)
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Store", "a directory is immutable")
@pytest.mark.parametrize("part", [".", "db", "sets"], ids=["the store", "its db", "its sets"])
def test_a_run_fails_on_a_store_that_is_immutable(site: Site, part: str) -> None:
    subprocess.run(["chattr", "+i", site.store / part], check=True)
    try:
        done = fails(site, cause="store")
    finally:
        subprocess.run(["chattr", "-i", site.store / part], check=True)
    assert "Operation not permitted, expected a store to write to" in done.stderr
    recovers(site)


@pytest.mark.fault("Store", "the filesystem knows neither owners, modes, links nor the case of letters (exFAT)")
def test_a_store_on_exfat_holds_good_sets_and_is_warned_of(site: Site) -> None:
    with store_on("exfat", site, 32 << 20):
        _, done = succeeds(site)
        readers = "others can read the files here, expected a filesystem that keeps their mode, 0600"
        assert f"{site.store}: {readers}" in done.stderr
        recovers(site)


@pytest.mark.fault("Store", "the store's disk is not mounted, with require_mount")
def test_a_run_writes_nothing_to_a_mount_point_without_its_disk(site: Site) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as elsewhere:  # on the filesystem of /, which /tmp need not be
        point = Path(elsewhere) / "store"
        aside = site.store.rename(site.place / "aside")
        site.store.symlink_to(point)
        site.configure({"require_mount": True, "reserve_mb": 0})
        with mounted_tmpfs(point, ROOMY_BYTES):
            shutil.copytree(aside, point, copy_function=shutil.copy2, dirs_exist_ok=True)
            recovers(site)
        done = fails(site, cause="room")
        assert "on the root filesystem, expected a disk of its own (require_mount)" in done.stderr
        assert f"hint: findmnt -T {site.store}" in done.stderr
        assert list(point.iterdir()) == []
        with mounted_tmpfs(point, ROOMY_BYTES):
            shutil.copytree(aside, point, copy_function=shutil.copy2, dirs_exist_ok=True)
            recovers(site)


@pytest.mark.fault("Store", "BACKUP_DIR names another store than the configuration")
def test_the_environment_wins_over_the_configuration_and_the_journal_names_the_store(site: Site) -> None:
    other = site.place / "other"
    before = on_disk(site.store)
    with listening(site) as journal:
        done = site.run("run", wrapper=journal.wrapper, BACKUP_DIR=str(other))
        told = journal.close()
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, OK)
    assert f"run of db and attachments into {other} started" in told
    assert len(list(other.glob("sets/*.json"))) == 1
    assert site.run("config", "show", BACKUP_DIR=str(other)).stdout.startswith(f"# the store is {other}\n")
    assert f"backup_dir: {other}  # environment BACKUP_DIR" in site.run("config", "show", BACKUP_DIR=str(other)).stdout
    assert site.run("status").stdout.startswith(f"store: {site.store} (1 set)\n")
    assert on_disk(site.store) == before
    faults.saw(status=0, store=f"{faults.A_NEW_SET}, in the other store", events=events(told))
    recovers(site)


@pytest.mark.sample(2)
@pytest.mark.fault("Store", "BACKUP_DIR overlaps with another store")
@pytest.mark.parametrize(
    "where", ["store/db", "store/sets", "store/a/b", "outer"], ids=["its db", "its sets", "below it", "around it"]
)
def test_a_store_that_overlaps_with_another_is_refused(site: Site, where: str) -> None:
    shutil.copytree(site.store, site.place / "outer/db")
    left = on_disk(site.place)
    done = fails(site, cause="refused", status=4, BACKUP_DIR=str(site.place / where))
    other = site.store if where.startswith("store/") else site.place / "outer/db"
    assert f"{site.place / where}: overlaps with the store {other}, expected a directory of its own" in done.stderr
    assert on_disk(site.place) == left
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Store", "the store and the attachments lie in each other")
@pytest.mark.parametrize("where", ["the store in them", "the store in them by a link", "they in its db"])
def test_a_store_and_attachments_that_lie_in_each_other_are_refused(site: Site, where: str) -> None:
    cause, status = "refused", 4
    match where:
        case "the store in them":
            cause, status = "configuration", 78
            site.configure({"attachments.path": str(site.place)})
        case "the store in them by a link":
            inside = site.store.rename(site.attachments / "inside")
            site.store.symlink_to(inside)
        case _:
            site.configure({"attachments.path": str(site.store / "db")})
    fails(site, cause=cause, status=status)
    if site.store.is_symlink():
        site.store.unlink()
        (site.attachments / "inside").rename(site.store)
    site.configure({"attachments.path": str(site.attachments)})
    recovers(site)


@pytest.mark.fault("Store", "the attachments lie in the store's directory, beside its own")
def test_attachments_beside_the_stores_own_directories_are_taken(site: Site) -> None:
    site.configure({"attachments.path": str(site.attachments.rename(site.store / "attachments"))})
    succeeds(site)
    recovers(site)


@pytest.mark.fault("Store", "another run uses the same store under another name")
def test_a_store_under_another_name_is_the_same_store(site: Site) -> None:
    (site.place / "alias").symlink_to(site.store)
    with (site.store / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fails(site, cause="locked", status=75, BACKUP_DIR=str(site.place / "alias"))
    recovers(site)


@pytest.mark.fault("Store", "another tool has put files and directories into the store")
def test_what_is_not_ours_is_left_alone(site: Site) -> None:
    (site.store / "db/db_2026-01-01_000000.sql.gz").mkdir()
    (site.store / "attachments_2026-01-01_000000.tgz").symlink_to("nowhere")
    (site.store / "sets/2026-01-01_000000.json").mkdir()
    for name in ("Thumbs.db", "db/db_2026-13-45_000000.sql.gz", "db/notes.txt", "sets/notes.json"):
        (site.store / name).write_text("theirs")
    theirs = {path: facts for path, facts in on_disk(site.store).items() if "_000000" in path or facts[2] == 6}
    succeeds(site, BACKUP_KEEP="2")
    recovers(site)
    assert {path: facts for path, facts in on_disk(site.store).items() if path in theirs} == theirs


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str, str]] = {
    "its manifest is garbage": ("sets/{}.json", lambda path: spoil(path, 0), "damaged", "not a manifest, expected one"),
    "its manifest has gone": ("sets/{}.json", Path.unlink, "unproven", ""),
    "its dump has gone": ("db/db_{}.sql.gz", Path.unlink, "damaged", "missing, expected "),
    "its dump is cut": ("db/db_{}.sql.gz", lambda path: os.truncate(path, 1000), "damaged", "1000 bytes, expected "),
    "its archive is empty": ("attachments_{}.tgz", lambda path: os.truncate(path, 0), "damaged", "0 bytes, expected "),
    "its archive has one other bit": (
        "attachments_{}.tgz",
        lambda path: spoil(path, 99_999),
        "verified",
        "the checksum differs from the manifest's",
    ),
}


def spoil(path: Path, at: int) -> None:
    """Turn one bit of a file over."""
    with path.open("rb+") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.sample(9)
@pytest.mark.fault("Store", "the newest set is damaged behind our back")
@pytest.mark.parametrize(("path", "damage", "state", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_set_that_was_damaged_is_told_of_and_pushes_no_good_one_out(
    site: Site, path: str, damage: Callable[[Path], None], state: str, said: str
) -> None:
    (good,) = site.sets()
    bad = site.takes()
    damage(site.store / path.format(bad))
    before = site.set_files()
    assert {stored.name: stored.state for stored in sets.listing(site.store)} == {good: "verified", bad: state}
    verified = site.run("verify")
    assert verified.stdout.startswith(f"{good}: good\n{bad}: {'damaged' if said else 'good'}\n")
    assert (said in verified.stdout, verified.returncode) == (True, 1 if said else 0)
    if state == "damaged":
        assert site.run("prune", BACKUP_KEEP="1").stdout == "retention_deleted=0\n"
        assert site.set_files() == before
    succeeds(site)
    recovers(site)
