"""The SQLSTATE at which a psql stopped is found in whatever language the server speaks."""

from __future__ import annotations

import pytest

from dental_pms_backup.drill import compare_files
from dental_pms_backup.errors import BackupError, DrillError, TemporaryError
from dental_pms_backup.host.programs import Ended
from dental_pms_backup.live import psql

ERRORS = ["ERROR", "FATAL", "FEHLER", "PANIK", "ERREUR", "ОШИБКА", "错误", "BŁĄD", "LỖI"]
NO_ERRORS = [
    "psql: error: 42601",
    "psql:<stdin>:7: error: invalid command \\gone",
    'psql: error: connection to server on socket "/run/x" failed: FATAL:  57P03',
    "psql:<stdin>:7: NOTICE:  42P07",
    "psql:<stdin>:7: HINWEIS:  42P07",
    "psql:<stdin>:7: WARNING:  25P01",
    "psql:<stdin>:7: WARNUNG:  25P01",
    "psql:<stdin>:7: ПРЕДУПРЕЖДЕНИЕ:  01000",
    "psql:<stdin>:7: ЗАМЕЧАНИЕ:  00000",
    "psql:<stdin>:7: FEHLER:  Speicher aufgebraucht",
    "server closed the connection unexpectedly",
]


def said(*lines: str, exit_code: int = 3) -> Ended:
    return Ended(program="psql", exit_code=exit_code, said=lines)


@pytest.mark.parametrize("severity", ERRORS)
def test_a_state_is_found_whatever_the_word_for_an_error(severity: str) -> None:
    at_a_line = said("psql:<stdin>:3: HINWEIS:  42P07", f"psql:<stdin>:7: {severity}:  42601", "connection lost")
    assert psql.stopped_at(at_a_line) == ("42601", 7)
    assert psql.stopped_at(said(f"{severity}:  42601")) == ("42601", 0)


@pytest.mark.parametrize("line", NO_ERRORS)
def test_no_state_is_found_in_what_is_no_error_of_the_server(line: str) -> None:
    assert psql.sqlstate(said(line)) == ""


def test_the_line_of_what_psql_itself_refuses_is_found() -> None:
    assert psql.stopped_at(said("psql:<stdin>:7: error: invalid command \\gone")) == ("", 7)


def why(*lines: str) -> BackupError:
    return compare_files._failure(said(*lines))  # noqa: SLF001 - else a server that speaks German is needed


@pytest.mark.parametrize("severity", ["ERROR", "FEHLER"])
def test_a_query_for_files_that_the_server_refuses_is_told_apart_from_a_server_that_ends(severity: str) -> None:
    refused = why(f"psql:<stdin>:1: {severity}:  42P01")
    assert isinstance(refused, DrillError)
    assert "the query of section application failed (SQLSTATE 42P01)" in refused.message
    assert isinstance(why(f"psql:<stdin>:1: {severity}:  57P01"), TemporaryError)
    for ended in ("psql:<stdin>:1: FATAL:  XX000", "psql:<stdin>:1: HINWEIS:  42P07", "psql: error: gone"):
        assert isinstance(why(ended), TemporaryError)
