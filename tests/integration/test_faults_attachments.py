"""A run that meets a fault of the attachments fails, or takes what is there and names what is not whole."""

import contextlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.integration.faults import (
    OK,
    WITHOUT_READ_OVERRIDE,
    events,
    fails,
    is_suspect,
    listening,
    recovers,
    succeeds,
)
from tests.integration.filesystems import made, mounted
from tests.integration.support import Site, environment, mounted_tmpfs, on_disk, sql

NOBODY = 12345
BLOCK_BYTES = 4096
MILLION = 1_000_000
PEAK_BYTES = 40 << 20
NOT_COMPARED = "its files have holes of "
SPARSE_BYTES = 20_000_000_000


@pytest.mark.fault("Attachments", "tar leaves an entry out with status 0")
def test_a_run_publishes_nothing_when_tar_leaves_entries_out_with_status_0(site: Site) -> None:
    less = f'"$real" "$@" >/dev/null; exec "$real" -C {site.attachments} --exclude=./2026/0001.jpg -cf - .'
    path = site.fake_on_path("tar", f'case "$*" in *--create*) {less} ;; esac; exec "$real" "$@"')
    fails(site, cause="verification", PATH=path)
    recovers(site)


NO_SOURCES: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "a file": lambda path: path.write_text("no directory"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.sample(9)
@pytest.mark.fault("Attachments", "their directory is")
@pytest.mark.parametrize("make", NO_SOURCES.values(), ids=NO_SOURCES)
def test_a_run_fails_when_the_attachments_are_no_directory(site: Site, make: Callable[[Path], object]) -> None:
    aside = site.attachments.rename(site.place / "aside")
    make(site.attachments)
    done = fails(site, cause="source")
    assert f"dental-pms-backup: attachments: {site.attachments}: " in done.stderr
    assert f", expected a directory to read\nhint: ls -ld {site.attachments}\n" in done.stderr
    site.attachments.unlink(missing_ok=True)
    aside.rename(site.attachments)
    recovers(site)


@pytest.mark.fault("Attachments", "their directory is a link to a directory")
def test_a_link_to_the_attachments_is_followed(site: Site) -> None:
    site.attachments.symlink_to(site.attachments.rename(site.place / "aside"))
    name, _ = succeeds(site)
    assert entries(site, name) == 23
    assert on_disk(unpacked(site, name)) == on_disk(site.place / "aside")
    recovers(site)


@pytest.mark.fault("Attachments", "they are empty while the database has rows with files, in the first set")
@pytest.mark.parametrize("table", ["attachments", "images"], ids=["the usual table", "a configured table"])
def test_empty_attachments_beside_rows_with_files_make_a_suspect_set(own_database: Site, table: str) -> None:
    site = own_database
    shutil.rmtree(site.store)
    inside = (site.attachments / "2026").rename(site.place / "aside")
    if table == "attachments":
        site.configure({"application.table": None})  # as by default
        sql(site.server, "create table attachments as select 1")
    else:
        site.configure({"application.table": table})
    _, done = is_suspect(site)
    assert re.search(r"is suspect: attachments: empty, expected files \([1-9]\d* rows with files\); ", done.stderr)
    inside.rename(site.attachments / "2026")
    recovers(site)


@pytest.mark.fault("Attachments", "their disk is not mounted")
def test_a_mount_point_without_its_disk_makes_a_suspect_set(site: Site) -> None:
    inside = (site.attachments / "2026").rename(site.place / "aside")
    with mounted_tmpfs(site.attachments, 8 << 20):
        shutil.copytree(inside, site.attachments / "2026")
        recovers(site)
    _, done = is_suspect(site)
    assert "attachments: empty, expected files (23 entries last time)" in done.stderr
    with mounted_tmpfs(site.attachments, 8 << 20):
        shutil.copytree(inside, site.attachments / "2026")
        recovers(site)


@pytest.mark.sample(2)
@pytest.mark.fault("Attachments", "an entry cannot be read")
@pytest.mark.parametrize("kind", ["a file", "a directory"])
def test_an_unreadable_entry_fails_the_run_and_is_named_by_status_only(site: Site, kind: str) -> None:
    entry = site.attachments / ("2026/letter to Mrs canary-name-0815.txt" if kind == "a file" else "canary-name")
    entry.mkdir(exist_ok=True) if kind == "a directory" else None
    entry.chmod(0)
    os.chown(entry, NOBODY, NOBODY)
    done = fails(site, "attachments", cause="archive", wrapper=WITHOUT_READ_OVERRIDE)
    assert "tar could not read everything (tar: exit status 2, 1 complaints), expected every entry" in done.stderr
    assert "hint: dental-pms-backup status" in done.stderr
    assert f"{entry.name}: Cannot open: Permission denied" in site.run("status").stdout
    recovers(site)


@pytest.mark.fault("Attachments", "a file grows while it is read")
def test_a_file_that_changes_while_it_is_read_is_a_warning_that_show_names(site: Site) -> None:
    growing = site.attachments / "canary-name-growing.dat"
    growing.write_bytes(os.urandom(8 << 20))
    ended = threading.Event()

    def grow() -> None:
        while not ended.wait(0.001):
            with growing.open("ab") as file:
                file.write(b"more")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        name, done = succeeds(site, "attachments")
    finally:
        ended.set()
        writer.join()
    warning = f"attachments: 1 entries changed while they were read; dental-pms-backup show {name} names them"
    assert done.stderr.splitlines() == [warning]
    assert warning in done.told
    assert "canary-name-growing.dat" in site.run("show", name).stdout
    recovers(site)


def while_it_is_archived(site: Site, command: str, *, taken_bytes: int = 64 << 10) -> str:
    """Return a PATH whose compressor takes so much of what it is given, runs a command, and goes on."""
    site.configure({"suspect.attachments_shrink_percent": 100})  # what the command removes is missed by the next run
    return site.fake_compressor("igzip", f'{{ head -c {taken_bytes}; {command}; cat; }} | "$real" "$@"')


@pytest.mark.fault("Attachments", "files vanish while they are read")
def test_files_that_vanish_while_they_are_read_are_a_warning(site: Site) -> None:
    crowd = site.attachments / "crowd"
    crowd.mkdir()
    for number in range(400):
        (crowd / f"{number}").write_bytes(os.urandom(4000))
    name, _ = succeeds(site, "attachments", PATH=while_it_is_archived(site, f"rm -r {crowd}"))
    assert any("removed before we read it" in line for line in part(site, name)["changed"])
    recovers(site)


@pytest.mark.fault("Attachments", "a file is moved to where tar has been already")
@pytest.mark.parametrize("times", [1, 3], ids=["once", "each time"])
def test_a_file_that_is_moved_while_the_archive_is_made_is_in_it_or_told(site: Site, times: int) -> None:
    (site.attachments / "large").write_bytes(os.urandom(1 << 20))
    inbox = site.place / "inbox"
    inbox.mkdir()
    for number in range(times):
        (inbox / f"scan{number}").write_text("a letter")
        os.utime(inbox / f"scan{number}", (1, 1))
    moves = f'for each in {inbox}/*; do [ ! -e "$each" ] || mv "$each" {site.attachments}; break; done'
    trace = site.place / "trace"
    tracing = ["strace", "-f", "-qq", "--trace=execve", "--string-limit=9999", f"--output={trace}"]
    name, done = succeeds(site, "attachments", wrapper=tracing, PATH=while_it_is_archived(site, moves))
    assert [line for line in trace.read_text().splitlines() if "scan" in line and not re.search('/mv", ', line)] == []
    told = f"attachments: 1 files were moved in {site.attachments} while the archive was made, each time"
    assert (told in done.stderr) if times > 1 else not done.stderr
    listed = subprocess.run(
        ["tar", "-tzf", site.store / f"attachments_{name}.tgz"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len([each for each in listed if each.startswith("./scan")]) == max(1, times - 1)
    recovers(site)


@pytest.mark.fault("Attachments", "a directory becomes a link while it is read")
def test_a_directory_that_becomes_a_link_is_not_followed(site: Site) -> None:
    (site.place / "elsewhere").mkdir()
    (site.place / "elsewhere/strange").touch()
    crowd = site.attachments / "crowd"
    for number in range(400):
        (crowd / f"{number}").mkdir(parents=True)
        (crowd / f"{number}/file").write_bytes(os.urandom(4000))
    swap = f"for each in {crowd}/*; do rm -r $each; ln -s {site.place}/elsewhere $each; done"
    name, _ = succeeds(site, "attachments", PATH=while_it_is_archived(site, swap))
    with tarfile.open(site.store / f"attachments_{name}.tgz") as archive:
        kinds = {member.type for member in archive if member.name.startswith("./crowd/")}
        assert tarfile.SYMTYPE in kinds
        assert "strange" not in {Path(member).name for member in archive.getnames()}
    recovers(site)


@pytest.mark.fault("Attachments", "a file shrinks while it is read")
def test_a_file_that_shrinks_while_it_is_read_is_taken_as_it_is_then(site: Site) -> None:
    shrinking = site.attachments / "shrinking"
    shrinking.write_bytes(os.urandom(8 << 20))
    shrink = f"[ $(stat --format=%s {shrinking}) -eq {1 << 20} ] || truncate --size=1M {shrinking}"
    name, done = succeeds(site, "attachments", PATH=while_it_is_archived(site, shrink, taken_bytes=1 << 20))
    assert done.stderr == ""
    assert on_disk(unpacked(site, name)) == on_disk(site.attachments)
    assert len(shrinking.read_bytes()) == 1 << 20
    recovers(site)


@pytest.mark.fault("Attachments", "a file shrinks each time that it is read")
def test_a_file_that_never_stops_shrinking_fails_the_run(site: Site) -> None:
    shrinking = site.attachments / "shrinking"
    shrinking.write_bytes(os.urandom(8 << 20))
    done = fails(
        site,
        "attachments",
        cause="archive",
        PATH=while_it_is_archived(site, f"truncate --size=-2M {shrinking}", taken_bytes=1 << 20),
    )
    assert "tar could not read everything (tar: exit status 1, 1 complaints), expected every entry" in done.stderr
    assert shrinking.stat().st_size == 2 << 20
    assert "shrinking: File shrank by " in site.run("status").stdout
    recovers(site)


BAD_DISKS = {
    "its first block": "letter: Read error at byte 0, while reading ",
    "a block in its middle": "letter: File shrank by ",
    "its end, on a filesystem that compresses": "letter: File shrank by ",
    "its attributes": "letter: Warning: Cannot ",
}


@contextlib.contextmanager
def bad_disk(site: Site, what: str) -> Iterator[None]:
    """The attachments on a filesystem that has lost something of one of them, while the block lasts."""
    aside = site.attachments.rename(site.place / "aside")
    image = site.place / "image"
    content = os.urandom(1 << 20)
    match what:
        case "its end, on a filesystem that compresses":
            kind = "erofs"
            (aside / "letter").write_bytes(
                b"".join(content[at : at + 40] + bytes(40) for at in range(0, len(content), 40))
            )
            made(kind, image, 0, "-zlz4", aside)
            os.truncate(image, image.stat().st_size // 2)
        case "its attributes":
            kind = "ext4"
            with mounted(kind, made(kind, image, 16 << 20, "-b4096", "-O^has_journal"), site.attachments):
                shutil.copytree(aside, site.attachments, dirs_exist_ok=True)
                (site.attachments / "letter").touch()
                os.setxattr(site.attachments / "letter", "user.note", content[:2000])
            overwrite_block(image, content[:2000])
        case _:
            kind = "btrfs"
            with mounted(kind, made(kind, image, 32 << 20), site.attachments):
                shutil.copytree(aside, site.attachments, dirs_exist_ok=True)
                (site.attachments / "letter").write_bytes(content)
            overwrite_block(image, content[:100] if what == "its first block" else content[20000:20100])
    with mounted(kind, image, site.attachments):
        yield
    site.attachments.rmdir()
    aside.rename(site.attachments)
    (site.attachments / "letter").unlink(missing_ok=True)


def overwrite_block(image: Path, content: bytes) -> None:
    """Spoil the block of a filesystem that holds some bytes; nobody may have it mounted."""
    with image.open("rb+") as file:
        file.seek(file.read().index(content) & -BLOCK_BYTES)
        file.write(bytes(64))


@pytest.mark.sample(2)
@pytest.mark.fault("Attachments", "the disk cannot read of a file")
@pytest.mark.parametrize(("what", "said"), BAD_DISKS.items(), ids=BAD_DISKS)
def test_a_run_publishes_no_zeros_in_place_of_what_the_disk_cannot_read(site: Site, what: str, said: str) -> None:
    with bad_disk(site, what):
        done = fails(site, "attachments", cause="archive")
        assert "tar could not read everything (tar: " in done.stderr
        assert said in site.run("status").stdout
    recovers(site)


@pytest.mark.fault(
    "Attachments", "there are a pipe, a socket, a device, a link of 4095 bytes and a file of the year 2400"
)
def test_what_is_no_file_is_taken_and_comes_back_and_a_socket_is_left_out(site: Site) -> None:
    os.mkfifo(site.attachments / "pipe")
    os.mknod(site.attachments / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (site.attachments / "link").symlink_to("x/" * 2047 + "x")
    (site.attachments / "future").touch()
    os.utime(site.attachments / "future", (0, 13_569_465_600))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(site.attachments / "socket"))
    listener.close()
    (site.attachments / "x link to ").mkdir()
    for name in ("a", "b"):
        (site.attachments / "x link to " / name).hardlink_to(site.attachments / "future")
    name, done = succeeds(site)
    assert done.stderr == ""
    assert entries(site, name) == 30
    (site.attachments / "socket").unlink()
    before = on_disk(site.attachments)
    restored = site.run("restore", "attachments", name, "--in-place", CONFIRM="YES")
    assert (restored.returncode, on_disk(site.attachments)) == (0, before), restored.stderr
    assert (site.attachments / "device").stat().st_rdev == os.makedev(1, 3)
    recovers(site)


@pytest.mark.fault("Attachments", "a path is longer than 4095 bytes: tar can take it, but not put it back")
def test_a_path_that_is_too_long_to_be_restored_makes_a_suspect_set(site: Site) -> None:
    name = "ü" * 125
    descriptor = os.open(site.attachments, os.O_RDONLY)
    for _ in range(17):  # of 251 bytes each
        os.mkdir(name, dir_fd=descriptor)
        above, descriptor = descriptor, os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(above)
    os.close(descriptor)
    _, done = is_suspect(site, "attachments")
    assert "1 entries have a path of over 4095 bytes, which tar cannot put back" in done.stderr
    shutil.rmtree(site.attachments / name)
    recovers(site)


@pytest.mark.sweep
@pytest.mark.fault("Attachments", "there are a million small files")
def test_a_million_files_are_taken_in_little_memory(site: Site) -> None:
    with mounted_tmpfs(site.attachments, 1 << 30):
        subprocess.run(["mount", "-o", "remount,nr_inodes=0", site.attachments], check=True)
        for number in range(1000):
            (site.attachments / f"{number}").mkdir()
            descriptor = os.open(site.attachments / f"{number}", os.O_RDONLY)
            for other in range(1000):
                os.mknod(f"{other}.jpg", dir_fd=descriptor)
            os.close(descriptor)
        with listening(site) as journal:
            with site.running("run", "attachments", wrapper=journal.wrapper) as process:
                peaks = []
                while process.poll() is None:
                    peaks += re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                    time.sleep(0.1)
                assert process.stdout
                assert (process.returncode, process.stdout.read().splitlines()[-1]) == (0, OK)
            told = journal.close()
        assert int(peaks[-1]) << 10 < PEAK_BYTES
        assert entries(site, site.sets()[-1]) == MILLION + 1000 + 1
    faults.saw(status=0, store=faults.A_NEW_SET, events=events(told))
    site.configure({"suspect.attachments_shrink_percent": 100})
    recovers(site)


@pytest.mark.fault("Attachments", "a sparse file of 20 GB")
def test_a_file_with_holes_is_taken_and_comes_back_with_them(site: Site) -> None:
    sparse = site.attachments / "sparse"
    with sparse.open("wb") as file:
        file.truncate(SPARSE_BYTES)
        file.seek(SPARSE_BYTES // 2)
        file.write(b"in the middle")
    with (site.attachments / "all hole").open("wb") as file:
        file.truncate(8 << 40)
    name, done = succeeds(site)
    assert done.stderr == ""
    assert (site.store / f"attachments_{name}.tgz").stat().st_size < 1 << 20
    restored = unpacked(site, name) / "sparse"
    assert restored.stat().st_size == SPARSE_BYTES
    assert restored.stat().st_blocks * 512 < 1 << 20
    with restored.open("rb") as file:
        at = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        file.seek(at)
        assert (file.read(1 << 20).strip(b"\0"), at // (1 << 20)) == (b"in the middle", SPARSE_BYTES // 2 // (1 << 20))
        assert os.lseek(file.fileno(), at, os.SEEK_HOLE) - at <= 1 << 20
    restored.unlink()
    recovers(site)
    drilled = site.run("drill", name)
    assert (drilled.returncode, drilled.stderr) == (0, ""), drilled.stderr
    assert f"attachments: passed (a restore compares no file: {NOT_COMPARED}" in site.run("show", name).stdout
    again = site.run("restore", "attachments", name, "--to", str(site.place / "new"))
    assert again.returncode == 0
    assert f"what was unpacked is not compared with the archive: {NOT_COMPARED}" in again.stderr
    assert (site.place / "new/all hole").stat().st_size == 8 << 40


def part(site: Site, name: str) -> dict[str, Any]:
    """Return what a set's manifest says of the attachments."""
    manifest = json.loads((site.store / f"sets/{name}.json").read_text())
    found: dict[str, Any] = manifest["streams"]["attachments"]
    return found


def entries(site: Site, name: str) -> int:
    count: int = part(site, name)["entries"]
    return count


def unpacked(site: Site, name: str) -> Path:
    """Unpack a set's attachments as RESTORE.txt says and return where."""
    directory = site.place / "unpacked"
    directory.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", f"--directory={directory}"]
    archive = site.store / f"attachments_{name}.tgz"
    subprocess.run(["tar", "-xzpf", archive, *options], env=environment(), check=True)
    return directory
