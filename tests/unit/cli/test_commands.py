"""The command line: exit statuses, and every word on stdout and stderr."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dental_pms_backup import __version__
from dental_pms_backup.cli import commands
from dental_pms_backup.store import lock, publishing, sets
from dental_pms_backup.store.sets import Stream
from tests.unit.builders import DUMP, NAME, NOW, TREE, files_below, name_of, night, program, published, python_path

RESTORE = "CONFIRM=YES dental-pms-backup restore db latest --in-place"
NO_SETS = "no set, expected at least one"


class Practice:
    """A configuration, a store and a docker that is down."""

    def __init__(self, directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.store = directory / "store"
        self.config = directory / "backup.yaml"
        self.capfd = capfd
        self.config.write_text(f"backup_dir: {self.store}\nreserve_mb: 0\nretry:\n  attempts: 1\n")
        self.docker = program(directory / "bin", "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1\n")

    def takes(self, directory: Path, more: str = "") -> None:
        """Take the attachments from a directory."""
        with self.config.open("a") as file:
            file.write(f"attachments:\n  path: {directory}\n{more}")

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell, in which $program stands for the command."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": python_path(),
            "TZ": "UTC",
            "program": f"{sys.executable} -W error -m dental_pms_backup -c {self.config}",
        }
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.config.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command in this process and return exit status, stdout and stderr."""
        try:
            status = commands.main(["-c", str(self.config), *arguments])
        except SystemExit as ended:  # argparse leaves so
            status = int(str(ended.code or 0))
        said = self.capfd.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err


@pytest.fixture
def practice(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Practice:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Practice(tmp_path, capfd)


def test_version_is_told(practice: Practice) -> None:
    assert practice.run("--version") == (0, f"dental-pms-backup {__version__}\n", "")


@pytest.mark.parametrize(
    ("to", "status", "said"),
    [
        ("", 0, f"dental-pms-backup {__version__}\n"),
        (
            ">/dev/full",
            1,
            "dental-pms-backup: standard output: No space left on device, so not everything was printed\n",
        ),
        (">&-", 0, ""),
    ],
)
def test_version_alone_is_told_as_soon_as_the_interpreter_runs(
    practice: Practice, to: str, status: int, said: str
) -> None:
    done = practice.shell(f"{sys.executable} -W error -m dental_pms_backup --version {to}")
    assert (done.returncode, done.stdout + done.stderr) == (status, said)


def test_version_is_the_packages() -> None:
    assert (TREE / "debian/changelog").read_text().split()[1] == f"({__version__})"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["backup"],
        ["run", "--no-such-option"],
        ["run", "files"],
        ["run", "db", "DB"],
        ["run", "--json"],
        ["show"],
        ["show", "latest", "oldest"],
        ["restore", "db"],
        ["restore", "files", "latest"],
        ["restore", "db", "latest", "--in-place", "--to", "other"],
        ["extract"],
        ["config"],
        ["config", "edit"],
        ["offsite"],
        ["offsite", "delete"],
        ["offsite", "fetch"],
        ["list", "--config"],
        ["demo", "--keep"],
        ["prune", "latest"],
        ["prune", "--json"],
        ["keep"],
        ["keep", "latest", "oldest"],
        ["keep", "--forever", "latest"],
        ["accept"],
        ["accept", "--release", "latest"],
    ],
)
def test_wrong_usage_exits_2_and_shows_the_usage(arguments: list[str], practice: Practice) -> None:
    status, out, err = practice.run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: dental-pms-backup ")
    assert ": error: " in err.splitlines()[-1]


def test_unknown_stream_is_named_with_the_known_ones(practice: Practice) -> None:
    assert practice.run("run", "files")[2].splitlines()[-1] == (
        'dental-pms-backup: error: "files": no such stream, expected db or attachments'
    )


@pytest.mark.parametrize(
    "command",
    [
        ["show", "2020-01-01_000000"],
        ["verify", "yesterday"],
        ["keep", "yesterday"],
        ["accept", "yesterday"],
    ],
)
def test_unknown_set_exits_2(command: list[str], practice: Practice) -> None:
    published(practice.store)
    said = (
        f'dental-pms-backup: "{command[1]}": no such set in {practice.store}, expected a name of the list\n'
        "hint: dental-pms-backup list\n"
    )
    assert practice.run(*command) == (2, "", said)


@pytest.mark.parametrize("command", [["show", "latest"], ["verify"], ["keep", "latest"], ["accept", "latest"]])
def test_empty_store_exits_2(command: list[str], practice: Practice) -> None:
    said = f"dental-pms-backup: {practice.store}: {NO_SETS}\nhint: dental-pms-backup run\n"
    assert practice.run(*command) == (2, "", said)


def test_restore_of_attachments_without_a_target_is_refused(practice: Practice) -> None:
    status, out, err = practice.run("restore", "attachments", "latest", "--yes")
    assert (status, out, err) == (
        4,
        "",
        "dental-pms-backup: restore: no target is named, expected --to and a directory, or "
        "--in-place to replace what is live\n"
        "hint: CONFIRM=YES dental-pms-backup restore attachments latest --in-place\n",
    )


@pytest.mark.parametrize("word", ["--replace", "--no-safety-set"])
def test_restore_beside_takes_no_word_that_is_about_what_is_live(word: str, practice: Practice) -> None:
    status, out, err = practice.run("restore", "db", "latest", word)
    assert (status, out) == (2, "")
    assert err.startswith("dental-pms-backup: restore: --replace and --no-safety-set change what is live, expected")


@pytest.mark.parametrize("confirm", [None, "", "no", "yes", "Y", "YES ", "1"])
def test_restore_in_place_without_a_clear_word_is_refused(
    confirm: str | None, practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    if confirm is not None:
        monkeypatch.setenv("CONFIRM", confirm)
    assert practice.run("restore", "db", "latest", "--in-place") == (
        4,
        "",
        f"dental-pms-backup: restore: this replaces the live db, expected --yes or CONFIRM=YES\nhint: {RESTORE}\n",
    )


@pytest.mark.parametrize("words", [["--yes"], []])
def test_restore_with_a_clear_word_goes_on_to_look_for_the_set(
    words: list[str], practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not words:
        monkeypatch.setenv("CONFIRM", "YES")
    status, _, err = practice.run("restore", "db", "latest", "--in-place", *words)
    assert (status, err.splitlines()[0]) == (2, f"dental-pms-backup: {practice.store}: {NO_SETS}")


@pytest.mark.parametrize(
    "words", [[], ["a", "--table", "b"], ["a", "--csv"], ["--csv"], ["--table", "b", "--stored-names"]]
)
def test_extract_takes_paths_or_a_table(words: list[str], practice: Practice) -> None:
    said = (
        "extract: expected paths of the attachments (--stored-names goes with them), "
        "or --table with a name (--csv goes with it)"
    )
    assert practice.run("extract", "latest", *words) == (2, "", f"dental-pms-backup: {said}\n")
    said = "extract: the rows of a table are SQL or CSV, expected --json with paths only"
    assert practice.run("extract", "latest", "--table", "b", "--json") == (2, "", f"dental-pms-backup: {said}\n")


def test_extract_of_a_table_tells_what_it_cannot_read_or_write(practice: Practice) -> None:
    file = practice.config.with_name("mine.sql")
    file.write_text(DUMP)
    status, out, err = practice.run("extract", str(file), "--table", "patients", "--to", "/proc/nothing")
    assert (status, out) == (2, "")
    assert err == "dental-pms-backup: /proc/nothing: No such file or directory, expected a new file to write to\n"
    lists = 'case "$*" in *"extract_table.pl list"*) cat >/dev/null; exit 3 ;; esac'
    program(practice.docker.parent, "perl", f'{lists}\nexec /usr/bin/perl "$@"\n')
    status, out, err = practice.run("extract", str(file), "--table", "patients")
    assert (status, out, err) == (
        1,
        "",
        "dental-pms-backup: db: perl: exit status 3, expected the tables of the dump\n",
    )


@pytest.mark.parametrize("streams", [[], ["db"], ["attachments"], ["attachments", "db"]])
def test_failed_run_prints_cause_and_state_and_exits_75_when_docker_is_down(
    streams: list[str], practice: Practice
) -> None:
    status, out, err = practice.run("run", *streams)
    assert (status, out) == (75, "failure=docker\nbackup_run_status=failed\n")
    assert err == (
        "dental-pms-backup: docker: Cannot connect to the Docker daemon, expected an answer\n"
        "hint: systemctl status docker.service\n"
    )


def test_failed_run_of_a_malformed_configuration_prints_cause_and_state(practice: Practice) -> None:
    practice.config.write_text("keep: 0\n")
    status, out, _ = practice.run("run")
    assert (status, out) == (78, "failure=configuration\nbackup_run_status=failed\n")


def test_failed_run_leaves_earlier_sets_and_no_draft(practice: Practice) -> None:
    published(practice.store)
    before = {path: path.read_bytes() for path in practice.store.rglob("*") if path.is_file()}
    practice.run("run")
    assert {path: path.read_bytes() for path in before} == before
    assert list(practice.store.rglob("*.draft")) == []


def test_failed_run_is_what_status_tells(practice: Practice) -> None:
    practice.run("run")
    status, out, _ = practice.run("status")
    lines = out.splitlines()
    began = lines.pop(4)
    assert re.fullmatch(r"last run: failed, began at [-0-9]{10} [:0-9]{8} CES?T \([-0-9]{10} [:0-9]{8} UTC\)", began)
    assert (status, lines[:6]) == (
        0,
        [
            f"store: {practice.store} (0 sets)",
            "newest database: none",
            "newest attachments: none",
            "newest proven database: none",
            "  docker: docker: Cannot connect to the Docker daemon, expected an answer",
            "running now: no",
        ],
    )


def test_dry_run_touches_nothing(practice: Practice, tmp_path: Path) -> None:
    practice.takes(tmp_path / "bin")
    assert practice.run("run", "attachments", "--dry-run") == (
        0,
        f"backup_root={practice.store}\nwould archive {tmp_path}/bin\nnothing was done: dry run\n",
        "",
    )
    assert not practice.store.exists()


def test_run_of_the_attachments_prints_success_as_its_last_line(practice: Practice, tmp_path: Path) -> None:
    practice.takes(tmp_path / "bin")
    status, out, err = practice.run("--quiet", "run", "attachments")
    assert (status, err, out.splitlines()[0], out.splitlines()[-1]) == (
        0,
        "",
        "backup_type=attachments",
        "backup_run_status=ok",
    )
    status, out, _ = practice.run("verify")
    assert (status, out.endswith(": good\n")) == (0, True)


@pytest.mark.parametrize(
    "command", [["list"], ["show", "latest"], ["verify"], ["status"], ["config", "check"], ["config", "show"]]
)
def test_json_may_be_asked_for_before_and_after_the_command(command: list[str], practice: Practice) -> None:
    published(practice.store, NAME, taken_at=NOW)
    before, after = practice.run("--json", *command), practice.run(*command, "--json")
    assert json.loads(before[1])
    plain = practice.run(*command)
    assert (before[0], before[2], after[0], plain[1] != after[1]) == (after[0], after[2], plain[0], True)
    assert type(json.loads(before[1])) is type(json.loads(after[1]))


def test_config_may_be_named_after_the_command(practice: Practice, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("keep: 0\n")
    assert practice.run("config", "check", "-c", str(tmp_path / "other.yaml"))[0] == 78
    assert practice.run("config", "check") == (0, f"{practice.config}: good\n", "")


def test_config_show_tells_every_value_and_its_origin(practice: Practice) -> None:
    lines = practice.run("config", "show")[1].splitlines()
    assert lines[0] == f"# the store is {practice.store}"
    assert f"backup_dir: {practice.store}  # {practice.config}:1" in lines
    assert "keep: 14  # default" in lines
    assert "compose.project: null  # default" in lines


def test_config_schema_needs_no_configuration(practice: Practice) -> None:
    practice.config.unlink()
    status, out, _ = practice.run("config", "schema")
    assert (status, json.loads(out)["title"]) == (0, "/etc/dental-pms/backup.yaml")


def test_damaged_set_makes_verify_fail_and_name_it(practice: Practice) -> None:
    published(practice.store)
    path = practice.store / f"db/db_{NAME}.sql.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    status, out, err = practice.run("verify", NAME)
    assert (status, err) == (1, "")
    assert out.splitlines()[:2] == [
        f"{NAME}: damaged",
        f"  {path}: the checksum differs from the manifest's",
    ]


def nightly(store: Path, count: int) -> list[str]:
    """Publish sets of some nights and return their names."""
    for number in range(count):
        published(store, name_of(night(number)), taken_at=night(number))
    return [name_of(night(number)) for number in range(count)]


def names(practice: Practice) -> list[str]:
    return [each["set"] for each in json.loads(practice.run("list", "--json")[1])]


def test_prune_removes_what_retention_lets_go_and_says_so(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = nightly(practice.store, 3)
    monkeypatch.setenv("BACKUP_KEEP", "2")
    assert practice.run("prune") == (
        0,
        f"removed db of set {listed[0]}: number 3 from the newest, 2 stay\n"
        f"removed attachments of set {listed[0]}: number 3 from the newest, 2 stay\nretention_deleted=2\n",
        "",
    )
    assert names(practice) == listed[1:]
    assert practice.run("prune") == (0, "retention_deleted=0\n", "")
    record = [json.loads(line) for line in (practice.store / "ledger.jsonl").read_text().splitlines()]
    assert [(each["what"], each["set"], each["stream"], each["reason"]) for each in record] == [
        ("removal", listed[0], stream, "number 3 from the newest, 2 stay") for stream in ("db", "attachments")
    ]


def test_prune_as_a_dry_run_tells_each_choice_and_touches_nothing(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = nightly(practice.store, 2)
    before = files_below(practice.store)
    monkeypatch.setenv("BACKUP_KEEP", "1")
    status, out, err = practice.run("prune", "--dry-run")
    assert (status, err, out.splitlines()) == (
        0,
        "",
        [
            f"keep db of set {listed[1]}: number 1 from the newest, 1 stay",
            f"remove db of set {listed[0]}: number 2 from the newest, 1 stay",
            f"keep attachments of set {listed[1]}: number 1 from the newest, 1 stay",
            f"remove attachments of set {listed[0]}: number 2 from the newest, 1 stay",
            "nothing was done: dry run",
        ],
    )
    assert files_below(practice.store) == before


def test_prune_waits_for_no_run(practice: Practice) -> None:
    nightly(practice.store, 1)
    with lock.held(practice.store):
        assert practice.run("prune")[0] == 75


def test_pinned_set_outlives_retention_until_it_is_released(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = nightly(practice.store, 2)
    monkeypatch.setenv("BACKUP_KEEP", "1")
    said = f"set {listed[0]} is pinned: it stays until it is released\n"
    assert practice.run("keep", "oldest") == (0, said, "")
    assert practice.run("prune") == (0, "retention_deleted=0\n", "")
    assert practice.run("keep", "--release", listed[0]) == (
        0,
        f"set {listed[0]} is released: retention decides again\n",
        "",
    )
    assert practice.run("prune")[1].splitlines()[-1] == "retention_deleted=2"
    assert names(practice) == listed[1:]


def test_suspect_set_freezes_retention_until_it_is_accepted(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = nightly(practice.store, 2)
    published(practice.store, NAME, suspicions=["db: small"])
    monkeypatch.setenv("BACKUP_KEEP", "1")
    assert practice.run("prune") == (0, "retention_deleted=0\n", "")
    assert f"nothing is removed while set {NAME} is suspect" in practice.run("prune", "--dry-run")[1]
    assert practice.run("accept", listed[0]) == (
        2,
        "",
        f"dental-pms-backup: set {listed[0]}: it is not suspect, so there is nothing to accept\n",
    )
    assert practice.run("accept", NAME) == (0, f"set {NAME} is accepted: db: small\n", "")
    assert practice.run("prune")[1].splitlines()[-1] == "retention_deleted=4"
    assert names(practice) == [NAME]


def test_run_of_emptied_attachments_is_published_and_fails_as_suspect(practice: Practice, tmp_path: Path) -> None:
    source = tmp_path / "attachments"
    source.mkdir()
    (source / "image.png").write_bytes(os.urandom(5000))
    practice.takes(source)
    assert practice.run("run", "attachments")[0] == 0
    (good,) = names(practice)
    (source / "image.png").unlink()
    status, out, err = practice.run("run", "attachments")
    assert (status, out) == (1, "failure=suspect\nbackup_run_status=failed\n")
    new = names(practice)[-1]
    assert f"dental-pms-backup: set {new} is suspect: attachments: empty, expected files (2 entries last time); " in err
    assert f"hint: dental-pms-backup show {new}   # if it is right: dental-pms-backup accept {new}\n" in err
    assert [each["state"] for each in json.loads(practice.run("list", "--json")[1])] == ["verified", "suspect"]
    assert practice.run("accept", new)[0] == 0
    assert practice.run("run", "attachments")[0] == 0
    assert names(practice)[:2] == [good, new]


def test_run_without_room_touches_nothing(practice: Practice, tmp_path: Path) -> None:
    published(practice.store)
    practice.config.write_text(
        f"backup_dir: {practice.store}\nreserve_mb: 1000000\nkeep: 1\nattachments: {{path: {tmp_path}/bin}}\n"
    )
    before = files_below(practice.store)
    status, out, err = practice.run("run", "attachments")
    assert (status, out) == (1, "failure=room\nbackup_run_status=failed\n")
    assert " free, expected 1.0 TB (" in err
    assert {path: files_below(practice.store)[path] for path in before} == before
    assert list(practice.store.rglob("*.draft")) == []


def test_run_into_a_disk_that_is_not_mounted_makes_nothing(practice: Practice, tmp_path: Path) -> None:
    store = practice.store if tmp_path.stat().st_dev == Path("/").stat().st_dev else Path("/no-store-of-a-test")
    practice.config.write_text(f"backup_dir: {store}\nrequire_mount: yes\nattachments: {{path: {tmp_path}/bin}}\n")
    for command in (["run", "attachments"], ["run", "attachments", "--dry-run"]):
        status, out, err = practice.run(*command)
        assert (status, out) == (1, "failure=room\nbackup_run_status=failed\n")
        assert f"{store}: on the root filesystem, expected a disk of its own (require_mount)\n" in err
    assert not store.exists()


@pytest.mark.parametrize("command", ["list", "status", "config schema", "verify", "run attachments"])
def test_output_that_does_not_arrive_fails_the_command(command: str, practice: Practice, tmp_path: Path) -> None:
    published(practice.store)
    practice.takes(tmp_path / "bin")
    if command == "verify":
        publishing.remove(practice.store, sets.find(practice.store, NAME), Stream.DB)
    found = practice.shell(f"$program --quiet {command} >/dev/full")
    assert (found.returncode, found.stderr) == (
        1,
        "dental-pms-backup: standard output: No space left on device, so not everything was printed\n",
    )


def test_reader_that_goes_away_is_no_traceback(practice: Practice) -> None:
    found = practice.shell("$program config schema | true; echo ${PIPESTATUS[0]}")
    said = "dental-pms-backup: standard output: Broken pipe, so not everything was printed\n"
    assert (found.stdout, found.stderr) == ("1\n", said)


def test_reader_of_the_first_line_has_it(practice: Practice) -> None:
    nightly(practice.store, 3)
    found = practice.shell("$program list | head -n 1")
    assert found.stdout == "SET                               UTC          AGE         DB  ATTACHMENTS  STATE\n"
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("command", ["list", "status", "config schema", "run attachments"])
def test_closed_output_is_as_good_as_one_that_nobody_reads(command: str, practice: Practice, tmp_path: Path) -> None:
    published(practice.store)
    practice.takes(tmp_path / "bin")
    for closed in (">&-", ">&- 2>&-", ">&- 2>&- <&-"):
        found = practice.shell(f"$program --quiet {command} {closed}")
        assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_failed_run_ends_with_its_own_status_although_its_output_does_not_arrive(practice: Practice) -> None:
    found = practice.shell("$program run >/dev/full")
    assert (found.returncode, found.stderr.splitlines()[0]) == (
        75,
        "dental-pms-backup: docker: Cannot connect to the Docker daemon, expected an answer",
    )


def test_errors_that_do_not_arrive_change_no_exit_status(practice: Practice) -> None:
    published(practice.store)
    found = practice.shell("$program show yesterday 2>/dev/full")
    assert (found.returncode, found.stdout, found.stderr) == (2, "", "")


@pytest.mark.parametrize(
    "start",
    [
        "$program",
        "trap '' CHLD; exec $program",
        "trap '' HUP INT QUIT PIPE; exec $program",
        "nohup $program",
        "umask 777; exec $program",
        "cd /; exec $program",
        "exec 2>&-; exec $program",
        "exec 0<&-; exec $program",
    ],
)
def test_run_does_not_depend_on_what_it_inherits(start: str, practice: Practice, tmp_path: Path) -> None:
    practice.takes(tmp_path / "bin")
    found = practice.shell(f"{start} --quiet run attachments </dev/null")
    assert (found.returncode, found.stdout.splitlines()[-1:], found.stderr) == (0, ["backup_run_status=ok"], "")
    modes = {oct(path.stat().st_mode & 0o777) for path in practice.store.rglob("*") if path.is_file()}
    assert modes == {"0o600"}


def test_run_without_descriptors_is_worth_a_retry_and_no_traceback(practice: Practice, tmp_path: Path) -> None:
    practice.takes(tmp_path / "bin")
    found = practice.shell("ulimit -n 16; $program run attachments")
    assert (found.returncode, found.stdout) == (75, "failure=temporary\nbackup_run_status=failed\n")
    said, hint = found.stderr.splitlines()
    assert said.endswith(": cannot be started: Too many open files, expected room for more programs")
    assert hint == "hint: ulimit -a; systemctl status"
    assert list(practice.store.rglob("*.draft")) == []
    assert practice.run("run", "attachments")[0] == 0


def test_help_of_every_command_is_a_sentence(practice: Practice) -> None:
    single = ("run", "list", "show", "verify", "restore", "extract", "prune", "keep", "accept", "status", "demo")
    for command in (*([each] for each in single), ["config", "show"], ["offsite", "push"]):
        status, out, err = practice.run(*command, "--help")
        assert (status, err) == (0, "")
        assert out.startswith("usage: dental-pms-backup ")
