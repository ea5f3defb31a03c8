"""Is a file what it claims to be? Good ones, and every way in which files go bad."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from threading import Event
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING

import pytest

from dental_pms_backup.backup.archive import attachments as archive_attachments
from dental_pms_backup.errors import StoreError, VerificationError
from dental_pms_backup.host import descriptors, filters, progress
from dental_pms_backup.live.sources import AttachmentsSource
from dental_pms_backup.store import verify_file
from dental_pms_backup.store.sets import Kind
from tests.unit.builders import COPY_HEAD, DUMP, FILTERS, ROLES_TRAILER, TRAILER, gone, packed, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNRESTRICT = "\\unrestrict Ab0Cd1Ef2Gh3\n\n"
LONG = "CREATE TABLE patients (id int);\n" * 4000
CUT = "the dump does not end with its completion mark, expected a whole dump"
OTHER_ENTRIES = "the archive's entries are not those that tar wrote, expected the same"
UNSOUND = "the content is not sound ({}), expected a file that is readable to its end"


def proven(file: Path, content: bytes | None, kind: Kind, *, index: Path | None = None) -> dict[str, int]:
    if content is not None:
        file.write_bytes(content)
    with file.open("rb") as opened:
        os.lseek(opened.fileno(), 0, os.SEEK_END)  # as a draft stands after it was written
        with verify_file.reading(file, kind, opened.fileno()) as both:
            return both.verify(index=index).rows


def refused(file: Path, content: bytes | None, kind: Kind, *, index: Path | None = None) -> str:
    """Return why a file is refused, without its path."""
    with pytest.raises(VerificationError) as raised:
        proven(file, content, kind, index=index)
    return raised.value.message.removeprefix(f"{file}: ")


def archived(tmp_path: Path, *names: bytes) -> tuple[Path, Path]:
    """Archive files with these names as a run does, and return archive and index."""
    source = tmp_path / "source"
    source.mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(source), name), "wb") as file:  # noqa: PTH118 - names that are no text
            file.write(name)
    archive, index = tmp_path / "archive.tgz", tmp_path / "index"
    with archive.open("wb") as file:
        seen = archive_attachments(AttachmentsSource(path=source, container=""), file.fileno(), index)
        assert seen
        assert seen.entry_count == len(names) + 1
    return archive, index


def repacked(archive: Path, cut_bytes: int) -> bytes:
    """Return a good gzip of a cut tar."""
    return gzip.compress(gzip.decompress(archive.read_bytes())[:cut_bytes])


@pytest.mark.parametrize(
    "text", [DUMP, LONG + TRAILER, LONG + TRAILER + UNRESTRICT], ids=["short", "long", "restricted"]
)
def test_whole_dump_is_good(text: str, tmp_path: Path) -> None:
    assert proven(tmp_path / "db.sql.gz", packed("\n" + text), Kind.DB) == ({"patients": 2} if text == DUMP else {})


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (
            f"COPY public.a (id) FROM stdin;\n1\n2\n\\.\n\n{COPY_HEAD}COPY public.b (id, x) FROM stdin;\n\\.\n\n",
            {"public.a": 2, "public.b": 0},
        ),
        ("COPY public.a FROM stdin;\n\\.\n\n", {"public.a": 0}),
        ("COPY public.a (x) FROM stdin;\n\\\\.\nx\\.\n\\.x\n\n\\N\n\\.\n\n", {"public.a": 5}),
        ("COPY public.a (x) FROM stdin;\nCOPY public.b (x) FROM stdin;\n\\.\n\n", {"public.a": 1}),
        ('COPY "My Schema"."my (table)" ("a b") FROM stdin;\n1\n\\.\n\n', {'"My Schema"."my (table)"': 1}),
        ("COPY public.pat\u00e4 (x) FROM stdin;\n1\n\\.\n\n", {"public.pat\u00e4": 1}),
        (f"COPY public.p (x) FROM stdin;\n1\n\\.\n{COPY_HEAD}COPY public.p (x) FROM stdin;\n2\n\\.\n", {"public.p": 2}),
        ("-- load via partition root public.p\n\nCOPY public.p (x) FROM stdin;\n1\n\\.\n\n", {"public.p": 1}),
        ("-- COPY public.a (x) FROM stdin;\n", {}),
        ("-- load via partition root\nCOPY public.a (x) FROM stdin;\n1\n\\.\n", {"public.a": 1}),
        ("COMMENT ON TABLE public.a IS '\nCOPY public.a (x) FROM stdin;\n';\n", {}),
        ("CREATE FUNCTION f() AS $$\n--\nCOPY public.a (x) FROM stdin;\n$$;\n", {}),
    ],
)
def test_rows_of_each_table_are_counted(body: str, rows: dict[str, int], tmp_path: Path) -> None:
    assert proven(tmp_path / "db.sql.gz", packed(COPY_HEAD + body + "\n" + TRAILER), Kind.DB) == rows


READ_BYTES = 1 << 20


@pytest.mark.parametrize("shift", [*range(-4, 5), 30, 60, len(COPY_HEAD), len(COPY_HEAD) + 20])
def test_rows_are_counted_whatever_falls_between_two_reads(shift: int, tmp_path: Path) -> None:
    head = f"{COPY_HEAD}COPY public.a (x) FROM stdin;\n"
    body = (
        head + "x" * (READ_BYTES - len(head) + shift) + f"\n2\n\\.\n{COPY_HEAD}COPY public.b (x) FROM stdin;\n1\n\\.\n"
    )
    text = body + "--" + "y" * (READ_BYTES * 2 - len(body) - 2 - shift) + head.replace(".a ", ".c ") + "1\n\\.\n\n"
    found = proven(tmp_path / "db.sql.gz", packed(text + "\n" + TRAILER), Kind.DB)
    assert found == {"public.a": 2, "public.b": 1, "public.c": 1}


@pytest.mark.parametrize(
    ("name", "line", "lines"),
    [("count_rows.pl", "x", 1), ("tally.pl", "x", 1), ("count_rows.pl", '"', 20), ("tally.pl", '"', 20)],
)
def test_a_line_of_whatever_length_takes_no_memory_and_no_time(name: str, line: str, lines: int) -> None:
    """As the application writes one in the comment of a table, every night."""
    head = b"\n--\n\nCOPY " if line == '"' else b"COMMENT ON TABLE public.t IS '"
    limited = f"ulimit -v {96 << 10}; exec perl {FILTERS / name}"
    began = time.monotonic()
    with subprocess.Popen(["sh", "-c", limited], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reads:
        assert reads.stdin
        assert reads.stdout
        for _ in range(lines):
            reads.stdin.write(head)
            for _ in range(128 // lines):
                reads.stdin.write(line.encode() * (1 << 20))
            reads.stdin.write(b"\n FROM stdin;\n" if line == '"' else b"\n FROM stdin;\n';\n")
        reads.stdin.write(f"{COPY_HEAD}COPY public.a (x) FROM stdin;\n1\n\\.\n\n".encode())
        reads.stdin.close()
        counted = reads.stdout.read().decode()
    assert reads.returncode == 0
    assert ("public.a\t1\n" if name == "count_rows.pl" else "1\tpublic.a\n") in counted
    assert time.monotonic() - began < 60


def test_the_longest_line_that_a_copy_can_have_is_one(tmp_path: Path) -> None:
    columns = ", ".join('"' + '""' * 63 + '"' for _ in range(1600))
    table = ".".join(['"' + '""' * 63 + '"'] * 2)
    for shift in (0, 1000, READ_BYTES - 100_000):
        text = f"--{'y' * shift}\n{COPY_HEAD}COPY {table} ({columns}) FROM stdin;\n1\n2\n\\.\n\n\n{TRAILER}"
        assert proven(tmp_path / "db.sql.gz", packed(text), Kind.DB) == {table: 2}


@pytest.mark.parametrize("tail", ["", UNRESTRICT])
def test_whole_dump_of_the_roles_is_good(tail: str, tmp_path: Path) -> None:
    assert proven(tmp_path / "g.sql.gz", packed("CREATE ROLE x;\n\n" + ROLES_TRAILER + tail), Kind.GLOBALS) == {}


def test_dump_in_several_gzip_members_is_good(tmp_path: Path) -> None:
    assert proven(tmp_path / "db.sql.gz", packed(LONG) + packed("\n" + TRAILER), Kind.DB) == {}


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        DUMP.removesuffix(TRAILER),
        DUMP.removesuffix("2\n\\.\n\n" + TRAILER),
        DUMP[:-1],
        DUMP[:-4],
        DUMP + "CREATE TABLE more (id int);\n",
        DUMP + UNRESTRICT + "SELECT 1;\n",
        "INSERT INTO notes VALUES ('-- PostgreSQL database dump complete');\n",
        "x" + TRAILER,
        "\n" + ROLES_TRAILER,
        "",
        "\n",
    ],
)
def test_dump_without_its_mark_at_the_end_is_refused(text: str, tmp_path: Path) -> None:
    assert refused(tmp_path / "db.sql.gz", packed(text), Kind.DB) == CUT


def test_dump_of_the_database_is_no_dump_of_the_roles(tmp_path: Path) -> None:
    assert refused(tmp_path / "g.sql.gz", packed(DUMP), Kind.GLOBALS) == CUT


@pytest.mark.parametrize("size_bytes", [20, 1000])
def test_truncated_gzip_is_refused(size_bytes: int, tmp_path: Path) -> None:
    content = packed(os.urandom(2000).hex() + "\n" + TRAILER)
    said = refused(tmp_path / "db.sql.gz", content[:size_bytes], Kind.DB)
    assert said == UNSOUND.format("gzip: exit status 1")


def test_gzip_without_its_last_byte_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path / "db.sql.gz", packed(DUMP)[:-1], Kind.DB)
    assert said == UNSOUND.format("gzip: exit status 1")


@pytest.mark.parametrize("from_the_end", [1, 5, 8, 500])
def test_flipped_bit_is_refused(from_the_end: int, tmp_path: Path) -> None:
    content = bytearray(packed(os.urandom(2000).hex() + "\n" + TRAILER))
    content[-from_the_end] ^= 1
    said = refused(tmp_path / "db.sql.gz", bytes(content), Kind.DB)
    assert said == UNSOUND.format("gzip: exit status 1")


def test_garbage_after_the_gzip_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path / "db.sql.gz", packed(DUMP) + b"garbage", Kind.DB)
    assert said == UNSOUND.format("gzip: exit status 2")


@pytest.mark.parametrize("kind", Kind)
def test_empty_file_is_refused(kind: Kind, tmp_path: Path) -> None:
    assert refused(tmp_path / "empty", b"", kind)


@pytest.mark.parametrize("kind", Kind)
def test_20_bytes_of_gzip_with_nothing_in_it_are_refused(kind: Kind, tmp_path: Path) -> None:
    content = subprocess.run(["gzip", "-c"], input=b"", capture_output=True, check=True).stdout
    assert len(content) == 20
    assert refused(tmp_path / "empty", content, kind)


def test_plain_text_under_the_name_of_a_gzip_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "db.sql.gz", DUMP.encode(), Kind.DB) == UNSOUND.format("gzip: exit status 1")


def test_uncompressed_dump_is_judged_by_its_end_too(tmp_path: Path) -> None:
    for text, good in (("\n" + LONG + TRAILER, True), (LONG, False), ("", False)):
        (tmp_path / "dump.sql").write_text(text)
        with (tmp_path / "dump.sql").open("rb") as file:
            if good:
                verify_file.plain_dump(tmp_path / "dump.sql", file.fileno())
            else:
                with pytest.raises(VerificationError, match=CUT):
                    verify_file.plain_dump(tmp_path / "dump.sql", file.fileno())


def test_archive_is_good_with_and_without_its_index(tmp_path: Path) -> None:
    archive, index = archived(tmp_path, b"a", b"b")
    assert proven(archive, None, Kind.ATTACHMENTS) == {}
    assert proven(archive, None, Kind.ATTACHMENTS, index=index) == {}


HOSTILE = [
    b"two\nlines",
    b"a\ttab",
    b"-rf",
    b"--checkpoint-action=exec=sh",
    b"back\\slash",
    b"\\n",
    b"latin1-\xe9\xff",
    "grün-中-😀".encode(),
    b"trailing ",
    b" ",
    b"quote'\"$(touch x)",
    b"\x01\x7f",
    b"n" * 255,
    b"*",
]


def test_hostile_names_are_the_same_in_archive_and_index(tmp_path: Path) -> None:
    archive, index = archived(tmp_path, *HOSTILE)
    assert proven(archive, None, Kind.ATTACHMENTS, index=index) == {}
    assert proven(archive, None, Kind.ATTACHMENTS) == {}
    assert len(index.read_text().splitlines()) == len(HOSTILE) + 1


@pytest.mark.parametrize(("lister", "listed"), [("list_files.pl", True), ("sum_holes.pl", False)])
def test_files_are_listed_beside_a_verification_that_does_not_depend_on_it(
    tmp_path: Path, lister: str, listed: bool
) -> None:
    archive, index = archived(tmp_path, *HOSTILE)
    words = filters.argv(lister, "", str(tmp_path / "files"))
    with verify_file.following(archive, Kind.ATTACHMENTS, lambda: False, words) as reading:
        assert reading.verify(index=index).listed == listed
    assert not listed or (tmp_path / "files").read_bytes().count(b"\n") == len(HOSTILE)


def test_directories_links_and_sparse_files_are_the_same_in_archive_and_index(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "deeper").mkdir(parents=True)
    (source / "link").symlink_to("nowhere")
    (source / "first").write_text("x")
    (source / "second").hardlink_to(source / "first")
    os.mkfifo(source / "fifo")
    with (source / "sparse").open("wb") as file:
        file.truncate(10_000_000)
    index = tmp_path / "index"
    with (tmp_path / "archive.tgz").open("wb") as file:
        seen = archive_attachments(AttachmentsSource(path=source, container=""), file.fileno(), index)
        assert seen
        assert seen.entry_count == 8
    assert proven(tmp_path / "archive.tgz", None, Kind.ATTACHMENTS, index=index) == {}
    assert proven(tmp_path / "archive.tgz", None, Kind.ATTACHMENTS) == {}


@pytest.mark.parametrize("change", ["one less", "one more", "another", "nothing"])
def test_archive_that_does_not_hold_what_was_written_is_refused(change: str, tmp_path: Path) -> None:
    archive, index = archived(tmp_path, b"a", b"b")
    lines = index.read_text().splitlines(keepends=True)
    changed = {"one less": lines[:-1], "one more": [*lines, "./c\n"], "another": ["./x\n", *lines[1:]], "nothing": []}
    index.write_text("".join(changed[change]))
    assert refused(archive, None, Kind.ATTACHMENTS, index=index) == OTHER_ENTRIES


def test_archive_cut_within_a_file_is_refused(tmp_path: Path) -> None:
    archive, index = archived(tmp_path, b"a" * 200)
    tar = gzip.decompress(archive.read_bytes())
    content = repacked(archive, tar.rindex(b"a" * 200) + 100)
    assert refused(archive, content, Kind.ATTACHMENTS) == UNSOUND.format("tar: exit status 2")
    assert "not sound" in refused(archive, content, Kind.ATTACHMENTS, index=index)


def test_archive_cut_between_two_files_is_refused_by_the_index(tmp_path: Path) -> None:
    archive, index = archived(tmp_path, b"a", b"b")
    assert refused(archive, repacked(archive, 2 * 512 + 512), Kind.ATTACHMENTS, index=index) == OTHER_ENTRIES


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage after"])
def test_archive_in_a_bad_gzip_is_refused(damage: str, tmp_path: Path) -> None:
    archive, index = archived(tmp_path, b"a", b"b")
    good = archive.read_bytes()
    bad = {"cut": good[:-1], "flipped": good[:-6] + bytes([good[-6] ^ 1]) + good[-5:], "garbage after": good + b"xxxx"}
    assert refused(archive, bad[damage], Kind.ATTACHMENTS).startswith("the content is not sound (gzip: exit status")
    assert refused(archive, bad[damage], Kind.ATTACHMENTS, index=index).startswith("the content is not sound (gzip:")


def test_gzip_that_holds_no_tar_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path / "archive.tgz", packed(LONG), Kind.ATTACHMENTS)
    assert said == UNSOUND.format("tar: exit status 2")


def test_archive_without_any_entry_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path / "archive.tgz", gzip.compress(bytes(10240)), Kind.ATTACHMENTS)
    assert said == "the archive holds no entry, expected at least the directory itself"


def test_checksum_is_of_the_whole_file_wherever_it_stands(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file:
        os.lseek(file.fileno(), 50_000, os.SEEK_SET)
        assert verify_file.sha256(tmp_path / "file", file.fileno()) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "script",
    [
        f"echo '{hashlib.sha256().hexdigest()} *-'; echo '{hashlib.sha256().hexdigest()} */dev/null'",
        f"echo '{'a' * 64} *-'; echo '{'a' * 64} */dev/null'",
        f"echo '{'a' * 64} *-'",
        "echo success",
        "",
    ],
)
def test_checksum_of_a_program_that_cannot_count_is_none(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "sha256sum", script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as file, pytest.raises(VerificationError, match="printed no checksum"):
        verify_file.sha256(tmp_path / "file", file.fileno())


def test_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as raised, verify_file.opened(tmp_path / "gone"):
        pass
    assert "gone: cannot be read back" in raised.value.message


def test_checksum_of_nothing_is_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb") as file:
        assert verify_file.sha256(tmp_path / "file", file.fileno()) == hashlib.sha256().hexdigest()


def test_hint_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(VerificationError) as raised:
        proven(tmp_path / "db.sql.gz", packed(LONG), Kind.DB)
    assert raised.value.hint == "dental-pms-backup list   # choose another set"
    with pytest.raises(VerificationError) as raised:
        proven(tmp_path / "db.sql.gz", b"", Kind.ATTACHMENTS)
    assert raised.value.hint == "dental-pms-backup verify   # which sets are good"


def test_program_that_found_the_fault_is_named_and_not_those_it_left_without_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, index = archived(tmp_path, *(f"{number:0>200}".encode() for number in range(8000)))
    program(tmp_path / "bin", "tar", "exit 7")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert refused(archive, None, Kind.ATTACHMENTS, index=index) == UNSOUND.format("tar: exit status 7")


@contextmanager
def being_written(path: Path, kind: Kind = Kind.DB) -> Iterator[tuple[IO[bytes], Event, verify_file.Readings]]:
    """Open a file as a draft is, which grows until the event, and read along."""
    settled = Event()
    with (
        path.open("w+b", buffering=0) as file,
        verify_file.following(path, kind, lambda: not settled.is_set()) as reading,
    ):
        yield file, settled, reading


@pytest.mark.parametrize("step", [1, 100, 1 << 20])
def test_draft_is_proven_beside_its_writer(step: int, tmp_path: Path) -> None:
    content = packed(
        f"{COPY_HEAD}COPY notes (id) FROM stdin;\n1\n2\n\\.\n" + LONG[: len(LONG) // 4000 * step] + TRAILER
    )
    with being_written(tmp_path / "draft") as (draft, settled, reading):
        for start in range(0, len(content), step):
            draft.write(content[start : start + step])
        time.sleep(0.05)
        settled.set()
        verified = reading.verify()
    assert (verified.rows, verified.sha256) == ({"notes": 2}, hashlib.sha256(content).hexdigest())


def test_proof_waits_for_the_writer(tmp_path: Path) -> None:
    beats = 0
    with being_written(tmp_path / "draft") as (draft, settled, reading):

        def beat() -> None:
            nonlocal beats
            beats += 1
            if beats == 3:
                draft.write(packed(LONG + TRAILER))
                settled.set()

        verified = reading.verify(beat=beat)
    assert (beats >= 3, verified.sha256) == (True, hashlib.sha256(packed(LONG + TRAILER)).hexdigest())


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage after", "empty", "half a dump"])
def test_draft_that_is_not_sound_is_not_proven(damage: str, tmp_path: Path) -> None:
    good = packed(LONG + TRAILER)
    bad = {
        "cut": good[:-1],
        "flipped": good[:-6] + bytes([good[-6] ^ 1]) + good[-5:],
        "garbage after": good + b"xxxx",
        "empty": b"",
        "half a dump": packed(LONG),
    }
    with being_written(tmp_path / "draft") as (draft, settled, reading):
        draft.write(bad[damage])
        settled.set()
        with pytest.raises(VerificationError):
            reading.verify()


def test_draft_whose_reader_fails_is_read_anew_by_gzip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "igzip", "echo once >>$0.ran; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    content = packed(LONG + TRAILER)
    with being_written(tmp_path / "draft") as (draft, settled, reading):
        draft.write(content)
        settled.set()
        assert reading.verify().sha256 == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "bin" / "igzip.ran").read_text() == "once\n"


@pytest.mark.parametrize("moved", [0, 1, 3])
@pytest.mark.parametrize("kind", [Kind.DB, Kind.ATTACHMENTS])
def test_draft_on_a_filesystem_that_cannot_pass_it_on_is_read_once_it_is_whole(
    kind: Kind, moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, splice = [0], os.splice

    def refused_in_the_end(source: int, pipe: int, count: int) -> int:
        moves[0] += 1
        if moves[0] > moved:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return splice(source, pipe, min(count, 100))

    monkeypatch.setattr(os, "splice", refused_in_the_end)
    archive, _ = archived(tmp_path, b"a")
    content = packed(LONG + TRAILER) if kind is Kind.DB else archive.read_bytes()
    with being_written(tmp_path / "draft", kind) as (draft, settled, reading):
        draft.write(content)
        settled.set()
        assert reading.verify().sha256 == hashlib.sha256(content).hexdigest()


def test_checksum_of_a_part_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "sha256sum", 'head -c 10 | exec /usr/bin/sha256sum "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    with being_written(tmp_path / "draft") as (draft, settled, reading):
        draft.write(os.urandom(5 << 20))
        settled.set()
        with pytest.raises(VerificationError, match="sha256sum printed no checksum"):
            reading.summing.checksum(tmp_path / "draft", None)


def test_nothing_runs_any_more_when_the_writer_gives_up(tmp_path: Path) -> None:
    with being_written(tmp_path / "draft", Kind.ATTACHMENTS) as (_, _, reading):
        pids = [process.pid for process in reading.reading.pipeline._started]  # noqa: SLF001 - to see them end
        assert not any(gone(pid) for pid in pids)
    assert [gone(pid) for pid in pids] == [True] * 3


@pytest.mark.parametrize("step", [20, pytest.param(2, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("kind", [Kind.DB, Kind.ATTACHMENTS])
def test_no_flipped_bit_that_changes_the_content_goes_unseen(kind: Kind, step: int, tmp_path: Path) -> None:
    archive, _ = archived(tmp_path, b"a")
    good = archive.read_bytes() if kind is Kind.ATTACHMENTS else packed("select 1;\n" + TRAILER)
    file = tmp_path / "flipped"
    seen = 0
    for position in range(10, len(good), step):  # behind the header, of which gzip ignores time and system
        file.write_bytes(good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
        try:
            with file.open("rb") as opened:
                verify_file.verify(file, kind, opened.fileno())
        except VerificationError:
            seen += 1
        else:  # a zero is copied from another place; for gzip, which is asked here, also from before the beginning
            with file.open("rb") as opened:
                unpacked = subprocess.run(verify_file.GZIP, stdin=opened, capture_output=True, check=True).stdout
            assert unpacked == gzip.decompress(good)
    assert seen > len(good) / step / 3


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
def test_flag_that_gzip_does_not_know_is_refused(flag: int, tmp_path: Path) -> None:
    good = packed(LONG + TRAILER)
    bad = good[:3] + bytes([good[3] | flag]) + good[4:]
    assert refused(tmp_path / "db.sql.gz", bad, Kind.DB).startswith("the content is not sound (gzip: exit status")


@pytest.mark.parametrize("slow", ["sha256sum", "igzip"])
def test_reading_that_is_slower_than_the_other_still_moves(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock goes on by a second whenever the slower one has taken a part, which is seen before the next."""
    real, taken, seen = shutil.which(slow), tmp_path / "taken", tmp_path / "seen"
    taken.touch()
    one_more = f'head -c 60000; printf x >>{taken}; until [ "$(cat {seen})" -gt $n ]; do sleep 0.01; done; n=$((n + 1))'
    program(tmp_path / "bin", slow, f'(n=0; while [ $n -lt 6 ]; do {one_more}; done; cat) | {real} "$@"')

    def clock() -> float:
        now = taken.stat().st_size
        seen.write_text(str(now))
        return now

    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(descriptors, "PIPE_BYTES", 4096)
    content = gzip.compress(os.urandom(400_000).hex().encode() + (LONG + TRAILER).encode())
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file, verify_file.reading(tmp_path / "file", Kind.DB, file.fileno()) as both:
        one, other = both.descriptors
        with progress.Watch(stall_timeout_s=1.5).reading("verifying", one, beside=other) as beat:
            assert both.verify(beat=beat).sha256 == hashlib.sha256(content).hexdigest()
