"""The audit trail: every event explained, nothing in it that must not be told."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Echo, Event, redacted
from tests.unit.builders import TREE

CATALOG = TREE / "systemd" / "dental-pms-backup.catalog"


def catalog() -> dict[str, tuple[list[str], str]]:
    """Return header lines and explanation of each entry, by MESSAGE_ID."""
    found = {}
    for entry in re.split(r"^-- ", CATALOG.read_text(), flags=re.MULTILINE)[1:]:
        first, _, rest = entry.partition("\n")
        head, _, text = rest.partition("\n\n")
        found[first.strip()] = (head.splitlines(), text.strip())
    return found


def test_message_ids_are_unique_and_well_formed() -> None:
    ids = [event.value for event in Event.__members__.values()]
    assert len(set(ids)) == len(Event.__members__)
    assert [each for each in ids if not re.fullmatch("[0-9a-f]{32}", each)] == []


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
def test_catalog_explains_the_event(event: Event) -> None:
    head, text = catalog()[event.value]
    assert [line for line in head if re.fullmatch(r"Subject: \S.*", line)]
    assert len(text) > 40


def test_catalog_explains_nothing_that_never_happens() -> None:
    assert set(catalog()) == {event.value for event in Event}


def test_catalog_has_each_entry_once() -> None:
    assert CATALOG.read_text().count("\n-- ") + CATALOG.read_text().startswith("-- ") == len(Event)


def test_catalog_names_only_fields_that_are_written() -> None:
    named = set(re.findall(r"@(\w+)@", CATALOG.read_text()))
    written = set()
    for path in (TREE / "dental_pms_backup").rglob("*.py"):
        for fields in re.findall(r"fields\s*=\s*\{(.*?)\}", path.read_text(), flags=re.DOTALL):
            written |= {f"DENTAL_PMS_{name.upper()}" for name in re.findall(r'"(\w+)":', fields)}
    assert named - written - {"MESSAGE", "DENTAL_PMS_EVENT", "DENTAL_PMS_TRIGGER"} == set()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            'ERROR:  duplicate key value violates unique constraint "patients_pkey"',
            'ERROR:  duplicate key value violates unique constraint "patients_pkey"',
        ),
        ("DETAIL:  Key (name)=(Anna Weber) already exists.", "DETAIL: (left out)"),
        ('CONTEXT:  COPY patients, line 3, column born: "Anna Weber"', "CONTEXT: (left out)"),
        ("STATEMENT:  insert into patients values ('Anna Weber')", "STATEMENT: (left out)"),
        ("QUERY:  select 'Anna Weber'", "QUERY: (left out)"),
        ("psql: error: x; DETAIL:  Anna Weber", "psql: error: x; DETAIL: (left out)"),
        ("connection to password=hunter2 host=db failed", "connection to password=(left out) host=db failed"),
        ("PGPASSWORD=hunter2", "PGPASSWORD=(left out)"),
        ("Password: hunter2", "Password: (left out)"),
        ("token = hunter2", "token = (left out)"),
        ("pg_dump: detail: Query was: select 'Anna'", "pg_dump: detail: (left out)"),
        ('{"password": "hunter2"}', '{"password": (left out)}'),
        ("ALTER ROLE x PASSWORD 'md5abc'", "ALTER ROLE x PASSWORD (left out)"),
        ('password="a b" x', "password=(left out) x"),
        ("passwd=hunter2", "passwd=(left out)"),
        ("passphrase: hunter2", "passphrase: (left out)"),
        ("postgresql://u:p@ss@h/d", "postgresql://(left out)@h/d"),
        ("postgresql://u:p/w@h/d", "postgresql://(left out)@h/d"),
        ("client_secret=hunter2", "client_secret=(left out)"),
        ("postgresql://anna:hunter2@db/pms refused", "postgresql://(left out)@db/pms refused"),
        (
            'FATAL:  password authentication failed for user "pms"',
            'FATAL:  password authentication failed for user "pms"',
        ),
    ],
)
def test_line_of_a_server_is_told_without_rows_and_secrets(said: str, told: str) -> None:
    assert redacted(said) == told


@given(
    st.sampled_from(["DETAIL:  Key ({})", "CONTEXT: {}", "x STATEMENT: {}", "password={}", "secret: {}", "a://u:{}@h"]),
    st.text("abcdefgHIJK0123456789!$%&*+,-.;<>?_", min_size=1),
)
def test_no_secret_survives(form: str, secret: str) -> None:
    assert f"#{secret}#" not in redacted(form.format(f"#{secret}#"))


@pytest.mark.parametrize(
    ("echo", "seen"),
    [
        (Echo.ALL, "info\nnotice\nwarning\n"),
        (Echo.WARNINGS, "warning\n"),
        (Echo.NOTHING, ""),
    ],
)
def test_story_is_repeated_for_a_person_as_far_as_asked_for(
    echo: Echo, seen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.show(echo)
    for name in ("info", "notice", "warning", "error"):
        journal.write(Event.RUN_STARTED, name, priority=getattr(journal, name.upper()))
    assert capsys.readouterr().err == seen


def test_trigger_is_the_timer_when_systemd_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert journal.trigger() == "command"
    monkeypatch.setenv("TRIGGER_TIMER_REALTIME_USEC", "1")
    assert journal.trigger() == "timer"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Zähne, 李 and 🦷\tstay\n", "Zähne, 李 and 🦷\tstay\n"),
        ('public."\x1b]0;title\x07\x1b[2J"', 'public."\\x1b]0;title\\x07\\x1b[2J"'),
        ("left\u202eright\r\x00\x9b31m", "left\\u202eright\\r\\x00\\x9b31m"),
    ],
)
def test_what_commands_a_terminal_is_spelled_out(text: str, told: str) -> None:
    assert journal.legible(text) == told
