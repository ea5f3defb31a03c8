"""Whose database it is: a stranger under the same name is no silent success, and what else the server has is told."""

from dental_pms_backup.live import postgres
from tests.integration.drills import change_manifest
from tests.integration.faults import listening
from tests.integration.support import Site, dump, of_another_server, sql


def test_a_server_of_the_same_name_is_suspect_and_replaced_by_its_name_only(own_database: Site) -> None:
    site, name = own_database, own_database.server.database
    (first,) = site.sets()
    change_manifest(site, first, of_another_server)
    done = site.run("run", "db")
    assert (done.returncode, "failure=suspect\n" in done.stdout) == (1, True)
    assert "is suspect: db: another server, with the system identifier " in done.stderr
    assert f"expected that of set {first}, 4711; is it the practice's, moved or upgraded?" in done.stderr
    before = dump(site.server)
    for variables in ({}, {"CONFIRM": "YES"}, {"CONFIRM": "practice"}):
        done = site.run("restore", "db", first, "--in-place", "--yes", **variables)
        assert done.returncode == 4
        assert (
            f"restore: the set was taken of another server than this one, whose database {name} is not empty, "
            "expected CONFIRM to name that database; nothing was touched"
        ) in done.stderr
        assert f"hint: if it is the one to replace: CONFIRM={name} before the same command with --yes\n" in done.stderr
    assert dump(site.server) == before
    assert site.run("restore", "db", first, "--in-place", "--yes", CONFIRM=name).returncode == 0
    site.takes("db")  # no stranger any more: a restore went there


def test_another_database_of_the_server_is_replaced_by_its_name_only_and_its_set_is_never_latest(
    own_database: Site,
) -> None:
    site, server = own_database, own_database.server
    (ours,) = site.sets()
    other = postgres.in_database(server, f"{server.database}_accounting")
    sql(postgres.in_database(server, "postgres"), f'create database "{other.database}"')
    sql(other, "create table bills as select generate_series(1, 1000) as id")
    site.configure({"native.database": other.database})
    assert "failure=suspect\n" in site.run("run", "db").stdout  # the wrong name for one night
    before = dump(other)
    for how in ((), ("--replace", "--as-superuser")):
        done = site.run("restore", "db", ours, "--in-place", "--yes", *how, CONFIRM="YES")
        assert (done.returncode, done.stdout.startswith(f"restoring=set {ours} of ")) == (4, True)
        assert (
            f"restore: the set was taken of database {server.database}, and the database {other.database} here is not "
            "empty, expected CONFIRM to name that database; nothing was touched"
        ) in done.stderr
    assert dump(other) == before
    site.configure({"native.database": server.database})
    done = site.run("restore", "db", "latest", "--in-place", "--yes")
    assert (done.returncode, done.stdout.startswith(f"restoring=set {ours} of ")) == (0, True), done.stderr
    for words in (("show", "latest"), ("extract", "latest", "--table", "patients", "--csv")):
        assert site.run(*words).stdout == site.run(words[0], ours, *words[2:]).stdout != ""
    assert site.run("keep", "latest").stdout.startswith(f"set {ours} is pinned")


def test_a_suspect_server_is_the_practices_once_it_is_accepted(own_database: Site) -> None:
    change_manifest(own_database, own_database.sets()[0], of_another_server)
    assert own_database.run("run", "db").returncode == 1
    assert own_database.run("accept", own_database.sets()[-1]).returncode == 0
    own_database.takes("db")


def test_a_database_that_was_made_anew_and_others_with_tables_are_told(own_database: Site) -> None:
    site, name = own_database, own_database.server.database
    maintenance = postgres.in_database(site.server, "postgres")
    sql(maintenance, f'drop database "{name}"')
    sql(maintenance, f'create database "{name}" template practice')
    sql(maintenance, f'create database "{name}_before_2026_11_28_023000" template practice')
    site.configure({"database.others": None})  # as by default
    with listening(site) as journal:
        done = site.run("run", "db", wrapper=journal.wrapper)
        told = journal.close()
    assert done.returncode == 0
    anew = f"db: the database {name} is not the one that set {site.sets()[0]} was taken of: "
    assert anew in told
    assert "db: the server has other databases with tables, which no set holds: practice\n" in told
    assert "# list them in database.others, or set database.name to the one that is meant" in told
    site.configure({"database.others": ["practice"]})
    with listening(site) as journal:
        assert site.run("run", "db", wrapper=journal.wrapper).returncode == 0
        told = journal.close()
    assert "no set holds" not in told
    assert anew not in told
