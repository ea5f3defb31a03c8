"""The other databases of the server: which are told, and when the practice's has to be named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.backup import other_databases
from dental_pms_backup.errors import ConfigError
from dental_pms_backup.host import journal
from dental_pms_backup.live.server import Facts, OnHost
from dental_pms_backup.live.sources import DatabaseSource
from tests.unit.builders import program

if TYPE_CHECKING:
    from pathlib import Path

FACTS = Facts(version=160004, database="pms", user="pms", size=1, started="2026-11-01", system="7301")
NAMES = (
    "billing, closed, empty, pms_2026_11_28_023000, pms_before_2026_11_28_023000, pms_restoring_2026_11_28_023000, "
    "pmsx_before_2026_11_28_023000, pms_before_us"
)
TOLD = "billing, closed, pmsx_before_2026_11_28_023000, pms_before_us"


def source(place: Path, *, named: bool = True) -> DatabaseSource:
    names = "[" + ", ".join(f'"{name}"' for name in NAMES.split(", ")) + "]"
    looks = 'case "$*" in *"\'empty\'"*) echo f ;; *"\'closed\'"*) exit 2 ;; *) echo t ;; esac'
    psql(place, f"case \"$*\" in *datallowconn*) echo '{names}' ;; *) {looks} ;; esac\n")
    server = OnHost(
        host="/s", port=5432, user="u", database="pms", run_as=None, pgpass_file=None, bin_dir=place / "bin"
    )
    return DatabaseSource(server=server, facts=FACTS, named=named)


def psql(place: Path, script: str) -> None:
    program(place / "bin", "psql", f'[ "$1" != --version ] || {{ echo "psql (PostgreSQL) 16.4"; exit; }}\n{script}')


def test_others_with_tables_are_told_but_what_a_restore_has_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.show(journal.Echo.WARNINGS)
    other_databases.tell(source(tmp_path), frozenset())
    told = "db: the server has other databases with tables, which no set holds: "
    assert capsys.readouterr().err == f"{told}{TOLD}\n"
    other_databases.tell(source(tmp_path), frozenset({"billing", "closed", "gone"}))
    assert capsys.readouterr().err == f"{told}pmsx_before_2026_11_28_023000, pms_before_us\n"
    other_databases.tell(source(tmp_path), frozenset(TOLD.split(", ")))
    other_databases.tell(source(tmp_path), "ignore")
    assert capsys.readouterr().err == ""


def test_database_that_nobody_named_is_not_taken_where_others_have_tables(tmp_path: Path) -> None:
    other_databases.check_named(source(tmp_path))
    with pytest.raises(ConfigError) as raised:
        other_databases.check_named(source(tmp_path, named=False))
    assert raised.value.problems == (
        "database.name: neither this key nor the container's environment names one database; beside pms the server has "
        f"{TOLD} with tables, expected the practice's name",
    )
    assert raised.value.hint == "editor /etc/dental-pms/backup.yaml   # set database.name"
    server = source(tmp_path).server
    psql(tmp_path, 'case "$*" in *datallowconn*) echo \'["empty"]\' ;; *) echo f ;; esac\n')
    other_databases.check_named(
        DatabaseSource(server=server, facts=FACTS, named=False)
    )  # postgres itself, and no other
