"""What the commands print, compared whole."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.backup.run import Taken
from dental_pms_backup.cli import report
from dental_pms_backup.drill.drill import Drilled
from dental_pms_backup.live.postgres import Facts, InContainer
from dental_pms_backup.live.sources import AttachmentsSource, DatabaseSource, Sources
from dental_pms_backup.restore.terms import Restored
from dental_pms_backup.store import restore_txt
from dental_pms_backup.store.retention import Choice
from dental_pms_backup.store.sets import Kind, Stream
from dental_pms_backup.store.verify_sets import Verdict
from tests.unit.builders import NAME, NOW, published, stored

if TYPE_CHECKING:
    from dental_pms_backup.store.sets import StoredSet

STORE = Path("/srv/dental-pms/backups")
SERVER = {
    "source": "compose",
    "container": "pms-db-1",
    "image": "postgres:16",
    "road": "namespace",
    "database": "pms",
    "database_bytes": 317_000_000,
    "server_version": 160004,
    "system_identifier": "7301",
    "standard_conforming_strings": "on",
}
FACTS = Facts(version=160004, database="pms", user="pms", size=317_000_000, started="2026-11-01", system="7301")


def removal(stream: Stream) -> Choice:
    return Choice(
        stored=stored("2026-11-01_023000"), stream=stream, keep=False, reason="number 15 from the newest, 14 stay"
    )


def taken(made: StoredSet, *removed: Choice) -> Taken:
    return Taken(
        store=STORE,
        stored=made,
        keep=14,
        removed=removed,
        attachments_source="/var/lib/docker/volumes/x/_data",
        duration_s=61.4,
    )


def test_run_of_both_streams_prints_the_seeds_lines() -> None:
    removed = (removal(Stream.DB), removal(Stream.DB), removal(Stream.ATTACHMENTS))
    assert list(report.run_lines(taken(stored(), *removed))) == [
        "backup_type=db",
        "backup_root=/srv/dental-pms/backups",
        f"backup_file=/srv/dental-pms/backups/db/db_{NAME}.sql.gz",
        "backup_size_bytes=1000",
        "retention_keep=14",
        "retention_deleted=2",
        "backup_type=attachments",
        "backup_root=/srv/dental-pms/backups",
        f"backup_file=/srv/dental-pms/backups/attachments_{NAME}.tgz",
        "backup_size_bytes=1000",
        "attachments_source=/var/lib/docker/volumes/x/_data",
        "retention_keep=14",
        "retention_deleted=1",
        f"db_file=/srv/dental-pms/backups/db/db_{NAME}.sql.gz",
        "db_size_bytes=1000",
        f"attachments_file=/srv/dental-pms/backups/attachments_{NAME}.tgz",
        "attachments_size_bytes=1000",
        "duration_seconds=61",
    ]


def test_run_of_one_stream_prints_nothing_of_the_other() -> None:
    made = stored(kinds=[Kind.DB, Kind.GLOBALS])
    assert [line for line in report.run_lines(taken(made)) if "attachments" in line] == []


def test_dry_run_says_what_would_be_done_and_that_nothing_was() -> None:
    sources = Sources(
        database=DatabaseSource(server=InContainer(container_id="c", name="n", image="i"), facts=FACTS),
        attachments=AttachmentsSource(path=Path("/srv/data"), container=""),
    )
    assert list(report.dry_run_lines(STORE, sources, [removal(Stream.DB)])) == [
        "backup_root=/srv/dental-pms/backups",
        "would dump database pms (317.0 MB in PostgreSQL 16, road exec)",
        "would archive /srv/data",
        "would remove db of set 2026-11-01_023000: number 15 from the newest, 14 stay",
        "nothing was done: dry run",
    ]


def test_list_is_a_table_of_all_sets() -> None:
    sets = [
        stored("2026-11-22_023000", taken_at=NOW - timedelta(days=1), kinds=[Kind.DB], problems=("x",)),
        stored(),
        stored("2027-01-01_000000", taken_at=NOW + timedelta(days=39), kinds=[Kind.ATTACHMENTS]),
    ]
    assert list(report.set_table(sets, NOW)) == [
        "SET                               UTC          AGE         DB  ATTACHMENTS  STATE",
        "2026-11-22_023000    2026-11-22 01:30          1 d     1.0 kB            -  damaged",
        "2026-11-23_023000    2026-11-23 01:30          0 s     3.0 kB       1.0 kB  verified",
        "2027-01-01_000000    2027-01-01 01:30      in 39 d          -       1.0 kB  verified",
    ]


def test_set_is_summed_up_for_programs() -> None:
    assert report.set_summary(stored(kinds=[Kind.DB], problems=("db: missing",))) == {
        "set": NAME,
        "taken_at": "2026-11-23T01:30:00+00:00",
        "state": "damaged",
        "db_size_bytes": 1000,
        "attachments_size_bytes": None,
        "problems": ["db: missing"],
        "suspicions": [],
        "pinned": False,
        "drill": None,
    }


def test_list_tells_pins_and_shows_what_needs_a_look_in_red() -> None:
    sets = [stored(pinned=True), stored(manifest={"suspicions": ["db: small"]}), stored(problems=("x",))]
    plain = [line[76:] for line in report.set_table(sets, NOW)][1:]
    colored = [line[76:] for line in report.set_table(sets, NOW, color=True)][1:]
    assert plain == ["verified (pinned)", "suspect", "damaged"]
    assert colored == ["verified (pinned)", "\033[31msuspect\033[0m", "\033[31mdamaged\033[0m"]


def test_suspect_set_is_shown_with_what_is_strange_until_and_after_it_is_accepted() -> None:
    manifest = {"streams": {}, "suspicions": ["db: small", "attachments: empty"]}
    shown = list(report.set_details(STORE, stored(manifest=manifest, kinds=[])))
    assert shown[2:] == ["state: suspect", "strange: db: small", "strange: attachments: empty"]
    shown = list(report.set_details(STORE, stored(manifest=manifest, kinds=[], accepted=True, pinned=True)))
    assert shown[2:] == [
        "state: verified (pinned)",
        "strange: db: small (accepted)",
        "strange: attachments: empty (accepted)",
    ]


def test_pruning_tells_each_choice_with_its_reason() -> None:
    stays = Choice(stored=stored(), stream=Stream.DB, keep=True, reason="number 1 from the newest, 14 stay")
    goes = removal(Stream.ATTACHMENTS)
    assert list(report.choice_lines([stays, goes], dry_run=True)) == [
        f"keep db of set {NAME}: number 1 from the newest, 14 stay",
        "remove attachments of set 2026-11-01_023000: number 15 from the newest, 14 stay",
        "nothing was done: dry run",
    ]
    assert list(report.choice_lines([goes], dry_run=False)) == [
        "removed attachments of set 2026-11-01_023000: number 15 from the newest, 14 stay",
        "retention_deleted=1",
    ]
    assert list(report.choice_lines([], dry_run=False)) == ["retention_deleted=0"]


def test_set_is_shown_with_its_sources_and_warnings() -> None:
    manifest = {
        "streams": {
            "db": {"source": SERVER, "rows": {"public.patients": 3000, "public.notes": 40_000}},
            "attachments": {
                "source": {"path": "/srv/data", "container": ""},
                "entries": 890,
                "changed": ["./a: file changed"],
                "rows_without_file": 1,
                "rows_with_other_size": 2,
            },
        }
    }
    assert list(report.set_details(STORE, stored(manifest=manifest, problems=("x: missing",)))) == [
        f"set: {NAME}",
        "taken: 2026-11-23 02:30:00 CET (2026-11-23 01:30:00 UTC)",
        "state: damaged",
        "problem: x: missing",
        f"db: /srv/dental-pms/backups/db/db_{NAME}.sql.gz (1.0 kB)",
        f"globals: /srv/dental-pms/backups/db/globals_{NAME}.sql.gz (1.0 kB)",
        f"settings: /srv/dental-pms/backups/db/settings_{NAME}.sql.gz (1.0 kB)",
        f"attachments: /srv/dental-pms/backups/attachments_{NAME}.tgz (1.0 kB)",
        "db source: database pms, 317.0 MB on the server's disk, PostgreSQL 16.4, container pms-db-1",
        "db content: 43,000 rows in 2 tables",
        "attachments source: /srv/data",
        "attachments content: 890 files and directories",
        "attachments have no file for 1 row of the database",
        "attachments have a file of another size for 2 rows of the database",
        "attachments changed while being read: ./a: file changed",
    ]


def test_set_is_shown_whatever_else_its_manifest_says_of_its_sources() -> None:
    manifest = {"streams": {"db": {"source": {"database_bytes": "x", "server_version": None}}, "attachments": {}}}
    shown = list(report.set_details(STORE, stored(manifest=manifest, kinds=[])))
    assert shown[3:] == []


def test_drill_of_a_set_is_shown_at_local_time_with_what_it_found() -> None:
    proof = {
        "result": "failed",
        "drilled_at": "2026-11-23T02:30:00+00:00",
        "proofs": {"load": "passed", "files": "not checked"},
        "reasons": {"files": "application.table is null"},
        "problems": ["db: x"],
        "restore_s": 61,
        "data_age_s": 3600,
    }
    assert list(report.set_details(STORE, stored(proof=proof, kinds=[])))[3:] == [
        "drill: failed at 2026-11-23 03:30:00 CET (2026-11-23 02:30:00 UTC)",
        "  load: passed",
        "  files: not checked (application.table is null)",
        "  db: x",
        "  the database was restored in 1 min 1 s",
        "  its data was 1 h old",
    ]


def test_set_is_shown_with_its_checksums(tmp_path: Path) -> None:
    made = published(tmp_path)
    shown = list(report.set_details(tmp_path, made))
    assert [line for line in shown if "sha256" in line] == [f"  sha256: {each.sha256}" for each in made.artefacts]


def test_verdict_is_told_for_people_and_for_programs() -> None:
    good, bad = (Verdict(stored=stored(), problems=problems) for problems in ((), ("db: missing", "x: cut")))
    assert list(report.verdict_lines(good)) == [f"{NAME}: good"]
    assert list(report.verdict_lines(bad)) == [f"{NAME}: damaged", "  db: missing", "  x: cut"]
    assert report.verdict_summary(good) == {"set": NAME, "good": True, "problems": []}
    assert report.verdict_summary(bad) == {"set": NAME, "good": False, "problems": ["db: missing", "x: cut"]}


def test_restore_says_what_it_replaced_and_where_the_old_content_is() -> None:
    restored = Restored(
        stream=Stream.ATTACHMENTS, file=Path("/b/a.tgz"), target="/srv/data", kept=Path("/srv/data.before-restore-x")
    )
    assert list(report.restored_lines(restored)) == [
        "restore_type=attachments",
        "restore_file=/b/a.tgz",
        "restore_target=/srv/data",
        "restore_kept=/srv/data.before-restore-x",
        "restore_status=ok",
    ]
    restored = Restored(stream=Stream.DB, file=Path("/b/d.sql.gz"), target="pms")
    assert not [line for line in report.restored_lines(restored) if "kept" in line]


def test_status_of_a_store_without_any_run() -> None:
    facts = {
        "store": "/b",
        "sets": 0,
        "dated_in_the_future": 0,
        "newest": {"db": None, "attachments": None},
        "newest_proven": {"db": None, "attachments": None},
        "last_run": None,
        "failed_before": [],
        "running": False,
        "timer": "unknown",
    }
    assert list(report.status_lines(facts)) == [
        "store: /b (0 sets)",
        "newest database: none",
        "newest attachments: none",
        "newest proven database: none",
        "last run: none recorded",
        "running now: no",
        "timer: unknown",
    ]


def test_status_after_a_failed_run_names_cause_and_what_could_not_be_read() -> None:
    facts = {
        "store": "/b",
        "sets": 14,
        "dated_in_the_future": 1,
        "newest": {
            "db": {"set": NAME, "taken_at": NOW.isoformat(), "age_s": 3600, "state": "verified"},
            "attachments": None,
        },
        "newest_proven": {
            "db": {
                "set": "2026-11-22_023000",
                "taken_at": "2026-11-22T01:30:00+00:00",
                "age_s": 90_000,
                "state": "proven",
            },
            "attachments": None,
        },
        "failed_before": [{"stream": "db", "at": NOW.isoformat(), "cause": "database"}],
        "last_run": {
            "streams": ["attachments"],
            "at": "2026-11-23T02:30:00+00:00",
            "result": "failed",
            "cause": "archive",
            "message": "attachments: x",
            "unreadable": ["./a: Cannot"],
        },
        "running": True,
        "timer": "disabled",
    }
    assert list(report.status_lines(facts)) == [
        "store: /b (14 sets)",
        "dated in the future: 1 set, passed over here and by latest",
        f"newest database: {NAME}, taken at 2026-11-23 02:30:00 CET (2026-11-23 01:30:00 UTC), 1 h ago, verified",
        "newest attachments: none",
        "newest proven database: 2026-11-22_023000, taken at 2026-11-22 02:30:00 CET (2026-11-22 01:30:00 UTC), "
        "1 d 1 h ago, proven",
        "last run of the attachments alone: failed, began at 2026-11-23 03:30:00 CET (2026-11-23 02:30:00 UTC)",
        "  archive: attachments: x",
        "  unreadable: ./a: Cannot",
        "last run of the database: failed, began at 2026-11-23 02:30:00 CET (2026-11-23 01:30:00 UTC)",
        "  database",
        "running now: yes",
        "timer: disabled",
    ]


def test_store_says_itself_how_to_get_its_data_out(tmp_path: Path) -> None:
    store = tmp_path / "it's here"
    store.mkdir()
    restore_txt.leave(store)
    text = (store / "RESTORE.txt").read_text()
    quoted = "'" + str(store).replace("'", "'\"'\"'") + "'"
    for command in (
        f"cd {quoted} && sha256sum -c sets/SET.sha256",
        f"gzip -dc {quoted}/db/db_SET.sql.gz; }} | \\\n        psql -X -v ON_ERROR_STOP=1",
        f"tar -xzpf {quoted}/attachments_SET.tgz",
    ):
        assert command in text
    assert "{store}" not in text


def test_what_the_store_lists_as_its_sets_are_sets(tmp_path: Path) -> None:
    restore_txt.leave(tmp_path)
    (tmp_path / "sets").mkdir()
    for name in (f"{NAME}.json", f"{NAME}.sha256", f"{NAME}.drill.json", f"{NAME}.pinned"):
        (tmp_path / "sets" / name).touch()
    (listing,) = re.findall("^    ls (.*)$", (tmp_path / "RESTORE.txt").read_text(), re.MULTILINE)
    found = [path.name for path in tmp_path.glob(listing.removeprefix(f"{tmp_path}/"))]
    assert found == [f"{NAME}.sha256"]


def test_instructions_are_written_again_only_when_they_changed(tmp_path: Path) -> None:
    restore_txt.leave(tmp_path)
    before = (tmp_path / "RESTORE.txt").stat()
    restore_txt.leave(tmp_path)
    assert (tmp_path / "RESTORE.txt").stat().st_ino == before.st_ino
    (tmp_path / "RESTORE.txt").write_text("old")
    restore_txt.leave(tmp_path)
    assert (tmp_path / "RESTORE.txt").read_text() != "old"


def test_person_is_told_of_a_run_in_a_sentence() -> None:
    assert report.run_told(taken(stored())) == (
        f"The set {NAME} of 2026-11-23 02:30:00 CET (2026-11-23 01:30:00 UTC) is complete and verified. "
        "It holds 3.0 kB of the database and 1.0 kB of the attachments."
    )
    assert report.run_told(taken(stored(kinds=[Kind.ATTACHMENTS]))).endswith("It holds 1.0 kB of the attachments.")


def test_person_is_told_of_a_restore_and_of_what_is_left_to_do() -> None:
    made = Restored(stream=Stream.DB, file=Path("/b/d.sql.gz"), target="pms_restored", switch=("psql", "x"))
    assert report.restored_told(made) == (
        "The database was restored into the new database pms_restored; the live one is as it was. "
        "Look at the new one first: the command after restore_switch= replaces the live database by it."
    )
    replaced = Restored(
        stream=Stream.ATTACHMENTS, file=Path("/b/a.tgz"), target="/srv/data", kept=Path("/srv/data.before-restore-x")
    )
    assert report.restored_told(replaced) == (
        "/srv/data has the attachments of the backup now. What was live before is kept in /srv/data.before-restore-x."
    )
    new = Restored(stream=Stream.ATTACHMENTS, file=Path("/b/a.tgz"), target="/srv/new")
    assert report.restored_told(new) == "/srv/new has the attachments of the backup now."


def test_person_is_told_of_a_drill_in_sentences() -> None:
    drilled = Drilled(
        stored=stored(), where="container", results={}, figures={"restore_s": 125}, problems=(), reasons={}
    )
    assert report.drilled_told(drilled) == (
        f"The set {NAME} was restored into a throwaway server, and what came back is what went in. "
        "Restoring the database took 2 min 5 s."
    )
