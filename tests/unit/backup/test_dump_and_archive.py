"""Taking the streams: the argvs, whole, and what becomes of each way in which the programs end."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import shutil
import time
import types
from pathlib import Path

import pytest

from dental_pms_backup.backup import archive, compressor, dump, hold_names
from dental_pms_backup.errors import (
    ArchiveError,
    BackupError,
    DatabaseError,
    DumpError,
    SourceError,
    StalledError,
    StoreError,
)
from dental_pms_backup.host import filters, progress
from dental_pms_backup.host.progress import Watch
from dental_pms_backup.live import mounts, pinned_settings, postgres, sessions
from dental_pms_backup.live.postgres import Facts, InContainer, OnHost
from dental_pms_backup.live.sources import AttachmentsSource, DatabaseSource
from tests.unit.builders import DUMP, HOLDS, gone, program

CONTAINER = InContainer(container_id="c0ffee", name="dental-pms-db-1", image="postgres:16")
FACTS = Facts(version=160004, database="pms", user="pms", size=317_000_000, started="2026-11-01", system="7301")
ANSWER = json.dumps(dataclasses.asdict(FACTS))
PINNED = f"--env=PGOPTIONS={pinned_settings.options(16)}"
EXEC = ["docker", "exec", "--env=PGAPPNAME=s1", PINNED, "c0ffee", *postgres.IN_CONTAINER]


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand first on PATH; programs that a test puts here are found before the system's."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path / "bin"


def native(bin_dir: Path) -> OnHost:
    return OnHost(host="/run", port=1, user="u", database="d", run_as=None, pgpass_file=None, bin_dir=bin_dir)


def dumped(bin_dir: Path, script: str, *, server: postgres.Server | None = None) -> bytes:
    """Dump with a pg_dump of the test's and return what came out."""
    program(bin_dir, "pg_dump", f'[ "$1" != --version ] || {{ echo "pg_dump (PostgreSQL) 16.4"; exit; }}\n{script}')
    program(bin_dir, "psql", f"case \"$*\" in --version) echo 16.4 ;; {HOLDS} *) echo '{ANSWER}' ;; esac\n")
    with (bin_dir / "out").open("w+b") as out:
        dump.database(DatabaseSource(server=server or native(bin_dir), facts=FACTS), out.fileno(), lock_wait_s=60)
        return (bin_dir / "out").read_bytes()


def archived(tmp_path: Path) -> tuple[archive.Archived, list[str]]:
    """Archive tmp_path/source and return what tar saw and the index."""
    with (tmp_path / "out.tgz").open("wb") as out:
        found = archive.attachments(
            AttachmentsSource(path=tmp_path / "source", container=""), out.fileno(), tmp_path / "index"
        )
    assert found
    return found, (tmp_path / "index").read_text().splitlines()


def test_dump_is_plain_sql_that_waits_for_locks_no_longer_than_asked() -> None:
    assert dump.database_argv(CONTAINER, FACTS, "s1", lock_wait_s=60) == [
        *EXEC,
        "pg_dump",
        "--format=plain",
        "--no-password",
        "--lock-wait-timeout=60000",
    ]


def test_dump_is_of_the_snapshot_whose_names_are_held() -> None:
    argv = dump.database_argv(CONTAINER, FACTS, "s1", lock_wait_s=60, snapshot="00000003-1B-1")
    assert argv[-1] == "--snapshot=00000003-1B-1"


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("ERROR:  canceling statement due to lock timeout", "the migration or maintenance that holds a table"),
        ('ERROR:  type "one" already exists', "the migration that changed tables"),
        ("ERROR:  could not serialize access due to concurrent update", "the migration that changed tables"),
    ],
)
def test_dump_does_not_begin_where_the_names_cannot_be_held(said: str, hint: str, bin_dir: Path) -> None:
    dumped(bin_dir, "exit 0\n")
    program(
        bin_dir,
        "psql",
        f"case \"$*\" in *ON_ERROR_STOP=1) echo 'psql:<stdin>:7: {said}' >&2; exit 3 ;; *) echo '{ANSWER}' ;; esac\n",
    )
    with (bin_dir / "out").open("w+b") as out, pytest.raises(DumpError) as raised:
        dump.database(DatabaseSource(server=native(bin_dir), facts=FACTS), out.fileno(), lock_wait_s=60)
    assert raised.value.message == f"db: psql: exit status 3: psql:<stdin>:7: {said}, expected exit status 0"
    assert raised.value.hint.startswith(f"dental-pms-backup run   # when {hint}")
    assert (bin_dir / "out").read_bytes() == b""


def test_names_are_held_to_the_end_of_the_dump(bin_dir: Path) -> None:
    gone_early = "case \"$*\" in *ON_ERROR_STOP=1) echo held ;; *) echo '{}' ;; esac\n"
    program(bin_dir, "pg_dump", '[ "$1" != --version ] || { echo 16.4; exit; }\nexec sleep 300\n')
    program(bin_dir, "psql", gone_early.format(ANSWER))
    with (bin_dir / "out").open("w+b") as out, pytest.raises(DumpError) as raised:
        dump.database(DatabaseSource(server=native(bin_dir), facts=FACTS), out.fileno(), lock_wait_s=60)
    assert raised.value.message == "db: psql ended before the dump did"


@pytest.mark.parametrize("said", ["held\\n--file=/etc/passwd", "held --file=x", "\\377", "no"])
def test_what_is_no_snapshot_goes_into_no_command_line(said: str, bin_dir: Path) -> None:
    program(bin_dir, "pg_dump", '[ "$1" != --version ] || { echo 16.4; exit; }\necho CREATE\n')
    holds = f"*ON_ERROR_STOP=1) printf '{said}\\n'; exec cat >/dev/null ;;"
    program(bin_dir, "psql", f"case \"$*\" in --version) echo 16.4 ;; {holds} *) echo '{ANSWER}' ;; esac\n")
    with (bin_dir / "out").open("w+b") as out, pytest.raises(DumpError, match="an answer that is none"):
        dump.database(DatabaseSource(server=native(bin_dir), facts=FACTS), out.fileno(), lock_wait_s=60)


def test_the_session_that_holds_names_ends_by_itself_unless_it_is_told_that_we_are_still_here(
    bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_names, "SAID_EVERY_S", 0)
    said = bin_dir / "said"
    told = f"tail --follow=name --retry --quiet {said} 2>/dev/null | grep --quiet '^select;$'; echo CREATE"
    program(bin_dir, "pg_dump", f'[ "$1" != --version ] || {{ echo 16.4; exit; }}\n{told}\n')
    holds = f"*ON_ERROR_STOP=1) echo held; exec cat >{said} ;;"
    program(bin_dir, "psql", f"case \"$*\" in --version) echo 16.4 ;; {holds} *) echo '{ANSWER}' ;; esac\n")
    with (bin_dir / "out").open("w+b") as out:
        dump.database(DatabaseSource(server=native(bin_dir), facts=FACTS), out.fileno(), lock_wait_s=60)
    text = said.read_text()
    assert text.startswith("set lock_timeout = '60s';\n")
    assert text.splitlines()[-1] == "rollback;"
    assert f"set idle_in_transaction_session_timeout = '{hold_names.SILENT_S}s';" in said.read_text().splitlines()


TOO_LARGE = """\
cat >&2 <<'SAID'
pg_dump: error: Dumping the contents of table "scans" failed: PQgetResult() failed.
pg_dump: detail: Error message from server: ERROR:  invalid memory alloc request size 1258291203
pg_dump: detail: Command was: COPY "my "" own".scans (id, "x, y") TO stdout;
SAID
exit 1"""


def test_the_table_that_cannot_be_dumped_is_named(bin_dir: Path) -> None:
    program(bin_dir, "pg_dump", f'[ "$1" != --version ] || {{ echo 16.4; exit; }}\n{TOO_LARGE}\n')
    holds = "*ON_ERROR_STOP=1) echo held; exec cat >/dev/null ;;"
    program(bin_dir, "psql", f"case \"$*\" in --version) echo 16.4 ;; {holds} *) echo '{ANSWER}' ;; esac\n")
    with (bin_dir / "out").open("w+b") as out, pytest.raises(DumpError) as failed:
        dump.database(DatabaseSource(server=native(bin_dir), facts=FACTS), out.fileno(), lock_wait_s=60)
    assert 'exit status 1: table "my "" own".scans: ' in failed.value.message
    assert "invalid memory alloc request size" in failed.value.message
    assert failed.value.hint.startswith("psql -U OWNER -c 'SELECT max(octet_length(COLUMN)) FROM TABLE'")


def test_roles_are_saved_without_their_passwords() -> None:
    argv = dump.roles_argv(CONTAINER, FACTS, "s1", passwords=False)
    assert argv == [
        *EXEC,
        "pg_dumpall",
        "--roles-only",
        "--no-password",
        "--database=pms",
        "--no-role-passwords",
    ]


def test_passwords_of_roles_are_saved_when_asked_for() -> None:
    argv = dump.roles_argv(CONTAINER, FACTS, "s1", passwords=True)
    assert argv == [*EXEC, "pg_dumpall", "--roles-only", "--no-password", "--database=pms"]


def test_archive_keeps_all_that_tar_can_keep() -> None:
    assert archive.argv(Path("/srv/data"), Path("/store/.entries"), sparse=True) == [
        "tar",
        "--create",
        "--file=-",
        "--format=pax",
        "--pax-option=delete=atime,delete=ctime",
        "--sparse",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--verbose",
        "--quoting-style=escape",
        "--index-file=/store/.entries",
        "--directory=/srv/data",
        ".",
    ]


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["igzip", "pigz", "gzip"], ["igzip", "-2", "-c"]),
        (["pigz", "gzip"], ["pigz", "-6", "-c"]),
        (["gzip"], ["gzip", "-6", "-c"]),
        ([], ["gzip", "-6", "-c"]),
    ],
)
def test_fastest_compressor_that_is_installed_is_used(
    there: list[str], chosen: list[str], bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in there:
        program(bin_dir, name, "exit 0\n")
    monkeypatch.setenv("PATH", str(bin_dir))
    assert compressor.argv() == chosen


@pytest.mark.parametrize(
    ("name", "options"),
    [("igzip", "1 2 2 2 2 2 3 3 3"), ("pigz", "1 2 3 4 5 6 7 8 9"), ("gzip", "1 2 3 4 5 6 7 8 9")],
)
def test_level_is_counted_as_gzip_counts(
    name: str, options: str, bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(bin_dir, name, "exit 0\n")
    monkeypatch.setenv("PATH", str(bin_dir))
    assert [compressor.argv(level) for level in range(1, 10)] == [[name, f"-{n}", "-c"] for n in options.split()]


def test_session_names_are_never_the_same() -> None:
    names = {sessions.new() for _ in range(1000)}
    assert (len(names), [name for name in names if not re.fullmatch("dental-pms-backup-[0-9a-f]{12}", name)]) == (
        1000,
        [],
    )


def test_dump_comes_out_as_gzip(bin_dir: Path) -> None:
    (bin_dir / "dump").write_text(DUMP)
    assert gzip.decompress(dumped(bin_dir, f"cat {bin_dir}/dump\n")) == DUMP.encode()


def test_dump_whose_pg_dump_died_half_way_is_no_dump(bin_dir: Path) -> None:
    with pytest.raises(DumpError) as raised:
        dumped(bin_dir, "echo half; echo 'pg_dump: error: connection lost' >&2; exit 1\n")
    assert (raised.value.message, raised.value.hint) == (
        "db: pg_dump: exit status 1: pg_dump: error: connection lost, expected exit status 0",
        "dental-pms-backup run --verbose",
    )


def test_dump_whose_pg_dump_was_killed_is_no_dump(bin_dir: Path) -> None:
    with pytest.raises(DumpError) as raised:
        dumped(bin_dir, "echo half; kill -9 $$\n")
    assert raised.value.message == "db: pg_dump: killed by signal 9: it said nothing, expected exit status 0"
    assert raised.value.hint.startswith("journalctl --dmesg --grep='killed process'")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout",
            "dental-pms-backup run   # when the migration or maintenance that holds a table is done",
        ),
        (
            'pg_dump: error: query failed: ERROR:  relation "public.patients" does not exist',
            "dental-pms-backup run   # when the migration that changed tables as the dump began is done",
        ),
        (
            "pg_dump: error: query failed: ERROR:  permission denied for table patients",
            "GRANT pg_read_all_data TO ROLE;   # in psql, for the role that dumps: it has to read everything",
        ),
    ],
)
def test_failed_dump_comes_with_what_helps(said: str, hint: str, bin_dir: Path) -> None:
    with pytest.raises(DumpError) as raised:
        dumped(bin_dir, f"echo '{said}' >&2; exit 1\n")
    assert raised.value.hint == hint


def test_failed_dump_quotes_no_row(bin_dir: Path) -> None:
    with pytest.raises(DumpError) as raised:
        dumped(bin_dir, "echo 'DETAIL:  Failing row contains (1, Anna Weber).' >&2; exit 1\n")
    assert raised.value.message == "db: pg_dump: exit status 1: DETAIL: (left out), expected exit status 0"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("No space left on device", StoreError),
        ("Disk quota exceeded", StoreError),
        ("igzip: Error encountered while writing to file (null)", StoreError),
        ("oops", DumpError),
    ],
)
def test_compressor_that_fails_is_told_before_the_broken_pipe_it_left(
    said: str, kind: type[BackupError], bin_dir: Path
) -> None:
    for name in ("igzip", "pigz", "gzip"):
        program(bin_dir, name, f"echo 'write error: {said}' >&2; exit 1\n")
    name = compressor.argv()[0]
    with pytest.raises(BackupError) as raised:
        dumped(bin_dir, "exec yes\n")
    assert type(raised.value) is kind
    assert raised.value.message.startswith(f"db: {name}: exit status 1: write error: {said}, expected ")


@pytest.mark.parametrize("death", ["kill -9 $$", "exec yes"])
def test_dump_in_a_container_that_did_not_end_by_itself_is_ended_on_the_server(death: str, bin_dir: Path) -> None:
    calls = bin_dir / "calls"
    answers = f'case "$*" in {HOLDS} *psql*) exit 1 ;; esac'
    program(bin_dir, "docker", f'printf "%s\\n" "$@" ======== >>{calls}; {answers}\n{death}\n')
    if death == "exec yes":  # the reader dies, and the client in the container does not notice
        for name in ("igzip", "pigz", "gzip"):
            program(bin_dir, name, "exit 1\n")
    with pytest.raises(BackupError):
        dumped(bin_dir, "exit 1\n", server=CONTAINER)
    _, dump, stopped, *_ = calls.read_text().split("\n========\n")
    session = re.search("--env=PGAPPNAME=(.*)", dump)
    assert session
    assert stopped.splitlines()[1] == "--env=PGAPPNAME=dental-pms-backup-stop"
    assert stopped.splitlines()[-1] == sessions.END_SESSIONS.format(session[1])


def test_dump_in_a_container_that_failed_by_itself_is_looked_for_once(bin_dir: Path) -> None:
    calls = bin_dir / "calls"
    program(
        bin_dir,
        "docker",
        f'case "$*" in {HOLDS} *terminate*) echo end >>{calls}; echo 0 ;; *json*) echo examine >>{calls}; echo'
        f" '{ANSWER}' ;; *) echo dump >>{calls}; exit 1 ;; esac\n",
    )
    with pytest.raises(DumpError):
        dumped(bin_dir, "exit 1\n", server=CONTAINER)
    assert calls.read_text() == "dump\nend\nexamine\nend\n"  # of the dump, and of what held for it


def test_dump_that_failed_of_a_server_that_went_away_is_worth_a_retry(bin_dir: Path) -> None:
    with pytest.raises(DatabaseError) as raised:
        dumped(bin_dir, "echo 'server closed the connection unexpectedly' >&2; exit 1\n")
    assert raised.value.message == ("db: the server closed the connection: server closed the connection unexpectedly")


def test_dump_that_does_not_move_is_given_up_and_its_programs_are_ended(
    bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "id"

    def clock() -> float:
        return 1000.0 if begun.exists() and begun.read_text().endswith("\n") else 0.0

    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=clock))
    program(
        bin_dir, "pg_dump", f'[ "$1" != --version ] || {{ echo 16.4; exit; }}\necho $$ >{tmp_path}/id\nexec sleep 300\n'
    )
    program(bin_dir, "psql", f'case "$*" in --version) echo 16.4 ;; {HOLDS} esac\n')
    watch = Watch(stall_timeout_s=300)
    with (
        (tmp_path / "out").open("w+b") as out,
        pytest.raises(StalledError) as raised,
        watch.showing("db", out.fileno(), 0) as beat,
    ):
        dump.database(DatabaseSource(server=native(bin_dir), facts=FACTS), out.fileno(), lock_wait_s=60, beat=beat)
    assert raised.value.message == "db: no byte moved for 16 min 40 s"
    assert gone(int((tmp_path / "id").read_text()))


def test_roles_that_do_not_move_are_given_up(bin_dir: Path, tmp_path: Path) -> None:
    program(bin_dir, "pg_dumpall", '[ "$1" != --version ] || { echo 16.4; exit; }\nexec sleep 300\n')
    watch = Watch(stall_timeout_s=0.3)
    with (
        (tmp_path / "out").open("w+b") as out,
        pytest.raises(StalledError),
        watch.showing("globals", out.fileno(), 0) as beat,
    ):
        dump.roles(native(bin_dir), FACTS, out.fileno(), passwords=False, beat=beat)


def test_every_entry_is_archived_and_counted(tmp_path: Path) -> None:
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "source" / "sub" / "-rf").write_text("x")
    found, index = archived(tmp_path)
    assert (found.entry_count, found.changed, sorted(index)) == (3, (), ["./", "./sub/", "./sub/-rf"])


@pytest.mark.parametrize(
    ("moves", "tells_of_births", "tried_again_and_counts"),
    [
        ("mv", True, ({3: True, 2: True}, (1, 0))),
        ("cp --preserve=timestamps", True, ({3: False, 2: False}, (0, 0))),
        ("mv", False, ({3: True, 2: False}, (0, 1))),
    ],
    ids=["moved", "came in with its old time", "where nobody says when a file was born"],
)
def test_what_is_moved_while_it_is_archived_is_worth_another_try_and_counted_in_the_last(
    tmp_path: Path,
    bin_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    moves: str,
    *,
    tells_of_births: bool,
    tried_again_and_counts: tuple[dict[int, bool], tuple[int, int]],
) -> None:
    is_tried_again, counts = tried_again_and_counts
    if not tells_of_births:
        shutil.copytree(filters.FILTERS, tmp_path / "filters")
        moved = tmp_path / "filters/moved.pl"
        moved.write_text(re.sub(r"%statx = \(.*\);", "%statx = ();", moved.read_text()))
        monkeypatch.setattr(filters, "FILTERS", tmp_path / "filters")
    (tmp_path / "source").mkdir()
    (tmp_path / "scan").write_text("x")
    os.utime(tmp_path / "scan", (1, 1))
    time.sleep(0.1)
    assert bin_dir == tmp_path / "bin"
    program(bin_dir, "tar", f'PATH=/usr/bin:/bin; tar "$@" && cd {tmp_path} && {moves} scan source\n')
    source = AttachmentsSource(path=tmp_path / "source", container="")

    def back() -> None:
        if not (tmp_path / "scan").exists():
            (tmp_path / "source/scan").rename(tmp_path / "scan")
        (tmp_path / "source/scan").unlink(missing_ok=True)

    for tries, again in is_tried_again.items():
        with (tmp_path / "out.tgz").open("wb") as out:
            found = archive.attachments(source, out.fileno(), tmp_path / "index", tries=tries)
            assert (found is None) == again
        back()
    found, _ = archived(tmp_path)
    assert (found.moved_count, found.came_count) == counts


def test_holes_that_tar_would_read_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    monkeypatch.setattr(archive, "TELL_OF_HOLES", set())
    assert archived(tmp_path)[0].entry_count == 1
    for number in range(3):
        with (tmp_path / f"source/{number}").open("wb") as file:
            file.truncate(6 << 40)
    with pytest.raises(ArchiveError) as raised:
        archived(tmp_path)
    assert "have holes of 19.8 TB, each byte of which is read on that filesystem, expected at" in raised.value.message


def test_empty_directory_is_one_entry(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    assert archived(tmp_path)[0].entry_count == 1


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_source_that_is_no_directory_is_named(kind: str, tmp_path: Path) -> None:
    why = "No such file or directory"
    if kind == "file":
        (tmp_path / "source").touch()
        why = "Not a directory"
    with pytest.raises(SourceError) as raised:
        archived(tmp_path)
    assert (raised.value.message, raised.value.hint) == (
        f"attachments: {tmp_path}/source: {why}, expected a directory to read",
        f"ls -ld {tmp_path}/source",
    )


def test_entry_that_changed_while_it_was_read_is_told_and_the_archive_stands(tmp_path: Path, bin_dir: Path) -> None:
    (tmp_path / "source").mkdir()
    script = f"""\
echo ./ >{tmp_path}/index
echo 'tar: ./a: file changed as we read it' >&2
echo 'tar: ./b: File removed before we read it' >&2
echo 'tar: ./s: socket ignored' >&2
exit 1
"""
    program(bin_dir, "tar", script)
    found, _ = archived(tmp_path)
    assert found.changed == ("./a: file changed as we read it", "./b: File removed before we read it")


def test_entry_that_cannot_be_read_fails_the_stream_and_is_named_aside(tmp_path: Path, bin_dir: Path) -> None:
    (tmp_path / "source").mkdir()
    said = "tar: ./anna.png: Cannot open: Permission denied"
    program(bin_dir, "tar", f"echo '{said}' >&2; echo 'tar: Exiting with failure status' >&2; exit 2\n")
    with pytest.raises(ArchiveError) as raised:
        archived(tmp_path)
    assert raised.value.message == (
        "attachments: tar could not read everything (tar: exit status 2, 1 complaints), expected every entry"
    )
    assert raised.value.unreadable[0] == "./anna.png: Cannot open: Permission denied"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("./a: File shrank by 5 bytes; padding with zeros", 1),
        ("./a: something else", 1),
        ("./a: Warning: Cannot flistxattr: Input/output error", 0),
        ("./a: file changed as we read it\\n" * 1000, 1),
    ],
    ids=["shrunk", "unknown", "attributes", "more than is kept"],
)
def test_archive_that_may_lack_content_is_worth_another_try_and_fails_in_the_last(
    said: str, status: int, tmp_path: Path, bin_dir: Path
) -> None:
    (tmp_path / "source").mkdir()
    program(bin_dir, "tar", f"printf 'tar: {said}\\n' >&2; exit {status}\n")
    with (tmp_path / "out.tgz").open("wb") as out:
        again = archive.attachments(
            AttachmentsSource(path=tmp_path / "source", container=""), out.fileno(), tmp_path / "index", tries=2
        )
    assert again is None
    with pytest.raises(ArchiveError, match=f"tar could not read everything .tar: exit status {status}, "):
        archived(tmp_path)


def test_archive_of_files_without_attributes_or_of_sockets_is_whole(tmp_path: Path, bin_dir: Path) -> None:
    (tmp_path / "source").mkdir()
    said = ("./a: Warning: Cannot flistxattr: Operation not supported", "./s: socket ignored")
    program(bin_dir, "tar", f"echo ./ >{tmp_path}/index; printf 'tar: %s\\n' '{said[0]}' '{said[1]}' >&2\n")
    assert archived(tmp_path)[0].changed == ()


@pytest.mark.parametrize("why", ["No space left on device", "Disk quota exceeded"])
def test_list_of_entries_that_finds_no_room_is_a_fault_of_the_store(why: str, tmp_path: Path, bin_dir: Path) -> None:
    (tmp_path / "source").mkdir()
    program(bin_dir, "tar", f"echo 'tar: /store/.entries: Cannot open: {why}' >&2; exit 2\n")
    with pytest.raises(StoreError, match="expected room in the store"):
        archived(tmp_path)


def test_paths_that_are_too_long_to_be_put_back_are_counted(tmp_path: Path, bin_dir: Path) -> None:
    (tmp_path / "source").mkdir()
    names = ("./" + "x" * 4093, "./" + "x" * 4094, "./" + r"\303" * 4093, "./" + r"\n" * 4094, "./")
    (tmp_path / "names").write_text("".join(f"{name}\n" for name in names))
    program(bin_dir, "tar", f"cat {tmp_path}/names >{tmp_path}/index\n")
    found, _ = archived(tmp_path)
    assert (found.entry_count, found.too_long_count) == (5, 2)


ROOT = "21 1 254:0 / / rw,relatime shared:1 - {} /dev/vda rw"


@pytest.mark.parametrize(
    ("mounted", "told"),
    [
        ([ROOT.format("ext4")], True),
        ([ROOT.format("xfs")], True),
        ([ROOT.format("zfs")], False),
        ([ROOT.format("zfs"), "30 21 0:5 / /srv rw - ext4 /dev/vdb rw"], True),
        ([ROOT.format("ext4"), "30 21 0:5 / /srv rw - fuse.some disk rw"], False),
        ([ROOT.format("ext4"), "30 21 0:5 / /srv/files\\040of rw - zfs pool rw"], False),
        ([ROOT.format("ext4"), "30 21 0:5 / /srv/files\\040of/us rw - zfs pool rw"], False),
        ([ROOT.format("ext4"), "30 21 0:5 / /srv/files\\040of/us/below rw - nfs4 host:/ rw"], False),
        ([ROOT.format("ext4"), "30 21 0:5 / /srv/files\\040of/us2 rw - nfs4 host:/ rw"], True),
        (["30 21 0:5 / /proc rw - proc proc rw"], False),
        ([], False),
    ],
)
def test_holes_are_looked_for_only_where_every_filesystem_tells_of_them(mounted: list[str], told: bool) -> None:
    assert archive.tells_of_holes(Path("/srv/files of/us"), mounts.listed("\n".join(mounted).encode())) is told


def test_path_of_tar_is_no_part_of_a_name(tmp_path: Path, bin_dir: Path) -> None:
    (tmp_path / "source").mkdir()
    program(bin_dir, "tar", "echo '/usr/bin/tar: ./closed: Cannot open: Permission denied' >&2; exit 2\n")
    with pytest.raises(ArchiveError) as raised:
        archived(tmp_path)
    assert raised.value.unreadable == ("./closed: Cannot open: Permission denied",)


def test_tar_that_was_killed_fails_the_stream(tmp_path: Path, bin_dir: Path) -> None:
    (tmp_path / "source").mkdir()
    program(bin_dir, "tar", "kill -9 $$\n")
    with pytest.raises(ArchiveError, match="tar: killed by signal 9"):
        archived(tmp_path)


@pytest.mark.parametrize(
    ("blocks", "files", "full"),
    [(256, (10, 10), False), (255, (10, 10), True), (256, (10, 0), True), (256, (0, 0), False)],
)
def test_full_disk_is_seen_although_the_compressor_does_not_name_it(
    blocks: int, files: tuple[int, int], full: bool, bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("igzip", "pigz", "gzip"):
        program(bin_dir, name, "exit 1\n")
    status = types.SimpleNamespace(f_blocks=10**6, f_bavail=blocks, f_frsize=4096, f_files=files[0], f_favail=files[1])
    monkeypatch.setattr(os, "statvfs", lambda _place: status)
    with pytest.raises(StoreError if full else DumpError):
        dumped(bin_dir, "exec yes\n")


@pytest.mark.parametrize(("said", "kind"), [("No space left on device", StoreError), ("oops", ArchiveError)])
def test_compressor_that_fails_fails_the_attachments(
    said: str, kind: type[BackupError], tmp_path: Path, bin_dir: Path
) -> None:
    (tmp_path / "source").mkdir()
    for name in ("igzip", "pigz", "gzip"):
        program(bin_dir, name, f"cat >/dev/null; echo 'write error: {said}' >&2; exit 1\n")
    with pytest.raises(BackupError) as raised:
        archived(tmp_path)
    assert type(raised.value) is kind
    assert f": exit status 1: write error: {said}, expected " in raised.value.message
