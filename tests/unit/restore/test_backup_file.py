"""What a dump's file holds, when the program that looks fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.errors import VerificationError
from dental_pms_backup.host.progress import Watch
from dental_pms_backup.restore import backup_file
from dental_pms_backup.store.sets import Kind
from tests.unit.builders import DUMP, program

if TYPE_CHECKING:
    from pathlib import Path


def test_a_plain_dump_whose_rows_cannot_be_counted_is_not_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.sql"
    file.write_text(DUMP)
    backup = backup_file.find(tmp_path / "store", str(file), Kind.DB)
    with backup_file.opened(backup) as descriptor:
        assert backup_file.verify(backup, descriptor, watch=Watch()).rows == {"patients": 2}
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        program(tmp_path / "bin", "perl", "cat >/dev/null; exit 3\n")
        with pytest.raises(VerificationError) as raised:
            backup_file.verify(backup, descriptor, watch=Watch())
    assert raised.value.message == f"{file}: the rows cannot be counted (perl: exit status 3), expected a dump"


@pytest.mark.parametrize(
    ("first", "encoding"),
    [
        ("SET lc_monetary = 'C';\n--\n-- a dump\n--\n\n\\restrict abc\n\nSET lock_timeout = 0;\n", "LATIN1"),
        ("", "LATIN1"),
        ("COPY public.notes (note) FROM stdin;\n", None),
        ("SET x = 0; SELECT 1;\n", None),
    ],
)
def test_the_encoding_is_what_the_head_says_and_no_row(tmp_path: Path, first: str, encoding: str | None) -> None:
    file = tmp_path / "mine.sql"
    file.write_text(f"{first}SET client_encoding = 'LATIN1';\nSET standard_conforming_strings = on;\n")
    backup = backup_file.find(tmp_path / "store", str(file), Kind.DB)
    with backup_file.opened(backup) as descriptor:
        assert backup_file.head(backup, descriptor).encoding == encoding
