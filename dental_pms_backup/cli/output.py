"""What a command prints, and what it says of an error."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, ConfigError, OutputError, UsageError
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

REFUSED = {4, 75, 78}  # by a rule, by what another command does, by the configuration


def lines(printed: Iterable[str], *, colored: bool = False) -> None:
    """Print lines, without what could command a terminal; OutputError unless all of it arrives."""
    try:
        for line in printed:
            sys.stdout.write(f"{line if colored else journal.legible(line)}\n")
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes it once more at its end
        raise OutputError(f"standard output: {error.strerror}, so not everything was printed") from None


def to_person(text: str, *, quiet: bool) -> None:
    """Say in a sentence, to a person at a terminal, what the key=value lines say to programs."""
    if sys.stdout.isatty() and not quiet:
        journal.say(text)


def as_json(value: object) -> None:
    """Print a value as JSON."""
    import json

    lines(json.dumps(value, indent=2).split("\n"))


def explain(error: BackupError) -> None:
    """Tell an error to whoever started us: on stderr, and in the journal where no flow has put it there."""
    if not error.told and not isinstance(error, UsageError | OutputError):
        refused = error.exit_status in REFUSED and not journal.has_told()
        event = Event.REFUSED if refused else Event.COMMAND_FAILED
        fields: dict[str, journal.Field] = {"cause": error.cause, "hint": error.hint}
        journal.write(event, error.message, priority=journal.ERROR, fields=fields)
    if not journal.stderr_is_the_journal():
        for line in error.problems if isinstance(error, ConfigError) else (error.message,):
            journal.say(f"dental-pms-backup: {line}")
        if error.hint:
            journal.say(f"hint: {error.hint}")
