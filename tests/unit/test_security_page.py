"""SECURITY in the man page: each sentence of what holds names the test that shows it, and no such test is left out."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from tests.faults import EVIL
from tests.unit.builders import TREE

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = TREE / "debian/dental-pms-backup.8.scd"
NAMED = re.compile(r"_(test[a-z0-9_]*)_")


def parts() -> dict[str, str]:
    """Return the parts of the page by their titles, test names as they are."""
    section = PAGE.read_text().partition("\n# SECURITY\n")[2].partition("\n# ")[0].replace("\\_", "_")
    titled = re.split(r"^## (.+)$", section, flags=re.MULTILINE)
    return dict(zip(titled[1::2], titled[2::2], strict=True))


def items(part: str) -> list[str]:
    """Return what a part lists, each item on one line."""
    return [" ".join(item.split()) for item in re.split(r"^- ", part, flags=re.MULTILINE)[1:]]


def functions() -> Iterator[ast.FunctionDef]:
    for path in (TREE / "tests").rglob("test_*.py"):
        yield from (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))


def is_about_somebody_evil(function: ast.FunctionDef) -> bool:
    calls = [each for each in function.decorator_list if isinstance(each, ast.Call) and each.args]
    return any(isinstance(call.args[0], ast.Constant) and call.args[0].value == EVIL for call in calls)


def test_page_says_who_is_trusted_what_holds_and_what_does_not() -> None:
    assert list(parts()) == ["Who is trusted", "What holds", "What does not hold"]
    assert all(items(part) for part in parts().values())


@pytest.mark.parametrize("item", items(parts().get("What holds", "")), ids=lambda item: item[:60])
def test_what_holds_ends_with_the_tests_that_show_it(item: str) -> None:
    assert re.search(r"\. \((_test[a-z0-9_]*_(, )?)+\)$", item)


def test_page_names_each_attack_and_no_test_that_is_not_there() -> None:
    named = {name for part in parts().values() for name in NAMED.findall(part)}
    there = list(functions())
    assert named - {function.name for function in there} == set()
    assert {function.name for function in there if is_about_somebody_evil(function)} - named == set()
