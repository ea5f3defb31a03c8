"""Roles come into being where they are missing, memberships without their grantors; what somebody set stays text."""

from __future__ import annotations

import pytest

from tests.unit.builders import filtered

MADE = "DO $dental_pms$ BEGIN CREATE ROLE {}; EXCEPTION WHEN duplicate_object THEN NULL; END $dental_pms$;"
LINES = (
    "GRANT x TO y GRANTED BY c",
    "GRANT x TO y GRANTED BY c;",
    'GRANT x TO y WITH INHERIT TRUE GRANTED BY "c";',
    "GRANT SET ON PARAMETER work_mem TO y GRANTED BY c;",
    "GRANT x TO y;",
    "CREATE ROLE z",
    "CREATE ROLE z;",
    "-- it's",
    "\\restrict x",
    "E'\\",
)
VALUES = ("{}", "{}\nlast", "first\n{}", "first\n{}\nlast", "\n{}\n")


def portable(text: str) -> str:
    done = filtered("portable_roles.pl", given=text.encode())
    assert (done.status, done.said) == (0, "")
    return done.out.decode()


def literal(value: str) -> str:
    """Return a literal as pg_dumpall writes it."""
    escaped = value.replace("'", "''").replace("\\", "\\\\")
    return f"E'{escaped}'" if "\\" in value else f"'{escaped}'"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("CREATE ROLE anna;", MADE.format("anna")),
        ('CREATE ROLE "a; b";', MADE.format('"a; b"')),
        ("ALTER ROLE anna WITH LOGIN;",) * 2,
        ("-- CREATE ROLE anna;",) * 2,
        ("GRANT a TO b;",) * 2,
        ("GRANT a TO b GRANTED BY postgres;", "GRANT a TO b;"),
        (
            "GRANT a TO b WITH ADMIN OPTION, INHERIT TRUE GRANTED BY postgres;",
            "GRANT a TO b WITH ADMIN OPTION, INHERIT TRUE, SET TRUE;",
        ),
        ("GRANT a TO b WITH INHERIT FALSE GRANTED BY b;", "GRANT a TO b WITH INHERIT FALSE, SET TRUE;"),
        ("GRANT a TO b WITH INHERIT TRUE, SET FALSE GRANTED BY c;", "GRANT a TO b WITH INHERIT TRUE, SET FALSE;"),
        ("GRANT a TO b WITH ADMIN OPTION GRANTED BY c;", "GRANT a TO b WITH ADMIN OPTION;"),
        ('GRANT a TO "x GRANTED BY y" GRANTED BY "a"" GRANTED BY b";', 'GRANT a TO "x GRANTED BY y";'),
        ('CREATE ROLE "a$dental_pms$b";',) * 2,
        ("GRANT SET ON PARAMETER log_statement TO b WITH GRANT OPTION;",) * 2,
        ("GRANT SET ON PARAMETER app.x TO b GRANTED BY c;", "GRANT SET ON PARAMETER app.x TO b;"),
        ("\\restrict abc",) * 2,
    ],
)
def test_roles_come_into_being_only_where_they_are_missing(said: str, told: str) -> None:
    assert portable(f"--\n\n{said}\n\n-- end\n") == f"--\n\n{told}\n\n-- end\n"


@pytest.mark.parametrize(
    ("granted", "told"),
    [
        (["GRANT a TO b;"], ["GRANT a TO b;"]),
        (["GRANT a TO b WITH ADMIN OPTION;", "GRANT a TO b;"], ["GRANT a TO b WITH ADMIN OPTION;"]),
        (
            ["GRANT a TO b WITH INHERIT TRUE, SET TRUE;", "GRANT a TO b WITH INHERIT FALSE, SET FALSE;"],
            ["GRANT a TO b WITH INHERIT TRUE, SET TRUE;"],
        ),
        (
            [
                'GRANT a TO "b; TO c" WITH INHERIT FALSE, SET TRUE GRANTED BY d;',
                "GRANT a TO d WITH INHERIT FALSE, SET FALSE GRANTED BY d;",
                'GRANT a TO "b; TO c" WITH ADMIN OPTION, INHERIT TRUE, SET FALSE GRANTED BY c;',
            ],
            [
                'GRANT a TO "b; TO c" WITH ADMIN OPTION, INHERIT TRUE, SET TRUE;',
                "GRANT a TO d WITH INHERIT FALSE, SET FALSE;",
            ],
        ),
        (
            ['GRANT a TO "m WITH ADMIN OPTION, INHERIT TRUE, SET TRUE" WITH INHERIT FALSE, SET FALSE;'] * 2,
            ['GRANT a TO "m WITH ADMIN OPTION, INHERIT TRUE, SET TRUE" WITH INHERIT FALSE, SET FALSE;'],
        ),
        (["GRANT SET ON PARAMETER log_statement TO b;"] * 2,) * 2,
    ],
)
def test_a_membership_that_several_have_granted_has_what_each_of_them_gave(granted: list[str], told: list[str]) -> None:
    assert portable("\n".join(["--", *granted, "", "-- end\n"])) == "\n".join(["--", *told, "", "-- end\n"])


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("statement", ["ALTER ROLE evil SET application_name TO {};", "COMMENT ON ROLE evil IS {};"])
def test_what_somebody_set_stays_as_it_is_whatever_line_it_looks_like(statement: str, value: str, line: str) -> None:
    whole = statement.format(literal(value.format(line)))
    after = "ALTER ROLE evil SET role TO ';GRANT postgres TO evil;--';\n"
    assert portable(f"{whole}\n{after}") == f"{whole}\n{after}"


@pytest.mark.parametrize("value", ["'", "\\", "x", "';\n", "\\'", '"'])
def test_a_value_of_whatever_length_stays_as_it_is(value: str) -> None:
    whole = f"ALTER ROLE evil SET application_name TO {literal(value * 100_000)};\nGRANT a TO b;\n"
    assert portable(whole) == whole


@pytest.mark.parametrize(
    "text",
    [
        "CREATE ROLE a",
        "ALTER ROLE a SET b TO 'c;\n",
        'CREATE ROLE "a;\n',
        "ALTER ROLE a SET b TO E'\\';\n",
        "DO $$ begin end $$;\n",
        "\\! id\n",
        "ALTER ROLE a SET b TO 'c' \\g\n;",
        "\0;",
    ],
)
def test_text_that_is_no_statement_makes_no_roles(text: str) -> None:
    done = filtered("portable_roles.pl", given=f"CREATE ROLE b;\n{text}".encode())
    assert (done.status != 0, done.said.partition(": ")[0]) == (True, "line 2")


def test_roles_without_end_take_no_memory_without_end() -> None:
    assert filtered("portable_roles.pl", given=(b"-- x\n" * (1 << 18) for _ in range(64))).status != 0
