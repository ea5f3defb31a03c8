"""Running other programs: the only importer of ``sh``.

Bulk data goes from kernel pipe to file descriptor and never into this process. What a program says on
stderr is kept, at most its last lines; argv and output of a failed program are never quoted by themselves,
since they may hold what must not be told.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import shutil
import signal
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sh

from dental_pms_backup.errors import TemporaryError, ToolMissingError, shell_word
from dental_pms_backup.host import descriptors, stop
from dental_pms_backup.host.descriptors import Said
from dental_pms_backup.host.feeder import Feeder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

logging.getLogger("sh").setLevel(logging.ERROR)  # it logs argv
_seen_ended: weakref.WeakSet[Any] = weakref.WeakSet()

LINES_KEPT = 1000
CHUNK_BYTES = 4096
END_GRACE_S = 3.0
SHORT_NAP_S = 0.01
CAPTURE_LIMIT_BYTES = 16 << 20
TOO_MUCH = f"an answer of more than {CAPTURE_LIMIT_BYTES >> 20} MiB"
LARGEST_OUTPUT_BYTES = 64 << 20  # it lies in memory: a server or a program that goes on and on must not fill that
PACKAGE_OF = {"bwrap": "bubblewrap", "docker": "docker.io", "psql": "postgresql-client"}
PACKAGE_OF |= dict.fromkeys(("setpriv", "prlimit"), "util-linux") | dict.fromkeys(("env", "sync", "wc"), "coreutils")
PASSED_ON = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "TMPDIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended. ``exit_code`` is minus the signal that killed it; ``said`` its last stderr lines."""

    program: str
    exit_code: int
    said: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Tell whether it exited with status 0."""
        return self.exit_code == 0

    @property
    def broken_pipe(self) -> bool:
        """Tell whether it was killed because its reader had ended: the reader's end says why."""
        return self.exit_code == -signal.SIGPIPE

    def __str__(self) -> str:
        how = f"exit status {self.exit_code}" if self.exit_code >= 0 else f"killed by signal {-self.exit_code}"
        return f"{self.program}: {how}"


class Running:
    """The programs of a pipeline, while they run."""

    def __init__(self, argvs: Sequence[Sequence[str]]) -> None:
        self.names = [program_of(argv) for argv in argvs]
        self._argvs = argvs
        self._started: list[Any] = []
        self._said: list[Said] = []
        self._feeder: Feeder | None = None

    def start(self, stdin: int | None, out: int | None) -> None:
        """Start all of them; those that had been started when an exception comes are known to ``end``."""
        reading = descriptors.copy_of(stdin)
        try:
            for argv in self._argvs:
                following, writing = (
                    (-1, descriptors.copy_of(out)) if argv is self._argvs[-1] else descriptors.wide_pipe()
                )
                self._said.append(Said(LINES_KEPT))
                try:
                    self._started.append(_start(argv, reading, writing, self._said[-1]))
                finally:  # an end kept open here would hide the end of input, or of the reader
                    os.close(writing)
                    os.close(reading)
                    reading = following
        finally:
            if reading != -1:
                os.close(reading)

    def start_following(self, stdin: int, out: int | None, grows: Callable[[], bool]) -> None:
        """Start all of them as ``start`` does, the first one reading also what ``stdin`` gets while it ``grows``."""
        reading, writing = descriptors.wide_pipe()
        self._feeder = Feeder(stdin, writing, grows)
        try:
            self.start(reading, out)
        finally:
            os.close(reading)
        self._feeder.start()

    @property
    def unfed(self) -> bool:
        """Tell whether a ``stdin`` that grew could not be passed on to its end: the programs have not read all."""
        return self._feeder is not None and self._feeder.failed

    @property
    def has_ended(self) -> bool:
        """Tell whether every program has ended."""
        return not any(_is_alive(process) for process in self._started)

    def wait(self, beat: Callable[[], None] | None = None) -> tuple[Ended, ...]:
        """Wait until every program has ended, and return how; ``beat`` is called about ten times a second."""
        _wait(self._started, beat)
        self.end()
        return tuple(
            Ended(program=name, exit_code=process.exit_code, said=said.lines())
            for name, process, said in zip(self.names, self._started, self._said, strict=True)
        )

    def end(self) -> None:
        """End what still runs."""
        _end(self._started)
        if self._feeder:
            self._feeder.end()


def failed(ended: Sequence[Ended]) -> Ended | None:
    """Return the first program that failed by itself, not for want of a reader; None when all exited 0."""
    return min((each for each in ended if not each.ok), key=lambda each: each.broken_pipe, default=None)


def path_of(program: str) -> str:
    """Return the full path of a program on PATH; ToolMissingError when it is not installed."""
    path = shutil.which(program)
    if path is None:
        raise ToolMissingError(
            f"{program}: not found, expected the program on PATH",
            hint=f"apt install {shell_word(PACKAGE_OF.get(program, program))}",
        )
    return path


def installed(program: str) -> bool:
    """Tell whether a program is on PATH."""
    return shutil.which(program) is not None


def pipeline(
    *argvs: Sequence[str], stdin: int | None = None, out: int | None = None, beat: Callable[[], None] | None = None
) -> tuple[Ended, ...]:
    """Run ``argvs[0] < stdin | argvs[1] | … > out``, by default ``/dev/null``, and return how each ended, in order.

    The caller keeps ``stdin`` and ``out`` open and judges the result. ``beat`` is called about ten times a
    second. On InterruptedRunError, and on any other exception, every program has ended.
    """
    with running(*argvs, stdin=stdin, out=out) as programs:
        return programs.wait(beat)


@contextlib.contextmanager
def running(
    *argvs: Sequence[str], stdin: int | None = None, out: int | None = None, grows: Callable[[], bool] | None = None
) -> Iterator[Running]:
    """Run a pipeline, as ``pipeline`` does, beside what the block does; with the block, every program has ended.

    With ``grows``, ``stdin`` is a file that somebody writes to; its end is the end once that says no. It is asked by
    another thread.
    """
    programs = Running(argvs)
    with descriptors.room_for(f"{' | '.join(programs.names)}: cannot be started"):
        try:
            if grows is None or stdin is None:
                programs.start(stdin, out)
            else:
                programs.start_following(stdin, out, grows)
            yield programs
        finally:
            programs.end()


def capture(
    argv: Sequence[str],
    *,
    text_in: str = "",
    timeout_s: float | None = 60,
    beat: Callable[[], None] | None = None,
) -> tuple[Ended, str]:
    """Run one program on a small input and return how it ended and its small standard output.

    After ``timeout_s`` seconds, or when it prints more than 16 MiB, the program is killed: its exit code is then -9. Of
    more than that nothing is returned: nobody takes a part for the whole. ``beat`` is as in ``pipeline``.
    """
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s

    def tick() -> None:
        if time.monotonic() > deadline or os.fstat(out).st_size > CAPTURE_LIMIT_BYTES:
            raise TimeoutError
        if beat:
            beat()

    with descriptors.memory("captured") as out, descriptors.memory("given") as stdin:
        os.write(stdin, text_in.encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        try:
            (ended,) = pipeline(argv, stdin=stdin, out=out, beat=tick)
        except TimeoutError:
            ended = Ended(program=program_of(argv), exit_code=-9, said=(f"no answer within {timeout_s or 0:.0f} s",))
        if os.fstat(out).st_size > CAPTURE_LIMIT_BYTES:
            return Ended(program=program_of(argv), exit_code=-9, said=(TOO_MUCH,)), ""
        return ended, os.pread(out, CAPTURE_LIMIT_BYTES, 0).decode("utf-8", "replace")


@contextlib.contextmanager
def background(argv: Sequence[str], *, log: Path) -> Iterator[None]:
    """Run a program while the block lasts, its output in a new file; it is ended with SIGTERM, then SIGKILL."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        process = _start(argv, stdin, out, Said(LINES_KEPT))
    finally:
        os.close(out)
        os.close(stdin)
    try:
        yield
    finally:
        _end([process])


def as_user(argv: Sequence[str], user: str) -> list[str]:
    """Return the argv that runs a program as another system user, with that user's groups."""
    # the death signal again: a change of user clears the one that was set before it
    words = [f"--reuid={user}", f"--regid={user}", "--init-groups", "--pdeathsig", "KILL"]
    return ["setpriv", *words, "--", *argv]


def program_of(argv: Sequence[str]) -> str:
    """Return the name of the program that an argv is about, without the wrappers of this module."""
    words = list(argv)
    if words[0] == "prlimit":
        words = words[words.index("--") + 1 :]
    confined = words[0] == "perl" and os.path.basename(words[1]) == "confine"  # noqa: PTH119 - as below
    if confined:
        words = words[words.index("--") + 1 :]
    while words[0] in {"setpriv", "env"}:
        words = words[words.index("--") + 1 :] if words[0] == "setpriv" else words[1:]
        while "=" in words[0]:
            words = words[1:]
    if confined and words[0] == "sh":
        words = words[len(("sh", "-c", "SCRIPT", "sh")) :]
    return os.path.basename(words[0])  # noqa: PTH119 - a word of an argv, not a file of ours


def _start(argv: Sequence[str], stdin: int, out: int, said: Said) -> Any:
    # setpriv --pdeathsig: whatever becomes of us, our programs do not outlive us
    wrapped = ["--pdeathsig", "KILL", "--", path_of(argv[0]), *argv[1:]]
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    try:
        return sh.Command(path_of("setpriv"))(
            *wrapped,
            _in=stdin,
            _out=out,
            _err=said,
            _err_bufsize=CHUNK_BYTES,
            _env=environment | {"LC_ALL": "C"},
            _cwd="/",  # ours may have gone, or be closed to the user who runs the program
            _bg=True,
            _bg_exc=False,
            _new_session=True,
            _tty_out=False,
        )
    except ValueError:  # sh misses what its child should have told before it became the program
        raise TemporaryError(f"{program_of(argv)}: killed before it began") from None


def _wait(started: Sequence[Any], beat: Callable[[], None] | None) -> None:
    while running := [process.pid for process in started if _is_alive(process)]:
        stop.check()
        if beat:
            beat()
        _nap_beside(running[0])


def _nap_beside(pid: int) -> None:
    """Sleep until a child has ended, but no longer than until the next look at everything else."""
    try:
        ending = os.pidfd_open(pid)
    except OSError:  # it has ended; or there is no descriptor left, or none such to be had
        time.sleep(SHORT_NAP_S)
        return
    try:
        look = select.poll()
        look.register(ending, select.POLLIN)
        look.poll(stop.LONGEST_NAP_S * 1000)
    finally:
        os.close(ending)


def _end(started: Sequence[Any]) -> None:
    """End what still runs, and what ended programs left behind, and collect all exit codes and the last of stderr."""
    deadline = time.monotonic() + END_GRACE_S
    for process in started:
        _signal(process, signal.SIGTERM)
    while time.monotonic() < deadline and any(_is_alive(process) for process in started):
        time.sleep(0.02)
    for process in started:
        _signal(process, signal.SIGKILL)
    for process in started:
        with contextlib.suppress(sh.ErrorReturnCode):
            process.wait()


def _is_alive(process: Any) -> bool:
    """Tell whether a program runs; when it is first seen to have ended, what it left behind is ended, too."""
    alive: bool = process.process.is_alive()[0]
    if not alive and process.process not in _seen_ended:
        _seen_ended.add(process.process)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # at once: later its number may be another's
            os.killpg(process.pid, signal.SIGKILL)
    return alive


def _signal(process: Any, number: int) -> None:
    if _is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            process.signal_group(number)
