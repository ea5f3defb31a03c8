"""The audit trail: the only user of ``systemd.journal``.

Every entry has a fixed MESSAGE_ID, explained in the shipped catalog, and belongs to the service's unit even when
a person typed the command. Text and fields hold no secret, no row, and no name of a patient's file.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from enum import Enum
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, cause_of
from dental_pms_backup.host import notify

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

IDENTIFIER = "dental-pms-backup"
UNIT = "dental-pms-backup.service"
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6

Field = str | int


class Event(Enum):
    """What happened, with its MESSAGE_ID; systemd/dental-pms-backup.catalog explains each."""

    RUN_STARTED = "8ece2ac10d9044fe8ff144f4ea747e0d"
    STREAM_TAKEN = "330c5fb066f44b7594f9fab60cc9e438"
    ROAD_CLOSED = "2e87dbc029934dba88779d6e9304db30"
    OTHER_DATABASES = "19c765f4e7d24c17abcd78ccd1b3eee3"
    DATABASE_MADE_ANEW = "963d605cc02f4b178f7a07e866c4045d"
    LABELS_OF_IMAGE = "66e797e5b45a40e98a669e5940c898ea"
    COMPUTED_OTHERWISE = "24cb6dfa0eac4b249165b9e9ecefd172"
    TABLES_NOT_DUMPED = "161688ac55a04a53a2d39eba775705c2"
    DUMP_WITHOUT = "4c259e4e03034697b2aa9895c466451a"
    STREAM_FAILED = "d548867add3b4655b0d8a5a013dbe593"
    ENTRIES_CHANGED = "bb309db6dc7b4cf395a49be503e600ba"
    ENTRIES_MOVED = "628d8d69f0fa4d9bbff0cbe105f46bc4"
    ATTACHMENTS_EMPTY = "f525c158f8d74db19e0eb39e2f750723"
    LINKS_LEAD_OUT = "2437d6a4430e47bdb33d5bf3bc6c6534"
    ROWS_WITHOUT_FILE = "9b8afc73296467571094611211da8ca8"
    SET_PUBLISHED = "296f5898b5fd44bba643f0ecf8d96e1f"
    ARTEFACT_REMOVED = "ccbeb3ec364443a89dfb53374ff2694b"
    RUN_SUCCEEDED = "7a41948c06224d8ebac56a6546c4c1f4"
    RUN_FAILED = "080377cbb9124377802ddcaf33653b17"
    TRYING_AGAIN = "d35e3c7cdf594b25a8703db1511ecfec"
    STORE_RECOVERED = "39e875a772b941f0b10a43d650535fb6"
    REFUSED = "9805606d25b241eeaef91e6211233316"
    COMMAND_FAILED = "8d28fc1e3fa14ce1a759d09a34732f61"
    RESTORE_STARTED = "b288ce72c72e4b4084d914643516baa5"
    RESTORE_SUCCEEDED = "3cf96f9d23274c59b05d58d8c2381d9c"
    RESTORE_FAILED = "2b6de6514ac44abeb206cb0391817b5a"
    RESTORE_OTHER_DATABASE = "6865177c1e1446f58c848de7e3ace5f4"
    RESTORE_ROOM_UNKNOWN = "3a4d70df481d4d81a58345b8f49ef263"
    RESTORE_AS_SUPERUSER = "f2db1e0fafca49a98a9dd19cf5464beb"
    RESTORE_MAKES_SUPERUSER = "6f0d3bc1a8e94d5f9a4c27e5d1b8736a"
    RESTORE_SEES_ALL = "bb4a89dba81c4576b3fe9f61dc926b72"
    RESTORE_OTHER_ORDER = "f64b395d635a4000b513cd13b39c9156"
    RESTORE_OTHER_DATES = "aa0ee17dc4364b12a95d4f39654a4bef"
    RESTORE_SETTINGS_LEFT = "65919069f51b4025a5197a82aeda4b69"
    RESTORE_SETTINGS_STAY = "8e3ac0f55adf411086b3558c6f7a61e7"
    RIGHTS_LEFT_OUT = "332dc2782aa74598a5165e0fb61980ab"
    RESTORE_NOT_COMPARED = "9c430e43603b4baea25390ad4c12acff"
    RESTORE_UNFINISHED = "8f3c442ede554bb185b3e9e7571006d7"
    RESTORE_RECOVERED = "2af00c247f94415aa455c36aa2607938"
    RESTORE_NEWCOMERS = "4e132c495b004c5fb0111dfd5d77a8b9"
    EXTRACTED = "f70e0bace3d2431abfa2aed89a727ee2"
    RESTORE_MATCHED = "8215fdfadb4c4253917cdded9069409c"
    RESTORE_LACKS_FILES = "bedc5e71d251d77d0f298980350febb8"
    SET_VERIFIED = "c2397f58549f4413b4855cfc5f0f03bc"
    SET_DAMAGED = "3b6be52c8f564ef0acd7b22ab11d26d8"
    SET_SUSPECT = "aec4f32698a34bf38dbe10383393c991"
    LATEST_NOT_NEWEST = "d37c617d3f6c4071922e11f4acdd7719"
    SET_MARKED = "344e3b9640a9458da3f7695362ada12c"
    DRAFT_STAYS = "8dee19daefdd48958b65c7d872757c57"
    RETENTION_FAILED = "10165799bfba495fa6081bef249f228e"
    RUN_NOT_RECORDED = "1801c0f8e4f442bf82b5cd6e1e643008"
    STORE_READABLE = "82418e630a184677b9b0efe9ae93e8be"
    STORE_MOVABLE = "91c20a40c2ef42af996210c64816c363"
    DRILL_STARTED = "527ce1e2a91d471892245e2f5565a2bb"
    DRILL_PASSED = "eba5dc693fd14690b6d56b3e899c1e01"
    DRILL_FAILED = "25d339982bcb41b6a471666c9a27cc04"
    DRILL_NOT_DONE = "4ce462879b294ffabe764fedade766ff"
    DRILL_CLEARED = "d2620b626caa4a72a639ae409051adcf"
    DRILL_LEFTOVERS = "dc5ed562ca7f4f44a074efe61efd0b2e"
    DRILL_NOT_STARTED = "596dbc96826f4fb7ac1258cf92fdee9d"
    OFFSITE_PUSHED = "a625761557cc4eaa8bd2705b99d5f6e3"
    OFFSITE_VERIFIED = "a57f88e2a52b45c599a4a77d21609437"
    OFFSITE_FETCHED = "2ba3568660b544e0aeeefdff5ae62c63"
    OFFSITE_FAILED = "1b6e45994904420f8d9841fc491a3033"


class Echo(Enum):
    """Down to which priority the story is repeated on stderr for a person at a terminal; errors never are."""

    NOTHING = ERROR
    WARNINGS = WARNING
    ALL = INFO


_echo = Echo.NOTHING
_silent = False
_told = False


def show(echo: Echo) -> None:
    """Choose how much is repeated on stderr from now on; where stderr is the journal, nothing is."""
    global _echo  # noqa: PLW0603 - one process, one terminal
    _echo = Echo.NOTHING if stderr_is_the_journal() else echo


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Write no entry while the block lasts: what a demo does is no part of the practice's audit trail."""
    global _silent  # noqa: PLW0603 - one process, one journal
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def prepare() -> None:
    """Load what entries are written with, so that it is there before anything begins."""
    from systemd import journal  # noqa: F401, PLC0415 - commands that only look write nothing


def write(event: Event, text: str, *, priority: int = INFO, fields: Mapping[str, Field] | None = None) -> None:
    """Write an entry: a sentence, and fields, each stored as DENTAL_PMS_<NAME>.

    Where no journal runs, as in a build chroot, it is only repeated on stderr.
    """
    global _told  # noqa: PLW0603 - one process, one story
    _told = True
    if ERROR < priority <= _echo.value:
        say(text)
    if _silent:
        return
    from systemd import journal  # noqa: PLC0415 - see prepare

    named = {f"DENTAL_PMS_{name.upper()}": _encodable(str(value)) for name, value in (fields or {}).items()}
    try:
        journal.send(
            _encodable(text),
            MESSAGE_ID=event.value,
            PRIORITY=str(priority),
            SYSLOG_IDENTIFIER=IDENTIFIER,
            DENTAL_PMS_EVENT=event.name.lower().replace("_", "-"),
            DENTAL_PMS_TRIGGER=trigger(),
            OBJECT_SYSTEMD_UNIT=UNIT,
            **named,
        )
    except OSError as error:  # neither a backup nor the message of a failure is lost by it
        say(f"the journal takes no entry ({error.strerror}): {text}")


@contextlib.contextmanager
def failure_told(event: Event, what: str = "", fields: Mapping[str, Field] | None = None) -> Iterator[None]:
    """Write why the block fails, after ``what``, and have systemd show it; the failure goes on, and is told."""
    try:
        yield
    except Exception as error:
        message, hint = "the program has a bug", "journalctl -u dental-pms-backup"
        if isinstance(error, BackupError):
            message, hint = error.message, error.hint or "dental-pms-backup status"
            error.told = True
        fields = {**(fields or {}), "cause": cause_of(error), "hint": hint}
        write(event, f"{what}{message}", priority=ERROR, fields=fields)
        notify.stopping(f"{what}{message}")
        raise


def has_told() -> bool:
    """Tell whether this process has written an entry: if not, it has changed nothing."""
    return _told


def say(text: str) -> None:
    """Write a line on stderr; once whoever read it has gone, nothing more arrives there, and nothing fails of it."""
    try:
        sys.stderr.write(f"{legible(text)}\n")
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the interpreter flushes it once more at its end


def trigger() -> str:
    """Return what started this process: the timer, the service by hand, or a command line."""
    if "TRIGGER_TIMER_REALTIME_USEC" in os.environ:
        return "timer"
    return "service" if stderr_is_the_journal() else "command"


def stderr_is_the_journal() -> bool:
    """Tell whether what is written on stderr reaches the journal by itself."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    status = os.fstat(2)
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def legible(text: str) -> str:
    """Return a text as one line, with what is not to be seen spelled out.

    A name may hold what commands a terminal, or lines that look like ours.
    """
    return "".join(
        each if each.isprintable() or each == "\t" else each.encode("unicode_escape").decode() for each in text
    )


def _encodable(text: str) -> str:
    """Return the text with what is not UTF-8, as a path may be, spelled out."""
    return legible(text).encode("utf-8", "backslashreplace").decode()


def redacted(text: str) -> str:
    """Return a database program's line without the parts in which servers quote rows, and without secrets."""
    text = re.sub(r"(?i)\b(detail|context|statement|query|query was|command was):.*", r"\1: (left out)", text)
    text = re.sub(
        r"""(?i)(pass(?:word|wd|phrase)?|secret|token)(["']?\s*[=:]\s*|\s+(?=["']))("[^"]*"?|'[^']*'?|\S+)""",
        r"\1\2(left out)",
        text,
    )
    return re.sub(r"://\S+@", "://(left out)@", text)
