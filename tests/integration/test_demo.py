"""The demo shows a run and a way back, and leaves nothing."""

import contextlib
import re
import signal
import subprocess
from pathlib import Path

from tests.integration.support import (
    ENDS_WITHIN_S,
    PATH,
    TREE,
    Ran,
    environment,
    executable,
    mounted_tmpfs,
    on_disk,
    signalled,
    wait_until,
)

DEMO = ["/usr/bin/python3", "-m", "dental_pms_backup", "demo"]


def assert_nothing_left(place: Path) -> None:
    """See that a demo with its temporary directory there left no file, and no process but for a moment."""
    wait_until(lambda: processes(place) == [])
    assert on_disk(place) == {}


def processes(place: Path) -> list[str]:
    """Return the processes that name the directory or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            about = (process / "cmdline").read_text() + str((process / "cwd").readlink())
            if str(place) in about:
                found.append(process.name)
    return found


def demo(place: Path, *words: str, **variables: str) -> Ran:
    """Run the demo with its temporary directory there, to its end."""
    variables = environment(TMPDIR=str(place), **variables)
    return subprocess.run(
        [*DEMO, *words], cwd=TREE, env=variables, capture_output=True, text=True, timeout=ENDS_WITHIN_S, check=False
    )


def test_what_comes_back_otherwise_fails_the_demo(place: Path) -> None:
    (place / "tmp").mkdir(mode=0o755)
    executable(place / "diff", "exit 1")
    done = demo(place / "tmp", PATH=f"{place}:{PATH}")
    assert (done.returncode, done.stdout.count("Every row count")) == (1, 0)
    assert "demo: what came back is not what went in, expected the same rows and images" in done.stderr
    assert_nothing_left(place / "tmp")


def test_a_cluster_that_cannot_be_made_is_told(place: Path) -> None:
    with mounted_tmpfs(place / "tmp", 1 << 20):
        (place / "tmp").chmod(0o755)
        done = demo(place / "tmp")
        assert (done.returncode, "expected a new cluster" in done.stderr) == (75, True), done
        assert_nothing_left(place / "tmp")


def test_the_demo_brings_its_set_back_and_leaves_nothing_but_the_store_if_that_is_to_be_kept(place: Path) -> None:
    (place / "tmp").mkdir(mode=0o755)
    words = ("--keep", str(place / "kept"))
    done = demo(place / "tmp", *words)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "backup_run_status=ok" in lines
    assert "Every row count and every image is the same." in lines
    assert lines[-1] == f"The throwaway PostgreSQL and its data are gone; the store is in {place}/kept."
    kept = on_disk(place / "kept")
    assert sum(1 for name in kept if re.fullmatch(r"sets/.*\.json", name)) == 1
    assert_nothing_left(place / "tmp")
    done = demo(place / "tmp", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert on_disk(place / "kept") == kept


def test_a_demo_that_is_stopped_leaves_nothing(place: Path) -> None:
    with subprocess.Popen(
        DEMO, cwd=TREE, env=environment(TMPDIR=str(place)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: any(path.name == "postmaster.pid" for path in place.rglob("postmaster.pid")))
        status, _, err = signalled(process, signal.SIGTERM, within_s=30)
    assert (status, "Traceback" in err) == (1, False)
    assert_nothing_left(place)


def test_a_demo_that_is_killed_leaves_no_process(place: Path) -> None:
    with subprocess.Popen(
        DEMO, cwd=TREE, env=environment(TMPDIR=str(place)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: any(place.rglob("postmaster.pid")))
        process.kill()
    wait_until(lambda: processes(place) == [])
