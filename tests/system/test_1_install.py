"""Installation, reinstallation and upgrade by apt: nothing starts, nothing is enabled, nothing that runs is ended."""

import re

import pytest

from tests.system import admin
from tests.system.machine import Machine

pytestmark = pytest.mark.each_release

AT_REST = {
    admin.TIMER: ["disabled", "inactive"],
    admin.SERVICE: ["static", "inactive"],
    admin.DRILL_TIMER: ["disabled", "inactive"],
    admin.DRILL: ["static", "inactive"],
}
ENABLED = AT_REST | {admin.TIMER: ["enabled", "active"]}
SHIPPED = {
    "/etc/dental-pms/backup.yaml",
    "/usr/bin/dental-pms-backup",
    "/usr/lib/systemd/catalog/dental-pms-backup.catalog",
    "/usr/lib/systemd/system-preset/50-dental-pms-backup.preset",
    "/usr/lib/systemd/system/dental-pms-backup-drill.service",
    "/usr/lib/systemd/system/dental-pms-backup-drill.timer",
    "/usr/lib/systemd/system/dental-pms-backup.service",
    "/usr/lib/systemd/system/dental-pms-backup.timer",
    "/usr/lib/sysusers.d/dental-pms-backup.conf",
    "/usr/share/bash-completion/completions/dental-pms-backup",
    "/usr/share/dental-pms-backup/backup.schema.json",
    "/usr/share/dental-pms-backup/dental-pms-backup",
    "/usr/share/doc/dental-pms-backup/changelog.gz",
    "/usr/share/doc/dental-pms-backup/copyright",
    "/usr/share/doc/dental-pms-backup/examples/backup.yaml",
    "/usr/share/doc/dental-pms-backup/examples/docker-exec-only.conf",
    "/usr/share/doc/dental-pms-backup/examples/native-user.conf",
    "/usr/share/doc/dental-pms-backup/examples/store-mount.conf",
    "/usr/share/doc/dental-pms-backup/examples/strict-sandbox.conf",
    "/usr/share/doc/dental-pms-backup/examples/timer-time.conf",
    "/usr/share/lintian/overrides/dental-pms-backup",
    "/usr/share/man/man5/dental-pms-backup.yaml.5.gz",
    "/usr/share/man/man8/dental-pms-backup.8.gz",
}


@pytest.fixture
def installed(machine: Machine) -> Machine:
    admin.make_ready(machine)
    return machine


def test_apt_installs_the_package_and_what_it_needs(machine: Machine) -> None:
    machine.run(f"dpkg --purge {admin.PACKAGE}", check=False)  # a machine of an earlier run has it
    machine.install(admin.package_file(machine))
    needed = "python3-seccomp python3-sh python3-systemd python3-yaml python3-tqdm bubblewrap"
    states = machine.run(f"dpkg-query --show --showformat='${{db:Status-Status}} ' {admin.PACKAGE} {needed}").stdout
    assert states.split() == ["installed"] * 7
    assert admin.unit_states(machine) == AT_REST
    assert machine.run("getent passwd dental-pms-drill").stdout.endswith(":/nonexistent:/usr/sbin/nologin\n")
    machine.run("apt-get check")


def test_installed_command_says_the_packages_version(installed: Machine) -> None:
    said = admin.dental(installed, "--version").stdout
    assert re.fullmatch(r"dental-pms-backup \d+\.\d+\.\d+\n", said)
    assert admin.installed_version(installed).startswith(said.split()[1])


def test_installed_configuration_is_good_as_it_is(installed: Machine) -> None:
    done = admin.dental(installed, "config check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "/etc/dental-pms/backup.yaml: good\n", "")


def test_package_ships_its_manuals_completion_schema_catalog_and_examples(installed: Machine) -> None:
    listed = installed.run(
        f"dpkg --listfiles {admin.PACKAGE} | while read -r path; do [ ! -f $path ] || echo $path; done"
    )
    # Debian 12's own build puts units into /lib, which is /usr/lib
    files = {re.sub("^/lib/", "/usr/lib/", path) for path in listed.stdout.splitlines()}
    modules = {path for path in files if path.startswith("/usr/share/dental-pms-backup/dental_pms_backup/")}
    readme = {path for path in files if path.startswith("/usr/share/doc/dental-pms-backup/README.md")}
    hooks = {path for path in files if path.startswith("/usr/share/python3/")}
    assert len(modules) > 20
    assert len(readme) == 1
    assert files - modules - readme - hooks == SHIPPED


def test_package_files_are_as_they_were_delivered(installed: Machine) -> None:
    assert installed.run(f"dpkg --verify {admin.PACKAGE}").stdout == ""


def test_only_conffile_is_the_configuration_and_everybody_may_read_it(installed: Machine) -> None:
    conffiles = installed.run(f"dpkg-query --show --showformat='${{Conffiles}}' {admin.PACKAGE}").stdout.split()
    assert conffiles[::2] == [admin.CONFIG]
    assert installed.run(f"stat --format='%A %U %G' {admin.CONFIG}").stdout == "-rw-r--r-- root root\n"


def test_systemd_finds_nothing_wrong_with_the_units(installed: Machine) -> None:
    done = installed.run(
        f"systemd-analyze verify --man=no {admin.SERVICE} {admin.TIMER} {admin.DRILL} {admin.DRILL_TIMER}"
    )
    assert done.stdout + done.stderr == ""


def test_preset_keeps_the_timer_disabled(installed: Machine) -> None:
    installed.run(f"systemctl preset {admin.TIMER} {admin.DRILL_TIMER}")
    assert admin.unit_states(installed) == AT_REST


def test_schema_and_examples_are_what_the_command_prints(installed: Machine) -> None:
    installed.run(f"{admin.PACKAGE} config schema | cmp - /usr/share/dental-pms-backup/backup.schema.json")
    example = "/usr/share/doc/dental-pms-backup/examples/backup.yaml"
    checked = admin.dental(installed, f"--config {example} config check")
    assert (checked.returncode, checked.stdout) == (0, f"{example}: good\n")


def test_bash_completes_the_commands(installed: Machine) -> None:
    completed = installed.run(
        ". /usr/share/bash-completion/completions/dental-pms-backup;"
        "COMP_WORDS=(dental-pms-backup re) COMP_CWORD=1; _dental_pms_backup; echo ${COMPREPLY[*]}"
    )
    assert completed.stdout == "restore\n"


def test_reinstallation_starts_and_enables_nothing(installed: Machine) -> None:
    installed.install("--reinstall", admin.package_file(installed))
    assert admin.unit_states(installed) == AT_REST


def test_upgrade_starts_and_enables_nothing_and_keeps_an_edited_configuration(installed: Machine) -> None:
    edited = "keep: 21\n"
    installed.write(admin.CONFIG, edited)
    before = admin.installed_version(installed)
    installed.install(admin.newer_package(installed))
    assert admin.installed_version(installed) == f"{before}+1"
    assert admin.unit_states(installed) == AT_REST
    assert installed.run("ls /etc/dental-pms").stdout == "backup.yaml\n"
    assert installed.run(f"cat {admin.CONFIG}").stdout == edited


def test_timer_that_the_admin_enabled_stays_enabled_and_active_over_an_upgrade(installed: Machine) -> None:
    installed.run(f"systemctl enable --now {admin.TIMER}")
    installed.install(admin.newer_package(installed))
    assert admin.unit_states(installed) == ENABLED
    elapses = admin.properties(installed, admin.TIMER, "NextElapseUSecRealtime")["NextElapseUSecRealtime"]
    assert " 02:30:00 " in elapses


@pytest.mark.thorough
def test_timer_that_the_admin_enabled_stays_enabled_and_active_over_a_reinstallation(installed: Machine) -> None:
    installed.run(f"systemctl enable --now {admin.TIMER}")
    installed.install("--reinstall", installed.run("ls /root/newer/*.deb").stdout.strip())
    assert admin.unit_states(installed) == ENABLED


@pytest.mark.thorough
def test_timer_that_the_admin_disabled_again_stays_disabled_over_an_upgrade(installed: Machine) -> None:
    installed.run(f"systemctl enable --now {admin.TIMER} && systemctl disable --now {admin.TIMER}")
    installed.install(admin.newer_package(installed))
    assert admin.unit_states(installed) == AT_REST


def test_run_in_progress_survives_an_upgrade(practice_machine: Machine) -> None:
    admin.make_ready(practice_machine)
    delivered = practice_machine.run(f"cat {admin.CONFIG}").stdout
    practice_machine.write(admin.CONFIG, f"{delivered}database: {{lock_wait_s: 600}}\n")
    newer = admin.newer_package(practice_machine)
    began = admin.moment(practice_machine)
    with admin.locked_table(practice_machine):
        practice_machine.run(f"systemctl start --no-block {admin.SERVICE}")
        admin.wait_for(lambda: admin.sessions_of_dumps(practice_machine) == 2)
        practice_machine.install(newer)
        assert admin.state(practice_machine) == "activating"
    admin.wait_for(lambda: admin.state(practice_machine) == "inactive")
    assert admin.events(admin.entries(practice_machine, began))[-1] == "run-succeeded"
    assert [stored["state"] for stored in admin.sets(practice_machine)] == ["verified"]
    practice_machine.write(admin.CONFIG, delivered)


def test_downgrade_to_the_delivered_version_works(installed: Machine) -> None:
    installed.install("--allow-downgrades", admin.package_file(installed))
    assert admin.unit_states(installed) == AT_REST
