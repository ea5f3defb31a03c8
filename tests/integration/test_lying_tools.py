"""A program that does not do its work, and one that only says that it does, never makes a run say ok of a bad set."""

import gzip
import hashlib
import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests import faults, scope
from tests.faults import AS_BEFORE
from tests.integration.faults import FAILED, events, fails, listening, recovers, succeeds
from tests.integration.support import PATH, Ran, Site, sql
from tests.integration.test_offsite import configure

CLIENTS = ("psql", "pg_dump", "pg_dumpall")
LIES = {
    "says success and does nothing": "cat >/dev/null; echo success",
    "fails": "exit 1",
    "is killed": "kill -KILL $$",
    "is missing": "",
}
RCLONE = {
    "says success and does nothing": ("echo success", 78),
    "fails": ("exit 1", 1),
    "is killed": ("kill -KILL $$", 1),
    "is missing": ("", 1),
    "says success and copies nothing": ('case " $* " in *" copy "*) exit 0 ;; esac; exec "$real" "$@"', 1),
    "says success and compares nothing": ('case " $* " in *" check "*) exit 0 ;; esac; exec "$real" "$@"', 1),
}
OK = ""
# what each of the above makes of the run, for each program; OK where it is not needed for a good set
OUTCOMES = {
    "setpriv": ("database", "database", "database", "tool"),
    "env": ("database", "database", "database", "database"),
    "psql": ("database", "database", "database", "configuration"),
    "pg_dump": ("verification", "dump", "dump", "configuration"),
    "pg_dumpall": ("dump", "dump", "dump", "configuration"),
    "igzip": ("verification", "dump", "dump", OK),
    "tar": ("verification", "archive", "archive", "tool"),
    "gzip": (OK, OK, OK, OK),
    "perl": ("verification", "verification", "verification", "tool"),
    "sha256sum": ("verification", "verification", "verification", "tool"),
    "wc": ("archive", "archive", "archive", "tool"),
}
STATUS = {"database": 75, "configuration": 78}
MATRIX = [
    pytest.param(program, lie, cause, id=f"{program} {lie}")
    for program, causes in OUTCOMES.items()
    for lie, cause in zip(LIES, causes, strict=True)
]


def lying(site: Site, program: str, body: str) -> str:
    """Put something in the place of a program, or with an empty body nothing, and return the PATH to run with."""
    if program in CLIENTS:
        site.fake(program, body)
        if not body:
            (site.place / "clients" / program).unlink()
        return PATH
    return site.fake_on_path(program, body) if body else path_without(site, program)


def path_without(site: Site, *names: str) -> str:
    directory = site.place / "programs"
    directory.mkdir(mode=0o755)
    for path in (path for part in reversed(PATH.split(":")) for path in Path(part).glob("*") if path.name not in names):
        (directory / path.name).unlink(missing_ok=True)
        (directory / path.name).symlink_to(path)
    return str(directory)


@pytest.mark.sample(12)
@pytest.mark.fault("Ourselves", "a program does not do its work")
@pytest.mark.parametrize(("program", "lie", "cause"), MATRIX)
def test_a_program_that_does_not_do_its_work_never_makes_a_bad_set(
    site: Site, program: str, lie: str, cause: str
) -> None:
    path = lying(site, program, LIES[lie])
    if cause == OK:
        name, _ = succeeds(site, PATH=path)
        assert_is_what_the_practice_has(site, name)
    else:
        fails(site, cause=cause, status=STATUS.get(cause, 1), PATH=path)
    site.mend()
    assert_is_what_the_practice_has(site, recovers(site))


@pytest.mark.sample(2)
@pytest.mark.fault("Ourselves", "there is no igzip, and gzip does not do its work")
@pytest.mark.parametrize(("lie", "cause"), zip(LIES, ("verification", "dump", "dump", "tool"), strict=True))
def test_a_gzip_that_does_not_do_its_work_where_there_is_no_other_never_makes_a_bad_set(
    site: Site, lie: str, cause: str
) -> None:
    without = path_without(site, "igzip", "pigz")
    if LIES[lie]:
        site.fake_on_path("gzip", LIES[lie])
        without = f"{site.place}/fakes:{without}"
    else:
        (site.place / "programs/gzip").unlink()
    fails(site, cause=cause, PATH=without)
    assert_is_what_the_practice_has(site, recovers(site))


@pytest.mark.fault("Ourselves", "igzip unpacks less than there is and exits 0")
def test_an_igzip_that_unpacks_half_with_status_0_is_not_believed(site: Site) -> None:
    half = 'case " $* " in *" --decompress "*) "$real" "$@" | head -c 3000; exit 0 ;; esac; exec "$real" "$@"'
    name, _ = succeeds(site, PATH=site.fake_on_path("igzip", half))
    assert_is_what_the_practice_has(site, name)
    recovers(site)


@pytest.mark.sample(2)
@pytest.mark.fault("Ourselves", "sha256sum says the same of everything")
@pytest.mark.parametrize("said", [hashlib.sha256().hexdigest(), "5" * 64], ids=["that of nothing", "some other"])
def test_a_checksum_that_is_none_fails_the_run(site: Site, said: str) -> None:
    path = site.fake_on_path("sha256sum", f'for file; do case $file in --*) ;; *) echo "{said} *$file" ;; esac; done')
    fails(site, cause="verification", PATH=path)
    assert_is_what_the_practice_has(site, recovers(site))


@pytest.mark.fault("Ourselves", "a program hangs: any that works on a stream, each in a run of its own")
def test_a_program_that_hangs_fails_the_run_by_itself(site: Site) -> None:
    programs = scope.some([each for each in OUTCOMES if each not in {"setpriv", "env", "psql", "gzip"}], 2)
    sites = {}
    for program in programs:
        place, database = site.place / program, f"{site.server.database}_{program}"
        place.mkdir(mode=0o755)
        sql(site.server, f'create database "{database}" template "{site.server.database}"')  # dumps wait for each other
        sites[program] = Site(place=place, server=replace(site.server, database=database))
        sites[program].configure({"stall_timeout_s": 5, "attachments.path": str(site.attachments)})
        shutil.copytree(site.store, sites[program].store, copy_function=shutil.copy2)

    def hang(program: str) -> tuple[Ran, str]:
        with listening(sites[program]) as journal:
            path = lying(sites[program], program, "exec sleep 600")
            return sites[program].run("run", wrapper=journal.wrapper, PATH=path), journal.close()

    with ThreadPoolExecutor(3) as threads:  # the server has ten connections; a run needs three
        ended = dict(zip(programs, threads.map(hang, programs), strict=True))
    for program, (done, told) in ended.items():
        assert (done.returncode, done.stdout) == (1, FAILED.format("stalled")), (program, done.stderr)
        assert (sites[program].set_files(), sites[program].drafts()) == (site.set_files(), [])
        faults.saw(status=1, cause="stalled", store=AS_BEFORE, events=events(told))
    recovers(site)


@pytest.mark.sample(9)
@pytest.mark.fault("Ourselves", "rclone does not do its work in offsite push: it")
@pytest.mark.parametrize(("body", "status"), RCLONE.values(), ids=RCLONE)
def test_an_rclone_that_does_not_do_its_work_never_makes_a_copy_that_is_none(
    site: Site, body: str, status: int
) -> None:
    (site.place / "there").mkdir()
    configure(site, site.place / "there", "secret")
    before = site.set_files()
    with listening(site) as journal:
        done = site.run("offsite", "push", wrapper=journal.wrapper, PATH=lying(site, "rclone", body))
        told = journal.close()
    assert (done.returncode, done.stdout, site.set_files()) == (status, "", before), done.stderr
    assert "Traceback" not in done.stderr
    faults.saw(status=status, store=AS_BEFORE, events=events(told))
    (name,) = site.sets()
    assert site.run("offsite", "push", name).stdout == f"{name}: copied and compared\n"
    assert site.run("offsite", "verify").stdout == f"{name}: the same offsite\n"
    recovers(site)


def assert_is_what_the_practice_has(site: Site, name: str) -> None:
    """Prove a set by nothing of ours and by none of the programs that a run uses."""
    manifest = json.loads((site.store / f"sets/{name}.json").read_text())
    entries = {entry["kind"]: entry for part in manifest["streams"].values() for entry in part["artefacts"]}
    contents = {kind: (site.store / entry["path"]).read_bytes() for kind, entry in entries.items()}
    assert {kind: hashlib.sha256(content).hexdigest() for kind, content in contents.items()} == {
        kind: entry["sha256"] for kind, entry in entries.items()
    }
    dump = gzip.decompress(contents["db"]).decode()
    assert "\n-- PostgreSQL database dump complete\n" in dump
    rows = dump.partition("COPY public.patients ")[2].partition(";\n")[2].partition("\\.\n")[0].splitlines()
    assert len(rows) == int(sql(site.server, "select count(*) from patients")) > 1000
    assert "\n-- PostgreSQL database cluster dump complete\n" in gzip.decompress(contents["globals"]).decode()
    with tarfile.open(site.store / entries["attachments"]["path"]) as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        assert {
            f"./{path.relative_to(site.attachments)}": path.read_bytes() for path in files_of(site.attachments)
        } == {path: file.read() for path, file in files.items() if file}


def files_of(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]
