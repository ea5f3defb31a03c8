"""A set is drilled on a booted machine: in a container of the live image, and in a private cluster."""

import random
import re
import time
from collections.abc import Iterator

import pytest

from tests import faults
from tests.system import admin, practice
from tests.system.machine import Machine

DB = "dental-pms-db-1"
DRILL = "dental-pms-backup-drill.service"
OURS = "docker ps --all --quiet --filter label=dental-pms-backup.drill"
IDENTITY = "select system_identifier, pg_postmaster_start_time() from pg_control_system()"
KILLS = 50
BETWEEN_WHOLE_ONES = 10
CLEARED = r"\d+ things that a killed drill left were removed\n"


@pytest.fixture
def host(practice_machine: Machine) -> Iterator[Machine]:
    """Both machines, with the package as delivered and one set in the store; afterwards the practice is up."""
    admin.make_ready(practice_machine)
    practice_machine.run(f"systemctl stop {DRILL}; systemctl reset-failed")
    admin.took(practice_machine)
    yield practice_machine
    practice.put_up_again(practice_machine)


def drills_well(host: Machine, *, where: str, words: str = "drill") -> dict[str, str]:
    """Drill, expecting a proven set and nothing left, and return what was printed."""
    volumes = host.run("docker volume ls --quiet").stdout
    done = admin.dental(host, words)
    assert (done.returncode, re.sub(CLEARED, "", done.stderr)) == (0, ""), done
    said = dict(admin.values(done.stdout))
    assert (said["drill_where"], said["drill_status"]) == (where, "proven")
    assert admin.sets(host)[-1]["state"] == "proven"
    assert left_behind(host) == ""
    assert set(host.run("docker volume ls --quiet").stdout.split()) <= set(volumes.split())  # a killed one's goes, too
    return said


def left_behind(host: Machine) -> str:
    """Return the containers, directories and processes that drills left."""
    directories = "ls -d /var/tmp/dental-pms-drill-* /tmp/systemd-private-*drill*/tmp/dental-pms-drill-* 2>/dev/null"
    programs = "pgrep -fa '[d]ental-pms-drill-[0-9a-f]{10}|[d]ental_pms_drill'"
    return host.run(f"{OURS}; {directories}; {programs}; true").stdout


def test_a_set_of_a_compose_project_is_proven_in_a_container_of_its_image(host: Machine) -> None:
    before = practice.sql(host, IDENTITY)
    said = drills_well(host, where="container")
    proofs = {name: result for name, result in said.items() if name.startswith("proof_")}
    assert proofs == dict.fromkeys(proofs, "passed")
    assert len(proofs) == 6
    assert int(said["rows_with_files"]) > 0
    assert practice.sql(host, IDENTITY) == before


def test_a_set_of_a_native_database_is_proven_in_a_private_cluster(host: Machine) -> None:
    admin.make_native_ready(host)
    host.write(admin.CONFIG, admin.NATIVE)
    admin.took(host)
    drills_well(host, where="cluster")


def test_a_set_is_proven_while_the_practice_is_down(host: Machine) -> None:
    host.run(f"docker stop {DB}")
    drills_well(host, where="container")


def test_the_container_of_a_drill_has_the_live_image_no_network_and_no_word_of_the_live_server(host: Machine) -> None:
    host.run(f"systemctl start --no-block {DRILL}")
    admin.wait_for(lambda: host.run(OURS).stdout != "", timeout_s=60)
    asked = "{{.Image}} {{.HostConfig.NetworkMode}} {{.Config.Env}}"
    shown = host.run(f"docker inspect --format '{asked}' $({OURS})").stdout
    image = host.run(f"docker inspect --format '{{{{.Image}}}}' {DB}").stdout.strip()
    assert shown.startswith(f"{image} none ")
    assert f"db image id: {image}\n" in admin.dental(host, "show latest").stdout
    assert practice.PASSWORD not in shown
    admin.wait_for(lambda: admin.properties(host, DRILL, "ActiveState")["ActiveState"] != "activating", timeout_s=60)


@pytest.mark.parametrize("source", ["compose", "native"])
def test_the_service_drills_the_newest_set_in_its_sandbox(host: Machine, source: str) -> None:
    if source == "native":
        admin.make_native_ready(host)
        host.write(admin.CONFIG, admin.NATIVE)
        admin.took(host)
    host.run(f"systemctl start {DRILL}", timeout_s=120)
    assert admin.sets(host)[-1]["state"] == "proven"
    assert left_behind(host) == ""


def test_a_run_starts_the_drill_when_the_configuration_wants_it(host: Machine) -> None:
    host.write(admin.CONFIG, "drill:\n  after_run: true\n")
    host.run(f"systemctl start {admin.SERVICE}", timeout_s=120)
    admin.wait_for(lambda: admin.sets(host)[-1]["state"] == "proven", timeout_s=60)
    assert len(admin.sets(host)) == 2


@pytest.mark.fault("Ourselves", f"at {KILLS} random moments a drill in a container is killed")
def test_a_drill_in_a_container_that_is_killed_at_any_moment_leaves_nothing_after_the_next(host: Machine) -> None:
    before = practice.sql(host, IDENTITY), admin.files(host, admin.FALLBACK_STORE)
    volumes = host.run("docker volume ls --quiet").stdout
    began = time.monotonic()
    drills_well(host, where="container", words="drill latest")
    takes_s = time.monotonic() - began
    chance = random.Random(20260203)  # noqa: S311 - moments, the same in every run of the tests
    moments = [f"{takes_s * (number + chance.random()) / KILLS:.2f}" for number in range(KILLS)]  # all over a drill
    chance.shuffle(moments)
    killed = 0
    for first in range(0, KILLS, BETWEEN_WHOLE_ONES):
        killing = "timeout --signal=KILL $after dental-pms-backup drill latest >/dev/null 2>&1; echo $?"
        batch = " ".join(moments[first : first + BETWEEN_WHOLE_ONES])
        killed += host.run(f"for after in {batch}; do {killing}; done", timeout_s=300).stdout.split().count("137")
        drills_well(host, where="container", words="drill latest")
    assert killed > KILLS * 3 / 4
    assert host.run("docker volume ls --quiet").stdout == volumes
    now = {path: digest for path, digest in admin.files(host, admin.FALLBACK_STORE).items() if "drill" not in path}
    assert (practice.sql(host, IDENTITY), now) == before
    faults.saw(status="killed", store=faults.AS_BEFORE, events=[])
    faults.recovered("ok, and proven, every time")
