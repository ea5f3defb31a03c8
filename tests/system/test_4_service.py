"""The service under systemd: it blocks, tells, yields, stops, and fails as an admin expects of a service."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system import admin, practice
from tests.system.machine import Machine, MachineError

FEW = "/srv/few"
FEW_ONLY = f"retry: {{attempts: 1}}\nattachments: {{path: {FEW}}}\napplication: {{table: null}}\n"
LIMIT = "[Service]\nTimeoutStartSec={}\n"
SLOW_TAR = """\
#!/bin/bash
set -o pipefail
[[ " $* " == *" --create "* ]] || exec /usr/bin/tar "$@"
/usr/bin/tar "$@" | (for _ in {{1..{mib}}}; do dd bs=1M count=1 iflag=fullblock status=none; sleep 0.4; done; cat)
"""
STEPS = "/run/step-"
# Passes on five MiB, and five more whenever there is the next of the files.
STEPPING_TAR = f"""\
#!/bin/bash
set -o pipefail
[[ " $* " == *" --create "* ]] || exec /usr/bin/tar "$@"
next() {{ dd bs=1M count=5 iflag=fullblock status=none; until [ -e {STEPS}$1 ]; do sleep 0.1; done; }}
/usr/bin/tar "$@" | (next 0; next 1; next 2; cat)
"""
RUN_ENTRY_FIELDS = {
    "MESSAGE_ID",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "DENTAL_PMS_EVENT",
    "DENTAL_PMS_TRIGGER",
}


@pytest.fixture
def host(practice_machine: Machine) -> Machine:
    """Both machines as delivered; the attachments are a directory of few files, and nothing is tried twice."""
    admin.make_ready(practice_machine)
    practice_machine.run(f"rm -rf {FEW} && mkdir {FEW} && echo x-ray >{FEW}/a.dcm")
    practice_machine.write(admin.CONFIG, FEW_ONLY)
    return practice_machine


def start(host: Machine, *, options: str = "") -> int:
    """Type `systemctl start` for the service and return its exit status."""
    return host.run(f"systemctl start {options} {admin.SERVICE}", check=False).returncode


def status_text(host: Machine) -> str:
    return admin.properties(host, admin.SERVICE, "StatusText")["StatusText"]


def result(host: Machine) -> dict[str, str]:
    return admin.properties(host, admin.SERVICE, "Result", "ExecMainStatus")


def run_of(found: list[admin.Entry]) -> list[tuple[str, str]]:
    """Return event and message of the entries that the program wrote."""
    return [(entry["DENTAL_PMS_EVENT"], entry["MESSAGE"]) for entry in found if "DENTAL_PMS_EVENT" in entry]


PID = "$(cat /root/pid)"
AWAIT_END = f"tail --pid={PID} -f /dev/null"


def in_background(host: Machine, words: str, stderr: str) -> None:
    """Type a run that goes on when this returns, with a dump that waits for a lock; it says what it says in a file."""
    heeds = "env --default-signal=INT"  # what a shell starts in the background ignores it
    host.run(f"{heeds} dental-pms-backup {words} </dev/null >/root/said {stderr} & echo $! >/root/pid")
    admin.wait_for(lambda: admin.sessions_of_dumps(host) == 2)


@contextmanager
def slow_tar(host: Machine, *, mib: int = 20) -> Iterator[None]:
    """Let the attachments take 0.4 seconds for each MiB, which tar writes one by one."""
    host.run(f"head -c {mib}M /dev/urandom >{FEW}/large")
    host.write("/usr/local/bin/tar", SLOW_TAR.format(mib=mib), mode=0o755)
    try:
        yield
    finally:
        host.run(f"rm {FEW}/large /usr/local/bin/tar")


@pytest.mark.each_release
def test_start_returns_when_the_run_is_done_and_the_set_is_there(host: Machine) -> None:
    assert start(host) == 0
    assert admin.state(host) == "inactive"
    assert [entry["state"] for entry in admin.sets(host)] == ["verified"]
    assert result(host) == {"Result": "success", "ExecMainStatus": "0"}


def test_start_fails_when_the_run_failed_and_the_unit_is_failed(host: Machine) -> None:
    host.write(admin.CONFIG, "attachments: {path: /srv/missing}\n")
    assert start(host) == 1
    assert admin.state(host) == "failed"
    assert result(host) == {"Result": "exit-code", "ExecMainStatus": "1"}
    assert admin.sets(host) == []


def test_start_with_a_wrong_configuration_exits_78(host: Machine) -> None:
    host.write(admin.CONFIG, "kep: 14\n")
    began = admin.moment(host)
    assert start(host) == 1
    assert result(host) == {"Result": "exit-code", "ExecMainStatus": "78"}
    (refused,) = [entry for entry in admin.entries(host, began) if entry.get("DENTAL_PMS_EVENT") == "refused"]
    assert refused["MESSAGE"].startswith(f'{admin.CONFIG}:1: "kep": unknown key, expected one of ')
    assert refused["DENTAL_PMS_CAUSE"] == "configuration"


@pytest.mark.each_release
def test_journal_tells_the_story_of_a_run_with_fields(host: Machine) -> None:
    began = admin.moment(host)
    assert start(host) == 0
    found = [entry for entry in admin.entries(host, began) if "DENTAL_PMS_EVENT" in entry]
    name = admin.sets(host)[0]["set"]
    version = {"trixie": "PostgreSQL 15", "bookworm": "PostgreSQL 17"}[host.suite]
    size = r"\d+(\.\d)? [kM]?B"
    story = [
        ("run-started", f"run of db and attachments into {admin.FALLBACK_STORE} started"),
        ("stream-taken", rf"db: {size} taken and verified \({version}, road namespace\)"),
        ("stream-taken", rf"attachments: {size} taken and verified \(2 entries\)"),
        ("set-published", f"set {name} is published: {size} in 4 files"),
        ("run-succeeded", f"run finished: set {name} in \\d+ s, 0 removed"),
    ]
    told = run_of(found)
    assert [event for event, _ in told] == [event for event, _ in story]
    for (_, message), (_, pattern) in zip(told, story, strict=True):
        assert re.fullmatch(pattern, message)
    for entry in found:
        assert set(entry) >= RUN_ENTRY_FIELDS
        assert entry["DENTAL_PMS_TRIGGER"] == "service"
        assert entry["SYSLOG_IDENTIFIER"] == "dental-pms-backup"
        assert entry["_SYSTEMD_UNIT"] == admin.SERVICE
    assert [entry.get("DENTAL_PMS_STREAM") for entry in found] == [None, "db", "attachments", None, None]
    assert [entry.get("DENTAL_PMS_SET") for entry in found] == [None, None, None, name, name]
    assert int(found[1]["DENTAL_PMS_BYTES"]) > 1_000_000


def test_journalctl_explains_what_an_entry_means_and_what_to_do(host: Machine) -> None:
    host.write(admin.CONFIG, "retry: {attempts: 1}\nattachments: {path: /srv/missing}\n")
    began = admin.moment(host)
    start(host)
    explained = host.run(f"journalctl --sync; journalctl -x --unit {admin.SERVICE} --no-pager --since='{began}'").stdout
    assert "Subject: A backup run started" in explained
    assert "Subject: A backup run FAILED" in explained
    assert 'cause in one word is "source"' in explained
    assert "ls -ld /srv/missing" in explained
    assert "@DENTAL_PMS" not in explained


def test_every_entry_of_a_run_is_in_the_catalog(host: Machine) -> None:
    began = admin.moment(host)
    start(host)
    ids = {entry["MESSAGE_ID"] for entry in admin.entries(host, began) if "DENTAL_PMS_EVENT" in entry}
    assert len(ids) == 4
    listed = host.run("journalctl --list-catalog | grep dental-pms-backup").stdout
    assert all(message_id in listed for message_id in ids)


def test_run_by_hand_is_in_the_services_journal(host: Machine) -> None:
    began = admin.moment(host)
    admin.took(host, "run attachments")
    found = [entry for entry in admin.entries(host, began) if "DENTAL_PMS_EVENT" in entry]
    assert admin.events(found) == ["run-started", "stream-taken", "set-published", "run-succeeded"]
    assert {entry["DENTAL_PMS_TRIGGER"] for entry in found} == {"command"}


@pytest.mark.each_release
def test_status_says_what_the_run_does_and_moves(host: Machine) -> None:
    moving = r"attachments: (\d+\.\d) MB, \d+ % of the last run's 2\d\.\d MB, about .* left"
    seen = [0.0]

    def has_moved() -> bool:
        found = re.fullmatch(moving, status_text(host))
        if found and float(found[1]) > seen[-1]:
            seen.append(float(found[1]))
        return len(seen) > step + 1

    host.run(f"head -c 20M /dev/urandom >{FEW}/large; rm -f {STEPS}*")
    assert start(host) == 0
    host.write("/usr/local/bin/tar", STEPPING_TAR, mode=0o755)
    try:
        with admin.locked_table(host):
            assert start(host, options="--no-block") == 0
            admin.wait_for(lambda: status_text(host).startswith("db"))
        for step in range(3):
            admin.wait_for(has_moved)
            host.run(f"touch {STEPS}{step}")
        admin.wait_for(lambda: admin.state(host) == "inactive")
    finally:
        host.run(f"rm -f /usr/local/bin/tar {STEPS}*")


def test_status_command_and_systemctl_status_say_that_a_run_is_going_on(host: Machine) -> None:
    with admin.locked_table(host):
        assert start(host, options="--no-block") == 0
        admin.wait_for(lambda: admin.sessions_of_dumps(host) == 2)
        assert json.loads(admin.dental(host, "status --json").stdout)["running"] is True
        shown = host.run(f"systemctl status {admin.SERVICE}", check=False).stdout
        assert re.search(r'Status: "db', shown)
    admin.wait_for(lambda: admin.state(host) == "inactive")
    assert json.loads(admin.dental(host, "status --json").stdout)["running"] is False


def test_run_that_moves_bytes_may_take_longer_than_the_start_timeout(host: Machine) -> None:
    admin.drop_in(host, LIMIT.format(12))
    began = admin.moment(host)
    with slow_tar(host, mib=40):
        assert start(host) == 0
    assert result(host)["Result"] == "success"
    told = [entry for entry in admin.entries(host, began) if "DENTAL_PMS_EVENT" in entry]
    first_us, last_us = (int(told[place]["__MONOTONIC_TIMESTAMP"]) for place in (0, -1))
    assert last_us - first_us > 12_000_000


def test_run_that_hangs_before_its_first_byte_is_ended_at_the_start_timeout(host: Machine) -> None:
    admin.drop_in(host, LIMIT.format(5))
    host.run("systemctl kill --signal=STOP docker.service")
    try:
        assert start(host) == 1
        assert result(host)["Result"] == "timeout"
    finally:
        host.run("systemctl kill --signal=CONT docker.service")
    admin.drop_in(host, "")
    assert start(host) == 0


@pytest.mark.thorough
def test_run_that_moves_no_byte_any_more_gives_up_by_itself(host: Machine) -> None:
    host.write(admin.CONFIG, f"stall_timeout_s: 5\n{FEW_ONLY}")
    began = admin.moment(host)
    with admin.locked_table(host):
        assert start(host) == 1
        assert admin.sessions_of_dumps(host) == 0
    (failed,) = [entry for entry in admin.entries(host, began) if entry.get("DENTAL_PMS_EVENT") == "run-failed"]
    assert failed["DENTAL_PMS_CAUSE"] == "stalled"
    assert admin.names(host, admin.FALLBACK_STORE) == []


@pytest.mark.each_release
def test_stop_in_the_middle_of_the_attachments_leaves_no_trace(host: Machine) -> None:
    with slow_tar(host):
        assert start(host, options="--no-block") == 0
        admin.wait_for(lambda: status_text(host).startswith("attachments"))
        host.run(f"systemctl stop {admin.SERVICE}", timeout_s=25)
    assert admin.names(host, admin.FALLBACK_STORE) == []
    assert host.run("cat /proc/[0-9]*/comm", check=False).stdout.split().count("tar") == 0


@pytest.mark.thorough
def test_interrupt_from_the_keyboard_ends_a_run_by_hand(host: Machine) -> None:
    with admin.locked_table(host):
        in_background(host, "run", "2>/dev/null")
        host.run(f"kill -INT {PID}; {AWAIT_END}", timeout_s=90)
        assert admin.sessions_of_dumps(host) == 0
    assert host.run("cat /root/said").stdout == "failure=interrupted\nbackup_run_status=failed\n"
    assert admin.names(host, admin.FALLBACK_STORE) == []


@pytest.mark.thorough
def test_database_that_is_stopped_is_tried_again_and_then_fails_as_temporary(host: Machine) -> None:
    host.write(
        admin.CONFIG, f"retry: {{attempts: 2, wait_s: 1}}\nattachments: {{path: {FEW}}}\napplication: {{table: null}}\n"
    )
    began = admin.moment(host)
    host.run("docker stop --time 2 dental-pms-db-1")
    try:
        assert start(host) == 1
    finally:
        host.run("docker start dental-pms-db-1")
        practice.wait_until_healthy(host)
    assert result(host) == {"Result": "exit-code", "ExecMainStatus": "75"}
    found = admin.entries(host, began)
    assert admin.events(found) == ["run-started", "trying-again", "run-failed"]
    assert [entry["MESSAGE"] for entry in found if entry["MESSAGE"].startswith(("failure", "backup_run"))] == [
        "failure=database",
        "backup_run_status=failed",
    ]
    assert start(host) == 0


def test_database_that_comes_back_between_two_tries_is_backed_up(host: Machine) -> None:
    host.write(
        admin.CONFIG,
        f"retry: {{attempts: 20, wait_s: 4}}\nattachments: {{path: {FEW}}}\napplication: {{table: null}}\n",
    )
    host.run("docker stop --time 2 dental-pms-db-1")
    began = admin.moment(host)
    assert start(host, options="--no-block") == 0
    admin.wait_for(lambda: status_text(host).startswith("waiting: db: "))
    host.run("docker start dental-pms-db-1")
    admin.wait_for(lambda: admin.state(host) in {"inactive", "failed"})
    assert admin.events(admin.entries(host, began))[-1] == "run-succeeded"


def test_second_run_at_the_same_time_is_refused_as_temporary(host: Machine) -> None:
    with admin.locked_table(host):
        assert start(host, options="--no-block") == 0
        admin.wait_for(lambda: admin.sessions_of_dumps(host) == 2)
        done = admin.dental(host, "run")
    assert (done.returncode, done.stdout) == (75, "failure=locked\nbackup_run_status=failed\n")
    admin.wait_for(lambda: admin.state(host) == "inactive")
    assert len(admin.sets(host)) == 1


def test_one_streams_failure_publishes_nothing_and_tells_of_the_other(host: Machine) -> None:
    began = admin.moment(host)
    host.write(
        admin.CONFIG, f"database: {{lock_wait_s: 1}}\nattachments: {{path: {FEW}}}\napplication: {{table: null}}\n"
    )
    with admin.locked_table(host):
        assert start(host) == 1
    found = admin.entries(host, began)
    assert admin.events(found) == ["run-started", "stream-failed", "stream-taken", "run-failed"]
    assert admin.names(host, admin.FALLBACK_STORE) == []


def test_run_yields_to_the_practice(host: Machine) -> None:
    with admin.locked_table(host):
        assert start(host, options="--no-block") == 0
        admin.wait_for(lambda: admin.sessions_of_dumps(host) == 2)
        main = admin.properties(host, admin.SERVICE, "MainPID")["MainPID"]
        policies = host.run(f"chrt --pid {main}; ionice -p {main}").stdout
        host.run(f"systemctl stop {admin.SERVICE}")
    assert "SCHED_BATCH" in policies
    assert "idle" in policies
    shown = admin.properties(host, admin.SERVICE, "Nice", "IOSchedulingClass", "CPUSchedulingPolicy")
    assert shown == {"Nice": "10", "IOSchedulingClass": "3", "CPUSchedulingPolicy": "3"}


def test_service_is_ordered_after_docker_and_postgresql_without_requiring_either(host: Machine) -> None:
    shown = admin.properties(host, admin.SERVICE, "After", "Requires", "Wants", "BindsTo", "Type", "NotifyAccess")
    assert {"docker.service", "postgresql.service", "network-online.target"} <= set(shown.pop("After").split())
    pulled_in = " ".join(shown.pop(name) for name in ("Requires", "Wants", "BindsTo"))
    assert not re.search("docker|postgresql|network", pulled_in)
    assert shown == {"Type": "oneshot", "NotifyAccess": "main"}


@pytest.mark.each_release
def test_no_password_and_no_row_reaches_journal_output_or_arguments(host: Machine) -> None:
    practice.sql(host, "create table if not exists leak (who text); insert into leak values ('PATIENT-Zacharias')")
    began = admin.moment(host)
    try:
        seen = host.run("dental-pms-backup -v run 2>&1; dental-pms-backup show latest").stdout
        with admin.locked_table(host):
            in_background(host, "-v run", "2>&1")
            arguments = host.run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '", check=False).stdout
            host.run(f"kill {PID}; {AWAIT_END}", timeout_s=90)
            host.write(
                admin.CONFIG,
                f"database: {{lock_wait_s: 1}}\nattachments: {{path: {FEW}}}\napplication: {{table: null}}\n",
            )
            failing = "cat /root/said; dental-pms-backup -v run 2>&1; dental-pms-backup status"
            seen += arguments + host.run(failing, check=False).stdout
    finally:
        practice.sql(host, "drop table leak")
    told = json.dumps(admin.entries(host, began, matches=""))
    assert "pg_dump --" in arguments
    for secret in (practice.PASSWORD, "PATIENT-Zacharias", "SCRAM-SHA-256", "argon2id"):
        assert secret not in seen
        assert secret not in told


def test_dump_of_a_set_holds_no_role_passwords(host: Machine) -> None:
    admin.took(host, "run db")
    roles = host.run(f"gzip -dc {admin.FALLBACK_STORE}/db/globals_*.sql.gz").stdout
    assert "CREATE ROLE dental_app" in roles
    assert "SCRAM-SHA-256" not in roles
    assert practice.PASSWORD not in roles


@pytest.mark.each_release
def test_timer_that_the_admin_enabled_fires_and_the_journal_says_timer(host: Machine) -> None:
    # TRIGGER_TIMER_REALTIME_USEC, by which a run knows, is there since systemd 252: on both suites.
    admin.drop_in(host, "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/4\n", admin.TIMER)
    began = admin.moment(host)
    host.run(f"systemctl enable --now {admin.TIMER}")
    admin.wait_for(lambda: "run-succeeded" in admin.events(admin.entries(host, began)))
    host.run(f"systemctl disable --now {admin.TIMER}")
    admin.wait_for(lambda: admin.state(host) == "inactive")
    found = [entry for entry in admin.entries(host, began) if "DENTAL_PMS_EVENT" in entry]
    assert {entry["DENTAL_PMS_TRIGGER"] for entry in found} == {"timer"}
    assert admin.sets(host)[0]["state"] == "verified"


def test_timer_catches_up_a_night_that_the_machine_slept_through(host: Machine) -> None:
    stamp = "/var/lib/systemd/timers/stamp-dental-pms-backup.timer"
    host.run(f"mkdir -p /var/lib/systemd/timers && touch --date='-3 days' {stamp}")
    began = admin.moment(host)
    host.run(f"systemctl enable --now {admin.TIMER}")
    admin.wait_for(lambda: "run-succeeded" in admin.events(admin.entries(host, began)))


def test_list_show_verify_and_status_say_the_same_for_people_and_programs(host: Machine) -> None:
    admin.took(host, "run")
    (stored,) = admin.sets(host)
    name = stored["set"]
    assert {**stored, "taken_at": "", "db_size_bytes": 0, "attachments_size_bytes": 0} == {
        "set": name,
        "taken_at": "",
        "state": "verified",
        "pinned": False,
        "db_size_bytes": 0,
        "attachments_size_bytes": 0,
        "suspicions": [],
        "problems": [],
        "drill": None,
    }
    head, line = admin.dental(host, "list").stdout.splitlines()
    assert head.split() == ["SET", "UTC", "AGE", "DB", "ATTACHMENTS", "STATE"]
    assert line.startswith(name)
    assert line.endswith("  verified")
    shown = json.loads(admin.dental(host, f"show {name} --json").stdout)
    assert {key: shown[key] for key in stored} == stored
    assert shown["manifest"] == json.loads(host.run(f"cat {admin.FALLBACK_STORE}/sets/{name}.json").stdout)
    assert admin.dental(host, "show oldest").stdout.startswith(f"set: {name}\n")
    assert admin.dental(host, "verify").stdout == f"{name}: good\n"
    assert json.loads(admin.dental(host, "verify --json").stdout) == [{"set": name, "good": True, "problems": []}]
    status = json.loads(admin.dental(host, "status --json").stdout)
    assert {key: status[key] for key in ("store", "sets", "running")} == {
        "store": admin.FALLBACK_STORE,
        "sets": 1,
        "running": False,
    }
    assert status["timer"].startswith("disabled, not running")
    assert status["last_run"]["result"] == "ok"
    said = admin.dental(host, "status").stdout.splitlines()
    assert said[0] == f"store: {admin.FALLBACK_STORE} (1 set)"
    assert [said[3], said[5]] == ["newest proven database: none", "running now: no"]
    assert said[4].startswith("last run: ok, began at ")


def test_set_that_does_not_exist_is_wrong_usage(host: Machine) -> None:
    done = admin.dental(host, "show latest")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"dental-pms-backup: {admin.FALLBACK_STORE}: no set, expected at least one\nhint: dental-pms-backup run\n"
    )
    assert admin.dental(host, "run files").returncode == 2
    assert admin.dental(host, "backup").returncode == 2


def test_config_check_show_and_schema(host: Machine) -> None:
    host.write(admin.CONFIG, "keep: 0\nretry:\n  atempts: 3\n")
    done = admin.dental(host, "config check")
    assert (done.returncode, done.stdout) == (78, "")
    said = done.stderr.splitlines()
    assert said == [
        f'dental-pms-backup: {admin.CONFIG}:3: "retry.atempts": unknown key, '
        "expected one of retry.attempts, retry.wait_s",
        f"dental-pms-backup: {admin.CONFIG}:1: keep: 0 is too small, expected a whole number from 1 to 1000000",
        "hint: man dental-pms-backup.yaml",
    ]
    host.write(admin.CONFIG, "keep: 21\n")
    shown = json.loads(admin.dental(host, "config show --json").stdout)
    assert shown["keys"]["keep"] == {"value": 21, "origin": f"{admin.CONFIG}:1"}
    assert f"keep: 21  # {admin.CONFIG}:1" in admin.dental(host, "config show").stdout.splitlines()
    schema = json.loads(admin.dental(host, "config schema").stdout)
    assert set(schema["properties"]["retry"]["properties"]) == {"attempts", "wait_s"}


def test_dry_run_reaches_the_sources_and_touches_nothing(host: Machine) -> None:
    done = admin.dental(host, "run --dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "nothing was done: dry run"
    with pytest.raises(MachineError):
        host.run(f"ls {admin.FALLBACK_STORE}")


@pytest.mark.each_release
def test_service_backs_up_a_native_database_and_directory(host: Machine) -> None:
    admin.make_native_ready(host)
    host.write(admin.CONFIG, admin.NATIVE)
    assert start(host) == 0
    name = admin.sets(host)[0]["set"]
    manifest = json.loads(host.run(f"cat {admin.FALLBACK_STORE}/sets/{name}.json").stdout)
    assert manifest["streams"]["db"]["source"]["source"] == "native"


@pytest.fixture
def small_store(host: Machine) -> Iterator[str]:
    """A store on a disk of its own with room for 20 MB; the attachments are 40 MB."""
    host.run("mkdir -p /srv/store && mount -t tmpfs -o size=20M,mode=700 tmpfs /srv/store")
    host.run(f"head -c 40M /dev/urandom >{FEW}/large")
    yield "/srv/store"
    host.run(f"umount /srv/store; rm {FEW}/large")


def test_store_without_the_room_in_reserve_is_refused_before_anything_is_written(
    host: Machine, small_store: str
) -> None:
    done = admin.dental(host, "run", environment={"BACKUP_DIR": small_store})
    assert (done.returncode, done.stdout) == (1, "failure=room\nbackup_run_status=failed\n")
    assert re.fullmatch(
        rf"dental-pms-backup: {small_store}: 2\d\.\d MB free, expected \d+\.\d MB "
        r"\(\d+\.\d MB for the set and 500 MB in reserve\)\n"
        rf"hint: df -h {small_store}; dental-pms-backup prune --dry-run\n",
        done.stderr,
    )
    assert admin.names(host, small_store) == []


def test_store_that_fills_up_during_the_run_fails_it_and_leaves_nothing(host: Machine, small_store: str) -> None:
    host.write(admin.CONFIG, f"reserve_mb: 0\n{FEW_ONLY}")
    done = admin.dental(host, "run", environment={"BACKUP_DIR": small_store})
    assert (done.returncode, done.stdout) == (1, "failure=store\nbackup_run_status=failed\n")
    assert "expected room in the store\n" in done.stderr
    assert admin.names(host, small_store) == []
