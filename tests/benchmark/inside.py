"""The benchmark, in the machine that machine.py made: inside RESULTS PART... [--rows=N]; see tests/bench."""

import argparse
import os
import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.benchmark import backup, command, drill, reporting, restore, scaling
from tests.benchmark.measure import FailedError, Options, run

HOME = Path("/srv/bench")
PARTS = {
    "backup": backup.measure,
    "restore": restore.measure,
    "drill": drill.measure,
    "command": command.measure,
    "scaling": scaling.measure,
}
VERSIONS = {
    "dental-pms-backup": "dental-pms-backup --version",
    "postgresql": "pg_dump --version",
    "postgresql, container": "docker exec $DB pg_dump --version",
    "docker": "docker --version",
    "restic": "restic version",
    "borg": "borg --version",
    "borgmatic": "borgmatic --version",
}


def main() -> int:
    """Measure the parts that are asked for, one after the other."""
    arguments = _arguments()
    options = Options(
        rows=arguments.rows,
        files=arguments.files,
        repetitions=arguments.repetitions,
        home=HOME,
        results=arguments.results,
    )
    _make_role()
    environment = backup.environment(HOME, _programs())
    facts = {"repetitions": options.repetitions, "cores": os.cpu_count(), "versions": _versions(environment)}
    failed = False
    for part in dict.fromkeys(arguments.parts):
        report = PARTS[part](options, environment)
        report = replace(report, facts={**facts, **report.facts})
        reporting.write(report, arguments.results)
        sys.stdout.write(f"\n{report.text}")
        sys.stdout.flush()
        missed = arguments.strict and any(not goal.met for goal in report.goals)
        failed = failed or missed or not report.complete
    return int(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("results", type=Path)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--strict", action="store_true")
    return parser.parse_args()


def _programs() -> Path:
    """Return the directory of PostgreSQL's programs: nobody is to pay for the wrappers that Debian puts before them."""
    (found,) = Path("/usr/lib/postgresql").glob("*/bin/pg_dump")
    return found.parent


def _make_role() -> None:
    """Let root be a superuser of the machine's own PostgreSQL."""
    psql = "runuser -u postgres -- psql -Atqc"
    if "root" not in run(f"{psql} 'select rolname from pg_roles'").split():  # noqa: S608  # no SQL of anybody else
        run(f"{psql} 'create role root superuser login'")


def _versions(environment: dict[str, str]) -> str:
    """Return the programs and their versions."""
    return "; ".join(f"{name} {_version(command, environment)}" for name, command in VERSIONS.items())


def _version(command: str, environment: dict[str, str]) -> str:
    """Return the version that a command prints; one that fails will be told of where it is measured."""
    with suppress(FailedError):
        found = re.search(r"\d+\.[\w.+~]+", run(command, environment))
        return found[0] if found else "?"
    return "?"


if __name__ == "__main__":
    sys.exit(main())
