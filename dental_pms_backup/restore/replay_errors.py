"""Where a replay stopped, in words: the statement by kind and name, why, and what to type next. Never what it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RestoreError, SuperuserNeededError
from dental_pms_backup.host import filters
from dental_pms_backup.live import psql, reasons
from dental_pms_backup.restore import replay_guards, shut_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dental_pms_backup.host import programs

COUNTED = re.compile(r"DP002 (\d{1,9}) (\d{1,9})$")
WAITING_STATES = {"55P03", "57014", "40P01"}  # lock not available, canceled, deadlock
FULL = "53100"
OUT_OF_MEMORY = "53200"  # mostly shared memory: each table that a transaction makes holds a lock there to its end
NOT_ALLOWED = "42501"
# a check is broken, a function raised something: as it may when another runs it than in live
MAY_GO_BY_WHO_RUNS_IT = {"23514", "P0001", "P0004"}
UNTRUSTED = "DP004"
EXTENSION_STATES = {
    "DP003": "the server does not have it installed",
    UNTRUSTED: "it is not a trusted one, and none of the harmless ones that live has too",
    "DP005": "it stands behind what the dump makes, expected to stand before",
}
OTHERS_CHANGED = "DP006"
STOP_IT = "docker compose stop backend   # or whatever uses the database; then try again"
AS_SUPERUSER = (
    "--as-superuser does it: whoever could make objects in that database can then do on the server all that its "
    "superuser can"
)


def of_role(failed: programs.Ended, what: str, *, ours: bool, path: str = "") -> RestoreError:
    """Return the error for what the server did not let the role do that replays a dump."""
    state = psql.sqlstate(failed)
    if state in EXTENSION_STATES:
        return RestoreError(
            f"db: the replay failed at {what}: {EXTENSION_STATES[state]} (SQLSTATE {state}), expected to be able to "
            "make the extension",
            hint="zgrep -n 'CREATE EXTENSION' FILE   # take it out, and what uses it; then try again"
            if state == UNTRUSTED
            else "install its package on the server; or make it in the live database first; then try again",
        )
    if state == NOT_ALLOWED:
        where = reasons.at(what)
        return SuperuserNeededError(
            f"db: the replay failed (SQLSTATE {state}{where}), expected nothing in it that only a superuser may do",
            hint=AS_SUPERUSER if ours else "take that out of the file, and make it by hand in the new database",
        )
    if state == replay_guards.NESTED:
        return RestoreError(
            f"db: the replay failed (SQLSTATE {state}, at {what or 'the end'}): a function that runs while the set is "
            "restored, as the check of a table, makes or sets something, expected only the dump's own statements to",
            hint=f"look at the functions that are used there, in the set and in the live database; {AS_SUPERUSER}",
        )
    if state == OTHERS_CHANGED:
        return RestoreError(
            "db: the file changes owners or rights of what it does not make itself, expected of its own objects only"
        )
    error = of_superuser(failed, what, path)
    if ours and state in MAY_GO_BY_WHO_RUNS_IT:
        return SuperuserNeededError(error.message, hint=error.hint)
    return error


def not_sql(failed: programs.Ended) -> RestoreError:
    """Return the error for a dump that the filter before psql did not let through."""
    said = filters.complaint(failed) or failed
    return RestoreError(
        f"db: the file cannot be replayed ({said}), expected only SQL and rows, as pg_dump writes them",
        hint="PGOPTIONS='-c standard_conforming_strings=on' pg_dump DATABASE >FILE   # without --create; of "
        "pg_dumpall's output the part of one database alone",
    )


def counted_others(failed: programs.Ended, tables: Sequence[str]) -> RestoreError | None:
    """Return the error for tables that have not their rows, by their places among the dump's; None for any other."""
    for said in reversed(failed.said):
        wrong, place = (int(number) for number in found.groups()) if (found := COUNTED.search(said)) else (0, 0)
        if 0 < wrong <= len(tables) and 0 < place <= len(tables):
            return RestoreError(
                f"db: the replay failed ({wrong} tables have not the rows of the dump, the first is "
                f"{tables[place - 1]}), expected every statement to succeed",
                hint="dental-pms-backup list   # another set",
            )
    return None


def of_superuser(failed: programs.Ended, what: str, path: str = "") -> RestoreError:
    """Return the error for what the server said no to; ``path`` is the search_path that the set's database had."""
    state = psql.sqlstate(failed)
    why = f"SQLSTATE {state}{reasons.at(what)}{reasons.why(state, what)}" if state else str(failed)
    hint = reasons.way_back(state, what, path) or "dental-pms-backup list   # another set"
    if state in WAITING_STATES:
        why += ", a session of the application holds a table"
        hint = STOP_IT
    if state == shut_out.WRITTEN:
        why += ", the application wrote to a large object after the safety set was begun"
        hint = STOP_IT
    if state == FULL:
        why += ", the server's disk is full"
        hint = "df -h   # on the server; then try again"
    if state == OUT_OF_MEMORY:
        why += ", more tables than the server's memory for locks has room for in one transaction, or no memory left"
        hint = (
            "max_locks_per_transaction = 1024 in postgresql.conf, or in the compose file, service db: "
            "command: postgres -c max_locks_per_transaction=1024   # restart the server; then try again"
        )
    return RestoreError(f"db: the replay failed ({why}), expected every statement to succeed", hint=hint)
