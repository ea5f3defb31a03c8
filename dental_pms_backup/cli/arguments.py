"""The command line as argparse reads it: commands, options, help. What a command does is in ``commands``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup import __version__
from dental_pms_backup.config.settings import DEFAULT_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name


def parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command line: where its command is known, without all the others."""
    top = argparse.ArgumentParser(
        prog="dental-pms-backup",
        allow_abbrev=False,
        description="Back up a dental practice's database and attachments, and get them back.",
        epilog="dental-pms-backup(8) explains each command, dental-pms-backup.yaml(5) the configuration.",
    )
    top.add_argument("--version", action="version", version=f"dental-pms-backup {__version__}")
    _add_common(top, first=True)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = argv[0] if argv and argv[0] in COMMANDS else ""
    for name, add in COMMANDS.items():
        if wanted in {"", name}:
            add(commands)
    return top


def _add_common(to: argparse.ArgumentParser, *, first: bool = False, reads: bool = False) -> None:
    """Add the options that stand before or after the command; what stands after does not reset what stood before."""

    def default(value: object) -> object:
        return value if first else argparse.SUPPRESS

    to.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        default=default(DEFAULT_FILE),
        help="read this configuration file",
    )
    to.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=default(False),
        help="print every journal entry, not only the warnings",
    )
    to.add_argument("-q", "--quiet", action="store_true", default=default(False), help="print no warnings and no bar")
    to.add_argument("--no-color", action="store_true", default=default(False), help="never color the output")
    if reads or first:
        to.add_argument("--json", action="store_true", default=default(False), help="print JSON instead of text")


def _command(
    commands: Commands, name: str, full_name: str, says: str, *, reads: bool = False
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, allow_abbrev=False, help=says, description=says[0].upper() + says[1:] + "."
    )
    _add_common(command, reads=reads)
    command.set_defaults(command=full_name)
    return command


def _add_run(commands: Commands) -> None:
    command = _command(commands, "run", "run", "take one set of both streams, or of the streams that are named")
    command.add_argument(
        "streams", nargs="*", metavar="db|attachments", help="a stream to take; without any, both are taken"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="reach the sources, say what would be done, change nothing"
    )


def _add_list(commands: Commands) -> None:
    _command(commands, "list", "list", "list the sets in the store, oldest first", reads=True)


def _add_show(commands: Commands) -> None:
    command = _command(commands, "show", "show", "show what a set holds, and what is known of it", reads=True)
    command.add_argument("set", metavar="SET", help="a set's name, latest, oldest, or a path")


def _add_verify(commands: Commands) -> None:
    command = _command(
        commands, "verify", "verify", "read sets to their last byte and compare their checksums", reads=True
    )
    command.add_argument("sets", metavar="SET", nargs="*", help="a set to verify; without any, all are verified")


def _add_restore(commands: Commands) -> None:
    command = _command(commands, "restore", "restore", "put the content of a set or a file back")
    command.add_argument(
        "stream",
        metavar="db|attachments|all",
        choices=("db", "attachments", "all"),
        help="the stream to restore, or both",
    )
    command.add_argument("wanted", metavar="SET|FILE", help="a set's name, latest, oldest, or the path of a file")
    target = command.add_mutually_exclusive_group()
    target.add_argument(
        "--to", metavar="NAME|DIR", help="restore into a new database or a new or empty directory of this name"
    )
    target.add_argument("--in-place", action="store_true", help="replace what is live; this needs --yes, or an answer")
    command.add_argument(
        "--replace", action="store_true", help="with --in-place, for a server whose disk has no room for two databases"
    )
    command.add_argument("--as-superuser", action="store_true", help="load the dump with every right of the superuser")
    command.add_argument(
        "--no-safety-set", action="store_true", help="with --in-place, take no set of what is live first"
    )
    command.add_argument(
        "--yes", action="store_true", help="give your word for --in-place; CONFIRM=YES in the environment does the same"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="look at everything, say what would be done, touch nothing"
    )


def _add_extract(commands: Commands) -> None:
    says = "get files, or the rows of one table, out of a set; nothing live is touched"
    command = _command(commands, "extract", "extract", says, reads=True)
    command.add_argument("wanted", metavar="SET|FILE", help="a set's name, latest, oldest, or the path of a file")
    command.add_argument(
        "paths", metavar="PATH", nargs="*", help="a file or directory of the attachments, as tar -tzf lists it"
    )
    command.add_argument(
        "--stored-names",
        action="store_true",
        help="files keep the names of the archive instead of their original names",
    )
    command.add_argument("--table", metavar="NAME", help="write the rows of this table, as SQL")
    command.add_argument("--csv", action="store_true", help="write the rows of the table as CSV")
    command.add_argument(
        "--to", metavar="DIR|FILE", type=Path, help="write files to this directory, or rows to this new file"
    )


def _add_drill(commands: Commands) -> None:
    command = _command(
        commands,
        "drill",
        "drill",
        "restore a set into a throwaway server, and prove that what came back is what went in",
    )
    command.add_argument(
        "set", metavar="SET", nargs="?", help="the set; without it, the newest set that was not drilled yet"
    )


def _add_prune(commands: Commands) -> None:
    prune = _command(commands, "prune", "prune", "remove the sets that retention lets go, as a run does at its end")
    prune.add_argument("--dry-run", action="store_true", help="print each choice with its reason, and remove nothing")


def _add_keep(commands: Commands) -> None:
    keep = _command(commands, "keep", "keep", "pin a set, so that it is never removed")
    keep.add_argument("set", metavar="SET", help="a set's name, latest, oldest, or a path")
    keep.add_argument("--release", action="store_true", help="take the pin off")


def _add_accept(commands: Commands) -> None:
    accept = _command(commands, "accept", "accept", "say that a suspect set is right, so that retention goes on")
    accept.add_argument("set", metavar="SET", help="a set's name, or a path")


def _add_status(commands: Commands) -> None:
    _command(
        commands,
        "status",
        "status",
        "say how the last run ended, what the newest set of each stream is, and when the next run starts",
        reads=True,
    )


def _add_config(commands: Commands) -> None:
    command = _command(commands, "config", "config show", "check, show or describe the configuration")
    parts = command.add_subparsers(metavar="check|show|schema", required=True)
    _command(parts, "check", "config check", "report every fault of the configuration at once", reads=True)
    _command(parts, "show", "config show", "show every effective value, and where it comes from", reads=True)
    _command(parts, "schema", "config schema", "print the JSON Schema of the configuration file")


def _add_offsite(commands: Commands) -> None:
    command = _command(commands, "offsite", "offsite list", "copy sets to the second place, encrypted, and back")
    parts = command.add_subparsers(metavar="push|list|verify|fetch", required=True)
    push = _command(parts, "push", "offsite push", "copy sets to the second place, and compare every byte")
    push.add_argument("sets", metavar="SET", nargs="*", help="a set to copy; without any, those that are not there yet")
    _command(parts, "list", "offsite list", "list the sets in the second place", reads=True)
    verify = _command(
        parts, "verify", "offsite verify", "download sets, and compare every byte with the store", reads=True
    )
    verify.add_argument(
        "sets", metavar="SET", nargs="*", help="a set to compare; without any, all that are in both places"
    )
    fetch = _command(parts, "fetch", "offsite fetch", "bring a set back into the store, and verify it")
    fetch.add_argument("set", metavar="SET", help="the set's name")


def _add_demo(commands: Commands) -> None:
    command = _command(commands, "demo", "demo", "take and restore a sample practice in a throwaway PostgreSQL")
    command.add_argument("--keep", metavar="DIR", type=Path, help="leave the demo's store in this new directory")


COMMANDS: dict[str, Callable[[Commands], None]] = {
    "run": _add_run,
    "list": _add_list,
    "show": _add_show,
    "verify": _add_verify,
    "restore": _add_restore,
    "extract": _add_extract,
    "drill": _add_drill,
    "prune": _add_prune,
    "keep": _add_keep,
    "accept": _add_accept,
    "status": _add_status,
    "config": _add_config,
    "offsite": _add_offsite,
    "demo": _add_demo,
}
