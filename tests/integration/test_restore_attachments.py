"""Attachments come back whole: into a new directory, or into the live one's place by a swap that can be cut off."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

import pytest

from tests import faults, scope
from tests.integration.faults import cause, events, listening
from tests.integration.support import (
    ENDS_WITHIN_S,
    IN_EACH_OTHER,
    TREE,
    Disk,
    Site,
    environment,
    mounted_tmpfs,
    on_disk,
    signalled,
    wait_until,
)

# Kills itself at the Nth call of what the swap is made of.
DIES = """\
import os, signal, sys, types
left = int(os.environ["DIES_AT"])
def counted(call):
    def counting(*arguments, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)
    return counting
from dental_pms_backup.cli import commands
from dental_pms_backup.host import places
from dental_pms_backup.live import swap, swap_steps
places.Place.sync = counted(places.Place.sync)
swap_steps.rename_new = counted(swap_steps.rename_new)
swap.os = swap_steps.os = places.os = types.SimpleNamespace(**vars(os))
for name in ("rename", "rmdir", "mkdir"):
    setattr(swap.os, name, counted(getattr(os, name)))
sys.exit(commands.main(sys.argv[1:]))
"""

UNDONE = "a restore, cut off in its swap, was undone; what was live is back"
ENDED = "a restore, cut off in its swap, was brought to its end"


@pytest.fixture
def site(site: Site) -> Site:
    """A site whose newest set has its attachments as they are."""
    site.takes("attachments")
    return site


def spoil(site: Site) -> Disk:
    shutil.rmtree(site.attachments / "2026")
    for name in ("new", ".hidden", "newer"):
        (site.attachments / name).write_text(name)
    return on_disk(site.attachments)


def beside(site: Site) -> list[str]:
    return sorted(path.name for path in site.place.glob("attachments.*"))


def in_place(site: Site, **variables: str) -> "subprocess.CompletedProcess[str]":
    return site.run("restore", "attachments", "latest", "--in-place", "--yes", **variables)


def test_attachments_come_into_a_new_directory(site: Site) -> None:
    before = on_disk(site.attachments)
    spoilt = spoil(site)
    for name in ("new", "empty"):
        target = site.place / name
        if name == "empty":
            target.mkdir()
        done = site.run("restore", "attachments", "latest", "--to", str(target))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"\nrestore_target={target}\nrestore_status=ok\n" in done.stdout
        assert on_disk(target) == before
    assert on_disk(site.attachments) == spoilt
    assert beside(site) == []


def test_what_would_be_lost_is_told_by_counts_before_it_is_replaced(site: Site) -> None:
    for number in (1, 2, 3):
        (site.attachments / f"canary-name\n{number} \\ zähne").write_text("so")
    (site.attachments / "link").symlink_to("2026")
    os.link(site.attachments / "2026/0005.jpg", site.attachments / "hard")
    wanted = site.takes("attachments")
    assert "live_has_more" not in in_place(site).stdout
    for number in (1, 2):
        (site.attachments / f"2026/more {number}\n").write_text("more")
    (site.attachments / "dangling").symlink_to("nowhere")
    size = site.attachments / "canary-name\n1 \\ zähne"
    moment = size.stat().st_mtime_ns
    size.write_text("of another size")
    os.utime(size, ns=(moment, moment))
    newer = site.attachments / "canary-name\n2 \\ zähne"
    os.utime(newer, (newer.stat().st_mtime + 1,) * 2)  # archives know whole seconds
    os.utime(site.attachments / "canary-name\n3 \\ zähne", (1, 1))
    done = site.run("restore", "attachments", wanted, "--in-place", "--yes")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("live_has_more=")] == [
        "live_has_more=3 files that the set has not",
        "live_has_more=2 files that are newer than the set's, or of another size",
    ]
    assert "canary-name" not in done.stdout


@pytest.mark.parametrize("kind", ["used", "file", "no-parent"])
def test_a_directory_that_is_used_is_refused(site: Site, kind: str) -> None:
    target = site.place / "target"
    if kind == "used":
        target.mkdir()
        (target / "mine").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    else:
        target /= "deeper"
    before = on_disk(site.place)
    done = site.run("restore", "attachments", "latest", "--to", str(target))
    assert (done.returncode, done.stdout) == (4, "")
    assert "expected" in done.stderr
    assert on_disk(site.place) == before


def test_what_was_unpacked_is_compared_with_the_archive(site: Site) -> None:
    spoilt = spoil(site)
    spoiling = 'for last; do :; done; echo x >>"${last#*=}/2026/0001.jpg"'
    lying = f'"$real" "$@" || exit; case "$*" in *--extract*) {spoiling} ;; esac'
    done = in_place(site, PATH=site.fake_on_path("tar", lying))
    assert done.returncode == 1
    assert "attachments: what was unpacked is not what is in the archive (tar: exit status 1), expected" in done.stderr
    assert (on_disk(site.attachments), beside(site)) == (spoilt, [])


def dies(site: Site, moment: int, whole: Sequence[Disk]) -> bool:
    """Restore in place, killed at a call of the swap; tell whether it was, and the table whether it left that whole."""
    words = site.command("restore", "attachments", "latest", "--in-place", "--yes")[3:]
    with listening(site) as journal:
        done = subprocess.run(
            [*journal.wrapper, "/usr/bin/python3", "-c", DIES, *words],
            cwd=TREE,
            env=environment(DIES_AT=str(moment)),
            capture_output=True,
            check=False,
            timeout=ENDS_WITHIN_S,
        )
        told = events(journal.close())
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    if done.returncode:
        store = "whole, the old content or the new" if on_disk(site.attachments) in whole else "in the swap, not whole"
        faults.saw(status="killed", store=store, events=told)
    return done.returncode != 0


@pytest.mark.fault("Attachments", "a restore is killed at every step of its swap")
def test_a_swap_that_is_killed_at_any_step_is_undone_or_ended_by_the_next_restore(site: Site) -> None:
    restored = on_disk(site.attachments)
    spoilt = spoil(site)
    moment, ends = 0, []
    while dies(site, moment, (spoilt, restored)):
        whole = on_disk(site.attachments) in (spoilt, restored)
        if not whole and UNDONE not in ends:  # of those that are alike one is enough
            run = site.run("run", "attachments")
            assert run.returncode == 1
            assert "attachments: a restore was cut off while it swapped them" in run.stderr
        done = in_place(site)
        assert done.returncode == 0, done.stderr
        ends += [end for end in (UNDONE, ENDED) if end in done.stderr]
        assert whole or UNDONE in done.stderr or ENDED in done.stderr, (moment, done.stderr)
        assert on_disk(site.attachments) == restored, moment
        kept = sorted(site.place.glob("attachments.*"))
        assert all(".before-restore-" in path.name for path in kept)
        assert on_disk(kept[0]) == spoilt, moment
        for other in kept[1:]:  # the next restore found the first one's content
            assert on_disk(other) == restored
            shutil.rmtree(other)
        shutil.rmtree(site.attachments)
        kept[0].rename(site.attachments)
        moment += 1 if scope.SCOPE == "all" else 3
    assert (ends, moment > 10) == (sorted(ends, reverse=True), True)
    assert min(ends.count(UNDONE), ends.count(ENDED)) > 1
    assert on_disk(site.attachments) == restored
    faults.recovered("ok, it undoes or ends the swap first")


def test_a_swap_ends_while_the_application_makes_its_directories_anew(site: Site) -> None:
    below = site.attachments / "attachments/2026"
    below.mkdir(parents=True)
    (below / "file").write_text("of the set")
    wanted = site.takes("attachments")
    loop = "while (!-e $ARGV[0]) { for (1 .. 2000) { mkdir $ARGV[1]; mkdir qq{$ARGV[1]/2026}; } }"
    with subprocess.Popen(["perl", "-e", loop, site.place / "stop", below.parent]):
        try:
            for _ in range(3):
                done = site.run("restore", "attachments", wanted, "--in-place", "--yes")
                assert done.returncode == 0, done.stderr
                assert (below / "file").read_text() == "of the set"
        finally:
            (site.place / "stop").touch()
    site.takes("attachments")


@pytest.mark.fault("Attachments", "a restore has no room beside what is live")
def test_a_disk_without_room_is_told_before_anything_is_unpacked(site: Site) -> None:
    disk = site.place / "disk"
    with mounted_tmpfs(disk, 400 << 10):
        (disk / "attachments").mkdir()
        (disk / "attachments/more").write_bytes(os.urandom(300 << 10))
        before = on_disk(disk)
        site.configure({"attachments.path": str(disk / "attachments")})
        with listening(site) as journal:
            done = site.run("restore", "attachments", "latest", "--in-place", "--yes", wrapper=journal.wrapper)
            told = journal.close()
        assert (done.returncode, on_disk(disk)) == (4, before)
        assert "for a second copy; nothing was touched" in done.stderr
    faults.saw(status=4, cause=cause(told), store="the live attachments as they were", events=events(told))
    site.configure({"attachments.path": str(site.attachments)})
    assert in_place(site).returncode == 0
    faults.recovered()


def test_what_a_restore_left_that_was_killed_while_it_unpacked_is_removed_by_the_next(site: Site) -> None:
    restored = on_disk(site.attachments)
    spoil(site)
    tar = site.fake_on_path("tar", 'case "$*" in *--extract*) "$real" "$@"; sleep 60 ;; esac; exec "$real" "$@"')
    with site.running("restore", "attachments", "latest", "--in-place", "--yes", PATH=tar) as process:
        wait_until(lambda: any(path.is_dir() and list(path.iterdir()) for path in site.place.glob("attachments.*")))
        signalled(process, signal.SIGKILL, within_s=30)
    (left,) = beside(site)
    assert ".restoring-" in left
    subprocess.run([*IN_EACH_OTHER, site.place / left / "content"], check=True)
    assert "cut off" not in site.run("run", "attachments").stderr, "what is live is whole"
    done = site.run("restore", "attachments", site.sets()[-2], "--in-place", "--yes")
    assert done.returncode == 0
    assert "unpacked by a restore that was cut off, and removed now" in done.stderr
    assert on_disk(site.attachments) == restored
    assert [".before-restore-" in name for name in beside(site)] == [True]
