"""The attachments are the directory that the application's container sees, or nothing is done with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dental_pms_backup.config import settings
from dental_pms_backup.errors import ConfigError, RefusedError
from dental_pms_backup.live import roads, sources, swap
from tests.unit.live.test_compose import Docker, mount, works_in

PID = 4711
NOBODY = 65534


class Practice:
    """A backend whose first process is seen here, with a directory at its mount and one at the host's path."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "bin").mkdir()
        self.data = place / "data"
        self.data.mkdir()
        self.at_mount = place / f"proc/{PID}/root/data"
        self.at_mount.parent.mkdir(parents=True)
        self.at_mount.symlink_to(self.data)  # as a mount of it
        (place / f"proc/{PID}/cgroup").write_text("0::/system.slice/docker-backend-id.scope")
        Docker(place / "bin").has(
            "backend", mounts=mount(str(self.data), "/data", "bind"), labels=works_in(place), pid=PID
        )
        (place / "config.yaml").write_text(f"compose:\n  project_dir: {place}\n")

    def attachments(self) -> sources.AttachmentsSource:
        return sources.attachments(settings.load(self.place / "config.yaml", {}))


@pytest.fixture
def practice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Practice:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(roads, "PROCESSES", tmp_path / "proc")
    return Practice(tmp_path)


def test_a_directory_that_the_container_sees_is_told_by_its_number(practice: Practice) -> None:
    status = practice.data.stat()
    assert practice.attachments() == sources.AttachmentsSource(
        path=practice.data,
        container="backend",
        mount=Path("/data"),
        identity=(status.st_dev, status.st_ino),
    )


def test_a_directory_that_the_container_does_not_see_is_refused(practice: Practice) -> None:
    practice.data.rename(practice.place / "aside")
    practice.at_mount.unlink()
    practice.at_mount.symlink_to(practice.place / "aside")
    practice.data.symlink_to("/etc")
    with pytest.raises(RefusedError) as raised:
        practice.attachments()
    assert raised.value.message == (
        f"attachments: {practice.data} is another directory than container backend has at /data, "
        "expected the files that the application sees; nothing was touched"
    )


def refused(practice: Practice) -> str:
    with pytest.raises(ConfigError) as raised:
        practice.attachments()
    assert raised.value.hint == (
        f"editor /etc/dental-pms/backup.yaml   # if {practice.data} alone is to be taken, set attachments.path to it; "
        "else give the application one mount"
    )
    return raised.value.message


@pytest.mark.parametrize("running", [True, False])
def test_another_mount_below_the_container_s_is_refused_unless_the_directory_has_it(
    practice: Practice, *, running: bool
) -> None:
    (nas := practice.place / "nas").mkdir()
    both = mount(str(practice.data), "/data", "bind") + mount(str(nas), "/data/attachments/nas", "bind")
    changed = {} if running else {"state": "exited", "pid": 0}
    Docker(practice.place / "bin").has(
        "backend", mounts=both, labels=works_in(practice.place), **{"pid": PID} | changed
    )
    assert refused(practice) == (
        "attachments: container backend has another mount at /data/attachments/nas, whose files an archive of "
        f"{practice.data} would not have, expected one directory with all that the application sees below /data"
    )
    (practice.data / "attachments").mkdir()
    (practice.data / "attachments/nas").symlink_to(nas)  # as mounted there, too
    assert practice.attachments().path == practice.data


def test_where_the_container_is_not_seen_its_directory_is_taken_as_docker_names_it(practice: Practice) -> None:
    (practice.place / f"proc/{PID}/cgroup").write_text("0::/elsewhere")
    found = practice.attachments()
    assert found.path == practice.data


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a link to another user")
def test_a_link_of_another_user_is_refused_even_where_the_container_sees_what_it_leads_to(practice: Practice) -> None:
    aside = practice.data.rename(practice.place / "aside")
    practice.data.symlink_to(aside)
    os.chown(practice.data, NOBODY, NOBODY, follow_symlinks=False)
    assert practice.at_mount.samefile(practice.data)
    with pytest.raises(RefusedError) as raised:
        practice.attachments()
    assert raised.value.message == (
        f'attachments: {practice.data}: "data" on the way is a link of user {NOBODY}, who may let it lead anywhere, '
        "expected directories, or links of root; nothing was touched"
    )
    assert raised.value.hint == (
        f"readlink -f {practice.data}   # if that is the right directory, set attachments.path to it; "
        "or, in a directory of root's, make the link root's with chown -h root"
    )


def test_a_link_of_our_own_leads_to_the_attachments_and_no_further_once_they_are_looked_at(practice: Practice) -> None:
    aside = practice.data.rename(practice.place / "aside")
    practice.data.symlink_to(aside)
    practice.at_mount.unlink()
    practice.at_mount.symlink_to(aside)
    found = practice.attachments()
    with swap.live(found.path, found.identity) as live:
        assert live.path == aside
    practice.data.unlink()
    practice.data.mkdir()
    with pytest.raises(RefusedError, match="another directory was put there after it was looked at"):  # noqa: SIM117
        with swap.live(found.path, found.identity):
            pass
