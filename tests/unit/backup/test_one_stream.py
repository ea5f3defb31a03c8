"""A stream of a set: its drafts are written, read along, and proven."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.backup import one_stream
from dental_pms_backup.config.settings import Suspect
from dental_pms_backup.errors import ArchiveError
from dental_pms_backup.host.progress import Watch
from dental_pms_backup.live.sources import AttachmentsSource
from dental_pms_backup.store import publishing
from tests.unit.builders import NAME, program

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = Suspect(db_shrink_percent=50, rows_shrink_percent=50, attachments_shrink_percent=50)
# a file that shrinks while it is read the first times
SHRINKS = """\
case "$*" in *--list*) exec /usr/bin/tar "$@" ;; esac
echo try >>{tries}
/usr/bin/tar "$@"
[ $(wc -l <{tries}) -gt {times} ] || {{ echo 'tar: ./a: File shrank by 5 bytes; padding with zeros' >&2; exit 1; }}
"""


def taken(tmp_path: Path) -> one_stream.Part:
    store, source = tmp_path / "store", tmp_path / "source"
    publishing.prepare(store)
    source.mkdir(exist_ok=True)
    (source / "a").write_bytes(os.urandom(100_000))
    order = one_stream.Order(store=store, name=NAME, earlier=(), limits=LIMITS, table=None, level=6, watch=Watch())
    return one_stream.attachments(order, AttachmentsSource(path=source, container=""))


def shrinking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> Path:
    tries = tmp_path / "tries"
    program(tmp_path / "bin", "tar", SHRINKS.format(tries=tries, times=times))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tries


@pytest.mark.parametrize("times", [0, 1, 2])
def test_archive_of_a_file_that_shrinks_is_made_anew(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = shrinking(tmp_path, monkeypatch, times)
    (artefact,) = taken(tmp_path).manifest["artefacts"]
    (draft,) = (tmp_path / "store").glob(".attachments_*")
    assert tries.read_text() == "try\n" * (times + 1)
    assert draft.stat().st_size == artefact["size_bytes"]
    names = subprocess.run(["tar", "-tzf", draft], capture_output=True, text=True, check=True).stdout
    assert names == "./\n./a\n"


def test_archive_of_a_file_that_shrinks_every_time_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = shrinking(tmp_path, monkeypatch, 3)
    with pytest.raises(ArchiveError, match="tar could not read everything"):
        taken(tmp_path)
    assert tries.read_text() == "try\n" * 3
