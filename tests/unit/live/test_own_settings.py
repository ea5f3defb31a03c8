"""What belongs to a database itself: what such a text may hold, and what it is about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dental_pms_backup.live import own_settings

TEXT = r'''-- made by: createdb --template=template0 --encoding=UTF8 --lc-collate='C' --lc-ctype='C' NEWDB
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
ALTER DATABASE :"DBNAME" OWNER TO "Dr ""A""";
COMMENT ON DATABASE :"DBNAME" IS E'it''s\\n; GRANT
\\! id';
ALTER DATABASE :"DBNAME" CONNECTION LIMIT 77;
ALTER DATABASE :"DBNAME" SET search_path TO 'app', 'public';
ALTER ROLE reception IN DATABASE :"DBNAME" SET "dental.secret" TO 'x IS COMMENT ';
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON DATABASE :"DBNAME" FROM "OWNER COMMENT CONNECTION x";
REVOKE ALL ON DATABASE :"DBNAME" FROM dental;
GRANT CONNECT ON DATABASE :"DBNAME" TO reception WITH GRANT OPTION;
-- settings of the database complete
'''
ABOUT = [
    "owner",
    "comment",
    "connection limit",
    "setting search_path",
    "setting dental.secret of role reception",
    "rights",
]


def test_each_statement_is_about_something() -> None:
    found = own_settings.statements(TEXT)
    assert list(found) == ABOUT
    assert found["rights"].count("\n") == 4
    assert "".join(found.values()) == "".join(TEXT.partition("= on;\n")[2].rpartition("--")[:1])


@pytest.mark.parametrize(
    "line",
    [
        "DROP DATABASE practice;",
        "SET client_encoding = 'SJIS';",
        "SET standard_conforming_strings = off;",
        "\\! id",
        'ALTER DATABASE :"DBNAME" RENAME TO x;',
        "ALTER DATABASE other SET search_path TO 'x';",
        "ALTER DATABASE :\"DBNAME\" SET search_path TO 'x\\';",
        "ALTER DATABASE :\"DBNAME\" SET search_path TO 'x'; DROP TABLE t;",
        "ALTER DATABASE :\"DBNAME\" SET search_path TO E'x\\'; DROP TABLE t; --';",
        'GRANT CONNECT ON DATABASE :"DBNAME" TO a, b;',
        "ALTER ROLE reception SUPERUSER;",
        "COMMENT ON DATABASE :\"DBNAME\" IS 'x'\n;",
    ],
)
def test_nothing_else_is_in_it(line: str) -> None:
    with pytest.raises(ValueError, match=r"^[0-9]+$"):
        own_settings.statements(f"{TEXT}{line}\n")


@given(st.text(st.sampled_from("'\\E\n;:\"Dx ")))
def test_a_value_never_ends_but_at_its_quote(value: str) -> None:
    quoted = "'" + value.replace("'", "''") + "'"
    if "\\" in value:
        quoted = "E" + quoted.replace("\\", "\\\\")
    statement = f'COMMENT ON DATABASE :"DBNAME" IS {quoted};\n'
    assert own_settings.statements(statement) == {"comment": statement}


def test_a_database_is_named_as_psql_reads_it() -> None:
    assert "\n\\set DBNAME 'o\\'\\\\n'\n" in own_settings.script("", "o'\\n")


@pytest.mark.parametrize(
    ("begins", "statement"),
    [
        ('COMMENT ON DATABASE :"DBNAME" IS \'x', 'COMMENT ON DATABASE "a b" IS NULL'),
        ('ALTER DATABASE :"DBNAME" SET search_path TO', 'ALTER DATABASE "a b" RESET ALL'),
        ('ALTER ROLE "x ""y" IN DATABASE :"DBNAME" SET', 'ALTER ROLE "x ""y" IN DATABASE "a b" RESET ALL'),
        ('GRANT CONNECT ON DATABASE :"DBNAME" TO reception;', 'REVOKE ALL ON DATABASE "a b" FROM reception'),
        ('REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;', 'REVOKE ALL ON DATABASE "a b" FROM PUBLIC'),
    ],
)
def test_what_is_too_large_is_taken_away_by_a_statement(begins: str, statement: str) -> None:
    assert own_settings.taking_away(begins, "a b") == statement
