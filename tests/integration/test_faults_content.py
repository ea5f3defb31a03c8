"""A set that is whole but looks wrong is kept, marked suspect, and nothing is removed before the admin accepts it."""

import re
import shutil
from collections.abc import Callable

import pytest

from dental_pms_backup.live import postgres
from tests import faults
from tests.integration.faults import is_suspect, recovers
from tests.integration.support import Site, sql

EMPTY = (
    'drop schema public cascade; drop schema reports cascade; drop schema "Odd ""Name" cascade; create schema public'
)


def with_a_tenth_of_its_content(site: Site) -> None:
    sql(site.server, "delete from patients where id > 300", "truncate odd_text, images", "vacuum full")


def with_half_of_one_table_gone(site: Site) -> None:
    sql(site.server, "delete from ledger where id % 3 <> 0")


def without_one_table(site: Site) -> None:
    sql(site.server, "drop table teeth")


def with_another_database(site: Site) -> None:
    sql(site.server, *EMPTY.split("; "), "create table patients as select n from generate_series(1, 10) n")


@pytest.mark.sample(9)
@pytest.mark.fault("Content", "the database")
@pytest.mark.parametrize(
    ("loses", "says"),
    [
        (with_a_tenth_of_its_content, r"db: [^\n:]+ of the last good one's"),
        (with_half_of_one_table_gone, "public.ledger_"),
        (without_one_table, "public.teeth has 0 rows"),
        (with_another_database, r"db: [^\n:]+ of the last good one's"),
    ],
    ids=[
        "has a tenth of its content",
        "lost more than half of the rows of one table",
        "lost a table",
        "is another one, nearly empty",
    ],
)
def test_a_database_that_lost_much_makes_a_suspect_set(
    own_database: Site, loses: Callable[[Site], None], says: str
) -> None:
    loses(own_database)
    name, met = is_suspect(own_database)
    assert re.search(says, met.stderr), met.stderr
    assert f"hint: dental-pms-backup show {name}   # if it is right: dental-pms-backup accept {name}" in met.stderr
    removes_nothing_until_accepted(own_database, name)


def removes_nothing_until_accepted(site: Site, suspect: str) -> None:
    """Take more sets than are kept: all stay; then accept, and the next run succeeds and lets them go."""
    before = site.set_files()
    site.configure({"keep": 1})
    later, _ = is_suspect(site)
    assert {path: facts for path, facts in site.set_files().items() if later not in path} == before
    pruned = site.run("prune")
    assert (pruned.returncode, pruned.stdout) == (0, "retention_deleted=0\n")
    assert f"nothing is removed while set {later} is suspect" in site.run("prune", "--dry-run").stdout
    assert {path: facts for path, facts in site.set_files().items() if later not in path} == before
    for name in (suspect, later):
        assert site.run("accept", name).returncode == 0
    newest = site.takes()
    assert site.sets() == [newest]
    assert site.run("verify").returncode == 0
    faults.recovered("ok, after `accept`")


@pytest.mark.fault("Content", "the database has no tables")
def test_a_database_without_tables_makes_a_suspect_set(own_database: Site) -> None:
    sql(own_database.server, *EMPTY.split("; "))
    _, met = is_suspect(own_database)
    assert "db: the dump has no table, expected the practice's tables" in met.stderr
    name, elsewhere = own_database.server.database, postgres.in_database(own_database.server, "postgres")
    sql(elsewhere, f'drop database "{name}"')
    sql(elsewhere, f'create database "{name}" template practice')
    recovers(own_database)


@pytest.mark.fault("Content", "the attachments are emptied")
def test_emptied_attachments_make_a_suspect_set(site: Site) -> None:
    shutil.rmtree(site.attachments / "2026")
    name, met = is_suspect(site)
    assert "attachments: empty, expected files (23 entries last time)" in met.stderr
    removes_nothing_until_accepted(site, name)


@pytest.mark.fault("Content", "the attachments are emptied by mistake and come back")
def test_attachments_that_come_back_end_the_freeze_when_the_suspect_set_is_accepted_or_not(site: Site) -> None:
    aside = (site.attachments / "2026").rename(site.place / "aside")
    is_suspect(site)
    aside.rename(site.attachments / "2026")
    recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Content", "the attachments lose more than half of their size")
def test_attachments_that_lost_much_make_a_suspect_set(site: Site) -> None:
    for number in range(5, 20):
        (site.attachments / f"2026/{number:04d}.jpg").unlink()
    name, met = is_suspect(site)
    assert re.search(r"attachments: [\d.]+ kB, expected at least 50 % of the last good one's [\d.]+ kB", met.stderr)
    removes_nothing_until_accepted(site, name)
