"""Mounts at the attachments and below: what the application sees is in the archive, and no restore moves one."""

import contextlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults import events, listening
from tests.integration.support import Site, dump, on_disk, sql

CGROUP = Path("/proc/self/cgroup")


@contextlib.contextmanager
def bound(source: Path, point: Path) -> Iterator[None]:
    """Mount a directory at another one, as a disk or a NAS would be."""
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", source, point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


@contextlib.contextmanager
def mounted_by_anybody(point: Path) -> Iterator[None]:
    """Have a user who owns nothing mount something for himself, as anybody may."""
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "unshare", "--user", "--map-root-user"]
    script = 'mount -t tmpfs none "$0" && echo ready && read word'
    argv += ["--mount", "sh", "-c", script, str(point)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


@pytest.fixture
def nas(place: Path) -> Path:
    """A directory with a file that is in no set."""
    nas = place / "nas"
    nas.mkdir()
    (nas / "old.pdf").write_text("old")
    return nas


@contextlib.contextmanager
def backend(site: Site, script: str = "true") -> Iterator[str]:
    """Let a container be there whose first process has mounted more, as a script says, and yield a PATH with docker.

    What it has mounted as the attachments lies at the same path in it.
    """
    waiting = f"{script} && echo ready && read word"
    command = ["unshare", "--mount", "--propagation=unchanged", "sh", "-c", waiting]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            label = "com.docker.compose"
            entry = {
                "id": CGROUP.read_text().splitlines()[-1],
                "name": "/pms-backend-1",
                "image": "backend",
                "state": "running",
                "pid": process.pid,
                "labels": {f"{label}.project.working_dir": str(site.place), f"{label}.container-number": "1"},
                "mounts": [{"Destination": str(site.attachments), "Source": str(site.attachments)}],
                "settings": [None],
            }
            (site.place / "entry").write_text(json.dumps(entry))
            changed = {"attachments.path": None, "attachments.mount": str(site.attachments)}
            site.configure({**changed, "compose.project_dir": str(site.place)})
            yield site.fake_on_path("docker", f"case $1 in ps) echo id ;; inspect) cat {site.place}/entry ;; esac")
        finally:
            process.communicate("end\n")


def kept_apart(site: Site) -> str:
    """Mount things in the container alone from now on; in a chroot / is no mount point that could be made private."""
    return f"mount --bind {site.place} {site.place} && mount --make-rprivate {site.place}"


def test_what_only_the_container_has_mounted_below_fails_the_run(site: Site, nas: Path) -> None:
    point = site.attachments / "2026"
    with backend(site) as path:
        assert site.run("run", "attachments", PATH=path).returncode == 0
    with backend(site, f"{kept_apart(site)} && mount --bind {nas} {point}") as path:
        done = site.run("run", "attachments", PATH=path)
        assert done.returncode == 78, done.stderr
        assert f"attachments: container pms-backend-1 has another mount at {point}, whose files an archi" in done.stderr
        assert f"hint: editor /etc/dental-pms/backup.yaml   # if {site.attachments} alone is to be taken" in done.stderr
        with bound(nas, point):
            assert site.run("run", "attachments", "--dry-run", PATH=path).returncode == 0, "the same here"


def test_what_is_mounted_below_and_the_container_does_not_see_is_refused(site: Site, nas: Path) -> None:
    with backend(site, kept_apart(site)) as path, bound(nas, site.attachments / "2026"):
        done = site.run("run", "attachments", PATH=path)
        assert done.returncode == 4
        assert "/2026 is another directory than container pms-backend-1 has at " in done.stderr
        assert "hint: docker restart pms-backend-1" in done.stderr


def test_nothing_is_restored_where_a_swap_would_move_a_mount(own_database: Site, nas: Path) -> None:
    site = own_database
    point = site.attachments / "2026/deeper/archive"
    with bound(nas, point):
        taken = site.takes()
        before = (dump(site.server), on_disk(site.attachments))
        for words in (["attachments"], ["all"]):
            done = site.run("restore", *words, taken, "--in-place", "--yes")
            assert (done.returncode, done.stdout) == (4, "")
            assert f"attachments: {point} is mounted below {site.attachments}, expected no mount there" in done.stderr
        assert (dump(site.server), on_disk(site.attachments)) == before
    seen = bound(site.place, site.place)  # a chroot does not see the mount that it lies on
    with seen, backend(site, f"{kept_apart(site)} && mount --bind {nas} {point}"):
        site.configure({"attachments.path": str(site.attachments)})
        done = site.run("restore", "attachments", taken, "--in-place", "--yes")
        assert (done.returncode, f"{point} is mounted below" in done.stderr) == (4, True), "in a container alone"
        (process,) = re.findall(f"mounted below {site.attachments}, where process ([0-9]+) sees it", done.stderr)
        assert f"hint: ps -fp {process}; findmnt --task {process}   # unmount what is there" in done.stderr
        assert str(point) in Path(f"/proc/{process}/mountinfo").read_text()
    with mounted_by_anybody(site.attachments / "2026"):
        done = site.run("restore", "all", taken, "--in-place", "--yes")
    assert done.returncode == 0, done.stderr
    drop = [line for line in done.stdout.splitlines() if line.startswith("restore_drop=rm ")]
    subprocess.run(shlex.split(drop[0].partition("=")[2]), check=True)
    assert drop[0].startswith("restore_drop=rm -r --one-file-system ")
    assert [path.name for path in nas.iterdir()] == ["old.pdf"]
    assert (point / "old.pdf").read_text() == "old"


def test_nothing_is_restored_where_the_attachments_are_a_bind_mount_and_the_hint_works(
    own_database: Site, place: Path
) -> None:
    site = own_database
    nas = site.attachments.rename(place / "nas")
    with bound(place, place), bound(nas, site.attachments):
        taken = site.takes()
        before = (dump(site.server), on_disk(nas))
        (nas / "later").write_text("later")
        done = site.run("restore", "all", taken, "--in-place", "--yes")
        assert (done.returncode, done.stdout) == (4, "")
        assert f"attachments: {site.attachments} is a mount point, expected a directory whose content" in done.stderr
        assert f"set attachments.path to {nas}, which is mounted there" in done.stderr
        assert dump(site.server) == before[0]
        site.configure({"attachments.path": str(nas)})
        assert site.run("restore", "all", taken, "--in-place", "--yes").returncode == 0
        assert on_disk(site.attachments) == before[1]


def test_a_link_that_leads_out_is_told_the_same_night_and_is_suspect_where_rows_lack_their_files(
    own_database: Site, place: Path
) -> None:
    site = own_database
    site.configure({"application.table": None})  # as by default
    sql(site.server, "create table attachments as select generate_series(1, 20) as id, 'f'::text as storage_key")
    (big := place / "big").mkdir()
    (site.attachments / "attachments").symlink_to(big)
    (site.attachments / "2026/inside").symlink_to(site.attachments / "2026")
    with listening(site) as journal:
        done = site.run("run", wrapper=journal.wrapper)
        told = events(journal.close())
    assert (done.returncode, "links-lead-out" in told) == (1, True)
    assert f'links lead out of {site.attachments} ("attachments"), and what is behind them is not ' in done.stderr
    assert "is suspect: attachments: links lead out of them (1), expected the files of 20 rows in the" in done.stderr
    shown = site.run("show", site.sets()[-1]).stdout
    assert "\nattachments are without what is behind the link: attachments\n" in shown
    sql(site.server, "truncate attachments")
    done = site.run("run")
    assert (done.returncode, "links lead out of" in done.stderr) == (0, True)
