"""Whatever strikes a restore of the database: live is as it was, or what was restored is whole; never between."""

import contextlib
import gzip
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dental_pms_backup.drill import private_cluster
from dental_pms_backup.live import postgres, swap
from dental_pms_backup.live.postgres import OnHost
from dental_pms_backup.store.sets import Kind
from tests import faults
from tests.integration import filesystems
from tests.integration.conftest import databases_like
from tests.integration.drills import change_manifest
from tests.integration.faults import at_rest, cause, events, listening, of_a_sweep
from tests.integration.support import (
    HEEDS_SIGNALS,
    TREE,
    Disk,
    Journal,
    Site,
    as_cluster_user,
    awaited,
    dump,
    environment,
    mounted_tmpfs,
    on_disk,
    release,
    sql,
    wait_until,
    without_noise,
)
from tests.integration.test_kill_sweep import A_PROGRAM, EVERYTHING, kill

KILLS = max(3, int(os.environ.get("DENTAL_PMS_KILLS", "200")) // 2)  # each takes longer than one of a backup
HOW: dict[signal.Signals | str, int] = {signal.SIGKILL: 4, A_PROGRAM: 3, EVERYTHING: 2, signal.SIGTERM: 1}
CHANGES = ("insert into lines values ('new'), ('newer')", "create table later as select 1 as id")
HELD = "held"
GIVEN = "told/given"
SLOW = (
    f'{{ head -c 20000; : >"${{0%/*}}/../{GIVEN}"; while [ -e "${{0%/*}}/../{HELD}" ]; do sleep 0.05; done; cat; }}'
    ' | "$real" "$@"; exit'
)
IN_THE_MIDDLE = f'case "$*" in *--command=commit*) {SLOW} ;; esac\nexec "$real" "$@"'
WITHOUT_A_ROW = 'sed "/canary-patient-4711/d" | "$real" "$@"; exit'
AS_IT_WAS = "the live database as it was"


def beside(site: Site) -> list[str]:
    return databases_like(site.server, f"{site.server.database}_")


def drop_beside(site: Site) -> None:
    for name in beside(site):
        sql(postgres.in_database(site.server, "postgres"), f'drop database if exists "{name}" with (force)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What is live: the lines of a dump, and what is on the disk."""

    database: list[str]
    attachments: Disk


@pytest.fixture
def tiny(new_site: Site, live: OnHost) -> Iterator[Site]:
    """A site with a database that is dumped and restored in a moment, each row of which has its file; and a set."""
    site, name = new_site, f"tiny_{new_site.place.name}"
    sql(live, f'create database "{name}"')
    site.server = postgres.in_database(live, name)
    site.configure({"native.database": name, "application.table": None})
    (site.attachments / "attachments").mkdir()
    (site.attachments / "attachments/scan").write_text("scan")
    sql(
        site.server,
        "create table lines as select n::text as content from generate_series(1, 500) n",
        "create index on lines (content)",
        "create table attachments as select 'scan' as storage_key, 4 as byte_size",
    )
    site.takes()
    try:
        yield site
    finally:
        for made in databases_like(live, name):
            sql(live, f'drop database "{made}" with (force)')


@pytest.mark.sweep
@pytest.mark.fault("Ourselves", f"at {KILLS} random moments a restore is killed, or all or one of its programs are")
def test_a_restore_that_is_killed_at_any_moment_leaves_the_old_content_or_the_new(tiny: Site) -> None:
    site, chance = tiny, random.Random(f"20260203 {release()}")  # noqa: S311 - moments, the same in every run of the tests
    wanted, in_store, restored = site.sets()[0], site.set_files(), found_live(site)
    roads = {
        ("all", wanted): 1,
        ("all", wanted, "--no-safety-set"): 2,
        ("db", wanted, "--no-safety-set", "--replace"): 2,
    }
    takes_s = {}
    for road in roads:
        began = time.monotonic()
        assert restores(site, road, None, 0, chance) == 0
        takes_s[road] = time.monotonic() - began
    spoilt, killed = spoil(site), 0
    for number in range(KILLS):
        (road,) = chance.choices(list(roads), list(roads.values()))
        (how,) = chance.choices(list(HOW), list(HOW.values()))
        moment_s = chance.uniform(0, takes_s[road])
        of_a_sweep(number, f"{how!r} of {' '.join(road)}", moment_s, takes_s[road])
        status = restores(site, road, how, moment_s, chance)
        found = found_live(site)
        assert found.database in (spoilt.database, restored.database)
        assert found.attachments in (spoilt.attachments, restored.attachments)
        assert status != 0 or found == (restored if road[0] == "all" else replace(found, database=restored.database))
        assert {path: facts for path, facts in site.set_files().items() if path in in_store} == in_store
        killed += status != 0
        clear_up(site)
        if found != spoilt:
            spoilt = spoil(site)
    assert killed > KILLS / 4, "the moments are spread over a restore"
    assert restores(site, ("all", wanted), None, 0, chance) == 0
    assert found_live(site) == restored
    faults.saw(status="killed, 1 or 0", store="of each stream the old content or the new, whole", events=None)
    faults.recovered()


def found_live(site: Site) -> Live:
    """Return what is live; a swap of the attachments that was cut off is ended first, as any restore does."""
    at_rest(site)
    with swap.live(site.attachments, None) as live:
        swap.recover(live)
    return Live(database=dump(site.server), attachments=on_disk(site.attachments))


def spoil(site: Site) -> Live:
    """Make the database and the attachments other than the set has them, and return what they are."""
    sql(site.server, "drop table if exists later", "create table later as select 1 as id", "delete from lines")
    for path in site.attachments.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (site.attachments / "later").mkdir()
    (site.attachments / "later/one").write_text("later")
    return found_live(site)


def clear_up(site: Site) -> None:
    drop_beside(site)
    for kept in site.place.glob("attachments.*"):
        shutil.rmtree(kept)


def restores(
    site: Site, road: Sequence[str], how: signal.Signals | str | None, moment_s: float, chance: random.Random
) -> int:
    """Restore in place, killed after some seconds, and return the exit status; it says ok only with 0."""
    with subprocess.Popen(
        [*HEEDS_SIGNALS, *site.command("restore", *road, "--in-place", "--yes")],
        cwd=TREE,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if how is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=moment_s)
            kill(process, how, chance)
        out, err = process.communicate(timeout=180)
    assert "Traceback" not in err or "KeyboardInterrupt" in err
    told = "restore_all_status=ok" if road[0] == "all" else "restore_status=ok"
    assert (told in out) <= (process.returncode <= 0)
    assert process.returncode != 0 or told in out
    return process.returncode


def fails(site: Site, *words: str, status: int = 1, **variables: str) -> str:
    """Restore in place, expecting that it fails and the live database is as it was; return what it says."""
    before = dump(site.server)
    with listening(site) as journal:
        done = site.run("restore", "db", *words, "--in-place", "--yes", wrapper=journal.wrapper, **variables)
        told = journal.close()
    assert done.returncode == status, done.stderr
    assert "restore_status" not in done.stdout
    assert "Traceback" not in done.stderr
    wait_until(lambda: answers(site.server))
    assert dump(site.server) == before
    faults.saw(status=done.returncode, cause=cause(told), store=AS_IT_WAS, events=events(told))
    return done.stderr


def answers(server: OnHost) -> bool:
    with contextlib.suppress(AssertionError):
        return sql(server, "select 1") == "1"
    return False


def recovers(site: Site, **variables: str) -> None:
    """Restore the first set, after which a dump of what is live is the one that it has."""
    name = site.sets()[0]
    done = site.run("restore", "db", name, "--in-place", "--yes", **variables)
    assert done.returncode == 0, done.stderr
    stored = gzip.decompress((site.store / Kind.DB.path(name)).read_bytes()).decode()
    assert dump(site.server) == without_noise(stored.split("\n"))
    faults.recovered()


@pytest.mark.fault("Database", "in the middle of a restore, the server crashes")
def test_a_server_that_crashes_in_a_restore_comes_back_with_the_live_database_as_it_was(own_database: Site) -> None:
    site = own_database
    sql(site.server, *CHANGES)
    before = dump(site.server)
    with listening(site) as journal:
        with in_the_middle(site, "beside", journal) as (process, backend):
            os.kill(backend, signal.SIGKILL)
            (site.place / HELD).unlink()
            out, err = process.communicate(timeout=180)
        told = events(journal.close())
    assert process.returncode in {1, 75}, err
    assert "restore_status" not in out
    wait_until(lambda: answers(site.server))
    assert dump(site.server) == before
    assert beside(site) == [] or "is left of the restore that failed; nothing needs it" in err
    faults.saw(status="1 or 75", store=AS_IT_WAS, events=[each for each in told if each != "restore-unfinished"])
    recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Database", "a restore is to replace a database that is not there")
def test_a_restore_into_the_wrong_database_touches_none(own_database: Site) -> None:
    site = own_database
    sql(site.server, *CHANGES)
    made = databases_like(site.server, "")
    site.configure({"native.database": "no such database"})
    assert "db: the server refuses: " in fails(site, "latest")
    assert databases_like(site.server, "") == made
    site.configure({"native.database": site.server.database})
    recovers(site)


@pytest.mark.fault("Database", "a set to be restored is of a database of another name")
def test_a_set_of_a_database_of_another_name_is_told_before_anything_is_replaced(site: Site) -> None:
    with small_site(site, site.place / "pg"), listening(site) as journal:
        before = dump(site.server)
        change_manifest(site, site.sets()[0], of_practice)
        done = site.run("restore", "db", "latest", wrapper=journal.wrapper)
        told = events(journal.close())
        assert (done.returncode, done.stderr) == (
            0,
            "the set was taken of database practice, but the live database is small\n",
        )
        assert dump(site.server) == before
        faults.saw(status=0, store=AS_IT_WAS, events=told)
        recovers(site, CONFIRM="small")


def of_practice(manifest: dict[str, Any]) -> None:
    manifest["streams"]["db"]["source"]["database"] = "practice"


@pytest.mark.sample(2)
@pytest.mark.fault("Database", "a row is lost on its way into the server, in a restore")
@pytest.mark.parametrize("how", ["beside", "--replace"])
def test_a_row_that_did_not_arrive_is_noticed_before_anything_is_committed(own_database: Site, how: str) -> None:
    site = own_database
    sql(site.server, *CHANGES)
    site.fake("psql", IN_THE_MIDDLE.replace(SLOW, WITHOUT_A_ROW))
    words = ["latest", "--no-safety-set", *(REPLACE if how == "--replace" else [])]
    said = fails(site, *words)
    assert "1 tables have not the rows of the dump, the first is public.patients), expected every statement" in said
    assert "the live database is as it was" in said
    assert beside(site) == []
    site.mend()
    recovers(site)


REPLACE = ("--replace", "--as-superuser")  # the practice has objects of others


@contextlib.contextmanager
def in_the_middle(
    site: Site, road: str, journal: Journal, *wanted: str
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Restore in place while the block lasts, and yield the process and that of the replay's session.

    The session waits, in its transaction, for what its psql is not given until the file ``HELD`` is removed.
    """
    site.fake("psql", IN_THE_MIDDLE)
    (site.place / HELD).touch()
    (site.place / GIVEN).parent.mkdir()
    (site.place / GIVEN).parent.chmod(0o1777)  # the client is another user's
    database = site.server.database if road == "--replace" else f"{site.server.database}_restoring_%"
    waiting = f"""select pid from pg_stat_activity where datname like '{database}' and pid <> pg_backend_pid()
        and xact_start is not null and wait_event = 'ClientRead'"""  # noqa: S608 - ours
    words = [*(wanted or ("latest", "--no-safety-set")), *(REPLACE if road == "--replace" else [])]
    with site.running("restore", "db", *words, "--in-place", "--yes", wrapper=journal.wrapper) as process:
        wait_until((site.place / GIVEN).exists)  # no other session of the restore is at the server by then
        backend = awaited(lambda: sql(postgres.in_database(site.server, "postgres"), waiting)).split()[0]
        yield process, int(backend)
    site.mend()


@contextlib.contextmanager
def small_site(site: Site, directory: Path) -> Iterator[Site]:
    """The site with a server of its own and a small database there, which the site's set is to replace."""
    with private_cluster.cluster(directory, database="small") as server:
        sql(server, "create table mine as select 1 as n")
        system = sql(server, "select system_identifier from pg_control_system()")
        source = {"system_identifier": system, "database": "small"}
        for taken in site.sets():  # as if of that database: else it would have to be named
            change_manifest(site, taken, lambda manifest: manifest["streams"]["db"]["source"].update(source))
        site.server = server
        site.configure({"native.host": server.host, "native.database": "small"})
        yield site


def pg_ctl(server: OnHost, *words: str) -> None:
    done = as_cluster_user(server, "pg_ctl", "--wait", f"--pgdata={server.host}/data", *words)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.sample(2)
@pytest.mark.fault("Database", "in the middle of a restore, the server is stopped cleanly")
@pytest.mark.parametrize("road", ["beside", "--replace"])
def test_a_server_that_is_stopped_in_a_restore_comes_back_with_the_live_database_as_it_was(
    site: Site, road: str
) -> None:
    with small_site(site, site.place / "pg"), listening(site) as journal:
        before = dump(site.server)
        with in_the_middle(site, road, journal) as (process, _):
            pg_ctl(site.server, "stop", "--mode=fast")
            (site.place / HELD).unlink()
            out, err = process.communicate(timeout=180)
        told = out.partition("\n")[2]  # behind the line that says which set it is
        assert (process.returncode, told) == (1, "live_has_more=1 rows of public.mine\n"), err
        assert "the live database could not be looked at afterwards (db: the server does not answer" in err
        options = f"-k {site.server.host} -c listen_addresses="
        pg_ctl(site.server, "start", f"--options={options}", f"--log={site.server.host}/log")
        try:
            assert dump(site.server) == before
            left = beside(site)
            assert bool(left) == (road == "beside")
            told = journal.close()
            faults.saw(status=process.returncode, cause=cause(told), store=AS_IT_WAS, events=events(told))
            recovers(site)
        finally:
            pg_ctl(site.server, "stop", "--mode=immediate")


@pytest.mark.sample(2)
@pytest.mark.fault("Database", "in the middle of a restore, something else fills the server's disk")
@pytest.mark.parametrize("road", ["beside", "--replace"])
def test_a_disk_of_the_server_that_fills_up_in_a_restore_leaves_the_live_database_as_it_was(
    site: Site, road: str
) -> None:
    image = filesystems.made("ext4", site.place / "image", 200 << 20)
    disk = site.place / "disk"
    with filesystems.mounted("ext4", image, disk), small_site(site, site.place / "pg"), listening(site) as journal:
        shutil.chown(disk, site.server.run_as or "postgres")
        elsewhere = postgres.in_database(site.server, "postgres")
        sql(elsewhere, f"create tablespace tight location '{disk}'", "alter database small set tablespace tight")
        before = dump(site.server)
        with in_the_middle(site, road, journal) as (process, _):
            fill(disk / "something else")
            (site.place / HELD).unlink()
            out, err = process.communicate(timeout=180)
        told = out.partition("\n")[2]  # behind the line that says which set it is
        assert (process.returncode, told) == (1, "live_has_more=1 rows of public.mine\n"), err
        assert "(SQLSTATE 53100, at " in err
        assert ", the server's disk is full), expected every statement to succeed" in err
        assert "the live database is as it was" in err
        assert "hint: df -h" in err
        assert dump(site.server) == before
        assert beside(site) == []
        told = journal.close()
        faults.saw(status=process.returncode, cause=cause(told), store=AS_IT_WAS, events=events(told))
        (disk / "something else").unlink()
        recovers(site)


def fill(file: Path) -> None:
    """Write a file that takes all the room there is."""
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(4096))


@pytest.mark.sample(2)
@pytest.mark.fault("Content", "a set to be restored is damaged")
@pytest.mark.parametrize("how", ["cut", "flipped", "of another set"])
def test_a_damaged_set_is_refused_before_anything_is_touched(own_database: Site, how: str) -> None:
    site = own_database
    first = site.sets()[0]
    sql(site.server, *CHANGES)
    second = site.takes("db")
    file, other = (site.store / f"db/db_{name}.sql.gz" for name in (first, second))
    content = file.read_bytes()
    match how:
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "flipped":
            file.write_bytes(content[:9999] + bytes([content[9999] ^ 1]) + content[10000:])
        case _:
            file.write_bytes(other.read_bytes())
    said = fails(site, first)
    assert "the checksum differs from the manifest's" in said
    assert beside(site) == []
    assert site.sets() == [first, second]
    file.write_bytes(content)
    recovers(site)


@pytest.mark.fault("Database", "the server's disk has no room for a second database")
def test_a_full_disk_of_the_server_is_measured_and_nothing_is_made(site: Site) -> None:
    attachments = on_disk(site.attachments)
    with mounted_tmpfs(site.place / "disk", 160 << 20):
        (site.place / "disk").chmod(0o755)
        with small_site(site, site.place / "disk/pg"):
            status = os.statvfs(site.place / "disk")
            (site.place / "disk/fill").write_bytes(bytes(status.f_bavail * status.f_frsize - (3 << 20)))
            said = fails(site, "latest", status=4)
            assert "free on the server's disk, as df says of its data directory, expected" in said
            assert f"hint: dental-pms-backup restore db {site.sets()[0]} --in-place --replace" in said
            assert beside(site) == []
            (site.place / "disk/fill").unlink()
            recovers(site)
    assert on_disk(site.attachments) == attachments
