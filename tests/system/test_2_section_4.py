"""The seed's interface, kept: a test for each row of the contract's section 4 and each sentence of the runbook."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import admin, practice
from tests.system.machine import Machine

FEW = "/srv/few"
NATIVE_DATABASE = "database: {source: native}\nnative: {database: dental_pms}\n"
MOMENT = r"\d{4}-\d{2}-\d{2}_\d{6}"


@pytest.fixture
def host(practice_machine: Machine) -> Machine:
    """Both machines as the package was delivered, with a directory of few files beside the practice's many."""
    admin.make_ready(practice_machine)
    practice_machine.run(
        f"rm -rf {FEW} && mkdir {FEW} && echo x-ray >{FEW}/a.dcm && mkdir {FEW}/sub && echo b >{FEW}/sub/b"
    )
    return practice_machine


@pytest.fixture(params=["compose", "native"])
def source(request: pytest.FixtureRequest, host: Machine) -> str:
    """Where the database of the host stands, as its configuration says."""
    if request.param == "native":
        admin.make_native_ready(host)
        host.write(admin.CONFIG, NATIVE_DATABASE + f"attachments: {{path: {FEW}}}\napplication: {{table: null}}\n")
    return str(request.param)


@pytest.fixture
def scratch(host: Machine) -> Iterator[None]:
    """A table in the practice's database that a test may change."""
    practice.sql(host, "drop table if exists later, scratch_pad; create table scratch_pad (n int primary key)")
    practice.sql(host, "insert into scratch_pad select generate_series(1, 5)")
    yield
    practice.sql(host, "drop table scratch_pad")


def live_rows(host: Machine, source: str, query: str) -> str:
    if source == "compose":
        return practice.sql(host, query)
    psql = f"runuser -u postgres -- psql -d {practice.DATABASE} -v ON_ERROR_STOP=1 -XAtq"
    return host.run(psql, stdin=query).stdout.strip()


def archived_names(host: Machine, file: str) -> list[str]:
    return sorted(host.run(f"tar -tzf {file}").stdout.splitlines())


# --- | bash ops/backup_run.sh | dental-pms-backup run |


@pytest.mark.each_release
@pytest.mark.usefixtures("source")
def test_row_backup_run_sh_is_run(host: Machine) -> None:
    printed = admin.took(host, "run", environment={"ATTACHMENTS_PATH": FEW})
    (stored,) = admin.sets(host)
    store, name = admin.FALLBACK_STORE, stored["set"]
    db, attachments = f"{store}/db/db_{name}.sql.gz", f"{store}/attachments_{name}.tgz"
    db_size, attachments_size = (host.run(f"stat -c %s {file}").stdout.strip() for file in (db, attachments))
    duration = printed[-2]
    assert re.fullmatch(r"duration_seconds=\d+", "=".join(duration))
    assert printed == [
        ("backup_type", "db"),
        ("backup_root", store),
        ("backup_file", db),
        ("backup_size_bytes", db_size),
        ("retention_keep", "14"),
        ("retention_deleted", "0"),
        ("backup_type", "attachments"),
        ("backup_root", store),
        ("backup_file", attachments),
        ("backup_size_bytes", attachments_size),
        ("attachments_source", FEW),
        ("retention_keep", "14"),
        ("retention_deleted", "0"),
        ("db_file", db),
        ("db_size_bytes", db_size),
        ("attachments_file", attachments),
        ("attachments_size_bytes", attachments_size),
        duration,
        ("backup_run_status", "ok"),
    ]
    assert admin.names(host, store) == [
        f"./attachments_{name}.tgz",
        f"./db/db_{name}.sql.gz",
        f"./db/globals_{name}.sql.gz",
        f"./db/settings_{name}.sql.gz",
        f"./sets/{name}.json",
        f"./sets/{name}.sha256",
    ]


def test_row_backup_db_sh_is_run_db(host: Machine) -> None:
    printed = admin.took(host, "run db")
    assert [key for key, _ in printed] == [
        "backup_type",
        "backup_root",
        "backup_file",
        "backup_size_bytes",
        "retention_keep",
        "retention_deleted",
        "db_file",
        "db_size_bytes",
        "duration_seconds",
        "backup_run_status",
    ]
    name = admin.sets(host)[0]["set"]
    assert admin.names(host, admin.FALLBACK_STORE) == [
        f"./db/db_{name}.sql.gz",
        f"./db/globals_{name}.sql.gz",
        f"./db/settings_{name}.sql.gz",
        f"./sets/{name}.json",
        f"./sets/{name}.sha256",
    ]


def test_row_backup_attachments_sh_is_run_attachments(host: Machine) -> None:
    printed = admin.took(host, "run attachments", environment={"ATTACHMENTS_PATH": FEW})
    assert [key for key, _ in printed] == [
        "backup_type",
        "backup_root",
        "backup_file",
        "backup_size_bytes",
        "attachments_source",
        "retention_keep",
        "retention_deleted",
        "attachments_file",
        "attachments_size_bytes",
        "duration_seconds",
        "backup_run_status",
    ]
    name = admin.sets(host)[0]["set"]
    assert admin.names(host, admin.FALLBACK_STORE) == [
        f"./attachments_{name}.tgz",
        f"./sets/{name}.json",
        f"./sets/{name}.sha256",
    ]
    assert archived_names(host, dict(printed)["attachments_file"]) == ["./", "./a.dcm", "./sub/", "./sub/b"]


# --- | BACKUP_DIR=… BACKUP_KEEP=21 | the same variables, over the YAML's backup_dir, keep |


def test_row_backup_dir_and_backup_keep_stand_over_the_yaml(host: Machine) -> None:
    host.write(
        admin.CONFIG,
        f"backup_dir: /srv/store/yaml\nkeep: 3\nattachments: {{path: {FEW}}}\napplication: {{table: null}}\n",
    )
    over = {"BACKUP_DIR": "/srv/store/variable", "BACKUP_KEEP": "21"}
    by_variable = dict(admin.took(host, "run attachments", environment=over))
    by_yaml = dict(admin.took(host, "run attachments"))
    assert [by_variable["backup_root"], by_variable["retention_keep"]] == ["/srv/store/variable", "21"]
    assert [by_yaml["backup_root"], by_yaml["retention_keep"]] == ["/srv/store/yaml", "3"]
    shown = json.loads(admin.dental(host, "config show --json", environment=over).stdout)
    assert shown["store"] == "/srv/store/variable"
    assert shown["keys"]["keep"] == {"value": 21, "origin": "environment BACKUP_KEEP"}


# --- | ATTACHMENTS_PATH=… | over the YAML's path; without either, the /data mount of compose service backend |


def test_row_attachments_path_stands_over_the_yaml(host: Machine) -> None:
    host.write(admin.CONFIG, "attachments: {path: /srv/dental-pms}\n")
    printed = dict(admin.took(host, "run attachments", environment={"ATTACHMENTS_PATH": FEW}))
    assert printed["attachments_source"] == FEW
    assert archived_names(host, printed["attachments_file"]) == ["./", "./a.dcm", "./sub/", "./sub/b"]


def test_row_attachments_come_from_the_backends_volume_without_a_path(host: Machine) -> None:
    assert dict(admin.took(host, "run attachments"))["attachments_source"] == practice.ATTACHMENTS


def test_row_attachments_come_from_the_volume_of_a_stopped_backend(host: Machine) -> None:
    host.run("docker stop --time 2 dental-pms-backend-1")
    try:
        assert dict(admin.took(host, "run attachments"))["attachments_source"] == practice.ATTACHMENTS
    finally:
        host.run("docker start dental-pms-backend-1")


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_row_attachments_come_from_the_backends_bind_mount(host: Machine, state: str) -> None:
    labels = {
        "project": "bound",
        "service": "backend",
        "oneoff": "False",
        "container-number": "1",
        "project.working_dir": "/srv/bound",
    }
    options = " ".join(f"--label com.docker.compose.{name}={value}" for name, value in labels.items())
    verb = "run --detach" if state == "running" else "create"
    host.write(admin.CONFIG, "compose: {project_dir: /srv/bound}\n")
    host.run(f"docker {verb} --name bound --network none {options} --volume {FEW}:/data {practice.IMAGE} idle")
    try:
        printed = dict(admin.took(host, "run attachments"))
    finally:
        host.run("docker rm --force --volumes bound; rm -rf /srv/bound")
    assert printed["backup_root"] == "/srv/bound/.run/backups"
    assert printed["attachments_source"] == FEW


def test_row_attachments_variable_that_names_no_directory_fails(host: Machine) -> None:
    done = admin.dental(host, "run attachments", environment={"ATTACHMENTS_PATH": "/srv/missing"})
    assert (done.returncode, done.stdout) == (1, "failure=source\nbackup_run_status=failed\n")
    assert done.stderr.splitlines()[0] == (
        "dental-pms-backup: attachments: /srv/missing: No such file or directory, expected a directory to read"
    )


# --- | BACKUP_KEEP default 14 per stream | the same default; 0, negative and non-numbers are refused by name |


def test_row_backup_keep_default_is_14_per_stream_and_an_older_scripts_files_count(host: Machine) -> None:
    host.run(
        f"mkdir -p {admin.STORE}/db && cd {admin.STORE}"
        f" && for day in {{10..24}}; do echo select 1 | gzip >db/db_2026-01-$day'_023000.sql.gz';"
        f" tar -czf attachments_2026-01-$day'_023000.tgz' -C {FEW} .; done"
    )
    printed = admin.took(host, "run", environment={"ATTACHMENTS_PATH": FEW})
    assert [value for key, value in printed if key.startswith("retention_")] == ["14", "2", "14", "2"]
    stored = admin.sets(host)
    assert [entry["set"] for entry in stored[:-1]] == [f"2026-01-{day}_023000" for day in range(12, 25)]
    left = admin.names(host, admin.STORE)
    assert len([path for path in left if path.startswith("./db/db_")]) == 14
    assert len([path for path in left if path.startswith("./attachments_")]) == 14


def test_row_retention_counts_each_stream_by_itself(host: Machine) -> None:
    few = {"ATTACHMENTS_PATH": FEW, "BACKUP_KEEP": "2"}
    for command in ("run attachments", "run attachments", "run", "run attachments"):
        admin.took(host, command, environment=few)
    sizes = [
        (entry["db_size_bytes"] is not None, entry["attachments_size_bytes"] is not None) for entry in admin.sets(host)
    ]
    assert sizes == [(True, True), (False, True)]


NOT_AT_LEAST_ONE = {
    "0": "0 is too small",
    "-1": "-1 is too small",
    "many": '"many" is not a whole number',
    "2.5": '"2.5" is not a whole number',
    "007": '"007" is not a whole number',
    "": '"" is not a whole number',
}
EXPECTED = "expected a whole number from 1 to 1000000\nhint: man dental-pms-backup.yaml\n"


def test_row_backup_keep_that_is_no_number_of_at_least_one_is_refused_by_name(host: Machine) -> None:
    for given, said in NOT_AT_LEAST_ONE.items():
        done = admin.dental(host, "run", environment={"BACKUP_KEEP": given})
        assert (done.returncode, done.stdout) == (78, "failure=configuration\nbackup_run_status=failed\n")
        assert done.stderr == f"dental-pms-backup: environment: BACKUP_KEEP: {said}, {EXPECTED}"
    assert host.run(f"ls {admin.FALLBACK_STORE}", check=False).returncode == 2


def test_row_keep_of_the_yaml_is_refused_by_name_with_its_line(host: Machine) -> None:
    for given in ("0", "-1", "many", "2.5"):
        host.write(admin.CONFIG, f"# how many\nkeep: {given}\n")
        done = admin.dental(host, "run")
        assert (done.returncode, done.stdout) == (78, "failure=configuration\nbackup_run_status=failed\n")
        assert done.stderr == f"dental-pms-backup: {admin.CONFIG}:2: keep: {NOT_AT_LEAST_ONE[given]}, {EXPECTED}"


# --- | backup_run_status=ok on stdout, exit 0 | on failure backup_run_status=failed and failure=<cause> |


def test_row_failed_run_says_so_with_its_cause_and_leaves_earlier_sets_alone(host: Machine) -> None:
    admin.took(host, "run", environment={"ATTACHMENTS_PATH": FEW})
    before = admin.files(host, admin.FALLBACK_STORE)
    host.run("docker stop --time 2 dental-pms-db-1")
    try:
        host.write(
            admin.CONFIG,
            f"keep: 1\nretry: {{attempts: 1}}\nattachments: {{path: {FEW}}}\napplication: {{table: null}}\n",
        )
        done = admin.dental(host, "run")
    finally:
        host.run("docker start dental-pms-db-1")
        practice.wait_until_healthy(host)
    assert (done.returncode, done.stdout) == (75, "failure=database\nbackup_run_status=failed\n")
    assert done.stderr == (
        'dental-pms-backup: db: service "db" of the project in /srv/dental-pms does not run '
        "(dental-pms-db-1 is exited), expected one running container\n"
        "hint: docker compose --project-directory /srv/dental-pms up --detach db\n"
    )
    assert admin.files(host, admin.FALLBACK_STORE) == before


# --- | latest files exist and are non-empty | verified, not only non-empty |


@pytest.fixture
def cut_dump(host: Machine) -> Iterator[None]:
    """The container's pg_dump writes half of what it should and says that all went well."""
    script = '#!/bin/sh\n/usr/lib/postgresql/*/bin/pg_dump "$@" | head -c 1000000\n'
    write = "docker exec -i dental-pms-db-1 sh -c 'cat >/usr/local/bin/pg_dump && chmod 755 /usr/local/bin/pg_dump'"
    host.run(write, stdin=script)
    yield
    host.run("docker exec dental-pms-db-1 rm /usr/local/bin/pg_dump")


@pytest.mark.usefixtures("cut_dump")
def test_row_half_a_dump_of_a_pg_dump_that_exits_0_is_no_backup(host: Machine) -> None:
    done = admin.dental(host, "run", environment={"ATTACHMENTS_PATH": FEW})
    assert (done.returncode, done.stdout) == (1, "failure=verification\nbackup_run_status=failed\n")
    assert admin.names(host, admin.FALLBACK_STORE) == []
    assert admin.sets(host) == []


def test_row_latest_files_that_were_damaged_later_are_found_by_verify(host: Machine) -> None:
    printed = dict(admin.took(host, "run", environment={"ATTACHMENTS_PATH": FEW}))
    assert admin.dental(host, "verify latest").returncode == 0
    host.run(f"printf x | dd of={printed['db_file']} bs=1 seek=5000 conv=notrunc")
    done = admin.dental(host, "verify")
    name = admin.sets(host)[0]["set"]
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, f"{name}: damaged")


# --- | CONFIRM=YES ./ops/db_restore.sh FILE | CONFIRM=YES dental-pms-backup restore db FILE|SET --in-place |


@pytest.mark.usefixtures("scratch")
def test_row_db_restore_sh_is_restore_db_in_place(host: Machine) -> None:
    file = dict(admin.took(host, "run db"))["db_file"]
    host.run(f"gzip -dc {file} >/root/dump.sql && cp {file} /root/dump.sql.gz")
    for wanted in ("/root/dump.sql", "/root/dump.sql.gz", admin.sets(host)[0]["set"], "latest"):
        practice.sql(host, "delete from scratch_pad; delete from notes where id > 10; create table later (n int)")
        done = admin.dental(host, f"restore db {wanted} --in-place", environment={"CONFIRM": "YES"})
        assert (done.returncode, done.stderr) == (0, "")
        opened = wanted if wanted.startswith("/") else file
        printed = [pair for pair in admin.values(done.stdout) if pair[0].startswith("restore_")]
        assert printed[:3] == [("restore_type", "db"), ("restore_file", opened), ("restore_target", "dental_pms")]
        assert printed[-1] == ("restore_status", "ok")
        assert "live_has_more=1 rows of public.later\n" not in done.stdout, "an empty table is no loss"
        counted = (
            "select (select count(*) from scratch_pad), (select count(*) from notes), to_regclass('later') is null"
        )
        assert practice.sql(host, counted) == "5|15003|t"
        run_as_admin = dict(printed)["restore_drop"]
        host.run(run_as_admin)
    assert practice.sql(host, "select count(*) from pg_database where datname like 'dental_pms_%'") == "0"


@pytest.mark.each_release
def test_row_db_restore_works_natively(host: Machine) -> None:
    admin.make_native_ready(host)
    host.write(admin.CONFIG, NATIVE_DATABASE)
    admin.took(host, "run db")
    live_rows(host, "native", "delete from notes where id > 10")
    done = admin.dental(host, "restore db latest --in-place --yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert live_rows(host, "native", "select count(*) from notes") == "15003"
    host.run(dict(admin.values(done.stdout))["restore_drop"])


def test_row_restore_without_the_admins_word_is_refused(host: Machine) -> None:
    admin.took(host, "run", environment={"ATTACHMENTS_PATH": FEW})
    for stream in ("db", "attachments"):
        for confirm in ({}, {"CONFIRM": "yes"}, {"CONFIRM": ""}):
            done = admin.dental(host, f"restore {stream} latest --in-place", environment=confirm)
            assert (done.returncode, done.stdout) == (4, "")
            assert done.stderr == (
                f"dental-pms-backup: restore: this replaces the live {stream}, expected --yes or CONFIRM=YES\n"
                f"hint: CONFIRM=YES dental-pms-backup restore {stream} latest --in-place\n"
            )


# --- | strict replay: drop schema public, ON_ERROR_STOP=1 | in one transaction where the server allows it |


@pytest.mark.usefixtures("scratch")
def test_row_strict_replay_of_a_bad_dump_leaves_the_live_database_as_it_was(host: Machine) -> None:
    file = dict(admin.took(host, "run db"))["db_file"]
    practice.sql(host, "insert into scratch_pad values (6)")
    counted = "select (select count(*) from scratch_pad), count(*), sum(hashtext(body)) from notes"
    before = practice.sql(host, counted)
    host.run(f"gzip -dc {file} >/root/good.sql")
    host.run("sed '/^ALTER DEFAULT PRIVILEGES/iSELECT 1/0;' /root/good.sql >/root/error.sql")
    host.run("{ head -c 3000000 /root/good.sql | sed '$d'; tail -n 8 /root/good.sql; } >/root/cut.sql")
    host.run("head -c 3000000 /root/good.sql | sed '$d' >/root/short.sql")
    for bad, said in (
        ("error.sql", "db: the replay failed (SQLSTATE 22012, at SELECT), "),
        ("cut.sql", "db: the file cannot be replayed (line "),
        ("short.sql", "/root/short.sql: the dump does not end with its completion mark, expected a whole dump"),
    ):
        done = admin.dental(host, f"restore db /root/{bad} --in-place --yes")
        assert (done.returncode, "restore_" in done.stdout) == (1, False)
        assert done.stderr.startswith(f"dental-pms-backup: {said}")
        assert practice.sql(host, counted) == before


def test_row_seeds_own_strict_replay_commands_restore_the_artefact(host: Machine) -> None:
    file = dict(admin.took(host, "run db"))["db_file"]
    before = practice.sql(host, "select count(*), sum(hashtext(body)) from notes")
    execute = "docker compose exec -T db" if host.suite == "trixie" else "docker exec -i dental-pms-db-1"
    psql = 'psql -q -U "$POSTGRES_USER" -d "$POSTGRES_DB" -v ON_ERROR_STOP=1'
    # The seed's practice keeps all in schema public; the sample has other schemas and large objects, too.
    more = 'DROP SCHEMA reports, "Odd ""Name" CASCADE; SELECT lo_unlink(oid) FROM pg_largeobject_metadata;'
    practice.sql(host, f"{more}")
    drop = f"{execute} sh -lc '{psql} -c \"DROP SCHEMA public CASCADE; CREATE SCHEMA public;\"'"
    host.run(f"cd {practice.PROJECT_DIR} && {drop} && gzip -dc {file} | {execute} sh -lc '{psql}'")
    assert practice.sql(host, "select count(*), sum(hashtext(body)) from notes") == before


# --- | attachments restore into the volume | CONFIRM=YES dental-pms-backup restore attachments FILE|SET --in-place |


@pytest.mark.each_release
@pytest.mark.parametrize("form", ["file", "set"])
def test_row_attachments_restore_into_the_volume_while_the_backend_runs(host: Machine, form: str) -> None:
    file = dict(admin.took(host, "run attachments"))["attachments_file"]
    seen = "docker exec dental-pms-backend-1 sh -c 'cd /data && find . | sort | sha256sum'"
    before = host.run(seen).stdout
    host.run(f"rm -r {practice.ATTACHMENTS}/attachments/0* && touch {practice.ATTACHMENTS}/later")
    assert host.run(seen).stdout != before
    wanted = file if form == "file" else admin.sets(host)[0]["set"]
    done = admin.dental(host, f"restore attachments {wanted} --in-place", environment={"CONFIRM": "YES"})
    assert (done.returncode, done.stderr) == (0, "")
    kept = dict(admin.values(done.stdout))["restore_kept"]
    restoring, first, rest = done.stdout.split("\n", 2)
    assert restoring.startswith("restoring=")
    assert re.fullmatch(
        "live_has_more=[12] files that the set has not", first
    )  # the new one, and a socket there may be
    assert rest == (
        f"restore_type=attachments\nrestore_file={file}\nrestore_target={practice.ATTACHMENTS}\n"
        f"restore_kept={kept}\nrestore_drop=rm -r --one-file-system {kept}\nrestore_status=ok\n"
    )
    # What GNU tar cannot hold, a socket, is not there; everything else is.
    host.run(f"cp -a {kept}/odd/socket {practice.ATTACHMENTS}/odd/socket", check=False)
    assert host.run(seen).stdout == before
    assert host.run(f"ls {kept}/later").returncode == 0


def test_row_seeds_own_attachments_commands_restore_the_artefact(host: Machine) -> None:
    admin.took(host, "run attachments", environment={"ATTACHMENTS_PATH": FEW, "BACKUP_DIR": "/srv/store"})
    tar = "rm -rf /v/* && tar -xzf /b/attachments_*.tgz -C /v && cd /v && find . | sort"
    run = f'docker run --rm --network none -v seed:/v -v "$PWD":/b {practice.IMAGE}'
    found = host.run(f"cd /srv/store && {run} sh -lc '{tar}'; docker volume rm seed >/dev/null")
    assert found.stdout.splitlines() == [".", "./a.dcm", "./sub", "./sub/b"]


# --- | units copied by hand | shipped by the package; OnCalendar=*-*-* 02:30:00, Persistent=true |


@pytest.mark.each_release
def test_row_units_are_shipped_and_the_timer_says_half_past_two_and_persistent(host: Machine) -> None:
    shown = admin.properties(host, admin.TIMER, "FragmentPath", "TimersCalendar", "Persistent", "Unit", "UnitFileState")
    calendar = shown.pop("TimersCalendar")
    assert calendar.startswith("{ OnCalendar=*-*-* 02:30:00 ; next_elapse=")
    fragment = shown.pop("FragmentPath")
    assert shown == {"Persistent": "yes", "Unit": admin.SERVICE, "UnitFileState": "disabled"}
    assert fragment in {f"{lib}/systemd/system/{admin.TIMER}" for lib in ("/lib", "/usr/lib")}


def test_row_list_timers_shows_the_timer_that_the_admin_enabled(host: Machine) -> None:
    host.run(f"systemctl enable --now {admin.TIMER}")
    listed = host.run("systemctl list-timers --all | grep dental-pms-backup").stdout
    assert " 02:30:00 " in listed


# --- | backup artefacts never in git | .gitignore |


def test_row_backup_artefacts_are_never_in_git(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text((admin.REPOSITORY / ".gitignore").read_text())
    artefacts = [
        "dump.sql",
        "ops/db_2026-02-03_023000.sql.gz",
        "attachments_2026-02-03_023000.tgz",
        ".run/backups/sets/2026-02-03_023000.json",
    ]
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    ignored = subprocess.run(
        ["git", "-C", tmp_path, "check-ignore", *artefacts, "README.md"], check=False, capture_output=True, text=True
    )
    assert ignored.stdout.splitlines() == artefacts


# --- | off-host encrypted copies | dental-pms-backup offsite … |

OFFSITE = "offsite: {remote: 'practice-crypt:'}\n"
RCLONE = """\
create="rclone config create --config {file} --obscure"
$create away local >/dev/null
$create practice-crypt crypt remote=away:/srv/away password=one password2=two >/dev/null
chmod 600 {file}
"""


@pytest.fixture
def second_place(host: Machine) -> Iterator[str]:
    """An encrypting remote over a directory, set up as rclone's own command does it; its directory is returned."""
    if host.run("command -v rclone", check=False).returncode:
        host.install("--no-install-recommends", "rclone")
    host.run(RCLONE.format(file="/etc/dental-pms/rclone.conf"))
    host.write(admin.CONFIG, OFFSITE + f"attachments: {{path: {FEW}}}\napplication: {{table: null}}\n")
    yield "/srv/away"
    host.run("rm -rf /srv/away /etc/dental-pms/rclone.conf")


@pytest.mark.each_release
def test_row_off_host_copies_are_encrypted_compared_and_come_back(host: Machine, second_place: str) -> None:
    admin.took(host, "run")
    (stored,) = admin.sets(host)
    name, before = stored["set"], admin.files(host, admin.FALLBACK_STORE)
    pushed = admin.dental(host, "offsite push")
    assert (pushed.returncode, pushed.stdout, pushed.stderr) == (0, f"{name}: copied and compared\n", "")
    away = host.run(f"cd {second_place} && find . -type f | sort").stdout
    assert len(away.splitlines()) == 6
    assert not re.search(rf"\.|{name}", away.replace("./", ""))
    assert host.run(f"grep -rlaE 'PostgreSQL|CREATE TABLE' {second_place}", check=False).returncode == 1
    host.run(f"for each in $(find {second_place} -type f); do ! gzip -t <$each || exit 1; done")
    assert admin.dental(host, "offsite list").stdout == f"{name}\n"
    assert admin.dental(host, "offsite push").stdout == ""
    verified = admin.dental(host, "offsite verify")
    assert (verified.returncode, verified.stdout) == (0, f"{name}: the same offsite\n")
    host.run(f"rm -r {admin.FALLBACK_STORE}")
    fetched = admin.dental(host, f"offsite fetch {name}")
    assert (fetched.returncode, fetched.stdout) == (0, f"{name}: fetched and verified\n")
    assert {**admin.files(host, admin.FALLBACK_STORE), "RESTORE.txt": ""} == {**before, "RESTORE.txt": ""}
    assert admin.dental(host, "verify").stdout == f"{name}: good\n"


def test_row_off_host_copy_in_clear_is_refused(host: Machine, second_place: str) -> None:
    admin.took(host, "run")
    host.write(admin.CONFIG, f"offsite: {{remote: 'away:{second_place}'}}\n")
    done = admin.dental(host, "offsite push")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.splitlines()[0] == (
        'dental-pms-backup: offsite.remote: "away" is of type local, expected crypt: nothing leaves here unencrypted'
    )
    assert host.run(f"ls {second_place}", check=False).stdout == ""


def test_row_off_host_copy_that_was_damaged_is_found(host: Machine, second_place: str) -> None:
    admin.took(host, "run")
    admin.dental(host, "offsite push")
    largest = f"find {second_place} -type f -printf '%s %p\\n' | sort -n | tail -1 | cut -d' ' -f2"
    host.run(f"truncate --size=-1 $({largest})")
    done = admin.dental(host, "offsite verify")
    assert done.returncode == 1
    assert "1 of 6 files are not the same offsite" in done.stdout


# --- The seed's runbook, "Backup location" and "Success criteria"


def test_seed_store_is_backup_dir_then_srv_then_the_project(host: Machine) -> None:
    few = {"ATTACHMENTS_PATH": FEW}
    assert dict(admin.took(host, "run attachments", environment=few))["backup_root"] == admin.FALLBACK_STORE
    host.run(f"mkdir {admin.STORE}")
    assert dict(admin.took(host, "run attachments", environment=few))["backup_root"] == admin.STORE
    over = few | {"BACKUP_DIR": "/srv/store"}
    assert dict(admin.took(host, "run attachments", environment=over))["backup_root"] == "/srv/store"


def test_seed_files_are_named_by_local_time(host: Machine) -> None:
    zone = {"ATTACHMENTS_PATH": FEW, "TZ": "PRACTICE-9:30"}
    before, printed, after = (
        host.run("TZ=PRACTICE-9:30 date +%F_%H%M%S").stdout.strip(),
        dict(admin.took(host, "run", environment=zone)),
        host.run("TZ=PRACTICE-9:30 date +%F_%H%M%S").stdout.strip(),
    )
    found = re.fullmatch(rf"{admin.FALLBACK_STORE}/db/db_({MOMENT})\.sql\.gz", printed["db_file"])
    assert found
    assert printed["attachments_file"] == f"{admin.FALLBACK_STORE}/attachments_{found[1]}.tgz"
    assert before <= found[1] <= after
    manifest = json.loads(host.run(f"cat {admin.FALLBACK_STORE}/sets/{found[1]}.json").stdout)
    assert manifest["taken_at"].endswith("+00:00")


def test_seed_retention_deletes_older_files_when_the_count_exceeds_backup_keep(host: Machine) -> None:
    keep = {"ATTACHMENTS_PATH": FEW, "BACKUP_KEEP": "1"}
    deleted = [dict(admin.took(host, "run attachments", environment=keep))["retention_deleted"] for _ in range(2)]
    assert deleted == ["0", "1"]
    assert len(admin.sets(host)) == 1


def test_seed_store_is_closed_to_everybody_but_root(host: Machine) -> None:
    admin.took(host, "run", environment={"ATTACHMENTS_PATH": FEW})
    modes = host.run(f"find {admin.FALLBACK_STORE} -printf '%M %u %g\\n' | sort -u").stdout.splitlines()
    assert modes == ["-rw------- root root", "drwx------ root root"]


def test_seed_checksums_of_a_set_are_good(host: Machine) -> None:
    admin.took(host, "run", environment={"ATTACHMENTS_PATH": FEW})
    name = admin.sets(host)[0]["set"]
    checked = host.run(f"cd {admin.FALLBACK_STORE} && sha256sum -c sets/{name}.sha256").stdout
    paths = (
        f"db/db_{name}.sql.gz",
        f"db/globals_{name}.sql.gz",
        f"db/settings_{name}.sql.gz",
        f"attachments_{name}.tgz",
    )
    assert checked == "".join(f"{path}: OK\n" for path in paths)
