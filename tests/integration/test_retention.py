"""What a run lets go, and what it never does."""

import re
from pathlib import Path

import pytest

from tests.integration.faults import fails, recovers
from tests.integration.support import Site


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


@pytest.mark.sample(2)
@pytest.mark.fault("Content", "one stream of two fails while older sets are due to go")
@pytest.mark.parametrize("stream", ["db", "attachments"])
def test_a_run_removes_nothing_when_one_stream_failed(site: Site, stream: str) -> None:
    left_by_the_seed(site.store, databases=3, attachments=3)
    if stream == "db":
        site.fake("pg_dump", "exit 1")
        fails(site, cause="dump", BACKUP_KEEP="1")
    else:
        path = site.fake_compressor("igzip", 'case "$(head -c 8)" in --*) exit 9 ;; esac; exit 1')
        fails(site, "attachments", cause="archive", BACKUP_KEEP="1", PATH=path)
    site.mend()
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "BACKUP_KEEP would let every set go, or means nothing: it is")
@pytest.mark.parametrize("value", ["0", "-1", "many", "", "1.5"], ids=["0", "less than 0", "a word", "empty", "1.5"])
def test_a_backup_keep_that_would_remove_everything_or_means_nothing_is_refused_by_name(site: Site, value: str) -> None:
    done = fails(site, cause="configuration", status=78, BACKUP_KEEP=value)
    assert "BACKUP_KEEP" in done.stderr
    recovers(site)


def test_a_dry_run_touches_nothing(site: Site) -> None:
    left_by_the_seed(site.store, databases=2, attachments=0)
    before = site.set_files()
    done = site.run("run", "--dry-run", BACKUP_KEEP="1")
    assert (done.returncode, site.set_files(), site.drafts()) == (0, before, [])
    assert "would remove db of set 2020-01-02_023000" in done.stdout
    assert done.stdout.endswith("nothing was done: dry run\n")
