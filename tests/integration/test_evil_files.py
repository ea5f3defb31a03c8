"""Somebody else owns the directory that root works in, and renames what is in it at the worst moment."""

import contextlib
import itertools
import os
import shutil
import signal
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dental_pms_backup.drill import leftovers
from dental_pms_backup.store import drill_record, marks, sets
from dental_pms_backup.store.sets import Kind
from tests import faults
from tests.integration import drills
from tests.integration.faults import cause, events, fails, listening, recovers
from tests.integration.support import PATH, Disk, Site, environment, executable, mounted_tmpfs, on_disk, wait_until

NOBODY = 65534
# In a struct vfs_cap_data, of version 2 and effective: CAP_DAC_OVERRIDE and CAP_NET_RAW (capabilities(7)).
CAPABLE = bytes.fromhex("0100000202200000000000000000000000000000")
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
PASSES = 20
# Tries again and again, and counts how often there was what to try it on; $victim is root's directory, $outer each
# directory of a restore.
LOOP = """
cd {home}
while :; do
    for outer in attachments.restoring-* new.restoring-* .dental-pms-extract-*; do
        [ -e "$outer" ] || continue
        {{ {script}; }} 2>/dev/null
        echo >>passes
    done
done
"""


class Somebody:
    """A home of another user, in which the attachments lie, and a directory of root's that he would like to reach."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.home = site.place / "home"
        self.victim = site.place / "victim"
        self.home.mkdir()
        for name in ("attachments/2026", "content/2026", "content/attachments", "db", "sets"):
            (self.victim / name).mkdir(parents=True)
        for name in ("canary-name-root", "2026.txt", "content/2026/0003.jpg", "db/.mine.draft"):
            (self.victim / name).write_text("root's")
        self.victim.chmod(0o755)
        self.untouched = on_disk(self.victim)
        site.attachments.rename(self.home / "attachments")
        site.configure({"attachments.path": str(self.attachments)})
        below = self.attachments / "attachments"
        below.mkdir()
        for number in range(40):
            (below / f"{number:04d}").write_bytes(os.urandom(50_000))
        self.own(self.home)

    @property
    def attachments(self) -> Path:
        return self.home / "attachments"

    def own(self, directory: Path) -> None:
        subprocess.run(["chown", "--recursive", f"{NOBODY}:{NOBODY}", directory], check=True)

    def does(self, script: str, *, check: bool = True) -> None:
        subprocess.run([*AS_NOBODY, "sh", "-c", f"cd {self.home}; {script}"], check=check, env=self.variables)

    @property
    def variables(self) -> dict[str, str]:
        return environment(victim=str(self.victim), home=str(self.home))

    @contextlib.contextmanager
    def trying(self, script: str) -> Iterator[None]:
        """Do something again and again while the block lasts, as another user."""
        loop = LOOP.format(home=self.home, script=script)
        with subprocess.Popen([*AS_NOBODY, "sh", "-c", loop], env=self.variables, start_new_session=True) as process:
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGKILL)

    def passes(self) -> int:
        counted = self.home / "passes"
        return len(counted.read_bytes()) if counted.exists() else 0

    def wait_for_passes(self) -> None:
        """Wait until he has tried some times from now on."""
        before = self.passes()
        wait_until(lambda: self.passes() >= before + PASSES)


@pytest.fixture
def somebody(site: Site) -> Somebody:
    return Somebody(site)


@contextlib.contextmanager
def held(site: Site, program: str, before: str, after: str = 'exec "$real" "$@"') -> Iterator[tuple[str, Path, Path]]:
    """A fake that waits, once, until it is let go: its PATH, the mark that it waits, and what lets it go."""
    waits, go = site.place / "waits", site.place / "go"
    os.mkfifo(go)
    hold = f"hold() {{ if mkdir {waits} 2>/dev/null; then read answer <{go}; fi; }}\n"
    fakes = site.place / "fakes"
    fakes.mkdir(mode=0o755, exist_ok=True)
    executable(fakes / program, f"real={shutil.which(program, path=PATH)}\n{hold}{before}\n{after}")
    yield f"{fakes}:{PATH}", waits, go


def halfway_unpacking(site: Site, home: Path) -> "contextlib.AbstractContextManager[tuple[str, Path, Path]]":
    """Hold the unpacking of a restore or an extraction after a part of the archive has gone to tar."""
    begun = f"ls -d {home}/*.restoring-* {home}/.dental-pms-extract-* 2>/dev/null"
    now = f'[ -n "$({begun})" ] && [ ! -e {site.place}/waits ]'
    return held(site, unpacker(), f'if {now}; then "$real" "$@" | {{ head -c 700000; hold; cat; }}; exit; fi')


def unpacker() -> str:
    return "igzip" if shutil.which("igzip", path=PATH) else "gzip"


def attacked(somebody: Somebody, words: list[str], script: str) -> tuple[int, str, str, str]:
    """Run a command, held halfway while somebody does what he can; return its exit status, output and journal."""
    site = somebody.site
    with (
        halfway_unpacking(site, somebody.home) as (path, waits, go),
        listening(site) as journal,
        site.running(*words, wrapper=journal.wrapper, PATH=path) as process,
    ):
        wait_until(lambda: waits.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        with somebody.trying(script):
            somebody.wait_for_passes()
            with go.open("w") as letting:
                letting.write("go\n")
            out, err = process.communicate(timeout=120)
        told = journal.close()
    assert on_disk(somebody.victim) == somebody.untouched, "root's directory is as it was"
    return process.returncode, out, err, told


INSIDE = (
    'for at in "$outer" "$outer/content"; do mv -T "$at/attachments" "$at/moved" && ln -s "$victim" "$at/attachments";'
    ' mv -T "$at/2026" "$at/moved2" && ln -s "$victim" "$at/2026"; done;'
    ' mv -T "$outer/content" "$outer/moved3" && ln -s "$victim" "$outer/content"'
)
OUTER = 'mv -T "$outer" "away" && ln -s "$victim" "$outer"'
KEPT = 'ln -sT "$victim" "attachments.before-restore-${outer#attachments.restoring-}"'
LIVE = '[ -L attachments ] || { mv -T attachments mine && ln -s "$victim" attachments; }'


def spoil(somebody: Somebody) -> Disk:
    (somebody.attachments / "later").write_text("later")
    somebody.own(somebody.attachments)
    return on_disk(somebody.attachments)


def clear(somebody: Somebody, live: str = "attachments") -> None:
    """Take what somebody has left, and what was made there, out of the way, as an admin does."""
    if (somebody.home / "mine").exists():
        somebody.attachments.unlink()
        (somebody.home / "mine").rename(somebody.attachments)
    for path in somebody.home.iterdir():
        if path.name != live:
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "attachments are put back into a directory of his, and he swaps for a link")
@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        pytest.param(INSIDE, 0, "", id="a directory that is unpacked into"),
        pytest.param(OUTER, 1, "was renamed or replaced during the restore", id="the directory around it"),
        pytest.param(KEPT, 1, "the swap failed: File exists", id="the name of what is kept"),
        pytest.param(LIVE, 1, "was renamed or replaced during the restore", id="the live directory"),
    ],
)
def test_a_restore_in_place_writes_and_moves_nothing_through_his_link(
    somebody: Somebody, script: str, status: int, says: str
) -> None:
    wanted = on_disk(somebody.attachments)
    name = somebody.site.takes("attachments")
    spoilt = spoil(somebody)
    words = ["restore", "attachments", name, "--in-place", "--yes"]
    returned, _, err, told = attacked(somebody, words, script)
    live = somebody.home / "mine" if (somebody.home / "mine").exists() else somebody.attachments
    assert (returned, on_disk(live)) == (status, spoilt if status else wanted), err
    assert says in err
    store = "the live attachments as they were" if status else "the live attachments as the set has them"
    faults.saw(status=status, cause=cause(told), store=f"{store}, and root's files", events=events(told))
    clear(somebody)
    again = somebody.site.run("restore", "attachments", name, "--in-place", "--yes")
    assert (again.returncode, on_disk(somebody.attachments)) == (0, wanted), again.stderr
    faults.recovered("ok, once his links are gone")


@pytest.mark.fault("Somebody evil", "attachments are put into a new directory in one of his, and he swaps for a link")
@pytest.mark.parametrize(
    "script",
    [pytest.param(INSIDE, id="a directory that is unpacked into"), pytest.param(OUTER, id="the one around it")],
)
def test_a_restore_into_a_new_directory_writes_nothing_through_his_link(somebody: Somebody, script: str) -> None:
    wanted = on_disk(somebody.attachments)
    name = somebody.site.takes("attachments")
    words = ["restore", "attachments", name, "--to", str(somebody.home / "new")]
    returned, _, err, told = attacked(somebody, words, script)
    assert (returned, on_disk(somebody.home / "new")) == (0, wanted), err
    faults.saw(status=returned, store="all of the set in the new directory, and root's files", events=events(told))
    clear(somebody)
    assert somebody.site.run(*words).returncode == 0
    faults.recovered()


@pytest.mark.fault("Somebody evil", "files are extracted into a directory of his, and he swaps for a link")
@pytest.mark.parametrize(
    "script",
    [pytest.param(INSIDE, id="a directory that is unpacked into"), pytest.param(OUTER, id="the one around it")],
)
def test_an_extraction_takes_nothing_of_roots_through_his_link(somebody: Somebody, script: str) -> None:
    wanted = (somebody.attachments / "2026/0003.jpg").read_bytes()
    name = somebody.site.takes("attachments")
    words = ["extract", name, "2026/0003.jpg", "attachments", "--to", str(somebody.home / "out"), "--stored-names"]
    words[words.index(str(somebody.home / "out"))] = str(somebody.home)
    shutil.move(somebody.attachments, somebody.home / "live")
    returned, _, err, told = attacked(somebody, words, script)
    assert (returned, (somebody.home / "0003.jpg").read_bytes()) == (0, wanted), err
    assert len(list((somebody.home / "attachments").iterdir())) == 40
    faults.saw(status=returned, store="what was asked for, and root's files", events=events(told))
    clear(somebody, "live")
    assert somebody.site.run(*words).returncode == 0
    faults.recovered()


def test_rows_are_not_written_to_a_file_that_another_has_put_there(somebody: Somebody) -> None:
    target = somebody.home / "rows.sql"
    somebody.does("echo his >.rows.sql.draft; chmod 666 .rows.sql.draft; ln .rows.sql.draft his")
    done = somebody.site.run("extract", "latest", "--table", "patients", "--to", str(target))
    assert done.returncode == 0, done.stderr
    assert (somebody.home / "his").read_text() == "his\n"
    assert (target.stat().st_uid, oct(target.stat().st_mode & 0o777)) == (0, "0o600")


@pytest.mark.parametrize("what", ["link", "directory"])
def test_a_link_of_his_on_the_way_to_a_new_directory_is_refused(somebody: Somebody, what: str) -> None:
    somebody.does('ln -s "$victim" out')
    target = somebody.home / ("out/new" if what == "directory" else "out")
    done = somebody.site.run("restore", "attachments", "latest", "--to", str(target))
    assert (done.returncode, done.stdout) == (4, "")
    assert on_disk(somebody.victim) == somebody.untouched


LEFT = "attachments.{}-2026-02-03_023000"


@pytest.mark.sample(2)
@pytest.mark.fault("Somebody evil", "he puts there what a restore that was cut off would leave, and a restore follows")
@pytest.mark.parametrize(
    "what", ["a link as what comes in", "a link as what is kept", "a directory of his", "of root's"]
)
def test_a_restore_moves_and_removes_nothing_that_no_restore_left(somebody: Somebody, what: str) -> None:
    spoilt, name = spoil(somebody), somebody.site.takes("attachments")
    replacing, restoring, kept = (LEFT.format(word) for word in ("replacing", "restoring", "before-restore"))
    match what:
        case "a link as what comes in":
            somebody.does(f'ln -s "$victim" {replacing}')
        case "a link as what is kept":
            (somebody.home / restoring).mkdir(mode=0o700)  # as if a restore had been killed
            somebody.does(f'ln -s "$victim" {kept}')
        case "a directory of his":
            somebody.does(f"mkdir -m 700 {restoring}; echo his >{restoring}/mine")
        case _:  # which root made there for something else, and he renamed
            (somebody.home / "papers").mkdir(mode=0o700)
            (somebody.home / "papers/one").write_text("root's")
            somebody.does(f"mv papers {restoring}")
    before = on_disk(somebody.home)
    with listening(somebody.site) as journal:
        words = ("restore", "attachments", name, "--in-place", "--yes")
        done = somebody.site.run(*words, wrapper=journal.wrapper)
        told = journal.close()
    assert (done.returncode, on_disk(somebody.home)) == (4, before), done.stderr
    assert "it is left alone" in done.stderr
    assert on_disk(somebody.victim) == somebody.untouched
    store = "the live attachments as they were, and root's files"
    faults.saw(status=4, cause=cause(told), store=store, events=events(told))
    clear(somebody)
    assert on_disk(somebody.attachments) == spoilt
    assert somebody.site.run(*words).returncode == 0
    faults.recovered("ok, once it is moved away")


def refused_through_a_link_before_the_command(somebody: Somebody) -> None:
    """Let him make his link before a run, a dry run and a restore: each is refused, and nothing of root's is read."""
    site = somebody.site
    sets = site.sets()
    somebody.does('mv attachments mine; ln -s "$victim" attachments')
    for words in (
        ("run", "attachments"),
        ("run", "attachments", "--dry-run"),
        ("restore", "attachments", "latest", "--in-place", "--yes"),
    ):
        done = site.run(*words)
        assert done.returncode == 4, (words, done.stdout, done.stderr)
        assert f'"attachments" on the way is a link of user {NOBODY}' in done.stderr, words
    assert site.sets() == sets
    assert on_disk(somebody.victim) == somebody.untouched
    somebody.does("rm attachments; mv mine attachments")


@pytest.mark.fault("Somebody evil", "he swaps for a link what a backup is about to read")
@pytest.mark.parametrize("what", ["the attachments", "each directory in them"])
def test_a_backup_reads_nothing_through_his_link(somebody: Somebody, what: str) -> None:
    site = somebody.site
    refused_through_a_link_before_the_command(somebody)
    for number in range(10):
        (somebody.attachments / f"many{number}").mkdir()
        (somebody.attachments / f"many{number}/file").write_bytes(os.urandom(900_000))
    somebody.own(somebody.attachments)
    names = set(on_disk(somebody.attachments))
    if what == "the attachments":
        holding = held(site, "tar", 'case " $* " in *" --create "*) hold ;; esac')
        script = 'mv attachments mine; ln -s "$victim" attachments'
    else:
        packer = unpacker()
        unpacking = 'case " $* " in *" --decompress "*|*" -d"*) exec "$real" "$@" ;; esac'
        holding = held(site, packer, f"{unpacking}\nhold")
        script = 'mkdir mine; for each in attachments/*/; do mv "$each" mine/; ln -s "$victim" "${each%/}"; done'
    site_sets = site.sets()
    with (
        holding as (path, waits, go),
        listening(site) as journal,
        site.running("run", "attachments", wrapper=journal.wrapper, PATH=path) as process,
    ):
        wait_until(waits.exists)
        somebody.does(script)
        with go.open("w") as letting:
            letting.write("go\n")
        _, err = process.communicate(timeout=120)
        told = events(journal.close())
    assert process.returncode == 0, err
    (name,) = set(site.sets()) - set(site_sets)
    with tarfile.open(site.store / f"attachments_{name}.tgz") as archive:
        members = {member.name.removeprefix("./"): member for member in archive}
    assert not [path for path in members if "canary-name-root" in path or path.endswith("2026.txt")]
    if what == "the attachments":
        assert names <= members.keys()
    else:
        assert [path for path, member in members.items() if member.issym()]
    faults.saw(status=0, store="a new, verified set without any file of root's", events=told)
    somebody.does(
        "rm -f attachments attachments/*; mv mine attachments 2>/dev/null || mv mine/* attachments/", check=False
    )
    recovers(site)


STORES = {
    "its db is his link": 'link "$store/db"',
    "its sets are his link": 'link "$store/sets"',
    "it is his link": 'link "$store"',
    "its db is his": 'chown 65534 "$store/db"',
    "it is his": 'chown 65534 "$store"',
    "others can write to it": 'chmod 0770 "$store"',
    "others can write to its sets": 'chmod 0707 "$store/sets"',
}
SPOILS = 'link() { mv -T "$1" "$1.real"; ln -s "$victim/${1##*/}" "$1"; chown -h 65534 "$1"; }; '


@pytest.mark.sample(3)
@pytest.mark.fault("Somebody evil", "another user can rename in the store")
@pytest.mark.parametrize("how", STORES)
def test_nothing_is_written_to_a_store_in_which_another_can_rename(somebody: Somebody, how: str) -> None:
    site = somebody.site
    (somebody.victim / "store").mkdir()
    (name,) = site.sets()
    dump = shutil.copy2(site.store / f"db/db_{name}.sql.gz", site.place / "from-elsewhere.sql.gz")
    untouched = on_disk(somebody.victim)
    variables = somebody.variables | {"store": str(site.store)}
    subprocess.run(["sh", "-c", SPOILS + STORES[how]], check=True, env=variables)
    before = on_disk(site.place / "store")
    done = fails(site, cause="refused", status=4)
    for words in ("prune", f"keep {name}", f"drill {name}", f"restore db {dump} --in-place --yes"):
        other = site.run(*words.split())
        expected = {4, 2} if "link" in how else {4}  # 2: behind the link there is no such set
        assert other.returncode in expected, (words, other.stderr)
    assert (on_disk(somebody.victim), on_disk(site.place / "store")) == (untouched, before)
    assert "nothing was touched" in done.stderr
    (command,) = [line.removeprefix("hint: ") for line in done.stderr.splitlines() if line.startswith("hint: ")]
    mend(site, command)
    recovers(site)


def mend(site: Site, command: str) -> None:
    """Do what the hint says; of a link it only says how to see where it leads."""
    for path in (site.store, site.store / "db", site.store / "sets"):
        if path.is_symlink():
            assert command.startswith("readlink -f ")
            path.unlink()
            path.with_name(f"{path.name}.real").rename(path)
            return
    subprocess.run(["sh", "-c", command], check=True)


def test_a_store_that_another_can_move_away_is_warned_of(somebody: Somebody) -> None:
    site = somebody.site
    site.store.rename(somebody.home / "store")
    site.configure({"backup_dir": str(somebody.home / "store")})
    done = site.run("run", "db")
    assert done.returncode == 0
    assert f"{somebody.home} belongs to user {NOBODY}, who can move the store away" in done.stderr


@pytest.mark.fault("Somebody evil", "a set's file is his, as of who can move the store away for a moment")
@pytest.mark.parametrize("stream", ["db", "attachments"])
def test_a_file_of_his_in_the_store_is_not_restored_as_a_sets(site: Site, stream: str) -> None:
    (name,) = site.sets()
    paths = [site.store / Kind(stream).path(name), site.store / f"sets/{name}.json"]
    changes = (
        (["chown", str(NOBODY)], f"belongs to user {NOBODY}"),
        (["chmod", "622"], "can be written to by others"),
    )
    for path, (change, what) in itertools.product(paths, changes):
        subprocess.run([*change, path], check=True)
        before = (site.set_files(), on_disk(site.attachments))
        with listening(site) as journal:
            done = site.run("restore", stream, name, "--in-place", "--yes", wrapper=journal.wrapper)
            told = events(journal.close())
        assert (done.returncode, site.set_files(), on_disk(site.attachments)) == (4, *before), done.stderr
        assert f"{path}: {what}, expected a file of user 0" in done.stderr
        faults.saw(status=4, cause="refused", store=faults.AS_BEFORE, events=told)
        command = done.stderr.partition("hint: ")[2].strip()
        subprocess.run(["sh", "-c", command], check=True)
    known = site.store / f"sets/{name}.drill.json", site.store / f"sets/{name}.accepted"
    manifest = sets.find(site.store, name).manifest or {}
    proofs = {"result": "failed", "drilled_at": "once", "proofs": {"load": "failed"}}
    for whose, heeded in ((0, True), (NOBODY, False)):
        drill_record.write(site.store, name, manifest, proofs)
        marks.put(site.store, name, marks.Mark.ACCEPTED, now=datetime.now(UTC))
        for path in known:
            os.chown(path, whose, whose)
        found = sets.find(site.store, name)
        assert (found.state, found.accepted) == ("failed" if heeded else "verified", heeded)
    known[0].rename(site.place / "record")
    known[0].symlink_to(site.place / "record")
    os.chown(site.place / "record", 0, 0)
    assert sets.find(site.store, name).state == "verified"
    for path in known:
        path.unlink()
    recovers(site)


@pytest.mark.fault("Somebody evil", "he can rename in drill.directory, and gives root's only copy a drill's name there")
def test_no_drill_works_where_another_can_rename(somebody: Somebody) -> None:
    site, name = somebody.site, f"dental-pms-drill-{leftovers.mark_of(somebody.site.store)}-x"
    (somebody.home / "only").mkdir(mode=0o700)
    (somebody.home / "only/copy").write_text("root's")
    somebody.does(f"mv only {name}")
    site.configure({"drill.directory": str(somebody.home)})
    before = on_disk(somebody.home)
    met = drills.fails(site, "latest", cause="refused", status=4)
    assert f"drill.directory: {somebody.home} belongs to user {NOBODY}, expected {somebody.home} and what" in met.stderr
    assert on_disk(somebody.home) == before
    site.configure({"drill.directory": str(site.place)})
    (somebody.home / name).rename(site.place / name)  # as if he had brought it there, too
    assert site.run("drill", "latest").returncode == 0
    assert (site.place / name / "copy").exists()
    (site.place / name).rename(somebody.home / "only")
    drills.recovers(site)


@pytest.mark.fault(
    "Somebody evil", "he swaps directories for links while root looks at what live has more than the set"
)
def test_the_look_at_what_is_live_is_not_led_out_of_it(somebody: Somebody) -> None:
    site, wanted = somebody.site, on_disk(somebody.attachments)
    name = site.takes("attachments")
    for path in (path for path, facts in wanted.items() if facts[3]):
        (somebody.victim / Path(path).name).write_text("newer, and of another size")
    somebody.untouched = on_disk(somebody.victim)
    # between two entries of a directory: that it is one was seen with the first of them
    looking = 'case "$*" in *look_through.pl*) { head -n 12; hold; cat; } | "$real" "$@"; exit ;; esac'
    words = ["restore", "attachments", name, "--in-place", "--yes"]
    with (
        held(site, "perl", looking) as (path, waits, go),
        listening(site) as journal,
        site.running(*words, wrapper=journal.wrapper, PATH=path) as process,
    ):
        wait_until(waits.exists)
        somebody.does('mkdir mine; for each in attachments/*; do mv "$each" mine/; ln -s "$victim" "$each"; done')
        with go.open("w") as letting:
            letting.write("go\n")
        out, err = process.communicate(timeout=120)
        told = events(journal.close())
    assert (process.returncode, on_disk(somebody.attachments)) == (0, wanted), err
    assert "newer" not in out, "no file was compared that is not in the attachments"
    assert on_disk(somebody.victim) == somebody.untouched
    store = "the live attachments as the set has them, and root's files"
    faults.saw(status=0, store=store, events=told)
    again = site.run(*words)
    assert (again.returncode, on_disk(somebody.attachments)) == (0, wanted), again.stderr
    faults.recovered()


def plant(directory: Path) -> None:
    """Put what lends rights, and what does not, into attachments."""
    (directory / "evil").write_bytes(Path("/usr/bin/id").read_bytes())
    (directory / "evil").chmod(0o4755)
    os.link(directory / "evil", directory / "evil-too")
    (directory / "capable").write_bytes(Path("/usr/bin/id").read_bytes())
    (directory / "capable").chmod(0o755)
    os.setxattr(directory / "capable", "security.capability", CAPABLE)
    (directory / "trusted").write_text("trusted")
    os.setxattr(directory / "trusted", "trusted.evil", b"1")
    os.setxattr(directory / "trusted", "user.note", b"1")
    (directory / "team").mkdir()
    (directory / "team" / "both").write_text("both")
    (directory / "team" / "both").chmod(0o6755)
    (directory / "team").chmod(0o2775)
    (directory / "link").symlink_to("team")


def plant_device(directory: Path) -> None:
    """Put a device node there, as only a set may have it: one that everybody may make, be it of nothing."""
    os.mknod(directory / "device", 0o644 | stat.S_IFCHR, os.makedev(0, 0))


def lends(directory: Path) -> dict[str, str]:
    """Return which entries of a directory, or what else is at the path, have which bits and attributes."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        attributes = sorted(os.listxattr(path, follow_symlinks=False))
        mode = path.lstat().st_mode
        if mode & 0o6000 or attributes:
            found[str(path.relative_to(directory))] = " ".join([oct(mode & 0o7777), *attributes])
        if stat.S_ISCHR(mode):
            found[str(path.relative_to(directory))] = "a device"
        if stat.S_ISLNK(mode) and path.lstat().st_uid == 0:
            found[str(path.relative_to(directory))] = "a link of root, which root follows"
    return found


PLANTED = {
    "evil": "0o4755",
    "evil-too": "0o4755",
    "capable": "0o755 security.capability",
    "trusted": "0o644 trusted.evil user.note",
    "team": "0o2775",
    "team/both": "0o6755",
    "link": "a link of root, which root follows",
}
DEVICE = {"device": "a device"}
OF_A_FILE = {"trusted": "0o644 user.note"}
OF_A_SET = {**OF_A_FILE, "team": "0o2775"}


@pytest.mark.fault("Somebody evil", "an archive holds programs that lend root's rights to whoever starts them")
@pytest.mark.parametrize(
    ("source", "to", "left"),
    [
        pytest.param("file", "new", OF_A_FILE, id="a file, into a new directory"),
        pytest.param("file", "live", OF_A_FILE, id="a file, in place"),
        pytest.param("set", "new", OF_A_SET, id="a set, into a new directory"),
    ],
)
def test_what_is_unpacked_elsewhere_or_from_elsewhere_lends_no_rights(
    site: Site, source: str, to: str, left: dict[str, str]
) -> None:
    plant(site.attachments)
    name = site.takes("attachments")
    file = site.place / "from_elsewhere.tgz"
    shutil.copy(site.store / f"attachments_{name}.tgz", file)
    wanted = str(file) if source == "file" else name
    target = site.attachments if to == "live" else site.place / "new"
    where = ["--in-place", "--yes"] if to == "live" else ["--to", str(target)]
    contents = {path: facts[1:] for path, facts in on_disk(site.attachments).items()}
    if source == "set":
        plant_device(site.attachments)
        wanted = site.takes("attachments")
    with listening(site) as journal:
        done = site.run("restore", "attachments", wanted, *where, wrapper=journal.wrapper)
        told = journal.close()
    assert done.returncode == 0, done.stderr
    assert lends(target) == left
    assert {path: facts[1:] for path, facts in on_disk(target).items()} == contents
    bits = "3 files with a setuid or setgid bit and 2 entries with security.* or trusted.* attributes"
    bits += " and 1 directories with a setgid bit" if source == "file" else ""
    assert f"attachments: the archive has {bits}, which are unpacked without" in told
    devices = "attachments: the archive has 1 device nodes, which are left out"
    assert ("which are unpacked without" in done.stderr, devices in done.stderr) == (True, source == "set")
    faults.saw(status=done.returncode, store="all of the archive, without what lends rights", events=events(told))
    faults.recovered("needed nothing")


@pytest.mark.parametrize("source", ["file", "set"])
def test_what_is_extracted_lends_no_rights(site: Site, source: str) -> None:
    plant(site.attachments)
    name = site.takes("attachments")
    file = site.place / "from_elsewhere.tgz"
    shutil.copy(site.store / f"attachments_{name}.tgz", file)
    out = site.place / "out"
    out.mkdir()
    wanted = str(file) if source == "file" else name
    paths = ["evil", "evil-too", "capable", "trusted", "team", "link"]
    done = site.run("extract", wanted, *paths, "--to", str(out), "--stored-names")
    assert done.returncode == 0, done.stderr
    assert lends(out) == (OF_A_FILE if source == "file" else OF_A_SET)
    lost = 4 if source == "file" else 3
    assert f"{lost} of what was extracted lost a setuid or setgid bit" in done.stderr


def test_a_set_that_is_restored_in_place_keeps_what_the_application_had(site: Site) -> None:
    plant(site.attachments)
    plant_device(site.attachments)
    name = site.takes("attachments")
    assert lends(site.attachments) == PLANTED | DEVICE
    shutil.rmtree(site.attachments / "team")
    done = site.run("restore", "attachments", name, "--in-place", "--yes")
    assert (done.returncode, "the archive has" in done.stderr) == (0, False), done.stderr
    assert lends(site.attachments) == PLANTED | DEVICE


def test_an_archive_that_is_larger_than_the_disk_is_ended_before_that_is_full(site: Site) -> None:
    small, file = site.place / "small", site.place / "from_elsewhere.tgz"
    almost_all = "{ head -c 33000000; hold; cat; }"
    with tarfile.open(file, "w:gz") as archive:
        entry = tarfile.TarInfo("./zeros")
        entry.size = 128 << 20
        with Path("/dev/zero").open("rb") as zeros:
            archive.addfile(entry, zeros)
    with (
        mounted_tmpfs(small, 32 << 20),
        held(site, "tar", f'case "$*" in *--extract*) {almost_all} | "$real" "$@"; exit ;; esac') as (path, waits, _),
    ):
        done = site.run("restore", "attachments", str(file), "--to", f"{small}/new")
        assert (done.returncode, list(small.iterdir())) == (4, []), "what a restore needs is known before"
        assert f"free in {small}, expected over 135.9 MB for a second copy; nothing was touched" in done.stderr
        with site.running("extract", str(file), "zeros", "--to", str(small), PATH=path) as process:
            out, err = process.communicate(timeout=60)
        assert (waits.exists(), list(small.iterdir())) == (True, [])
    assert process.returncode == 1, out
    assert f"attachments: {small}: what is in the archive has taken all room but 1.7 MB and " in err
    assert f"hint: df -h {small}" in err
