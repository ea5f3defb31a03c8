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


# What each event means, in words that only its own explanation has.
MEANS = {
    Event.RUN_STARTED: "A run takes the database and the attachments into a new set",
    Event.STREAM_TAKEN: "was written to the disk, read back to its last byte and found whole",
    Event.ROAD_CLOSED: "This host cannot confine programs of the container's image",
    Event.OTHER_DATABASES: "A run takes one database of the server",
    Event.DATABASE_MADE_ANEW: "it is another database than the one that the last good set was",
    Event.LABELS_OF_IMAGE: "All labels of docker compose on this container are those of its image",
    Event.COMPUTED_OTHERWISE: "No dump holds generated columns and materialized views",
    Event.TABLES_NOT_DUMPED: "pg_dump leaves out the tables that an extension has",
    Event.DUMP_WITHOUT: "pg_dump succeeded, but",
    Event.STREAM_FAILED: "This run publishes no set and removes none",
    Event.ENTRIES_CHANGED: "changed or vanished while they were read",
    Event.ENTRIES_MOVED: "It was made several times, and each time files were moved",
    Event.ATTACHMENTS_EMPTY: "has an archive without a single file",
    Event.LINKS_LEAD_OUT: "none of the files behind them",
    Event.ROWS_WITHOUT_FILE: "its drill fails only if more rows lack their file than the message says",
    Event.SET_PUBLISHED: "is complete, verified and safely on the disk",
    Event.ARTEFACT_REMOVED: "Retention removed a file of the set",
    Event.RUN_SUCCEEDED: "was made, and all of it was verified",
    Event.RUN_FAILED: "No earlier set was lost",
    Event.TRYING_AGAIN: "The run waits and tries again",
    Event.STORE_RECOVERED: "or the publication of a set that had been proven was finished",
    Event.REFUSED: "The command was refused before it changed anything",
    Event.COMMAND_FAILED: "The entries before this one say what it had done by then",
    Event.RESTORE_STARTED: "Another entry says how it ended",
    Event.RESTORE_SUCCEEDED: "holds what the backup held",
    Event.RESTORE_FAILED: "The message says how it stands with what is live",
    Event.RESTORE_OTHER_DATABASE: "The message names both databases",
    Event.RESTORE_ROOM_UNKNOWN: "without knowing whether a second database fits on that disk",
    Event.RESTORE_AS_SUPERUSER: "everything in it belongs to superusers",
    Event.RESTORE_MAKES_SUPERUSER: "else has put it into the set",
    Event.RESTORE_SEES_ALL: "A restore fills the materialized views of a set as their owners",
    Event.RESTORE_OTHER_ORDER: "sorts text as that of the set did",
    Event.RESTORE_OTHER_DATES: "a date that is typed may be another day",
    Event.RESTORE_SETTINGS_LEFT: "so that nobody could connect. They are left out",
    Event.RESTORE_SETTINGS_STAY: "a restore adds only what is not there at all",
    Event.RIGHTS_LEFT_OUT: "setuid or setgid bits, security attributes or device nodes",
    Event.RESTORE_NOT_COMPARED: "so that reading them would take hours or years",
    Event.RESTORE_UNFINISHED: "A restore was cut off or failed, and the database",
    Event.RESTORE_RECOVERED: "either as it was before that restore, or as that restore left it",
    Event.RESTORE_NEWCOMERS: "under names that the backup has, too",
    Event.EXTRACTED: "whoever extracted them has to look after them",
    Event.RESTORE_MATCHED: "the file of each row is there and has the right size",
    Event.RESTORE_LACKS_FILES: "when the set was taken already",
    Event.SET_VERIFIED: "was read to its end and is what the manifest says",
    Event.SET_DAMAGED: "Do not rely on the set",
    Event.SET_SUSPECT: "No old set is removed until you accept this one",
    Event.LATEST_NOT_NEWEST: "There is a newer set than the one",
    Event.SET_MARKED: "The mark of the set",
    Event.DRAFT_STAYS: "A run has left an unfinished file in the store",
    Event.RETENTION_FAILED: "retention did not come to its end",
    Event.RUN_NOT_RECORDED: 'The run\'s record in the store, which "status" shows, could not be written',
    Event.STORE_READABLE: "every user of this host can read the practice's data",
    Event.STORE_MOVABLE: "A directory above the store can be changed by a user other than root",
    Event.DRILL_STARTED: "the live database and the live files are not touched",
    Event.DRILL_PASSED: "and what came back is what went in",
    Event.DRILL_FAILED: "and what came back is not what it has to be",
    Event.DRILL_NOT_DONE: "That says nothing about the set",
    Event.DRILL_CLEARED: "They are gone now",
    Event.DRILL_LEFTOVERS: "are still there and take room",
    Event.DRILL_NOT_STARTED: "systemd did not start the drill that drill.after_run asks for",
    Event.OFFSITE_PUSHED: "was copied encrypted, and compared afterwards",
    Event.OFFSITE_VERIFIED: "was downloaded and is the same as in the store",
    Event.OFFSITE_FETCHED: "was downloaded and verified, and is in the store now",
    Event.OFFSITE_FAILED: "or the second place does not hold what the store holds",
}


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
def test_catalog_says_of_the_event_what_it_means_and_of_no_other(event: Event) -> None:
    having = [found for found, (_, text) in catalog().items() if MEANS[event] in " ".join(text.split())]
    assert having == [event.value]


def test_man_page_has_each_event_as_the_catalog_heads_it() -> None:
    page = (TREE / "debian/dental-pms-backup.8.scd").read_text().partition("\n# JOURNAL\n")[2].partition("\n# ")[0]
    heads = {event: catalog()[event.value][0][0].removeprefix("Subject: ") for event in Event}
    assert re.findall(r"^\*(.+)\*\n\t(.+)\.$", page, re.MULTILINE) == [
        (event.name.lower().replace("_", "-"), head) for event, head in heads.items()
    ]


def test_each_event_is_written_in_the_modules_that_it_belongs_to() -> None:
    where: dict[str, set[str]] = {event.name: set() for event in Event}
    for path in (TREE / "dental_pms_backup").rglob("*.py"):
        for name in re.findall(r"\bEvent\.([A-Z_]+)\b", path.read_text()):
            where[name].add(path.name)
    assert {name: modules for name, modules in where.items() if len(modules) != 1} == {}


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
        ("Zähne, 李 and 🦷\tstay\n", "Zähne, 李 and 🦷\tstay\\n"),
        ('public."\x1b]0;title\x07\x1b[2J"', 'public."\\x1b]0;title\\x07\\x1b[2J"'),
        ("left\u202eright\r\x00\x9b31m", "left\\u202eright\\r\\x00\\x9b31m"),
    ],
)
def test_what_commands_a_terminal_is_spelled_out(text: str, told: str) -> None:
    assert journal.legible(text) == told
