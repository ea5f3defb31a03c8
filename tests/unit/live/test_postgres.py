"""The clients of PostgreSQL: how they are called, and which one."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import re
from pathlib import Path

import pytest

from dental_pms_backup.errors import (
    BackupError,
    ConfigError,
    DatabaseError,
    DatabaseRefusedError,
    DockerError,
    ToolMissingError,
    VerificationError,
)
from dental_pms_backup.host import client_cage, programs, server_sandbox
from dental_pms_backup.live import in_container, pinned_settings, postgres, table_files
from dental_pms_backup.live.server import Facts, InContainer, Inside, Login, OnHost
from tests.unit.builders import TREE, program

CONTAINER = InContainer(container_id="c0ffee", name="dental-pms-db-1", image="postgres:16")
FACTS = Facts(
    version=160004, database="pms", user="pms", size=317_000_000, started="2026-11-01", system="7301", oid=16384
)

ANSWER = json.dumps(dataclasses.asdict(FACTS))


def on_host(
    *, run_as: str | None = None, pgpass_file: Path | None = None, bin_dir: Path | None = None, host: str = "/run/pg"
) -> OnHost:
    return OnHost(
        host=host, port=5433, user="backup", database="pms", run_as=run_as, pgpass_file=pgpass_file, bin_dir=bin_dir
    )


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install client programs of versions 15 and 17, beside a directory that is no version."""
    for version in ("15", "17", "common"):
        (tmp_path / version / "bin").mkdir(parents=True)
        program(tmp_path / version / "bin", "pg_dump", "exit 0\n")
    monkeypatch.setattr(postgres, "INSTALLED", tmp_path)
    return tmp_path


def psql(tmp_path: Path, script: str) -> None:
    """Install a psql of version 16 that does what a test wants."""
    program(tmp_path / "bin", "psql", f'[ "$1" != --version ] || {{ echo "psql (PostgreSQL) 16.4"; exit; }}\n{script}')


def test_client_in_a_container_is_called_without_a_password() -> None:
    assert postgres.client(CONTAINER, "pg_dump", "--format=plain", session="s1") == [
        "docker",
        "exec",
        "--env=PGAPPNAME=s1",
        f"--env=PGOPTIONS={pinned_settings.OPTIONS}",
        "c0ffee",
        *postgres.IN_CONTAINER,
        "pg_dump",
        "--format=plain",
    ]


def test_client_in_a_container_reads_our_input_only_when_asked() -> None:
    argv = postgres.client(CONTAINER, "psql", session="s1", stdin=True)
    assert argv[:4] == ["docker", "exec", "--interactive", "--env=PGAPPNAME=s1"]


def test_client_in_the_root_of_a_container_is_caged_with_the_containers_environment_only() -> None:
    settings = ("PATH=/opt/bin", "POSTGRES_USER=dental")
    inside = Inside(root=Path("/proc/4711/root"), uid=999, gid=998, settings=settings)
    server = dataclasses.replace(CONTAINER, entry=inside)
    argv = postgres.client(server, "pg_dump", "--format=plain", session="s1")
    filter_ = argv.pop(2)
    assert re.fullmatch(rf"/proc/{os.getpid()}/fd/\d+", filter_)
    assert argv == [
        "perl",
        str(TREE / "dental_pms_backup/filters/confine"),
        "root",
        "/proc/4711/root",
        "999",
        "998",
        "PATH=/opt/bin",
        "POSTGRES_USER=dental",
        "LC_ALL=C",
        "PGAPPNAME=s1",
        f"PGOPTIONS={pinned_settings.OPTIONS}",
        "--",
        *postgres.IN_CONTAINER,
        "pg_dump",
        "--format=plain",
    ]
    assert programs.program_of([*argv[:2], filter_, *argv[2:]]) == "pg_dump"


def test_client_on_the_socket_of_a_container_is_the_hosts_and_caged_as_nobody_at_all(installed: Path) -> None:
    on_socket = on_host(host="/proc/4711/root/run/postgresql")
    server = dataclasses.replace(CONTAINER, entry=on_socket)
    facts = dataclasses.replace(FACTS, version=150004)
    program_ = postgres.matching(server, facts, "pg_dump")
    assert program_ == str(installed / "15/bin/pg_dump")
    argv = postgres.client(server, program_, session="s1")
    assert argv[3:9] == ["directory", "/proc/4711/root/run/postgresql", "1900000005", "1900000005", "--", "env"]
    here = dataclasses.replace(on_socket, host="/proc/self/fd/9")
    assert argv[8:] == postgres.client(here, program_, session="s1")
    assert programs.program_of(argv) == "pg_dump"


@pytest.mark.parametrize(
    ("entry", "road"),
    [
        (None, "exec"),
        (Inside(root=Path("/r"), uid=1, gid=1, settings=()), "namespace"),
        (OnHost(host="/s", port=1, user="u", database="d", run_as=None, pgpass_file=None, bin_dir=None), "socket"),
    ],
)
def test_manifest_says_which_road_was_taken(entry: Inside | OnHost | None, road: str) -> None:
    assert postgres.described(dataclasses.replace(CONTAINER, entry=entry), FACTS)["road"] == road


def test_dump_of_another_server_than_was_meant_is_refused(tmp_path: Path) -> None:
    psql(tmp_path, f"echo '{ANSWER}'")
    postgres.check_same(on_host(bin_dir=tmp_path / "bin"), FACTS)
    for other in (dataclasses.replace(FACTS, system="7302"), dataclasses.replace(FACTS, database="other")):
        with pytest.raises(DatabaseError, match="another server answers after the dump"):
            postgres.check_same(on_host(bin_dir=tmp_path / "bin"), other)


def test_client_of_a_server_in_a_sandbox_is_caged_and_limited_as_the_sandboxs_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_sandbox, "USER", pwd.getpwuid(os.getuid()).pw_name)
    server = dataclasses.replace(on_host(host="/d/pg"), run_as=server_sandbox.USER, root="/proc/4711/fd/9")
    argv = postgres.client(server, "/usr/bin/psql", "-X", session="s1")
    caged = argv[argv.index("--") + 1 :]
    assert argv[: argv.index("--")] == ["prlimit", *server_sandbox.LIMITS]
    assert caged[:7] == client_cage.alone(Path("/proc/4711/fd/9"), os.getuid(), os.getgid(), ())[:7]
    assert caged[7:] == [
        *("LC_ALL=C", "PGHOST=/d/pg", "PGPORT=5433", "PGUSER=backup", "PGDATABASE=pms", "PGCONNECT_TIMEOUT=10"),
        *("PGAPPNAME=s1", f"PGOPTIONS={pinned_settings.OPTIONS}", "--", "/usr/bin/psql", "-X"),
    ]
    assert programs.program_of(argv) == "psql"


def test_client_on_the_host_is_called_as_the_system_user() -> None:
    assert postgres.client(on_host(run_as="postgres"), "/usr/bin/psql", "-X", session="s1") == [
        "setpriv",
        "--reuid=postgres",
        "--regid=postgres",
        "--init-groups",
        "--pdeathsig",
        "KILL",
        "--",
        "env",
        "PGHOST=/run/pg",
        "PGPORT=5433",
        "PGUSER=backup",
        "PGDATABASE=pms",
        "PGCONNECT_TIMEOUT=10",
        "PGAPPNAME=s1",
        f"PGOPTIONS={pinned_settings.OPTIONS}",
        "/usr/bin/psql",
        "-X",
    ]


def test_client_of_a_server_that_has_to_prove_itself_lets_in_no_other() -> None:
    server = dataclasses.replace(on_host(host="127.0.0.1"), proves_itself=True)
    argv = postgres.client(server, "/usr/bin/psql", session="s1")
    assert "PGREQUIREAUTH=scram-sha-256" in argv
    assert "PGREQUIREAUTH=!password" in postgres.client(on_host(host="127.0.0.1"), "psql", session="s")
    assert not any("PGREQUIREAUTH" in word for word in postgres.client(on_host(), "psql", session="s"))


def test_client_over_tcp_reads_the_password_from_its_file() -> None:
    server = on_host(host="db.example", pgpass_file=Path("/etc/dental-pms/pgpass"))
    assert postgres.client(server, "/usr/bin/psql", session="s1") == [
        "env",
        "PGHOST=db.example",
        "PGPORT=5433",
        "PGUSER=backup",
        "PGDATABASE=pms",
        "PGCONNECT_TIMEOUT=10",
        "PGPASSFILE=/etc/dental-pms/pgpass",
        "PGREQUIREAUTH=!password",
        "PGAPPNAME=s1",
        f"PGOPTIONS={pinned_settings.OPTIONS}",
        "/usr/bin/psql",
    ]


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({}, "postgres postgres -"),
        ({"POSTGRES_USER": "dental"}, "dental dental -"),
        ({"POSTGRES_USER": "dental", "POSTGRES_DB": "pms"}, "dental pms -"),
        ({"POSTGRES_USER": "dental", "POSTGRES_PASSWORD": "x y'z"}, "dental dental x y'z"),
        ({"POSTGRES_USER_FILE": "FILE", "POSTGRES_DB_FILE": "FILE"}, "from-file from-file -"),
        ({"POSTGRES_USER": "dental", "POSTGRES_PASSWORD_FILE": "FILE"}, "dental dental from-file"),
        ({"POSTGRES_USER": "$(touch x); `touch x`", "POSTGRES_DB": "a b"}, "$(touch x); `touch x` a b -"),
        ({"PGHOST": "elsewhere", "PGPORT": "1"}, "postgres postgres -1"),
        ({"POSTGRESQL_DATABASE": "pms"}, "postgres pms -"),
        ({"POSTGRESQL_USERNAME": "u", "POSTGRESQL_DATABASE_FILE": "FILE", "POSTGRESQL_PASSWORD": "p"}, "u from-file p"),
        ({"POSTGRESQL_USER": "u", "POSTGRESQL_PASSWORD_FILE": "FILE"}, "u postgres from-file"),
        ({"POSTGRESQL_POSTGRES_PASSWORD": "root", "POSTGRESQL_PASSWORD": "p"}, "postgres postgres root"),
        ({"POSTGRESQL_USERNAME": "u", "POSTGRESQL_POSTGRES_PASSWORD": "root"}, "u postgres -"),
        ({"POSTGRES_DB": "pms", "POSTGRES_PASSWORD_FILE": "NO-FILE"}, "postgres pms -"),
        ({"POSTGRESQL_PORT_NUMBER": "5434"}, "postgres postgres -5434"),
        ({"PGDATA": "DATA"}, "postgres postgres -5433"),
        ({"PGDATA": "DATA", "PGPORT": "1"}, "postgres postgres -5433"),
        ({"PGDATA": "DATA/none", "PGPORT": "1"}, "postgres postgres -1"),
    ],
)
def test_container_script_does_what_the_images_do(
    environment: dict[str, str], seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes(tmp_path, environment, monkeypatch)
    argv = postgres.client(CONTAINER, "pg_dump", f"{tmp_path}/seen", session="s1")
    ended, out = programs.capture(argv)
    assert (ended.exit_code, ended.said, out) == (0, (), "")
    assert (tmp_path / "seen").read_text() == seen + "\n"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("settings", "database", "named"),
    [
        (["POSTGRES_DB=pms"], "pms", True),
        (["POSTGRES_DB=postgres"], "postgres", True),
        (["POSTGRES_DB_FILE=/run/secrets/db"], "pms", True),
        (["POSTGRESQL_DATABASE=pms", "POSTGRESQL_USERNAME=u"], "pms", True),
        (["POSTGRESQL_DATABASE_FILE=/run/secrets/db"], "pms", True),
        (["POSTGRES_USER=dental"], "dental", True),
        (["POSTGRES_USER_FILE=/run/secrets/user"], "dental", True),
        (["POSTGRES_USER=postgres"], "postgres", False),
        (["POSTGRES_USER_FILE=/run/secrets/user"], "postgres", False),
        (["POSTGRESQL_USERNAME=u"], "postgres", False),
        (["POSTGRESQL_USERNAME_FILE=/run/secrets/user", "POSTGRESQL_PASSWORD_FILE=/p"], "postgres", False),
        (["POSTGRESQL_USER=u", "PGDATA=/d", "POSTGRESQL_PORT_NUMBER=5433"], "postgres", False),
        (["POSTGRES_DB=pms", "POSTGRESQL_DATABASE=pms"], "pms", True),
        (["POSTGRES_DB=old", "POSTGRESQL_DATABASE=pms", "POSTGRES_USER=u"], "old", False),
        (["POSTGRES_DB=old", "POSTGRES_DB_FILE=/run/secrets/db"], "old", False),
        (["POSTGRES_DB=", "POSTGRESQL_DATABASE=", "POSTGRES_USER="], "postgres", False),
        ([], "postgres", False),
    ],
)
def test_nothing_names_a_database_but_what_the_images_make_it_by(
    settings: list[str], database: str, named: bool
) -> None:
    assert in_container.names(settings, database) is named


@pytest.mark.parametrize(
    ("environment", "key", "variable"),
    [
        ({"POSTGRES_USER": "dental", "POSTGRES_DB_FILE": "NO-FILE"}, "database.name", "POSTGRES_DB_FILE"),
        ({"POSTGRES_DB_FILE": "EMPTY"}, "database.name", "POSTGRES_DB_FILE"),
        ({"POSTGRES_USER_FILE": "NO-FILE", "POSTGRES_DB": "pms"}, "database.user", "POSTGRES_USER_FILE"),
        ({"POSTGRESQL_DATABASE_FILE": "NO-FILE"}, "database.name", "POSTGRESQL_DATABASE_FILE"),
        ({"POSTGRES_USER_FILE": "NO-FILE", "DENTAL_PMS_USER": "u"}, "database.name", "POSTGRES_USER_FILE"),
        ({"DENTAL_PMS_DATABASE": "d", "POSTGRESQL_USER_FILE": "NO-FILE"}, "database.user", "POSTGRESQL_USER_FILE"),
    ],
)
def test_name_that_cannot_be_read_is_no_default_and_its_file_and_key_are_named(
    environment: dict[str, str], key: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes(tmp_path, environment, monkeypatch)
    with pytest.raises(ConfigError) as raised:
        postgres.ask(CONTAINER, "select 1")
    file = environment[variable].replace("NO-FILE", f"{tmp_path}/none").replace("EMPTY", f"{tmp_path}/empty")
    what = {"database.name": "database", "database.user": "role"}[key]
    assert raised.value.problems == (
        f"{key}: {variable} of container dental-pms-db-1 names the file {file}, in which no name can be read, "
        f"expected the name of the {what}",
    )
    assert raised.value.hint == f"editor /etc/dental-pms/backup.yaml   # set {key}"
    assert not (tmp_path / "seen").exists()


def test_what_is_configured_goes_over_the_containers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"POSTGRES_USER_FILE": "NO-FILE", "POSTGRES_DB_FILE": "NO-FILE", "PGPORT": "1", "PGDATA": "DATA"}
    fakes(tmp_path, environment, monkeypatch)
    configured = dataclasses.replace(CONTAINER, login=Login(database="a b", user="u", port=5434))
    argv = postgres.client(configured, "pg_dump", f"{tmp_path}/seen", session="s1")
    assert programs.capture(argv)[0].said == ()
    assert (tmp_path / "seen").read_text() == "u a b -5434\n"
    inside = dataclasses.replace(configured, entry=Inside(root=Path("/r"), uid=1, gid=1, settings=("POSTGRES_DB=x",)))
    argv = postgres.client(inside, "pg_dump", session="s1")
    assert argv[7:11] == ["POSTGRES_DB=x", "DENTAL_PMS_DATABASE=a b", "DENTAL_PMS_USER=u", "DENTAL_PMS_PORT=5434"]


def fakes(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a docker that runs a container's script in an environment, and a client that tells what it is given."""
    (tmp_path / "file").write_text("from-file\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "postmaster.pid").write_text("1\n/data\n1790000000\n5433\n/var/run/postgresql\n*\n")
    script = 'printf "%s" "$PGUSER $PGDATABASE ${PGPASSWORD--}${PGHOST-}${PGPORT-}" >"$1"; echo >>"$1"\n'
    given = 'shift; while [ "$1" != c0ffee ]; do export "${1#--env=}"; shift; done; shift; exec "$@"'
    environ = f'env -i PATH="$PATH" {words(environment, tmp_path)}'
    program(tmp_path / "bin", "docker", f"exec {environ} sh -c '{given}' sh \"$@\"\n")
    for name in ("pg_dump", "psql"):
        program(tmp_path / "bin", name, script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)


def words(environment: dict[str, str], tmp_path: Path) -> str:
    """Return an environment as words of a shell script; FILE, DATA and others stand for what lies there."""
    places = {"NO-FILE": "/none", "FILE": "/file", "EMPTY": "/empty", "DATA": ""}
    values = dict(environment)
    for word, place in places.items():
        values = {name: value.replace(word, f"{tmp_path}{place}") for name, value in values.items()}
    return " ".join("'" + f"{name}={value}".replace("'", "'\\''") + "'" for name, value in values.items())


def test_program_in_a_container_is_the_containers_own() -> None:
    assert postgres.matching(CONTAINER, FACTS, "pg_dump") == "pg_dump"


@pytest.mark.parametrize(("version", "chosen"), [(150007, "15"), (170000, "17")])
def test_program_on_the_host_is_of_the_servers_major_version(version: int, chosen: str, installed: Path) -> None:
    facts = Facts(version=version, database="pms", user="pms", size=1, started="2026-11-01", system="1")
    assert postgres.matching(on_host(), facts, "pg_dump") == f"{installed}/{chosen}/bin/pg_dump"


@pytest.mark.parametrize("major", [14, 16, 18])
def test_program_of_another_major_version_is_refused(major: int, installed: Path) -> None:  # noqa: ARG001 - on disk
    facts = Facts(version=major * 10_000 + 1, database="pms", user="pms", size=1, started="2026-11-01", system="1")
    with pytest.raises(ToolMissingError) as raised:
        postgres.matching(on_host(), facts, "pg_dump")
    assert (raised.value.message, raised.value.hint) == (
        f"pg_dump: not installed for PostgreSQL {major}, the server's major version",
        f"apt install postgresql-client-{major}   # or set native.bin_dir to those of a newer version",
    )


@pytest.mark.parametrize(
    ("said", "fits"),
    [("pg_dump (PostgreSQL) 16.4", True), ("pg_dump (PostgreSQL) 18.0", True), ("pg_dump (PostgreSQL) 15.9", False)],
)
def test_program_of_a_configured_directory_is_asked_for_its_version(said: str, fits: bool, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "pg_dump", f"echo '{said}'\n")
    server = on_host(bin_dir=tmp_path / "bin")
    if fits:
        assert postgres.matching(server, FACTS, "pg_dump") == str(path)
    else:
        with pytest.raises(ToolMissingError):
            postgres.matching(server, FACTS, "pg_dump")


def test_program_that_does_not_tell_its_version_is_refused(tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "pg_dump", "exit 1\n")
    with pytest.raises(ToolMissingError) as raised:
        postgres.matching(on_host(bin_dir=tmp_path / "bin"), FACTS, "pg_dump")
    assert raised.value.message == f"{path}: does not tell its version, expected a client program of PostgreSQL"


def test_configured_directory_without_the_program_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        postgres.matching(on_host(bin_dir=tmp_path), FACTS, "pg_dump")
    assert raised.value.problems == (f"native.bin_dir: no pg_dump in {tmp_path}, expected the client programs",)


@pytest.mark.parametrize("others_write", ["bin/pg_dump", "bin", "."])
def test_configured_programs_that_others_can_change_are_not_started(tmp_path: Path, others_write: str) -> None:
    path = program(tmp_path / "bin", "pg_dump", f"touch {tmp_path}/started\n")
    (tmp_path / others_write).chmod(0o775)
    with pytest.raises(ConfigError) as raised:
        postgres.matching(on_host(bin_dir=tmp_path / "bin"), FACTS, "pg_dump")
    assert raised.value.problems == (
        f"native.bin_dir: {tmp_path / others_write} can be written to by others (mode 0775), "
        "expected programs that only root can change",
    )
    assert raised.value.hint == f"namei -l {path}   # each of these has to be root's, mode go-w"
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "answer",
    ["", "garbage", "[]", "3", "null", "{}", '{"version": 160004}', '{"unknown": 1}'],
)
def test_answer_that_was_not_asked_for_is_no_database(answer: str, tmp_path: Path) -> None:
    psql(tmp_path, f"echo '{answer}'\n")
    with pytest.raises(DatabaseError) as raised:
        postgres.examine(server_of(tmp_path))
    assert raised.value.message == "db: the answer of psql is not what was asked for"


def test_answer_becomes_facts(tmp_path: Path) -> None:
    psql(tmp_path, f"echo '{ANSWER}'\n")
    found = postgres.examine(server_of(tmp_path))
    assert (found, found.major) == (FACTS, 16)


def test_server_that_is_not_reached_is_worth_a_retry_and_its_rows_are_not_told(tmp_path: Path) -> None:
    psql(tmp_path, "echo 'psql: error: refused; DETAIL:  Anna Weber' >&2; exit 2\n")
    with pytest.raises(BackupError) as raised:
        postgres.ask(server_of(tmp_path), "select 1")
    assert (raised.value.exit_status, raised.value.cause) == (75, "database")
    assert raised.value.message == "db: the server does not answer: psql: error: refused; DETAIL: (left out)"


@pytest.mark.parametrize(
    "said",
    [
        'psql: error: FATAL:  database "pms" does not exist',
        'psql: error: FATAL:  role "backup" does not exist',
        'psql: error: FATAL:  password authentication failed for user "backup"',
        "psql: error: fe_sendauth: no password supplied",
        'psql: error: FATAL:  no pg_hba.conf entry for host "10.0.0.1"',
        "psql: error: ERROR:  permission denied for function pg_control_system",
    ],
)
def test_server_that_says_no_for_good_is_not_worth_a_retry(said: str, tmp_path: Path) -> None:
    psql(tmp_path, f"echo '{said}' >&2; exit 2\n")
    with pytest.raises(DatabaseRefusedError) as raised:
        postgres.examine(server_of(tmp_path))
    assert (raised.value.message, raised.value.exit_status, raised.value.cause) == (
        f"db: the server refuses: {said}",
        1,
        "database",
    )


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        ('FATAL:  database "pms" does not exist', ("database.name", "native.database")),
        ('FATAL:  role "backup" does not exist', ("database.user", "native.user")),
        ("fe_sendauth: no password supplied", ("database.user", "native.user")),
        ('connection to server on socket "/s/.s.PGSQL.5432" failed: No such file or directory', ("port", "port")),
    ],
)
def test_error_that_misses_a_name_or_the_port_says_which_key_has_it(
    said: str, keys: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psql(tmp_path, f"echo 'psql: error: {said}' >&2; exit 2\n")
    program(tmp_path / "bin", "docker", f"echo 'psql: error: {said}' >&2; exit 2\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    servers: tuple[InContainer | OnHost, ...] = (CONTAINER, server_of(tmp_path))
    for server, key in zip(servers, keys, strict=True):
        with pytest.raises(BackupError) as raised:
            postgres.examine(server)
        if key == "port":
            section = "database" if server is CONTAINER else "native"
            assert raised.value.hint.endswith(f"   # or set {section}.port, if it listens on another")
        else:
            assert raised.value.hint == f"editor /etc/dental-pms/backup.yaml   # set {key}"


IN_GERMAN = """\
database=pms user=backup
for word; do
 case $word in
 --dbname=*) database=${word#*"='"}; database=${database%"'"};;
 --username=*) user=${word#*=};;
 esac
done
none="Datenbank »$database« existiert nicht"
full="$none"; [ "$database" != pms ] || full="zu viele Verbindungen für Datenbank »pms«"
"""
EDITOR = "editor /etc/dental-pms/backup.yaml   # set native."


@pytest.mark.parametrize(
    ("says", "hint"),
    [
        ("$none", f"{EDITOR}database"),
        ("Passwort-Authentifizierung für Benutzer »$user« fehlgeschlagen", f"{EDITOR}user"),
        ("kein pg_hba.conf-Eintrag für Benutzer »$user«, Datenbank »$database«", "dental-pms-backup config show"),
        ("tut mir leid, schon zu viele Verbindungen", ""),
        ("$full", ""),
    ],
)
def test_server_of_another_language_says_no_for_good_where_it_says_the_same_of_nobody(
    says: str, hint: str, tmp_path: Path
) -> None:
    psql(tmp_path, f'{IN_GERMAN}echo "psql: error: connection to server failed: FATAL:  {says}" >&2; exit 2\n')
    with pytest.raises(BackupError) as raised:
        postgres.ask(server_of(tmp_path), "select 1")
    assert raised.value.exit_status == (1 if hint else 75)
    assert raised.value.hint == (hint or "systemctl status postgresql.service")


def test_complaint_is_the_line_of_the_error_and_not_the_last(tmp_path: Path) -> None:
    psql(tmp_path, "echo 'psql: error: refused' >&2; echo '  Is the server running?' >&2; exit 2\n")
    with pytest.raises(DatabaseError) as raised:
        postgres.ask(server_of(tmp_path), "select 1")
    assert raised.value.message == "db: the server does not answer: psql: error: refused"


def test_complaint_of_pg_dump_is_what_the_server_said_without_the_command() -> None:
    said = (
        'pg_dump: error: Dumping the contents of table "images" failed: PQgetResult() failed.',
        "pg_dump: detail: Error message from server: ERROR:  invalid page in block 0 of relation base/5/16397",
        "pg_dump: detail: Command was: COPY public.images (id) TO stdout;",
    )
    complaint = postgres.complaint(programs.Ended(program="pg_dump", exit_code=1, said=said))
    assert complaint == "pg_dump: ERROR:  invalid page in block 0 of relation base/5/16397"


def test_docker_that_does_not_answer_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    program(tmp_path / "bin", "docker", f"echo '{said}' >&2; exit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    with pytest.raises(DockerError) as raised:
        postgres.ask(CONTAINER, "select 1")
    assert (raised.value.message, raised.value.hint, raised.value.exit_status) == (
        f"docker: {said}, expected an answer",
        "systemctl status docker.service",
        75,
    )


def test_docker_that_was_restarted_over_a_running_server_is_worth_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "docker", f"echo '{ANSWER}'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    said = "Error response from daemon: No such exec instance: 32482fc0"
    with pytest.raises(DockerError) as raised:
        postgres.check_stayed(CONTAINER, FACTS, failed(said))
    assert raised.value.message == f"docker: {said}, expected an answer"


def failed(*said: str) -> programs.Ended:
    return programs.Ended(program="pg_dump", exit_code=1, said=said)


def test_server_that_stayed_is_not_what_a_client_failed_of(tmp_path: Path) -> None:
    psql(tmp_path, f"echo '{ANSWER}'\n")
    postgres.check_stayed(server_of(tmp_path), FACTS, failed("pg_dump: error: permission denied for table patients"))


def test_server_that_was_started_anew_is_worth_a_retry(tmp_path: Path) -> None:
    psql(tmp_path, f"echo '{ANSWER.replace(FACTS.started, '2026-11-02')}'\n")
    with pytest.raises(DatabaseError) as raised:
        postgres.check_stayed(server_of(tmp_path), FACTS, failed())
    assert raised.value.message == "db: the server was restarted during the dump"


@pytest.mark.parametrize(
    "said",
    [
        "pg_dump: detail: Error message from server: server closed the connection unexpectedly",
        "pg_dump: detail: Error message from server: FATAL:  terminating connection due to administrator command",
        "WARNING:  terminating connection because of crash of another server process",
        'pg_dump: error: connection to server at "db", port 5432 failed: FATAL:  the database system is starting up',
    ],
)
def test_server_that_hung_up_is_worth_a_retry(said: str, tmp_path: Path) -> None:
    psql(tmp_path, f"echo '{ANSWER}'\n")
    with pytest.raises(DatabaseError) as raised:
        postgres.check_stayed(server_of(tmp_path), FACTS, failed("pg_dump: error: it failed", said))
    assert raised.value.message.startswith("db: the server closed the connection: ")


@pytest.mark.parametrize(
    ("file_now", "rows_now", "rows_dumped", "had_rows", "refused"),
    [
        (2, "t", 0, False, True),
        (2, "", 0, False, True),
        (2, "f", 0, False, False),
        (2, "f", 0, True, True),
        (2, "t", 1, True, False),
        (1, "t", 0, True, False),
    ],
    ids=[
        "filled anew",
        "of a name in other bytes",
        "truncated",
        "emptied",
        "rewritten before the snapshot",
        "filled for the first time",
    ],
)
def test_table_that_was_filled_anew_as_the_dump_began_is_noticed(
    file_now: int, rows_now: str, rows_dumped: int, had_rows: bool, refused: bool, tmp_path: Path
) -> None:
    table = '"Odd".t'
    files = json.dumps({table.encode().hex(): file_now})
    psql(tmp_path, f"case $* in *'pg_relation_size('*) echo {rows_now} ;; *) echo '{files}' ;; esac\n")
    before, filled = {table: 1}, {table} if had_rows else set()
    if not refused:
        table_files.check_not_rewritten(server_of(tmp_path), {table: rows_dumped}, before, filled)
        return
    with pytest.raises(VerificationError) as raised:
        table_files.check_not_rewritten(server_of(tmp_path), {table: rows_dumped}, before, filled)
    assert raised.value.message == (
        f"db: {table} was rewritten, emptied or filled anew as the dump began, so the dump has none of its rows"
    )


@pytest.mark.parametrize("answer", ["garbage", "3"])
def test_files_of_tables_that_are_no_answer_are_no_database(answer: str, tmp_path: Path) -> None:
    psql(tmp_path, f"echo '{answer}'\n")
    with pytest.raises(DatabaseError):
        table_files.numbers(server_of(tmp_path))
    with pytest.raises(DatabaseError):
        table_files.filled(server_of(tmp_path), superuser=True)


def test_names_of_tables_in_other_bytes_are_as_in_the_dump(tmp_path: Path) -> None:
    name = 'public."Zähne"'.encode("latin-1").hex()
    psql(tmp_path, f"""case $* in *pg_relation_filenode*) echo '{{"{name}": 1}}' ;; *) echo '["{name}"]' ;; esac\n""")
    server = server_of(tmp_path)
    assert table_files.numbers(server) == {'public."Z\\xe4hne"': 1}
    assert table_files.filled(server, superuser=True) == {'public."Z\\xe4hne"'}


def server_of(tmp_path: Path) -> OnHost:
    """Return a server whose psql is the test's."""
    return on_host(bin_dir=tmp_path / "bin")


def test_manifest_says_where_a_dump_came_from_without_an_address() -> None:
    container = dataclasses.replace(CONTAINER, image_id="sha256:c0de")
    facts = dataclasses.replace(FACTS, settings={"timezone": "Europe/London", "collate": "en_GB.utf8"})
    assert postgres.described(container, facts) == {
        "source": "compose",
        "container": "dental-pms-db-1",
        "image": "postgres:16",
        "image_id": "sha256:c0de",
        "timezone": "Europe/London",
        "collate": "en_GB.utf8",
        "road": "exec",
        "database": "pms",
        "database_bytes": 317_000_000,
        "server_version": 160004,
        "system_identifier": "7301",
        "database_oid": 16384,
    }
    assert postgres.described(on_host(host="db.example"), FACTS) == {
        "source": "native",
        "database": "pms",
        "database_bytes": 317_000_000,
        "server_version": 160004,
        "system_identifier": "7301",
        "database_oid": 16384,
    }
