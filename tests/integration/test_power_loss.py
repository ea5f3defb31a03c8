"""Whenever the power fails, all sets are there as before, or as they were to be, and the next run puts it in order."""

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dental_pms_backup.host.durable import draft_path
from dental_pms_backup.live.postgres import OnHost
from dental_pms_backup.store import publishing, restore_txt, sets
from dental_pms_backup.store.sets import NAME_PATTERN
from tests import faults
from tests.faults import A_NEW_SET, AS_BEFORE
from tests.integration import filesystems, traces
from tests.integration.faults import LOCK_ALL, assert_whole, events, listening, recovers
from tests.integration.support import SET_FILES, Site, dumps_running, session, wait_until
from tests.integration.test_offsite import configure
from tests.integration.traces import Disk, Step, Tree

AS_BEFORE_OR_AFTER = "all sets as they were, or as they were to be"
RUNS = 2
SOME_RUN = f"ok, of {RUNS} of all that may remain; the others are put in order"
DRAFT = re.compile(r"(^|.*/)\.([^/]+)\.draft")
MANIFEST = re.compile(rf"sets/({NAME_PATTERN})\.json")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A command that was done: the steps that it took in a directory, and the files there before and after."""

    steps: list[Step]
    before: Tree
    after: Tree
    store: str

    def of_store(self, tree: Tree) -> Tree:
        return {path.removeprefix(self.store): content for path, content in tree.items() if path.startswith(self.store)}


def recorded(site: Site, *words: str, below: Path | None = None) -> Recorded:
    below = below or site.store
    trace = site.place / "trace"
    before = tree_of(below)
    done = site.run(*words, wrapper=traces.wrapper(trace))
    assert done.returncode == 0, done.stderr
    after = tree_of(below)
    store = os.path.relpath(str(site.settings["backup_dir"]), below)
    return Recorded(merged(traces.steps(trace, below)), before, after, "" if store == "." else f"{store}/")


def tree_of(directory: Path) -> Tree:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


def merged(steps: list[Step]) -> list[Step]:
    """Make one step of writes that follow each other: between them nothing gets safe."""
    done: list[Step] = []
    for step in steps:
        if done and step.what == done[-1].what == "write" and step.path == done[-1].path:
            done.append(dataclasses.replace(step, content=done.pop().content + step.content))
        else:
            done.append(step)
    return done


@functools.lru_cache(maxsize=1000)
def digest(content: bytes | None) -> str:
    return hashlib.sha256(content or b"").hexdigest()


def manifests(tree: Tree) -> dict[str, dict[str, Any]]:
    """Return each manifest that has its name, empty where it cannot be read."""
    found = {}
    for path, content in tree.items():
        if match := MANIFEST.fullmatch(path):
            try:
                found[match[1]] = json.loads(content or b"")
            except ValueError:
                found[match[1]] = {}
    return found


def whole(tree: Tree) -> set[tuple[str, str]]:
    """Return each stream of a set that is there as its manifest says."""
    return {
        (name, stream)
        for name, manifest in manifests(tree).items()
        for stream, part in manifest.get("streams", {}).items()
        if all(digest(tree.get(entry["path"])) == entry["sha256"] for entry in part["artefacts"])
    }


def half(tree: Tree, *, trimmed: bool = True) -> Iterator[str]:
    """Yield each set whose manifest promises what is not there; ``trimmed`` ones may have checksums of more files."""
    for name, manifest in manifests(tree).items():
        if not manifest or {(name, stream) for stream in manifest["streams"]} - whole(tree):
            yield f"set {name} is not whole"
            continue
        said = (tree.get(f"sets/{name}.sha256") or b"").decode().splitlines()
        wanted = sets.checksum_lines(manifest).splitlines()
        if said != wanted and not (trimmed and manifest.get("trimmed") and set(wanted) < set(said)):
            yield f"set {name} has other checksums"


def stranded(tree: Tree, before: Tree) -> Iterator[str]:
    """Yield each new set of which a file has its name, but which the next run cannot finish."""
    for name in set_names(path for path in tree if SET_FILES.fullmatch(path)) - manifests(before | tree).keys():
        files = [path for path in tree if name in path and not path.startswith(".entries")]
        finished = {DRAFT.sub(r"\1\2", path): tree[path] for path in files}
        if len(finished) < len(files) or name not in {each for each, _ in whole(finished)} or list(half(finished)):
            yield f"set {name} has names, but no way to get its manifest"


def torn(tree: Tree) -> Iterator[str]:
    """Yield each small file of the store of which there is only a part."""
    for path, end in (("last-run.json", b"}\n"), ("RESTORE.txt", b"\n")):
        if path in tree and not (tree[path] or b"").endswith(end):
            yield f"{path} is torn"


def set_names(paths: Iterable[str]) -> set[str]:
    return {match[0] for path in paths if (match := re.search(NAME_PATTERN, path))}


def objections(run: Recorded) -> Iterator[str]:
    """Yield what may be wrong in the store after a power failure, after each of a command's steps."""
    was, will_be = (whole(run.of_store(tree)) for tree in (run.before, run.after))
    disk = Disk(run.before)
    for step in run.steps:
        disk.take(step)
        for remains in disk.remains():
            tree = run.of_store(remains)
            wrong = [*half(tree), *stranded(tree, run.of_store(run.before)), *torn(tree)]
            if not (whole(tree) >= was or whole(tree) >= will_be):
                wrong.append("neither all sets of before nor all of after are there")
            if step.what == "say" and counting(tree) != counting(run.of_store(run.after)):
                wrong.append("what was said may be lost")
            yield from (f"{text}, after: {step}" for text in wrong)


def counting(tree: Tree) -> Tree:
    kept = ("ledger.jsonl", "last-run.json", "RESTORE.txt")
    return {path: content for path, content in tree.items() if SET_FILES.fullmatch(path) or path in kept}


def a_first_set(site: Site) -> Recorded:
    shutil.rmtree(site.store)
    below = site.place / "disk"
    below.mkdir()
    site.configure({"backup_dir": str(below / "new/deep/store")})
    return recorded(site, "run", below=below)


def one_set_more(site: Site) -> Recorded:
    return recorded(site, "run")


def a_set_for_which_another_goes(site: Site) -> Recorded:
    site.configure({"keep": 1})
    return recorded(site, "run")


def a_database_for_which_another_goes(site: Site) -> Recorded:
    site.configure({"keep": 1})
    return recorded(site, "run", "db")


def attachments_for_which_others_go(site: Site) -> Recorded:
    site.configure({"keep": 1})
    return recorded(site, "run", "attachments")


def a_set_after_a_publication_that_was_cut_off(site: Site) -> Recorded:
    (name,) = site.sets()
    for path in (site.store / f"sets/{name}.json", site.store / f"attachments_{name}.tgz"):
        path.rename(draft_path(path))
    return recorded(site, "run")


def a_set_after_a_removal_that_was_cut_off(site: Site) -> Recorded:
    run = a_database_for_which_another_goes(site)
    (name,) = set_names(run.before)
    (site.store / f"sets/{name}.sha256").write_bytes(run.before[f"sets/{name}.sha256"] or b"")
    return recorded(site, "run")


def prune(site: Site) -> Recorded:
    site.takes()
    site.takes("db")
    site.configure({"keep": 1})
    return recorded(site, "prune")


def keep(site: Site) -> Recorded:
    (site.store / "ledger.jsonl").unlink()
    return recorded(site, "keep", "latest")


def release(site: Site) -> Recorded:
    assert site.run("keep", "latest").returncode == 0
    return recorded(site, "keep", "--release", "latest")


def accept(site: Site) -> Recorded:
    (path,) = site.store.glob("sets/*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "suspicions": ["strange"]}))
    return recorded(site, "accept", *site.sets())


def fetch(site: Site) -> Recorded:
    configure(site, site.place / "there", "secret")
    name = site.takes()
    assert site.run("offsite", "push").returncode == 0
    for path in [path for path in site.store.rglob("*") if name in path.name]:
        path.unlink()
    return recorded(site, "offsite", "fetch", name)


SCENES = {
    "the first set": a_first_set,
    "one set more": one_set_more,
    "a set for which another goes": a_set_for_which_another_goes,
    "a database for which another goes": a_database_for_which_another_goes,
    "attachments for which others go": attachments_for_which_others_go,
    "a set after a publication that was cut off": a_set_after_a_publication_that_was_cut_off,
    "a set after a removal that was cut off": a_set_after_a_removal_that_was_cut_off,
    "prune": prune,
    "keep": keep,
    "keep, to release": release,
    "accept": accept,
    "offsite fetch": fetch,
}


@pytest.mark.sample(2)
@pytest.mark.fault("Ourselves", "a disk loses its power, and all that was not synced")
@pytest.mark.parametrize("moment", ["in the middle of the dump", "once a run said ok"])
def test_a_disk_that_loses_what_was_not_synced_has_all_sets_that_a_run_told_of(
    new_site: Site, live: OnHost, moment: str
) -> None:
    site, disk = new_site, new_site.place / "disk"
    image = filesystems.made("ext4", site.place / "image", 64 << 20)
    site.configure({"backup_dir": str(disk / "store"), "reserve_mb": 0, "database.lock_wait_s": 300})
    (site.place / "store").symlink_to(disk / "store")
    with filesystems.mounted("ext4", image, disk), listening(site) as journal:
        first = site.takes()
        before = site.set_files()
        (disk / "not synced").write_text("lost")
        if moment.startswith("in"):
            with session(live, LOCK_ALL), site.running("run", wrapper=journal.wrapper) as process:
                wait_until(lambda: dumps_running(live) == 2)
                filesystems.lose_power(disk)
                process.kill()
            status: int | str = "killed"
        else:
            done = site.run("run", wrapper=journal.wrapper)
            filesystems.lose_power(disk)
            assert done.stdout.endswith("backup_run_status=ok\n"), done.stderr
            status = done.returncode
        told = events(journal.close())
    with filesystems.mounted("ext4", image, disk):
        assert not (disk / "not synced").exists() or not (disk / "not synced").read_text()
        after = site.set_files()
        assert {path: after.get(path) for path in before} == before
        names = site.sets()
        assert (names[0], len(names)) == (first, 1 if status == "killed" else 2)
        for name in names:
            assert_whole(site, name)
        faults.saw(status=status, store=AS_BEFORE if status == "killed" else A_NEW_SET, events=told)
        recovers(site)


@pytest.mark.sample(6)
@pytest.mark.fault("Ourselves", "the power fails after any step of")
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_a_power_failure_after_any_step_leaves_all_sets_as_they_were_or_as_they_were_to_be(
    site: Site, scene: Callable[[Site], Recorded]
) -> None:
    run = scene(site)
    assert sorted(set(objections(run))) == []
    faults.saw(status="power lost, in a model", store=AS_BEFORE_OR_AFTER, events=None)
    trees = all_that_may_remain(run)
    for tree in trees:
        put_in_order(run, tree, site.place / "copy")
    for tree in trees[len(trees) // 3 :: len(trees) // RUNS]:
        runs_on(site, run, tree)
    faults.recovered(SOME_RUN)


def all_that_may_remain(run: Recorded) -> list[Tree]:
    disk = Disk(run.before)
    found = {}
    for step in run.steps:
        disk.take(step)
        for tree in disk.remains():
            found[frozenset((path, content) for path, content in tree.items())] = tree
    return list(found.values())


def put_in_order(run: Recorded, tree: Tree, copy: Path) -> None:
    """Let what a run does first put in order what was left: nothing is half, and no new file lacks its manifest."""
    laid_out(tree, copy)
    if (copy / run.store / "sets").is_dir():
        publishing.recover(copy / run.store)
    after = run.of_store(tree_of(copy))
    shutil.rmtree(copy)
    was, will_be = (whole(run.of_store(each)) for each in (run.before, run.after))
    assert list(half(after, trimmed=False)) == []
    assert whole(after) >= was or whole(after) >= will_be
    assert set_names(after) - manifests(after).keys() <= manifests(run.of_store(run.before)).keys()
    assert [path for path in after if path.rpartition("/")[2].startswith(".")] in ([], [".lock"])


def runs_on(site: Site, run: Recorded, tree: Tree) -> None:
    """Put what was left in the place of the store, and take a set: all sets are good then."""
    below = Path(str(site.settings["backup_dir"]).removesuffix(f"/{run.store}".rstrip("/")))
    shutil.rmtree(below)
    laid_out(tree, below)
    store = below / run.store
    wanted = {name for name, _ in whole(run.of_store(tree))}
    done = site.run("run", BACKUP_KEEP="99")
    assert done.returncode == 0, done.stderr
    assert {stored.name for stored in sets.listing(store) if stored.manifest and not stored.problems} > wanted
    assert site.run("verify").returncode == 0


def laid_out(tree: Tree, directory: Path) -> None:
    directory.mkdir(mode=0o700)
    for path, content in sorted(tree.items()):
        if content is None:
            (directory / path).mkdir(mode=0o700)
        else:
            (directory / path).write_bytes(content)
            (directory / path).chmod(0o600)


BEGINNING = "sync ."  # that the report says "unfinished": a killed run's machine has not lost power
REMOVAL = ["sync sets", "sync ledger.jsonl", "sync .", "sync ledger.jsonl"]  # a later one makes the same safe


@pytest.mark.thorough
@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("scene", "needless"), [(one_set_more, [BEGINNING]), (a_set_for_which_another_goes, [BEGINNING, *REMOVAL])]
)
def test_the_model_objects_when_an_fsync_is_missing(
    site: Site, scene: Callable[[Site], Recorded], needless: list[str]
) -> None:
    restore_txt.leave(site.store)
    run = scene(site)
    without = [
        (step, dataclasses.replace(run, steps=[each for each in run.steps if each is not step]))
        for step in run.steps
        if step.what == "sync"
    ]
    assert len(without) > 15
    assert [str(step) for step, run in without if not any(objections(run))] == needless


@pytest.mark.fault("Ourselves", "the power fails after any step of putting attachments back")
def test_a_power_failure_while_attachments_are_put_back_loses_nothing_that_was_live(new_site: Site) -> None:
    site = new_site
    shutil.rmtree(site.attachments)
    live = site.place / "live/attachments"
    live.mkdir(parents=True)
    site.configure({"attachments.path": str(live)})
    for name in ("same", "changed", "lost"):
        (live / name).write_text(f"{name} in the set")
    site.takes("attachments")
    wanted = tree_of(live)
    (live / "lost").unlink()
    (live / "changed").write_text("changed since")
    (live / "new").mkdir()
    (live / "new/file").write_text("new")
    run = recorded(site, "restore", "attachments", "latest", "--in-place", "--yes", below=live.parent)
    was = inside(run.before, "attachments")
    assert "restore_status=ok" in str(run.steps[-1])
    disk, trees = Disk(run.before), []
    for step in run.steps:
        disk.take(step)
        for tree in disk.remains():
            trees.append(tree)
            now = inside(tree, "attachments")
            kept = inside(tree, next((path for path in tree if re.fullmatch("[^/]*before-restore[^/]*", path)), "none"))
            assert [path for path in was if was[path] not in (now.get(path), kept.get(path))] == [], step
            assert "restore_status=ok" not in str(step) or (now, kept) == (wanted, was)
    faults.saw(status="power lost, in a model", store="all that was live, there or kept beside", events=None)
    for tree in trees[len(trees) // 3 :: len(trees) // RUNS]:
        shutil.rmtree(live.parent)
        laid_out(tree, live.parent)
        done = site.run("restore", "attachments", "latest", "--in-place", "--yes")
        assert done.returncode == 0, done.stderr
        assert tree_of(live) == wanted
    recovers(site)


def inside(tree: Tree, directory: str) -> Tree:
    beginning = f"{directory}/"
    return {path.removeprefix(beginning): content for path, content in tree.items() if path.startswith(beginning)}
