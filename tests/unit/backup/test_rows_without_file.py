"""Rows without a file are counted as a drill counts them, and what cannot be counted is no failure."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.backup import one_stream, rows_without_file
from dental_pms_backup.backup.one_stream import Part
from dental_pms_backup.config.settings import Application, Suspect
from dental_pms_backup.drill import compare_files
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Echo
from dental_pms_backup.host.progress import Watch
from dental_pms_backup.live.postgres import OnHost
from dental_pms_backup.live.sources import AttachmentsSource
from dental_pms_backup.store import named_files, publishing, verify_file
from dental_pms_backup.store.sets import Kind, Stream
from tests.unit.builders import COPY_HEAD, NAME, TRAILER, program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LIMITS = Suspect(db_shrink_percent=50, rows_shrink_percent=50, attachments_shrink_percent=50)
HEADING = "COPY public.attachments (id, storage_key, byte_size) FROM stdin;\n"
FILES = ("plain.jpg", "in/tab\there", "new\nline", "back\\slash", "zähne 🦷", "-rf", " ", "latin-\udce9")
EACH = rb"""plain.jpg	9
in/tab\there	11
new\nline	8
back\\slash	10
-rf	3
"""
EACH += " \t1\nzähne 🦷\t11\nlatin-\udce9\t7\n".encode(errors="surrogateescape")


class Night:
    """One night's archive, of real files, and dump, of whatever rows."""

    def __init__(self, place: Path, application: Application) -> None:
        self.place, self.application = place, application
        self.store, self.source = place / "store", place / "source"
        publishing.prepare(self.store)
        self.order = one_stream.Order(
            store=self.store,
            name=NAME,
            earlier=(),
            limits=LIMITS,
            table=application.table,
            level=6,
            watch=Watch(),
            directory=application.directory,
            columns=application.columns,
        )
        below = self.source / "uploads"
        for name in FILES:
            (below / name).parent.mkdir(parents=True, exist_ok=True)
            (below / name).write_bytes(os.fsencode(name))
        (below / "linked").hardlink_to(below / "zähne 🦷")
        (below / "points").symlink_to("plain.jpg")
        (self.source / "outside.jpg").write_text("x")
        (self.source / "uploads2").mkdir()
        (self.source / "uploads2/plain2.jpg").write_text("x")
        self.server = OnHost(
            host="/run", port=1, user="u", database="d", run_as=None, pgpass_file=None, bin_dir=place / "bin"
        )
        self.answers("f")

    def answers(self, word: str) -> None:
        program(self.place / "bin", "psql", f'case "$*" in *--version*) echo 16.4 ;; *) echo {word} ;; esac\n')

    def counted(
        self, rows: bytes, *, heading: str = HEADING, dumped: Mapping[str, int] | None = None
    ) -> Mapping[str, object]:
        """Return what the manifest's part of the attachments says beside what it said before."""
        numbered = b"".join(b"%d\t%b\n" % (n, row) for n, row in enumerate(rows.split(b"\n")[:-1]))
        text = COPY_HEAD.encode() + heading.encode() + numbered + b"\\.\n\n" + TRAILER.encode()
        path = self.place / "db.sql.gz"
        path.write_bytes(gzip.compress(text))
        words: Sequence[str] = ()
        if columns := self.application.columns:
            named = one_stream.list_path(self.order, "rows")
            words = named_files.lister_of_rows(named, self.application.table or "", columns)
        with verify_file.following(path, Kind.DB, lambda: False, words) as reading:
            verified = reading.verify()
        dumped = verified.rows if dumped is None else dumped
        dump = Part(stream=Stream.DB, manifest={"rows": dumped}, listed=verified.listed)
        archive = one_stream.attachments(self.order, AttachmentsSource(path=self.source, container=""))
        before = dict(archive.manifest)
        parts = rows_without_file.counted(self.order, [dump, archive], self.server)
        assert parts[0] is dump
        assert list(self.store.glob(".counting*")) == []
        after = dict(parts[1].manifest)
        assert {key: after.pop(key) for key in before} == before
        return after

    def drilled(self, rows: bytes) -> named_files.Matched:
        """Return what a drill of the archive finds whose copy has these rows."""
        place = self.place / "drill"
        place.mkdir()
        (self.place / "rows").write_bytes(rows)
        archive = self.store / f".attachments_{NAME}.tgz.draft"
        with archive.open("rb") as file, compare_files.listing(file.fileno(), place) as listing:
            listing.looked(archive)
        asking = ["sed", r"/^\\N\t/d", str(self.place / "rows")]
        found = compare_files.match(asking, self.application, "select", place)
        assert found
        return found


@pytest.fixture
def application() -> Application:
    return Application(
        table="attachments",
        key_column="storage_key",
        size_column="byte_size",
        name_column="original_filename",
        directory="uploads",
        query=None,
    )


@pytest.fixture
def night(tmp_path: Path, application: Application, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Night(tmp_path, application)


@pytest.mark.parametrize(
    ("rows", "missing", "other_size"),
    [
        (b"", 0, 0),
        (b"plain.jpg\t10\n\\N\t3\n\\N\t\\N\nplain.jpg\t\\N\n", 0, 1),
        (b"gone.jpg\t1\ngone.jpg\t\\N\nplain.jpg\t9\n", 2, 0),
        (b"../outside.jpg\t1\n../uploads/plain.jpg\t9\n/plain.jpg\t9\n./plain.jpg\t9\nin//tab\\there\t11\n", 5, 0),
        (b"in\t4096\nin/\t4096\n.\t1\n\t0\npoints\t9\n", 5, 0),
        ("linked\t11\nlinked\t1\nzähne 🦷\t1\n".encode(), 0, 1),  # which of the two is the link is tar's choice
        (b"plain.jpg\t09\nplain.jpg\tnine\nplain.jpg\t\n", 0, 3),
        (b"plain.jpg\\t9\t9\nplain.jpg\\n\t9\nplain\xff\t9\n\\000\t9\nplain2.jpg\t1\n", 5, 0),
        (b"plain.jpg\t9\n" * 3 + b"x" * (2 << 20) + b"\t9\n", 1, 0),
    ],
    ids=range(9),
)
def test_rows_are_counted_as_a_drill_counts_them(
    night: Night, rows: bytes, missing: int, other_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.show(Echo.ALL)
    given = EACH + rows
    assert night.counted(given) == {"rows_without_file": missing, "rows_with_other_size": other_size}
    told = capsys.readouterr().err
    count = given.count(b"\n") - given.count(b"\\N\t")
    warning = f"attachments: of {count} rows {missing} have no file in the archive and {other_size} one of another size"
    assert (f"{warning}, expected the file of every row\n" in told) == bool(missing or other_size)
    found = night.drilled(given)
    assert (found.rows, found.missing, found.other_size) == (count, missing, other_size)
    assert not found.lacks_more({"rows_without_file": missing, "rows_with_other_size": other_size})


@pytest.mark.parametrize(
    ("heading", "dumped"),
    [
        (HEADING, {"public.uploads": 1}),
        (HEADING, {"public.attachments": 1, "archive.attachments": 1}),
        (HEADING, {"public.my_attachments": 1}),
        (HEADING.replace("byte_size", "bytes"), None),
    ],
    ids=["a view", "two of that name", "another name", "no such column"],
)
def test_nothing_is_counted_of_what_is_no_such_table_in_the_dump(
    night: Night, heading: str, dumped: Mapping[str, int] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.show(Echo.WARNINGS)
    assert night.counted(b"gone.jpg\t1\n", heading=heading, dumped=dumped) == {}
    assert capsys.readouterr().err == ""


def test_nothing_is_counted_where_a_query_or_nothing_says_which_files_there_are(
    tmp_path: Path, application: Application
) -> None:
    for number, other in enumerate((replace(application, query="select 1, 2"), replace(application, table=None))):
        (tmp_path / str(number)).mkdir()
        assert Night(tmp_path / str(number), other).counted(b"gone.jpg\t1\n") == {}


def test_nothing_is_counted_where_the_dump_has_spaces_that_no_query_sees(night: Night) -> None:
    night.answers("t")
    assert night.counted(b"plain.jpg  \t9\n") == {}


BROKEN: Sequence[tuple[str, str, str]] = (
    ("psql", "exit 2", "psql: does not tell its version"),
    ("join", "exit 1", "join: exit status 1"),
    ("sort", "kill -9 $$", "sort: killed by signal 9"),
    ("wc", 'case "$*" in *.rows_*) echo 2 ;; *) exec /usr/bin/wc "$@" ;; esac', "2 rows were listed, expected 1"),
    ("wc", 'case "$*" in */rows) exit 0 ;; esac; exec /usr/bin/wc "$@"', "wc: exit status 0"),
    ("perl", 'case "$*" in *list_files*) exit 3 ;; esac; exec /usr/bin/perl "$@"', "could be listed"),
    ("perl", 'case "$*" in *.rows_*) exit 3 ;; esac; exec /usr/bin/perl "$@"', "could be listed"),
)


@pytest.mark.parametrize(("name", "script", "said"), BROKEN, ids=range(len(BROKEN)))
def test_what_cannot_be_counted_fails_nothing_and_is_told(
    night: Night, name: str, script: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.show(Echo.WARNINGS)
    program(night.place / "bin", name, f"{script}\n")
    assert night.counted(b"gone.jpg\t1\n") == {}
    told = capsys.readouterr().err
    assert "attachments: how many rows lack their file cannot be counted: " in told
    assert said in told


@pytest.mark.parametrize(
    ("known", "missing", "other_size", "more"),
    [
        ({}, 0, 0, False),
        ({}, 1, 0, True),
        ({}, 0, 1, True),
        ({"rows_without_file": 2, "rows_with_other_size": 1}, 2, 1, False),
        ({"rows_without_file": 2, "rows_with_other_size": 1}, 1, 2, False),
        ({"rows_without_file": 2, "rows_with_other_size": 1}, 0, 0, False),
        ({"rows_without_file": 2, "rows_with_other_size": 1}, 3, 0, True),
        ({"rows_without_file": 2, "rows_with_other_size": 1}, 2, 2, True),
    ],
)
def test_more_rows_without_their_file_than_a_set_knows_of_are_told_apart(
    known: Mapping[str, int], missing: int, other_size: int, more: bool
) -> None:
    assert named_files.Matched(rows=9, missing=missing, other_size=other_size).lacks_more(known) == more
