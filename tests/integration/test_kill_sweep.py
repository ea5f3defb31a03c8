"""A run that is killed at any moment leaves every set as it was, and the next run succeeds."""

import contextlib
import os
import random
import signal
import subprocess
import time

from dental_pms_backup import artefacts
from tests.integration.support import TREE, Disk, Site, environment, on_disk

KILLS = int(os.environ.get("DENTAL_PMS_KILLS", "150"))
KEEP = 3
OK = "backup_run_status=ok\n"


def test_a_run_that_is_killed_at_any_moment_loses_no_set_and_lies_in_none(site: Site) -> None:
    site.configure({"keep": KEEP})
    chance = random.Random(20260203)  # noqa: S311 - moments, the same in every run of the tests
    began = time.monotonic()
    site.takes()
    takes_s = time.monotonic() - began
    killed = 0
    for _ in range(KILLS):
        before = sets_on_disk(site)
        out, ended = killed_after(site, chance.uniform(0, takes_s))
        killed += not ended
        if OK in out:  # killed between this line and its exit
            assert len(set(site.sets()) - before.keys()) == 1
        else:
            assert_nothing_lost(site, before)
        site.takes()
        assert site.drafts() == []
        sets = artefacts.listing(site.store)
        assert [stored.state for stored in sets] == ["verified"] * len(sets)
        assert len(sets) == KEEP
    assert site.run("verify").returncode == 0
    assert killed > KILLS / 2, "the moments are spread over a run"


def killed_after(site: Site, moment_s: float) -> tuple[str, bool]:
    """Start a run, kill it with SIGKILL after some seconds, and return what it printed and whether it had ended."""
    with subprocess.Popen(
        site.command("run"),
        cwd=TREE,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment_s)
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=30)
        return out, process.returncode == 0


def sets_on_disk(site: Site) -> dict[str, Disk]:
    """Return the files of each set that counts, one with a manifest, oldest first."""
    files = on_disk(site.store)
    names = [stored.name for stored in artefacts.listing(site.store) if stored.manifest]
    return {name: {path: facts for path, facts in files.items() if name in path} for name in names}


def assert_nothing_lost(site: Site, before: dict[str, Disk]) -> None:
    """All sets are as they were; only a new one may have come, and then the oldest may have begun to go."""
    after = sets_on_disk(site)
    new = after.keys() - before.keys()
    gone = {name for name in before if after.get(name) != before[name]}
    assert len(new) <= 1
    assert gone <= ({next(iter(before))} if new else set())
