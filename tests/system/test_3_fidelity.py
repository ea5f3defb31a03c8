"""What comes back is what was there: by the documents' own commands, row by row and entry by entry."""

import re
import shlex

import pytest

from tests.system import admin, compare, practice
from tests.system.machine import Machine

pytestmark = pytest.mark.each_release

IN_CONTAINER = practice.in_db("{program} -U dental -d {database}")
ON_HOST = "runuser -u postgres -- {program} -d {database}"


@pytest.fixture
def host(practice_machine: Machine) -> Machine:
    admin.make_ready(practice_machine)
    practice_machine.run("rm -rf /srv/newdir /srv/before")
    return practice_machine


def documented(text: str, **names: str) -> list[str]:
    """Return the command lines that README.md or RESTORE.txt give for a restore, with the admin's names put in."""
    joined = re.sub(r" *\\\n\s+", " ", text)
    commands = re.findall(
        r"^    ((?:cd|createdb|gzip|\{ gzip|mkdir|tar|docker compose exec) .*)$", joined, re.MULTILINE
    )
    for name, value in names.items():
        commands = [re.sub(rf"(?<![A-Z]){name}(?![A-Z])", value, command) for command in commands]
    return commands


def readme() -> str:
    text = (admin.REPOSITORY / "README.md").read_text()
    return text.partition("### Without this program")[2].partition("\n## ")[0]


def taken(host: Machine) -> str:
    """Let the service make a set and return its name."""
    host.run(f"systemctl start {admin.SERVICE}")
    (stored,) = admin.sets(host)
    assert stored["state"] == "verified"
    return str(stored["set"])


def assert_same_tree(host: Machine, original: str, restored: str) -> None:
    before, after = (compare.tree(host.path(path)) for path in (original, restored))
    assert before.keys() == after.keys()
    different = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert different == {}
    assert len(before) > 800


def assert_same_database(host: Machine, original: str, restored: str, database: str) -> None:
    """Compare two databases, each reached by a command line for `program` and `database`."""
    pair = ((original, practice.DATABASE), (restored, database))
    before, after = (compare.rows(host, way.format(program="psql", database=name)) for way, name in pair)
    assert before == after
    assert len(before) > 20
    if original == restored:
        dumps = [compare.schema(host, way.format(program="pg_dump", database=name)) for way, name in pair]
        assert dumps[0] == dumps[1]


def test_readme_commands_bring_back_every_row_and_every_entry_of_the_compose_project(host: Machine) -> None:
    name = taken(host)
    checked, createdb, globals_, own, database, mkdir, tar = documented(
        readme(), STORE=admin.FALLBACK_STORE, SET=name, NEWDB="newdb", NEWDIR="/srv/newdir"
    )
    assert host.run(checked).stdout.count(": OK\n") == 4
    host.run(f"cd {admin.FALLBACK_STORE} && {mkdir} && {tar}")
    assert_same_tree(host, practice.ATTACHMENTS, "/srv/newdir/attachments")
    # 15 loads into 17; a dump of 17 loads into 17 only, so on Debian 12 the new database is in the container.
    if host.suite == "trixie":
        run, way = "PGUSER=postgres setpriv --reuid=postgres --regid=postgres --init-groups {}", ON_HOST
    else:
        exec_there = '#!/bin/sh\nexec docker exec -i -e PGUSER=dental dental-pms-db-1 ${0##*/} "$@"\n'
        for program in ("psql", "createdb"):
            host.write(f"/usr/local/bin/{program}", exec_there, mode=0o755)
        run, way = "{}", IN_CONTAINER
    try:
        for command in (createdb, globals_, own, database):
            words = command.replace("| psql", "| " + run.format("psql")) if "|" in command else run.format(command)
            host.run(f"PATH=/usr/local/bin:$PATH; cd {admin.FALLBACK_STORE} && {words}")
        assert_same_database(host, IN_CONTAINER, way, "newdb")
    finally:
        host.run("rm -f /usr/local/bin/psql /usr/local/bin/createdb; rm -rf /srv/newdir")
        host.run(way.format(program="psql", database="postgres") + " -qc 'drop database if exists newdb'")


def test_readme_commands_bring_back_every_row_of_a_native_database(host: Machine) -> None:
    admin.make_native_ready(host)
    host.write(admin.CONFIG, admin.NATIVE)
    name = taken(host)
    _, createdb, globals_, own, database, mkdir, tar = documented(
        readme(), STORE=admin.FALLBACK_STORE, SET=name, NEWDB="newdb", NEWDIR="/srv/newdir"
    )
    host.run(f"cd {admin.FALLBACK_STORE} && {mkdir} && {tar}")
    assert_same_tree(host, admin.NATIVE_ATTACHMENTS, "/srv/newdir/attachments")
    as_postgres = "setpriv --reuid=postgres --regid=postgres --init-groups"
    try:
        host.run(f"{as_postgres} {createdb}")
        for command in (globals_, own, database):
            host.run(f"cd {admin.FALLBACK_STORE} && {command.replace('| psql', f'| {as_postgres} psql')}")
        assert_same_database(host, ON_HOST, ON_HOST, "newdb")
    finally:
        host.run(
            ON_HOST.format(program="psql", database="postgres")
            + " -qc 'drop database if exists newdb'; rm -rf /srv/newdir"
        )


def test_roles_of_a_set_make_the_dump_loadable_on_a_server_that_lacks_them(host: Machine) -> None:
    name = taken(host)
    fresh = "docker exec -i fresh"
    host.run(
        "docker run --detach --rm --name fresh --network none -e POSTGRES_PASSWORD=x -e POSTGRES_USER=dental"
        f" -e POSTGRES_DB=other {practice.IMAGE} postgres"
    )
    try:
        ready = f"{fresh} psql -h 127.0.0.1 -w -U dental other -c '' 2>&1 | grep -q 'no password'"
        host.run(f"until {ready}; do sleep 0.2; done")
        for file in ("globals", "db"):
            load = f"{fresh} psql -U dental -d other -X -q -v ON_ERROR_STOP=1 -o /dev/null"
            host.run(f"gzip -dc {admin.FALLBACK_STORE}/db/{file}_{name}.sql.gz | {load}")
        assert_same_database(host, IN_CONTAINER, "docker exec -i fresh {program} -U dental -d {database}", "other")
        # but for the heir of what another test restored from a file
        owners = "select rolname from pg_roles where rolname ~ '^dental.' and rolname <> 'dental_pms_owner' order by 1"
        found = host.run(f"{fresh} psql -U dental -d other -XAtc {shlex.quote(owners)}").stdout.splitlines()
        assert found == ["dental reports", "dental_app", "dental_readonly"]
    finally:
        host.run("docker rm --force --volumes fresh")


def test_restore_instructions_in_the_store_work_as_they_stand(host: Machine) -> None:
    name = taken(host)
    text = host.run(f"cat {admin.FALLBACK_STORE}/RESTORE.txt").stdout
    commands = documented(text, SET=name, NEWDB="newdb", NEWDIR="/srv/newdir")
    checked = next(command for command in commands if "sha256sum" in command)
    assert host.run(checked).stdout.count(": OK\n") == 4
    in_container = [command for command in commands if "docker compose exec" in command]
    try:
        if host.suite == "trixie":
            for command in in_container:
                host.run(f"cd {practice.PROJECT_DIR} && {command}")
            assert_same_database(host, IN_CONTAINER, IN_CONTAINER, "newdb")
        for command in commands:
            if command.startswith(("mkdir", "tar")):
                host.run(command)
        assert_same_tree(host, practice.ATTACHMENTS, "/srv/newdir/attachments")
    finally:
        host.run("rm -rf /srv/newdir")
        practice.sql(host, "drop database if exists newdb")


def test_restore_in_place_brings_back_every_row_and_every_entry(host: Machine) -> None:
    name = taken(host)
    host.run(f"rm -rf /srv/before && cp -a {practice.ATTACHMENTS} /srv/before")
    psql = IN_CONTAINER.format(program="psql", database=practice.DATABASE)
    pg_dump = IN_CONTAINER.format(program="pg_dump", database=practice.DATABASE)
    rows, dump = compare.rows(host, psql), compare.schema(host, pg_dump)
    practice.sql(host, "truncate patients cascade; create schema more; select lo_create(77)")
    host.run(f"rm -r {practice.ATTACHMENTS}/*; touch {practice.ATTACHMENTS}/new; chmod 700 {practice.ATTACHMENTS}")
    for stream in ("db", "attachments"):
        done = admin.dental(host, f"restore {stream} {name} --in-place --yes")
        assert (done.returncode, done.stderr) == (0, "")
        host.run(dict(admin.values(done.stdout)).get("restore_drop", "true"))
    assert compare.rows(host, psql) == rows
    assert compare.schema(host, pg_dump) == dump
    assert_same_tree(host, "/srv/before", practice.ATTACHMENTS)
    host.run(f"cp -a /srv/before/odd/socket {practice.ATTACHMENTS}/odd/; rm -r /srv/before")


def test_archive_of_a_plain_tar_has_relative_members_only(host: Machine) -> None:
    name = taken(host)
    listed = host.run(f"tar -tzf {admin.FALLBACK_STORE}/attachments_{name}.tgz").stdout.splitlines()
    assert listed[0] == "./"
    assert all(member.startswith("./") for member in listed)
    assert all(".." not in member.split("/") for member in listed)
