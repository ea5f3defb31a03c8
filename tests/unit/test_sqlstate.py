"""The SQLSTATE at which a psql stopped is found in whatever language the server speaks."""

from __future__ import annotations

import pytest

from dental_pms_backup.drill import compare_files, load
from dental_pms_backup.errors import BackupError, DrillError, TemporaryError
from dental_pms_backup.host.programs import Ended
from dental_pms_backup.restore import databases

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


def psql(*said: str, exit_code: int = 3) -> Ended:
    return Ended(program="psql", exit_code=exit_code, said=said)


@pytest.mark.parametrize("severity", ERRORS)
def test_a_state_is_found_whatever_the_word_for_an_error(severity: str) -> None:
    at_a_line = psql("psql:<stdin>:3: HINWEIS:  42P07", f"psql:<stdin>:7: {severity}:  42601", "connection lost")
    assert databases.sqlstate(at_a_line) == "42601"
    assert databases.sqlstate(psql(f"{severity}:  42601")) == "42601"
    assert load.sqlstate(at_a_line) == "42601"
    assert load._stopped_at(at_a_line) == ("42601", 7)  # noqa: SLF001 - only a whole drill tells the line


@pytest.mark.parametrize("said", NO_ERRORS)
def test_no_state_is_found_in_what_is_no_error_of_the_server(said: str) -> None:
    assert databases.sqlstate(psql(said)) == ""
    assert load.sqlstate(psql(said)) == ""


def why(*said: str) -> BackupError:
    return compare_files._failure(psql(*said))  # noqa: SLF001 - else a server that speaks German is needed


@pytest.mark.parametrize("severity", ["ERROR", "FEHLER"])
def test_a_query_for_files_that_the_server_refuses_is_told_apart_from_a_server_that_ends(severity: str) -> None:
    refused = why(f"psql:<stdin>:1: {severity}:  42P01")
    assert isinstance(refused, DrillError)
    assert "the query of section application failed (SQLSTATE 42P01)" in refused.message
    assert isinstance(why(f"psql:<stdin>:1: {severity}:  57P01"), TemporaryError)
    for ended in ("psql:<stdin>:1: FATAL:  XX000", "psql:<stdin>:1: HINWEIS:  42P07", "psql: error: gone"):
        assert isinstance(why(ended), TemporaryError)
