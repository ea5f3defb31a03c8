"""The commands ``restore`` and ``extract``: is it clear what is meant, and does the admin want it? Then the flow."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.cli import output, report
from dental_pms_backup.errors import RefusedError, UsageError, shell_word
from dental_pms_backup.host import journal, stop
from dental_pms_backup.restore import attachments, database, extract, restore_all
from dental_pms_backup.restore.terms import Prospect, Restored, Terms
from dental_pms_backup.store import latest
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from argparse import Namespace as Arguments
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.progress import Watch

    Say = Callable[[Iterable[str]], None]

ALL = "all"


def restore_as_asked(config: Config, arguments: Arguments, *, now: datetime, watch: Watch, say: Say) -> None:
    """Restore what the command line asks for and say what was done; RefusedError, UsageError where it is not clear."""
    _check_words(arguments)
    kinds = (Kind.DB, Kind.ATTACHMENTS) if arguments.stream == ALL else (Kind(arguments.stream),)
    wanted = latest.named(config.store, arguments.wanted, having=kinds, now=now)
    terms = Terms(
        consent=lambda prospects: _consent(prospects, say, asks=not _has_word(arguments)),
        safety_set=not arguments.no_safety_set,
        replay=arguments.replace,
        as_superuser=arguments.as_superuser,
        dry_run=arguments.dry_run,
    )
    done = _done(config, arguments, wanted, terms, now=now, watch=watch)
    for each in done:
        match each:
            case Prospect():
                say(report.prospect_lines(each))
            case Restored():
                say(report.restored_lines(each))
                output.to_person(report.restored_told(each), quiet=arguments.quiet)
    if arguments.dry_run:
        say([report.DRY_RUN])
    elif arguments.stream == ALL:
        matched = restore_all.match(config, wanted, watch=watch)
        say([f"attachment_rows_with_files={matched.rows if matched else 'no such table'}", "restore_all_status=ok"])
        say(report.next_lines(config))


def _done(
    config: Config, arguments: Arguments, wanted: str, terms: Terms, *, now: datetime, watch: Watch
) -> Sequence[Restored | Prospect]:
    target = arguments.to
    if arguments.stream == ALL:
        return restore_all.both_in_place(config, wanted, terms, now=now, watch=watch)
    match Stream(arguments.stream), arguments.in_place:
        case Stream.DB, True:
            return [database.in_place(config, wanted, terms, now=now, watch=watch)]
        case Stream.DB, False:
            return [database.into_new(config, wanted, target, terms, now=now, watch=watch)]
        case _, True:
            return [attachments.in_place(config, wanted, terms, now=now, watch=watch)]
        case _:
            return [attachments.into_new(config, wanted, target, terms, now=now, watch=watch)]


def extract_as_asked(config: Config, arguments: Arguments, *, now: datetime, watch: Watch, say: Say) -> None:
    """Extract what the command line asks for and say where it is; UsageError where that is not clear."""
    paths, table = arguments.paths, arguments.table
    if bool(paths) == (table is not None) or (arguments.csv if table is None else arguments.stored_names):
        raise UsageError(
            "extract: expected paths of the attachments (--stored-names goes with them), "
            "or --table with a name (--csv goes with it)"
        )
    if arguments.json and table is not None:
        raise UsageError("extract: the rows of a table are SQL or CSV, expected --json with paths only")
    kind = Kind.ATTACHMENTS if table is None else Kind.DB
    wanted = latest.named(config.store, arguments.wanted, having=[kind], now=now)
    if table is None:
        directory = (arguments.to or Path()).absolute()
        found = extract.files(config, wanted, paths, directory, stored_names=arguments.stored_names, watch=watch)
        say(report.extracted_lines(paths, found, as_json=arguments.json))
        return
    target = arguments.to.absolute() if arguments.to else None
    count = extract.table(config, wanted, table, target, csv=arguments.csv, watch=watch)
    if target:
        say([f"extracted={target}", f"extracted_rows={count}"])


def _check_words(arguments: Arguments) -> None:
    """Raise unless it is clear where to, and the admin has said that what is live is to be replaced, where it is."""
    what = arguments.stream
    command = f"CONFIRM=YES dental-pms-backup restore {what} {shell_word(arguments.wanted)}"
    if (arguments.replace or arguments.no_safety_set) and not arguments.in_place:
        raise UsageError("restore: --replace and --no-safety-set change what is live, expected --in-place with them")
    if arguments.replace and what != Stream.DB:
        raise UsageError(f"restore: --replace is about the database, expected db, not {what}")
    if arguments.as_superuser and what == Stream.ATTACHMENTS:
        raise UsageError("restore: --as-superuser is about the database, expected db or all, not attachments")
    if what == ALL and not arguments.in_place:
        raise RefusedError(
            "restore: all replaces what is live, expected --in-place and no other target",
            hint=f"{command} --in-place",
        )
    if what == Stream.ATTACHMENTS and not arguments.in_place and arguments.to is None:
        raise RefusedError(
            "restore: no target is named, expected --to and a directory, or --in-place to replace what is live",
            hint=f"{command} --in-place",
        )
    if arguments.in_place and not (arguments.dry_run or _has_word(arguments) or _at_terminal()):
        raise RefusedError(
            f"restore: this replaces the live {what}, expected --yes or CONFIRM=YES", hint=f"{command} --in-place"
        )


def _has_word(arguments: Arguments) -> bool:
    """Tell whether the admin has given his word for all that is replaced."""
    return bool(arguments.yes) or os.environ.get("CONFIRM") == "YES"


def _at_terminal() -> bool:
    return bool(sys.stdin) and sys.stdin.isatty()


def _consent(prospects: Sequence[Prospect], say: Say, *, asks: bool) -> None:
    """Show what comes into what is live, and what of that it has not; ``asks`` the admin for each; RefusedError."""
    say(f"restoring={origin}" for origin in dict.fromkeys(prospect.origin for prospect in prospects))
    say(f"live_has_more={loss}" for prospect in prospects for loss in prospect.losses)
    for prospect in prospects:
        if not prospect.strange:
            continue
        if asks:
            journal.say(f"Look twice: {prospect.strange}.")
        elif os.environ.get("CONFIRM") != prospect.answer:
            raise RefusedError(
                f"restore: {prospect.strange}, expected CONFIRM to name that database",
                hint=f"if it is the one to replace: CONFIRM={shell_word(prospect.answer)} before the same command with "
                "--yes",
            )
    for prospect in prospects if asks else ():
        what = f"{prospect.target} by {prospect.origin}: {prospect.content}"
        journal.say(f"This replaces {what}. Type {prospect.answer} to go on:")
        while not select.select([sys.stdin], [], [], stop.LONGEST_NAP_S)[0]:
            stop.check()
        if sys.stdin.readline().strip() != prospect.answer:
            raise RefusedError(f'restore: the answer was not "{prospect.answer}"')
