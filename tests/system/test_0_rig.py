"""The rig itself: what the other system tests take for granted."""

import os
import stat

import pytest

from tests.system import practice
from tests.system.machine import Machine

pytestmark = pytest.mark.each_release


def test_machine_is_booted_by_systemd(machine: Machine) -> None:
    assert machine.run("cat /proc/1/comm").stdout == "systemd\n"
    assert machine.run("systemctl is-active multi-user.target").stdout == "active\n"


def test_machine_starts_with_nothing_that_the_package_should_bring(machine: Machine) -> None:
    root = machine.work / "roots" / f"machine-{machine.suite}"
    assert not (root / "usr/bin/python3").exists()
    assert not (root / "usr/bin/igzip").exists()


def test_package_waits_in_root(machine: Machine) -> None:
    assert machine.run("ls /root/dental-pms-backup_*_all.deb").stdout.count("\n") == 1


def test_machine_command_that_takes_too_long_is_ended(trixie: Machine) -> None:
    assert trixie.run("sleep 60", check=False, timeout_s=1).returncode == 124


def test_machine_passes_bytes_that_are_not_utf8(trixie: Machine) -> None:
    assert os.fsencode(trixie.run("cat", stdin="\udcff\n").stdout) == b"\xff\n"


def test_native_postgresql_answers(machine: Machine) -> None:
    version = machine.run("runuser -u postgres -- psql -Atc 'SHOW server_version'").stdout
    assert version.startswith({"trixie": "17.", "bookworm": "15."}[machine.suite])


def test_container_postgresql_is_of_another_version_than_the_hosts(practice_machine: Machine) -> None:
    version = practice.sql(practice_machine, "SHOW server_version")
    assert version.startswith({"trixie": "15.", "bookworm": "17."}[practice_machine.suite])


def test_containers_carry_composes_labels(practice_machine: Machine) -> None:
    labels = ("project", "service", "project.working_dir", "oneoff", "container-number")
    form = " ".join(f'{{{{.Label "com.docker.compose.{label}"}}}}' for label in labels)
    project = "--filter label=com.docker.compose.project=dental-pms"
    listed = practice_machine.run(f"docker ps {project} --format '{form}'").stdout.splitlines()
    assert sorted(listed) == [
        "dental-pms backend /srv/dental-pms False 1",
        "dental-pms db /srv/dental-pms False 1",
    ]


def test_practice_has_rows_and_files_that_match(practice_machine: Machine) -> None:
    assert practice.sql(practice_machine, "SELECT count(*) FROM notes") == "15003"
    total = practice.sql(practice_machine, "SELECT sum(byte_size) FROM attachments")
    found = practice_machine.run(f"find {practice.ATTACHMENTS}/attachments -type f -printf '%s\\n'").stdout.split()
    assert sum(map(int, found)) == int(total)


def test_practice_has_files_with_odd_names_and_kinds(practice_machine: Machine) -> None:
    odd = practice_machine.path(f"{practice.ATTACHMENTS}/odd")
    names = {os.fsencode(file.name) for file in odd.iterdir()}
    assert {b"two\nlines", b"-rf", b"latin1-\xe9\xff", b"n" * 255} <= names
    assert stat.S_ISSOCK((odd / "socket").lstat().st_mode)
    assert (odd / "huge-uid").lstat().st_uid == 4_000_000_000
    assert (odd / "before-1970").lstat().st_mtime_ns < 0


def test_containers_come_back_after_docker_restarts(practice_machine: Machine) -> None:
    practice_machine.run("systemctl restart docker")
    practice.wait_until_healthy(practice_machine)
    assert practice.sql(practice_machine, "SELECT version_num FROM alembic_version") == "0056_backup_rehearsal"
