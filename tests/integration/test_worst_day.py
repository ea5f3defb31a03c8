"""Everything in one command, on a server that has nothing: both streams, and each row has its file."""

import os
import shutil

import pytest

from dental_pms_backup.live import postgres
from dental_pms_backup.store.named_files import MISSING
from tests import faults
from tests.integration.conftest import databases_like
from tests.integration.drills import change_manifest
from tests.integration.faults import cause, events, filtered, listening
from tests.integration.support import (
    Disk,
    Site,
    at_a_terminal,
    dump,
    mounted_tmpfs,
    of_another_server,
    on_disk,
    session,
    sql,
    wait_until,
)

TABLE = "create table attachments (id int, storage_key text not null, byte_size bigint)"


@pytest.fixture
def practice(own_database: Site) -> Site:
    """A site whose database has a row for each file of its attachments, and a set of both."""
    site = own_database
    site.configure({"application.table": None})  # as by default
    sql(site.server, TABLE)
    below = site.attachments / "attachments/p/zähne"
    below.mkdir(parents=True)
    (site.attachments / ".dental-pms-nothing").write_text("moved by no look at what is live")
    for number in range(5):
        (below / f"{number} a\tb.jpg").write_bytes(b"x" * number)
        key = f"p/zähne/{number} a\tb.jpg"
        sql(site.server, f"insert into attachments values ({number}, '{key}', {number})")  # noqa: S608 - ours
    site.takes()
    return site


def empty(site: Site) -> None:
    name = site.server.database
    server = postgres.in_database(site.server, "postgres")
    sql(server, f'drop database "{name}" with (force)')
    sql(server, f'create database "{name}"')
    shutil.rmtree(site.attachments)
    site.attachments.mkdir()


@pytest.mark.each_release
def test_an_empty_server_gets_both_streams_and_each_row_its_file(practice: Site) -> None:
    before = (dump(practice.server), on_disk(practice.attachments))
    sql(practice.server, "insert into attachments values (9, 'only in a set of the database alone', 1)")
    practice.takes("db")
    for taken in practice.sets():  # as if of the server that burned
        change_manifest(practice, taken, of_another_server)
    empty(practice)
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "restore_safety_set=none, the live database was empty\n" in done.stdout
    steps = done.stdout.partition("\nattachment_rows_with_files=5\nrestore_all_status=ok\n")[2].splitlines()
    assert [line.partition("   # ")[0] for line in steps] == [
        "next=dental-pms-backup run",
        "next=systemctl enable --now dental-pms-backup.timer dental-pms-backup-drill.timer",
        "next=dental-pms-backup config show",
    ]
    assert (dump(practice.server), on_disk(practice.attachments)) == before
    practice.takes()  # and the new server is no stranger


@pytest.mark.thorough
def test_rows_without_their_file_are_counted_and_not_named(practice: Site) -> None:
    sql(practice.server, "insert into attachments values (8, 'p/canary-name', 3), (9, '../../up', 1)")
    sql(practice.server, "update attachments set byte_size = 77 where id = 3")
    name = practice.takes()
    done = practice.run("restore", "all", name, "--in-place", "--yes")
    lack = "attachments: of 7 rows 2 have no file and 1 one of another size"
    assert (done.returncode, done.stderr.count(f"{lack}, as when the set was taken\n")) == (0, 1), done.stderr
    assert "\nattachment_rows_with_files=7\nrestore_all_status=ok\nnext=" in done.stdout
    change_manifest(practice, name, lambda manifest: manifest["streams"]["attachments"].update({MISSING: 1}))
    more = practice.run("restore", "all", name, "--in-place", "--yes")
    assert (more.returncode, "restore_all_status" in more.stdout) == (1, False)
    assert f"{lack}, expected no more than the 1 and 1 when the set was taken; both streams are restored" in more.stderr
    assert "canary-name" not in done.stderr + more.stderr


def test_rows_and_files_are_those_of_the_table_that_the_configuration_names(practice: Site) -> None:
    sql(
        practice.server,
        "alter table attachments rename to pictures",
        'alter table pictures rename storage_key to "the key"',
        'alter table pictures alter "the key" drop not null',
        "insert into pictures values (8, null, 3), (9, null, null)",  # which have no file
    )
    sql(practice.server, "alter table pictures rename byte_size to bytes")
    sql(practice.server, """update pictures set "the key" = 'attachments/' || "the key";""")
    names = {"table": "pictures", "key_column": "the key", "size_column": "bytes", "directory": "."}
    practice.configure({f"application.{key}": value for key, value in names.items()})
    practice.takes()
    assert practice.run("drill").stdout.endswith("drill_status=proven\n")
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert "\nattachment_rows_with_files=5\nrestore_all_status=ok\n" in done.stdout, done.stderr
    practice.configure({"application.size_column": "byte_size"})
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert (done.returncode, "restore_all_status" in done.stdout) == (1, False)
    assert "application.table: pictures is no table with the columns the key and byte_size, so " in done.stderr


HIDDEN = "select storage_key, byte_size from attachments where not deleted"
ONE_RULE = {
    "a query": "alter table attachments add deleted bool default false;"
    " insert into attachments values (8, 'p/gone.jpg', 5, true), (9, 'p/zähne/3 a\tb.jpg', null, false)",
    "a generated key": "alter table attachments add name text; update attachments set name = storage_key;"
    " alter table attachments drop storage_key;"
    " alter table attachments add storage_key text generated always as (name) stored;"
    " insert into attachments values (8, 5, null), (9, null, E'p/zähne/3 a\tb.jpg')",
    "a view": "alter table attachments rename to uploads; insert into uploads values (9, 'p/zähne/3 a\tb.jpg', null);"
    " create view attachments as select * from uploads",
    "a key with spaces": "alter table attachments alter storage_key type char(60);"
    " insert into attachments values (9, 'p/zähne/3 a\tb.jpg', null)",
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("what", ONE_RULE)
def test_a_drill_and_a_restore_of_both_read_the_rows_by_one_rule(practice: Site, what: str) -> None:
    sql(practice.server, *ONE_RULE[what].split(";"))
    for table in ("attachments", "uploads"):
        sql(practice.server, f"alter table if exists {table} owner to dental_app")
    practice.configure({"application.query": HIDDEN if what == "a query" else None})
    name = practice.takes()
    drilled = practice.run("drill", name)
    assert ("rows_with_files=6\n" in drilled.stdout, drilled.returncode) == (True, 0), drilled.stdout + drilled.stderr
    assert "have no file" not in practice.run("show", name).stdout
    done = practice.run("restore", "all", name, "--in-place", "--yes")
    assert "\nattachment_rows_with_files=6\nrestore_all_status=ok\nnext=" in done.stdout, done.stderr


@pytest.mark.thorough
def test_a_file_behind_a_link_that_leads_out_of_the_attachments_is_no_row_s_file(practice: Site) -> None:
    outside = practice.place / "outside"
    outside.mkdir()
    (outside / "file").write_text("out")
    (practice.attachments / "attachments/q").symlink_to(outside)
    (practice.attachments / "attachments/inside").symlink_to("p")
    sql(practice.server, "insert into attachments values (8, 'q/file', 3), (9, 'inside/zähne/3 a\tb.jpg', 3)")
    practice.takes()
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert done.returncode == 0
    assert "of 7 rows 1 have no file and 0 one of another size, as when the set was taken\n" in done.stderr


def test_nothing_is_touched_where_the_archive_is_not_sound(practice: Site) -> None:
    before = (dump(practice.server), on_disk(practice.attachments))
    sets = practice.sets()
    file = practice.store / f"attachments_{sets[-1]}.tgz"
    file.write_bytes(file.read_bytes()[:-10])
    done = practice.run("restore", "all", sets[-1], "--in-place", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert (dump(practice.server), on_disk(practice.attachments)) == before
    assert practice.sets() == sets


@pytest.mark.thorough
def test_nothing_is_touched_where_the_files_would_find_no_room_unpacked(practice: Site) -> None:
    (practice.attachments / "zeros").write_bytes(bytes(3 << 20))
    practice.takes()
    before = (dump(practice.server), practice.sets())
    small = practice.place / "small"
    with mounted_tmpfs(small, 2 << 20):
        (small / "attachments").mkdir()
        practice.configure({"attachments.path": str(small / "attachments")})
        done = practice.run("restore", "all", "latest", "--in-place", "--yes")
        assert (done.returncode, done.stdout) == (4, "")
        assert f"free in {small}, expected over 3.5 MB for a second copy; nothing was touched" in done.stderr
        assert (list(small.iterdir()), list((small / "attachments").iterdir())) == ([small / "attachments"], [])
    assert (dump(practice.server), practice.sets()) == before


AS_IT_WAS = "; the live database is as it was, and nothing is left of the new one"
WAITS_NO_TIME = """exec sed --unbuffered "s/lock_timeout = .*'/lock_timeout = '1ms'/\""""
# Waits before the commit, instead of which it then has what it is told.
REFUSES = """while IFS= read -r line || [ "$line" ]; do
  case $line in "commit;") : >{0}/reached; read -r line <{0}/go ;; esac
  printf '%s\\n' "$line"
done"""


def spoil(site: Site) -> tuple[list[str], Disk]:
    """Make both streams other than the set has them, and return what they are."""
    sql(site.server, "delete from attachments where id = 3", "create table later as select 1 as id")
    shutil.rmtree(site.attachments / "2026")
    (site.attachments / "later").mkdir()
    (site.attachments / "later/one").write_text("later")
    return dump(site.server), on_disk(site.attachments)


def live(site: Site) -> tuple[list[str], Disk]:
    """Return both streams; nothing else is beside them than they themselves."""
    assert databases_like(site.server, site.server.database) == [site.server.database]
    assert list(site.attachments.parent.glob("attachments.*")) == []
    return dump(site.server), on_disk(site.attachments)


def test_an_archive_that_needs_more_room_than_there_is_costs_no_stream_anything(practice: Site) -> None:
    site, small = practice, practice.place / "small/attachments"
    (site.attachments / "zeros").write_bytes(bytes(60_000_000))
    site.takes()
    with mounted_tmpfs(small.parent, 40_000_000):
        small.mkdir()
        (small / "mine").write_text("mine")
        site.configure({"attachments.path": str(small)})
        sql(site.server, "create table later as select 1 as id")
        before = (live(site), on_disk(small))
        done = site.run("restore", "all", "latest", "--in-place", "--yes")
        assert (done.returncode in {1, 4}, "restore_" in done.stdout) == (True, False), done.stderr
        assert (live(site), on_disk(small), list(small.parent.iterdir())) == (*before, [small])


def test_no_file_is_moved_before_the_wait_for_other_sessions_is_over(practice: Site) -> None:
    site, files = practice, practice.attachments
    before = spoil(site)
    renamed = [path.stat().st_ctime_ns for path in (files, *sorted(files.iterdir()))]
    filtered(site, WAITS_NO_TIME)
    with session(postgres.in_database(site.server, "postgres"), "lock table pg_database in access share mode;"):
        done = site.run("restore", "all", practice.sets()[-1], "--in-place", "--yes")
    assert (done.returncode, "restore_" in done.stdout) == (1, False), done.stderr
    assert "db: the switch failed: db: the server refuses (SQLSTATE 55P03)" in done.stderr
    assert f"{AS_IT_WAS}; the live attachments are as they were\n" in done.stderr
    assert [path.stat().st_ctime_ns for path in (files, *sorted(files.iterdir()))] == renamed
    assert live(site) == before


@pytest.mark.fault("Database", "a restore of both streams cannot put the database in live's place")
def test_where_the_database_cannot_be_switched_the_files_that_were_live_come_back(practice: Site) -> None:
    site, files, wanted = practice, practice.attachments, practice.sets()[-1]
    before = spoil(site)
    attributes = files.stat().st_mode, files.stat().st_uid
    moments = site.place / "moments"
    moments.mkdir()
    moments.chmod(0o777)
    os.mkfifo(moments / "go")
    go = os.open(moments / "go", os.O_RDWR)
    filtered(site, REFUSES.format(moments))
    words = ("restore", "all", wanted, "--in-place", "--yes")
    with listening(site) as journal, site.running(*words, wrapper=journal.wrapper) as process:
        wait_until((moments / "reached").exists)
        (files / "attachments/p/zähne/upload").write_text("acknowledged")
        (files / "2026/0001.jpg").write_text("acknowledged, too")
        (files / ".dental-pms-nothing").unlink()
        (files / "later").write_text("in the way")
        os.write(go, b"select 1/0;\n")
        out, err = process.communicate(timeout=120)
        told = journal.close()
    os.close(go)
    assert (process.returncode, "restore_" in out) == (1, False), err
    assert "db: the switch failed: db: the server refuses (SQLSTATE 22012)" in err
    (undone,) = site.place.glob("attachments.undone-*")
    where = f"what was restored, with what the application stored in it meanwhile, is in {undone}"
    assert f"; {where}{AS_IT_WAS}; the live attachments are as they were\n" in err
    assert (undone / "content/attachments/p/zähne/upload").read_text() == "acknowledged"
    assert (undone / "content/2026/0001.jpg").read_text() == "acknowledged, too"
    (newcomer,) = site.place.glob("attachments.came-during-restore-*")
    assert (newcomer / "later").read_text() == "in the way"
    for path in (undone, newcomer):
        shutil.rmtree(path)
    assert live(site) == before
    assert (files.stat().st_mode, files.stat().st_uid) == attributes
    faults.saw(status=1, cause=cause(told), store="both streams as they were", events=events(told))
    site.mend()
    assert site.run("restore", "all", wanted, "--in-place", "--yes").returncode == 0
    faults.recovered()


def test_all_questions_of_both_streams_come_before_anything_is_touched(practice: Site) -> None:
    site, name = practice, practice.sets()[-1]
    before = spoil(site)
    for answers, status in (("{}\nyes\n", 4), ("{}\nattachments\n", 0)):
        with at_a_terminal(site, "restore", "all", "latest", "--in-place") as (process, keyboard):
            os.write(keyboard, answers.format(site.server.database).encode())
            out, err = process.communicate(timeout=120)
        asked = [line for line in err.splitlines() if "to go on:" in line]
        assert [line.partition(" of ")[0] for line in asked] == [
            f"This replaces the live database {site.server.database} by set {name}",
            f"This replaces the live attachments in {site.attachments} by set {name}",
        ]
        assert "rows in" in asked[0]
        assert "files and directories" in asked[1]
        assert (process.returncode, "restore_all_status=ok" in out) == (status, status == 0), err
        if status:
            assert 'restore: the answer was not "attachments"; nothing was touched\n' in err
            assert live(site) == before


def test_a_dry_run_says_all_that_a_restore_would_and_touches_nothing(practice: Site) -> None:
    site, name = practice, practice.sets()[-1]
    before, store = spoil(site), on_disk(site.store)
    done = site.run("restore", "all", "latest", "--in-place", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [lines[0], lines[-1]] == [
        f"would restore db into the live database {site.server.database}",
        "nothing was done: dry run",
    ]
    assert f"would restore attachments into the live attachments in {site.attachments}" in lines
    assert sum(line.startswith(f"from set {name} of ") for line in lines) == 2
    assert sum(line.startswith("room: ") for line in lines) == 2
    assert {"live_has_more=1 rows of public.later", "live_has_more=1 files that the set has not"} <= set(lines)
    for words in (("db", name), ("db", name, "--in-place"), ("attachments", name, "--to", str(site.place / "new"))):
        done = site.run("restore", *words, "--dry-run")
        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout.endswith("\nnothing was done: dry run\n")
    assert (live(site), on_disk(site.store)) == (before, store)
    assert not (site.place / "new").exists()
    with (site.store / f"attachments_{name}.tgz").open("r+b") as file:
        file.truncate(100)
    done = site.run("restore", "all", name, "--in-place", "--dry-run")
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("words", [(), ("--in-place",), ("--to", "x", "--yes")])
def test_all_needs_a_word_for_it(practice: Site, words: tuple[str, ...]) -> None:
    done = practice.run("restore", "all", "latest", *words)
    assert (done.returncode, done.stdout) == (4, "")
    assert "hint: CONFIRM=YES dental-pms-backup restore all latest --in-place" in done.stderr
