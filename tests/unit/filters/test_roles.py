"""Of a file of roles only those are made that the server lacks, and of a file from elsewhere none that may anything."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.restore import replay_role
from tests.unit.builders import FILTERS

if TYPE_CHECKING:
    from pathlib import Path

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
UTF8 = "SET client_encoding = 'UTF8';\n"
HEAD = f"SET default_transaction_read_only = off;\nSET standard_conforming_strings = on;\n{UTF8}"
MIGHTY = """\
ALTER ROLE postgres SET search_path TO 'evil', 'pg_catalog';
ALTER ROLE postgres SET "TimeZone" TO 'Europe/Vienna';
ALTER ROLE app SET search_path TO 'app';
CREATE ROLE boss;
ALTER ROLE boss WITH SUPERUSER;
CREATE ROLE bob;
CREATE ROLE eve;
CREATE ROLE plain;
GRANT bob TO eve;
GRANT app TO plain;
GRANT postgres TO bob GRANTED BY postgres;
GRANT boss TO app WITH INHERIT FALSE;
GRANT postgres TO boss;
GRANT SET ON PARAMETER session_preload_libraries TO plain;
"""


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
    assert kept == HEAD + expected


def test_nothing_else_that_pg_dumpall_writes_is_done_or_stands_in_the_way(tmp_path: Path) -> None:
    for words in (("ours=1",), ()):
        assert roles(tmp_path, ROLES + OF_OTHERS, *words, "there=postgres", "there=w", "there=reception")[1] == ""
        assert roles(tmp_path, OF_OTHERS, *words, "there=postgres", "there=w", "there=reception")[0] == HEAD


@pytest.mark.parametrize(
    "text",
    ["PRACTICE\\\\alice''s; --", "\\\\", "\\\\''", f"{'x' * 99_999}\\\\", "''" * 100_000, "\\\\''" * 100_000],
    ids=len,
)
def test_a_backslash_is_one_in_a_comment_and_in_a_setting(tmp_path: Path, text: str) -> None:
    given = f"CREATE ROLE a;\nCOMMENT ON ROLE a IS E'{text}';\n"
    given += f"ALTER ROLE a SET \"my.thing\" TO E'{text}', 'C:\\', E'{text}';\n"
    assert roles(tmp_path, given, "ours=1") == (HEAD + given, "")


def test_a_list_may_be_as_long_as_somebody_has_set_it(tmp_path: Path) -> None:
    given = f"CREATE ROLE a;\nALTER ROLE a SET search_path TO 'a{chr(34)}'{', b' * 100_000};\n"
    assert roles(tmp_path, given, "ours=1") == (HEAD + given, "")


def test_roles_of_a_file_from_elsewhere_may_nothing(tmp_path: Path) -> None:
    kept, _ = roles(tmp_path, ROLES, "there=postgres", "there=pg_read_all_data")
    comment = 'COMMENT ON ROLE "dental ""r" IS \'a; name\nwith a line\';\n'
    assert kept == f'{HEAD}CREATE ROLE "dental ""r";\n{comment}'


@pytest.mark.parametrize("ours", [True, False])
def test_a_role_that_has_nothing_of_its_own_yet_gets_settings_and_limit_of_a_set(tmp_path: Path, ours: bool) -> None:
    words = ("there=postgres", "there=pg_read_all_data", 'there=dental "r', 'bare=dental "r', "bare=postgres")
    kept, _ = roles(tmp_path, ROLES, *words, *(["ours=1"] if ours else []))
    given = """ALTER ROLE "dental ""r" CONNECTION LIMIT 4;\nALTER ROLE "dental ""r" SET search_path TO 'a; b', "c";\n"""
    assert kept == HEAD + (given if ours else "")
    assert roles(tmp_path, ROLES, *words[:3], "ours=1")[0] == HEAD


def test_a_set_without_passwords_gives_none_and_superusers_are_named(tmp_path: Path) -> None:
    assert roles(tmp_path, MADE, "ours=1")[0] == HEAD + MADE
    without = MADE.replace("ALTER ROLE only WITH PASSWORD 'x';\n", "")
    for password in (" PASSWORD 'md5 SUPERUSER'", " PASSWORD 'x SUPERUSER'"):
        without = without.replace(password, "")
    assert roles(tmp_path, MADE, "ours=1", "no_passwords=1")[0] == HEAD + without
    assert told(tmp_path, MADE, "there=other") == ["superuser=boss"]
    assert told(tmp_path, MADE, "there=boss") == []


def told(place: Path, text: str, *words: str, lists: str = "told") -> list[str]:
    """Return what the filter lists of a set's roles."""
    control = place / "control"
    control.write_text("".join(f"{word}\0" for word in ("ours=1", f"lists={lists}", *words)))
    argv = ["perl", str(FILTERS / "roles.pl"), str(control)]
    return subprocess.run(argv, input=text, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_whoever_comes_to_reach_the_whole_server_is_told_and_a_superuser_of_live_gets_no_path(tmp_path: Path) -> None:
    live = tuple(f"{word}={role}" for role in ("postgres", "app") for word in ("there", "bare"))
    path, zone, of_app = (f"ALTER ROLE {each}" for each in MIGHTY.split("ALTER ROLE ")[1:4])
    path, zone, of_app = path.rstrip(), zone.rstrip(), of_app.partition("\n")[0]
    rights = ["app (member of boss)", "bob (member of postgres)", "eve (member of bob)", "plain (member of app)"]
    parameter = "right=plain (SET ON PARAMETER session_preload_libraries)"
    mine = ["superuser=boss", parameter, *(f"right={each}" for each in rights)]
    found = told(tmp_path, MIGHTY, *live, "reaches=postgres")
    assert sorted(found) == sorted([*mine, f"withheld={path}", f"withheld={zone}"])
    assert sorted(told(tmp_path, MIGHTY, *live, "reaches=postgres", "new=postgres")) == sorted(
        [*mine, f"withheld={path}"]
    )
    settings = {
        (): [of_app],
        ("new=postgres",): [zone, of_app],
        ("too=postgres",): [path, zone, of_app],
        (f"left={of_app}",): [],
    }
    for words, expected in settings.items():
        assert told(tmp_path, MIGHTY, *live, "reaches=postgres", *words, lists="settings") == expected
        kept, _ = roles(tmp_path, MIGHTY, "ours=1", *live, "reaches=postgres", *words)
        assert [line for line in kept.split("\n") if " SET " in line and "ALTER ROLE" in line] == expected


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER ROLE app WITH SUPERUSER;",
        "ALTER ROLE app SET search_path TO 'x';",
        "COMMENT ON ROLE app IS 'x';",
        "SECURITY LABEL FOR anon ON ROLE app IS 'x';",
        "GRANT made TO app;",
        "GRANT app TO made;",
        "GRANT SET ON PARAMETER x TO app;",
        "ALTER ROLE current_user SET search_path TO 'x';",
        "GRANT dental_pms_restore_0123456789ab TO made;",
    ],
)
def test_nothing_is_said_of_a_role_that_is_neither_made_nor_there_by_its_name(tmp_path: Path, statement: str) -> None:
    """In other bytes it may be there."""
    words = ("there=postgres", "there=dental_pms_restore_0123456789ab")
    for ours in (("ours=1",), ()):
        assert roles(tmp_path, f"CREATE ROLE made;\n{statement}\n", *words, *ours)[0] == f"{HEAD}CREATE ROLE made;\n"


def test_no_role_of_a_file_from_elsewhere_is_taken_for_one_that_a_restore_has_made(tmp_path: Path) -> None:
    text = f"CREATE ROLE x;\nCOMMENT ON ROLE x IS '{replay_role.HEIRS_MARK}';\n"
    assert roles(tmp_path, text)[0] == f"{HEAD}CREATE ROLE x;\n"
    assert roles(tmp_path, text, "ours=1")[0] == HEAD + text


def test_an_old_psql_is_told_before_each_role_how_to_read_it(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.write_bytes(b"token=OURS\0there=postgres\0")
    text = "SET client_encoding = 'LATIN1';\nCREATE ROLE a;\n"
    done = subprocess.run(
        ["perl", FILTERS / "roles.pl", control], input=text, capture_output=True, text=True, check=True
    )
    pins = "SET client_encoding = 'UTF8'; SET standard_conforming_strings = on;\n"
    assert done.stdout.endswith(f"\n{pins}{UTF8}{pins}CREATE ROLE a;\n")
    assert done.stdout.count("; SET standard_conforming_strings = on;\n") == done.stdout.count("\n") / 2


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "SJIS", "MULE_INTERNAL"])
@pytest.mark.parametrize("ours", [True, False])
def test_no_live_role_is_named_in_other_bytes(tmp_path: Path, ours: bool, encoding: str) -> None:
    words = ("there=m\u00fcller", f"there={'x' * 63}", *(["ours=1"] if ours else []))
    text = f"SET client_encoding = '{encoding}';\nCREATE ROLE evil;\nGRANT {{}} TO evil;\n"
    plain = f"{HEAD}CREATE ROLE evil;\n"
    for name in ('"m\u00fcller"', '"other\u00e9"'):
        assert roles(tmp_path, text.format(name).encode("latin-1"), *words) == (
            "",
            "line 3: bytes that are no UTF-8\n",
        )
        said = "line 3: names in another encoding, expected UTF8\n"
        assert roles(tmp_path, text.format(name), *words) == ("", said)
    # what is ASCII is so in all of them
    assert roles(tmp_path, text.format("other"), *words) == (plain, "")
    utf8 = text.replace(encoding, "UTF8")
    granted = plain + ('GRANT "m\u00fcller" TO evil;\n' if ours else "")
    assert roles(tmp_path, utf8.format('"m\u00fcller"'), *words) == (granted, "")
    # the server would cut it, or fold its letters as its locale does
    too_long = ("", "line 3: a name of more than 63 bytes\n")
    assert roles(tmp_path, utf8.format('"' + "x" * 64 + '"'), *words) == too_long
    for name in ("M\u00dcLLER", "m\u00fcller", "Postgres"):
        assert roles(tmp_path, utf8.format(name), *words)[1].startswith("line 3: GRANT")
    umlaut = utf8.replace("\nGRANT", "\nCREATE ROLE {};\nGRANT").format('"\u00fcber"', '"\u00fcber"')
    kept, _ = roles(tmp_path, umlaut, "there=postgres")
    assert kept.endswith('GRANT "\u00fcber" TO evil;\n')
    odd = bytes([0xED, 0xA0, 0x80]), bytes([0xC0, 0xAF]), bytes([0xF4, 0x90, 0x80, 0x80]), bytes([0xC3])
    for each in odd:
        assert roles(tmp_path, b"-- " + each, *words)[1] == "line 1: bytes that are no UTF-8\n"


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
