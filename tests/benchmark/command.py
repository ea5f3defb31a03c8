"""What the command itself costs, before it does anything."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from tests.benchmark import reporting
from tests.benchmark.measure import Contender, Options, Role, in_turn, renewed, run, tell
from tests.benchmark.reporting import Goal, Report, of_role, ratio

STREAM = "command"
SETS = 1000
LEAST_REPETITIONS = 15
NAME_FORMAT = "%Y-%m-%d_%H%M%S"
GOALS = {"--version": 2.0, "list": 4.0}


def measure(options: Options, environment: Mapping[str, str]) -> Report:
    """Measure the commands that only look, on a store of 1,000 sets."""
    store = options.home / "kept" / "thousand"
    given = {**environment, "BACKUP_DIR": str(store)}
    _make_sets(store, given)
    commands = ("--version", "list", "list --json", "status")
    contenders = [
        Contender(stream=STREAM, name="python3 -c pass", line="python3 -c pass", role=Role.FLOOR),
        *(_ours(command) for command in commands),
    ]
    repetitions = max(options.repetitions, LEAST_REPETITIONS)
    results = in_turn(contenders, repetitions, options.home / "store", given)
    floor = of_role(results, STREAM, Role.FLOOR)
    by_name = {result.contender.name: result for result in results}
    goals = [
        Goal(
            text=f"{name}: time at most {most:.0f} x python3 -c pass",
            figure=ratio(by_name[_ours(name).name], floor),
            most=most,
        )
        for name, most in GOALS.items()
    ]
    reporting.bars(results, f"The command itself, with {SETS} sets in the store", options.results / "command")
    return Report(
        part="command",
        facts={"sets": SETS, "repetitions": repetitions},
        results=results,
        goals=goals,
        tables=reporting.tables(results),
    )


def _ours(command: str) -> Contender:
    name = f"dental-pms-backup {command}"
    return Contender(stream=STREAM, name=name, line=name, role=Role.OURS)


def _make_sets(store: Path, environment: Mapping[str, str]) -> None:
    """Take one set of both streams, and make of it as many as a store may hold, with sparse files."""
    tell(f"making {SETS} sets")
    renewed(store)
    run("dental-pms-backup run", environment)
    (original,) = store.glob("sets/*.json")
    manifest = original.read_text()
    entries = [entry for stream in json.loads(manifest)["streams"].values() for entry in stream["artefacts"]]
    taken_at = json.loads(manifest)["taken_at"]
    for number in range(1, SETS):
        earlier = timedelta(days=number)
        name = (datetime.strptime(original.stem, NAME_FORMAT) - earlier).strftime(NAME_FORMAT)  # noqa: DTZ007  # a name
        moment = (datetime.fromisoformat(taken_at) - earlier).isoformat()
        text = manifest.replace(original.stem, name).replace(taken_at, moment)
        (store / f"sets/{name}.json").write_text(text)
        (store / f"sets/{name}.sha256").write_text("")
        for entry in entries:
            with (store / entry["path"].replace(original.stem, name)).open("wb") as file:
                file.truncate(entry["size_bytes"])
    listed = json.loads(run("dental-pms-backup list --json", environment))
    if [stored["state"] for stored in listed] != ["verified"] * SETS:
        raise ValueError(f"the sets that were made are not taken for {SETS} verified ones")
