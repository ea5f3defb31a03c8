"""A run that is killed at any moment, or one of its programs is, leaves every set as it was, and the next succeeds."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dental_pms_backup.store.sets import Kind
from tests import faults
from tests.integration.faults import OK, assert_whole, of_a_sweep
from tests.integration.support import HEEDS_SIGNALS, TREE, Disk, Site, environment, on_disk, release

KILLS = int(os.environ.get("DENTAL_PMS_KILLS", "100"))
KEEP = 3
A_PROGRAM, EVERYTHING = "a program", "everything"
HOW: dict[signal.Signals | str, int] = {
    signal.SIGKILL: 8,
    A_PROGRAM: 6,
    EVERYTHING: 2,
    signal.SIGTERM: 2,
    signal.SIGINT: 2,
}


@pytest.mark.sweep
@pytest.mark.fault("Ourselves", f"at {KILLS} random moments a run is killed, or all or one of its programs are")
def test_a_run_that_is_killed_at_any_moment_loses_no_set_and_lies_in_none(site: Site) -> None:
    site.configure({"keep": KEEP})
    chance = random.Random(f"20260203 {release()}")  # noqa: S311 - moments, the same in every run of the tests
    began = time.monotonic()
    for _ in range(2):
        goes_well(site)
    takes_s = (time.monotonic() - began) / 2
    killed = 0
    for moment in range(KILLS):
        (how,) = chance.choices(list(HOW), list(HOW.values()))
        moment_s = chance.uniform(0, takes_s)
        of_a_sweep(moment, repr(how), moment_s, takes_s)
        killed += not ended_well(site, how, moment_s, chance)
        if moment == KILLS - 1 or chance.random() < 0.5:  # else the next one is killed, too
            goes_well(site)
    assert killed > KILLS / 4, "the moments are spread over a run"
    assert site.run("verify").returncode == 0
    faults.saw(status="killed, 1 or 0", store="0 good sets lost, 0 bad ones, 0 times a false ok", events=None)
    faults.recovered("ok, every time")


def ended_well(site: Site, how: signal.Signals | str, moment_s: float, chance: random.Random) -> bool:
    """Start a run and kill it after some seconds; return whether it says ok. What it says, and what is left, is so."""
    before = sets_on_disk(site)
    with subprocess.Popen(
        [*HEEDS_SIGNALS, *site.command("run")],
        cwd=TREE,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment_s)
        kill(process, how, chance)
        out, err = process.communicate(timeout=180)
    loading = "KeyboardInterrupt" in err  # Python's own word, until the program is loaded
    assert loading or "Traceback" not in err
    new = sets_on_disk(site).keys() - before.keys()
    if process.returncode > 0:
        assert out.endswith("\nbackup_run_status=failed\n") or (loading and not out), (out, err)
        assert sets_on_disk(site) == before
    elif OK in out:  # if it was killed, then between this line and its exit
        assert len(new) == 1
    else:
        assert process.returncode < 0, (out, err)
        gone = {name for name, files in before.items() if sets_on_disk(site).get(name) != files}
        assert len(new) <= 1
        assert gone <= ({next(iter(before))} if new else set())
    for name in new:
        assert_good(site, name)
    return process.returncode == 0


def kill(process: "subprocess.Popen[str]", how: signal.Signals | str, chance: random.Random) -> None:
    while how == A_PROGRAM and process.poll() is None and not programs_of(process.pid):
        time.sleep(0.001)
    programs = programs_of(process.pid)
    match how:
        case signal.Signals():
            process.send_signal(how)
            return
        case "a program":
            programs = [chance.choice(programs)] if programs else []
        case _:
            process.kill()
    for program in programs:
        with contextlib.suppress(ProcessLookupError):
            os.kill(program, signal.SIGKILL)


def programs_of(process_id: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == process_id:
                found.append(int(process.name))
    return [each for child in found for each in (child, *programs_of(child))]


def goes_well(site: Site) -> None:
    """Run without being killed, after which all is in order."""
    done = site.run("run")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, OK), done.stderr
    assert site.drafts() == []
    assert len(site.sets()) <= KEEP
    assert_good(site, site.sets()[-1])


def assert_good(site: Site, name: str) -> None:
    """See that a set has a file of each kind, that is what the manifest says, with what its kind ends with."""
    manifest = json.loads((site.store / f"sets/{name}.json").read_text())
    kinds = [entry["kind"] for stream in manifest["streams"].values() for entry in stream["artefacts"]]
    assert sorted(kinds) == sorted(Kind)
    assert_whole(site, name)


def sets_on_disk(site: Site) -> dict[str, Disk]:
    """Return the files of each set that counts, one with a manifest, oldest first."""
    files = on_disk(site.store)
    return {name: {path: facts for path, facts in files.items() if name in path} for name in site.sets()}
