"""A restore in place brings all of it or nothing, and asks before it does."""

import gzip
import io
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import databases_like
from tests.integration.support import (
    CANARIES,
    Ran,
    Site,
    as_cluster_user,
    clients_of,
    dump,
    dumps_running,
    mounted_tmpfs,
    on_disk,
    session,
    signalled,
    sql,
    wait_until,
)

CHANGES = ("delete from lines", "create table later (id int)", 'create schema "later"', "drop view reports.balances")
UNLESS_IN_REPLAY = 'if ! grep -q "&& cat -- " /proc/$PPID/cmdline; then exec "$real" "$@"; fi; '
REPLACE: tuple[str, ...] = ("--replace", "--as-superuser")  # the practice has objects of others
LINE_AT_END = b"ALTER TABLE ONLY public.images\n    ADD CONSTRAINT"


def restores(site: Site, stream: str, what: str | Path, **variables: str) -> Ran:
    done = site.run("restore", stream, str(what), "--in-place", CONFIRM="YES", **variables)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["restore_status=ok"]), done.stderr
    assert done.stderr == ""
    assert "restore_kept=" in done.stdout
    return done


NOBODY = 65534


def refuses(site: Site, stream: str, what: str | Path, *words: str, status: int = 1, **variables: str) -> str:
    """Restore, expecting that it fails and leaves database, attachments and what stands beside them as they were."""
    beside = sorted(site.place.glob("attachments*"))
    before = (dump(site.server), databases_beside(site), on_disk(site.attachments))
    done = site.run("restore", stream, str(what), "--in-place", *words, CONFIRM="YES", **variables)
    assert done.returncode == status, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith(("restoring=", "live_has_more="))] == []
    assert (dump(site.server), databases_beside(site), on_disk(site.attachments)) == before
    assert sorted(site.place.glob("attachments*")) == beside
    assert "Traceback" not in done.stderr
    for canary in CANARIES:
        assert canary not in done.stderr
    return done.stderr


def databases_beside(site: Site) -> list[str]:
    """Return the databases beside the live one that a restore may have made."""
    return databases_like(site.server, f"{site.server.database}_")


def of_set(site: Site) -> Path:
    (file,) = site.store.glob("db/db_*.sql.gz")
    return file


def a_set(site: Site) -> str:
    return site.sets()[0]


def its_file(site: Site) -> Path:
    return of_set(site)


def a_plain_file(site: Site) -> Path:
    file = site.place / "plain.sql"
    file.write_bytes(gzip.decompress(of_set(site).read_bytes()))
    return file


def a_dump_of_the_seed(site: Site) -> Path:
    file = site.place / "db_2026-02-03_023000.sql.gz"
    file.write_bytes(gzip.compress(as_cluster_user(site.server, "pg_dump").stdout.encode()))
    return file


def the_latest(_site: Site) -> str:
    return "latest"


@pytest.mark.sample(3)
@pytest.mark.each_release
@pytest.mark.parametrize("source", [a_set, its_file, a_plain_file, a_dump_of_the_seed, the_latest])
def test_a_database_is_again_what_it_was(own_database: Site, source: Callable[[Site], str | Path]) -> None:
    site = own_database
    before = dump(site.server)
    wanted = source(site)
    sql(site.server, *CHANGES)
    assert dump(site.server) != before
    done = restores(site, "db", wanted)
    heir = f"{site.server.database}_owner"  # of what is the superuser's in a file from elsewhere
    assert [line.replace(heir, "postgres") for line in dump(site.server)] == before
    assert f"restore_type=db\nrestore_file={site.store.resolve()}" in done.stdout or source in {
        a_plain_file,
        a_dump_of_the_seed,
    }
    assert f"\nrestore_target={site.server.database}\n" in done.stdout


@pytest.mark.thorough
def test_yes_does_what_confirm_does(own_database: Site) -> None:
    before = dump(own_database.server)
    sql(own_database.server, *CHANGES)
    assert own_database.run("restore", "db", "latest", "--in-place", "--yes").returncode == 0
    assert dump(own_database.server) == before


def test_a_role_of_the_application_can_read_after_a_restore_what_it_could_before(own_database: Site) -> None:
    as_application = ("set role dental_app", "select count(*) from public.patients")
    assert sql(own_database.server, *as_application) == "3001"
    restores(own_database, "db", "latest")
    assert sql(own_database.server, *as_application) == "3001"


@pytest.mark.parametrize(
    ("stream", "words", "confirm"),
    [
        ("attachments", (), "YES"),
        *((stream, ("--in-place",), confirm) for stream in ("db", "attachments") for confirm in ("", "yes")),
    ],
)
def test_nothing_is_replaced_without_a_word_for_it(
    site: Site, stream: str, words: tuple[str, ...], confirm: str
) -> None:
    before = on_disk(site.attachments)
    done = site.run("restore", stream, "latest", *words, CONFIRM=confirm)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"hint: CONFIRM=YES dental-pms-backup restore {stream} latest --in-place" in done.stderr
    assert on_disk(site.attachments) == before
    assert list(site.place.glob("attachments.*")) == []


def changed(site: Site, change: Callable[[bytes], bytes]) -> Path:
    """Make a dump of the first set's with a change in its SQL."""
    file = site.place / "changed.sql.gz"
    file.write_bytes(gzip.compress(change(gzip.decompress(of_set(site).read_bytes()))))
    return file


def test_a_dump_with_a_bad_row_near_its_end_leaves_the_database_as_it_was(own_database: Site) -> None:
    site = own_database
    bad = changed(site, lambda text: text.replace(b"\nCOPY public.teeth (", b"\nCOPY public.teeth (no_such_column, "))
    sql(site.server, *CHANGES)
    said = refuses(site, "db", bad)
    assert "the replay failed (SQLSTATE 42703, at rows of public.teeth)" in said
    assert "the live database is as it was" in said


def test_a_dump_whose_last_constraint_fails_leaves_the_database_as_it_was(own_database: Site) -> None:
    bad = changed(own_database, lambda text: text.replace(LINE_AT_END, LINE_AT_END[:-10] + b"ADD NONSENSE"))
    sql(own_database.server, *CHANGES)
    refuses(own_database, "db", bad)


def test_a_row_that_a_constraint_refuses_is_not_told(own_database: Site) -> None:
    site = own_database
    row = b"-1\tRow\tcanary-patient-4711"
    bad = changed(site, lambda text: text.replace(row, b"notanumber\tRow\tcanary-patient-4711"))
    assert "SQLSTATE 22P02, at rows of public.patients" in refuses(site, "db", bad)


@pytest.mark.parametrize("ending", ["cut.sql.gz", "cut.sql", "cut-but-packed.sql.gz"])
def test_a_cut_dump_is_refused_before_anything_is_touched(own_database: Site, ending: str) -> None:
    site = own_database
    file = site.place / ending
    packed = of_set(site).read_bytes()
    text = gzip.decompress(packed)
    half = text[: text.index(b"canary-patient-4711")]
    file.write_bytes({"cut.sql.gz": packed[: len(packed) // 2], "cut.sql": half}.get(ending, gzip.compress(half)))
    said = refuses(site, "db", file)
    assert "expected a whole dump" in said or "expected a file that is readable to its end" in said


def test_an_unpacker_that_dies_in_the_replay_commits_nothing(own_database: Site) -> None:
    site = own_database
    cut = f'{UNLESS_IN_REPLAY}"$real" "$@" | head -c 100000'
    sql(site.server, *CHANGES)
    for ending in ("exit 1", "exit 0", "kill -KILL $$"):
        path = site.fake_on_path("igzip", f"{cut}; {ending}")
        for how in ((), REPLACE):
            said = refuses(site, "db", "latest", *how, "--no-safety-set", PATH=path)
            assert "the live database is as it was" in said


@pytest.mark.thorough
def test_an_unpacker_that_dies_between_two_rows_commits_nothing(own_database: Site) -> None:
    site = own_database
    until = "/canary-patient-4711/q"
    path = site.fake_on_path("igzip", f'{UNLESS_IN_REPLAY}"$real" "$@" | sed "{until}"; exit 0')
    sql(site.server, *CHANGES)
    refuses(site, "db", "latest", "--no-safety-set", PATH=path)
    refuses(site, "db", "latest", "--no-safety-set", *REPLACE, PATH=path)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "statement",
    ["select count(*) from patients;", "insert into lines values ('uncommitted');", "create table half (n int);"],
)
def test_an_open_transaction_of_the_application_fails_a_replay_in_the_live_database_and_keeps_it(
    own_database: Site, statement: str
) -> None:
    site = own_database
    with session(site.server, statement):
        said = refuses(site, "db", "latest", *REPLACE, "--no-safety-set")
    assert "SQLSTATE 55P03, a session of the application holds a table" in said


def test_a_signal_in_the_replay_keeps_the_database_and_ends_psql(own_database: Site) -> None:
    site = own_database
    site.configure({"database.lock_wait_s": 300})
    before = dump(site.server)
    variables = {"CONFIRM": "YES"}
    with session(site.server, "select count(*) from patients;"):
        with site.running("restore", "db", "latest", "--in-place", *REPLACE, **variables) as process:
            wait_until(lambda: waiting(site) == 1)
            status, out, _ = signalled(process, signal.SIGTERM, within_s=30)
        assert (status, "status=" in out) == (1, False)
        wait_until(lambda: clients_of(site.server) == [])
    wait_until(lambda: dumps_running(site.server) == 0)
    assert dump(site.server) == before


def waiting(site: Site) -> int:
    """Return how many sessions wait for a lock in the live database."""
    return int(sql(site.server, "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"))


LETTERS = (
    "create table letters (id int primary key, content oid)",
    "insert into letters select n, lo_from_bytea(0, '\\x00ff') from generate_series(1, 10) n",
)


@pytest.mark.each_release
def test_large_objects_are_replaced(own_database: Site) -> None:
    site = own_database
    sql(site.server, *LETTERS)
    before = dump(site.server)
    name = site.takes("db")
    sql(site.server, *CHANGES, "select lo_put(content, 0, 'changed') from letters", "select lo_create(0)")
    restores(site, "db", name)
    assert dump(site.server) == before


@pytest.mark.thorough
def test_a_dump_with_large_objects_whose_last_constraint_fails_leaves_the_database_as_it_was(
    own_database: Site,
) -> None:
    site = own_database
    sql(site.server, *LETTERS)
    name = site.takes("db")
    text = gzip.decompress((site.store / f"db/db_{name}.sql.gz").read_bytes())
    bad = site.place / "bad.sql.gz"
    bad.write_bytes(gzip.compress(text.replace(LINE_AT_END, LINE_AT_END[:-10] + b"ADD NONSENSE")))
    sql(site.server, *CHANGES, "select lo_put(content, 0, 'changed') from letters")
    refuses(site, "db", bad)


@pytest.mark.thorough
def test_a_dump_that_commits_by_itself_leaves_the_database_as_it_was_when_it_fails(own_database: Site) -> None:
    site = own_database
    bad = changed(site, lambda text: text.replace(LINE_AT_END, b"COMMIT;\nSELECT 1/0;\n" + LINE_AT_END))
    sql(site.server, *CHANGES)
    refuses(site, "db", bad)


def test_a_file_that_is_no_dump_is_refused(own_database: Site) -> None:
    site = own_database
    for name, status in (("notes.txt", 2), ("empty.sql", 1), ("missing.sql", 2), ("attachments.tgz", 2)):
        if name != "missing.sql":
            (site.place / name).write_text("")
        refuses(site, "db", site.place / name, status=status)


def test_attachments_of_a_set_replace_the_live_ones_which_are_kept(site: Site) -> None:
    before = on_disk(site.attachments)
    site.takes("attachments")
    inode = site.attachments.stat().st_ino
    shutil.rmtree(site.attachments / "2026")
    (site.attachments / "new").write_text("new")
    (site.attachments / ".hidden").write_text("hidden")
    spoilt = on_disk(site.attachments)
    done = restores(site, "attachments", "latest")
    kept = Path(done.stdout.split("restore_kept=")[1].splitlines()[0])
    assert on_disk(site.attachments) == before
    assert on_disk(kept) == spoilt
    assert kept.parent == site.attachments.parent
    assert site.attachments.stat().st_ino == inode  # containers have it mounted
    assert [path for path in site.place.glob("attachments*") if path not in {site.attachments, kept}] == []


def test_the_mode_and_the_owner_of_the_live_directory_are_those_of_the_archive(site: Site) -> None:
    os.chown(site.attachments, 12345, 54321)
    site.attachments.chmod(0o2750)
    site.takes("attachments")
    os.chown(site.attachments, 0, 0)
    site.attachments.chmod(0o700)
    restores(site, "attachments", "latest")
    status = site.attachments.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12345, 54321, 0o2750)


@pytest.mark.parametrize("member", [".", "2026"])
def test_an_archive_of_the_seed_is_taken(site: Site, member: str) -> None:
    before = on_disk(site.attachments)
    file = site.place / "attachments_2026-02-03_023000.tgz"
    subprocess.run(["tar", "-czf", file, "-C", site.attachments, member], check=True)
    shutil.rmtree(site.attachments / "2026")
    restores(site, "attachments", file)
    assert {name: (mode, content) for name, (mode, _, _, content) in on_disk(site.attachments).items()} == {
        name: (mode, content) for name, (mode, _, _, content) in before.items()
    }


def hostile(file: Path, *members: tuple[str, str, str]) -> None:
    """Make an archive of (type, name, link target or content)."""
    with tarfile.open(file, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for kind, name, more in members:
            entry = tarfile.TarInfo(name)
            entry.mode = 0o644
            if kind == "file":
                entry.size = len(more)
                archive.addfile(entry, io.BytesIO(more.encode()))
            elif kind == "device":
                entry.type, entry.devmajor, entry.devminor = tarfile.BLKTYPE, 8, 0
                archive.addfile(entry)
            else:
                entry.type = tarfile.SYMTYPE if kind == "symlink" else tarfile.LNKTYPE
                entry.linkname = more
                archive.addfile(entry)


LISTED = {"parent", "absolute", "deep", "hard-link", "hard-link-up", "device", "odd-name"}


def test_a_hostile_archive_writes_nothing_outside(site: Site) -> None:
    outside = site.place / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    before = on_disk(outside)
    archives = {
        "parent": [("file", "../outside/kept", "overwritten"), ("file", "./good", "good")],
        "absolute": [("file", f"{outside}/kept", "overwritten"), ("file", "./good", "good")],
        "deep": [("file", "./a/../../../outside/kept", "overwritten"), ("file", "./good", "good")],
        "symlink": [("symlink", "./out", str(outside)), ("file", "./out/kept", "overwritten")],
        "relative-symlink": [("symlink", "./out", "../outside"), ("file", "./out/kept", "overwritten")],
        "file-through-symlink": [("symlink", "./out", f"{outside}/kept"), ("file", "./out", "overwritten")],
        "hard-link": [("link", "./out", f"{outside}/kept"), ("file", "./out", "overwritten")],
        "hard-link-up": [("link", "./out", "../outside/kept"), ("file", "./out", "overwritten")],
        "link-to-symlink": [
            ("symlink", "./a", str(outside)),
            ("link", "./b", "./a"),
            ("file", "./b/kept", "overwritten"),
        ],
        "device": [("file", "./good", "good"), ("device", "./disk", "")],
        "odd-name": [("file", "./a link to b -> c", "good"), ("device", "./d -> e", "")],
    }
    for name, members in archives.items():
        file = site.place / f"{name}.tgz"
        hostile(file, *members)
        live = on_disk(site.attachments)
        done = site.run("restore", "attachments", str(file), "--in-place", "--yes")
        assert on_disk(outside) == before, name
        assert done.returncode in {1, 4}, done.stderr
        assert done.returncode == (4 if name in LISTED else 1), (name, done.stderr)
        assert on_disk(site.attachments) == live
        assert list(site.place.glob("attachments.*")) == []
        assert "kept" not in done.stderr
        assert site.run("restore", "attachments", str(file), "--to", str(site.place / "to")).returncode in {1, 4}
        assert (on_disk(outside), (site.place / "to").exists()) == (before, False), name


def test_a_cut_archive_leaves_the_attachments_as_they_were(site: Site) -> None:
    file = site.place / "cut.tgz"
    (whole,) = site.store.glob("attachments_*.tgz")
    file.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refuses(site, "attachments", file)


def test_a_disk_that_gets_full_while_unpacking_leaves_the_attachments_as_they_were(site: Site) -> None:
    disk = site.place / "disk"
    filled = f'case "$*" in *--extract*) cat /dev/zero >{disk}/full 2>&1 ;; esac; exec "$real" "$@"'
    with mounted_tmpfs(disk, 2 << 20):
        shutil.copytree(site.attachments, disk / "attachments")
        before = on_disk(disk)
        site.configure({"attachments.path": str(disk / "attachments")})
        path = site.fake_on_path("tar", filled)
        done = site.run("restore", "attachments", "latest", "--in-place", "--yes", PATH=path)
        (disk / "full").unlink()
        assert (done.returncode, on_disk(disk)) == (1, before)
        assert "the live directory is as it was" in done.stderr


def test_attachments_on_a_disk_of_their_own_are_refused_with_the_commands_that_do_it(site: Site) -> None:
    owned = ["chown", "--recursive", f"{NOBODY}:{NOBODY}", str(site.attachments)]
    subprocess.run(owned, check=True)
    before = on_disk(site.attachments)
    name = site.takes("attachments")
    shutil.rmtree(site.attachments)
    to = site.place / "to"
    with mounted_tmpfs(site.attachments, 1 << 20):
        subprocess.run(owned, check=True)
        (site.attachments / "kept").write_text("kept")
        said = refuses(site, "attachments", name, status=4).partition("hint: ")[2]
        restore, _, then = said.strip().replace("DIR", str(to)).partition("   # ")
        done = site.run(*shlex.split(restore)[1:])
        assert (done.returncode, done.stderr) == (0, "")
        (site.attachments / "kept").unlink()
        command = then.partition(", and start it: ")[2]
        assert f"| setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups tar " in command
        mode = site.place.stat().st_mode
        site.place.chmod(0o700)  # as the directory of docker's volumes, which the application's user cannot pass
        subprocess.run(["sh", "-c", command], check=True)
        site.place.chmod(mode)
        assert on_disk(site.attachments) == before


def test_a_restore_waits_for_no_run_and_is_refused_while_one_holds_the_store(site: Site) -> None:
    site.configure({"database.lock_wait_s": 300})
    with session(site.server, "lock table patients in access exclusive mode;"), site.running("run") as process:
        wait_until(lambda: dumps_running(site.server) == 2)
        done = site.run("restore", "attachments", "latest", "--in-place", "--yes")
        process.kill()
    assert (done.returncode, done.stdout) == (75, "")


def test_a_restore_is_in_the_ledger(site: Site) -> None:
    restores(site, "attachments", "latest")
    assert '"what": "restore", "stream": "attachments", "result": "ok"' in (site.store / "ledger.jsonl").read_text()
