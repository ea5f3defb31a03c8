"""A run that has too little of something, or is started in a strange way, tells the truth, and the next succeeds."""

import re
from collections.abc import Sequence

import pytest

from tests import faults
from tests.faults import A_NEW_SET
from tests.integration.faults import OK, cause, events, fails, listening, recovers, succeeds
from tests.integration.support import HEEDS_SIGNALS, TREE, Site, on_disk
from tests.integration.test_lying_tools import assert_is_what_the_practice_has

# root may have any number of processes
AS_SOMEBODY = [
    "setpriv",
    "--reuid=47110",
    "--regid=47110",
    "--clear-groups",
    "--inh-caps=+dac_override,+dac_read_search",
]
AS_SOMEBODY += ["--ambient-caps=+dac_override,+dac_read_search", "--"]
HAD_TOO_LITTLE = re.compile(
    "^(MemoryError|SystemError|ImportError|OSError|RuntimeError: can't start|object type name: MemoryError)",
    re.MULTILINE,
)
# Without memory an interpreter may turn in a circle for ever in an import, or wait for ever for a thread that could not
# begin (both seen with Python 3.13). A service is then ended by systemd's time limit, what is tried here by this one.
IN_TIME = ["timeout", "--signal=KILL", "30"]
KB, MB = 1 << 10, 1 << 20
LIMITS = {
    "open files": ([], "--nofile={0}:{0}", (6, 7, 9, 12, 15, 17, 18, 19, 20, 64)),
    "processes": (AS_SOMEBODY, "--nproc={0}", (1, 3, 6, 9, 12, 16, 20, 24, 28, 100)),
    "memory": ([], "--as={0}", [size * MB for size in (10, 20, 30, 40, 48, 64, 80, 100, 130, 200, 2000)]),
    "the stack": ([], "--stack={0}:{0}", (16 * KB, 64 * KB, 256 * KB, 8 * MB)),
    "the size of a file": ([], "--fsize={0}", (0, 100, 5000, 50_000, 108_000, 150_000, MB)),
}


@pytest.mark.sample(3)
@pytest.mark.fault("Ourselves", "there is a limit, from far too low up to high enough, on")
@pytest.mark.parametrize(("before", "limit", "values"), LIMITS.values(), ids=LIMITS)
def test_a_limit_fails_the_run_or_does_not_matter(
    site: Site, before: Sequence[str], limit: str, values: Sequence[int]
) -> None:
    *limits, enough = (["prlimit", limit.format(value)] for value in values)
    ended = [tells_the_truth(site, [*before, *IN_TIME, *too_little]) for too_little in limits]
    ended.append(tells_the_truth(site, [*before, *enough]))
    assert (ended[0] == 0, ended[-1]) == (False, 0), ended
    # 120 is Python's, which could not flush, and 127 the loader's
    assert all(status in {0, 1, 75, 120, 127} or status < 0 for status in ended), ended
    faults.saw(
        status="0, 1, 75, 120, 127 or killed", store="a new, verified set if 0, else all sets as they were", events=None
    )
    assert_is_what_the_practice_has(site, recovers(site))
    assert site.run("verify").returncode == 0


def tells_the_truth(site: Site, wrapper: Sequence[str]) -> int:
    """Run, and return the exit status; what it says has to be so, and what it does not understand is the program's."""
    before = site.set_files()
    done = site.run("run", wrapper=wrapper)
    after = site.set_files()
    assert {path: facts for path, facts in after.items() if path in before} == before
    if done.returncode == 0:
        assert done.stdout.splitlines()[-1] == OK
        assert len(after) == len(before) + 6
        return done.returncode
    assert after == before
    if done.stdout:
        assert re.fullmatch(r"failure=(?!bug)\w+\nbackup_run_status=failed\n", done.stdout)
        assert "Traceback" not in done.stderr
    else:  # Python itself did not come that far
        assert "Traceback" not in done.stderr or HAD_TOO_LITTLE.search(done.stderr), done.stderr
    return done.returncode


FULL_TMP = """\
mount --bind "${0%/*}" /mnt; mount -t tmpfs -o size=64k tmpfs /tmp; mkdir -p "${0%/*}"; mount --bind /mnt "${0%/*}"
head -c 1M /dev/zero >/tmp/full 2>/dev/null; [ $(df --output=avail /tmp | tail -1) = 0 ] && exec "$@\""""
FULL_TMPDIR = """\
mkdir "$0/full"; mount -t tmpfs -o size=64k tmpfs "$0/full"; head -c 1M /dev/zero >"$0/full/full" 2>/dev/null
export TMPDIR="$0/full"; exec "$@\""""
WAYS = {
    "/tmp is full": FULL_TMP,  # noqa: S108 - that is the fault
    "TMPDIR is full": FULL_TMPDIR,
    "TMPDIR is missing": 'export TMPDIR="$0/missing"; exec "$@"',
    "stdin is closed": 'exec "$@" <&-',
    "stderr is closed": 'exec "$@" 2>&-',
    "stderr is full": 'exec "$@" --verbose 2>/dev/full',
    "the working directory has gone": 'mkdir "$0/gone"; cd "$0/gone"; rmdir "$0/gone"; PYTHONPATH={TREE} exec "$@"',
    "the working directory is closed to PostgreSQL's user": 'mkdir -m 0700 "$0/root"; cd "$0/root"; '
    'PYTHONPATH={TREE} exec "$@"',
    "the umask is 0": 'umask 0; exec "$@"',
    "the umask is 0777": 'umask 0777; exec "$@"',
    "HOME is missing": 'unset HOME; exec "$@"',
    "HOME is not there": 'export HOME=/nonexistent; exec "$@"',
    "the environment is empty": 'exec env -i "$@"',
    "PATH begins with what is not there": 'export PATH="relative:/nonexistent::$PATH"; exec "$@"',
    "the working directory has programs of the same names": 'mkdir "$0/evil"; cd "$0/evil"; for name in '
    "tar gzip igzip sed perl sha256sum cmp wc env setpriv psql pg_dump; do printf '#!/bin/sh\\nexit 0\\n' >$name; "
    'chmod +x $name; done; PYTHONPATH={TREE} exec "$@"',
    "SIGCHLD SIGPIPE SIGHUP are ignored": "trap '' CHLD PIPE HUP; exec \"$@\"",
}


@pytest.mark.sample(8)
@pytest.mark.fault("Ourselves", "the run is started in a strange way")
@pytest.mark.parametrize("script", WAYS.values(), ids=WAYS)
def test_a_strange_start_does_not_matter(site: Site, script: str) -> None:
    script = script.replace("{TREE}", str(TREE))
    name, _ = succeeds(site, wrapper=["sh", "-c", script, str(site.place)])
    assert_is_what_the_practice_has(site, name)
    new = {path: facts for path, facts in on_disk(site.store).items() if name in path}
    assert {facts[0] & 0o7777 for facts in new.values()} == {0o600}
    recovers(site)


UNHEARD = {
    "stdout is full": (">/dev/full", 1),
    "stdout is a pipe that nobody reads": ('| { exec <&-; touch "$0/nobody"; }', 1),
    "stdout is closed": (">&-", 0),
    "stdin, stdout and stderr are closed": ("<&- >&- 2>&-", 0),
}


@pytest.mark.sample(2)
@pytest.mark.fault("Ourselves", "the run is started in a strange way")
@pytest.mark.parametrize(("where", "status"), UNHEARD.values(), ids=UNHEARD)
def test_a_set_stays_although_nobody_hears_of_it_and_the_exit_status_says_so(
    site: Site, where: str, status: int
) -> None:
    note = site.place / "status"
    before = site.set_files()
    with listening(site) as journal:
        waits = 'until [ -e "$0/nobody" ]; do sleep 0.05; done; ' if "nobody" in where else ""
        script = f'trap "" PIPE; {{ {waits}"$@"; echo $? >"$0/status"; }} {where}'
        done = site.run("run", wrapper=[*journal.wrapper, "sh", "-c", script, str(site.place)])
        told = journal.close()
    assert (done.stdout, int(note.read_text())) == ("", status), done.stderr
    assert "Traceback" not in done.stderr
    name = site.sets()[-1]
    assert {path: facts for path, facts in site.set_files().items() if name not in path} == before
    assert_is_what_the_practice_has(site, name)
    faults.saw(status=status, cause=cause(told), store=A_NEW_SET, events=events(told))
    recovers(site)


JUNK = dict.fromkeys(
    (
        *("PGHOST", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGDATABASE", "PGUSER", "PGTZ", "PGSYSCONFDIR"),
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PERL5LIB", "RCLONE_CONFIG", "ENV", "BASH_ENV", "NOTIFY_SOCKET", "TMP"),
    ),
    "/nonexistent",
)
JUNK |= {"PGPORT": "1", "PGPASSWORD": "wrong", "PGOPTIONS": "-c nonsense=1", "PGCLIENTENCODING": "SQL_ASCII"}
JUNK |= {"PGSSLMODE": "verify-full", "PGREQUIREAUTH": "scram-sha-256", "PSQLRC": "/dev/full", "PAGER": "false"}
JUNK |= {"TAR_OPTIONS": "--exclude=*", "TAPE": "/dev/full", "TIME_STYLE": "full-iso", "POSIXLY_CORRECT": "1"}
JUNK |= {"GZIP": "-h", "PIGZ": "-11", "BLOCK_SIZE": "1", "COLUMNS": "1", "TERM": "nonsense", "NO_COLOR": ""}
JUNK |= {"PERL5OPT": "-Mnonsense", "PERLIO": ":utf8", "PERL_UNICODE": "SDA", "MALLOC_CHECK_": "3", "GCONV_PATH": "/"}
JUNK |= {"PYTHONOPTIMIZE": "2", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONHASHSEED": "1"}
JUNK |= {"IFS": "/", "CDPATH": "/", "LANGUAGE": "tr", "LC_ALL": "xx_XX.UTF-8", "TZ": "Nowhere/Nonsense"}
JUNK |= {"RCLONE_DRY_RUN": "true", "LISTEN_FDS": "3", "MAINPID": "1", "WATCHDOG_USEC": "1"}


@pytest.mark.fault("Ourselves", "the environment is full of what other programs heed, as TAR_OPTIONS and PGOPTIONS")
def test_what_the_environment_tells_other_programs_does_not_reach_them(site: Site) -> None:
    home = site.place / "home"
    home.mkdir()
    (home / ".psqlrc").write_text("\\quit\n")
    (home / ".pgpass").write_text("*:*:*:*:wrong\n")
    (home / ".pgpass").chmod(0o600)
    name, done = succeeds(site, HOME=str(home), **JUNK)
    assert_is_what_the_practice_has(site, name)
    assert [line for line in done.stderr.splitlines() if "LD_PRELOAD" not in line] == []
    assert site.run("verify", name, HOME=str(home), **JUNK).stdout == f"{name}: good\n"
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "PATH leads nowhere")
@pytest.mark.parametrize("path", ["", ".", "/nonexistent"], ids=["empty", "to the working directory", "not there"])
def test_a_path_without_programs_fails_the_run_and_names_what_is_missing(site: Site, path: str) -> None:
    done = fails(site, cause="tool", wrapper=["env", f"PATH={path}"])
    assert "setpriv: not found, expected the program on PATH" in done.stderr
    recovers(site)


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("run", "--help")], ids=" ".join)
def test_an_answer_that_does_not_arrive_is_a_failure_in_words(site: Site, words: tuple[str, ...]) -> None:
    done = site.run(*words, wrapper=[*HEEDS_SIGNALS, "sh", "-c", 'exec "$@" >/dev/full', "sh"])
    said = "dental-pms-backup: standard output: No space left on device, so not everything was printed\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
