"""A set that would not come back as what it was is found by its drill, named, and never called proven."""

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from dental_pms_backup.store.sets import Kind
from tests import faults
from tests.integration import drills
from tests.integration.drills import knows_its_files, rearchived, replaced, rewrite, without_table
from tests.integration.faults import events, listening, of_a_sweep
from tests.integration.support import (
    HEEDS_SIGNALS,
    TREE,
    Site,
    dump,
    environment,
    major,
    mounted_tmpfs,
    on_disk,
    release,
    signalled,
    wait_until,
)

KILLS = int(os.environ.get("DENTAL_PMS_DRILL_KILLS", "25"))
NAMES = ("a.jpg", "b.jpg", "c.jpg")


def flipped(text: bytes) -> bytes:
    return text[: len(text) // 2] + bytes([text[len(text) // 2] ^ 1]) + text[len(text) // 2 + 1 :]


@pytest.mark.sample(9)
@pytest.mark.fault("Content", "a drill finds a flipped byte in the file of")
@pytest.mark.parametrize("kind", Kind)
def test_a_flipped_byte_fails_the_drill(site: Site, kind: Kind) -> None:
    (name,) = site.sets()
    path = site.store / kind.path(name)
    path.write_bytes(flipped(path.read_bytes()))
    met = drills.fails(site, cause="drill")
    assert f"failed its drill: {kind.path(name)}: the checksum differs" in met.stderr
    assert met.stderr.endswith(f"hint: dental-pms-backup show {name}\n")
    drills.recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Content", "a drill finds a flipped byte, where the checksums are right, in the file of")
@pytest.mark.parametrize("kind", Kind)
def test_a_flipped_byte_that_the_manifest_knows_fails_the_drill(site: Site, kind: Kind) -> None:
    (name,) = site.sets()
    path = site.store / kind.path(name)
    path.write_bytes(flipped(path.read_bytes()))
    drills.know(site, kind)
    said = drills.fails(site, cause="drill").stderr
    why = "a dump|the dump|all of them|gzip|every statement|what belongs to the database|them as|only SQL"
    assert re.search(rf"set {name} failed its drill: {kind}: .*expected ({why})", said), said
    drills.recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Content", "a drill finds a changed value in one row, as the checksums are the old ones")
def test_a_changed_value_fails_the_drill(site: Site) -> None:
    (name,) = site.sets()
    path = site.store / Kind.DB.path(name)
    before = path.read_bytes()
    rewrite(site, Kind.DB, replaced(r"^1\t0\.10$", "1\t0.20"))
    drills.know(site, Kind.DB, sha256=hashlib.sha256(before).hexdigest())
    met = drills.fails(site, cause="drill")
    assert f"set {name} failed its drill: {Kind.DB.path(name)}: the checksum differs" in met.stderr
    drills.recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Content", "a drill finds in a dump whose checksums are right")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (replaced(r"^-1\t.*\n", ""), "public.patients: 3000 rows, expected 3001"),
        (without_table, "public.lines: missing, expected 7 rows"),
        (replaced(r"^1\t0\.10$", "1\t0.1"), ", but not all with the content that they had"),
        (replaced(r"^(1\t.*)\t1925", r"\1\tcanary-patient-4711 1925"), "db: the set does not load (SQLSTATE 22007"),
        (replaced(r"^ALTER TABLE public.patients OWNER", "ALTER TABLE ONLY public.patients OWNER"), "the definitions"),
        (replaced(r"^SET statement_timeout = 0;", "SET of_a_newer_version = 0;"), "does not know"),
        (replaced(r"^-- Dumped from database version .*", "-- Dumped from database version 99.1"), "PostgreSQL 99"),
        (replaced(r"^-- Dumped from database version .*\n", ""), "does not begin with its version"),
    ],
    ids=[
        "a row missing",
        "a table missing",
        "a value that the server gives back otherwise",
        "a value that does not load",
        "a definition that the server gives back otherwise",
        "a setting of a newer version",
        "another version than the manifest's",
        "no version",
    ],
)
def test_a_dump_that_does_not_come_back_as_it_was_fails_the_drill(
    site: Site, change: Callable[[bytes], bytes], says: str
) -> None:
    rewrite(site, Kind.DB, change)
    drills.fails(site, cause="drill")
    assert any(says in problem for problem in drills.problems(site))
    drills.recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Content", "a drill finds a dump whose roles are missing")
def test_a_dump_without_its_roles_fails_the_drill(site: Site) -> None:
    rewrite(
        site, Kind.GLOBALS, lambda text: b"".join(line for line in text.splitlines(True) if b"dental_owner" not in line)
    )
    assert ": the server lacks a role)" in drills.fails(site, cause="drill").stderr
    drills.recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Content", "a drill finds in an archive whose checksums are right that an attachment is")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda files: files.pop("./attachments/b.jpg"), "21 entries, expected 22"),
        (lambda files: files.update({"./attachments/b.jpg": b"x" * 10}), "0 have no file in the archive and 1 one"),
        (
            lambda files: files.update(
                {
                    "./attachments/a.jpg": files["./attachments/b.jpg"],
                    "./attachments/b.jpg": files["./attachments/a.jpg"],
                }
            ),
            "of 3 rows 0 have no file in the archive and 2 one of another size",
        ),
        (
            lambda files: files.update({"./../b.jpg": files.pop("./attachments/b.jpg")}),
            "no restore takes the archive: it has 1 entries outside of the directory, expected files",
        ),
    ],
    ids=["missing", "truncated", "swapped with another", "where no restore unpacks it"],
)
def test_an_archive_that_is_not_what_the_rows_say_fails_the_drill(
    own_database: Site, change: Callable[[dict[str, bytes]], object], says: str
) -> None:
    holds_three_files(own_database)
    rewrite(own_database, Kind.ATTACHMENTS, rearchived(change))
    assert says in drills.fails(own_database, cause="drill").stderr
    drills.recovers(own_database)


@pytest.mark.fault("Content", "a drill finds a row whose file is not in the archive")
def test_a_row_without_its_file_fails_the_drill(own_database: Site) -> None:
    holds_three_files(own_database, removed="b.jpg")
    says = "of 3 rows 1 have no file in the archive and 0 one of another size"
    assert says in drills.fails(own_database, cause="drill").stderr
    (own_database.attachments / "attachments/b.jpg").write_bytes(b"x" * 1005)
    drills.recovers(own_database)


def holds_three_files(site: Site, *, removed: str = "") -> None:
    """Have one set only, of a practice with three rows that name files, one of which may be missing."""
    for path in [*site.store.glob("*/*"), *site.store.glob("*.tgz")]:
        path.unlink()
    for path in (site.attachments / "2026").glob("00[01][0-9].jpg"):
        if path.name > "0014.jpg":
            path.unlink()
    knows_its_files(site, NAMES)
    if removed:
        (site.attachments / "attachments" / removed).unlink()
    site.takes()


FAR = """\
CREATE EXTENSION IF NOT EXISTS postgres_fdw WITH SCHEMA public;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere');
CREATE USER MAPPING FOR PUBLIC SERVER far;
CREATE FOREIGN TABLE public.recalls (id integer) SERVER far;
CREATE MATERIALIZED VIEW public.near AS SELECT id FROM public.recalls;
"""
SLOW = """\
CREATE EXTENSION IF NOT EXISTS pg_stat_statements WITH SCHEMA public;
CREATE MATERIALIZED VIEW public.slow AS SELECT count(*) FROM public.pg_stat_statements;
"""


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "a drill's server lacks")
@pytest.mark.parametrize(
    ("statements", "where", "lacks"),
    [
        pytest.param(
            "CREATE EXTENSION IF NOT EXISTS dental_charts WITH SCHEMA public;\n",
            ", at CREATE EXTENSION dental_charts",
            "the extension dental_charts",
            id="an extension",
        ),
        pytest.param(SLOW, ", at CREATE MATERIALIZED VIEW public.slow", "a library", id="a preloaded library"),
        pytest.param(FAR, ", at CREATE MATERIALIZED VIEW public.near", "another server", id="another server"),
        pytest.param(
            "SET default_tablespace = fast;\n", ", at SET default_tablespace", "the tablespace fast", id="a tablespace"
        ),
    ],
)
def test_what_the_throwaway_server_lacks_is_named_and_no_fault_of_the_set(
    site: Site, statements: str, where: str, lacks: str
) -> None:
    rewrite(site, Kind.DB, replaced("^CREATE SCHEMA reports;", f"{statements}\nCREATE SCHEMA reports;"))
    met = drills.fails(site, cause="tool")
    assert f"{where}): the throwaway server lacks {lacks}" in met.stderr
    assert "drill: the set cannot be proven here (SQLSTATE " in met.stderr
    drills.recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "a program of a drill is killed")
@pytest.mark.parametrize("program", ["gzip", "igzip", "tar", "perl"])
def test_a_program_that_is_killed_under_a_drill_is_no_fault_of_the_set(site: Site, program: str) -> None:
    starts_clients = 'case "$1" in */confine) exec "$real" "$@" ;; esac'  # without them there is no server to ask
    path = site.fake_on_path(program, f"{starts_clients}\nkill -9 $$")
    met = drills.fails(site, cause="temporary", status=75, PATH=path)
    assert f"{program}: killed by signal 9" in met.stderr
    drills.recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "no server of a dump's newer version is installed")
def test_a_dump_of_a_newer_version_is_named_and_no_fault_of_the_set(site: Site) -> None:
    (name,) = site.sets()
    newer = major() + 1
    rewrite(
        site, Kind.DB, replaced(r"^-- Dumped from database version .*", f"-- Dumped from database version {newer}.1")
    )

    def know(manifest: dict[str, dict[str, dict[str, dict[str, int]]]]) -> None:
        manifest["streams"]["db"]["source"]["server_version"] = newer * 10_000 + 1

    drills.change_manifest(site, name, know)
    met = drills.fails(site, cause="tool")
    assert f"drill: no server of PostgreSQL {newer}, the version of the set, is installed" in met.stderr
    assert f"hint: apt install postgresql-{newer}" in met.stderr
    drills.recovers(site)


@pytest.mark.thorough
@pytest.mark.fault("Ourselves", "a drill has no room for a copy of the database")
def test_a_disk_without_room_is_named_before_anything_is_restored(site: Site) -> None:
    with mounted_tmpfs(site.place / "small", 300 << 20):
        site.configure({"drill.directory": str(site.place / "small"), "reserve_mb": 0})
        met = drills.fails(site, cause="room")
        assert f"drill: {site.place}/small: " in met.stderr
        site.configure({"drill.directory": str(site.place)})
    drills.recovers(site)


@pytest.mark.fault("Ourselves", "the disk fills up while a drill restores")
def test_a_disk_that_fills_up_under_a_drill_is_named_and_no_fault_of_the_set(site: Site) -> None:
    with mounted_tmpfs(site.place / "small", 600 << 20):
        site.configure({"drill.directory": str(site.place / "small"), "reserve_mb": 0})
        (site.place / "small").chmod(0o755)  # the cluster's user passes through
        runs = f'[ -z "$(find {site.place}/small -name ".s.PGSQL.*")" ]'
        fills = f'{runs} || cat /dev/zero >>"{site.place}/small/filler" 2>/dev/null; exec "$real" "$@"'
        drills.fails(site, cause="room", PATH=site.fake_on_path("igzip", fills))
        (site.place / "small/filler").unlink()
        site.configure({"drill.directory": str(site.place)})
    drills.recovers(site)


# What starts the server's sandbox, as it is for a moment: not yet bound to the drill.
UNBOUND = """\
for word; do shift; [ "$word" = --die-with-parent ] || set -- "$@" "$word"; done
exec setpriv --pdeathsig clear -- "$real" "$@\""""


@pytest.mark.fault("Ourselves", "a drill was killed as it started its server, which goes on")
def test_a_server_that_a_killed_drill_left_is_ended_by_the_next(site: Site) -> None:
    with site.running("drill", PATH=site.fake_on_path("bwrap", UNBOUND)) as process:
        wait_until(lambda: any(site.place.glob("dental-pms-drill-*/pg/data/postmaster.pid")))
        signalled(process, signal.SIGKILL, within_s=30)
    assert any("/bin/postgres " in words for words in drills.left_behind(site))
    with listening(site) as journal:
        done = site.run("drill", wrapper=journal.wrapper)
        told = journal.close()
    assert done.stdout.endswith("drill_status=proven\n")
    assert drills.left_behind(site) == []
    faults.saw(status=done.returncode, store=faults.AS_BEFORE + ", the drilled one proven", events=events(told))
    faults.recovered("ok, and proven")


@pytest.mark.sweep
@pytest.mark.fault("Ourselves", f"at {KILLS} random moments a drill is killed")
def test_a_drill_that_is_killed_at_any_moment_leaves_nothing_after_the_next(site: Site) -> None:
    before = dump(site.server), on_disk(site.attachments), drills.without_records(site)
    began = time.monotonic()
    drills.drills_well(site, "latest")
    takes_s = time.monotonic() - began
    chance = random.Random(f"20260203 {release()}")  # noqa: S311 - moments, the same in every run of the tests
    killed = 0
    told = ""
    for moment in range(KILLS):
        moment_s = chance.uniform(0, takes_s)
        of_a_sweep(moment, "SIGKILL", moment_s, takes_s)
        killed += was_killed(site, moment_s)
        if moment % 10 == 9:  # else the next one is killed, too
            with listening(site) as journal:
                done = site.run("drill", "latest", wrapper=journal.wrapper)
                told += journal.close()
            assert (done.returncode, drills.left_behind(site)) == (0, []), done.stderr
    assert killed > KILLS / 4, "the moments are spread over a drill"
    assert "drill-cleared" in events(told)
    assert (dump(site.server), on_disk(site.attachments), drills.without_records(site)) == before
    faults.saw(status="killed", store="all sets as they were, 0 times a false proof", events=None)
    faults.recovered("ok, every time, and nothing is left")


def was_killed(site: Site, moment_s: float) -> bool:
    with subprocess.Popen(
        [*HEEDS_SIGNALS, *site.command("drill", "latest")],
        cwd=TREE,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment_s)
        process.kill()
    return process.returncode == -signal.SIGKILL
