"""Run command lines in turn, and say what each of them cost."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic

SAMPLE_S = 0.02
TIMEOUT_S = 3600
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}


class Role(StrEnum):
    """What a contender is in its stream: the two that ratios are taken of, this product, or another one."""

    FLOOR = "floor"
    SEED = "seed"
    OURS = "ours"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for: how much data, how often; ``home`` is where everything lies, ``results`` what came of it."""

    rows: int
    files: int
    repetitions: int
    home: Path
    results: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A bash command line to be measured, after ``before`` that is not. Both find $STORE, a new directory."""

    stream: str
    name: str
    line: str
    role: Role = Role.OTHER
    before: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run cost. CPU time is that of the command and of the children that it waited for.

    ``peak_bytes`` is the most that the command and its descendants held at one moment, their resident memory added
    up; ``program_peak_bytes`` the most that the command itself held. ``stored_bytes`` is the size of what it left.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    program_peak_bytes: int
    stored_bytes: int


class FailedError(Exception):
    """A command line ended with another status than 0; the text says how, and what it printed last."""


@dataclass(slots=True, kw_only=True)
class Result:
    """A contender and what its runs cost, in order; ``failed`` says why one of them could not be measured."""

    contender: Contender
    costs: list[Cost] = field(default_factory=list)
    failed: str = ""

    def median(self, what: str) -> float:
        """Return the median of one figure, named as in ``Cost``."""
        return statistics.median(self.values(what))

    def values(self, what: str) -> list[float]:
        """Return one figure of every run, named as in ``Cost``."""
        return [getattr(cost, what) for cost in self.costs]


def in_turn(
    contenders: Sequence[Contender], repetitions: int, store: Path, environment: Mapping[str, str]
) -> list[Result]:
    """Measure every contender once, then every one again in the opposite order, and so on."""
    results = [Result(contender=contender) for contender in contenders]
    for number in range(repetitions):
        began = monotonic()
        for result in results if number % 2 == 0 else reversed(results):
            if not result.failed:
                _measure_once(result, store, environment)
        tell(f"repetition {number + 1} of {repetitions}: {monotonic() - began:.0f} s")
    return results


def tell(text: str) -> None:
    """Say how far it is."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def run(line: str, environment: Mapping[str, str] | None = None, *, given: str = "") -> str:
    """Run a bash command line that is not measured and return what it printed; FailedError."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={**CLEAN, **(environment or {})},
    )
    if done.returncode != 0:
        raise FailedError(f"{line}: status {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout


def measured(line: str, environment: Mapping[str, str], stored: Path) -> Cost:
    """Run a bash command line to its end and return what it cost; FailedError unless its status is 0."""
    with (stored.parent / "printed").open("w+b") as printed:
        began = monotonic()
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            env={**CLEAN, **environment},
            start_new_session=True,
        )
        watch = _Watch(process.pid)
        watchdog = threading.Timer(TIMEOUT_S, _end, [process.pid])
        watch.start()
        watchdog.start()
        _, status, used = os.wait4(process.pid, 0)
        wall_s = monotonic() - began
        watchdog.cancel()
        watch.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        _end(process.pid)
        if process.returncode != 0:
            printed.seek(0)
            said = printed.read().decode(errors="replace")[-1000:].strip()
            raise FailedError(f"{line}: status {process.returncode}: {said}")
    return Cost(
        wall_s=wall_s,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_bytes=watch.peak_bytes,
        program_peak_bytes=watch.program_peak_bytes,
        stored_bytes=_size(stored),
    )


def renewed(directory: Path) -> None:
    """Make a directory empty and wait until the disk has nothing to do: nobody pays for what another one left."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    os.sync()


def _measure_once(result: Result, store: Path, environment: Mapping[str, str]) -> None:
    contender = result.contender
    try:
        renewed(store)
        if contender.before:
            run(contender.before, environment)
            os.sync()
        result.costs.append(measured(contender.line, environment, store))
    except FailedError as error:
        result.failed = str(error)
        tell(f"{contender.stream}: {contender.name}: FAILED: {error}")


class _Watch(threading.Thread):
    """Looks every 20 ms how much memory a process and its descendants hold."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self.program_peak_bytes = 0
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        while True:
            held = [_resident_bytes(pid) for pid in _family(self._pid)]
            self.peak_bytes = max(self.peak_bytes, sum(held))
            self.program_peak_bytes = max(self.program_peak_bytes, held[0])
            if self._ended.wait(SAMPLE_S):
                return

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _family(pid: int) -> list[int]:
    """Return a process and its descendants, itself first."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _resident_bytes(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


def _end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _size(directory: Path) -> int:
    """Return how large the files below a directory are together."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())
