"""The configuration: what is refused, with which words on which line; what is understood, and where it came from."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dental_pms_backup.cli import arguments, commands
from dental_pms_backup.config import keys, reference, settings, values
from dental_pms_backup.config.keys import KEY_OF, KEYS
from dental_pms_backup.config.values import Road, Source, Where
from dental_pms_backup.errors import ConfigError
from tests.unit.builders import TREE, as_nobody, python

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from dental_pms_backup.config.key import Key

TOP = (
    "backup_dir, keep, keep_within_days, keep_daily, keep_weekly, keep_monthly, keep_yearly, require_mount, "
    "reserve_mb, compression_level, stall_timeout_s, lock_wait_s, compose, retry, database, native, attachments, "
    "application, suspect, drill, offsite"
)
IN_COMPOSE = "compose.project_dir, compose.project, compose.db_service, compose.backend_service"
KEEP = "expected a whole number from 1 to 1000000"
PATH = "expected an absolute path"
NOT_YAML = "the file is not YAML: …"
NO_KEYS = "expected keys and values"
ONE_LINE = "hint: man dental-pms-backup.yaml"


def number(text: str) -> str:
    return f'"{text}" is not a whole number, {KEEP}'


def no_text(text: str) -> str:
    return f'"{text}" is no text, expected text (put it in quotes)'


# What stands in the file, and the problems: each its line, and the text after it; … stands for more of PyYAML's words
MALFORMED: dict[str, tuple[str | bytes, list[str]]] = {
    # no YAML
    "unclosed list": ("keep: [3\n", [f"2: {NOT_YAML}"]),
    "unclosed keys": ("compose: {project: x\n", [f"2: {NOT_YAML}"]),
    "unclosed quote": ('keep: 3\nbackup_dir: "/srv\n', [f"3: {NOT_YAML}"]),
    "colon twice": ("compose: project: x\n", [f"1: {NOT_YAML}"]),
    "wrong indentation": ("compose:\n  project: x\n   db_service: y\n", [f"3: {NOT_YAML}"]),
    "tab before a key": ("compose:\n\tproject: x\n", [f"2: {NOT_YAML}"]),
    "tab before a value": ("keep:\t3\n", [f"1: {NOT_YAML}"]),
    "at sign": ("keep: @3\n", [f"1: {NOT_YAML}"]),
    "percent sign": ("native:\n  pgpass_file: %d/pgpass\n", [f"2: {NOT_YAML}"]),
    "backtick": ("keep: `3`\n", [f"1: {NOT_YAML}"]),
    "unknown escape": ('backup_dir: "\\q"\n', [f"1: {NOT_YAML}"]),
    "two documents": ("keep: 3\n---\nkeep: 4\n", [f"2: {NOT_YAML}"]),
    "text after the end": ("keep: 3\n...\nkeep: 4\n", [f"3: {NOT_YAML}"]),
    "version that is not ours": ("%YAML 2.0\n---\nkeep: 3\n", [f"1: {NOT_YAML}"]),
    "unknown tag handle": ("keep: !x!y 3\n", [f"1: {NOT_YAML}"]),
    "list within keys": ("keep: 3\n- x\n", [f"2: {NOT_YAML}"]),
    # no text
    "not UTF-8": (b"keep: 3\nbackup_dir: /srv/\xe9\n", ["2: not UTF-8 text, expected a YAML file in UTF-8"]),
    "UTF-16": ("keep: 3\n".encode("utf-16"), ["1: not UTF-8 text, expected a YAML file in UTF-8"]),
    "NUL": (b"keep: 3\nlock_wait_s: \x003\n", ["2: a control character stands here, expected text"]),
    "escape character": ("\n\nkeep: \x1b[3m\n", ["3: a control character stands here, expected text"]),
    "program": (b"\x7fELF\x02\x01\x01", ["1: a control character stands here, expected text"]),
    # nothing, or not keys
    "empty": ("", ["1: the file is empty, expected at least one key"]),
    "comments only": ("# keep: 3\n", ["1: the file is empty, expected at least one key"]),
    "byte order mark only": (b"\xef\xbb\xbf", ["1: the file is empty, expected at least one key"]),
    "start of a document only": ("---\n", ["1: the file is empty, expected at least one key"]),
    "null": ("~\n", ["1: the file is empty, expected at least one key"]),
    "no keys": ("{}\n", ["1: the file: empty, expected at least one key"]),
    "list": ("- keep\n", [f"1: the file: a list, {NO_KEYS}"]),
    "text": ("\nkeep 3\n", [f'2: the file: "keep 3", {NO_KEYS}']),
    "set": ("!!set {keep}\n", [f'1: the file: the tag "tag:yaml.org,2002:set", {NO_KEYS}']),
    "too large": ("#" * (1 << 20) + "\n", [": larger than 65536 bytes, expected a short YAML file"]),
    "nested too deeply": ("{a: " * 2000 + "1" + "}" * 2000, ["1: nested too deeply, expected two levels"]),
    "lists without an end": ("[" * 60_000, ["1: nested too deeply, expected two levels"]),
    # anchors and tags
    "anchor": ("keep: &x 3\n", ["1: an anchor or alias stands here, expected plain values only"]),
    "alias": ("keep: 3\nlock_wait_s: *x\n", ["2: an anchor or alias stands here, expected plain values only"]),
    "laughs": (
        "keep: 1\na: &a [x, x]\nb: &b [*a, *a]\n",
        ["2: an anchor or alias stands here, expected plain values only"],
    ),
    "merge": ("<<: {keep: 3}\n", ['1: the file: "<<" as a key, expected a name']),
    "tag of one's own": ("keep: !three 3\n", [f'1: keep: the tag "!three", {KEEP}']),
    "tag that includes": ("compose: !include /etc/passwd\n", [f'1: compose: the tag "!include", {NO_KEYS}']),
    "tag on a key": ("!x keep: 3\n", ['1: the file: the tag "!x" as a key, expected a name']),
    "binary": ("backup_dir: !!binary L3Nydg==\n", [f'1: backup_dir: the tag "binary", {PATH}']),
    "name of Python's": ("keep: !!python/name:os.system\n", [f'1: keep: the tag "python/name:os.system", {KEEP}']),
    # unknown keys
    "unknown key": ("kep: 3\n", [f'1: "kep": unknown key, expected one of {TOP}']),
    "unknown key in a section": (
        "compose:\n  dir: /srv\n",
        [f'2: "compose.dir": unknown key, expected one of {IN_COMPOSE}'],
    ),
    "key of another section": (
        "keep: 3\nproject_dir: /srv\n",
        [f'2: "project_dir": unknown key, expected one of {TOP}'],
    ),
    "key in capitals": ("KEEP: 3\n", [f'1: "KEEP": unknown key, expected one of {TOP}']),
    "key with a newline": ('"a\\nb": 3\n', [f'1: "a\\nb": unknown key, expected one of {TOP}']),
    "byte order mark inside": ("keep: 3\n\ufeffkeep: 4\n", [f'2: "\\ufeffkeep": unknown key, expected one of {TOP}']),
    "number as a key": ("3: keep\n", ['1: the file: "3" as a key, expected a name']),
    "yes as a key": ("compose:\n  yes: 3\n", ['2: compose: "yes" as a key, expected a name']),
    "null as a key": ("~: 3\n", ['1: the file: "~" as a key, expected a name']),
    "list as a key": ("? [keep]\n: 3\n", ["1: the file: a list as a key, expected a name"]),
    "section and key in one": (
        "compose.project_dir: /a\n",
        [f'1: "compose.project_dir": unknown key, expected one of {IN_COMPOSE}'],
    ),
    # keys given twice
    "duplicate key": ("keep: 3\nkeep: 4\n", ["2: keep: given twice, expected once (first on line 1)"]),
    "duplicate key in quotes": ('keep: 3\n"keep": 3\n', ["2: keep: given twice, expected once (first on line 1)"]),
    "duplicate section": (
        "compose:\n  project: x\ncompose:\n  project: x\n",
        ["3: compose: given twice, expected once (first on line 1)"],
    ),
    "duplicate key in a section": (
        "retry:\n  wait_s: 1\n  wait_s: 2\n",
        ["3: retry.wait_s: given twice, expected once (first on line 2)"],
    ),
    # wrong types
    "section without keys": ("compose:\n", [f'1: compose: "", {NO_KEYS}']),
    "section that is text": ("compose: /srv\n", [f'1: compose: "/srv", {NO_KEYS}']),
    "section that is a list": ("compose:\n  - project: x\n", [f"2: compose: a list, {NO_KEYS}"]),
    "section with nothing in it": ("compose: {}\n", ["1: compose: empty, expected at least one key"]),
    "list for a number": ("keep: [3]\n", [f"1: keep: a list, {KEEP}"]),
    "keys for a number": ("keep:\n  last: 3\n", [f"1: keep: keys and values, {KEEP}"]),
    "text for a number": ("keep: many\n", [f"1: keep: {number('many')}"]),
    "quotes around a number": ('keep: "3"\n', [f"1: keep: {number('3')}"]),
    "block for a number": ("keep: |\n  3\n", [f"1: keep: {number('3')}"]),
    "null for a number": ("keep: ~\n", [f"1: keep: no value, {KEEP}"]),
    "nothing for a number": ("keep:\nlock_wait_s: 3\n", [f"1: keep: no value, {KEEP}"]),
    "fraction": ("keep: 3.0\n", [f"1: keep: {number('3.0')}"]),
    "infinity": ("keep: .inf\n", [f"1: keep: {number('.inf')}"]),
    "yes for a number": ("keep: yes\n", [f"1: keep: {number('yes')}"]),
    "date for a number": ("keep: 2026-02-03\n", [f"1: keep: {number('2026-02-03')}"]),
    "octal of YAML 1.1": ("keep: 014\n", [f"1: keep: {number('014')}"]),
    "underscore of YAML 1.1": ("keep: 1_000\n", [f"1: keep: {number('1_000')}"]),
    "sixties of YAML 1.1": ("keep: 2:30\n", [f"1: keep: {number('2:30')}"]),
    "time of day": ("keep: 02:30\n", [f"1: keep: {number('02:30')}"]),
    "hexadecimal": ("keep: 0x10\n", [f"1: keep: {number('0x10')}"]),
    "plus sign": ("keep: +3\n", [f"1: keep: {number('+3')}"]),
    "digits of another script": ("keep: ٣\n", [f"1: keep: {number('٣')}"]),
    "number for text": ("compose:\n  project: 14\n", [f"2: compose.project: {no_text('14')}"]),
    "yes for text": ("native:\n  user: yes\n", [f"2: native.user: {no_text('yes')}"]),
    "date for text": ("native:\n  database: 2026-02-03\n", [f"2: native.database: {no_text('2026-02-03')}"]),
    "null for text": ("compose:\n  db_service: null\n", ["2: compose.db_service: no value, expected text"]),
    "list for text": ("compose:\n  db_service: [db]\n", ["2: compose.db_service: a list, expected text"]),
    "number for a path": ("backup_dir: 7\n", [f'1: backup_dir: "7" is no text, {PATH} (put it in quotes)']),
    "number for a switch": (
        "database:\n  role_passwords: 1\n",
        ['2: database.role_passwords: "1", expected true or false'],
    ),
    "text for a switch": (
        'database:\n  role_passwords: "true"\n',
        ['2: database.role_passwords: "true", expected true or false'],
    ),
    "null for a choice": (
        "database:\n  source: ~\n",
        ["2: database.source: no value, expected one of compose, native"],
    ),
    "tag that is not its text": (
        "database:\n  role_passwords: !!bool maybe\n",
        ['2: database.role_passwords: "maybe", expected true or false'],
    ),
    "null that is not its text": ("backup_dir: !!null /srv/x\n", [f'1: backup_dir: the tag "null", {PATH}']),
    "character beyond all": ('keep: "\\UFFFFFFFF"\n', ["1: the file is not YAML: a number in it is too large"]),
    "version beyond all": (
        "%YAML 1." + "9" * 5000 + "\n---\nkeep: 3\n",
        ["1: the file is not YAML: a number in it is too large"],
    ),
    "half a character": (
        'compose:\n  db_service: "\\ud800"\n',
        ['2: compose.db_service: a control character in "\\ud800", expected text'],
    ),
    # impossible values
    "credential where none is read": ('backup_dir: "%d/x"\n', [f'1: backup_dir: "%d/x" is not absolute, {PATH}']),
    "system with a second slash": (
        "backup_dir: //\n",
        ["1: backup_dir: / is the whole system, expected a directory of its own"],
    ),
    "share over all": (
        "suspect:\n  db_shrink_percent: 101\n",
        ["2: suspect.db_shrink_percent: 101 is too large, expected a whole number from 0 to 100"],
    ),
    "no patience at all": (
        "stall_timeout_s: 4\n",
        ["1: stall_timeout_s: 4 is too small, expected a whole number from 5 to 86400"],
    ),
    "days below none": (
        "keep_within_days: -1\n",
        ["1: keep_within_days: -1 is too small, expected a whole number from 0 to 36500"],
    ),
    "number for a mount": ("require_mount: 1\n", ['1: require_mount: "1", expected true or false']),
    "keep nothing": ("keep: 0\n", [f"1: keep: 0 is too small, {KEEP}"]),
    "keep less than nothing": ("keep: -1\n", [f"1: keep: -1 is too small, {KEEP}"]),
    "keep more than all": ("keep: 1000001\n", [f"1: keep: 1000001 is too large, {KEEP}"]),
    "number beyond all": ("keep: " + "9" * 80 + "\n", [f"1: keep: {number('9' * 57 + '...')}"]),
    "no port": ("native:\n  port: 0\n", ["2: native.port: 0 is too small, expected a whole number from 1 to 65535"]),
    "port too large": (
        "native:\n  port: 65536\n",
        ["2: native.port: 65536 is too large, expected a whole number from 1 to 65535"],
    ),
    "unknown choice": (
        "database:\n  source: podman\n",
        ['2: database.source: "podman", expected one of compose, native'],
    ),
    "choice in capitals": (
        "database:\n  source: Native\n",
        ['2: database.source: "Native", expected one of compose, native'],
    ),
    "relative path": ("backup_dir: backups\n", [f'1: backup_dir: "backups" is not absolute, {PATH}']),
    "path from home": ("backup_dir: ~/backups\n", [f'1: backup_dir: "~/backups" is not absolute, {PATH}']),
    "path upwards": ("backup_dir: /srv/../etc\n", [f'1: backup_dir: "/srv/../etc" contains "..", {PATH}']),
    "empty path": ('backup_dir: ""\n', [f"1: backup_dir: empty, {PATH}"]),
    "empty text": ("compose:\n  db_service: ''\n", ["2: compose.db_service: empty, expected text"]),
    "blank text": ("compose:\n  db_service: '  '\n", ["2: compose.db_service: empty, expected text"]),
    "text that is an option": (
        "compose:\n  db_service: --all\n",
        ['2: compose.db_service: "--all" starts with a dash, expected text'],
    ),
    "control character in a text": (
        'compose:\n  db_service: "d\\tb"\n',
        ['2: compose.db_service: a control character in "d\\tb", expected text'],
    ),
    "newline in a path": (
        'backup_dir: "/srv\\n/x"\n',
        [f'1: backup_dir: a control character in "/srv\\n/x", {PATH}'],
    ),
    "checks that are a list": (
        "drill:\n  checks: [select true]\n",
        ["2: drill.checks: a list, expected names, each with an SQL query"],
    ),
    "checks that are text": (
        "drill:\n  checks: select true\n",
        ['2: drill.checks: "select true", expected names, each with an SQL query'],
    ),
    "others that are no word for none": (
        "database:\n  others: all\n",
        ['2: database.others: "all", expected ignore or a list of names'],
    ),
    "others that are a list of lists": (
        "database:\n  others: [[a]]\n",
        ["2: database.others: a list, expected ignore or a list of names"],
    ),
    "other that is a number": (
        "database:\n  others: [a, 3]\n",
        ['2: database.others: "3" is no name, expected ignore or a list of names'],
    ),
    "others that are null": (
        "database:\n  others: null\n",
        ['2: database.others: "null", expected ignore or a list of names'],
    ),
    "check that is a list": ("drill:\n  checks:\n    a: [x]\n", ['3: "drill.checks.a": a list, expected text']),
    "check given twice": (
        "drill:\n  checks:\n    a: select true\n    a: select false\n",
        ["4: drill.checks.a: given twice, expected once (first on line 3)"],
    ),
    "check with an odd name": (
        "drill:\n  checks:\n    a/b: select true\n",
        ['2: drill.checks: "a/b" as a name, expected letters, digits, spaces and . _ - (60 at most)'],
    ),
    "check that is no query": (
        "drill:\n  checks:\n    a: true\n",
        ['2: drill.checks: a: "true" is no query, expected SQL'],
    ),
    "check with a control character": (
        'drill:\n  checks:\n    a: "select \\a"\n',
        ['2: drill.checks: a: a control character in "select \\x07", expected SQL'],
    ),
    # contradictions
    "native without a database": (
        "keep: 3\ndatabase:\n  source: native\n",
        ["3: database.source: native, expected native.database to name the database"],
    ),
    "store in the attachments": (
        "backup_dir: /srv/data/backups\nattachments:\n  path: /srv/data\n",
        ["1: backup_dir: /srv/data/backups lies in attachments.path, expected a directory outside of it"],
    ),
    "store is everything": (
        "backup_dir: /\n",
        ["1: backup_dir: / is the whole system, expected a directory of its own"],
    ),
    "attachments are everything": (
        "attachments:\n  path: /\n",
        ["2: attachments.path: / is the whole system, expected a directory of its own"],
    ),
    "remote without a name": (
        "offsite:\n  remote: backups\n",
        ["2: offsite.remote: names no remote, expected NAME: or NAME:path"],
    ),
    "remote with everything in it": (
        "offsite:\n  remote: ':sftp,host=x:'\n",
        ["2: offsite.remote: names no remote, expected NAME: or NAME:path"],
    ),
    # several at once
    "all of it": (
        "keep: 0\nfoo: 1\ncompose:\n  project_dir: here\n  project_dir: there\nretry: 3\nnative: {port: x, user: []}\n",
        [
            f'2: "foo": unknown key, expected one of {TOP}',
            "5: compose.project_dir: given twice, expected once (first on line 4)",
            f'6: retry: "3", {NO_KEYS}',
            "7: native.user: a list, expected text",
            f"1: keep: 0 is too small, {KEEP}",
            f'4: compose.project_dir: "here" is not absolute, {PATH}',
            '7: native.port: "x" is not a whole number, expected a whole number from 1 to 65535',
        ],
    ),
}
VARIABLES = {
    "BACKUP_KEEP=0": f"0 is too small, {KEEP}",
    "BACKUP_KEEP=-1": f"-1 is too small, {KEEP}",
    "BACKUP_KEEP=abc": number("abc"),
    "BACKUP_KEEP=": number(""),
    "BACKUP_KEEP=14 days": number("14 days"),
    "BACKUP_KEEP=1.5": number("1.5"),
    "BACKUP_KEEP=014": number("014"),
    "BACKUP_KEEP=1000001": f"1000001 is too large, {KEEP}",
    "BACKUP_DIR=": f"empty, {PATH}",
    "BACKUP_DIR=backups": f'"backups" is not absolute, {PATH}',
    "BACKUP_DIR=./backups": f'"./backups" is not absolute, {PATH}',
    "BACKUP_DIR=/srv/../etc": f'"/srv/../etc" contains "..", {PATH}',
    "BACKUP_DIR=/srv\n/x": f'a control character in "/srv\\n/x", {PATH}',
    "ATTACHMENTS_PATH=": f"empty, {PATH}",
    "ATTACHMENTS_PATH=data": f'"data" is not absolute, {PATH}',
}


def written(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "backup.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def checked(file: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Return exit status and stderr lines of `config check`, without the lines' beginnings."""
    status = commands.main(["-c", str(file), "config", "check"])
    said = capfd.readouterr()
    assert said.out == ""
    return status, [line.removeprefix("dental-pms-backup: ").removeprefix(str(file)) for line in said.err.splitlines()]


def load(tmp_path: Path, content: str, **environment: str) -> settings.Config:
    return settings.load(written(tmp_path, content), environment)


def problems_of(tmp_path: Path, content: str) -> tuple[str, ...]:
    """Return all that is wrong with a file, nothing when it is understood."""
    try:
        load(tmp_path, content)
    except ConfigError as error:
        return error.problems
    return ()


@pytest.fixture
def no_usual_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand in for /srv/dental-pms/backups, which may or may not exist here."""
    usual = tmp_path / "usual"
    monkeypatch.setattr(settings, "USUAL_STORE", usual)
    return usual


@pytest.mark.parametrize(("content", "problems"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_file_exits_78_and_names_line_key_and_expectation(
    content: str | bytes, problems: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, said = checked(written(tmp_path, content), capfd)
    told = [line for line in said if not line.startswith("hint: ")]
    wanted = [problem if problem.startswith(":") else f":{problem}" for problem in problems]
    cut = [
        line[: len(start) - 1] + "…" if start.endswith("…") else line for line, start in zip(told, wanted, strict=True)
    ]
    assert (status, cut) == (78, wanted)


def test_table_of_malformed_files_is_as_long_as_promised() -> None:
    assert len(MALFORMED) + len(VARIABLES) >= 60


@pytest.mark.parametrize(("setting", "problem"), VARIABLES.items())
def test_malformed_variable_exits_78_and_is_named(
    setting: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    status, said = checked(written(tmp_path, "keep: 3\n"), capfd)
    assert (status, said) == (78, [f"environment: {name}: {problem}", ONE_LINE])


def test_problems_of_file_and_environment_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, "keep: x\nretry:\n  wait_s: y\n", BACKUP_KEEP="z", BACKUP_DIR="w")
    assert [problem.split(": ")[1] for problem in raised.value.problems] == [
        "keep",
        "retry.wait_s",
        "BACKUP_DIR",
        "BACKUP_KEEP",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.system ['touch {}']\n",
        "keep: !!python/object/apply:os.system ['touch {}']\n",
        "keep: !!python/object/apply:subprocess.check_call [[touch, '{}']]\n",
        "compose: !!python/object/new:os.system ['touch {}']\n",
        "backup_dir: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{}']]\n",
        "? !!python/object/apply:os.system ['touch {}']\n: 3\n",
    ],
)
def test_tag_executes_nothing(content: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sentinel = tmp_path / "sentinel"
    status, said = checked(written(tmp_path, content.format(sentinel)), capfd)
    assert (status, len(said) > 0, sentinel.exists()) == (78, True, False)


def test_missing_file_exits_78(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = [": cannot be read: No such file or directory, expected a YAML file"]
    assert checked(tmp_path / "backup.yaml", capfd) == (78, said)


def test_directory_exits_78(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = [": cannot be read: Is a directory, expected a YAML file"]
    assert checked(tmp_path, capfd) == (78, said)


def test_fifo_that_nobody_writes_exits_78_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "backup.yaml")
    assert checked(tmp_path / "backup.yaml", capfd) == (78, [": not a regular file, expected a YAML file"])


def test_endless_device_exits_78(capfd: pytest.CaptureFixture[str]) -> None:
    assert checked(Path("/dev/zero"), capfd) == (78, [": not a regular file, expected a YAML file"])


def test_link_to_itself_exits_78(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "backup.yaml").symlink_to("backup.yaml")
    said = [": cannot be read: Too many levels of symbolic links, expected a YAML file"]
    assert checked(tmp_path / "backup.yaml", capfd) == (78, said)


def test_unreadable_file_exits_78(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "keep: 3\n").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with as_nobody():
        found = checked(Path("backup.yaml"), capfd)
    assert found == (78, [": cannot be read: Permission denied, expected a YAML file"])


@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["list"], ["show", "latest"], ["config", "show"]])
def test_every_command_refuses_a_malformed_file(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "keep: 0\n")
    assert commands.main(["-c", str(file), *command]) == 78
    said = f"dental-pms-backup: {file}:1: keep: 0 is too small, {KEEP}\nhint: man dental-pms-backup.yaml\n"
    assert capfd.readouterr().err == said


def test_process_exits_78_without_a_traceback(tmp_path: Path) -> None:
    file = written(tmp_path, "keep: 0\n")
    code = "import sys; from dental_pms_backup.cli.commands import main; sys.exit(main())"
    process = python(code, "-c", str(file), "config", "check")
    out, err = process.communicate(timeout=60)
    said = f"dental-pms-backup: {file}:1: keep: 0 is too small, {KEEP}\nhint: man dental-pms-backup.yaml\n"
    assert (process.returncode, out, err) == (78, "", said)


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused_with_a_line(tmp_path: Path, content: str) -> None:
    for line in problems_of(tmp_path, content):
        assert re.match(r".*/backup.yaml:\d+: (.*expected |the file is not YAML: )", line)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(sorted(KEY_OF)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*keys.SECTIONS, "keep", "backup_dir", "port", "path"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    )
)
def test_any_yaml_is_understood_or_refused_with_a_line(tmp_path: Path, content: object) -> None:
    for line in problems_of(tmp_path, yaml.safe_dump(content, allow_unicode=True)):
        assert re.match(r".*/backup.yaml:\d+: (.*expected |the file is not YAML: )", line)


def test_one_key_leaves_all_others_at_their_defaults(tmp_path: Path, no_usual_store: Path) -> None:
    found = load(tmp_path, "keep: 21\n")
    assert dict(found.values) == {key.name: key.default for key in KEYS} | {"keep": 21}
    assert dict(found.origins) == {key.name: "default" for key in KEYS} | {"keep": f"{tmp_path}/backup.yaml:1"}
    assert not no_usual_store.exists()


def test_values_reach_their_places(tmp_path: Path) -> None:
    content = """\
backup_dir: /mnt/store
keep: 3
keep_within_days: 30
keep_daily: 7
keep_weekly: 5
keep_monthly: 12
keep_yearly: 10
require_mount: yes
reserve_mb: 100
stall_timeout_s: 60
compression_level: 9
lock_wait_s: 5
suspect: {db_shrink_percent: 10, rows_shrink_percent: 15, attachments_shrink_percent: 20}
retry: {attempts: 7, wait_s: 9}
compose: {project_dir: /opt/pms, project: pms, db_service: postgres, backend_service: api}
database: {source: native, name: n, user: o, port: 5434, others: [b, c d], lock_wait_s: 11, role_passwords: yes}
native: {host: db.example, port: 5433, user: u, run_as: r, database: d, pgpass_file: /p, bin_dir: /b}
attachments: {path: /mnt/attachments, mount: /files}
drill:
  where: cluster
  directory: /mnt/drills
  timeout_s: 60
  checks: {patients: "select true", "no. 2": "select\\n false;"}
  same_as_live: {revision: select version_num from alembic_version}
  after_run: yes
application:
  table: files
  key_column: key
  size_column: size
  name_column: name
  directory: .
  query: select name, size from files
offsite: {remote: "crypt:there", rclone_config: /r.conf}
"""
    found = load(tmp_path, content)
    assert found == settings.Config(
        store=Path("/mnt/store"),
        retention=settings.Retention(
            keep=3, keep_within_days=30, keep_daily=7, keep_weekly=5, keep_monthly=12, keep_yearly=10
        ),
        room=settings.Room(reserve_mb=100, require_mount=True),
        compression_level=9,
        lock_wait_s=5,
        stall_timeout_s=60,
        suspect=settings.Suspect(db_shrink_percent=10, rows_shrink_percent=15, attachments_shrink_percent=20),
        retry=settings.Retry(attempts=7, wait_s=9),
        compose=settings.Compose(
            project_dir=Path("/opt/pms"), project="pms", db_service="postgres", backend_service="api"
        ),
        database=settings.Database(
            source=Source.NATIVE,
            road=Road.AUTO,
            name="n",
            user="o",
            port=5434,
            others=frozenset(["b", "c d"]),
            lock_wait_s=11,
            role_passwords=True,
        ),
        native=settings.Native(
            host="db.example",
            port=5433,
            user="u",
            run_as="r",
            database="d",
            pgpass_file=Path("/p"),
            bin_dir=Path("/b"),
        ),
        attachments=settings.Attachments(path=Path("/mnt/attachments"), mount=Path("/files")),
        drill=settings.Drill(
            where=Where.CLUSTER,
            directory=Path("/mnt/drills"),
            timeout_s=60,
            checks=(("patients", "select true"), ("no. 2", "select\n false;")),
            same_as_live=(("revision", "select version_num from alembic_version"),),
            after_run=True,
        ),
        application=settings.Application(
            table="files",
            key_column="key",
            size_column="size",
            name_column="name",
            directory=".",
            query="select name, size from files",
        ),
        offsite=settings.Offsite(remote="crypt:there", rclone_config=Path("/r.conf")),
        values=found.values,
        origins=found.origins,
    )


@pytest.mark.parametrize("content", ["keep: 3", "keep: 3\r\n", "\ufeffkeep: 3\n", "---\nkeep: 3\n...\n", "'keep': 3\n"])
def test_file_may_be_written_in_every_usual_way(content: str, tmp_path: Path) -> None:
    assert load(tmp_path, content).retention.keep == 3


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("yes", True), ("On", True), ("false", False), ("no", False), ("off", False)]
)
def test_switch_is_read_as_yaml_1_1_spells_it(text: str, value: bool, tmp_path: Path) -> None:
    assert load(tmp_path, f"database:\n  role_passwords: {text}\n").database.role_passwords is value


def test_null_unsets_a_key_that_may_be_unset(tmp_path: Path) -> None:
    assert load(tmp_path, "compose:\n  project: null\n").compose.project is None
    assert load(tmp_path, "application:\n  table: null\n").application.files is None
    assert load(tmp_path, "application:\n  table: ~\n").application.files is None


def test_what_turns_a_check_off_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"application\.table: no value, expected"):
        load(tmp_path, "application:\n  table:   # files\n")


def test_the_files_of_the_application_are_asked_for_by_the_names_of_its_columns(tmp_path: Path) -> None:
    assert load(tmp_path, "keep: 3\n").application.files == 'select "storage_key", "byte_size" from attachments'
    names = "application: {table: 'x.\"Files\"', key_column: the key, size_column: 'a \"size\"'}\n"
    assert load(tmp_path, names).application.files == 'select "the key", "a ""size""" from x."Files"'


def test_loaded_configuration_cannot_be_changed(tmp_path: Path) -> None:
    found = load(tmp_path, "keep: 3\n")
    with pytest.raises(AttributeError):
        found.lock_wait_s = 4  # type: ignore[misc]


def test_conffile_is_a_good_configuration_with_the_default_values(no_usual_store: Path) -> None:
    found = settings.load(TREE / "etc" / "backup.yaml", {})
    assert dict(found.values) == {key.name: key.default for key in KEYS}
    assert found.store == Path("/srv/dental-pms/.run/backups")
    assert not no_usual_store.exists()


def test_variables_stand_over_the_file(tmp_path: Path) -> None:
    content = "backup_dir: /mnt/a\nkeep: 3\nattachments:\n  path: /mnt/b\n"
    found = load(tmp_path, content, BACKUP_DIR="/mnt/c", BACKUP_KEEP="21", ATTACHMENTS_PATH="/mnt/d")
    assert (found.store, found.retention.keep, found.attachments.path) == (Path("/mnt/c"), 21, Path("/mnt/d"))
    assert {name: origin for name, origin in found.origins.items() if origin != "default"} == {
        "backup_dir": "environment BACKUP_DIR",
        "keep": "environment BACKUP_KEEP",
        "attachments.path": "environment ATTACHMENTS_PATH",
    }


def test_origins_name_file_and_line(tmp_path: Path) -> None:
    found = load(tmp_path, "\nkeep: 3\ncompose:\n  # a comment\n  project: x\n")
    assert {name: origin for name, origin in found.origins.items() if origin != "default"} == {
        "keep": f"{tmp_path}/backup.yaml:2",
        "compose.project": f"{tmp_path}/backup.yaml:5",
    }


def test_credentials_directory_takes_the_place_of_percent_d(tmp_path: Path) -> None:
    content = 'native:\n  pgpass_file: "%d/pgpass"\noffsite:\n  rclone_config: "%d/rclone/conf"\n'
    found = load(tmp_path, content, CREDENTIALS_DIRECTORY="/run/credentials/x.service")
    assert (found.native.pgpass_file, found.offsite.rclone_config) == (
        Path("/run/credentials/x.service/pgpass"),
        Path("/run/credentials/x.service/rclone/conf"),
    )


def test_store_is_the_variable_first_of_all(tmp_path: Path, no_usual_store: Path) -> None:
    no_usual_store.mkdir()
    assert load(tmp_path, "backup_dir: /mnt/a\n", BACKUP_DIR="/mnt/b").store == Path("/mnt/b")


def test_store_is_the_files_without_the_variable(tmp_path: Path, no_usual_store: Path) -> None:
    no_usual_store.mkdir()
    assert load(tmp_path, "backup_dir: /mnt/a\n").store == Path("/mnt/a")


def test_store_is_the_usual_one_if_it_exists_and_none_is_named(tmp_path: Path, no_usual_store: Path) -> None:
    no_usual_store.mkdir()
    assert load(tmp_path, "compose:\n  project_dir: /opt/pms\n").store == no_usual_store


def test_store_is_below_the_project_as_the_last_resort(tmp_path: Path, no_usual_store: Path) -> None:
    assert not no_usual_store.exists()
    assert load(tmp_path, "compose:\n  project_dir: /opt/pms\n").store == Path("/opt/pms/.run/backups")


def test_usual_store_is_the_seeds() -> None:
    assert (str(settings.USUAL_STORE), str(settings.DEFAULT_FILE)) == (
        "/srv/dental-pms/backups",
        "/etc/dental-pms/backup.yaml",
    )


def test_schema_has_every_key_with_its_default() -> None:
    schema = reference.schema()
    found: dict[str, dict[str, Any]] = {}
    for name, entry in schema["properties"].items():
        inner = entry.get("properties", {})
        found |= {f"{name}.{leaf}": each for leaf, each in inner.items()} if inner else {name: entry}
        assert not inner or entry["additionalProperties"] is False
    defaults = {key.name: values.plain(key.default) for key in KEYS}
    assert {name: entry["default"] for name, entry in found.items()} == defaults
    assert {name: entry["description"] for name, entry in found.items()} == {key.name: key.says for key in KEYS}
    assert schema["additionalProperties"] is False
    assert json.loads(json.dumps(schema)) == schema


def test_schema_of_each_kind_of_key_is_whole() -> None:
    properties = reference.schema()["properties"]
    assert properties["keep"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 1_000_000,
        "description": "so many artefacts of each stream stay; pinned sets stay beside them",
        "default": 14,
    }
    assert properties["backup_dir"]["type"] == ["string", "null"]
    assert properties["application"]["properties"]["table"]["type"] == ["string", "null"]
    assert properties["database"]["properties"]["role_passwords"]["type"] == "boolean"
    assert properties["database"]["properties"]["source"]["enum"] == ["compose", "native"]
    assert properties["compose"]["properties"]["db_service"]["minLength"] == 1
    assert properties["drill"]["properties"]["checks"]["propertyNames"] == {"pattern": f"^{values.CHECK_NAME}$"}


KINDS = {"object": dict, "array": list, "integer": int, "string": str, "boolean": bool, "null": type(None)}
WORDS = {
    "$schema", "title", "description", "default", "type", "enum", "pattern", "properties", "additionalProperties",
    "minProperties", "minLength", "minimum", "maximum", "propertyNames", "items",
}  # fmt: skip


def conforms(value: Any, schema: dict[str, Any]) -> bool:  # noqa: ANN401 - any value of a file
    """Tell whether a value conforms to a JSON Schema that uses no other words than ours."""
    assert set(schema) <= WORDS
    names = schema.get("type", list(KINDS))
    kinds = {KINDS[name] for name in ([names] if isinstance(names, str) else names)}
    if type(value) not in kinds or value not in schema.get("enum", [value]):
        return False
    match value:
        case dict():
            inner, others = schema.get("properties", {}), schema["additionalProperties"] or {"enum": []}
            named = schema.get("propertyNames", {})
            enough = len(value) >= schema.get("minProperties", 0)
            return enough and all(
                conforms(name, named) and conforms(each, inner.get(name, others)) for name, each in value.items()
            )
        case list():
            return all(conforms(each, schema["items"]) for each in value)
        case str():
            return len(value) >= schema.get("minLength", 0) and bool(re.search(schema.get("pattern", ""), value))
        case int():
            return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True


@pytest.mark.parametrize("file", ["etc/backup.yaml", "etc/examples/backup.yaml"])
def test_shipped_file_conforms_to_the_schema(file: str) -> None:
    assert conforms(yaml.safe_load((TREE / file).read_text()), reference.schema())


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "kep: 3",
        "keep: 0",
        "keep: '3'",
        "keep: null",
        "backup_dir: backups",
        "compose: {dir: /srv}",
        "compose: {db_service: ''}",
        "database: {source: podman}",
        "database: {role_passwords: 1}",
        "offsite: {rclone_config: '%e/x'}",
        "database: {others: all}",
        "database: {others: [1]}",
        "database: {others: {a: b}}",
        "drill: {checks: {a: 1}}",
        "drill: {checks: {a/b: select true}}",
    ],
)
def test_schema_refuses_what_the_program_refuses(content: str, tmp_path: Path) -> None:
    assert not conforms(yaml.safe_load(content), reference.schema())
    assert problems_of(tmp_path, content)


def test_schema_takes_a_credential_where_the_program_does(tmp_path: Path) -> None:
    content = "native: {pgpass_file: '%d/pgpass'}\n"
    assert conforms(yaml.safe_load(content), reference.schema())
    assert problems_of(tmp_path, content) == ()


def test_example_is_what_the_code_says() -> None:
    assert (TREE / "etc/examples/backup.yaml").read_text() == reference.example()


def test_example_gives_the_defaults_with_every_key_in_the_file() -> None:
    file = TREE / "etc/examples/backup.yaml"
    found = settings.load(file, {})
    assert dict(found.values) == {key.name: key.default for key in KEYS}
    assert [origin for origin in found.origins.values() if not origin.startswith(f"{file}:")] == []


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_man_page_has_the_key_with_its_default_and_what_it_does(key: Key) -> None:
    page = manual("dental-pms-backup.yaml.5.scd")
    assert re.search(rf"{re.escape(f'{key.name} (default {values.render(key.default)}')}[,)]", page)
    assert key.says[0].upper() + key.says[1:] in page
    assert key.kind != "number" or f", from {key.least} to {key.most})" in page
    assert not key.variable or key.variable in page


def options_of(parser: ArgumentParser) -> set[str]:
    """Return every command and every option below a parser."""
    found = set()
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way
        found |= set(action.option_strings)
        if isinstance(action.choices, dict):
            found |= set(action.choices)
            found |= {option for inner in action.choices.values() for option in options_of(inner)}
    return found


@pytest.mark.parametrize("word", sorted(options_of(arguments.parser([])) - {"-h", "--help"}))
def test_man_page_has_the_command_or_option(word: str) -> None:
    assert re.search(rf"\*{re.escape(word)}\*", (TREE / "debian/dental-pms-backup.8.scd").read_text())


def manual(name: str) -> str:
    """Return a man page's source as one line of plain words."""
    text = (TREE / "debian" / name).read_text()
    return " ".join(re.sub(r"\\(.)|[*`]|(?<!\w)_|_(?!\w)", r"\1", text).split())


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_heeded(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "backup.yaml"
    file.write_text("keep: 3\n")
    file.chmod(mode)
    with pytest.raises(ConfigError) as raised:
        settings.load(file, {})
    said = f"{file}: can be written by others (owner {os.geteuid()}, mode {mode:o}), expected by root alone"
    assert (str(raised.value), raised.value.hint) == (said, f"chown root {file}; chmod go-w {file}")
