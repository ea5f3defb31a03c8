"""A run that is stopped, meets another command, or has a broken tool publishes nothing, and the next run succeeds."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dental_pms_backup.live.postgres import OnHost
from tests import faults
from tests.faults import A_NEW_SET, AS_BEFORE
from tests.integration.faults import LOCK_ALL, OK, cause, events, fails, is_interrupted, listening, recovers, succeeds
from tests.integration.support import (
    Ran,
    Site,
    alive,
    clients_of,
    dump,
    dumps_running,
    on_disk,
    session,
    sql,
    wait_until,
)
from tests.integration.test_offsite import configure

STREAMS = {"db": "dump", "attachments": "archive"}
SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGHUP": signal.SIGHUP, "SIGKILL": signal.SIGKILL}


@pytest.mark.sample(2)
@pytest.mark.fault("Ourselves", "the compressor dies in the")
@pytest.mark.parametrize(("word", "cause"), STREAMS.items(), ids=["database", "attachments"])
def test_a_run_publishes_nothing_when_the_compressor_dies(site: Site, word: str, cause: str) -> None:
    path = site.fake_compressor("igzip", "head -c 1000 >/dev/null; kill -KILL $$")
    fails(site, word, cause=cause, PATH=path)
    recovers(site)


@pytest.mark.sample(2)
@pytest.mark.fault("Ourselves", "the compressor writes half of it and exits 0, in the")
@pytest.mark.parametrize("word", STREAMS, ids=["database", "attachments"])
def test_a_run_publishes_nothing_when_the_compressor_writes_half_with_status_0(site: Site, word: str) -> None:
    path = site.fake_compressor("igzip", '"$real" "$@" | { head -c 3000; cat >/dev/null; }')
    fails(site, word, cause="verification", PATH=path)
    recovers(site)


@pytest.mark.fault("Ourselves", "the compressor ends long before the dump does and exits 0")
def test_a_run_publishes_nothing_when_the_compressor_takes_half_with_status_0(site: Site) -> None:
    path = site.fake_compressor("igzip", 'head -c 3000 | "$real" "$@"')
    done = fails(site, "db", cause="dump", PATH=path)
    assert "db: igzip ended before the dump did, so that a part of it is missing" in done.stderr
    recovers(site)


@pytest.mark.sample(2)
@pytest.mark.fault("Ourselves", "the compressor does its work but exits 1, in the")
@pytest.mark.parametrize(("word", "cause"), STREAMS.items(), ids=["database", "attachments"])
def test_a_run_publishes_nothing_when_the_compressor_does_its_work_but_says_that_it_failed(
    site: Site, word: str, cause: str
) -> None:
    path = site.fake_compressor("igzip", '"$real" "$@"; exit 1')
    fails(site, word, cause=cause, PATH=path)
    recovers(site)


@pytest.mark.fault("Ourselves", "a program says bytes of its data on stderr")
def test_a_program_that_says_bytes_of_its_data_fails_the_run_without_them(site: Site) -> None:
    path = site.fake_compressor("igzip", "head -c 1000 >&2; kill -KILL $$")
    fails(site, "attachments", cause="archive", PATH=path)
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.each_release
@pytest.mark.fault("Ourselves", "a signal in the database")
@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS)
def test_a_signal_ends_the_run_within_seconds_and_pg_dump_with_it(
    site: Site, live: OnHost, number: signal.Signals
) -> None:
    site.configure({"database.lock_wait_s": 300})
    with session(live, LOCK_ALL), listening(site) as journal:
        with site.running("run", wrapper=journal.wrapper) as process:
            wait_until(lambda: dumps_running(live) == 2)
            err = is_interrupted(site, process, number, journal)
        # the server itself sees that a killed client has gone when it has the lock
        wait_until(lambda: clients_of(live) == [] and dumps_running(live) <= (number is signal.SIGKILL))
    assert (f"stopped by signal {number.value}" in err) == (number is not signal.SIGKILL)
    assert len(site.drafts()) == (number is signal.SIGKILL)
    assert site.run("list").stdout.count("verified") == 1
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "a signal in the attachments")
@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS)
def test_a_signal_ends_the_run_in_the_attachments_and_tar_with_it(site: Site, number: signal.Signals) -> None:
    note = site.place / "note"
    path = site.fake_compressor("igzip", f"head -c 10000 >/dev/null; echo $$ >{note}; exec sleep 1000")
    with listening(site) as journal, site.running("run", "attachments", wrapper=journal.wrapper, PATH=path) as process:
        wait_until(lambda: note.exists() and note.read_text().endswith("\n"))
        is_interrupted(site, process, number, journal)
    wait_until(lambda: not alive(int(note.read_text())))
    recovers(site)


@pytest.mark.fault("Ourselves", "another program holds the lock of the store")
def test_a_store_that_another_program_holds_is_temporary(site: Site) -> None:
    with (site.store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fails(site, cause="locked", status=75)
    recovers(site)


@pytest.mark.fault("Ourselves", "a lock file is left of a machine that died")
def test_a_lock_file_that_nobody_holds_is_no_lock(site: Site) -> None:
    lock = site.store / ".lock"
    lock.write_text("1234\nanother-machine\n")
    lock.chmod(0o444)
    os.utime(lock, (0, 0))
    succeeds(site)
    recovers(site)


@contextlib.contextmanager
def a_run_that_waits(site: Site, live: OnHost) -> Iterator[list[Ran]]:
    """A run that is in the middle of the database while the block lasts, and then goes on to its end, into the list."""
    site.configure({"database.lock_wait_s": 300})
    ended: list[Ran] = []
    with contextlib.ExitStack() as stack:
        with session(live, LOCK_ALL):
            process = stack.enter_context(site.running("run"))
            wait_until(lambda: dumps_running(live) == 2)
            yield ended
        out, err = process.communicate(timeout=120)
        ended.append(Ran([], process.returncode, out, err))


def assert_ended_well(ended: list[Ran]) -> None:
    (done,) = ended
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, OK, "")


@pytest.mark.fault("Ourselves", "a run begins while another works")
def test_a_run_of_the_same_store_is_refused_while_one_works_and_the_one_succeeds(site: Site, live: OnHost) -> None:
    with a_run_that_waits(site, live) as ended:
        drafts = site.drafts()
        fails(site, cause="locked", status=75)
        assert site.drafts() == drafts
        assert "running now: yes" in site.run("status").stdout
    assert_ended_well(ended)
    assert len(site.sets()) == 2
    recovers(site)


@pytest.mark.fault("Ourselves", "a run begins while another, that holds the store, is stopped by SIGSTOP")
def test_a_run_that_stands_still_keeps_its_lock_and_goes_on_afterwards(site: Site, live: OnHost) -> None:
    site.configure({"database.lock_wait_s": 300})
    with contextlib.ExitStack() as stack:
        with session(live, LOCK_ALL):
            process = stack.enter_context(site.running("run"))
            wait_until(lambda: dumps_running(live) == 2)
            process.send_signal(signal.SIGSTOP)
            fails(site, cause="locked", status=75)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=120)
    assert out.splitlines()[-1] == OK
    recovers(site)


MEANWHILE = {
    "prune": ("prune",),
    "a restore of the database": ("restore", "db", "latest", "--in-place", "--yes"),
    "a restore of the attachments": ("restore", "attachments", "latest", "--in-place", "--yes"),
    "keep": ("keep", "latest"),
    "offsite fetch": ("offsite", "fetch", "2020-01-01_000000"),
    "offsite push": ("offsite", "push"),
}


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "while a run works, somebody types")
@pytest.mark.parametrize("words", MEANWHILE.values(), ids=MEANWHILE)
def test_a_command_that_would_change_the_store_of_a_run_is_refused_and_changes_nothing(
    own_database: Site, words: tuple[str, ...]
) -> None:
    site = own_database
    (site.place / "there").mkdir()
    configure(site, site.place / "there", "secret")
    site.configure({"keep": 1})
    before = (site.set_files(), on_disk(site.attachments), dump(site.server))
    with a_run_that_waits(site, site.server) as ended, listening(site) as journal:
        done = site.run(*words, wrapper=journal.wrapper)
        told = journal.close()
        assert (done.returncode, done.stdout) == (75, "")
        assert (site.set_files(), on_disk(site.attachments)) == before[:2]
    assert dump(site.server) == before[2]
    assert_ended_well(ended)
    faults.saw(status=done.returncode, cause=cause(told), store=AS_BEFORE, events=events(told))
    recovers(site, BACKUP_KEEP="2")


WAITING = (
    "select count(*) from pg_stat_activity"
    " where application_name like 'dental-pms-backup-%' and wait_event_type = 'Lock'"
)


@pytest.mark.fault("Ourselves", "a run begins while the database is restored in place")
def test_a_run_during_a_restore_of_the_database_is_refused_and_the_restore_goes_on(own_database: Site) -> None:
    site = own_database
    site.configure({"database.lock_wait_s": 300})
    before = dump(site.server)
    with contextlib.ExitStack() as stack:
        with session(site.server, LOCK_ALL):
            restore = stack.enter_context(site.running("restore", "db", "latest", "--in-place", "--yes"))
            wait_until(lambda: sql(site.server, WAITING) == "1")
            fails(site, cause="locked", status=75)
        out, err = restore.communicate(timeout=120)
    assert (restore.returncode, out.splitlines()[-1], err) == (0, "restore_status=ok", "")
    assert dump(site.server) == before
    recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "a run begins while the attachments are restored in place")
def test_a_run_during_a_restore_of_the_attachments_is_refused_and_the_restore_goes_on(site: Site) -> None:
    site.takes()
    before = on_disk(site.attachments)
    path, waits, go_on = held_up(site, "tar", "--extract")
    with site.running("restore", "attachments", "latest", "--in-place", "--yes", PATH=path) as restore:
        wait_until(waits.exists)
        fails(site, cause="locked", status=75)
        go_on.touch()
        out, err = restore.communicate(timeout=120)
    assert (restore.returncode, out.splitlines()[-1], err) == (0, "restore_status=ok", "")
    assert on_disk(site.attachments) == before
    recovers(site)


def held_up(site: Site, program: str, when: str) -> tuple[str, Path, Path]:
    """Return a PATH on which a program with that argument waits, the file that says so, and that which lets it go."""
    waits, go_on = site.place / "waits", site.place / "go on"
    until = f'touch "{waits}"; until [ -e "{go_on}" ]; do sleep 0.05; done'
    return site.fake_on_path(program, f'case " $* " in *" {when} "*) {until} ;; esac; exec "$real" "$@"'), waits, go_on


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "a run begins while prune removes")
def test_a_run_during_prune_is_refused_and_prune_goes_on(site: Site) -> None:
    last = site.takes()
    site.configure({"keep": 1})
    calls = "?unlink,unlinkat"
    held_up = ["strace", "-f", "-qq", "--output=/dev/null", f"--trace={calls}"]
    with site.running("prune", wrapper=[*held_up, f"--inject={calls}:delay_enter=60s:when=1"]) as strace:
        wait_until(lambda: "running now: yes" in site.run("status").stdout)
        fails(site, cause="locked", status=75)
        strace.kill()  # which lets prune go on
        out, err = strace.communicate(timeout=120)
    assert ("removed" in out, err, site.sets()) == (True, "", [last]), out
    recovers(site, BACKUP_KEEP="2")


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "a run lets a set go while offsite push copies it")
def test_a_set_that_goes_while_it_is_copied_fails_the_push_and_is_not_listed_there(site: Site) -> None:
    (site.place / "there").mkdir()
    configure(site, site.place / "there", "secret")
    path, waits, go_on = held_up(site, "rclone", "copy")
    with listening(site) as journal, site.running("offsite", "push", wrapper=journal.wrapper, PATH=path) as push:
        wait_until(waits.exists)
        last = site.takes(BACKUP_KEEP="1")
        go_on.touch()
        out, err = push.communicate(timeout=120)
        told = journal.close()
    assert (push.returncode, out, site.sets()) == (1, "", [last]), err
    faults.saw(status=1, store=A_NEW_SET, events=events(told))
    assert site.run("offsite", "list").stdout == ""
    assert site.run("offsite", "push").stdout == f"{last}: copied and compared\n"
    recovers(site)
