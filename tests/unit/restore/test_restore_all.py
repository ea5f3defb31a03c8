"""Rows and files that cannot be compared are not the same."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.config import settings
from dental_pms_backup.errors import RestoreError
from dental_pms_backup.host.progress import Watch
from dental_pms_backup.live.postgres import Facts
from dental_pms_backup.restore import restore_all
from tests.unit.builders import program

if TYPE_CHECKING:
    from pathlib import Path

FACTS = Facts(version=160004, database="pms", user="pms", size=1, started="2026-11-01", system="7301")
PSQL = """\
case "$*" in
*--version*) echo 16.4 ;;
*"copy rows"*) COPIES ;;
*pg_partition_tree*) echo '["copy rows"]' ;;
*) echo 'FACTS' ;;
esac
""".replace("FACTS", json.dumps(dataclasses.asdict(FACTS)))


@pytest.mark.parametrize(
    ("copies", "counts", "said"),
    [
        ('echo \'{"key": "a", "size": 3}\'; exit 3', 'exec /usr/bin/perl "$@"', "psql: exit status 3"),
        ("true", "cat >/dev/null; exit 2", "perl: exit status 2"),
        ("true", "cat >/dev/null; echo 1 0", "perl: exit status 0"),
    ],
)
def test_rows_that_cannot_be_compared_with_files_are_no_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: str, counts: str, said: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    program(tmp_path / "bin", "psql", PSQL.replace("COPIES", copies))
    program(tmp_path / "bin", "perl", f"{counts}\n")
    (tmp_path / "images").mkdir()
    file = tmp_path / "backup.yaml"
    file.write_text(
        f"database: {{source: native}}\nnative: {{host: /run, database: d, run_as: root, bin_dir: {tmp_path}/bin}}\n"
        f"attachments: {{path: {tmp_path}/images}}\n"
    )
    with pytest.raises(RestoreError) as raised:
        restore_all.match(settings.load(file, {}), "latest", watch=Watch())
    assert raised.value.message == (
        f"attachments: {said}, while rows and files were compared; both streams are restored as the set has them"
    )
