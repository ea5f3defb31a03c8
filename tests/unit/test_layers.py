"""The house: a folder imports from floors below its own, and inside a folder nothing goes in a circle."""

from __future__ import annotations

import ast
import functools
import graphlib
from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import TREE

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = TREE / "dental_pms_backup"
FLOORS = (
    {"errors"},
    {"host", "config"},
    {"store"},
    {"watch", "offsite", "live"},
    {"drill", "backup"},
    {"restore"},
    {"cli"},
)
ENTRANCE = {"__init__", "__main__"}
ONLY_IN = {
    "sh": {"host.programs"},
    "subprocess": set[str](),
    "seccomp": {"host.client_cage"},
    "systemd.journal": {"host.journal"},
    "systemd.daemon": {"host.notify"},
    "yaml": {"config.yaml_file"},
    "tqdm": {"host.progress"},
    "argparse": {"cli.arguments", "cli.restore_commands", "cli.commands"},
}
LONGEST_MODULE_LINES = 350


@functools.cache
def modules() -> dict[str, Path]:
    """Return all modules by their dotted names inside the package."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent == PACKAGE or path.stem != "__init__"]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


@functools.cache
def imported(path: Path) -> set[str]:
    """Return the dotted names that a module imports; those for types only, too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def inside(path: Path) -> set[str]:
    """Return the modules of the package that a module imports."""
    return {name.removeprefix("dental_pms_backup.") for name in imported(path)} & set(modules())


def floor(module: str) -> int:
    (found,) = (number for number, rooms in enumerate(FLOORS) if module.partition(".")[0] in rooms)
    return found


@pytest.mark.parametrize("module", sorted(set(modules()) - ENTRANCE))
def test_module_imports_from_its_own_folder_and_from_floors_below(module: str) -> None:
    folder = module.partition(".")[0]
    others = {name for name in inside(modules()[module]) - ENTRANCE if name.partition(".")[0] != folder}
    assert {name for name in others if floor(name) >= floor(module)} == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: inside(path) for module, path in modules().items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize(("name", "owners"), ONLY_IN.items())
def test_library_has_one_door(name: str, owners: set[str]) -> None:
    users = [
        module
        for module, path in modules().items()
        if any(f"{used}.".startswith(f"{name}.") for used in imported(path))
    ]
    assert set(users) == owners


@pytest.mark.parametrize("path", modules().values(), ids=modules())
def test_module_is_no_longer_than_a_reader_can_hold(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE_LINES


CUTS_AT_NEWLINES_ALONE = "a name that somebody else chose may hold all else that splitlines takes for the end of a line"
MAY_SPLITLINES = {
    "host.notify": "makes one line of a text",
    "restore.written_by": "looks at numbers and hexadecimal digits in the last lines",
}


@pytest.mark.parametrize(("module", "path"), modules().items(), ids=modules())
def test_lines_end_with_nothing_but_a_newline(module: str, path: Path) -> None:
    """The output of a program is cut by wording.lines."""
    calls = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert ("splitlines" in calls) == (module in MAY_SPLITLINES), CUTS_AT_NEWLINES_ALONE
