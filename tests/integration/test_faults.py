"""A run that meets a fault says so, publishes nothing, touches no earlier set, and the next run succeeds."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dental_pms_backup.postgres import OnHost
from tests.integration.support import (
    CANARIES,
    PATH,
    Argvs,
    Journal,
    Ran,
    Site,
    alive,
    bin_dir,
    clients_of,
    dumps_running,
    environment,
    executable,
    major,
    mounted_tmpfs,
    session,
    signalled,
    sql,
    wait_until,
)

FAILED = "failure={}\nbackup_run_status=failed\n"
LOCK_ALL = "lock table patients in access exclusive mode;"
STOPS_WITHIN_S = 5
PAGE_BYTES = 4096
ROOMY_BYTES = 64 << 20
WITHOUT_READ_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


def fails(
    site: Site, *words: str, cause: str, status: int = 1, wrapper: list[str] | None = None, **variables: str
) -> Ran:
    """Run, expecting this failure and nothing changed under any name that counts."""
    before = site.set_files()
    done = site.run("run", *words, wrapper=wrapper or (), **variables)
    assert (done.returncode, done.stdout) == (status, FAILED.format(cause)), done.stderr
    assert site.set_files() == before
    assert re.search("^dental-pms-backup: ", done.stderr, re.MULTILINE)
    for telling in (*CANARIES, "canary-name", "Traceback"):
        assert telling not in done.stderr
    return done


def recovers(site: Site, **variables: str) -> None:
    """Take a set, which leaves all earlier ones as they were and no draft of anyone's."""
    before = site.set_files()
    name = site.takes(**variables)
    after = site.set_files()
    assert {path: facts for path, facts in after.items() if name not in path} == before
    assert site.drafts() == []
    assert site.run("verify", name).returncode == 0


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ('echo "pg_dump: error: the connection was lost" >&2; exit 1', "dump"),
        ('"$real" "$@" | head -c 20000; exit 1', "dump"),
        ('"$real" "$@" | sed "/PostgreSQL database dump complete/,\\$d"; exit 1', "dump"),
        ('"$real" "$@"; exit 1', "dump"),
        ('"$real" "$@" | head -c 20000; kill -KILL $$', "dump"),
        ('"$real" "$@" | head -c 20000', "verification"),
        ('"$real" "$@" | sed "/PostgreSQL database dump complete/,\\$d"', "verification"),
        ("exit 0", "verification"),
        ('echo "pg_dump: everything is saved"', "verification"),
    ],
    ids=[
        "it fails at its start",
        "it fails in the middle",
        "it fails after the last row",
        "it fails after the completion mark",
        "it is killed",
        "it ends too early with status 0",
        "it leaves out the completion mark with status 0",
        "it does nothing with status 0",
        "it says that it succeeded and does nothing",
    ],
)
def test_a_run_publishes_nothing_when_pg_dump_is_broken(site: Site, body: str, cause: str) -> None:
    site.fake("pg_dump", body)
    fails(site, cause=cause)
    assert site.drafts() == []
    site.mend()
    recovers(site)


@pytest.mark.parametrize(
    "body", ["exit 1", '"$real" "$@" | head -c 700; exit 1', '"$real" "$@" | head -c 700; kill -KILL $$']
)
def test_a_run_publishes_nothing_when_pg_dumpall_fails(site: Site, body: str) -> None:
    site.fake("pg_dumpall", body)
    fails(site, cause="dump")
    site.mend()
    recovers(site)


def test_a_run_publishes_nothing_when_pg_dumpall_ends_too_early_with_status_0(site: Site) -> None:
    site.fake("pg_dumpall", '"$real" "$@" | head -c 700')
    fails(site, cause="verification")


def test_what_pg_dump_says_is_told_without_the_row_that_it_quotes(site: Site) -> None:
    site.fake(
        "pg_dump",
        'echo "pg_dump: error: query failed: ERROR: broken CONTEXT: COPY patients: canary-patient-4711" >&2; exit 1',
    )
    done = fails(site, cause="dump")
    assert "query failed: ERROR: broken CONTEXT: (left out)" in done.stderr


@pytest.mark.parametrize("word", ["db", "attachments"])
def test_a_run_publishes_nothing_when_the_compressor_dies(site: Site, word: str) -> None:
    path = site.fake_on_path("igzip", "head -c 1000 >/dev/null; kill -KILL $$")
    fails(site, word, cause={"db": "dump", "attachments": "archive"}[word], PATH=path)
    recovers(site)


@pytest.mark.parametrize("word", ["db", "attachments"])
def test_a_run_publishes_nothing_when_the_compressor_writes_half_with_status_0(site: Site, word: str) -> None:
    path = site.fake_on_path("igzip", '"$real" "$@" | head -c 3000')
    fails(site, word, cause="verification", PATH=path)
    recovers(site)


def test_a_program_that_says_bytes_of_its_data_fails_the_run_without_them(site: Site) -> None:
    path = site.fake_on_path("igzip", "head -c 1000 >&2; kill -KILL $$")
    fails(site, "attachments", cause="archive", PATH=path)
    recovers(site)


def test_a_run_publishes_nothing_when_tar_leaves_entries_out_with_status_0(site: Site) -> None:
    less = f'"$real" "$@" >/dev/null; exec "$real" -C {site.attachments} --exclude=./2026/0001.jpg -cf - .'
    path = site.fake_on_path("tar", f'case "$*" in *--create*) {less} ;; esac; exec "$real" "$@"')
    fails(site, cause="verification", PATH=path)
    recovers(site)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the store's own that is roomy until the first compressor starts."""

    site: Site

    def filled_up_to(self, free_bytes: int, compressor: str) -> str:
        """Return a PATH whose compressor first makes the disk so small that, of what is free now, this is left."""
        used = os.statvfs(self.site.store)
        size_bytes = (used.f_blocks - used.f_bfree) * used.f_bsize + free_bytes
        remount = f"mount -o remount,size={size_bytes} {self.site.store}"
        return self.site.fake_on_path("igzip", f"{remount} && exec {shutil.which(compressor, path=PATH)} -c")

    def widen(self) -> None:
        subprocess.run(["mount", "-o", f"remount,rw,size={ROOMY_BYTES}", self.site.store], check=True)


@pytest.fixture
def disk(site: Site) -> Iterator[Disk]:
    """The store on a disk of its own."""
    copy = site.store.rename(site.place / "copy")
    with mounted_tmpfs(site.store, ROOMY_BYTES):
        shutil.copytree(copy, site.store, copy_function=shutil.copy2, dirs_exist_ok=True)
        site.configure({"reserve_mb": 0})
        yield Disk(site)


def pages(site: Site, beginning: str) -> int:
    """Return how many bytes the files of the newest set with such names take on disk."""
    name = site.sets()[-1]
    sizes = [facts[2] for path, facts in site.set_files().items() if path.startswith(beginning) and name in path]
    return sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes)


@pytest.mark.parametrize("compressor", ["igzip", "pigz", "gzip"])
def test_a_run_publishes_nothing_when_the_disk_is_full_in_the_database(site: Site, disk: Disk, compressor: str) -> None:
    path = disk.filled_up_to(pages(site, "db/") // 2, compressor)
    done = fails(site, cause="store", PATH=path)
    assert "expected room in the store" in done.stderr
    disk.widen()
    recovers(site)


@pytest.mark.parametrize("compressor", ["igzip", "gzip"])
def test_a_run_publishes_nothing_when_the_disk_is_full_in_the_attachments(
    site: Site, disk: Disk, compressor: str
) -> None:
    path = disk.filled_up_to(pages(site, "db/") + pages(site, "attachments_") // 2, compressor)
    fails(site, cause="store", PATH=path)
    disk.widen()
    recovers(site)


@pytest.mark.parametrize("words", [(), ("db",)], ids=["both", "db"])
def test_a_run_says_the_truth_wherever_the_disk_gets_full_between_the_streams_and_the_manifest(
    site: Site, disk: Disk, words: tuple[str, ...]
) -> None:
    site.takes(*words, PATH=site.fake_on_path("igzip", "exec gzip -c"))
    taken = pages(site, "db/") + pages(site, "attachments_")
    outcomes = set()
    for more in range(-1, 6):
        before = site.set_files()
        path = disk.filled_up_to(taken + more * PAGE_BYTES, "gzip")
        done = site.run("run", *words, PATH=path)
        made = set(site.set_files()) - set(before)
        assert {name: facts for name, facts in site.set_files().items() if name in before} == before
        disk.widen()
        if done.returncode == 0:
            assert len(made) == (4 if words else 5)
            assert site.run("verify", "latest").returncode == 0
        else:
            assert (done.returncode, done.stdout) == (1, FAILED.format("store")), (more, done.stderr)
            assert made == set(), more
        outcomes.add(done.returncode)
        for name in made:
            (site.store / name).unlink()
    assert outcomes == {0, 1}
    recovers(site)


@pytest.mark.usefixtures("disk")
def test_a_run_touches_nothing_when_there_is_no_room_for_it(site: Site) -> None:
    site.configure({"reserve_mb": 100})
    done = fails(site, cause="room")
    assert "in reserve" in done.stderr
    site.configure({"reserve_mb": 0})
    recovers(site)


@pytest.mark.usefixtures("disk")
def test_a_run_fails_on_a_store_that_is_read_only(site: Site) -> None:
    subprocess.run(["mount", "-o", "remount,ro", site.store], check=True)
    fails(site, cause="store")
    subprocess.run(["mount", "-o", "remount,rw", site.store], check=True)
    recovers(site)


def test_a_run_fails_on_a_store_that_is_a_file(new_site: Site) -> None:
    new_site.store.write_text("kept")
    done = fails(new_site, cause="store")
    assert str(new_site.store) in done.stderr
    assert new_site.store.read_text() == "kept"


def test_a_run_fails_when_the_attachments_are_missing_or_a_file(site: Site) -> None:
    aside = site.attachments.rename(site.place / "aside")
    fails(site, cause="source")
    site.attachments.write_text("no directory")
    fails(site, cause="source")
    site.attachments.unlink()
    aside.rename(site.attachments)
    recovers(site)


def test_an_unreadable_entry_fails_the_run_and_is_named_by_status_only(site: Site, place: Path) -> None:
    (site.attachments / "2026/letter to Mrs canary-name-0815.txt").chmod(0)
    os.chown(site.attachments / "2026/letter to Mrs canary-name-0815.txt", 12345, 12345)
    (place / "journal").mkdir()
    journal = Journal(place / "journal")
    try:
        done = fails(site, "attachments", cause="archive", wrapper=[*journal.wrapper, *WITHOUT_READ_OVERRIDE])
    finally:
        told = journal.close()
    assert "DENTAL_PMS_CAUSE=archive" in told
    assert "canary-name" not in told
    assert "hint: dental-pms-backup status" in done.stderr
    shown = site.run("status").stdout
    assert "canary-name-0815.txt: Cannot open: Permission denied" in shown
    recovers(site)


def test_a_directory_that_cannot_be_listed_fails_the_run(site: Site) -> None:
    locked = site.attachments / "locked"
    locked.mkdir()
    os.chown(locked, 12345, 12345)
    locked.chmod(0)
    fails(site, "attachments", cause="archive", wrapper=WITHOUT_READ_OVERRIDE)
    recovers(site)


def test_a_file_that_changes_while_it_is_read_is_a_warning_that_show_names(site: Site, place: Path) -> None:
    growing = site.attachments / "canary-name-growing.dat"
    growing.write_bytes(os.urandom(8 << 20))
    ended = threading.Event()

    def grow() -> None:
        while not ended.wait(0.001):
            with growing.open("ab") as file:
                file.write(b"more")

    (place / "journal").mkdir()
    journal = Journal(place / "journal")
    writer = threading.Thread(target=grow)
    writer.start()
    try:
        done = site.run("run", "attachments", wrapper=journal.wrapper)
    finally:
        ended.set()
        writer.join()
        told = journal.close()
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "backup_run_status=ok")
    name = site.sets()[-1]
    warning = f"attachments: 1 entries changed while they were read; dental-pms-backup show {name} names them"
    assert done.stderr.splitlines() == [warning]
    assert warning in told
    assert "canary-name" not in told
    assert "canary-name-growing.dat" in site.run("show", name).stdout
    assert site.run("verify", name).returncode == 0


def test_files_that_vanish_while_they_are_read_are_a_warning(site: Site) -> None:
    crowd = site.attachments / "crowd"
    crowd.mkdir()
    for number in range(400):
        (crowd / f"{number}").write_bytes(os.urandom(4000))
    path = site.fake_on_path("igzip", f'{{ head -c 65536; rm -r {crowd}; cat; }} | "$real" "$@"')
    done = site.run("run", "attachments", PATH=path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "backup_run_status=ok"), done.stderr
    name = site.sets()[-1]
    manifest = json.loads((site.store / f"sets/{name}.json").read_text())
    assert any("removed before we read it" in line for line in manifest["streams"]["attachments"]["changed"])
    assert site.run("verify", name).returncode == 0


def test_a_missing_database_is_refused_for_good(site: Site) -> None:
    site.configure({"native.database": "nowhere", "retry.attempts": 3})
    done = fails(site, cause="database")
    assert "the server refuses: " in done.stderr
    assert 'database "nowhere" does not exist' in done.stderr
    assert "try 1" not in done.stderr
    site.configure({"native.database": "practice"})
    recovers(site)


def test_a_server_that_is_down_is_temporary_and_tried_again(site: Site) -> None:
    site.configure({"native.host": str(site.place), "retry.attempts": 3})
    done = fails(site, cause="database", status=75)
    assert "the server does not answer" in done.stderr
    assert len(re.findall("; try . of 3, the next in 0 s", done.stderr)) == 2
    site.configure({"native.host": site.server.host})
    recovers(site)


def test_a_store_that_another_run_holds_is_temporary(site: Site) -> None:
    with (site.store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fails(site, cause="locked", status=75)
    recovers(site)


def test_a_table_that_the_role_may_not_read_fails_the_run(site: Site) -> None:
    site.configure({"native.user": "dental_reader"})
    done = fails(site, "db", cause="dump")
    assert "permission denied" in done.stderr
    assert "hint: let the role read everything: GRANT pg_read_all_data TO it" in done.stderr
    site.configure({"native.user": site.server.user})
    recovers(site)


def test_a_role_that_may_only_read_everything_is_enough_for_a_run(site: Site, live: OnHost) -> None:
    sql(live, "create role backup_reader login in role pg_read_all_data bypassrls")
    try:
        site.configure({"native.user": "backup_reader"})
        recovers(site)
    finally:
        sql(live, "drop role backup_reader")


def test_a_table_that_a_session_holds_fails_the_run_after_the_lock_timeout(site: Site, live: OnHost) -> None:
    with session(live, LOCK_ALL):
        done = fails(site, "db", cause="dump")
    assert "a migration or maintenance holds a table" in done.stderr
    assert dumps_running(live) == 0
    recovers(site)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run_within_seconds_and_pg_dump_with_it(
    site: Site, live: OnHost, number: signal.Signals
) -> None:
    before = site.set_files()
    site.configure({"database.lock_wait_s": 300})
    with session(live, LOCK_ALL):
        with site.running("run") as process:
            wait_until(lambda: dumps_running(live) == 1)
            status, out, err = signalled(process, number, within_s=STOPS_WITHIN_S)
        wait_until(lambda: dumps_running(live) == 0 and clients_of(live) == [])
    assert (status, out) == (1, FAILED.format("interrupted"))
    assert f"stopped by signal {number.value}" in err
    assert site.set_files() == before
    assert site.drafts() == []
    recovers(site)


def test_a_signal_ends_the_run_in_the_attachments_and_tar_with_it(site: Site) -> None:
    before = site.set_files()
    note = site.place / "note"
    path = site.fake_on_path("igzip", f"head -c 10000 >/dev/null; echo $$ >{note}; exec sleep 30")
    with site.running("run", "attachments", PATH=path) as process:
        wait_until(lambda: note.exists() and note.read_text().endswith("\n"))
        status, out, _ = signalled(process, signal.SIGTERM, within_s=STOPS_WITHIN_S)
    assert (status, out) == (1, FAILED.format("interrupted"))
    assert not alive(int(note.read_text()))
    assert site.set_files() == before
    recovers(site)


def test_a_killed_run_leaves_drafts_that_the_next_one_clears_and_no_pg_dump(site: Site, live: OnHost) -> None:
    before = site.set_files()
    site.configure({"database.lock_wait_s": 300})
    with session(live, LOCK_ALL):
        with site.running("run") as process:
            wait_until(lambda: dumps_running(live) == 1)
            status, out, _ = signalled(process, signal.SIGKILL, within_s=STOPS_WITHIN_S)
        assert (status, out) == (-signal.SIGKILL, "")
        assert len(site.drafts()) == 1
        wait_until(lambda: clients_of(live) == [])
    assert site.set_files() == before
    assert site.run("list").stdout.count("verified") == 1
    recovers(site)


def test_a_run_of_the_same_store_is_refused_while_one_works_and_the_one_succeeds(site: Site, live: OnHost) -> None:
    site.configure({"database.lock_wait_s": 300})
    with contextlib.ExitStack() as stack:
        with session(live, LOCK_ALL):
            first = stack.enter_context(site.running("run"))
            wait_until(lambda: dumps_running(live) == 1)
            drafts = site.drafts()
            fails(site, cause="locked", status=75)
            assert site.drafts() == drafts
            assert "running now: yes" in site.run("status").stdout
        out, err = first.communicate(timeout=30)
    assert (first.returncode, out.splitlines()[-1], err) == (0, "backup_run_status=ok", "")
    assert len(site.sets()) == 2


def left_by_the_seed(store: Path, *, databases: int, attachments: int) -> None:
    (store / "db").mkdir(parents=True, exist_ok=True)
    for number in range(databases):
        (store / f"db/db_2020-01-{number + 1:02d}_023000.sql.gz").write_bytes(b"database")
    for number in range(attachments):
        (store / f"attachments_2020-01-{number + 1:02d}_023001.tgz").write_bytes(b"attachments")
    (store / "db/notes.txt").write_text("not a backup")
    (store / "attachments_old.tgz").write_text("not a backup's name")


def artefacts_of(site: Site) -> tuple[list[str], list[str]]:
    databases = sorted(path.name[3:-7] for path in site.store.glob("db/db_*.sql.gz"))
    return databases, sorted(path.name[12:-4] for path in site.store.glob("attachments_2*.tgz"))


def test_each_stream_keeps_as_many_artefacts_as_backup_keep_says_those_of_the_seed_included(new_site: Site) -> None:
    left_by_the_seed(new_site.store, databases=4, attachments=2)
    done = new_site.run("run", BACKUP_KEEP="3")
    assert done.returncode == 0
    (name,) = new_site.sets()
    assert artefacts_of(new_site) == (
        ["2020-01-03_023000", "2020-01-04_023000", name],
        ["2020-01-01_023001", "2020-01-02_023001", name],
    )
    assert re.findall(r"retention_\w+=\d+", done.stdout) == [
        *("retention_keep=3", "retention_deleted=2"),
        *("retention_keep=3", "retention_deleted=0"),
    ]
    new_site.takes(BACKUP_KEEP="1")
    (last,) = new_site.sets()
    assert artefacts_of(new_site) == ([last], [last])
    assert len(list(new_site.store.glob("db/globals_*"))) == 1
    assert (new_site.store / "db/notes.txt").read_text() == "not a backup"
    assert (new_site.store / "attachments_old.tgz").exists()


def test_a_run_of_one_stream_removes_nothing_of_the_other(new_site: Site) -> None:
    left_by_the_seed(new_site.store, databases=3, attachments=3)
    new_site.takes("db", BACKUP_KEEP="1")
    assert [len(found) for found in artefacts_of(new_site)] == [1, 3]


@pytest.mark.parametrize("stream", ["pg_dump", "attachments"])
def test_a_run_removes_nothing_when_one_stream_failed(site: Site, stream: str) -> None:
    left_by_the_seed(site.store, databases=3, attachments=3)
    if stream == "pg_dump":
        site.fake("pg_dump", "exit 1")
        fails(site, cause="dump", BACKUP_KEEP="1")
    else:
        path = site.fake_on_path("igzip", 'case "$(head -c 8)" in --*) exit 9 ;; esac; exit 1')
        fails(site, "attachments", cause="archive", BACKUP_KEEP="1", PATH=path)


@pytest.mark.parametrize("value", ["0", "-1", "many", "", "1.5"])
def test_a_backup_keep_that_would_remove_everything_or_means_nothing_is_refused_by_name(site: Site, value: str) -> None:
    done = fails(site, cause="configuration", status=78, BACKUP_KEEP=value)
    assert "BACKUP_KEEP" in done.stderr


def test_a_dry_run_touches_nothing(site: Site) -> None:
    left_by_the_seed(site.store, databases=2, attachments=0)
    before = site.set_files()
    done = site.run("run", "--dry-run", BACKUP_KEEP="1")
    assert (done.returncode, site.set_files(), site.drafts()) == (0, before, [])
    assert "would remove db of set 2020-01-02_023000" in done.stdout
    assert done.stdout.endswith("nothing was done: dry run\n")


def test_clients_older_than_the_server_are_refused(site: Site) -> None:
    site.fake("pg_dump", "exit 1")
    executable(site.place / "clients/pg_dump", f"echo 'pg_dump (PostgreSQL) {major() - 1}.4'")
    done = fails(site, "db", cause="tool")
    assert f"pg_dump: none for PostgreSQL {major()}" in done.stderr
    site.mend()
    recovers(site)


@pytest.fixture
def server_with_passwords(place: Path) -> Iterator[tuple[int, str]]:
    """A server of its own that listens on 127.0.0.1 and wants a password; its port and the password."""
    password = "pass-canary-9c1e:\\x"  # noqa: S105 - of a server that is thrown away
    directory = place / "guarded"
    directory.mkdir(mode=0o700)
    (directory / "password").write_text(password)
    for path in (directory, directory / "password"):
        shutil.chown(path, "postgres", "postgres")
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", "--"]
    data, port = directory / "data", free_port()
    subprocess.run(
        [
            *user,
            bin_dir() / "initdb",
            "-D",
            data,
            "-U",
            "dental",
            "--auth=scram-sha-256",
            "--no-locale",
            "--no-sync",
            f"--pwfile={directory}/password",
        ],
        env=environment(),
        cwd="/",
        stdout=subprocess.DEVNULL,
        check=True,
    )
    subprocess.run(
        [*user, bin_dir() / "postgres", "--single", "-D", data, "postgres"],
        env=environment(),
        cwd="/",
        input=b"create table notes as select 'canary-patient-4711'::text as text\n",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    with subprocess.Popen(
        [
            *user,
            bin_dir() / "postgres",
            "-D",
            data,
            "-p",
            str(port),
            "-k",
            directory,
            "-c",
            "fsync=off",
            "-c",
            "listen_addresses=127.0.0.1",
        ],
        env=environment(),
        cwd="/",
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield port, password
        finally:
            process.send_signal(signal.SIGINT)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_password_file_opens_a_server_over_tcp_and_the_password_is_told_to_nobody(
    new_site: Site, server_with_passwords: tuple[int, str]
) -> None:
    port, password = server_with_passwords
    file = new_site.place / "pgpass"
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    file.write_text(f"127.0.0.1:{port}:*:dental:{escaped}\n")
    file.chmod(0o600)
    new_site.configure(
        {
            "native.host": "127.0.0.1",
            "native.port": port,
            "native.user": "dental",
            "native.database": "postgres",
            "native.pgpass_file": str(file),
            "retry.attempts": 20,
            "retry.wait_s": 1,
        }
    )
    (new_site.place / "journal").mkdir()
    journal = Journal(new_site.place / "journal")
    try:
        with Argvs() as argvs:
            done = new_site.run("run", "-v", wrapper=journal.wrapper)
            file.write_text(f"127.0.0.1:{port}:*:dental:wrong-{escaped}\n")
            wrong = new_site.run("run", "db", "-v", wrapper=journal.wrapper)
    finally:
        told = journal.close()
    assert done.returncode == 0, done.stderr
    assert wrong.stdout == FAILED.format("database")
    assert "DENTAL_PMS_EVENT=run-succeeded" in told
    assert any("pg_dump --format=plain" in argv for argv in argvs.seen)
    kept = [path.read_text(errors="replace") for path in new_site.store.rglob("*.json*")]
    for text in (done.stdout, done.stderr, wrong.stdout, wrong.stderr, told, *argvs.seen, *kept):
        assert "canary-9c1e" not in text
