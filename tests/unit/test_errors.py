"""The tree of errors: what its docstring draws is what its classes are."""

from __future__ import annotations

import re

from dental_pms_backup import errors
from dental_pms_backup.errors import BackupError
from tests.unit.builders import TREE

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
    text = (TREE / "debian/dental-pms-backup.8.scd").read_text()
    causes = {cause for _, _, _, cause in all_below(BackupError)} - {"failed", "usage"}
    own = {
        word for line in re.findall(r"^\*\w+\*(?:, \*\w+\*)*$", text, re.MULTILINE) for word in re.findall(r"\w+", line)
    }
    assert sorted(causes - own) == []
