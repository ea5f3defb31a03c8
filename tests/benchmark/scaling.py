"""How time and memory grow: with rows, with files, on one core and on two."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmark import reporting, sample
from tests.benchmark.backup import WRITE
from tests.benchmark.measure import Contender, Options, Result, Role, in_turn, renewed, run
from tests.benchmark.reporting import Goal, Report, aligned, memory_goals, of_role, ratio

FACTORS = (1, 10, 100)
FEWEST_FILES = 1000
FLAT = 1.2
CONFIG = "attachments: {path: $FILES}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """The results of one kind, by size and cores."""

    kind: str
    sizes: Sequence[int]
    results: Sequence[Result]

    def of(self, size: int, cores: int, role: Role) -> Result | None:
        return of_role(self.results, _stream(self.kind, size, cores), role)

    def points(self, cores: int, role: Role, what: str, unit: float) -> list[tuple[float, float]]:
        found = [(size, self.of(size, cores, role)) for size in self.sizes]
        return [(size, result.median(what) / unit) for size, result in found if result and not result.failed]


def measure(options: Options, environment: Mapping[str, str]) -> Report:
    """Measure this product and the floors with growing data."""
    sample.forget(options)
    files = options.home / "files"
    given = {**environment, "FILES": str(files), "POSTMASTER": _postmaster()}
    (Path(given["CONFIG"]) / "files.yaml").write_text(CONFIG.replace("$FILES", given["FILES"]))
    series = [_grow_rows(options, given), _grow_files(options, given, files)]
    _on_all_cores(given)
    renewed(files)
    results = [result for one in series for result in one.results]
    panels, labels = _panels(series)
    reporting.curves(panels, labels, options.results / "scaling")
    goals = [goal for one in series for goal in _goals(one)]
    tables = "\n".join(_table(one) for one in series)
    return Report(part="scaling", facts={"cores": _cores()}, results=results, goals=goals, tables=tables)


def _grow_rows(options: Options, environment: Mapping[str, str]) -> _Series:
    """Measure with a tenth of the rows that were asked for, ten times that, and a hundred times."""
    sizes = [options.rows // FACTORS[1] * factor for factor in FACTORS]
    results = []
    for size in sizes:
        _on_all_cores(environment)
        sample.database(size, in_container=False)
        floor = "pg_dump dental_pms >/dev/null"
        ours = "dental-pms-backup -c $CONFIG/native.yaml run db"
        results += in_turn(_pair("rows", size, floor, ours), options.repetitions, options.home / "store", environment)
    return _Series(kind="rows", sizes=sizes, results=results)


def _grow_files(options: Options, environment: Mapping[str, str], files: Path) -> _Series:
    """Measure with 1,000 files and ten times as many, up to the number that was asked for."""
    sizes = [FEWEST_FILES]
    while sizes[-1] * 10 <= options.files:
        sizes.append(sizes[-1] * 10)
    _on_all_cores(environment)
    renewed(files)
    results = []
    for before, size in zip([0, *sizes], sizes, strict=False):
        sample.small_files(size, files, there=before)
        run("tar -cf - -C $FILES . | cat >/dev/null", environment)
        floor = f"tar -cf - -C $FILES . | {WRITE} of=$STORE/files.tar"
        ours = "dental-pms-backup -c $CONFIG/files.yaml run attachments"
        results += in_turn(_pair("files", size, floor, ours), options.repetitions, options.home / "store", environment)
    return _Series(kind="files", sizes=sizes, results=results)


def _pair(kind: str, size: int, floor: str, ours: str) -> list[Contender]:
    """Return the two that are compared, for each number of cores, which the server gets, too."""
    return [
        Contender(
            stream=_stream(kind, size, cores),
            name=name,
            line=f"taskset --cpu-list {_list(cores)} bash -o pipefail -c {_quoted(line)}",
            before=f"taskset --all-tasks --pid --cpu-list {_list(cores)} $POSTMASTER",
            role=role,
        )
        for cores in _cores()
        for name, line, role in (("floor", floor, Role.FLOOR), ("dental-pms-backup run", ours, Role.OURS))
    ]


def _stream(kind: str, size: int, cores: int) -> str:
    return f"{size} {kind}, {cores} core{'s' if cores > 1 else ''}"


def _cores() -> list[int]:
    """Return the numbers of cores to measure with, as far as the machine has them."""
    return [cores for cores in (1, 2) if cores <= len(os.sched_getaffinity(0))]


def _list(cores: int) -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))


def _quoted(line: str) -> str:
    return "'" + line.replace("'", "'\\''") + "'"


def _postmaster() -> str:
    return run("head -1 /var/lib/postgresql/*/main/postmaster.pid").strip()


def _on_all_cores(environment: Mapping[str, str]) -> None:
    everything = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    run(f"taskset --all-tasks --pid --cpu-list {everything} $POSTMASTER", environment)


def _table(one: _Series) -> str:
    headings = ("cores", "floor s", "run s", "x floor", "CPU s", "peak MB", "of which Python MB")
    rows: list[Sequence[str]] = [(one.kind, *headings)]
    for size in one.sizes:
        for cores in _cores():
            floor, ours = one.of(size, cores, Role.FLOOR), one.of(size, cores, Role.OURS)
            rows.append((str(size), str(cores), *_cells(floor, ours)))
    return aligned(rows)


def _cells(floor: Result | None, ours: Result | None) -> list[str]:
    if not floor or not ours or floor.failed or ours.failed:
        return ["failed"] * 6
    walls = floor.median("wall_s"), ours.median("wall_s")
    peaks = [max(ours.values(what)) / 1e6 for what in ("peak_bytes", "program_peak_bytes")]
    times = [f"{wall:.2f}" for wall in walls]
    return [*times, f"{walls[1] / walls[0]:.2f}", f"{ours.median('cpu_s'):.2f}", *(f"{peak:.0f}" for peak in peaks)]


def _panels(
    series: Sequence[_Series],
) -> tuple[dict[str, dict[str, list[tuple[float, float]]]], list[str]]:
    """Return the lines of the plot, and the names of its axes: time and memory of each kind."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    labels = []
    for one in series:
        times: dict[str, list[tuple[float, float]]] = {}
        peaks: dict[str, list[tuple[float, float]]] = {}
        for cores in _cores():
            on = f"{cores} core{'s' if cores > 1 else ''}"
            times[f"floor, {on}"] = one.points(cores, Role.FLOOR, "wall_s", 1)
            times[f"run, {on}"] = one.points(cores, Role.OURS, "wall_s", 1)
            peaks[f"all processes, {on}"] = one.points(cores, Role.OURS, "peak_bytes", 1e6)
            peaks[f"Python process, {on}"] = one.points(cores, Role.OURS, "program_peak_bytes", 1e6)
        panels |= {f"time, by {one.kind}": times, f"memory, by {one.kind}": peaks}
        labels += [one.kind, "s", one.kind, "MB"]
    return panels, labels


def _goals(one: _Series) -> list[Goal]:
    """Compare the most with the worst of fewer: in a run of a moment the samples may miss the peak."""
    most, cores = one.sizes[-1], _cores()[-1]
    largest = one.of(most, cores, Role.OURS)
    fewer = [one.of(size, cores, Role.OURS) for size in one.sizes[:-1] for cores in _cores()]
    grown = [figure for each in fewer if (figure := ratio(largest, each, "peak_bytes")) is not None]
    text = f"memory with {most} {one.kind} at most {FLAT} x the most with fewer"
    return [
        *memory_goals(f"{most} {one.kind}", largest),
        Goal(text=text, figure=min(grown, default=None), most=FLAT),
    ]
