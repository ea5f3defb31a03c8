"""What goes into a set comes back out of it, with nothing but gzip, psql, tar and sha256sum."""

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dental_pms_backup.drill import private_cluster
from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import OnHost
from tests import faults
from tests.integration import drills
from tests.integration.conftest import databases_like
from tests.integration.faults import events, succeeds
from tests.integration.support import (
    PATH,
    Site,
    bin_dir,
    connection,
    dump,
    environment,
    major,
    on_disk,
    sql,
)

pytestmark = pytest.mark.each_release

HUGE_ID = 4_000_000_000


@pytest.fixture(scope="module")
def other_server(grounds: Path) -> Iterator[OnHost]:
    """An empty server that lacks all roles and whose superuser has another name."""
    with private_cluster.cluster(grounds / "other", database="unused", user="backup") as server:
        yield server


@pytest.fixture
def empty_database(other_server: OnHost) -> Iterator[OnHost]:
    sql(other_server, "create database newdb")
    try:
        yield postgres.in_database(other_server, "newdb")
    finally:
        sql(other_server, "drop database newdb with (force)")


def instructed(store: Path, name: str, *, containing: str) -> list[str]:
    """Return the commands of RESTORE.txt that contain a text, with SET filled in."""
    lines = (store / "RESTORE.txt").read_text().replace("\\\n        ", "").splitlines()
    return [line.strip().replace("SET", name) for line in lines if line.startswith("    ") and containing in line]


def typed(command: str, server: OnHost) -> subprocess.CompletedProcess[str]:
    """Run a command of RESTORE.txt as root, as it stands there."""
    variables = connection(server) | {"PATH": f"{bin_dir()}:{PATH}"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("NEWDB", server.database)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_database_restored_as_restore_txt_says_dumps_to_the_same_lines_on_a_server_without_its_roles(
    site: Site, live: OnHost, empty_database: OnHost
) -> None:
    (name,) = site.sets()
    for command in instructed(site.store, name, containing="-d NEWDB")[:3]:
        done = typed(command, empty_database)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert dump(empty_database) == dump(live)
    roles = """select rolname, rolcanlogin, rolinherit, rolconnlimit, rolconfig from pg_roles
 where rolname ~ 'dental' order by 1"""
    members = "select pg_get_userbyid(roleid), pg_get_userbyid(member), admin_option from pg_auth_members order by 1, 2"
    assert sql(empty_database, roles, members) == sql(live, roles, members)


def test_roles_load_a_second_time_without_an_error(site: Site, empty_database: OnHost) -> None:
    (name,) = site.sets()
    (command,) = [line for line in instructed(site.store, name, containing="globals_") if "docker" not in line]
    for _ in range(2):
        done = typed(command, empty_database)
        assert (done.returncode, "ERROR" in done.stderr) == (0, False)


def test_large_objects_come_back_as_restore_txt_says_whatever_is_set_for_the_database(
    new_site: Site, live: OnHost, empty_database: OnHost
) -> None:
    with large_objects(live) as database:
        sql(database, "create table words (said text[])", "insert into words values (array['a', null])")
        sql(database, "create table fees (fee money)", "insert into fees values (12.5::numeric::money)")
        settings = ("default_transaction_read_only = on", "array_nulls = off", "role = 'pg_monitor'")
        sql(live, *(f"alter database {database.database} set {setting}" for setting in settings))
        new_site.configure({"native.database": database.database})
        subprocess.run(["localedef", "-i", "fr_CA", "-c", "-f", "UTF-8", "fr_CA.UTF-8"], check=True)
        with whole_server(live, "lc_monetary", "fr_CA.UTF-8"):
            name = new_site.takes("db")
        for command in instructed(new_site.store, name, containing="-d NEWDB")[:3]:
            assert typed(command, empty_database).returncode == 0
        for each in (empty_database, database):
            maintenance = postgres.in_database(each, "postgres")
            sql(maintenance, f"alter database {each.database} reset role")
        assert dump(empty_database) == dump(database)
        assert sql(empty_database, "select fee::numeric from fees") == "12.50"


# Lines that whatever writes or loads a set may take for its own, in values of more than one line.
LINES = ("GRANT a TO b GRANTED BY c", "CREATE ROLE c", "-- amounts of money: ALTER ROLE evil SUPERUSER;")
RIGHTS = "select rolsuper, rolcreatedb, pg_has_role(oid, 10, 'member') from pg_roles where rolname = 'evil'"


@pytest.mark.fault("Somebody evil", "what he sets for himself and his database looks like lines of ours")
def test_what_somebody_sets_is_text_wherever_a_set_is_loaded(site: Site, live: OnHost, empty_database: OnHost) -> None:
    sql(
        live,
        "create role evil login",
        *(f"alter role evil set my.n{n} to E'x\\n{line}'" for n, line in enumerate(LINES)),
    )
    sql(live, "alter role evil set application_name to ';ALTER ROLE evil SUPERUSER;GRANT postgres, backup TO evil;--'")
    sql(live, f"alter role evil in database practice set search_path to E'x\\n{LINES[2]}', '\n{LINES[2]}\n'")
    sql(live, f"comment on role evil is E'x\\n{LINES[0]}'", f"comment on database practice is '\n{LINES[2]}\n'")
    settings = "select rolconfig, shobj_description(oid, 'pg_authid') from pg_roles where rolname = 'evil'"
    try:
        name, taken = succeeds(site)
        drills.drills_well(site, name)
        for command in instructed(site.store, name, containing="-d NEWDB")[:3]:
            done = typed(command, empty_database)
            assert (done.returncode, "ERROR" in done.stderr) == (0, False), command
        assert sql(empty_database, settings) == sql(live, settings)
        assert sql(empty_database, RIGHTS) == "f|f|f"
        other = Site(place=site.place, server=empty_database)  # and its configuration
        sql(empty_database, "drop role evil")
        done = other.run("restore", "db", name)
        assert (done.returncode, "superuser" in done.stderr) == (0, False), done.stderr
        assert (sql(empty_database, settings), sql(empty_database, RIGHTS)) == (sql(live, settings), "f|f|f")
        faults.saw(status=0, store=faults.A_NEW_SET, events=events(taken.told))
    finally:
        sql(live, "comment on database practice is null", "drop role evil")
        for database in databases_like(empty_database, "newdb_"):
            sql(empty_database, f'drop database "{database}"')
        sql(empty_database, "drop role if exists evil")
    site.configure({})
    drills.recovers(site)


@contextlib.contextmanager
def whole_server(server: OnHost, setting: str, value: str) -> Iterator[None]:
    """Have a setting in the server's configuration, where no set's settings are."""
    before = sql(server, f"show {setting}")
    sql(server, f"alter system set {setting} = '{value}'", "select pg_reload_conf()")
    try:
        while sql(server, f"show {setting}") != value:
            pass
        yield
    finally:
        sql(server, f"alter system reset {setting}", "select pg_reload_conf()")
        while sql(server, f"show {setting}") != before:
            pass


def test_a_membership_that_two_roles_have_granted_comes_back_as_it_was(
    new_site: Site, live: OnHost, empty_database: OnHost
) -> None:
    sql(live, "create role doctors", "create role anna", "create role chief createrole")
    two = (" with inherit true, set true", " with inherit false, set false") if major() >= 16 else ("", "")
    sql(live, "grant doctors to chief with admin option", f"grant doctors to anna{two[0]}")
    sql(live, f"set role chief; grant doctors to anna{two[1]}")
    try:
        name = new_site.takes("db")
        (command,) = [line for line in instructed(new_site.store, name, containing="globals_") if "docker" not in line]
        assert typed(command, empty_database).returncode == 0
        other = "set" if major() >= 16 else "member"
        can = f"select pg_has_role('anna', 'doctors', 'usage'), pg_has_role('anna', 'doctors', '{other}')"
        assert sql(empty_database, can) == sql(live, can) == "t|t"
    finally:
        for server in (live, empty_database):
            sql(server, "drop role if exists anna, chief, doctors")


@contextlib.contextmanager
def large_objects(live: OnHost) -> Iterator[OnHost]:
    """A database with large objects in it."""
    sql(live, "create database with_objects")
    database = postgres.in_database(live, "with_objects")
    try:
        sql(
            database,
            "create table letters (id int primary key, content oid)",
            r"""insert into letters select n, lo_from_bytea(0, decode(repeat(md5(n::text), n), 'hex'))
 from generate_series(1, 40) n""",
        )
        yield database
    finally:
        sql(live, "drop database with_objects with (force)")


def test_no_password_hash_is_in_a_set_unless_asked_for(new_site: Site) -> None:
    name = new_site.takes("db")
    roles = gzip.decompress((new_site.store / f"db/globals_{name}.sql.gz").read_bytes()).decode()
    assert "dental_app" in roles
    assert "PASSWORD" not in re.sub(r"^--.*$", "", roles, flags=re.MULTILINE)
    new_site.configure({"database.role_passwords": True})
    name = new_site.takes("db")
    roles = gzip.decompress((new_site.store / f"db/globals_{name}.sql.gz").read_bytes()).decode()
    assert "PASSWORD 'SCRAM-SHA-256$" in roles


def test_the_checksum_file_is_what_sha256sum_reads(site: Site) -> None:
    (name,) = site.sets()
    (command,) = instructed(site.store, name, containing="sha256sum")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    paths = (
        f"db/db_{name}.sql.gz",
        f"db/globals_{name}.sql.gz",
        f"db/settings_{name}.sql.gz",
        f"attachments_{name}.tgz",
    )
    assert done.stdout == "".join(f"{path}: OK\n" for path in paths)


def test_the_manifest_says_what_the_files_are_and_where_they_came_from(site: Site) -> None:
    (name,) = site.sets()
    manifest = json.loads((site.store / f"sets/{name}.json").read_text())
    entries = [entry for part in manifest["streams"].values() for entry in part["artefacts"]]
    for entry in entries:
        content = (site.store / entry["path"]).read_bytes()
        assert (entry["size_bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert [entry["path"] for entry in entries] == [
        f"db/db_{name}.sql.gz",
        f"db/globals_{name}.sql.gz",
        f"db/settings_{name}.sql.gz",
        f"attachments_{name}.tgz",
    ]
    taken_at = datetime.fromisoformat(manifest["taken_at"])
    assert timedelta(0) < datetime.now(UTC) - taken_at < timedelta(hours=1)
    assert taken_at.astimezone().strftime("%Y-%m-%d_%H%M%S") == manifest["set"] == name
    source = manifest["streams"]["db"]["source"]
    assert (source["source"], source["database"]) == ("native", "practice")
    assert source["server_version"] // 10_000 == major()
    assert manifest["streams"]["attachments"]["entries"] == 23
    assert manifest["streams"]["attachments"]["changed"] == []


def test_everything_in_the_store_is_for_its_owner_only(site: Site) -> None:
    site.takes()
    modes = {name: stat.filemode(facts[0]) for name, facts in on_disk(site.store).items()}
    assert set(modes.values()) == {"drwx------", "-rw-------"}
    assert stat.filemode(site.store.stat().st_mode) == "drwx------"
    assert {path.stat().st_uid for path in site.store.rglob("*")} == {0}


def test_a_run_of_one_stream_makes_a_set_of_one_stream(new_site: Site) -> None:
    database = new_site.takes("db")
    attachments = new_site.takes("attachments")
    assert sorted(new_site.set_files()) == sorted(
        [
            f"attachments_{attachments}.tgz",
            f"db/db_{database}.sql.gz",
            f"db/globals_{database}.sql.gz",
            f"db/settings_{database}.sql.gz",
            *(f"sets/{name}.{ending}" for name in (database, attachments) for ending in ("json", "sha256")),
        ]
    )
    assert new_site.run("verify").stdout == f"{database}: good\n{attachments}: good\n"


def test_a_run_prints_the_lines_that_the_seed_printed(new_site: Site) -> None:
    done = new_site.run("run")
    (name,) = new_site.sets()
    store = new_site.store
    database, attachments = store / f"db/db_{name}.sql.gz", store / f"attachments_{name}.tgz"
    assert re.sub(r"duration_seconds=\d+", "duration_seconds=N", done.stdout).splitlines() == [
        "backup_type=db",
        f"backup_root={store}",
        f"backup_file={database}",
        f"backup_size_bytes={database.stat().st_size}",
        "retention_keep=14",
        "retention_deleted=0",
        "backup_type=attachments",
        f"backup_root={store}",
        f"backup_file={attachments}",
        f"backup_size_bytes={attachments.stat().st_size}",
        f"attachments_source={new_site.attachments}",
        "retention_keep=14",
        "retention_deleted=0",
        f"db_file={database}",
        f"db_size_bytes={database.stat().st_size}",
        f"attachments_file={attachments}",
        f"attachments_size_bytes={attachments.stat().st_size}",
        "duration_seconds=N",
        "backup_run_status=ok",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="session")
def programs(grounds: Path) -> Path:
    """Links to all programs of this machine but the compressors."""
    directory = grounds / "programs"
    directory.mkdir(mode=0o755)
    for path in [path for place in reversed(PATH.split(":")) for path in Path(place).glob("*")]:
        if path.name not in {"igzip", "pigz", "gzip"}:
            (directory / path.name).unlink(missing_ok=True)
            (directory / path.name).symlink_to(path)
    return directory


@pytest.mark.parametrize("compressor", ["igzip", "pigz", "gzip"])
def test_each_compressor_makes_plain_gzip(new_site: Site, programs: Path, compressor: str) -> None:
    packers = new_site.place / "packers"
    packers.mkdir(mode=0o755)
    note = new_site.place / "used"
    for name in {compressor, "gzip"}:
        executable = packers / name
        executable.write_text(f'#!/bin/sh\necho "{name} $*" >> {note}\nexec {shutil.which(name, path=PATH)} "$@"\n')
        executable.chmod(0o755)
    new_site.takes(PATH=f"{packers}:{programs}")
    assert {line.split()[0] for line in note.read_text().splitlines() if line.endswith("-c")} == {compressor}
    for file in [*new_site.store.glob("db/*.gz"), *new_site.store.glob("*.tgz")]:
        assert subprocess.run(["gzip", "--test", file], capture_output=True, check=False).returncode == 0
    assert new_site.run("verify").returncode == 0


def test_two_dumps_of_one_database_and_two_archives_of_one_tree_hold_the_same(site: Site) -> None:
    first, second = site.sets()[0], site.takes("attachments")
    same = [gzip.decompress((site.store / f"attachments_{name}.tgz").read_bytes()) for name in (first, second)]
    assert len(same[0]) == len(same[1])


def test_every_entry_of_a_hostile_tree_comes_back_as_it_was(new_site: Site) -> None:
    shutil.rmtree(new_site.attachments)
    new_site.attachments.mkdir()
    with hostile_tree(new_site.attachments):
        name = new_site.takes("attachments")
        new = new_site.place / "restored"
        make, unpack, look = instructed(new_site.store, name, containing="NEWDIR")
        typed_words = f"umask 022; {make} && {unpack}".replace("NEWDIR", str(new))
        done = subprocess.run(["bash", "-c", typed_words], capture_output=True, text=True, check=False)
        assert (done.returncode, new.stat().st_mode & 0o7777) == (0, 0o700)
        restored = new / "attachments"
        looked = subprocess.run(look.replace("NEWDIR", str(new)).split(), capture_output=True, text=True, check=True)
        assert f"{restored}/mode-4755\n" in looked.stdout
        assert [line for line in done.stderr.splitlines() if "time stamp" not in line] == []
        expected, found = described(new_site.attachments), described(restored)
        assert expected.pop("socket")
        assert found == expected
        assert json.loads((new_site.store / f"sets/{name}.json").read_text())["streams"]["attachments"][
            "entries"
        ] == len(expected) + hard_link_count(new_site.attachments) - hard_link_count(restored)
        allocated = (restored / "sparse").stat().st_blocks * 512
        assert allocated < 1 << 20
    assert subprocess.run(
        ["tar", "-tzf", new_site.store / f"attachments_{name}.tgz"], capture_output=True, check=True
    ).stdout.startswith(b"./")


def hard_link_count(tree: Path) -> int:
    return sum(1 for path in tree.iterdir() if path.name.startswith("link"))


@contextlib.contextmanager
def hostile_tree(tree: Path) -> Iterator[None]:
    """Fill a directory with everything that archives are known to lose."""
    for raw in (
        b"new\nline",
        b"-rf",
        b"--checkpoint-action=exec=sh",
        b"inv\xff\xfealid",
        b"\\back\\n",
        b" space ",
        b"n" * 255,
        "ü".encode() * 127,
        b"*",
        b"'\"$(id)`",
        b"\x1b[31m",
        b"~",
        b"C:",
    ):
        (tree / os.fsdecode(raw)).write_bytes(b"content of " + raw)
    deep = tree.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "deep").write_bytes(b"deep")
    (tree / "empty").mkdir()
    (tree / "link1").write_bytes(b"linked")
    (tree / "link2").hardlink_to(tree / "link1")
    (tree / "dangling").symlink_to("/nowhere/" + "x" * 150)
    (tree / "up").symlink_to("../../etc")
    (tree / "empty-file").touch()
    os.mkfifo(tree / "fifo")
    with open(tree / "sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"in the middle")
    for mode in (0o000, 0o4755, 0o2755, 0o1777, 0o666):
        path = tree / f"mode-{mode:o}"
        path.write_bytes(b"m")
        path.chmod(mode)
        directory = tree / f"dir-{mode:o}"
        directory.mkdir()
        (directory / "inside").write_bytes(b"i")
        directory.chmod(mode)
    for owner in (HUGE_ID, 2_097_152, 12345):
        path = tree / f"owner-{owner}"
        path.write_bytes(b"o")
        os.chown(path, owner, owner - 1)
    (tree / "attributes").write_bytes(b"a")
    os.setxattr(tree / "attributes", "user.comment", b"two\nlines\0and a zero")
    os.setxattr(tree / "attributes", "trusted.note", b"for root")
    os.setxattr(tree / "empty", "user.of-a-directory", b"")
    (tree / "listed").write_bytes(b"l")
    subprocess.run(["setfacl", "-m", f"u:backup:r,g:12345:rw,u:{HUGE_ID}:x", tree / "listed"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:backup:rx", tree / "empty"], check=True)
    os.setxattr(tree / "listed", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    for name, seconds, nanoseconds in (
        ("before-1970", -86_400 * 400, 0),
        ("before-1970-fraction", -1234, 987_654_321),
        ("fraction", 1_700_000_000, 123_456_789),
        ("after-2038", 4_102_444_800, 1),
    ):
        (tree / name).write_bytes(b"t")
        moment = seconds * 1_000_000_000 + nanoseconds
        os.utime(tree / name, ns=(moment, moment))
    os.utime(tree / "dangling", ns=(1, 1_600_000_000_000_000_007), follow_symlinks=False)
    os.utime(tree / "empty", ns=(1, 5_000_000_003))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tree / "socket"))
    listener.close()
    os.utime(tree, ns=(1, 1_500_000_000_000_000_001))
    tree.chmod(0o2750)
    yield


def described(tree: Path) -> dict[str, object]:
    """Return everything about every entry of a tree by its name, the tree itself as "."."""
    first: dict[int, str] = {}
    found = {}
    for path in (tree, *sorted(tree.rglob("*"))):
        name = str(path.relative_to(tree))
        found[name] = one(path, same_as=first.setdefault(path.lstat().st_ino, name))
    return found


def one(path: Path, *, same_as: str) -> object:
    status = path.lstat()
    content = b""
    if path.is_symlink():
        content = os.fsencode(path.readlink())
    elif path.is_file():
        content = hashlib.sha256(path.read_bytes()).digest()
    names = os.listxattr(path, follow_symlinks=False)
    return (
        stat.filemode(status.st_mode),
        (status.st_uid, status.st_gid),
        status.st_size if path.is_file() else 0,
        status.st_mtime_ns,
        content,
        {name: os.getxattr(path, name, follow_symlinks=False) for name in names},
        same_as if status.st_nlink > 1 and not path.is_dir() else "",
    )
