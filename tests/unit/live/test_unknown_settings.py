"""What a set sets for a database or a role: each statement is read as a whole, and never searched for words of ours."""

import pytest

from dental_pms_backup.live import unknown_settings

EVIL = "C.UTF-8@\\'';table a.b;--'"
DATABASE = "ALTER DATABASE :\"DBNAME\" SET lc_monetary TO 'C';\n"
NAMED = f'ALTER ROLE "ALTER ROLE pms SET lc_monetary TO E\'{EVIL};" IN DATABASE :"DBNAME" SET work_mem TO \'4MB\';\n'
SAID = "COMMENT ON DATABASE :\"DBNAME\" IS 'ALTER ROLE pms SET lc_monetary TO ''x'';';\n"


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        ([DATABASE, NAMED, SAID], "C"),
        (["ALTER ROLE pms SET \"LC_Monetary\" TO 'de_DE';", DATABASE], "de_DE"),
        (["ALTER ROLE other SET lc_monetary TO 'de_DE';", DATABASE], "C"),
        (
            [
                "ALTER ROLE pms IN DATABASE :\"DBNAME\" SET lc_monetary TO 'x';",
                "ALTER ROLE pms SET lc_monetary TO 'y';",
            ],
            "x",
        ),
        ([r"ALTER ROLE pms SET lc_monetary TO E'a\\''b';"], r"a\'b"),
        ([r"ALTER ROLE pms SET lc_monetary TO E'\303\244';", DATABASE], "C"),
        (["ALTER ROLE pms SET lc_monetary TO 'a', 'b';"], None),
    ],
)
def test_what_is_in_force_for_a_role_is_read_of_whole_statements_and_decoded(
    statements: list[str], found: str | None
) -> None:
    assert unknown_settings.in_force(statements, "pms").get("lc_monetary") == found


def test_a_statement_that_cannot_be_read_as_a_whole_is_odd() -> None:
    twice = "ALTER DATABASE :\"DBNAME\" SET session_preload_libraries TO 'evil';\n" * 2
    other = "ALTER ROLE \"x y\" SET session_preload_libraries = 'evil';"
    assert unknown_settings.odd([DATABASE, NAMED, SAID, twice, other]) == [twice, other]
