"""Everything in one command, on a server that has nothing: both streams, and each row has its file."""

import shutil

import pytest

from dental_pms_backup.live import postgres
from tests.integration.support import Site, dump, on_disk, sql

TABLE = "create table attachments (id int, storage_key text not null, byte_size bigint)"


@pytest.fixture
def practice(own_database: Site) -> Site:
    """A site whose database has a row for each file of its attachments, and a set of both."""
    site = own_database
    site.configure({"application.table": None})  # as by default
    sql(site.server, TABLE)
    below = site.attachments / "attachments/p/zähne"
    below.mkdir(parents=True)
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
    empty(practice)
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "restore_safety_set=none, the live database was empty\n" in done.stdout
    assert done.stdout.endswith("\nattachment_rows_with_files=5\nrestore_all_status=ok\n")
    assert (dump(practice.server), on_disk(practice.attachments)) == before


def test_rows_without_their_file_are_counted_and_not_named(practice: Site) -> None:
    sql(practice.server, "insert into attachments values (8, 'p/canary-name', 3), (9, '../../up', 1)")
    sql(practice.server, "update attachments set byte_size = 77 where id = 3")
    practice.takes()
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert done.returncode == 1
    assert "of 7 rows 2 have no file and 1 one of another size, expected none; both streams are restored" in done.stderr
    assert "canary-name" not in done.stderr
    assert "restore_all_status" not in done.stdout


def test_rows_and_files_are_those_of_the_table_that_the_configuration_names(practice: Site) -> None:
    sql(
        practice.server,
        "alter table attachments rename to pictures",
        'alter table pictures rename storage_key to "the key"',
    )
    sql(practice.server, "alter table pictures rename byte_size to bytes")
    sql(practice.server, """update pictures set "the key" = 'attachments/' || "the key";""")
    names = {"table": "pictures", "key_column": "the key", "size_column": "bytes", "directory": "."}
    practice.configure({f"application.{key}": value for key, value in names.items()})
    practice.takes()
    assert practice.run("drill").stdout.endswith("drill_status=proven\n")
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert done.stdout.endswith("\nattachment_rows_with_files=5\nrestore_all_status=ok\n"), done.stderr
    practice.configure({"application.size_column": "byte_size"})
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert (done.returncode, "restore_all_status" in done.stdout) == (1, False)
    assert "application.table: pictures is no table with the columns the key and byte_size, so " in done.stderr


def test_a_file_behind_a_link_that_leads_out_of_the_attachments_is_no_row_s_file(practice: Site) -> None:
    outside = practice.place / "outside"
    outside.mkdir()
    (outside / "file").write_text("out")
    (practice.attachments / "attachments/q").symlink_to(outside)
    (practice.attachments / "attachments/inside").symlink_to("p")
    sql(practice.server, "insert into attachments values (8, 'q/file', 3), (9, 'inside/zähne/3 a\tb.jpg', 3)")
    practice.takes()
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert done.returncode == 1
    assert "of 7 rows 1 have no file and 0 one of another size, expected none" in done.stderr


def test_nothing_is_touched_where_the_archive_is_not_sound(practice: Site) -> None:
    before = (dump(practice.server), on_disk(practice.attachments))
    sets = practice.sets()
    file = practice.store / f"attachments_{sets[-1]}.tgz"
    file.write_bytes(file.read_bytes()[:-10])
    done = practice.run("restore", "all", "latest", "--in-place", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert (dump(practice.server), on_disk(practice.attachments)) == before
    assert practice.sets() == sets


@pytest.mark.parametrize("words", [(), ("--in-place",), ("--to", "x", "--yes")])
def test_all_needs_a_word_for_it(practice: Site, words: tuple[str, ...]) -> None:
    done = practice.run("restore", "all", "latest", *words)
    assert (done.returncode, done.stdout) == (4, "")
    assert "hint: CONFIRM=YES dental-pms-backup restore all latest --in-place" in done.stderr
