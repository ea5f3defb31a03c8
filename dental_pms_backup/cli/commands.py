"""The command line: arguments, clock, environment and signals; the one place where an error becomes text.

Each command imports what it needs, as its first step: all of it would take ten times as long as Python takes to start.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from dental_pms_backup.cli import output, process
from dental_pms_backup.errors import BackupError, OutputError
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Echo

if TYPE_CHECKING:
    from argparse import Namespace as Arguments
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.store.sets import Stream

DONE, FAILED = 0, 1


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    process.prepare()
    given = sys.argv[1:] if argv is None else argv
    try:
        arguments = _arguments(given)
        journal.show(Echo.ALL if arguments.verbose else Echo.WARNINGS if not arguments.quiet else Echo.NOTHING)
        status = COMMANDS[arguments.command](arguments)
    except BackupError as error:
        output.explain(error)
        status = error.exit_status
    return status


def _arguments(argv: list[str]) -> Arguments:
    from dental_pms_backup.cli.arguments import parser

    try:
        return parser(argv).parse_args(argv)
    except SystemExit:
        output.lines(())  # what --help and --version printed has to arrive, too
        raise


def _run(arguments: Arguments) -> int:
    from dental_pms_backup.backup import run
    from dental_pms_backup.backup.after_run import follow
    from dental_pms_backup.cli import report
    from dental_pms_backup.host import notify

    journal.prepare()
    notify.prepare()
    try:
        config = _settings(arguments)
        wanted = _streams(arguments.streams)
        if arguments.dry_run:
            output.lines(report.dry_run_lines(config.store, *run.dry_run(config, wanted, now=_now())))
            return DONE
        taken = run.take(config, wanted, now=_now(), watch=_watch(arguments, config))
    except BackupError as error:
        with contextlib.suppress(OutputError):  # the failure is the one to tell
            output.lines([f"failure={error.cause}", "backup_run_status=failed"])
        raise
    except Exception:
        with contextlib.suppress(OutputError):
            output.lines(["failure=bug", "backup_run_status=failed"])
        raise
    output.lines([*report.run_lines(taken), "backup_run_status=ok"])
    output.to_person(report.run_told(taken), quiet=arguments.quiet)
    follow(config)
    return DONE


def _list(arguments: Arguments) -> int:
    from dental_pms_backup.cli import report
    from dental_pms_backup.store import sets

    listed = sets.listing(_settings(arguments).store)
    if arguments.json:
        output.as_json([report.set_summary(stored) for stored in listed])
    else:
        color = sys.stdout.isatty() and not arguments.no_color and "NO_COLOR" not in os.environ
        output.lines(report.set_table(listed, _now(), color=color), colored=color)
    return DONE


def _show(arguments: Arguments) -> int:
    from dental_pms_backup.cli import report
    from dental_pms_backup.store import sets

    store = _settings(arguments).store
    stored = sets.find(store, _named(store, arguments.set))
    if arguments.json:
        output.as_json({**report.set_summary(stored), "manifest": stored.manifest})
    else:
        output.lines(report.set_details(store, stored))
    return DONE


def _verify(arguments: Arguments) -> int:
    from dental_pms_backup.cli import report
    from dental_pms_backup.store import latest, sets, verify_sets

    config = _settings(arguments)
    named = dict.fromkeys(name for word in arguments.sets for name in latest.every(config.store, word, now=_now()))
    chosen = [sets.find(config.store, name) for name in named] or sets.listing(config.store)
    if not chosen:
        sets.find(config.store, "")  # says so
    found = [verify_sets.verify_set(config.store, stored, watch=_watch(arguments, config)) for stored in chosen]
    verdicts = [verdict for verdict in found if verdict]
    if arguments.json:
        output.as_json([report.verdict_summary(verdict) for verdict in verdicts])
    else:
        output.lines(line for verdict in verdicts for line in report.verdict_lines(verdict))
    return FAILED if any(verdict.problems for verdict in verdicts) else DONE


def _restore(arguments: Arguments) -> int:
    from dental_pms_backup.cli import restore_commands

    config = _settings(arguments)
    restore_commands.restore_as_asked(config, arguments, now=_now(), watch=_watch(arguments, config), say=output.lines)
    return DONE


def _extract(arguments: Arguments) -> int:
    from dental_pms_backup.cli import restore_commands

    config = _settings(arguments)
    restore_commands.extract_as_asked(config, arguments, now=_now(), watch=_watch(arguments, config), say=output.lines)
    return DONE


def _drill(arguments: Arguments) -> int:
    from dental_pms_backup.cli import report
    from dental_pms_backup.drill import drill

    try:
        config = _settings(arguments)
        wanted = arguments.set and _named(config.store, arguments.set)
        drilled = drill.perform(config, wanted, now=_now(), watch=_watch(arguments, config))
        if drilled is None:
            output.lines(["drill_status=nothing"])
            output.to_person(report.NOTHING_TO_DRILL, quiet=arguments.quiet)
            return DONE
        output.lines(report.drilled_lines(drilled))
        if drilled.failure:
            raise drilled.failure
    except BackupError as error:
        with contextlib.suppress(OutputError):  # the failure is the one to tell
            output.lines([f"failure={error.cause}", "drill_status=failed"])
        raise
    output.lines(["drill_status=proven"])
    output.to_person(report.drilled_told(drilled), quiet=arguments.quiet)
    return DONE


def _prune(arguments: Arguments) -> int:
    from dental_pms_backup.backup import run
    from dental_pms_backup.cli import report

    choices = run.prune(_settings(arguments), now=_now(), dry_run=arguments.dry_run)
    output.lines(report.choice_lines(choices, dry_run=arguments.dry_run))
    return DONE


def _keep(arguments: Arguments) -> int:
    from dental_pms_backup.store import admin

    mark = admin.release if arguments.release else admin.pin
    store = _settings(arguments).store
    output.lines([mark(store, _named(store, arguments.set), now=_now())])
    return DONE


def _accept(arguments: Arguments) -> int:
    from dental_pms_backup.store import admin

    store = _settings(arguments).store
    output.lines([admin.accept(store, _named(store, arguments.set), now=_now())])
    return DONE


def _status(arguments: Arguments) -> int:
    from dental_pms_backup.cli import report
    from dental_pms_backup.watch import overview

    facts = overview.status(_settings(arguments).store, now=_now())
    if arguments.json:
        output.as_json(facts)
    else:
        output.lines(report.status_lines(facts))
    return DONE


def _config_check(arguments: Arguments) -> int:
    _settings(arguments)
    if arguments.json:
        output.as_json({"file": str(arguments.config), "problems": []})
    else:
        output.lines([f"{arguments.config}: good"])
    return DONE


def _config_show(arguments: Arguments) -> int:
    from dental_pms_backup.config import values

    config = _settings(arguments)
    shown = {
        name: {
            "value": values.plain(value),
            "origin": origin,
        }
        for (name, value), origin in zip(config.values.items(), config.origins.values(), strict=True)
    }
    if arguments.json:
        output.as_json({"store": str(config.store), "keys": shown})
    else:
        output.lines([f"# the store is {config.store}"])
        output.lines(
            f"{name}: {values.render(value)}  # {config.origins[name]}" for name, value in config.values.items()
        )
    return DONE


def _config_schema(_arguments: Arguments) -> int:
    from dental_pms_backup.config import reference

    output.as_json(reference.schema())
    return DONE


def _offsite_push(arguments: Arguments) -> int:
    from dental_pms_backup.offsite import copying

    config = _settings(arguments)
    wanted = [_named(config.store, name) for name in arguments.sets]
    for name in copying.push(config, wanted, now=_now()):
        output.lines([f"{name}: copied and compared"])
    return DONE


def _offsite_list(arguments: Arguments) -> int:
    from dental_pms_backup.offsite import copying

    found = copying.names(_settings(arguments))
    if arguments.json:
        output.as_json(found)
    else:
        output.lines(found)
    return DONE


def _offsite_verify(arguments: Arguments) -> int:
    from dental_pms_backup.offsite import copying

    config = _settings(arguments)
    problems = copying.verify(config, [_named(config.store, name) for name in arguments.sets])
    if arguments.json:
        output.as_json([{"set": name, "good": not problem, "problem": problem} for name, problem in problems.items()])
    else:
        output.lines(f"{name}: {problem or 'the same offsite'}" for name, problem in problems.items())
    return FAILED if any(problems.values()) else DONE


def _offsite_fetch(arguments: Arguments) -> int:
    from dental_pms_backup.offsite import copying

    stored = copying.fetch(_settings(arguments), arguments.set, now=_now())
    output.lines([copying.told(stored)])
    return DONE


def _demo(arguments: Arguments) -> int:
    from dental_pms_backup.cli import demo

    demo.perform(keep=arguments.keep, now=_now(), say=lambda text: output.lines([text]), bar=_bar(arguments))
    return DONE


def _settings(arguments: Arguments) -> Config:
    from dental_pms_backup.config.settings import load

    return load(arguments.config, os.environ)


def _named(store: Path, wanted: str) -> str:
    from dental_pms_backup.store import latest

    return latest.named(store, wanted, now=_now())


def _streams(names: list[str]) -> list[Stream]:
    """Return the streams named, each once, in the order in which they are taken; all without any."""
    from dental_pms_backup.cli.arguments import parser
    from dental_pms_backup.store.sets import Stream

    unknown = [name for name in names if name not in set(Stream)]
    if unknown:
        parser([]).error(f'"{unknown[0]}": no such stream, expected {" or ".join(Stream)}')
    return [stream for stream in Stream if not names or stream in names]


def _watch(arguments: Arguments, config: Config) -> Watch:
    from dental_pms_backup.host.progress import Watch

    return Watch(bar=_bar(arguments), stall_timeout_s=config.stall_timeout_s)


def _bar(arguments: Arguments) -> bool:
    return sys.stderr.isatty() and not arguments.quiet


def _now() -> datetime:
    from datetime import UTC, datetime

    return datetime.now(UTC)


COMMANDS: dict[str, Callable[[Arguments], int]] = {
    "run": _run,
    "list": _list,
    "show": _show,
    "verify": _verify,
    "restore": _restore,
    "extract": _extract,
    "drill": _drill,
    "prune": _prune,
    "keep": _keep,
    "accept": _accept,
    "status": _status,
    "config check": _config_check,
    "config show": _config_show,
    "config schema": _config_schema,
    "offsite push": _offsite_push,
    "offsite list": _offsite_list,
    "offsite verify": _offsite_verify,
    "offsite fetch": _offsite_fetch,
    "demo": _demo,
}
