"""Settings of a database or of a role that a server does not take: one of another version, say, or a lacking locale.

A server takes the name of a library that it does not have, and then lets nobody in (PostgreSQL manual,
"session_preload_libraries"). Whether it has it is asked of its directory: to load it would be to run it.
"""

from __future__ import annotations

import json
import operator
import re
from typing import TYPE_CHECKING

from dental_pms_backup.live import own_settings, pinned_settings, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dental_pms_backup.live.postgres import Server

VALUE = rf"(?:{own_settings.LITERAL}|[\w.-]+)"
SETS = re.compile(
    rf"""ALTER (?:DATABASE :"DBNAME"|ROLE (?P<role>{own_settings.IDENT})(?P<here> IN DATABASE :"DBNAME")?) """
    rf"(?P<sets>SET (?P<name>{own_settings.IDENT}) TO (?P<value>{VALUE}(?:, {VALUE})*);)\s*"
)
SETS_SOMETHING = re.compile(rf'ALTER (?:DATABASE|ROLE) (?::"DBNAME"|{own_settings.IDENT}(?: IN DATABASE \S+)?) SET ')
TRIED = "begin;\n{}rollback;\n"
# What has the server load libraries, and in which directory of its own it looks for a plain name.
LIBRARIES = {"session_preload_libraries": "", "local_preload_libraries": "plugins/", "dynamic_library_path": ""}
LIBRARY = re.compile(r"\$libdir/(?P<below>(?:plugins/)?\w[\w.-]*)|(?P<plain>\w[\w.-]*)", re.ASCII)
# Which of some files the server has in its directory of libraries.
THERE = """\
select coalesce(json_agg(file), '[]') from pg_config, json_array_elements_text({files}) file
 where name = 'PKGLIBDIR' and file <> '' and pg_stat_file(concat(setting, '/', file, '.so'), true) is not null
"""


def among(statements: Iterable[str], taken: Callable[[str], bool]) -> Sequence[str]:
    """Return which statements set what a server does not take, asking whether it has ``taken`` all of a script."""
    found = [(statement, match) for statement in statements if (match := SETS.fullmatch(statement))]
    scripts = {statement: f"ALTER ROLE CURRENT_USER {match['sets']}\n" for statement, match in found}
    if not scripts or taken(TRIED.format("".join(scripts.values()))):
        return []
    return [statement for statement, script in scripts.items() if not taken(TRIED.format(script))]


def odd(statements: Iterable[str]) -> Sequence[str]:
    """Return which statements set something in another way than pg_dump writes it, so that nobody can tell what."""
    return [each for each in statements if SETS_SOMETHING.match(each) and not SETS.fullmatch(each)]


def shutting_out(statements: Iterable[str], server: Server) -> Sequence[str]:
    """Return which statements name a library that is not the server's own; DatabaseError.

    Without it nobody could connect; and anybody may have put it where they name it.
    """
    named = {each: _files(match) for each in statements if (match := SETS.fullmatch(each)) and _key(match) in LIBRARIES}
    if not named:
        return []
    files = sorted({file for each in named.values() for file in each})
    answer = postgres.ask(server, pinned_settings.CHECK + THERE.format(files=postgres.literal(json.dumps(files))))
    there = set(json.loads(answer))
    return [statement for statement, each in named.items() if not there.issuperset(each)]


def _files(match: re.Match[str]) -> Sequence[str]:
    """Return the files in the server's directory of libraries that a statement names, an empty one for any other."""
    found = [LIBRARY.fullmatch(each.removesuffix(".so")) for each in values(match) if each]
    return [each["below"] or LIBRARIES[_key(match)] + each["plain"] if each else "" for each in found]


def _key(match: re.Match[str]) -> str:
    """Return the name of what a statement sets, as the server compares it."""
    return own_settings.plain(match["name"]).lower()


def values(match: re.Match[str]) -> Sequence[str]:
    """Return what such a statement sets something to, decoded: of a list each."""
    each = re.findall(f"{own_settings.LITERAL}|[\\w.-]+", match["value"])
    return [own_settings.unquoted(value) if value.endswith("'") else value for value in each]


def in_force(statements: Iterable[str], role: str) -> Mapping[str, str]:
    """Return what statements set for sessions of a role, decoded, by its name in small letters; no lists.

    What is set for the role in the database goes before what is for the role, and that before what the database has.
    One whose bytes are no text is not among them.
    """
    found: dict[str, tuple[int, str]] = {}
    for statement in statements:
        match = SETS.fullmatch(statement)
        if match is None or (match["role"] and own_settings.plain(match["role"]) != role):
            continue
        rank = (2 if match["here"] else 1) if match["role"] else 0
        set_to = values(match)
        if len(set_to) == 1 and not own_settings.IS_BYTES.match(match["value"]):
            found[_key(match)] = max(found.get(_key(match), (-1, "")), (rank, set_to[0]), key=operator.itemgetter(0))
    return {key: value for key, (_, value) in found.items()}


def custom(statements: Iterable[str], role: str) -> Mapping[str, str]:
    """Return what is in force for a role of the settings that are the application's or an extension's own."""
    found = in_force(statements, role)
    return {key: found[key] for key in found if "." in key and not key.startswith(own_settings.OUR_PREFIX)}


def name(statement: str) -> str:
    """Return the name of what such a statement sets, empty for any other statement."""
    match = SETS.fullmatch(statement)
    return _key(match) if match else ""


def is_of(statement: str, role: str) -> bool:
    """Tell whether such a statement sets something for the database, or for a role: for no other role alone."""
    match = SETS.fullmatch(statement)
    return match is not None and (not match["role"] or own_settings.plain(match["role"]) == role)


def told(statement: str) -> str:
    """Return what such a statement sets, and for which role, in words and without its value; any other is a comment."""
    match = SETS.fullmatch(statement)
    if not match:
        return "setting that is written in an odd way" if SETS_SOMETHING.match(statement) else "comment"
    role = f" of role {own_settings.plain(match['role'])}" if match["role"] else ""
    return f"setting {own_settings.plain(match['name'])}{role}"
