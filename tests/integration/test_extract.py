"""A part of a set comes out as it was in, without touching what is live or writing over anything."""

import csv
import gzip
import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from dental_pms_backup.live import postgres
from tests.integration import filesystems
from tests.integration.faults import listening
from tests.integration.support import IN_EACH_OTHER, Ran, Site, on_disk, sql
from tests.integration.test_restore import hostile

NOBODY = 65534
LETTER = "2026/letter to Mrs canary-name-0815.txt"


def extracts(site: Site, *words: str | Path) -> Ran:
    done = site.run("extract", *(str(word) for word in words))
    assert (done.returncode, done.stderr) == (0, "")
    return done


def refuses(site: Site, *words: str | Path, status: int) -> str:
    before = on_disk(site.place)
    done = site.run("extract", *(str(word) for word in words))
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert on_disk(site.place) == before
    return done.stderr


@pytest.mark.parametrize("path", [LETTER, f"./{LETTER}", f"/{LETTER}"])
def test_a_patients_file_comes_out(site: Site, path: str) -> None:
    site.takes("attachments")
    before = on_disk(site.attachments)
    target = site.place / "out"
    target.mkdir()
    done = extracts(site, "latest", path, "--to", target)
    assert done.stdout == f"extracted_path={path}\nextracted={target / Path(LETTER).name}\n"
    assert on_disk(target) == {Path(LETTER).name: before[LETTER]}
    assert on_disk(site.attachments) == before


def test_files_of_odd_names_and_a_directory_come_out(site: Site) -> None:
    odd = site.attachments / "odd [a-z]*\\n?"
    odd.mkdir()
    for name in ("*", "a\nb", "-rf", "[x]", "x", "\\x41", "zähne-🦷"):
        (odd / name).write_text(name)
    site.takes("attachments")
    target = site.place / "out"
    target.mkdir()
    extracts(site, "latest", f"{odd.name}/*", f"{odd.name}/a\nb", f"{odd.name}/[x]", "2026", "--to", target)
    found = on_disk(target)
    expected = on_disk(site.attachments)
    assert {name for name in found if "/" not in name} == {"*", "a\nb", "[x]", "2026"}
    assert {name: entry for name, entry in found.items() if name.startswith("2026")} == {
        name: entry for name, entry in expected.items() if name.startswith("2026")
    }
    extracts(site, "latest", odd.name, "--to", target)
    assert {name for name in on_disk(target) if name.startswith("odd")} == {
        name for name in expected if name.startswith("odd")
    }


def test_directories_in_each_other_come_out_however_deep(site: Site) -> None:
    subprocess.run([*IN_EACH_OTHER, site.attachments], check=True)
    site.takes("attachments")
    (target := site.place / "out").mkdir()
    assert site.run("extract", "latest", "d", "--to", str(target)).returncode == 0
    assert (target / "/".join(["d"] * 1100)).is_dir()


PNG = "attachments/ab/0001.png"
HOSTILE = {
    "../../outside/x": "_._.._outside_x",
    "/etc/passwd": "_etc_passwd",
    ".bashrc": "_bashrc",
    "..": "_.",
    "-rf": "_rf",
    "a\nb\r\x1b[31m\x7f": "a_b__[31m_",
    "\u202egnp.exe": "_gnp.exe",
    " scan.png ": "scan.png",
    "": "{}",
    " ": "{}",
    "é" * 200 + ".png": "é" * 125 + ".png",
    "x." + "y" * 300: "x." + "y" * 253,
    "C:\\scan\t'\".png": "C:\\scan_'\".png",
}


@pytest.fixture
def practice(own_database: Site) -> Site:
    """A site with files that the application has a name for, as hostile as a patient can make them."""
    site = own_database
    site.configure({"application.table": None})  # as by default
    sql(site.server, "create table attachments (id int, patient_id int, original_filename text, storage_key text)")
    directory = site.attachments / "attachments/ab"
    directory.mkdir(parents=True)
    for number, name in enumerate(["Röntgen 4711.png", None, *HOSTILE, "scan.png"]):
        (directory / f"{number:04d}.png").write_text(f"content {number}")
        literal = "null" if name is None else postgres.literal(name)
        row = f"insert into attachments values ({number}, 4711, {literal}, 'ab/{number:04d}.png')"  # noqa: S608 - ours
        sql(site.server, "set standard_conforming_strings = on", row)
    (directory / "unknown.png").write_text("content")
    site.takes()
    return site


def test_a_file_gets_the_name_that_the_database_knows_it_by(practice: Site) -> None:
    target = practice.place / "out"
    target.mkdir()
    before = on_disk(practice.attachments)
    known, nameless, unknown = PNG.replace("1", "0"), PNG, "attachments/ab/unknown.png"
    with listening(practice) as journal:
        words = ("extract", "latest", known, nameless, f"./{unknown}", "2026", "--to", str(target))
        done = practice.run(*words, wrapper=journal.wrapper)
        told = journal.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"extracted_path={known}",
        f"extracted={target}/Röntgen 4711.png",
        f"extracted_path={nameless}",
        f"extracted={target}/0001.png",
        f"extracted_path=./{unknown}",
        f"extracted={target}/unknown.png",
        "extracted_path=2026",
        f"extracted={target}/2026",
    ]
    assert on_disk(target)["Röntgen 4711.png"] == before[known]
    assert "4711" not in told
    extracts(practice, "latest", known, "--stored-names", "--to", target)
    assert on_disk(target)["0000.png"] == before[known]
    refuses(practice, "latest", known, "--to", target, status=4)


def test_a_hostile_name_writes_nothing_outside_and_nothing_over(practice: Site) -> None:
    target = practice.place / "out"
    target.mkdir()
    (practice.place / "outside").mkdir()
    elsewhere = {name: facts for name, facts in on_disk(practice.place).items() if not name.startswith("out/")}
    paths = [f"attachments/ab/{number:04d}.png" for number in range(2, len(HOSTILE) + 3)]
    found = json.loads(extracts(practice, "latest", *paths, "--to", target, "--json").stdout)
    expected = [name.format(Path(path).name) for path, name in zip(paths, HOSTILE.values(), strict=False)]
    assert found == [
        {"path": path, "extracted": f"{target}/{name}"}
        for path, name in zip(paths, [*expected, "scan (2).png"], strict=True)
    ]
    assert sorted(on_disk(target)) == sorted([*expected, "scan (2).png"])
    assert (target / "scan (2).png").read_text() == f"content {len(HOSTILE) + 2}"
    assert {name: facts for name, facts in on_disk(practice.place).items() if not name.startswith("out/")} == elsewhere


def test_the_columns_of_another_application_are_configured(practice: Site) -> None:
    sql(practice.server, 'create schema "x"; create table x."Files" ("the key" text, "a ""name""" text)')
    sql(practice.server, """insert into x."Files" values ('attachments/ab/0001.png', 'other.png')""")
    practice.configure(
        {
            "application.table": 'x."Files"',
            "application.key_column": "the key",
            "application.name_column": 'a "name"',
            "application.directory": ".",
        }
    )
    name = practice.takes()
    target = practice.place / "out"
    target.mkdir()
    assert f"extracted={target}/other.png\n" in extracts(practice, name, PNG, "--to", target).stdout
    practice.configure({"application.name_column": "missing"})
    assert f"extracted={target}/0001.png\n" in extracts(practice, name, PNG, "--to", target).stdout


def test_a_dump_that_cannot_be_read_costs_the_names_only(practice: Site) -> None:
    known, name = PNG.replace("1", "0"), practice.sets()[-1]
    file = practice.store / f"db/db_{name}.sql.gz"
    file.write_bytes(file.read_bytes()[:200])
    done = practice.run("extract", name, known, "--to", str(practice.place))
    assert (done.returncode, done.stdout) == (0, f"extracted_path={known}\nextracted={practice.place}/0000.png\n")
    assert done.stderr.startswith("dental-pms-backup: the original names cannot be read (db: gzip: exit status 1, exp")


def test_the_files_of_a_patient_are_found_by_the_rows_of_the_table(practice: Site) -> None:
    rows = extracts(practice, "latest", "--table", "attachments", "--csv").stdout
    assert "\n0,4711,Röntgen 4711.png,ab/0000.png\n" in rows


def test_the_manual_puts_a_file_back_with_no_more_rights_than_the_applications(site: Site) -> None:
    page = Path("debian/dental-pms-backup.8.scd").read_text()
    chapter = re.search(r"^# SOMETHING WAS DELETED$.*?^```\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert chapter
    *_, extract, write = chapter[1].splitlines()
    instead = re.search(r"\*(setpriv --reuid=\*_OWNER_ .*?)\* instead of \*(.*?)\*, where", page)
    assert instead
    as_owner = instead[1].replace("*", "").replace("_OWNER_", str(NOBODY))
    victim, live = site.place / "victim", site.attachments
    victim.mkdir(mode=0o755)
    scan = live / "attachments/7/scan.png"
    scan.parent.mkdir(parents=True)
    scan.write_text("a scan")
    subprocess.run(["chown", "--recursive", f"{NOBODY}:{NOBODY}", str(live)], check=True)
    name = site.takes("attachments")
    typed = {"SET": name, "KEY": "7/scan.png", "/root": str(site.place), "NAME": "scan.png", "/data/": f"{live}/"}
    for each in {**typed, instead[2]: as_owner}.items():
        extract, write = extract.replace(*each), write.replace(*each)
    extracts(site, *extract.split()[2:])
    scan.write_text("is there")
    assert subprocess.run(["sh", "-c", write], check=False).returncode != 0
    assert scan.read_text() == "is there"
    scan.unlink()
    subprocess.run(["sh", "-c", write], check=True)
    assert (scan.read_text(), scan.stat().st_uid) == ("a scan", NOBODY)
    scan.unlink()
    scan.parent.rmdir()
    scan.parent.symlink_to(victim)
    assert subprocess.run(["sh", "-c", write], check=False).returncode != 0
    assert list(victim.iterdir()) == []


def test_nothing_is_written_over_and_what_is_not_there_is_named(site: Site) -> None:
    (site.place / Path(LETTER).name).write_text("mine")
    with listening(site) as journal:
        done = site.run("extract", "latest", LETTER, "--to", str(site.place), wrapper=journal.wrapper)
        told = journal.close()
    assert (done.returncode, done.stdout) == (4, "")
    assert "exists already, expected a free name" in done.stderr
    assert "canary-name" not in told
    assert (site.place / Path(LETTER).name).read_text() == "mine"
    said = refuses(site, "latest", "2026/nothing.jpg", "--to", site.place, status=2)
    assert said.startswith('dental-pms-backup: "2026/nothing.jpg": not in the archive, expected a path')
    refuses(site, "latest", "../up", "--to", site.place, status=2)
    refuses(site, "latest", "2026/0001.jpg", "x/0001.jpg", "--to", site.place, status=2)
    refuses(site, "latest", "2026/0001.jpg", "--to", site.place / "missing", status=2)


def test_a_hostile_archive_gives_out_no_device_and_writes_nothing_outside(site: Site) -> None:
    outside = site.place / "outside"
    outside.mkdir()
    file = site.place / "hostile.tgz"
    hostile(file, ("device", "./disk", ""), ("symlink", "./out", str(outside)), ("file", "./out/x", "x"))
    (site.place / "to").mkdir()
    for path, status in (("disk", 4), ("out/x", 0), ("out", 1)):
        done = site.run("extract", str(file), path, "--to", str(site.place / "to"))
        assert done.returncode == status, done.stderr
        assert on_disk(outside) == {}
        assert not (site.place / "to/disk").exists()


def test_rows_come_out_as_the_dump_has_them(site: Site) -> None:
    dump = gzip.decompress(next(site.store.glob("db/db_*.sql.gz")).read_bytes()).decode()
    for name, key in (("odd_text", "public.odd_text"), ("public.lines", "public.lines")):
        done = extracts(site, "latest", "--table", name)
        assert done.stdout.startswith(f"COPY {key} (")
        assert done.stdout.endswith("\n\\.\n")
        assert done.stdout in dump
    assert extracts(site, "latest", "--table", 'Odd "Name.Table; DROP').stdout.count("\n") == 4


def test_rows_come_out_as_csv_that_is_what_the_server_would_write(site: Site) -> None:
    for table in ("odd_text", "images", "teeth", "lines"):
        order = {"lines": "ctid"}.get(table, "1, 2")
        asked = f"copy (select * from public.{table} order by {order}) to stdout with (format csv, header)"  # noqa: S608 - ours
        expected = list(csv.reader(io.StringIO(sql(site.server, asked) + "\n", newline="")))
        done = subprocess.run(
            [*site.command("extract", "latest", "--table", table, "--csv")],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
        )
        found = list(csv.reader(io.StringIO(done.stdout.decode().replace("\r\n", "\n"), newline="")))
        assert found[0] == expected[0]
        assert sorted(found[1:]) == sorted(expected[1:])
        assert len(found) == len(expected)


def test_rows_that_are_null_and_rows_that_are_empty_differ_in_csv(site: Site) -> None:
    lines = extracts(site, "latest", "--table", "odd_text", "--csv").stdout.split("\n")
    assert '4,""' in lines
    assert "5," in lines


def test_rows_go_into_a_new_file_of_mode_0600(site: Site) -> None:
    file = site.place / "rows.csv"
    done = extracts(site, "latest", "--table", "lines", "--csv", "--to", file)
    assert done.stdout == f"extracted={file}\nextracted_rows=7\n"
    assert file.read_text().startswith("content\nBEGIN;\n")
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    assert "exists already, expected a free name" in refuses(site, "latest", "--table", "lines", "--to", file, status=4)


def test_rows_that_are_not_all_there_leave_no_file(site: Site) -> None:
    place = site.place / "to"
    place.mkdir()
    path = site.fake_on_path(
        "perl", 'case "$*" in *"extract_table.pl csv "*) "$real" "$@" | head -c 5; exit 3 ;; esac\nexec "$real" "$@"'
    )
    done = site.run("extract", "latest", "--table", "lines", "--csv", "--to", str(place / "rows.csv"), PATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected all rows" in done.stderr
    assert on_disk(place) == {}


def test_rows_go_to_no_filesystem_that_cannot_hold_them_and_that_is_told(site: Site) -> None:
    """A filesystem without links, on which a name cannot be given without taking another file's."""
    with filesystems.mounted("exfat", filesystems.made("exfat", site.place / "image", 16 << 20), site.place / "stick"):
        done = site.run("extract", "latest", "--table", "lines", "--to", str(site.place / "stick/rows.sql"))
        assert (done.returncode, done.stdout) == (1, "")
        assert "cannot be written: " in done.stderr
        assert "hint: df -h   # or type another place after --to" in done.stderr
        assert on_disk(site.place / "stick") == {}


def test_a_table_that_is_not_there_is_named_with_those_that_are(site: Site) -> None:
    said = refuses(site, "latest", "--table", "nothing", status=2)
    assert said.startswith('dental-pms-backup: "nothing": no such tables in db_')
    assert "hint: its tables: " in said
    assert "public.patients" in said


def test_a_reader_that_goes_away_is_told(site: Site) -> None:
    with site.running("extract", "latest", "--table", "patients") as process:
        assert process.stdout
        process.stdout.close()
        assert process.wait(timeout=120) == 1
        assert process.stderr
        assert "standard output: it takes no more rows" in process.stderr.read()


def test_a_damaged_set_gives_out_nothing(site: Site) -> None:
    file = next(site.store.glob("db/db_*.sql.gz"))
    file.write_bytes(file.read_bytes()[:-200])
    assert "the checksum differs" in refuses(site, *site.sets(), "--table", "lines", status=1)
