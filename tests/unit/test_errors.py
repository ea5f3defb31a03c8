"""The tree of errors: what its docstring draws is what its classes are."""

from __future__ import annotations

import ast
import re
import shlex
from typing import TYPE_CHECKING

from dental_pms_backup import errors
from dental_pms_backup.errors import BackupError, cause_of, shell_word
from tests.unit.builders import TREE

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = {1, 2, 4, 75, 78}


def all_below(error: type[BackupError], depth: int = 0) -> list[tuple[int, str, int, str]]:
    found = [(depth, error.__name__, error.exit_status, error.cause)]
    return found + [each for inner in error.__subclasses__() for each in all_below(inner, depth + 1)]


def drawn() -> list[tuple[int, str, int, str]]:
    found = []
    for line in str(errors.__doc__).splitlines():
        match = re.match(r"([│├└─ ]*)(\w+Error) +(\d+) +(\w+)", line)
        if match:
            found.append((len(match[1]) // 4, match[2], int(match[3]), match[4]))
    return found


def test_tree_is_drawn_as_it_is() -> None:
    assert drawn() == all_below(BackupError)


def test_every_error_ends_with_a_status_of_the_contract() -> None:
    assert {status for _, _, status, _ in all_below(BackupError)} == ALLOWED


def test_every_cause_is_one_word() -> None:
    assert [cause for _, _, _, cause in all_below(BackupError) if not re.fullmatch("[a-z]+", cause)] == []


def test_every_cause_that_a_run_can_end_with_is_in_the_man_page() -> None:
    page = (TREE / "debian/dental-pms-backup.8.scd").read_text()
    text = page.partition("\n# CAUSES\n")[2].partition("\n# ")[0]
    entries = re.findall(r"^(\*\w+\*(?:, \*\w+\*)*)\n\t\S", text, re.MULTILINE)
    told = sorted(word for line in entries for word in re.findall(r"\w+", line))
    known = {cause for _, name, _, cause in all_below(BackupError) if name != "BackupError"}
    assert told == sorted({*known, cause_of(ValueError())})


def test_no_failure_is_without_a_cause_of_its_own() -> None:
    found = [path for path in (TREE / "dental_pms_backup").rglob("*.py") if "raise BackupError(" in path.read_text()]
    assert found == []


PROGRAMS = r"(?:apt|docker) [a-z]+|chmod|chown|dental-pms-backup [a-z]+|df|findmnt|fuser|ls|rclone|readlink|rm|tar"
COMMAND = re.compile(rf"(?:^|then: |; |YES |\$ )(?:{PROGRAMS}) -?")
# What stands in a command as it is: numbers, and words of ours that no path or foreign name is part of.
HARMLESS = {
    *("UNIT", "CONFIGURED", "major", "facts.major", "found.major", "us", "what", "where[0]"),
    *("status.st_uid", "status.st_gid"),
    *("name", "stored.name", "self.stored.name"),  # of a set
    *("command", "how", "shown", "AS_SUPERUSER"),  # made elsewhere, and looked at there
    "role",  # in SQL, quoted there
    "', ...' if len(chosen or found) > TABLES_SHOWN else ''",
}


def typed(module: ast.Module) -> Iterator[ast.JoinedStr]:
    """Yield every text with something put in that is a hint, or that somebody is to type."""
    for node in ast.walk(module):
        match node:
            case ast.keyword(arg="hint", value=hint) | ast.Call(func=ast.Name(id="_warn"), args=[*_, hint]):
                yield from (each for each in ast.walk(hint) if isinstance(each, ast.JoinedStr))
            case ast.JoinedStr(values=[ast.Constant(value=str(begins)), *_]) if COMMAND.search(begins):
                yield node


def unquoted(module: ast.Module) -> set[str]:
    parts = (each for text in typed(module) for each in text.values)
    put_in = {ast.unparse(each.value) for each in parts if isinstance(each, ast.FormattedValue)}
    return {each for each in put_in if not each.startswith("shell_word(")} - HARMLESS


def test_every_path_and_name_in_a_hint_is_quoted() -> None:
    found = {}
    for file in (TREE / "dental_pms_backup").rglob("*.py"):
        if left := unquoted(ast.parse(file.read_text())):
            found[file.name] = left
    assert found == {}


def test_a_name_that_would_be_a_command_is_one_word() -> None:
    assert unquoted(ast.parse('E("x", hint=f"ls -ld {path}   # {stored.name}"); f"docker rm {other}"')) == {
        "path",
        "other",
    }
    for name in ("/srv/db;touch pwned;.sql", "it's $(id)", "`id`", "a\nb", "-rf ~"):
        assert shlex.split(f"ls -ld {shell_word(name)}") == ["ls", "-ld", name]
