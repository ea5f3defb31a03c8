"""Both streams of a run: one after the other, or side by side where that is of use; a failure of one costs no other."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.backup import both_streams, one_stream
from dental_pms_backup.config import settings
from dental_pms_backup.errors import ArchiveError, DumpError, InterruptedRunError
from dental_pms_backup.host import disks, stop
from dental_pms_backup.host.progress import Watch
from dental_pms_backup.live.postgres import Facts, OnHost
from dental_pms_backup.live.sources import AttachmentsSource, DatabaseSource, Sources
from dental_pms_backup.store import publishing
from dental_pms_backup.store.sets import Stream
from tests.unit.builders import HOLDS, NAME, ROLES_TRAILER, SETTINGS_TRAILER, TRAILER, gone_within, program, told_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTS = Facts(version=160004, database="pms", user="pms", size=1, started="2026-11-01", system="7301")
SNAPSHOT = "SNAPSHOT=' 00000003-1B-1';"
VERSION = '[ "$1" != --version ] || { echo "16.4"; exit; }\n'
# begins, and goes on once the other stream has begun as well; fails when that does not happen
MEETS = "touch {0}/{1}; n=0; until [ -e {0}/{2} ]; do n=$((n + 1)); [ $n -lt 1200 ] || exit 1; sleep 0.05; done\n"


class Practice:
    """A database of fake programs and a directory of attachments, on a disk of its own or not."""

    def __init__(self, place: Path, elsewhere: Path) -> None:
        self.place = place
        self.images = elsewhere / "images"
        self.images.mkdir()
        (self.images / "a").write_text("x")
        publishing.prepare(place / "store")
        self.programs(dump="", tar="")

    def programs(self, *, dump: str, tar: str, holds: str = SNAPSHOT) -> None:
        bin_dir = self.place / "bin"
        answer = json.dumps(dataclasses.asdict(FACTS))
        held = HOLDS.replace(") ", f") {holds}", 1)
        program(
            bin_dir,
            "psql",
            f'{VERSION}case "$*" in {held} *createdb*) printf "\\n{SETTINGS_TRAILER}" ;; '
            f"*data_directory*) echo {self.place} ;; *to_regclass*) ;; "
            f"*pg_relation_filenode* | *get_live_tuples*) echo '{{}}' ;; *) echo '{answer}' ;; esac\n",
        )
        ends = f"cat <<'END'\nselect 1;\n{TRAILER}END\n"
        program(bin_dir, "pg_dump", f"{VERSION}{dump}{ends}")
        program(bin_dir, "pg_dumpall", f"{VERSION}cat <<'END'\nselect 1;\n{ROLES_TRAILER}END\n")
        lists = 'case "$*" in *--list*) exec /usr/bin/tar "$@" ;; esac\n'
        program(bin_dir, "tar", f'{lists}{tar}exec /usr/bin/tar "$@"\n')

    def take(self) -> list[one_stream.Part]:
        server = OnHost(
            host="/run", port=1, user="u", database="d", run_as=None, pgpass_file=None, bin_dir=self.place / "bin"
        )
        (self.place / "backup.yaml").write_text("keep: 3\n")
        loaded = settings.load(self.place / "backup.yaml", {})
        order = one_stream.Order(
            store=self.place / "store",
            name=NAME,
            earlier=(),
            limits=loaded.suspect,
            table=None,
            level=6,
            watch=Watch(stall_timeout_s=90),
        )
        found = Sources(
            database=DatabaseSource(server=server, facts=FACTS),
            attachments=AttachmentsSource(path=self.images, container=""),
        )
        return both_streams.take_all(order, found, loaded.database)


@pytest.fixture
def practice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Practice]:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:  # a filesystem of its own
        yield Practice(tmp_path, Path(elsewhere))


def devices(place: Path, *directories: Path) -> Path:
    """Say of the directories that each lies on a disk of its own."""
    for directory in directories:
        device = directory.stat().st_dev
        (place / "devices" / f"{os.major(device)}:{os.minor(device)}").mkdir(parents=True)
    return place / "devices"


def test_streams_are_taken_side_by_side_from_different_disks_when_there_are_cores_for_both(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(4)))
    monkeypatch.setattr(disks, "DEVICES", devices(practice.place, practice.place, practice.images))
    held = practice.place / "held"
    practice.programs(
        dump=MEETS.format(practice.place, "dump", "tar"),
        tar=f"[ -e {held} ] || exit 1\n{MEETS.format(practice.place, 'tar', 'dump')}",
        holds=f"sleep 0.3; touch {held}; {SNAPSHOT}",
    )
    assert [part.stream for part in practice.take()] == [Stream.DB, Stream.ATTACHMENTS]


@pytest.mark.parametrize("why", ["two cores", "one disk", "unknown disks", "no snapshot is held"])
def test_streams_are_taken_one_after_the_other_otherwise(
    practice: Practice, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(2 if why == "two cores" else 8)))
    here = [practice.place] if why == "unknown disks" else [practice.place, practice.images]
    found = devices(practice.place, *here)
    if why == "one disk":
        for each in found.iterdir():
            (each / "slaves" / "sda").mkdir(parents=True)
    monkeypatch.setattr(disks, "DEVICES", found)
    note = practice.place / "note"
    holds = "" if why == "no snapshot is held" else SNAPSHOT
    dump = f"echo dump >>{note}; sleep 0.3; echo end >>{note}\n"
    practice.programs(dump=dump, tar=f"echo tar >>{note}\n", holds=holds)
    assert len(practice.take()) == 2
    assert note.read_text() == "dump\nend\ntar\n"


@pytest.mark.parametrize("cores", [2, 8])
def test_failure_of_one_stream_leaves_the_other_its_try(
    practice: Practice, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    monkeypatch.setattr(disks, "DEVICES", devices(practice.place, practice.place, practice.images))
    practice.programs(dump="exit 1\n", tar=f"touch {practice.place}/tried\n")
    with pytest.raises(DumpError):
        practice.take()
    assert (practice.place / "tried").exists()
    publishing.discard(practice.place / "store", NAME)
    practice.programs(dump=f"touch {practice.place}/again\n", tar="exit 2\n")
    with pytest.raises(ArchiveError):
        practice.take()
    assert (practice.place / "again").exists()


def test_wish_to_stop_ends_both_streams(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(4)))
    monkeypatch.setattr(disks, "DEVICES", devices(practice.place, practice.place, practice.images))
    signal.signal(signal.SIGALRM, lambda *_: stop.request(signal.SIGTERM))
    ids = practice.place / "ids"
    works = f"echo $$ >>{ids}; exec sleep 1000\n"
    practice.programs(dump=works, tar=works)
    started: list[int] = []

    def stops_once_both_work() -> None:
        started.extend(told_ids(ids, 2))
        os.kill(os.getpid(), signal.SIGALRM)

    stopper = threading.Thread(target=stops_once_both_work)
    stopper.start()
    with pytest.raises(InterruptedRunError):
        practice.take()
    stopper.join()
    assert gone_within(started, 10)


def test_bug_in_a_stream_is_no_failure_that_is_understood(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_stream, "WRITE_BACK_BYTES", None)
    practice.programs(dump="sleep 0.3\n", tar="")
    with pytest.raises(TypeError):
        practice.take()


def test_disk_behind_partitions_and_layers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "DEVICES", tmp_path / "dev")
    (tmp_path / "dev").mkdir()
    for partition in ("sda/sda1", "sda/sda2", "sdb/sdb1"):
        (tmp_path / partition).mkdir(parents=True)
        (tmp_path / partition / "partition").touch()
    (tmp_path / "dm-0" / "slaves").mkdir(parents=True)
    (tmp_path / "dm-0/slaves/sda2").symlink_to(tmp_path / "sda/sda2")
    here, there = (os.stat(place).st_dev for place in ("/", "/dev/shm"))  # noqa: PTH116, S108 - two filesystems
    for one, other, expected in (
        ("sda/sda1", "sda/sda2", False),
        ("sda/sda1", "sdb/sdb1", True),
        ("dm-0", "sda/sda1", False),
        ("dm-0", "sdb/sdb1", True),
    ):
        for device, place in ((here, one), (there, other)):
            link = tmp_path / "dev" / f"{os.major(device)}:{os.minor(device)}"
            link.unlink(missing_ok=True)
            link.symlink_to(tmp_path / place)
        assert disks.differ(Path("/"), Path("/dev/shm")) is expected  # noqa: S108
    assert not disks.differ(Path("/nonexistent"), Path("/dev/shm"))  # noqa: S108
