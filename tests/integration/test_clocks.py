"""Whatever the clock says, each run makes a set of its own, the set that a run made stays, and no set is lost by it."""

import contextlib
import json
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dental_pms_backup.live.postgres import OnHost
from tests import faults
from tests.faults import A_NEW_SET
from tests.integration.faults import LOCK_ALL, OK, events, listening, recovers, succeeds
from tests.integration.support import Site, dumps_running, session, wait_until
from tests.integration.test_lying_tools import assert_is_what_the_practice_has

HOUR, DAY, YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=365)
BERLIN = "Europe/Berlin"
ALL = {"BACKUP_KEEP": "99"}


# A clock that reads its time from a file: "@N" stands still at N seconds of 1970, "+N" and "-N" are so far off. The
# faketime of Debian locks in each call, which makes Python crawl, and now and then stand still after a fork.
CLOCK = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t which, struct timespec *time) {
    char text[32] = "";
    int before = errno, result = syscall(SYS_clock_gettime, which, time);
    if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) {
        int file = open(getenv("TEST_CLOCK"), O_RDONLY | O_CLOEXEC);
        if (file < 0 || read(file, text, sizeof text - 1) <= 0)
            abort();
        close(file);
        if (text[0] == '@')
            time->tv_sec = time->tv_nsec = 0;
        time->tv_sec += atol(text + (text[0] == '@'));
        errno = before;
    }
    return result;
}
"""


@pytest.fixture(scope="session")
def library(grounds: Path) -> Path:
    made = grounds / "clock.so"
    (grounds / "clock.c").write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", made, grounds / "clock.c"], check=True)
    return made


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock of programs that are run with its ``variables``; their monotonic clock is the true one."""

    file: Path
    library: Path

    def at(self, moment: datetime) -> dict[str, str]:
        """Let it stand still at a moment and return the variables."""
        return self.set(f"@{moment.timestamp():.0f}")

    def set(self, text: str) -> dict[str, str]:
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)  # a program may read it right now
        return {"LD_PRELOAD": str(self.library), "TEST_CLOCK": str(self.file)}


@pytest.fixture
def clock(place: Path, library: Path) -> Clock:
    return Clock(place / "clock", library)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def taken_at(site: Site, name: str) -> datetime:
    return datetime.fromisoformat(json.loads((site.store / f"sets/{name}.json").read_text())["taken_at"])


def listed(site: Site, **variables: str) -> list[str]:
    """Return the names of the sets as ``list`` has them, oldest first."""
    return [stored["set"] for stored in json.loads(site.run("list", "--json", **variables).stdout)]


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "the clock is")
@pytest.mark.parametrize(
    "moment",
    [utc("1970-01-01T00:00:10"), utc("1975-06-01"), utc("2038-01-19T03:14:08"), utc("2107-01-01")],
    ids=["at its beginning, in 1970", "in 1975", "past 31 bits, in 2038", "in 2107"],
)
def test_a_clock_that_is_far_off_does_not_matter(site: Site, clock: Clock, moment: datetime) -> None:
    name, _ = succeeds(site, **clock.at(moment))
    assert taken_at(site, name) == moment
    assert_is_what_the_practice_has(site, name)
    assert site.run("status", **clock.at(moment)).returncode == 0
    recovers(site)


@pytest.mark.fault("Ourselves", "two runs in one second")
def test_two_runs_in_one_second_make_two_sets(site: Site, clock: Clock) -> None:
    moment = now()
    names = [succeeds(site, TZ="UTC", **clock.at(moment))[0] for _ in range(2)]
    seconds = [f"{moment + timedelta(seconds=number):%Y-%m-%d_%H%M%S}" for number in range(2)]
    assert (names, listed(site)[-2:]) == (seconds, seconds)
    assert site.takes(TZ="UTC", BACKUP_KEEP="1", **clock.at(moment)) in site.sets()
    recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "the clock goes back by an hour between two runs, with keep: 2")
def test_the_sets_that_runs_made_stay_although_the_clock_went_back(site: Site, clock: Clock) -> None:
    site.configure({"keep": 2})
    moment = now()
    site.takes(**clock.at(moment + HOUR))
    first = runs(site, **clock.at(moment))
    second = runs(site, **clock.at(moment + HOUR / 60))
    assert site.sets() == [first, second]
    recovers(site, **ALL)


def runs(site: Site, **variables: str) -> str:
    """Run, expecting that it goes well; the name of the set."""
    before = site.sets()
    with listening(site) as journal:
        done = site.run("run", wrapper=journal.wrapper, **variables)
        told = journal.close()
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, OK), done.stderr
    faults.saw(status=0, store=A_NEW_SET, events=events(told))
    (name,) = set(site.sets()) - set(before)
    return name


@pytest.mark.fault("Ourselves", "the clock goes forward by a year, and back, with keep: 2 and keep_within_days: 30")
def test_a_clock_that_goes_forward_and_back_lets_no_set_go_before_its_time(site: Site, clock: Clock) -> None:
    site.configure({"keep": 2, "keep_within_days": 30})
    moment = now()
    (first,) = site.sets()
    second = site.takes(**clock.at(moment + HOUR))
    future = runs(site, **clock.at(moment + YEAR))
    assert site.sets() == [second, future]  # by count: of the last 30 days there is none
    back = [site.takes(**clock.at(moment + DAY * day)) for day in range(1, 4)]
    assert listed(site) == [second, *back, future]
    assert site.run("verify").stdout.count("good") == 5
    assert first not in site.sets()
    recovers(site, **ALL)


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "the clock's battery is empty: four runs in 1970, with keep: 3")
def test_runs_of_1970_push_out_no_more_than_their_count(site: Site, clock: Clock) -> None:
    site.configure({"keep": 3})
    (good,) = site.sets()
    names = []
    for number in range(4):
        names.append(runs(site, **clock.at(utc("1970-01-02") + DAY * number)))
        assert site.sets() == names[-3:] + [good] * (number < 2)
    recovers(site, **ALL)


@pytest.mark.thorough
@pytest.mark.sample(3)
@pytest.mark.fault("Ourselves", "summer time in Berlin")
@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        (("2026-10-25T00:30:00", "2026-10-25T01:30:00"), ["2026-10-25_023000", "2026-10-25_023001"]),
        (("2026-10-25T00:45:00", "2026-10-25T01:15:00"), ["2026-10-25_024500", "2026-10-25_021500"]),
        (("2026-03-29T00:59:59", "2026-03-29T01:00:00"), ["2026-03-29_015959", "2026-03-29_030000"]),
    ],
    ids=[
        "two runs at 02.30 of its end",
        "at its end, the later by an earlier name",
        "before and after the missing hour",
    ],
)
def test_a_change_of_the_hour_does_not_matter(
    new_site: Site, clock: Clock, moments: tuple[str, str], expected: list[str]
) -> None:
    site = new_site
    names = [succeeds(site, TZ=BERLIN, **clock.at(utc(moment)))[0] for moment in moments]
    assert names == listed(site) == expected
    assert [taken_at(site, name) for name in names] == [utc(moment) for moment in moments]
    last = site.run("run", TZ=BERLIN, BACKUP_KEEP="1", **clock.at(utc(moments[1]) + HOUR))
    assert (last.returncode, len(site.sets())) == (0, 1)
    recovers(site)


@pytest.mark.fault("Ourselves", "a file of an older script has the name of an hour that there is not")
def test_a_name_in_the_missing_hour_is_listed_and_kept(new_site: Site, clock: Clock) -> None:
    site = new_site
    (site.store / "db").mkdir(parents=True)
    (site.store / "db/db_2026-03-29_023000.sql.gz").write_bytes(b"the seed's")
    name, _ = succeeds(site, TZ=BERLIN, **clock.at(utc("2026-03-29T02:00:00")))
    assert listed(site, TZ=BERLIN) == ["2026-03-29_023000", name]
    recovers(site)


@pytest.mark.thorough
@pytest.mark.fault(
    "Ourselves", "the time zone changes between two runs, so that the later has the earlier name, with keep: 1"
)
def test_the_later_set_stays_whatever_the_time_zone_makes_of_its_name(site: Site, clock: Clock) -> None:
    site.configure({"keep": 1})
    moment = now()
    earlier = site.takes(TZ="Pacific/Kiritimati", **clock.at(moment + HOUR))
    later = runs(site, TZ="Pacific/Niue", **clock.at(moment + 2 * HOUR))
    assert (site.sets(), later < earlier, taken_at(site, later)) == ([later], True, moment + 2 * HOUR)
    assert site.run("verify", TZ="Pacific/Kiritimati").stdout == f"{later}: good\n"
    recovers(site, **ALL)


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "the locale is")
@pytest.mark.parametrize("locale", ["tr_TR.UTF-8", "de_DE.UTF-8", "ja_JP.EUC-JP", "xx_XX.UTF-8", "C", "POSIX"])
def test_a_locale_does_not_matter(site: Site, locale: str) -> None:
    language, _, charset = locale.partition(".")
    made = site.place / "locales" / locale
    made.parent.mkdir()
    if charset and language != "xx_XX":  # which is not there
        subprocess.run(["localedef", "--no-archive", "-i", language, "-f", charset, made], check=True)
    (site.attachments / "Röntgen İI.jpg").write_bytes(b"x")
    name, _ = succeeds(site, LC_ALL=locale, LANG=locale, LANGUAGE=language, LOCPATH=str(made.parent))
    assert_is_what_the_practice_has(site, name)
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "the clock jumps while a run works")
@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["a day forward", "a day back"])
def test_a_clock_that_jumps_in_a_run_does_not_matter(site: Site, clock: Clock, live: OnHost, jump: timedelta) -> None:
    site.configure({"database.lock_wait_s": 300, "stall_timeout_s": 60})
    before = site.set_files()
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(listening(site))
        with session(live, LOCK_ALL):
            process = stack.enter_context(site.running("run", wrapper=journal.wrapper, **clock.set("+0")))
            wait_until(lambda: dumps_running(live) == 2)
            clock.set(f"{jump.total_seconds():+.0f}")
        out, err = process.communicate(timeout=120)
        told = journal.close()
    assert (process.returncode, err, out.splitlines()[-1:]) == (0, "", [OK])
    assert 0 <= int(re.findall(r"duration_seconds=(-?\d+)", out)[0]) < 60
    assert {path: facts for path, facts in site.set_files().items() if path in before} == before
    faults.saw(status=0, store=A_NEW_SET, events=events(told))
    assert_is_what_the_practice_has(site, listed(site)[-1])
    recovers(site)
