"""The server is gone: what the man page says then, typed as it stands, brings the whole practice back."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import admin, compare, practice
from tests.system.machine import Machine
from tests.system.test_3_fidelity import IN_CONTAINER, ON_HOST, assert_same_tree

PSQL = IN_CONTAINER.format(program="psql", database=practice.DATABASE)
PG_DUMP = IN_CONTAINER.format(program="pg_dump", database=practice.DATABASE)
BACKEND = """\
while [ -e /tmp/backend ]; do
    psql "host=/var/run/postgresql user=dental dbname=dental_pms" -XAtqc "select count(*) from notes" 2>&1 | tail -n 1
    sleep 0.1
done"""


@pytest.fixture
def host(practice_machine: Machine) -> Machine:
    admin.make_ready(practice_machine)
    return practice_machine


def commands() -> list[str]:
    """Return the commands of the man page's section, in order."""
    text = (admin.REPOSITORY / "debian/dental-pms-backup.8.scd").read_text()
    section = re.search(r"^# THE SERVER IS GONE$(.*?)^# ", text, re.DOTALL | re.MULTILINE)
    assert section
    block = re.search(r"^```\n(.*?)^```$", section[1], re.DOTALL | re.MULTILINE)
    assert block
    return block[1].splitlines()


def type_all(host: Machine) -> None:
    """Type the commands of the man page, each of which has to succeed."""
    for command in commands():
        if "docker compose" in command and host.suite != "trixie":
            practice.make_containers(host)
            continue
        if "timer" in command:
            admin.wait_for(lambda: admin.state(host) == "inactive")
        done = host.run(command, check=False, timeout_s=180)
        assert (done.returncode, done.stderr if command.startswith("dental") else "") == (0, ""), (command, done)
        if "restore all" in command:
            printed = dict(admin.values(done.stdout))
            assert printed["restore_all_status"] == "ok"
            assert int(printed["attachment_rows_with_files"]) > 500
            assert "restore_safety_set=none, the live database was empty\n" in done.stdout
            assert "live_has_more" not in done.stdout
    assert [each["state"] for each in admin.sets(host)] == ["verified", "verified"]


@pytest.fixture
def new_server(host: Machine) -> Iterator[Machine]:
    """A machine just booted, with docker, this package and the practice's compose project; nothing else."""
    package = Path(admin.package_file(host))
    machine = Machine(host.work, f"new-{host.suite}")
    machine.boot(host.suite)
    try:
        machine.copy_in(host.path(str(package)), f"/root/{package.name}")
        machine.install(f"/root/{package.name}")
        practice.bring_project(machine)
        yield machine
    finally:
        machine.kill()
        subprocess.run(["rm", "--recursive", "--force", machine.directory], check=True)


@pytest.mark.sweep
def test_a_new_machine_gets_the_whole_practice_back_from_the_store_alone(host: Machine, new_server: Machine) -> None:
    admin.took(host)
    new_server.run(f"mkdir --parents {Path(admin.FALLBACK_STORE).parent}")
    both = [machine.path(admin.FALLBACK_STORE) for machine in (host, new_server)]
    subprocess.run(["cp", "--archive", *both], check=True)
    type_all(new_server)
    assert compare.rows(new_server, PSQL) == compare.rows(host, PSQL)
    assert compare.schema(new_server, PG_DUMP) == compare.schema(host, PG_DUMP)
    before, after = (compare.tree(machine.path(practice.ATTACHMENTS)) for machine in (host, new_server))
    assert after == before
    assert len(after) > 800


@pytest.mark.each_release
def test_the_commands_of_the_man_page_bring_an_empty_server_back(host: Machine) -> None:
    admin.took(host)
    rows, dump = compare.rows(host, PSQL), compare.schema(host, PG_DUMP)
    host.run(f"rm -rf /srv/before && cp -a {practice.ATTACHMENTS} /srv/before")
    remove_all(host)
    try:
        type_all(host)
        assert compare.rows(host, PSQL) == rows
        assert compare.schema(host, PG_DUMP) == dump
        assert_same_tree(host, "/srv/before", practice.ATTACHMENTS)
    finally:
        host.run(f"systemctl disable --quiet --now {admin.TIMER}")
        host.run(f"cp -a /srv/before/odd/socket {practice.ATTACHMENTS}/odd/; rm -r /srv/before", check=False)
        drop_kept(host)


def remove_all(host: Machine) -> None:
    """Remove containers and volumes, as a new server has none; the store stays."""
    host.run(f"docker rm --force --volumes {practice.PROJECT}-db-1 {practice.PROJECT}-backend-1")
    host.run(f"docker network rm {practice.PROJECT}_default", check=False)
    volumes = "dental_pms_db dental_pms_attachments"
    host.run("docker volume rm " + " ".join(f"{practice.PROJECT}_{volume}" for volume in volumes.split()))


def drop_kept(host: Machine) -> None:
    """Drop the databases that restores have kept or made beside the live one."""
    drop = "select format('drop database %I with (force)', datname) from pg_database"
    practice.sql(host, f"{drop} where datname like 'dental_pms_%' \\gexec\n")


def test_a_backend_at_work_goes_on_with_the_restored_database(host: Machine) -> None:
    name = dict(admin.took(host, "run db"))["db_file"].partition("/db/db_")[2].removesuffix(".sql.gz")
    rows = compare.rows(host, PSQL)
    host.run(f"cat >/root/backend.sh <<'END'\n{BACKEND}\nEND\n")
    container = f"{practice.PROJECT}-db-1"
    host.run(f"docker exec {container} touch /tmp/backend")
    host.run(f"docker exec -i {container} sh -s </root/backend.sh >/root/seen 2>&1 & echo $! >/root/backend.pid")
    held = practice.in_db(f"psql -U {practice.USER} -d {practice.DATABASE} -qAt")
    host.run(f'echo "begin; select count(*) from notes; select pg_sleep(600)" | {held} >/dev/null 2>&1 &')  # noqa: S608 - no SQL of anybody else
    holds = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and query ~ 'pg_sleep.600'"
    left = practice.sql(host, "delete from notes where id > 10; select count(*) from notes")
    try:
        admin.wait_for(lambda: practice.sql(host, holds) == "1")
        admin.wait_for(lambda: host.run("tail -n 1 /root/seen").stdout == f"{left}\n")
        done = admin.dental(host, f"restore db {name} --in-place --yes")
        assert (done.returncode, done.stderr) == (0, "")
        admin.wait_for(lambda: host.run("tail -n 1 /root/seen").stdout == "15003\n")
        assert compare.rows(host, PSQL) == rows
        safety = dict(admin.values(done.stdout))["restore_safety_set"]
        assert admin.dental(host, f"verify {safety}").returncode == 0
    finally:
        host.run(f"docker exec {container} rm -f /tmp/backend; kill $(cat /root/backend.pid)", check=False)
        practice.sql(
            host,
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            " and query like '%pg_sleep(600)%'",
        )
        drop_kept(host)


def test_the_switch_that_a_restore_beside_prints_is_what_an_admin_can_type(host: Machine) -> None:
    admin.took(host, "run db")
    rows = compare.rows(host, PSQL)
    done = admin.dental(host, "restore db latest --to beside")
    assert (done.returncode, done.stderr) == (0, "")
    there = IN_CONTAINER.format(program="psql", database="beside")
    assert compare.rows(host, there) == rows
    practice.sql(host, "delete from notes where id > 10")
    try:
        host.run(dict(admin.values(done.stdout))["restore_switch"])
        assert compare.rows(host, PSQL) == rows
    finally:
        drop_kept(host)


def test_a_patients_file_comes_out_of_a_set_under_its_original_name(host: Machine) -> None:
    admin.took(host)
    asked = "select storage_key, original_filename from attachments where byte_size > 0 order by 1 limit 1"
    key, name = practice.sql(host, asked).split("|")
    host.run("rm -rf /root/out && mkdir /root/out")
    done = admin.dental(host, f"extract latest attachments/{key} --to /root/out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"extracted_path=attachments/{key}\nextracted=/root/out/{name}\n"
    host.run(f"cmp '/root/out/{name}' {practice.ATTACHMENTS}/attachments/{key} && rm -r /root/out")


def test_a_dump_of_an_older_server_is_restored_and_one_of_a_newer_refused(host: Machine) -> None:
    file = dict(admin.took(host, "run db"))["db_file"]
    rows = compare.rows(host, PSQL)
    admin.make_native_ready(host)
    host.write(admin.CONFIG, admin.NATIVE)
    names = "runuser -u postgres -- psql -XAtc 'select datname from pg_database order by 1'"
    before = host.run(names).stdout
    done = admin.dental(host, f"restore db {file} --to other_major")
    if host.suite == "bookworm":  # its server is 15, the containers' 17
        assert (done.returncode, done.stdout) == (4, "")
        assert f"{file}: a dump of PostgreSQL 17, expected of 15, the server's, or older\n" in done.stderr
        assert "hint: a server of PostgreSQL 17 takes it" in done.stderr
        assert host.run(names).stdout == before
        return
    assert (done.returncode, done.stderr) == (0, "")
    assert compare.rows(host, ON_HOST.format(program="psql", database="other_major")) == rows
    host.run(dict(admin.values(done.stdout))["restore_drop"])
    assert host.run(names).stdout == before
