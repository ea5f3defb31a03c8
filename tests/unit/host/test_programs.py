"""Other programs: how each ended, what it said, and that none is left."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.errors import InterruptedRunError, TemporaryError, ToolMissingError
from dental_pms_backup.host import feeder, programs, stop
from dental_pms_backup.host.programs import Ended
from tests.unit.builders import gone, gone_within, program, python, told_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2"  # noqa: S105 - nobody's


@contextmanager
def file(path: Path, content: bytes = b"") -> Iterator[int]:
    """Open a file with some content, from its beginning."""
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def run(tmp_path: Path, *scripts: str) -> tuple[tuple[Ended, ...], bytes]:
    """Run shell scripts as one pipeline and return how they ended and what came out."""
    with file(tmp_path / "out") as out:
        ended = programs.pipeline(*(["sh", "-c", script] for script in scripts), out=out)
    return ended, (tmp_path / "out").read_bytes()


def run_one(tmp_path: Path, *argv: str) -> None:
    with file(tmp_path / "out") as out:
        programs.pipeline(argv, out=out)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is wanted


def test_bytes_go_from_program_to_program_unchanged(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    with file(tmp_path / "in", content) as source, file(tmp_path / "out") as out:
        ended = programs.pipeline(["cat"], ["cat"], ["cat"], stdin=source, out=out)
    assert ended == (Ended(program="cat", exit_code=0, said=()),) * 3
    assert (tmp_path / "out").read_bytes() == content


def test_output_goes_on_where_the_file_stands(tmp_path: Path) -> None:
    with file(tmp_path / "out") as out:
        os.write(out, b"head ")
        programs.pipeline(["printf", "body"], out=out)
        assert os.lseek(out, 0, os.SEEK_CUR) == 9
    assert (tmp_path / "out").read_bytes() == b"head body"


@pytest.mark.parametrize("codes", [(1, 0, 0), (0, 2, 0), (0, 0, 3), (1, 2, 3), (255, 126, 127)])
def test_exit_status_of_every_stage_is_known(codes: tuple[int, ...], tmp_path: Path) -> None:
    ended, _ = run(tmp_path, *(f"cat >/dev/null; exit {code}" for code in codes))
    assert tuple(each.exit_code for each in ended) == codes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_program_killed_by_a_signal_is_told_from_one_that_exited(number: signal.Signals, tmp_path: Path) -> None:
    ended, _ = run(tmp_path, f"kill -{number} $$", "cat")
    assert [each.exit_code for each in ended] == [-number, 0]
    assert (str(ended[0]), ended[0].ok, ended[0].broken_pipe) == (f"sh: killed by signal {int(number)}", False, False)


@pytest.mark.parametrize(
    ("codes", "blamed"),
    [((0, 0), None), ((1, 2), 0), ((-13, 3, 0), 1), ((-13, -13, 1), 2), ((-9, 2), 0), ((0, 2), 1), ((-13, 0), 0)],
)
def test_the_first_that_failed_by_itself_is_the_one_to_name(codes: tuple[int, ...], blamed: int | None) -> None:
    ended = [Ended(program=str(place), exit_code=code, said=()) for place, code in enumerate(codes)]
    failed = programs.failed(ended)
    assert (failed and failed.program) == (None if blamed is None else str(blamed))


def test_writer_whose_reader_ended_dies_of_the_broken_pipe(tmp_path: Path) -> None:
    ended, _ = run(tmp_path, "exec yes", "exit 3")
    assert [(each.exit_code, each.broken_pipe) for each in ended] == [(-signal.SIGPIPE, True), (3, False)]


def test_half_a_stream_of_a_dead_writer_is_no_success(tmp_path: Path) -> None:
    ended, out = run(tmp_path, "echo half; kill -9 $$", "gzip -c")
    assert ([each.ok for each in ended], out[:2]) == ([False, True], b"\x1f\x8b")


def test_last_lines_of_stderr_are_kept_and_the_first_are_not(tmp_path: Path) -> None:
    (ended,), _ = run(tmp_path, "seq 1 5000 >&2; exit 1")
    assert ended.said == tuple(str(number) for number in range(4001, 5001))


def test_long_line_of_stderr_is_cut_in_the_middle(tmp_path: Path) -> None:
    (ended,), _ = run(tmp_path, "head -c 300000 /dev/zero | tr '\\0' x >&2; echo : what is wrong >&2; echo end >&2")
    assert [len(line) for line in ended.said] == [1000, 3]
    assert ended.said[0].endswith("xxx: what is wrong")


def test_a_line_of_stderr_without_end_takes_no_memory(tmp_path: Path) -> None:
    took_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (ended,), _ = run(tmp_path, "echo first >&2; head -c 40000000 /dev/zero | tr '\\0' x >&2; printf end >&2")
    assert [len(line) for line in ended.said] == [5, 1000]
    assert ended.said[1].endswith("xend")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - took_kib < 20 << 10


def test_stderr_that_is_not_utf8_is_kept(tmp_path: Path) -> None:
    (ended,), _ = run(tmp_path, "printf 'latin1 \\351\\n' >&2")
    assert ended.said == ("latin1 �",)


def test_stderr_of_each_stage_is_its_own(tmp_path: Path) -> None:
    ended, _ = run(tmp_path, "echo one >&2", "echo two >&2")
    assert [each.said for each in ended] == [("one",), ("two",)]


def test_stderr_without_an_end_of_line_is_kept(tmp_path: Path) -> None:
    (ended,), _ = run(tmp_path, "printf 'no end' >&2")
    assert ended.said == ("no end",)


def test_program_without_a_source_reads_nothing_of_ours(tmp_path: Path) -> None:
    _, out = run(tmp_path, "cat; echo end")
    assert out == b"end\n"


def test_program_sees_no_environment_but_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    _, out = run(tmp_path, "exec env")
    names = {line.partition("=")[0] for line in out.decode().splitlines()} - {"PWD", "SHLVL", "_", "OLDPWD"}
    assert names <= {*programs.PASSED_ON, "LC_ALL"}
    assert {"PATH", "DOCKER_HOST", "LC_ALL"} <= names


def test_program_runs_in_a_session_of_its_own(tmp_path: Path) -> None:
    _, out = run(tmp_path, "cut -d' ' -f6 /proc/$$/stat; echo $$")
    session, process_id = out.split()
    assert (session == process_id, int(session) != os.getsid(0)) == (True, True)


def test_wish_to_stop_ends_every_program_without_waiting_for_any(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    script = f"echo $$ >>{ids}; exec sleep 300"
    beats, wished = 0, 0.0

    def beat() -> None:
        nonlocal beats, wished
        beats += 1
        if beats > 3:
            told_ids(ids, 3)
            wished = time.monotonic()
            stop.request(signal.SIGTERM)

    with file(tmp_path / "out") as out, pytest.raises(InterruptedRunError, match=r"^stopped by signal 15 before"):
        programs.pipeline(*(["sh", "-c", script] for _ in range(3)), out=out, beat=beat)
    assert (time.monotonic() - wished < 30, [gone(each) for each in told_ids(ids, 3)]) == (True, [True] * 3)


def test_program_that_ignores_sigterm_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "END_GRACE_S", 0.3)
    ids = tmp_path / "ids"
    script = f"trap '' TERM; echo $$ >>{ids}; sleep 300 & echo $! >>{ids}; wait; wait"

    def beat() -> None:
        told_ids(ids, 2)
        stop.request(signal.SIGTERM)

    began = time.monotonic()
    with file(tmp_path / "out") as out, pytest.raises(InterruptedRunError):
        programs.pipeline(["sh", "-c", script], out=out, beat=beat)
    assert time.monotonic() - began < 30
    assert gone_within(told_ids(ids, 2), 10)


def test_any_other_failure_ends_the_programs_too(tmp_path: Path) -> None:
    ids = tmp_path / "ids"

    def beat() -> None:
        told_ids(ids, 1)
        raise ZeroDivisionError

    with file(tmp_path / "out") as out, pytest.raises(ZeroDivisionError):
        programs.pipeline(["sh", "-c", f"echo $$ >{ids}; exec sleep 300"], out=out, beat=beat)
    assert gone(told_ids(ids, 1)[0])


def test_programs_die_with_us_even_when_we_are_killed(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    code = """
import os, sys
from dental_pms_backup.host import programs
script = f"echo $$ >>{sys.argv[1]}; exec sleep 300"
programs.pipeline(["sh", "-c", script], ["sh", "-c", script], out=os.open(os.devnull, os.O_WRONLY))
"""
    with python(code, str(ids)) as process:
        started = told_ids(ids, 2)
        assert not any(gone(each) for each in started)
        process.kill()
    assert gone_within(started, 10)


def test_missing_program_is_named_with_what_to_type(tmp_path: Path) -> None:
    with file(tmp_path / "out") as out, pytest.raises(ToolMissingError) as raised:
        programs.pipeline(["igzipp"], out=out)
    assert raised.value.message == "igzipp: not found, expected the program on PATH"
    assert raised.value.hint == "apt install igzipp"


def test_missing_second_program_ends_the_first(tmp_path: Path) -> None:
    before = descriptors()
    with file(tmp_path / "out") as out, pytest.raises(ToolMissingError):
        programs.pipeline(["sleep", "300"], ["igzipp"], out=out)
    assert (descriptors(), children()) == (before, [])


def children() -> list[str]:
    """Return the command lines of the programs that this process has started and that still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state not in {"Z", "X"}:
                found.append((process / "cmdline").read_text())
    return found


def test_program_that_is_killed_before_it_began_is_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misses_what_its_child_should_tell(*_arguments: object, **_options: object) -> None:
        raise ValueError

    monkeypatch.setattr("dental_pms_backup.host.programs.sh.Command", lambda _path: misses_what_its_child_should_tell)
    with pytest.raises(TemporaryError, match=r"^pg_dump: killed before it began$"):
        run_one(tmp_path, "env", "A=b", "pg_dump")


def test_no_argument_is_in_any_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(error: BaseException | None) -> str:
        return f"{error!r} {error} {told(error.__cause__)} {told(error.__context__)}" if error else ""

    texts = []
    with file(tmp_path / "out") as out:
        for argv in (["igzipp", SECRET], ["sh", "-c", "exec sleep 300", SECRET]):
            stop.request(15)
            with pytest.raises((ToolMissingError, InterruptedRunError)) as raised:
                programs.pipeline(argv, out=out)
            texts.append(told(raised.value))
        monkeypatch.setattr(stop, "_signals", [])
        (ended,) = programs.pipeline(["false", SECRET], out=out)
        texts += [str(ended), repr(ended)]
    assert [text for text in texts if SECRET in text] == []


def test_no_descriptor_is_left_open_however_it_ends(tmp_path: Path) -> None:
    run(tmp_path, "true")
    before = descriptors()
    for _ in range(5):
        run(tmp_path, "exec yes", "exit 3", "cat")
        programs.capture(["cat"], text_in="x")
        programs.capture(["sleep", "300"], timeout_s=0.05)
    assert descriptors() == before


def test_no_thread_is_left_running(tmp_path: Path) -> None:
    for _ in range(5):
        run(tmp_path, "true", "cat")
    deadline = time.monotonic() + 30
    while len(os.listdir("/proc/self/task")) > 2 and time.monotonic() < deadline:  # noqa: PTH208
        time.sleep(0.02)
    assert len(os.listdir("/proc/self/task")) <= 2  # noqa: PTH208


def followed(tmp_path: Path, argv: list[str]) -> tuple[bool, bool, int]:
    """Let a program read 3 MiB that might have grown; return if it succeeded, got all, and how much it passed on."""
    with file(tmp_path / "source", os.urandom(3 << 20)) as source, file(tmp_path / "out") as out:
        with programs.running(argv, stdin=source, out=out, grows=lambda: False) as pipeline:
            (ended,) = pipeline.wait()
        return ended.ok, not pipeline.unfed, os.fstat(out).st_size


def test_nothing_is_left_of_what_followed_a_file(tmp_path: Path) -> None:
    before = descriptors()
    assert followed(tmp_path, ["cat"]) == (True, True, 3 << 20)
    assert followed(tmp_path, ["head", "--bytes=1"]) == (True, False, 1)
    assert descriptors() == before


def test_what_follows_a_file_ends_with_its_block_however_long_that_would_grow(tmp_path: Path) -> None:
    before, began = descriptors(), time.monotonic()
    with file(tmp_path / "source", b"a" * (5 << 20)) as source, file(tmp_path / "out") as out:
        for argv in (["cat"], ["sleep", "300"]):
            with programs.running(argv, stdin=source, out=out, grows=lambda: True):
                time.sleep(0.1)
    assert (descriptors(), time.monotonic() - began < 30) == (before, True)


@pytest.mark.parametrize(("argv", "error"), [(["igzipp"], ToolMissingError), (["cat"], TemporaryError)])
def test_nothing_is_left_of_what_could_not_follow(
    argv: list[str], error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder.Feeder, "start", no_thread)  # while sh's own threads are to start
    before = descriptors()
    with pytest.raises(error):
        followed(tmp_path, argv)
    assert descriptors() == before


def no_thread(_thread: object) -> None:
    raise RuntimeError("can't start new thread")


def test_memory_stays_flat_while_200_mb_pass() -> None:
    code = """
import os, resource
from dental_pms_backup.host import programs
null = os.open(os.devnull, os.O_WRONLY)
programs.pipeline(["true"], ["cat"], out=null)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ended = programs.pipeline(["head", "--bytes=200000000", "/dev/zero"], ["cat"], out=null)
assert all(each.ok for each in ended)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out, err = python(code).communicate(timeout=60)
    assert (err, int(out) < 8_000) == ("", True)


def test_beat_is_heard_again_and_again_while_a_program_runs(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    waits = f'n=0; until [ "$(wc -c <{heard})" -ge 9 ]; do n=$((n + 1)); [ $n -lt 600 ] || exit 1; sleep 0.05; done'

    def beat() -> None:
        with heard.open("a") as file:
            file.write("x")

    with file(tmp_path / "out") as out:
        (ended,) = programs.pipeline(["sh", "-c", waits], out=out, beat=beat)
    assert ended.ok


def test_captured_output_is_text() -> None:
    assert programs.capture(["cat"], text_in="ä\nb") == (Ended(program="cat", exit_code=0, said=()), "ä\nb")


def test_captured_output_that_is_not_utf8_is_replaced() -> None:
    assert programs.capture(["printf", r"\351"])[1] == "�"


def test_a_program_that_answers_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "CAPTURE_LIMIT_BYTES", 1 << 20)
    ended = Ended(program="yes", exit_code=-9, said=("an answer of more than 16 MiB",))
    assert programs.capture(["yes"], timeout_s=120) == (ended, "")


@pytest.mark.parametrize(("text", "whole"), [("12345", True), ("123456", False)])
def test_no_part_of_what_a_program_prints_is_taken_for_the_whole(
    monkeypatch: pytest.MonkeyPatch, text: str, whole: bool
) -> None:
    monkeypatch.setattr(programs, "CAPTURE_LIMIT_BYTES", 5)
    ended, out = programs.capture(["printf", text])
    assert (ended.ok, out) == (whole, text if whole else "")


def test_program_that_does_not_answer_in_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tmp_path / "ids"

    def clock() -> float:
        return 1000.0 if ids.exists() and ids.read_text().endswith("\n") else 0.0

    monkeypatch.setattr(programs, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    ended, out = programs.capture(["sh", "-c", f"echo x; echo $$ >{ids}; exec sleep 300"], timeout_s=30)
    assert (ended, out) == (Ended(program="sh", exit_code=-9, said=("no answer within 30 s",)), "x\n")
    assert gone(told_ids(ids, 1)[0])


def test_background_program_ends_with_its_block(tmp_path: Path) -> None:
    ids, log = tmp_path / "ids", tmp_path / "log"
    with programs.background(["sh", "-c", f"echo $$ >{ids}; echo started; exec sleep 300"], log=log):
        (process_id,) = told_ids(ids, 1)
        assert not gone(process_id)
    assert (gone(process_id), log.read_text(), log.stat().st_mode & 0o777) == (True, "started\n", 0o600)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/tar", "--create"], "tar"),
        (["env", "PGHOST=/run", "PGUSER=env", "/usr/lib/postgresql/17/bin/pg_dump", "x=y"], "pg_dump"),
        (["setpriv", "--reuid=postgres", "--", "env", "A=b", "psql"], "psql"),
        (["prlimit", "--core=0", "--", "perl", "/f/confine", "F", "root", "/r", "1", "1", "A=b", "--", "psql"], "psql"),
    ],
)
def test_program_is_named_without_its_wrappers(argv: list[str], name: str) -> None:
    assert programs.program_of(argv) == name


def test_program_of_another_user_is_started_by_setpriv() -> None:
    assert programs.as_user(["psql", "-X"], "postgres") == [
        "setpriv",
        "--reuid=postgres",
        "--regid=postgres",
        "--init-groups",
        "--pdeathsig",
        "KILL",
        "--",
        "psql",
        "-X",
    ]


def test_program_is_found_first_where_path_looks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = program(tmp_path / "bin", "docker", "echo fake\n")
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert (programs.path_of("docker"), programs.capture(["docker"])[1]) == (str(fake), "fake\n")


def test_clean_up_may_run_programs_after_a_wish_to_stop(tmp_path: Path) -> None:
    stop.request(15)
    with stop.deferred():
        ended, _ = run(tmp_path, "exit 3")
    assert ended[0].exit_code == 3
    with pytest.raises(InterruptedRunError):
        stop.check()


def test_rest_ends_with_a_wish_to_stop() -> None:
    began = time.monotonic()
    with pytest.raises(InterruptedRunError):
        stop.rest(60, beat=lambda: stop.request(2))
    assert time.monotonic() - began < 30
