"""Removal and purge by apt: the program and its configuration go, a backup never does."""

import pytest

from tests.system import admin
from tests.system.machine import Machine

pytestmark = pytest.mark.each_release

STAMP = "/var/lib/systemd/timers/stamp-dental-pms-backup.timer"
GONE = {unit: ["not-found", "inactive"] for unit in (admin.TIMER, admin.SERVICE, admin.DRILL_TIMER, admin.DRILL)}


@pytest.fixture
def host(practice_machine: Machine) -> Machine:
    """Both machines with a set in the store, the timer enabled and once fired."""
    admin.make_ready(practice_machine)
    practice_machine.run(f"mkdir {admin.STORE} && systemctl start {admin.SERVICE}")
    practice_machine.run(f"systemctl enable --now {admin.TIMER} && touch {STAMP}")
    return practice_machine


def states(host: Machine) -> dict[str, list[str]]:
    """Return the units' states; what systemd 252 says on stderr about a unit without a file is put in, too."""
    return {
        unit: ["not-found", *found] if len(found) == 1 else found for unit, found in admin.unit_states(host).items()
    }


def test_removal_stops_the_timer_and_keeps_the_store_and_the_configuration(host: Machine) -> None:
    host.write(admin.CONFIG, "keep: 21\n")
    before = admin.files(host, admin.STORE)
    host.run(f"apt-get remove --yes {admin.PACKAGE}", timeout_s=120)
    assert states(host) == GONE
    assert host.run("command -v dental-pms-backup", check=False).returncode == 1
    assert admin.files(host, admin.STORE) == before
    assert host.run(f"cat {admin.CONFIG}").stdout == "keep: 21\n"


def test_installation_after_a_removal_finds_the_sets_and_the_configuration_again(host: Machine) -> None:
    host.write(admin.CONFIG, "keep: 21\n")
    host.run(f"apt-get remove --yes {admin.PACKAGE}", timeout_s=120)
    host.install(admin.package_file(host))
    assert [stored["state"] for stored in admin.sets(host)] == ["verified"]
    assert "keep: 21  # /etc/dental-pms/backup.yaml:1\n" in admin.dental(host, "config show").stdout


def test_purge_removes_configuration_and_the_timers_memory_but_no_backup_and_nothing_of_the_admins(
    host: Machine,
) -> None:
    host.write("/etc/dental-pms/rclone.conf", "[practice-crypt]\n", mode=0o600)
    before = admin.files(host, admin.STORE)
    host.run(f"apt-get purge --yes {admin.PACKAGE}", timeout_s=120)
    assert states(host) == GONE
    assert admin.files(host, admin.STORE) == before
    assert host.run("ls /etc/dental-pms").stdout == "rclone.conf\n"
    left = (
        "find / -xdev -name '*dental-pms-backup*' -not -path '/proc/*' -not -path '/root/*' -not -path '/var/cache/*'"
    )
    assert host.run(f"{left} -not -path '/var/lib/dpkg/*' -not -path '/var/log/*'", check=False).stdout == ""
    host.run("rm -r /etc/dental-pms")


def test_removal_ends_a_run_in_progress_cleanly(host: Machine) -> None:
    before = admin.files(host, admin.STORE)
    with admin.locked_table(host):
        host.run(f"systemctl start --no-block {admin.SERVICE}")
        admin.wait_for(lambda: admin.sessions_of_dumps(host) == 2)
        host.run(f"apt-get remove --yes {admin.PACKAGE}", timeout_s=120)
        assert admin.sessions_of_dumps(host) == 0
    assert states(host) == GONE
    assert admin.files(host, admin.STORE) == before
    assert not any(name.endswith(".draft") for name in admin.names(host, admin.STORE))
