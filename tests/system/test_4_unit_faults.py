"""The service is ended, meets itself, or is short of something; its disk, its machine and its clock change."""

import json
from collections.abc import Iterator

import pytest

from tests import faults as table
from tests.system import admin, faults, practice
from tests.system.machine import Machine

DISK = "/root/disk"
MOUNT = "srv-dental\\x2dpms-.run-backups.mount"
EASTERN, WESTERN = "Pacific/Kiritimati", "Pacific/Pago_Pago"  # 25 hours apart


@pytest.fixture
def host(practice_machine: Machine) -> Machine:
    """Both machines, with a good set in the store."""
    faults.make_ready(practice_machine)
    return practice_machine


# --- it is ended


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "in the middle of the dump, the service is killed")
def test_a_service_that_is_killed_leaves_drafts_that_the_next_run_clears(host: Machine) -> None:
    with faults.dump_going_on(host) as run:
        host.run(f"systemctl kill --signal=KILL {admin.SERVICE}")
        faults.wait_until_ended(run)
    assert admin.properties(host, admin.SERVICE, "Result") == {"Result": "signal"}
    assert faults.drafts(host) != []
    assert [entry["state"] for entry in admin.sets(host)] == ["verified"]
    faults.was_killed(run)
    assert "store-recovered" in faults.recovers(host)


@pytest.mark.fault("Ourselves", "in the middle of the dump, the service is stopped")
def test_a_service_that_is_stopped_ends_the_dump_in_the_container_and_clears_up(host: Machine) -> None:
    with faults.dump_going_on(host) as run:
        host.run(f"systemctl stop {admin.SERVICE}", timeout_s=25)
        assert admin.sessions_of_dumps(host) == 0
    faults.has_failed(run, cause="interrupted")
    faults.recovers(host)


@pytest.mark.fault("Ourselves", "in the middle of the dump, the machine is killed, all of it at once")
def test_a_machine_that_is_killed_keeps_its_sets_and_the_next_run_clears_the_drafts(host: Machine) -> None:
    with faults.dump_going_on(host) as run:
        host.kill()
        host.boot_again()
    assert [entry["state"] for entry in admin.sets(host)] == ["verified"]
    assert faults.drafts(host) != []
    faults.was_killed(run)
    practice.put_up_again(host)
    assert "store-recovered" in faults.recovers(host)


# --- it meets itself


@pytest.fixture
def timer(host: Machine) -> Iterator[None]:
    """The timer fires at once when it is started, and then no more."""
    admin.drop_in(host, "[Timer]\nOnCalendar=\nOnActiveSec=0\n", admin.TIMER)
    yield
    host.run(f"systemctl stop {admin.TIMER}")


def begin_by_timer_beside_one_by_hand(host: Machine) -> faults.Run:
    """Start a run by hand, and when it is in its dump one by the timer."""
    host.run("dental-pms-backup run >/root/by-hand 2>&1 &")
    admin.wait_for(lambda: admin.sessions_of_dumps(host) > 0)
    run = faults.begin(host)
    host.run(f"systemctl start {admin.TIMER}")
    admin.wait_for(lambda: admin.state(host) != "inactive")
    return run


@pytest.mark.fault("Ourselves", "a run by the timer begins beside one by hand, and may wait for it")
@pytest.mark.usefixtures("timer")
def test_a_run_that_may_wait_for_another_one_succeeds_after_it(host: Machine) -> None:
    host.write(admin.CONFIG, f"{faults.CONFIG}lock_wait_s: 60\n")
    main = f"$(systemctl show --property=MainPID --value {admin.SERVICE})"
    asks = f"ls -l /proc/{main}/fd | grep --quiet '/[.]lock$'"
    with admin.locked_table(host):
        run = begin_by_timer_beside_one_by_hand(host)
        admin.wait_for(lambda: host.run(asks, check=False).returncode == 0)
    faults.wait_until_ended(run)
    assert admin.properties(host, admin.SERVICE, "Result") == {"Result": "success"}
    assert host.run("tail --lines=1 /root/by-hand").stdout == "backup_run_status=ok\n"
    by_hand, by_timer = faults.new_sets(run)
    assert admin.dental(host, f"verify {by_hand} {by_timer}").stdout == f"{by_hand}: good\n{by_timer}: good\n"
    run.told = [entry for entry in run.told if entry.get("DENTAL_PMS_TRIGGER") == "timer"]
    assert {entry.get("DENTAL_PMS_SET", by_timer) for entry in run.told} == {by_timer}
    table.saw(status=0, store=table.A_NEW_SET, events=run.events)
    faults.recovers(host)


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "a run by the timer begins beside one by hand, and may not wait for it")
@pytest.mark.usefixtures("timer")
def test_a_run_that_may_not_wait_for_another_one_is_temporary_and_the_other_succeeds(host: Machine) -> None:
    with admin.locked_table(host):
        run = begin_by_timer_beside_one_by_hand(host)
        said = faults.has_failed(run, cause="locked", status=75)
    assert said.endswith(f"\nhint: fuser -v {faults.STORE}/.lock")
    admin.wait_for(lambda: host.run("tail --lines=1 /root/by-hand").stdout == "backup_run_status=ok\n")
    assert len(faults.new_sets(run)) == 1
    faults.recovers(host)


# --- it is short of something


@pytest.mark.sample(2)
@pytest.mark.fault("Ourselves", "the unit has too little of")
@pytest.mark.parametrize(
    ("limit", "cause", "status", "said_of_it"),
    [
        ("LimitNOFILE=12", "temporary", 75, "Too many open files, expected room for more programs"),
        ("LimitFSIZE=500K", "store", 1, "expected room in the store"),
        ("LimitAS=200M", "docker", 75, "docker: fatal error: failed to reserve page summary memory"),
    ],
    ids=["open files", "file size", "memory for docker"],
)
def test_a_unit_that_is_short_of_something_fails_and_says_of_what(
    host: Machine, limit: str, cause: str, status: int, said_of_it: str
) -> None:
    admin.drop_in(host, f"[Service]\n{limit}\n")
    assert said_of_it in faults.fails(host, cause=cause, status=status)
    admin.drop_in(host, "")
    faults.recovers(host)


# --- its disk


@pytest.fixture
def disk(host: Machine) -> Iterator[None]:
    """The store on a disk of its own, by a mount unit, as one in /etc/fstab makes it."""
    host.run(f"mkdir {DISK} && mount -t tmpfs -o size=300M,mode=700 tmpfs {DISK} && mv {faults.STORE}/* {DISK}")
    host.run(f"rm -r {faults.STORE}")
    put_in(host, DISK)
    yield
    host.run(f"systemctl stop '{MOUNT}'; rm '/etc/systemd/system/{MOUNT}'; systemctl daemon-reload")
    host.run(f"umount {DISK} && rmdir {DISK}")


def put_in(host: Machine, device: str) -> None:
    """Let the mount unit mount this, and mount it if it is there."""
    options = "Type=none\nOptions=bind" if device == DISK else "Type=ext4"
    text = f"[Mount]\nWhat={device}\nWhere={faults.STORE}\n{options}\n"
    host.run(f"systemctl stop '{MOUNT}'", check=False)
    host.write(f"/etc/systemd/system/{MOUNT}", text)
    host.run(f"systemctl daemon-reload; systemctl start '{MOUNT}'", check=device == DISK)


@pytest.mark.thorough
@pytest.mark.fault("Store", "the disk is not there, and the unit requires its mount")
@pytest.mark.usefixtures("disk")
def test_a_unit_that_requires_the_mount_of_its_store_is_not_started_without_it(host: Machine) -> None:
    admin.drop_in(host, f"[Unit]\nRequiresMountsFor={faults.STORE}\n")
    put_in(host, "/root/no-disk.img")
    run = faults.begin(host)
    assert faults.start(host) == 1
    faults.wait_until_ended(run)
    assert any("Dependency failed" in entry["MESSAGE"] for entry in run.told)
    assert host.run(f"ls -A {faults.STORE}").stdout == ""
    table.saw(status="not started", store=table.AS_BEFORE, events=run.events)
    put_in(host, DISK)
    faults.recovers(host)


@pytest.mark.fault("Store", "the disk is not mounted, and require_mount is set")
@pytest.mark.usefixtures("disk")
def test_a_store_that_has_to_be_mounted_is_not_written_to_without_it(host: Machine) -> None:
    host.write(admin.CONFIG, f"{faults.CONFIG}require_mount: true\n")
    host.run(f"systemctl stop '{MOUNT}'")
    said = faults.fails(host, cause="room")
    assert said == (
        f"run failed: {faults.STORE}: on the root filesystem, expected a disk of its own (require_mount)\n"
        f"hint: findmnt -T {faults.STORE}"
    )
    assert host.run(f"ls -A {faults.STORE}").stdout == ""
    put_in(host, DISK)
    faults.recovers(host)


# --- its clock


@pytest.fixture
def language(host: Machine) -> Iterator[None]:
    """The system speaks Turkish, whose "i" has no upper case "I"."""
    host.run("localedef -i tr_TR -f UTF-8 tr_TR.UTF-8")
    was = host.run("readlink /etc/localtime", check=False).stdout.strip() or "/usr/share/zoneinfo/Etc/UTC"
    host.run("systemctl set-environment LANG=tr_TR.UTF-8 LC_ALL=tr_TR.UTF-8")
    yield
    host.run(f"systemctl unset-environment LANG LC_ALL; ln -sf {was} /etc/localtime")


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "the system's language and its time zone are changed between two runs")
@pytest.mark.usefixtures("language")
def test_sets_are_named_by_local_time_and_kept_by_their_age_when_the_time_zone_changes(host: Machine) -> None:
    (first,) = [entry["set"] for entry in admin.sets(host)]
    names = []
    for zone in (EASTERN, WESTERN):
        host.run(f"ln -sf /usr/share/zoneinfo/{zone} /etc/localtime")
        run = faults.begin(host)
        faults.start(host)
        names.append(faults.has_succeeded(run))
    eastern, western = names
    assert western < first < eastern
    assert [entry["set"] for entry in admin.sets(host)] == [first, eastern, western]
    shown = json.loads(admin.dental(host, "show latest --json").stdout)
    assert shown["set"] == western
    choices = admin.dental(host, "prune --dry-run", environment={"BACKUP_KEEP": "1"}).stdout.splitlines()
    assert {line.split()[4].rstrip(":") for line in choices if line.startswith("keep ")} == {western}
    faults.recovers(host)
