"""Imports go down only: each module imports from rows above its own, or from the left of it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import TREE

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = TREE / "dental_pms_backup"
LAYERS = (
    ("__init__", "errors"),
    (
        "stop",
        "keys",
        "reference",
        "document",
        "config",
        "journal",
        "notify",
        "durable",
        "places",
        "lock",
        "feeder",
        "tools",
        "confinement",
        "disks",
    ),
    (
        "proofs",
        "artefacts",
        "publishing",
        "ledger",
        "marks",
        "progress",
        "compose",
        "pinned",
        "postgres",
        "instructions",
    ),
    (
        "streams",
        "roads",
        "sources",
        "verify",
        "dumps",
        "originals",
        "databases",
        "restorer",
        "filtering",
        "replay",
        "unpack",
        "swap",
        "retention",
        "preflight",
        "suspicion",
        "offsite",
        "sandbox",
        "scratch",
    ),
    ("throwaway", "rehearsal", "reader", "likeness", "roundtrip", "inventory", "stage", "proving"),
    (
        "taking",
        "attempts",
        "run",
        "safety",
        "beside",
        "restore",
        "drill",
        "after_run",
        "worst_day",
        "extract",
        "copies",
        "audit",
        "admin",
        "overview",
        "report",
        "demo",
    ),
    ("arguments", "getting_back", "cli", "__main__"),
)
ORDER = [module for layer in LAYERS for module in layer]
ONLY_IN = {
    "sh": {"tools"},
    "subprocess": set[str](),
    "seccomp": {"confinement"},
    "systemd.journal": {"journal"},
    "systemd.daemon": {"notify"},
    "yaml": {"document"},
    "tqdm": {"progress"},
    "argparse": {"arguments", "getting_back", "cli"},
}
LONGEST_MODULE_LINES = 400


def imported(module: str) -> set[str]:
    """Return the dotted names that a module imports; those for types only, too."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules() -> list[Path]:
    return sorted(PACKAGE.glob("*.py"))


def test_every_module_has_one_place_in_the_layers() -> None:
    assert sorted(ORDER) == [path.stem for path in modules()]


@pytest.mark.parametrize("module", ORDER)
def test_module_imports_nothing_above_itself(module: str) -> None:
    inside = {name.split(".")[1] for name in imported(module) if name.startswith("dental_pms_backup.")}
    known = inside & set(ORDER)
    assert {name for name in known if ORDER.index(name) >= ORDER.index(module)} == set()


@pytest.mark.parametrize(("name", "owners"), ONLY_IN.items())
def test_library_has_one_door(name: str, owners: set[str]) -> None:
    found = {path.stem for path in modules() if any(f"{used}.".startswith(f"{name}.") for used in imported(path.stem))}
    assert found <= owners


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_module_is_no_longer_than_a_reader_can_hold(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE_LINES
