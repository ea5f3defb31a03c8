"""Settings of a database or of a role that a server does not take: one of another version, say, or a lacking locale.

A server takes the name of a library that it does not have, and then lets nobody in (PostgreSQL manual,
"session_preload_libraries"): that one is tried with a session.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dental_pms_backup.host import programs
from dental_pms_backup.live import own_settings, pinned_settings, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dental_pms_backup.live.postgres import Server

VALUE = rf"(?:{own_settings.LITERAL}|[\w.-]+)"
SETS = re.compile(
    rf"""ALTER (?:DATABASE :"DBNAME"|ROLE (?P<role>{own_settings.IDENT})(?: IN DATABASE :"DBNAME")?) """
    rf"(?P<sets>SET (?P<name>{own_settings.IDENT}) TO (?P<value>{VALUE}(?:, {VALUE})*);)\s*"
)
TRIED = "begin;\n{}rollback;\n"
PRELOADS = {"session_preload_libraries", "local_preload_libraries"}


def among(statements: Iterable[str], taken: Callable[[str], bool]) -> Sequence[str]:
    """Return which statements set what a server does not take, asking whether it has ``taken`` all of a script."""
    found = [(statement, match) for statement in statements if (match := SETS.fullmatch(statement))]
    scripts = {statement: f"ALTER ROLE CURRENT_USER {match['sets']}\n" for statement, match in found}
    if not scripts or taken(TRIED.format("".join(scripts.values()))):
        return []
    return [statement for statement, script in scripts.items() if not taken(TRIED.format(script))]


def shutting_out(statements: Iterable[str], server: Server, program: str) -> Sequence[str]:
    """Return which statements name a library without which nobody could connect to a server; DatabaseError."""
    found = [(statement, match) for statement in statements if (match := SETS.fullmatch(statement))]
    preloads = [(statement, match) for statement, match in found if own_settings.plain(match["name"]) in PRELOADS]
    if preloads:
        postgres.ask(server, "select")  # it does answer
    return [each for each, match in preloads if not _lets_in(server, program, match["name"], match["value"])]


def _lets_in(server: Server, program: str, name: str, value: str) -> bool:
    libraries = (postgres.quoted(own_settings.unquoted(each)) for each in re.findall(own_settings.LITERAL, value))
    option = re.sub(r"([\s\\])", r"\\\1", f"{name}={','.join(libraries)}")
    options = f"{pinned_settings.OPTIONS} -c {option}"
    argv = postgres.client(server, program, "-XAtq", "-w", "-c", "select", session="preload", options=options)
    ended, _ = programs.capture(argv)
    return ended.ok


def name(statement: str) -> str:
    """Return the name of what such a statement sets, empty for any other statement."""
    match = SETS.fullmatch(statement)
    return own_settings.plain(match["name"]) if match else ""


def told(statement: str) -> str:
    """Return what such a statement sets, and for which role, in words and without its value; any other is a comment."""
    match = SETS.fullmatch(statement)
    if not match:
        return "comment"
    role = f" of role {own_settings.plain(match['role'])}" if match["role"] else ""
    return f"setting {name(statement)}{role}"
