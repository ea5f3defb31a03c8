"""psql, told to be strict: how it is called, and at what it stopped. The text of an error may quote a row."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dental_pms_backup.live import pinned_settings

if TYPE_CHECKING:
    from dental_pms_backup.host.programs import Ended

STRICT = ("-Xq", "-w", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=sqlstate", f"--command={pinned_settings.FIRST}")
ROWS = (*STRICT, "-At", "--file=-")
# What it says of an error of the server. The server's word for it is of its own language, and in capitals, where psql
# has small letters; a notice, whose state may be an error's, is known by the words that are likely.
ERROR = r"(?!(?:NOTICE|HINWEIS|WARNING|WARNUNG|INFO|LOG|DEBUG):)[^:a-z\d]+:\s+((?!0[01])[0-9A-Z]{5})$"
STOPPED = re.compile(rf"(?:psql:<stdin>:(\d+): )?{ERROR}|psql:<stdin>:(\d+): error: (?!connection)")


def sqlstate(ended: Ended) -> str:
    """Return the SQLSTATE of the error at which a psql stopped, empty where it says none."""
    return stopped_at(ended)[0]


def stopped_at(ended: Ended) -> tuple[str, int]:
    """Return SQLSTATE and line of its input of the error at which a psql stopped, empty and 0 where it says none."""
    found = next((match for line in reversed(ended.said) if (match := STOPPED.match(line))), None)
    return (found[2] or "", int(found[1] or found[3] or 0)) if found else ("", 0)
