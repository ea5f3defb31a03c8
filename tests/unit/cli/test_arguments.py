"""The command line beside what is written about it: README, man pages, journal catalog and RESTORE.txt."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.cli import arguments
from dental_pms_backup.store import restore_txt
from tests.unit.builders import TREE

if TYPE_CHECKING:
    from argparse import ArgumentParser

COMMAND = re.compile(r"^(?: {4}|\t)?(?:[A-Z_]+=\S+ )*dental-pms-backup (.+)$")
COMMON = {"-h", "--help", "-c", "--config", "-v", "--verbose", "-q", "--quiet", "--no-color"}
PARTS = ["Checks", "Changes", "Leaves behind", "Type next"]
MANUAL = (TREE / "debian/dental-pms-backup.8.scd").read_text()


def blocks(manual: str) -> list[str]:
    """Return the lines of a man page's literal blocks."""
    return [
        line
        for block in re.findall(r"^```\n(.*?)^```$", manual, re.DOTALL | re.MULTILINE)
        for line in block.split("\n")
    ]


def indented(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("    ")]


DOCUMENTS = {
    "README.md": indented((TREE / "README.md").read_text()),
    "dental-pms-backup.8.scd": blocks(MANUAL),
    "catalog": indented((TREE / "systemd/dental-pms-backup.catalog").read_text()),
    "RESTORE.txt": indented(restore_txt.TEXT),
}
COMMANDS = [(name, found[1]) for name, lines in DOCUMENTS.items() for line in lines if (found := COMMAND.match(line))]


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_every_command_in_a_document_is_one_that_the_program_reads(document: str, command: str) -> None:
    words = shlex.split(command.partition(" | ")[0], comments=True)
    assert arguments.parser(words).parse_args(words).command, document


def test_every_document_has_a_command() -> None:
    assert {name for name, _ in COMMANDS} == DOCUMENTS.keys()


def parsers_below(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    actions = parser._actions  # noqa: SLF001 - argparse has no public way
    return {
        name: inner for action in actions if isinstance(action.choices, dict) for name, inner in action.choices.items()
    }


def own_options(parser: ArgumentParser) -> set[str]:
    """Return the options of a command and its parts, but for those that all have."""
    found = {option for action in parser._actions for option in action.option_strings} - COMMON  # noqa: SLF001
    return found.union(*(own_options(inner) for inner in parsers_below(parser).values()))


OPTIONS = {name: own_options(command) for name, command in parsers_below(arguments.parser([])).items()}


def told_options(text: str) -> dict[str, set[str]]:
    """Return the options that stand in a text's lines of usage, by command."""
    found: dict[str, set[str]] = {}
    for line in text.split("\n"):
        words = re.match(r"\*dental-pms-backup\*? (?:\[_OPTION_...\] )?\*?(\w+)", line)
        if words:
            found.setdefault(words[1], set()).update(re.findall(r"--[a-z-]+", line))
    return found


def test_synopsis_has_the_options_of_every_command() -> None:
    synopsis = MANUAL.partition("# SYNOPSIS\n")[2].partition("\n# ")[0]
    assert told_options(synopsis) == OPTIONS


def described() -> list[str]:
    """Return what the man page says of each command."""
    return re.split(r"^## ", MANUAL.partition("\n# COMMANDS\n")[2].partition("\n# ")[0], flags=re.MULTILINE)[1:]


def test_man_page_describes_every_command_with_its_options() -> None:
    assert told_options("\n".join(described())) == OPTIONS


@pytest.mark.parametrize("command", described(), ids=lambda text: text.partition(":")[0])
def test_command_is_told_by_what_it_checks_and_changes_and_leaves_and_what_to_type_next(command: str) -> None:
    assert re.findall(r"^\*([A-Z][a-z ]+)\*$", command, re.MULTILINE) == PARTS
