"""What came of a benchmark: tables, goals, plots. Nothing here names the machine."""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmark.measure import Result, Role

COLORS = {Role.FLOOR: "0.75", Role.SEED: "tab:orange", Role.OURS: "tab:green", Role.OTHER: "tab:blue"}
COLUMNS = {
    "median s": "",
    "min-max": "",
    "x floor": "the median, divided by that of the table's first floor.",
    "x seed": "the median, divided by that of the seed's method.",
    "CPU s": "of the command and the processes that it started and waited for; a server, and what docker runs inside a "
    "container, is not among them.",
    "peak MB": "resident memory of the command and all its descendants, added up, every 20 ms; memory that two of them "
    "share counts twice.",
    "stored MB": "what was left in an empty store.",
}
NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Something that was aimed at: a figure that is at most ``most``, or None when it could not be measured."""

    text: str
    figure: float | None
    most: float

    @property
    def met(self) -> bool:
        return self.figure is not None and self.figure <= self.most

    def __str__(self) -> str:
        if self.figure is None:
            return f"goal: {self.text}: not measured"
        return f"goal: {self.text}: {self.figure:.2f} {'ok' if self.met else 'MISSED'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one part found: all its results, its goals, and ``facts`` of the data and the programs."""

    part: str
    facts: Mapping[str, Any]
    results: Sequence[Result]
    goals: Sequence[Goal]
    tables: str

    @property
    def text(self) -> str:
        """What a person reads."""
        facts = [f"{name.replace('_', ' ')}: {value}" for name, value in self.facts.items()]
        failed = [f"{result.contender.stream}: {result.contender.name}" for result in self.results if result.failed]
        notes = [f"{name}: {says}" for name, says in COLUMNS.items() if says and name in self.tables]
        lines = [f"== {self.part}", *facts, "", self.tables, "Caches are warm; before every run the disk came to rest."]
        return "\n".join([*lines, *notes, "", *(f"not measured: {name}" for name in failed), *map(str, self.goals), ""])

    @property
    def complete(self) -> bool:
        return all(not result.failed for result in self.results)


def ratio(part: Result | None, whole: Result | None, what: str = "wall_s") -> float | None:
    """Return the ratio of two medians, None where one of them could not be measured."""
    if part is None or whole is None or part.failed or whole.failed:
        return None
    return part.median(what) / whole.median(what) if whole.median(what) else None


def memory_goals(stream: str, ours: Result | None) -> list[Goal]:
    """Return what the issue asks of memory, in MB of 10^6 bytes."""
    whats: Mapping[str, tuple[str, float]] = {
        "program_peak_bytes": ("Python process, MB, below 40", 40),
        "peak_bytes": ("all processes, MB, below 150", 150),
    }
    return [
        Goal(
            text=f"{stream}: {text}",
            figure=max(ours.values(what)) / 1e6 if ours and not ours.failed else None,
            most=most,
        )
        for what, (text, most) in whats.items()
    ]


def of_role(results: Sequence[Result], stream: str, role: Role) -> Result | None:
    """Return the first contender of a stream that has a role."""
    found = (result for result in results if result.contender.stream == stream and result.contender.role is role)
    return next(found, None)


def tables(results: Sequence[Result]) -> str:
    """Return a table for each stream, with ratios to its floor and to the seed's method."""
    streams = dict.fromkeys(result.contender.stream for result in results)
    return "\n".join(_table(stream, results) for stream in streams)


def _table(stream: str, results: Sequence[Result]) -> str:
    floor, seed = of_role(results, stream, Role.FLOOR), of_role(results, stream, Role.SEED)
    rows: list[Sequence[str]] = [(stream, *COLUMNS)]
    for result in results:
        if result.contender.stream == stream:
            cells = ["failed"] + [NOTHING] * (len(COLUMNS) - 1) if result.failed else _cells(result, floor, seed)
            rows.append((_shown(result), *cells))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines, the first column to the left and the others to the right, without those that are empty."""
    columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {NOTHING}]
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [cell.rjust(width) if number else cell.ljust(width) for cell in column]
        for number, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    lines = ["  ".join(cells) for cells in zip(*padded, strict=True)]
    lines.insert(1, "-" * len(lines[0]))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _shown(result: Result) -> str:
    kind = result.contender.role
    return f"{kind}: {result.contender.name}" if kind in {Role.FLOOR, Role.SEED} else result.contender.name


def _cells(result: Result, floor: Result | None, seed: Result | None) -> tuple[str, ...]:
    walls = result.values("wall_s")
    peak, stored = max(result.values("peak_bytes")), result.median("stored_bytes")
    return (
        f"{result.median('wall_s'):.3f}",
        f"{min(walls):.3f}-{max(walls):.3f}",
        *(NOTHING if figure is None else f"{figure:.2f}" for figure in (ratio(result, floor), ratio(result, seed))),
        f"{result.median('cpu_s'):.2f}",
        f"{peak / 1e6:.0f}" if peak else NOTHING,
        f"{stored / 1e6:.1f}" if stored else NOTHING,
    )


def write(report: Report, directory: Path) -> None:
    """Write a part's text and figures; the files are named by the part."""
    (directory / f"{report.part}.txt").write_text(report.text)
    figures = {
        "part": report.part,
        "facts": report.facts,
        "goals": [
            {"text": goal.text, "figure": goal.figure, "most": goal.most, "met": goal.met} for goal in report.goals
        ],
        "results": [asdict(result) for result in report.results],
    }
    (directory / f"{report.part}.json").write_text(json.dumps(figures, indent=1) + "\n")


def bars(results: Sequence[Result], title: str, file: Path) -> None:
    """Draw each stream's medians as bars, with lines from the least to the most; in each format of its own file."""
    streams = list(dict.fromkeys(result.contender.stream for result in results))
    shown = [result for result in results if not result.failed]
    count = [sum(1 for result in shown if result.contender.stream == stream) for stream in streams]
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        len(streams), 1, figsize=(9, 0.9 + 0.8 * len(streams) + 0.3 * sum(count)), squeeze=False, height_ratios=count
    )
    for stream, place in zip(streams, axes[:, 0], strict=True):
        _draw_bars([result for result in reversed(shown) if result.contender.stream == stream], place)
        place.set_title(stream, loc="left", fontsize=10)
    axes[-1, 0].set_xlabel("seconds: median, with minimum and maximum")
    _save(figure, title, file)


def _draw_bars(shown: Sequence[Result], place: Any) -> None:  # noqa: ANN401  # matplotlib has no types
    medians = [result.median("wall_s") for result in shown]
    below = [median - min(result.values("wall_s")) for median, result in zip(medians, shown, strict=True)]
    above = [max(result.values("wall_s")) - median for median, result in zip(medians, shown, strict=True)]
    drawn = place.barh(
        [_shown(result) for result in shown],
        medians,
        xerr=[below, above],
        color=[COLORS[result.contender.role] for result in shown],
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    place.bar_label(drawn, labels=[f" {median:.2f} s" for median in medians], fontsize=8, padding=3)
    place.margins(x=0.12)
    place.tick_params(labelsize=8)
    place.spines[["top", "right"]].set_visible(False)


def curves(lines: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], labels: Sequence[str], file: Path) -> None:
    """Draw lines of points, a panel for each key of ``lines``; ``labels`` has x and y of each panel."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, len(lines) // 2, figsize=(10, 7), squeeze=False)
    pairs = zip(labels[::2], labels[1::2], strict=True)
    for place, (title, named), (across, up) in zip(axes.T.flat, lines.items(), pairs, strict=True):
        for name, points in named.items():
            place.plot(*zip(*points, strict=True), marker="o", label=name)
        place.set(title=title, xlabel=across, ylabel=up, xscale="log")
        place.set(**({"ylim": (0, None)} if "MB" in up else {"yscale": "log"}))
        place.legend(fontsize=8)
        place.grid(alpha=0.3)
    _save(figure, "", file)


def _save(figure: Any, title: str, file: Path) -> None:  # noqa: ANN401
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    for suffix in (".svg", ".png"):
        figure.savefig(file.with_suffix(suffix), dpi=120, metadata={"Date": None} if suffix == ".svg" else {})


def _pyplot() -> Any:  # noqa: ANN401
    importlib.import_module("matplotlib").use("Agg")
    return importlib.import_module("matplotlib.pyplot")
