"""Of a file of roles only those are made that the server lacks, and of a file from elsewhere none that may anything."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import FILTERS

if TYPE_CHECKING:
    from pathlib import Path

ENCODING = "an encoding in which psql may take a quote for a part of a character"
ROLES = """\
--
\\restrict abc
SET default_transaction_read_only = off;
SET client_encoding = 'UTF8';
CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT LOGIN;
DO $dental_pms$ BEGIN CREATE ROLE "dental ""r"; EXCEPTION WHEN duplicate_object THEN NULL; END $dental_pms$;
ALTER ROLE "dental ""r" WITH SUPERUSER INHERIT LOGIN CONNECTION LIMIT 4 PASSWORD 'md5x' VALID UNTIL 'infinity';
COMMENT ON ROLE "dental ""r" IS 'a; name
with a line';
SECURITY LABEL FOR anon ON ROLE "dental ""r" IS 'MASKED';
ALTER ROLE "dental ""r" SET search_path TO 'a; b', "c";
ALTER ROLE "dental ""r" IN DATABASE x SET search_path TO 'a';
GRANT "dental ""r" TO postgres WITH ADMIN OPTION, INHERIT TRUE GRANTED BY postgres;
GRANT pg_read_all_data TO "dental ""r";
GRANT SET ON PARAMETER log_statement TO "dental ""r" WITH GRANT OPTION;
GRANT ALTER SYSTEM ON PARAMETER "my.odd" TO "dental ""r";
"""
# Of roles that are there, of the whole cluster, who gave a right, or of a restore that was cut off: in the forms of
# pg_dumpall 13 to 17.
OF_OTHERS = r"""
CREATE ROLE dental_pms_restore_0123456789ab;
ALTER ROLE dental_pms_restore_0123456789ab WITH NOSUPERUSER NOINHERIT BYPASSRLS CONNECTION LIMIT 3;
GRANT dental_pms_restore_0123456789ab TO "dental ""r";
SECURITY LABEL FOR anon ON ROLE postgres IS 'MASKED';
ALTER ROLE postgres SET "my.thing" TO E'a\\b''; c', '';
COMMENT ON ROLE postgres IS E'PRACTICE\\alice''s; --';
GRANT ALL ON PARAMETER work_mem TO PUBLIC;
REVOKE ALL ON PARAMETER work_mem FROM postgres;
REVOKE GRANT OPTION FOR SET ON PARAMETER work_mem FROM postgres;
SET SESSION AUTHORIZATION "dental ""r";
GRANT SET ON PARAMETER "log_statement" TO "postgres";
RESET SESSION AUTHORIZATION;
CREATE TABLESPACE fast OWNER w LOCATION E'/srv/a\\b';
ALTER TABLESPACE fast SET (random_page_cost=1.1, seq_page_cost=2);
GRANT ALL ON TABLESPACE fast TO reception WITH GRANT OPTION;
GRANT CREATE ON TABLESPACE fast TO PUBLIC;
REVOKE ALL ON TABLESPACE fast FROM w;
COMMENT ON TABLESPACE fast IS E'a\\b';
SECURITY LABEL FOR x ON TABLESPACE fast IS 'a';
"""
MADE = """\
CREATE ROLE boss;
ALTER ROLE boss WITH SUPERUSER LOGIN PASSWORD 'md5 SUPERUSER' VALID UNTIL 'infinity';
CREATE ROLE plain;
ALTER ROLE plain WITH NOSUPERUSER LOGIN PASSWORD 'x SUPERUSER';
CREATE ROLE only;
ALTER ROLE only WITH PASSWORD 'x';
"""
HEAD = "SET default_transaction_read_only = off;\nSET standard_conforming_strings = on;\n"
UTF8 = "SET client_encoding = 'UTF8';\n"


def roles(place: Path, text: str | bytes, *words: str) -> tuple[str, str]:
    """Return what the filter makes of roles for a psql that knows restrict, without that, and what it says."""
    control = place / "control"
    control.write_bytes(b"".join(f"{word}\0".encode() for word in ("restricts=1", "token=OURS", *words)))
    content = text.encode() if isinstance(text, str) else text
    done = subprocess.run(["perl", FILTERS / "roles.pl", control], input=content, capture_output=True, check=False)
    assert (done.returncode == 0) == (done.stderr == b"")
    kept = done.stdout.decode()
    if kept:
        assert (kept[:15], kept[-17:]) == ("\\restrict OURS\n", "\\unrestrict OURS\n")
    return kept[15:-17], done.stderr.decode()


def test_roles_that_are_missing_come_as_a_set_has_them(tmp_path: Path) -> None:
    kept, _ = roles(tmp_path, ROLES, "ours=1", "there=postgres", "there=pg_read_all_data")
    lines = [line for line in ROLES.split("\n")[7:] if "IN DATABASE" not in line]
    expected = "\n".join(['CREATE ROLE "dental ""r";', *lines]).replace(" GRANTED BY postgres", "")
    assert kept == HEAD + UTF8 + expected


def test_nothing_else_that_pg_dumpall_writes_is_done_or_stands_in_the_way(tmp_path: Path) -> None:
    for words in (("ours=1",), ()):
        assert roles(tmp_path, ROLES + OF_OTHERS, *words, "there=postgres", "there=w", "there=reception")[1] == ""
        assert roles(tmp_path, OF_OTHERS, *words, "there=postgres", "there=w", "there=reception")[0] == HEAD


@pytest.mark.parametrize("text", ["PRACTICE\\\\alice''s; --", "\\\\", "\\\\''", f"{'x' * 99_999}\\\\"], ids=len)
def test_a_backslash_is_one_in_a_comment_and_in_a_setting(tmp_path: Path, text: str) -> None:
    given = f"COMMENT ON ROLE a IS E'{text}';\nALTER ROLE a SET \"my.thing\" TO E'{text}', 'C:\\', E'{text}';\n"
    assert roles(tmp_path, given, "ours=1") == (HEAD + given, "")


def test_roles_of_a_file_from_elsewhere_may_nothing(tmp_path: Path) -> None:
    kept, _ = roles(tmp_path, ROLES, "there=postgres", "there=pg_read_all_data")
    comment = 'COMMENT ON ROLE "dental ""r" IS \'a; name\nwith a line\';\n'
    assert kept == f'{HEAD}{UTF8}CREATE ROLE "dental ""r";\n{comment}'


@pytest.mark.parametrize("ours", [True, False])
def test_a_role_that_has_nothing_of_its_own_yet_gets_settings_and_limit_of_a_set(tmp_path: Path, ours: bool) -> None:
    words = ("there=postgres", "there=pg_read_all_data", 'there=dental "r', 'bare=dental "r', "bare=postgres")
    kept, _ = roles(tmp_path, ROLES, *words, *(["ours=1"] if ours else []))
    given = """ALTER ROLE "dental ""r" CONNECTION LIMIT 4;\nALTER ROLE "dental ""r" SET search_path TO 'a; b', "c";\n"""
    assert kept == HEAD + UTF8 + (given if ours else "")
    assert roles(tmp_path, ROLES, *words[:3], "ours=1")[0] == HEAD + UTF8


def test_a_set_without_passwords_gives_none_and_superusers_are_named(tmp_path: Path) -> None:
    assert roles(tmp_path, MADE, "ours=1")[0] == HEAD + MADE
    without = MADE.replace("ALTER ROLE only WITH PASSWORD 'x';\n", "")
    for password in (" PASSWORD 'md5 SUPERUSER'", " PASSWORD 'x SUPERUSER'"):
        without = without.replace(password, "")
    assert roles(tmp_path, MADE, "ours=1", "no_passwords=1")[0] == HEAD + without
    control = tmp_path / "control"
    for there, named in (("other", "boss\0"), ("boss", "")):
        control.write_text(f"ours=1\0lists=superusers\0there={there}\0")
        argv = ["perl", str(FILTERS / "roles.pl"), str(control)]
        assert subprocess.run(argv, input=MADE, capture_output=True, text=True, check=True).stdout == named


def test_an_old_psql_is_told_before_each_role_how_to_read_it(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.write_bytes(b"token=OURS\0there=postgres\0")
    text = "SET client_encoding = 'LATIN1';\nCREATE ROLE a;\n"
    done = subprocess.run(
        ["perl", FILTERS / "roles.pl", control], input=text, capture_output=True, text=True, check=True
    )
    pins = "client_encoding = 'LATIN1'; SET standard_conforming_strings = on;\n"
    assert done.stdout.endswith(f"SET client_encoding = 'LATIN1';\nSET {pins}CREATE ROLE a;\n")
    assert done.stdout.count("; SET standard_conforming_strings = on;\n") == done.stdout.count("\n") / 2


@pytest.mark.parametrize(
    "encoding", ["SJIS", "WIN932", "WIN936", "WIN949", "WIN950", "EUC_XX", "ISO_8859_1", "LATIN11"]
)
def test_roles_come_in_no_encoding_of_clients_only(tmp_path: Path, encoding: str) -> None:
    for words in (("ours=1",), ()):
        assert roles(tmp_path, f"\nSET client_encoding = '{encoding}';\n", *words) == ("", f"line 2: {ENCODING}\n")


def test_a_file_from_elsewhere_names_no_live_role_in_other_bytes(tmp_path: Path) -> None:
    text = "SET client_encoding = 'LATIN1';\nCREATE ROLE evil;\nGRANT {} TO evil;\n"
    known = ("there=m\u00fcller", f"there={'x' * 63}")
    for name in ('"m\u00fcller"', '"other\u00e9"'):
        kept, said = roles(tmp_path, text.format(name).encode("latin-1"), *known)
        assert (kept, said) == ("", "line 3: names in another encoding, expected UTF8\n")
        utf8 = text.replace("LATIN1", "UTF8")
        assert roles(tmp_path, utf8.format(name), *known) == (f"{HEAD}{UTF8}CREATE ROLE evil;\n", "")
    # the server would cut it, or fold its letters as its locale does
    assert roles(tmp_path, utf8.format('"' + "x" * 64 + '"'), *known)[0] == f"{HEAD}{UTF8}CREATE ROLE evil;\n"
    for name in ("M\u00dcLLER", "m\u00fcller", "Postgres"):
        assert roles(tmp_path, utf8.format(name), *known)[1].startswith("line 3: GRANT")
    kept, _ = roles(tmp_path, utf8.format('"\u00fcber"'), "there=postgres")
    assert kept.endswith('GRANT "\u00fcber" TO evil;\n')


@pytest.mark.parametrize("whom", ["current_user", "current_role", "session_user", "user", "public", "none"])
def test_a_word_for_whoever_loads_the_roles_of_a_file_is_no_role_that_the_server_lacks(
    tmp_path: Path, whom: str
) -> None:
    grants = (f"GRANT evil TO {whom};", f"GRANT {whom} TO evil;")
    for text in (*grants, f"COMMENT ON ROLE {whom} IS 'x';", f"CREATE ROLE {whom};"):
        kept, _ = roles(tmp_path, f"CREATE ROLE evil;\n{text}\n", "there=postgres")
        assert kept == f"{HEAD}CREATE ROLE evil;\n"
        assert roles(tmp_path, text.replace(whom, whom.upper()))[0] == ""
    quoted = f'CREATE ROLE "{whom}";\n'
    assert roles(tmp_path, quoted, "there=postgres")[0] == f"{HEAD}{quoted}"


def test_roles_without_end_are_not_read_to_their_end(tmp_path: Path) -> None:
    line = "-- " + "x" * 1020 + "\n"
    kept, said = roles(tmp_path, line * (65 << 10), "ours=1")
    assert (kept, said.partition(": ")[2]) == ("", "more than 64 MiB, expected the roles of one server\n")


@pytest.mark.parametrize(
    ("text", "no"),
    [
        ("CREATE ROLE x; COPY t TO PROGRAM 'id';", "line 1: COPY in a form that pg_dumpall does not write\n"),
        ("CREATE ROLE x SUPERUSER;", "line 1: CREATE ROLE in a form that pg_dumpall does not write\n"),
        ("SET x = y;", "line 1: SET in a form that pg_dumpall does not write\n"),
        ("\nALTER SYSTEM SET a = b;", "line 2: ALTER SYSTEM SET in a form that pg_dumpall does not write\n"),
        ("\\! id", "line 1: something in a form that pg_dumpall does not write\n"),
        ("COMMENT ON ROLE a IS 'x\\'; SELECT 1; --';", "line 1: SELECT in a form that pg_dumpall does not write\n"),
        ("COMMENT ON ROLE a IS E'x\\'; SELECT 1; --';", "line 1: COMMENT ON ROLE in a form"),
        ("ALTER ROLE a SET x TO E'\\\\\\'; SELECT 1; --';", "line 1: ALTER ROLE in a form"),
        ("GRANT SET ON PARAMETER x TO a, b;", "line 1: GRANT SET ON in a form"),
        ("GRANT ALL ON DATABASE x TO a;", "line 1: GRANT ALL ON in a form"),
        ("SET SESSION AUTHORIZATION a; GRANT a TO b; SELECT 1;", "line 1: SELECT in a form"),
        ("DO $dental_pms$ BEGIN CREATE ROLE a; DROP ROLE b; END $dental_pms$;", "line 1: DROP ROLE"),
        ("ALTER ROLE a SET x TO 'y', evil();", "line 1: ALTER ROLE"),
    ],
)
def test_anything_else_among_the_roles_makes_none(tmp_path: Path, text: str, no: str) -> None:
    for words in (("ours=1",), ()):
        kept, said = roles(tmp_path, text, *words)
        assert kept == ""
        assert said.startswith(no)


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_no_role_has_a_name_of_more_than_one_line(tmp_path: Path, end: str) -> None:
    text = f'CREATE ROLE "x{end}ALTER ROLE evil WITH SUPERUSER;--";\n'
    assert roles(tmp_path, text, "ours=1") == ("", "line 1: CREATE ROLE in a form that pg_dumpall does not write\n")
