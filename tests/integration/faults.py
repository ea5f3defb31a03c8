"""A run that meets a fault, and the next one: what both have to be like, told to the table of faults."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from tests import faults
from tests.integration.support import (
    CANARIES,
    Journal,
    Ran,
    Site,
    executable,
    processes_about,
    signalled,
    sql,
    wait_until,
)

FAILED = "failure={}\nbackup_run_status=failed\n"
OK = "backup_run_status=ok"
SUSPECT = "failure=suspect"
LOCK_ALL = "lock table patients in access exclusive mode;"
STOPS_WITHIN_S = 20
WITHOUT_READ_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What a run that met a fault printed, and all that it sent to the journal."""

    returncode: int
    stdout: str
    stderr: str
    told: str


def fails(site: Site, *words: str, cause: str, status: int = 1, wrapper: Sequence[str] = (), **variables: str) -> Met:
    """Run, expecting this failure and nothing changed under any name that counts."""
    before = site.set_files()
    done = _run(site, words, wrapper, variables)
    assert (done.returncode, done.stdout) == (status, FAILED.format(cause)), done.stderr
    assert site.set_files() == before
    assert re.search("^dental-pms-backup: ", done.stderr, re.MULTILINE)
    faults.saw(status=status, cause=cause, store=faults.AS_BEFORE, events=events(done.told))
    return done


def is_interrupted(site: Site, process: "subprocess.Popen[str]", number: signal.Signals, journal: Journal) -> str:
    """End a run by a signal, expecting that it clears up in seconds, and return what it said on stderr."""
    before = site.set_files()
    status, out, err = signalled(process, number, within_s=STOPS_WITHIN_S)
    told = journal.close()
    if number is signal.SIGKILL:
        assert (status, out) == (-signal.SIGKILL, "")
    else:
        assert (status, out) == (1, FAILED.format("interrupted"))
        assert site.drafts() == []
    assert site.set_files() == before
    killed = status if status > 0 else "killed"
    faults.saw(status=killed, cause="interrupted" if status > 0 else "", store=faults.AS_BEFORE, events=events(told))
    return err


def succeeds(site: Site, *words: str, wrapper: Sequence[str] = (), **variables: str) -> tuple[str, Met]:
    """Run, expecting that the fault does not matter: a new set that is good; its name, and what was said."""
    before = site.set_files()
    names = site.sets()
    done = _run(site, words, wrapper, variables)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, OK), done.stdout + done.stderr
    (name,) = set(site.sets()) - set(names)
    assert {path: facts for path, facts in site.set_files().items() if name not in path} == before
    assert_whole(site, name)
    faults.saw(status=0, store=faults.A_NEW_SET, events=events(done.told))
    return name, done


def is_suspect(site: Site, *words: str, **variables: str) -> tuple[str, Met]:
    """Run, expecting a set that is published, good and marked suspect; its name, and what was said."""
    before = site.set_files()
    names = site.sets()
    done = _run(site, words, (), variables)
    assert (done.returncode, done.stdout) == (1, FAILED.format("suspect")), done.stdout + done.stderr
    (name,) = set(site.sets()) - set(names)
    assert {path: facts for path, facts in site.set_files().items() if name not in path} == before
    assert_whole(site, name)
    assert f"{name}  " in site.run("list").stdout
    faults.saw(status=1, cause="suspect", store=faults.A_SUSPECT_SET, events=events(done.told))
    return name, done


def recovers(site: Site, **variables: str) -> str:
    """Take a set, which leaves all earlier ones as they were and no draft of anyone's; return its name."""
    before = site.set_files()
    name = site.takes(**variables)
    after = site.set_files()
    assert {path: facts for path, facts in after.items() if name not in path} == before
    assert site.drafts() == []
    assert_whole(site, name)
    faults.recovered()
    return name


def filtered(site: Site, script: str) -> None:
    """Give psql in the maintenance database what a script makes of its input; it is psql itself that ends."""
    executable(site.place / "filter", script)
    line = f"""exec bash -c 'exec "$0" "$@" < <({site.place}/filter)' "$real" "$@\""""
    site.fake("psql", f'case "$*" in *template1*) {line} ;; esac\nexec "$real" "$@"')


def assert_whole(site: Site, name: str) -> None:
    """Ask sha256sum and gzip whether a set's artefacts are what its manifest says, and tar and the dump's end."""
    manifest = json.loads((site.store / f"sets/{name}.json").read_text())
    for entry in (entry for stream in manifest["streams"].values() for entry in stream["artefacts"]):
        file = site.store / entry["path"]
        assert file.stat().st_size == entry["size_bytes"]
        sums = f"{entry['sha256']}  {file}\n"
        subprocess.run(["sha256sum", "--check", "--quiet"], input=sums, text=True, check=True)
        content = subprocess.run(["gzip", "--decompress", "--stdout", file], capture_output=True, check=True).stdout
        if file.suffix == ".tgz":
            subprocess.run(["tar", "--list"], input=content, stdout=subprocess.DEVNULL, check=True)
        else:
            assert re.search(rb"(database dump|cluster dump|settings of the database) complete", content[-200:])


def kept_beside(site: Site, done: Ran) -> OnHost:
    """Return the database that was live, which a restore in its place says that it kept."""
    (name,) = re.findall(f"^restore_kept=({site.server.database}.+)$", done.stdout, re.MULTILINE)
    return postgres.in_database(site.server, name)


def at_rest(site: Site) -> None:
    """Wait until nothing of a command that was killed works any more, here or on the server."""
    elsewhere = postgres.in_database(site.server, "postgres")
    sessions = f"""select count(*) from pg_stat_activity
        where datname like '{site.server.database}%' or application_name like 'dental-pms-backup%'"""  # noqa: S608 - ours
    wait_until(lambda: not processes_about(site.place.name) and sql(elsewhere, sessions) == "0")


@contextlib.contextmanager
def listening(site: Site) -> Iterator[Journal]:
    """A journal of the block's own; its ``wrapper`` makes a command see it, ``close`` returns what came."""
    with tempfile.TemporaryDirectory(prefix="j", dir=site.place) as directory:
        journal = Journal(Path(directory))
        try:
            yield journal
        finally:
            journal.close()


def events(told: str) -> list[str]:
    """Return the events of what was sent to a journal, in order, each once."""
    return list(dict.fromkeys(re.findall("^DENTAL_PMS_EVENT=(.+)$", told, re.MULTILINE)))


def cause(told: str) -> str:
    """Return the cause that the last entry with one has, of what was sent to a journal; empty without one."""
    found: list[str] = re.findall("^DENTAL_PMS_CAUSE=(.+)$", told, re.MULTILINE)
    return found[-1] if found else ""


def of_a_sweep(number: int, how: str, moment_s: float, takes_s: float) -> None:
    """Say, in what pytest shows of a test that failed, which of its moments it was."""
    sys.stdout.write(f"{number}: {how}, {moment_s:.3f} s after its start; a whole one takes {takes_s:.3f} s\n")


def _run(site: Site, words: Sequence[str], wrapper: Sequence[str], variables: dict[str, str]) -> Met:
    with listening(site) as journal:
        done = site.run("run", *words, wrapper=[*journal.wrapper, *wrapper], **variables)
        told = journal.close()
    for telling in (*CANARIES, "canary-name", "Traceback"):
        assert telling not in done.stderr
        assert telling not in told
    return Met(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr, told=told)
