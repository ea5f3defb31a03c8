"""What the filters let through to psql: SQL and rows, and nothing that psql takes for a command of its own."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.builders import FILTERS

ENDS = "-- the end"
OF_A_SET = ("split=1", "ours=1", "restricts=1", "extension=s.make", 'owner="dental"')
OF_ELSEWHERE = (
    "split=1",
    "restricts=1",
    "extension=s.make",
    'owner="dental"',
    "mighty=postgres",
    "mighty=Root",
    "in_use=app",
)
OLD_PSQL = ("split=1", "extension=s.make", 'owner="dental"', "mighty=postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What psql gets, what the superuser runs afterwards and last of all; and what the filter said no with."""

    sql: str
    rights: str
    late: str
    no: str


def passed(place: Path, dump: str | bytes, *words: str, ended: bool = True) -> Passed:
    """Return what the filter makes of a dump that was unpacked to its end, as long as it is not ``ended`` before."""
    control, after, gate = place / "control", place / "after", place / "gate"
    control.write_bytes(b"".join(f"{word}\0".encode() for word in (*words, f"ends={ENDS}", "token=OURS")))
    after.write_text("AFTER;\n")
    gate.touch()
    content = dump.encode() if isinstance(dump, str) else dump
    files = [control, gate, after, place / "rights", place / "late"]
    for file in files[3:]:
        file.unlink(missing_ok=True)
    done = subprocess.run(
        ["perl", FILTERS / "replay.pl", *files],
        input=content + (f"\n{ENDS}\n".encode() if ended else b""),
        capture_output=True,
        check=False,
    )
    assert (done.returncode == 0) == (done.stderr == b"")
    rights, late = (file.read_text() if file.exists() else "" for file in files[3:])
    return Passed(sql=done.stdout.decode(errors="replace"), rights=rights, late=late, no=done.stderr.decode().strip())


@pytest.fixture(params=[OF_A_SET, OLD_PSQL], ids=["set", "old psql"])
def words(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What a filter is told: whose dump it is, which psql there is, whether rights are kept apart."""
    given: tuple[str, ...] = request.param
    return given


COMMAND = "a command of psql"
COPIES = "a COPY that pg_dump does not write"
OTHER_LINE = "a literal that goes on in another line"
UNICODE = "a literal or name that begins with U&"
PARTITION = "a comment that goes on in another line"
OFF = "standard_conforming_strings = off, expected a dump that is made with it on"
ENCODING = "an encoding in which psql may take a quote for a part of a character"
HOSTILE = {
    "connect": (r"\connect live", COMMAND),
    "short": (r"\c live", COMMAND),
    "shell": (r"\! id", COMMAND),
    "after a statement": (r"SELECT 1; \! id", COMMAND),
    "for a semicolon": (r"SELECT 1 \gexec", COMMAND),
    "output": (r"SELECT 1 \g |id", COMMAND),
    "in the middle of a line": ("SELECT 1 +\n  2 \\! id\n;", COMMAND),
    "file": (r"\i /etc/passwd", COMMAND),
    "copy": (r"\copy t from program 'id'", COMMAND),
    "set": (r"\set x `id`", COMMAND),
    "out": (r"\o |id", COMMAND),
    "their restrict": ("\\restrict other\n\\unrestrict other\n\\! id", COMMAND),
    "their unrestrict": ("\\unrestrict OURS\n\\! id", COMMAND),
    "their token and more": ("\\unrestrict abc \n", COMMAND),
    "their token in the middle": ("SELECT 1 \\unrestrict abc\n;", COMMAND),
    "after a comment": ("/* /* nested */ */ \\! id", COMMAND),
    "after a comment of a line": ("-- comment\n\\! id", COMMAND),
    "a return ends a comment": ("-- comment\r\\! id\r\n", COMMAND),
    "after a string": ("SELECT 'it''s' \\! id\n;", COMMAND),
    "after a string with a backslash": ("SELECT 'C:\\' \\! id\n;", COMMAND),
    "after an escaped string": ("SELECT E'\\\\' \\! id\n;", COMMAND),
    "after a string that goes on": ("SELECT E'a'\n'\\'' \\! id\n;", OTHER_LINE),
    "after a string that goes on behind a comment": ("SELECT E'a' -- c\n'\\'' \\! id\n;", OTHER_LINE),
    "after a string that does not go on": ("SELECT E'a' '\\' \\! id\n;", COMMAND),
    "after a bit string": ("SELECT b'\\' \\! id\n;", COMMAND),
    "after a unicode string": ("SELECT U&'\\' \\! id\n;", UNICODE),
    "after a name": ('SELECT "a""\\" \\! id\n;', COMMAND),
    "after a unicode name": ('SELECT U&"\\" \\! id\n;', UNICODE),
    "after a dollar quote": ("SELECT $a$ $b$ $a$ \\! id\n;", COMMAND),
    "no dollar quote in a name": ("SELECT a$b$ \\! id $b$\n;", COMMAND),
    "a word that ends in e": ("SELECT type'\\' \\! id\n;", COMMAND),
    "Unicode of small letters": ("SELECT u&'\\' \\! id\n;", UNICODE),
    "a name in Unicode": ("SELECT 1 AS U&\"d!0061\" UESCAPE '!' \\! id\n;", UNICODE),
    "Unicode after an escaped string": ("SELECT E'a' U&'b'\n'c\\' \\! id\n';", UNICODE),
    "a string in two lines": ("SELECT 'a'\r  'b' \\! id\n;", OTHER_LINE),
    "a string in two lines with a comment": ("SELECT 'a' -- b\n -- c\n 'd' \\! id\n;", OTHER_LINE),
    "bits in two lines": ("SELECT B'1'\n'0\\' \\! id\n';", OTHER_LINE),
    "strings of old": ("SET standard_conforming_strings = off; SELECT '\\'; \\! id';", OFF),
    "in parentheses": ("SELECT (1; \\! id\n);", COMMAND),
    "a number and a string": ("SELECT 1e'\\';\\! id';", "a number with something behind it"),
    "a number and a dollar": ("SELECT 1$a$ ;\\! id $a$;", "a number with something behind it"),
    "a number and a word": ("SELECT 1begin; \\! id", "a number with something behind it"),
    "a number and a name": ("SELECT 0x_f", "a number with something behind it"),
    "a literal that is no word": (
        "CREATE n'a' FUNCTION begin;\nCOPY t FROM stdin;\n\\! id\n\\.\n",
        "BEGIN in the definition of a function",
    ),
    "a name with another line": ('-- load via partition root "a\nSELECT 1;--"\n', PARTITION),
    "a name with a return": ('-- load via partition root public."a\rSELECT 1;--"\n', PARTITION),
    "a zero byte": ("SELECT 1;\0\\! id", "a byte that is zero"),
    "a zero byte in a row": ("COPY t FROM stdin;\na\0b\n\\.\n", "a byte that is zero"),
    "after the rows": ("COPY public.t (n) FROM stdin;\n1\n\\.\n\\! id", COMMAND),
    "after no rows": ("COPY t FROM stdin;\n\\.\n\\! id", COMMAND),
    "on the line of a COPY": ("COPY t FROM stdin; \\! id\n1\n\\.\n", COPIES),
    "another end of rows": ("COPY t FROM stdin;\n1\n\\.\r\n\\! id", "rows that do not end as pg_dump ends them"),
    "an end of rows with more": ("COPY t FROM stdin;\n1\n\\.x\n\\.\n", "rows that do not end as pg_dump ends them"),
    "a COPY in small letters": ("copy t from stdin;\n1\n\\.\n", COPIES),
    "a COPY with a comment": ("COPY/**/t FROM stdin;\n1\n\\.\n", COPIES),
    "a COPY behind a statement": ("SELECT 1; COPY t FROM stdin;\n1\n\\.\n", COPIES),
    "a COPY of another format": ("COPY t FROM stdin WITH (FORMAT csv);\n1\n\\.\n", COPIES),
    "a COPY from a program": ("COPY t FROM PROGRAM 'id';", COPIES),
    "a COPY to a program": ("COPY t TO PROGRAM 'id';", COPIES),
    "a function named begin": (
        "CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'select 1'; COPY t FROM STDIN; END;\n'\n\\.\n\\! id\n';",
        "BEGIN in the definition of a function",
    ),
    "a body that never ends": (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS case; END; COPY t FROM STDIN; SELECT 1 AS end;",
        "a COPY within another statement",
    ),
    "a COPY behind a comment in a body that never ends": (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS case; END; --\n;/*;*/ copy t FROM STDIN; END;",
        "a COPY within another statement",
    ),
    "a string without an end": ("SELECT 'a", "the file ends within a quote"),
    "a comment without an end": ("/* a /* */ b", "the file ends within a comment"),
    "a dollar quote without an end": ("SELECT $a$ $b$", "the file ends within a quote"),
    "a statement without an end": ("SELECT 1", "the file ends within a statement"),
    "rows without an end": ("COPY t FROM stdin;\n1\n", "the file ends in the rows of a table"),
    "rollback": ("ROLLBACK;", "a statement that ends or divides the transaction"),
    "a long rollback": (f"ROLLBACK /*{'x' * (3 << 20)}*/;", "a statement that ends or divides the transaction"),
    "a long role": (f"CREATE ROLE /*{'x' * (3 << 20)}*/ evil;", "CREATE ROLE: of the server and not of a database"),
    **{
        f"encoding {each}": (f"SET client_encoding = '{each}';", ENCODING)
        for each in ("SJIS", "WIN932", "win949", "WIN936", "WIN950", "WIN", "EUC_XX", "BIG5", "GB18030")
    },
    "commit and more": ("COMMIT AND CHAIN;", "a statement that ends or divides the transaction"),
    "prepare": ("PREPARE TRANSACTION 'x';", "a statement that ends or divides the transaction"),
    "create database": (
        "CREATE DATABASE x;",
        "CREATE DATABASE, as pg_dump --create writes it: of the server and not of a database",
    ),
    "create role": ("create\nrole evil superuser;", "CREATE ROLE: of the server and not of a database"),
    "alter system": ("ALTER SYSTEM SET x = y;", "ALTER SYSTEM: of the server and not of a database"),
}


@pytest.mark.parametrize(("dump", "no"), HOSTILE.values(), ids=HOSTILE)
def test_a_filter_says_no_to_what_psql_could_take_for_more_than_sql(
    tmp_path: Path, words: tuple[str, ...], dump: str, no: str
) -> None:
    said = passed(tmp_path, f"SELECT 0;\n{dump}\n", "head=abc", *words)
    assert said.no.partition(": ")[2] == no
    assert "AFTER;" not in said.sql
    assert "id" not in said.no.split()


@pytest.mark.sample(4)
@pytest.mark.parametrize("size", [4000, 4096, 8192, 1 << 20, (1 << 20) - 3, 3 << 20])
@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ("-- {}\n", ""),
        ("/* {} */", ""),
        ("SELECT '{}';", ""),
        ("SELECT $q${}$q$;", ""),
        ("COPY t FROM stdin;\n{}\n\\.\n", ""),
    ],
    ids=["comment", "nested comment", "string", "dollars", "rows"],
)
def test_a_command_is_found_wherever_it_stands_in_what_is_read_at_once(
    tmp_path: Path, size: int, before: str, behind: str
) -> None:
    for more in range(4):
        dump = before.format("x" * (size + more)) + behind
        assert passed(tmp_path, dump + "\\! id\n", *OF_A_SET).no.endswith(COMMAND)
        fine = passed(tmp_path, dump + "SELECT 1;\n", *OF_A_SET)
        assert fine.no == ""
        assert fine.sql == f"\\restrict OURS\n{dump}SELECT 1;\n\n{ENDS}\n\n\\unrestrict OURS\nAFTER;\n"


HARMLESS = r'''--
-- PostgreSQL database dump
--

SET standard_conforming_strings = on;
SELECT 'a;\', E'it\'s; \\! id', "b;\", $x$ ; \! id $x$, N'a', x'41', 1.5e10, 2., a$b, $1;
/* a /* ; \! id */ */ SELECT array[1: 2], array[1::int : 2], '{}'::text[], 1 @> 2, 3 -- \! id
 ;
CREATE RULE r AS ON INSERT TO public.t DO ALSO (INSERT INTO a VALUES (1); INSERT INTO b VALUES (2));
CREATE FUNCTION public.h(a character varying DEFAULT ';'::character varying) RETURNS SETOF integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT CASE WHEN true THEN 1 ELSE 2 END;
 SELECT 2;
 SELECT t.copy FROM public.t WHERE (t.stdin = 1);
END;
CREATE TABLE public.t (
    copy integer,
    stdin integer
);
CREATE TYPE public.copy AS ENUM ('stdin');
INSERT INTO public.t VALUES (1, 'a'), (2, NULL);
COPY public."Odd ""Name" (id, "column ""x""") FROM stdin;
1	\N
2	\\.
\! id
\\restrict abc
\.

COPY public.empty  FROM stdin;

\.

COPY public.none (n) FROM stdin;
\.

SELECT pg_catalog.setval('public.s', 1, false);
'''


def test_what_pg_dump_writes_passes_as_it_is(tmp_path: Path) -> None:
    for words in (OF_A_SET, OF_ELSEWHERE, ("restricts=1",)):
        fine = passed(tmp_path, HARMLESS, *words)
        assert fine.no == ""
        assert fine.sql == f"\\restrict OURS\n{HARMLESS}\n{ENDS}\n\n\\unrestrict OURS\nAFTER;\n"


@pytest.mark.parametrize("behind", ["e'a'", "a$f$", "'a'", '"a"', "{?a}", "end", "1", "\xe4"])
def test_psql_sees_no_variable_where_the_server_sees_none(tmp_path: Path, behind: str) -> None:
    for size in (0, 4090, (1 << 20) - 5, 3 << 20):
        dump = f"/*{'x' * size}*/ SELECT f(a:={behind}, a[1:@{behind}], a::b, a:::@{behind});\n"
        fine = passed(tmp_path, dump.replace("@", ""), *OF_A_SET)
        assert fine.no == ""
        assert fine.sql.startswith("\\restrict OURS\n" + dump.replace("@", " "))


def test_once_something_can_run_settings_are_looked_at_before_each_statement_of_a_set(tmp_path: Path) -> None:
    path = "SELECT pg_catalog.set_config('search_path', '', false);"
    dump = (
        f"SET client_encoding = 'LATIN1';\n{path}\nCREATE TABLE t ();\nCOPY t FROM stdin;\n\\.\nSET a = b;\nSELECT 1;\n"
    )
    look, note = "SELECT s.settings(false); ", " SELECT s.settings(true);"
    expected = (
        f"{note}SET client_encoding = 'LATIN1';{note}\n{path}{note}\nCREATE TABLE t ();\n"
        f"{look}COPY t FROM stdin;\n\\.\n{look}SET a = b;{note}\n{look}SELECT 1;\n\n{ENDS}\n{look}\n"
    )
    assert expected in passed(tmp_path, dump, *OF_A_SET, "settings=s.settings").sql


def test_an_old_psql_is_told_before_each_statement_how_to_read_it(tmp_path: Path) -> None:
    dump = "SET client_encoding = 'LATIN1';\nSELECT 1; SELECT 2;\nCOPY t FROM stdin;\n1\n\\.\n"
    fine = passed(tmp_path, dump, *OLD_PSQL)
    pin = "SET client_encoding = 'LATIN1'; SET standard_conforming_strings = on;\n"
    told = f"SELECT 1; {pin}SELECT 2;\n{pin}COPY t FROM stdin;\n1\n\\.\n\n{ENDS}\n\nAFTER;\n"  # noqa: S608 - nobody runs it
    assert fine.sql == f"SET client_encoding = 'LATIN1';\n{pin}{told}".replace("SET client", f"{pin}SET client", 1)
    unset = "RESET client_encoding; SET standard_conforming_strings = on;\n"
    assert passed(tmp_path, "SELECT 1;", *OLD_PSQL).sql.startswith(f"{unset}SELECT 1;")
    assert "a part of a character" in passed(tmp_path, "SET client_encoding = 'SJIS';", *OLD_PSQL).no


def test_the_dumps_own_restrict_is_taken_out_and_so_is_what_divides_the_transaction(tmp_path: Path) -> None:
    dump = "\\restrict abc\n\nBEGIN;\nSELECT 1;\nCOMMIT;\n\n\\unrestrict abc\n"
    fine = passed(tmp_path, dump, "head=abc", *OF_A_SET)
    assert fine.sql == f"\\restrict OURS\n\n\n\nSELECT 1;\n\n\n\n\n{ENDS}\n\n\\unrestrict OURS\nAFTER;\n"


def test_nothing_follows_a_dump_that_was_not_unpacked_to_its_end(tmp_path: Path) -> None:
    cut = passed(tmp_path, "SELECT 1;\n", *OF_A_SET, ended=False)
    assert "AFTER" not in cut.sql
    assert cut.no == "line 2: the file ends before its end"


RIGHTS = """\
ALTER TABLE public.patients OWNER TO dental_owner;
ALTER TABLE ONLY "Odd ""Name"."Table; DROP" OWNER TO "dental; reports";
ALTER FUNCTION reports.odd(character varying, integer[], VARIADIC "a b"[]) OWNER TO dental_owner;
ALTER AGGREGATE public.agg(text ORDER BY integer) OWNER TO a;
ALTER AGGREGATE public.count_all(*) OWNER TO a;
ALTER OPERATOR public.=== (integer, NONE) OWNER TO a;
ALTER OPERATOR CLASS public.c USING btree OWNER TO a;
ALTER TEXT SEARCH CONFIGURATION public.c OWNER TO a;
ALTER LARGE OBJECT 12345 OWNER TO a;
ALTER MATERIALIZED VIEW public.m OWNER TO a;
ALTER SCHEMA reports OWNER TO a;
GRANT SELECT,UPDATE(given) ON TABLE public.patients TO dental_app WITH GRANT OPTION;
GRANT ALL ON FUNCTION public.f(timestamp with time zone) TO PUBLIC;
REVOKE USAGE ON SCHEMA public FROM PUBLIC;
REVOKE GRANT OPTION FOR ALL ON SEQUENCE public.s FROM a, "b c";
GRANT SELECT ON LARGE OBJECT 12345 TO a;
ALTER DEFAULT PRIVILEGES FOR ROLE dental_owner IN SCHEMA reports GRANT SELECT ON TABLES TO "dental reports";
ALTER DEFAULT PRIVILEGES FOR ROLE dental_owner REVOKE ALL ON FUNCTIONS  FROM PUBLIC;
REVOKE ALL ON TABLE public.parameter FROM app;
GRANT USAGE ON SCHEMA database TO parameter;
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA parameter GRANT SELECT ON TABLES TO tablespace;
SET SESSION AUTHORIZATION dental_app;
GRANT SELECT(tablespace) ON TABLE public.database TO tablespace;
RESET SESSION AUTHORIZATION;
"""


@pytest.mark.parametrize("words", [OF_A_SET, OF_ELSEWHERE], ids=["set", "elsewhere"])
def test_owners_and_rights_are_kept_for_the_superuser_and_lines_keep_their_numbers(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    fine = passed(tmp_path, f"SELECT 1;\n{RIGHTS}SELECT 2;\n", *words)
    assert fine.no == ""
    assert fine.rights == RIGHTS
    blank = "\n" * RIGHTS.count("\n")
    assert fine.sql.startswith(f"\\restrict OURS\nSELECT 1;\n{blank}SELECT 2;\n")


def test_a_statement_that_is_hard_to_tell_takes_no_time(tmp_path: Path) -> None:
    began = time.monotonic()
    passed(tmp_path, f"ALTER FUNCTION f({' '.join(['a' * 900] * 1000)}'x') OWNER TO b;", *OF_A_SET)
    assert time.monotonic() - began < 20


NOT_RIGHTS = (
    "ALTER TABLE a OWNER TO b; DROP TABLE c;",
    "ALTER TABLE a OWNER TO CURRENT_USER;",
    "ALTER TABLE a OWNER TO session_user;",
    "ALTER TABLE a OWNER TO b, ADD CHECK (evil());",
    "ALTER TABLE a /* c */ OWNER TO b;",
    "ALTER TABLE a ADD CHECK (evil());",
    "ALTER FUNCTION f(integer DEFAULT evil()) OWNER TO b;",
    "ALTER FUNCTION f('x') OWNER TO b;",
    "GRANT a TO b;",
    "GRANT pg_execute_server_program TO b;",
    "GRANT ALL ON TABLESPACE a TO b;",
    "GRANT SET ON PARAMETER a TO b;",
    "GRANT ALL ON PARAMETER a TO b;",
    'GRANT ALL ON TABLESPACE "a" TO b;',
    "REVOKE CREATE ON DATABASE parameter FROM b;",
    "GRANT CONNECT ON DATABASE live TO b;",
    "GRANT SELECT ON TABLE a TO b; SELECT evil();",
    "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f(); SELECT 1;",
    "COPY (SELECT 1) TO PROGRAM 'id'; GRANT SELECT ON TABLE a TO b;",
    "COMMENT ON EVENT TRIGGER e IS E'x\\'; SELECT evil(); --';",
    "COMMENT ON PUBLICATION p IS E'\\\\\\'; SELECT evil(); --';",
    "COMMENT ON PUBLICATION p IS '\\'; SELECT evil();",
    "COMMENT ON PUBLICATION p IS 'x' || evil();",
)


@pytest.mark.parametrize("statement", NOT_RIGHTS)
def test_nothing_else_is_run_by_the_superuser(tmp_path: Path, statement: str) -> None:
    for words in (OF_A_SET, OF_ELSEWHERE):
        found = passed(tmp_path, statement + "\n", *words)
        first = statement.partition(";")[0] + ";"
        for kept in (found.rights + found.late).splitlines():
            assert kept in {"ALTER TABLE a OWNER TO b;", "GRANT SELECT ON TABLE a TO b;", first}
            assert kept != statement
            assert "evil" not in kept


LATE = (
    "CREATE EVENT TRIGGER e ON ddl_command_end\n         WHEN TAG IN ('CREATE TABLE')\n   EXECUTE FUNCTION public.f();",
    "ALTER EVENT TRIGGER e OWNER TO a;",
    "COMMENT ON EVENT TRIGGER e IS 'it''s';",
    "COMMENT ON EVENT TRIGGER e IS 'PRACTICE\\told\\';",
    "COMMENT ON EVENT TRIGGER e IS E'PRACTICE\\\\told''s\\\\';",
    "SECURITY LABEL FOR anon ON EVENT TRIGGER e IS 'x';",
    "ALTER EVENT TRIGGER e ENABLE ALWAYS;",
)
PUBLISHED = (
    "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert, update', publish_via_partition_root = true);",
    "ALTER PUBLICATION p OWNER TO postgres;",
    "COMMENT ON PUBLICATION p IS 'it''s\\';",
    "COMMENT ON PUBLICATION \"P; q\" IS E'a\\\\';",
    "SECURITY LABEL FOR anon ON PUBLICATION p IS 'x';",
    'ALTER PUBLICATION "P; q" ADD TABLES IN SCHEMA s;',
)


def test_what_could_run_with_what_the_superuser_does_comes_last_and_of_sets_only(tmp_path: Path) -> None:
    dump = "\n".join((*LATE, *PUBLISHED, ""))
    ours = passed(tmp_path, dump, *OF_A_SET)
    assert ours.late == "\n".join((*LATE, ""))
    assert ours.rights == "\n".join((*PUBLISHED, ""))
    theirs = passed(tmp_path, dump.replace(PUBLISHED[1], ""), *OF_ELSEWHERE)
    assert (theirs.late, theirs.rights) == ("", "")
    assert "EVENT TRIGGER" in theirs.sql


@pytest.mark.parametrize("role", ["app", "postgres", '"postgres"', "Postgres", '"Root"', "x" * 64])
def test_nothing_of_a_file_from_elsewhere_is_a_superusers_or_in_use(tmp_path: Path, role: str) -> None:
    theirs = passed(tmp_path, f"ALTER TABLE public.t OWNER TO {role};\n", *OF_ELSEWHERE)
    assert theirs.rights == 'ALTER TABLE public.t OWNER TO "dental";\n'
    default = "ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE ALL ON TABLES FROM PUBLIC;\n"
    assert passed(tmp_path, default, *OF_ELSEWHERE).rights == default
    ours = passed(tmp_path, f"ALTER TABLE public.t OWNER TO {role};\n", *OF_A_SET)
    assert ours.rights == f"ALTER TABLE public.t OWNER TO {role};\n"


def test_an_extension_is_made_by_a_function_of_ours_and_commented_on_by_the_superuser(tmp_path: Path) -> None:
    dump = (
        "CREATE EXTENSION IF NOT EXISTS \"a'b\" WITH SCHEMA public;\nCOMMENT ON EXTENSION \"a'b\" IS 'x';\nSELECT 1;\n"
    )
    for words, rights in ((OF_A_SET, "COMMENT ON EXTENSION \"a'b\" IS 'x';\n"), (OF_ELSEWHERE, "")):
        fine = passed(tmp_path, dump, *words)
        assert fine.sql.startswith("\\restrict OURS\nSELECT s.make('a''b', 'public');\n\nSELECT 1;\n")
        assert fine.rights == rights


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (2, "CREATE FUNCTION public.evil"),
        (5, "rows of public.t"),
        (6, "rows of public.t"),
        (7, "SELECT"),
        (8, "ALTER TABLE public.t"),
        (9, "CREATE EXTENSION hstore"),
        (99, ""),
    ],
)
def test_what_stands_in_a_line_is_told_by_kind_and_name_and_never_by_a_row(
    tmp_path: Path, line: int, told: str
) -> None:
    dump = (
        "CREATE OR REPLACE FUNCTION public.evil() RETURNS int LANGUAGE c AS 'canary';\n"
        "COPY public.t (n) FROM stdin;\ncanary\ncanary\n\\.\nSELECT 'canary';\n"
        "ALTER TABLE ONLY public.t ADD CHECK (n > 'canary');\nCREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA x;\n"
    )
    assert passed(tmp_path, dump, f"tell={line}", *OF_A_SET).sql == told


@pytest.mark.parametrize(
    ("owners", "at_once"),
    [
        ((), (1, 2)),
        (("app", "app"), ()),
        (("postgres", "postgres"), ()),
        (("makes_roles", "postgres"), (1, 2)),
        (("postgres", "makes_roles"), (1,)),
        (("app", "postgres"), (1, 2)),
        (("postgres", "app"), (1,)),
    ],
)
def test_a_view_is_refreshed_at_once_where_others_code_might_run_as_a_mighty_owner(
    tmp_path: Path, owners: tuple[str, ...], at_once: tuple[int, ...]
) -> None:
    views = ("v", 'public."it\'s"')
    given = "".join(
        f"ALTER MATERIALIZED VIEW {view} OWNER TO {who};\n" for view, who in zip(views, owners, strict=False)
    )
    refresh = "".join(f"REFRESH MATERIALIZED VIEW {view};\n" for view in views)
    known = ("mighty=postgres", "superuser=postgres", "mighty=makes_roles")
    found = passed(tmp_path, given + refresh, *OF_A_SET, *known)
    assert tuple(n for n, view in enumerate(views, 1) if f"REFRESH MATERIALIZED VIEW {view};" in found.sql) == at_once
    calls = ("v", "public.\"it''s\"")
    assert found.late == "".join(f"SELECT pg_temp.dental_pms_refresh('{call}');\n" for call in calls)
    found = passed(tmp_path, given + refresh, *OF_ELSEWHERE)
    assert (found.sql.count("REFRESH"), found.late) == (2, "")


def test_owners_who_are_not_superusers_are_counted(tmp_path: Path) -> None:
    dump = "ALTER TABLE a OWNER TO postgres;\n"
    words = ("tell=0", "split=1", "ours=1", "mighty=postgres")
    assert passed(tmp_path, dump, *words).sql == "0"
    assert passed(tmp_path, dump + "ALTER TABLE b OWNER TO app;\n", *words).sql == "1"
    for other in (
        "ALTER NOTHING b OWNER TO app;",
        "SET SESSION AUTHORIZATION app;",
        "CREATE SCHEMA s AUTHORIZATION a;",
    ):
        assert passed(tmp_path, f"{dump}{other}\n", *words).sql == "1"
    known = (*words, "mighty=Ärztin", "mighty=\ufffdrztin")
    for encoding, role, others in (
        ("UTF8", '"Ärztin"', 0),  # the superuser himself
        ("LATIN1", "postgres", 0),  # the same bytes in each encoding
        ("UTF8", '"büro"', 1),  # not ASCII, as a superuser's name is
        ("UTF8", "Ärztin", 1),  # without quotes the server may make small letters of it
        ("LATIN1", '"Ärztin"', 1),  # other letters than those of the superuser
        ("SQL_ASCII", '"Ärztin"', 1),
        ("UTF8", '"\ufffdrztin"', 1),  # may stand for what is no UTF-8
        ("UTF8", "x" * 64, 1),
        ("UTF8", "postgres" + " " * 900_000, 0),  # within reasonable time
        ("UTF8", "postgres" + " " * 3_000_000, 1),  # a statement that is too long to be looked at
    ):
        told = f"SET client_encoding = '{encoding}';\n{dump}ALTER TABLE b OWNER TO {role};\n"
        assert passed(tmp_path, told, *known).sql == str(others), role[:80]


EVENTS = """\
CREATE TABLE a (
    n integer,
    CONSTRAINT "few; of" CHECK ((n < 9)),
    CONSTRAINT more CHECK ((n > 0))
);
CREATE EVENT TRIGGER told ON ddl_command_end
   EXECUTE FUNCTION public.told();
COPY a (n) FROM stdin;
1
\\.
ALTER TABLE ONLY public.a
    ADD CONSTRAINT "a; key" PRIMARY KEY (n);
GRANT SELECT ON TABLE public.a TO "who; ever";
CREATE UNIQUE INDEX i ON public.a USING btree (f(n));
SET of_a_newer_version = 'x';
"""
STANDS = {
    9: 'rows of a\t"few; of", more',
    12: 'ALTER TABLE public.a ADD CONSTRAINT "a; key"',
    13: 'GRANT SELECT ON TABLE public.a TO "who; ever"',
    14: "CREATE UNIQUE INDEX i ON public.a",
    15: "SET of_a_newer_version",
}


def test_an_event_trigger_comes_when_all_else_is_there(tmp_path: Path) -> None:
    got = passed(tmp_path, EVENTS, "late=1", "restricts=1")
    assert got.no == ""
    assert got.sql.index("CREATE EVENT TRIGGER told") > got.sql.index("SET of_a_newer_version")
    assert got.sql.index("CREATE EVENT TRIGGER told") < got.sql.index("AFTER")
    assert (got.rights, got.late) == ("", "")


@pytest.mark.parametrize("line", list(STANDS))
def test_what_stands_in_a_line_is_told_by_its_names_and_the_checks_of_its_table(tmp_path: Path, line: int) -> None:
    assert passed(tmp_path, EVENTS, "restricts=1", f"tell={line + 1}").sql == STANDS[line]
