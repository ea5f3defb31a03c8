"""One throwaway PostgreSQL for all tests, a practice in it, and a site for each test."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dental_pms_backup.drill import private_cluster
from dental_pms_backup.host import durable
from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from tests import faults, scope
from tests.integration.drills import change_manifest
from tests.integration.support import JOURNAL, PROGRAMS, TREE, Site, as_cluster_user, bin_dir, release, sql

USERS = TREE / "systemd/dental-pms-backup.sysusers"
DRILL_UIDS = {"trixie": 871, "bookworm": 872}
PRACTICE = Path(__file__).with_name("practice.sql")
AS_IN_A_DRILL = ("-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
# What does not depend on the release is seen on one: the order of steps on a disk, filesystems, clocks, content.
ON_ONE_RELEASE = {"test_power_loss", "test_clocks", "test_faults_content", "test_faults_store"}


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests that meet a fault be rows of tests/FAULTS.md, and leave out what is not in scope."""
    for plugin in (faults, scope):
        if not config.pluginmanager.is_registered(plugin):
            config.pluginmanager.register(plugin)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to Debian 13 what does not depend on the release."""
    if release() != "trixie":
        left_out = [item for item in items if item.path.stem in ON_ONE_RELEASE]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.path.stem not in ON_ONE_RELEASE]


@pytest.fixture(scope="session")
def grounds() -> Iterator[Path]:
    """A directory that every user may pass through, with a short name: sockets stand in it."""
    if os.geteuid() != 0:
        pytest.exit("the integration tests run as root: tests/run integration", returncode=4)
    if (JOURNAL / "socket").exists():
        pytest.exit("a journal is here, expected a root without one: tests/run integration", returncode=4)
    subprocess.run(["systemd-sysusers", USERS], check=True)  # as the package's installation does
    # The kernel counts a user's processes by number, in all roots together: what a dump starts in one must not be felt
    # in the other.
    subprocess.run(["usermod", f"--uid={DRILL_UIDS[release()]}", "dental-pms-drill"], check=True)
    directory = Path(tempfile.mkdtemp(prefix="dental-pms-it-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        durable.remove_tree(directory)


@pytest.fixture(scope="session")
def live(grounds: Path) -> Iterator[OnHost]:
    """The live server, with the sample practice in its database."""
    with private_cluster.cluster(grounds / "live", database="practice") as server:
        loaded = as_cluster_user(server, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", stdin=PRACTICE.read_text())
        assert loaded.returncode == 0, loaded.stderr
        sql(server, "checkpoint")  # else a crash in a test would move the sequences on, for all tests after it
        if scope.SCOPE == "ci":
            _copy_clusters_from_now_on(grounds)
        yield server


def _copy_clusters_from_now_on(grounds: Path) -> None:
    """Let initdb copy one cluster for every drill, in this root only: making it is an eighth of these tests' work."""
    for directory in ("changed", "work"):
        (grounds / directory).mkdir()
    layers = f"lowerdir={PROGRAMS},upperdir={grounds / 'changed'},workdir={grounds / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", PROGRAMS], check=True)
    first, initdb = bin_dir().parent / "first", bin_dir() / "initdb"
    first.mkdir()
    shutil.chown(first, "postgres")
    as_postgres = ["setpriv", "--reuid=postgres", "--clear-groups"]
    subprocess.run([*as_postgres, initdb, "-D", first / "data", *AS_IN_A_DRILL], check=True, stdout=subprocess.DEVNULL)
    (first / "words").write_text(" ".join(AS_IN_A_DRILL))
    subprocess.run(["chmod", "--recursive", "a+rX", first], check=True)
    initdb.rename(initdb.with_name("initdb.real"))
    shutil.copy(Path(__file__).with_name("initdb"), initdb)


@pytest.fixture
def place(grounds: Path) -> Iterator[Path]:
    """A directory of a test's own that every user may pass through."""
    directory = Path(tempfile.mkdtemp(dir=grounds))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        durable.remove_tree(directory)


@pytest.fixture(scope="session")
def first_store(grounds: Path, live: OnHost) -> Path:
    """A store with one set of the practice, to be copied."""
    place = grounds / "first"
    place.mkdir()
    site = Site(place=place, server=live)
    fill(site.attachments)
    site.takes()
    return site.store


@pytest.fixture
def new_site(place: Path, live: OnHost) -> Site:
    """A site with a few attachments and no store yet."""
    site = Site(place=place, server=live)
    fill(site.attachments)
    return site


@pytest.fixture
def site(new_site: Site, first_store: Path) -> Site:
    """A site with one set in its store."""
    shutil.copytree(first_store, new_site.store, copy_function=shutil.copy2)
    return new_site


@pytest.fixture
def own_database(site: Site, live: OnHost) -> Iterator[Site]:
    """A site whose live database is a copy of its own, which a restore may replace."""
    name = f"copy_{site.place.name}"
    made = f'create database "{name}" template practice'
    oid = sql(live, made, f"select oid from pg_database where datname = '{name}'")  # noqa: S608 - ours
    site.server = postgres.in_database(live, name)
    site.configure({"native.database": name})
    source = {"database": name, "database_oid": int(oid)}
    for taken in site.sets():  # as if of that database
        change_manifest(site, taken, lambda manifest: manifest["streams"]["db"]["source"].update(source))
    try:
        yield site
    finally:
        for database in databases_like(live, name):  # those that a restore made or kept, too
            sql(live, f'drop database "{database}" with (force)')
        sql(live, f'drop role if exists "{name}_owner"')


def databases_like(server: OnHost, name: str) -> list[str]:
    """Return the databases of a server whose names begin so."""
    return [each for each in sql(server, "select datname from pg_database").splitlines() if each.startswith(name)]


def fill(attachments: Path) -> None:
    (attachments / "2026").mkdir(parents=True)
    for number in range(20):
        (attachments / f"2026/{number:04d}.jpg").write_bytes(os.urandom(3000 + number * 700))
    (attachments / "2026/letter to Mrs canary-name-0815.txt").write_text("Dear")
