"""What a restored database has of its own: what is live now, and of the set what live has not.

An empty database on a new server has nothing, and gets all of the set's; what an admin has changed meanwhile stays.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError, RestoreError, VerificationError, shell_word
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import own_settings, pinned_settings, postgres, table_files, unknown_settings
from dental_pms_backup.restore import backup_file, databases
from dental_pms_backup.store.sets import Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.backup_file import BackupFile

    Statements = Mapping[str, str]


def of_set(store: Path, dump: BackupFile, *, watch: Watch) -> Statements:
    """Return the statements of a dump's set by what they are about; none for a set without, or a file from elsewhere.

    Of a set that is not in the store they are only those that say what values mean: what more it gives to whom is not
    trusted. VerificationError when the file is not the one of the manifest.
    """
    artefact = dump.stored.artefact(Kind.SETTINGS) if dump.stored else None
    file = backup_file.of_elsewhere(dump, Kind.SETTINGS)
    if artefact:
        file = backup_file.BackupFile(file=store / artefact.path, kind=Kind.SETTINGS, stored=dump.stored)
    if file is None or not file.checksum:
        return {}
    with backup_file.opened(file) as descriptor:
        unpack = backup_file.verify(file, descriptor, watch=watch).unpack
        try:
            found = own_settings.read(unpack, descriptor)
        except ValueError:
            raise VerificationError(
                f"{file.file}: has something else in it, expected the settings of a database"
            ) from None
    return found if file.ours else _of_values(found, dump)


def _of_values(found: Statements, dump: BackupFile) -> Statements:
    kept = {f"setting {name}" for name in pinned_settings.OF_VALUES}
    kept = {about for about in found if about.lower() in kept}
    left = ", ".join(sorted(found.keys() - kept))
    if left:
        root = dump.file.parent.parent
        text = f"the database's own {left} are not taken of a set that is not in the store: if you trust it, type "
        text += f"BACKUP_DIR={shell_word(root)} before the same command with {dump.stamp} as the set"
        journal.write(Event.RESTORE_SETTINGS_STAY, text, priority=journal.WARNING)
    return {about: found[about] for about in kept}


def for_live(live: DatabaseSource, taken: Statements) -> Statements:
    """Return what of the set's is for live as it is now: an empty one is whose the set says, any other its owner's."""
    empty = not table_files.numbers(live.server)
    return {about: statement for about, statement in taken.items() if empty or about != own_settings.OWNER}


def tell_differences(live: DatabaseSource, taken: Statements, stays: Statements) -> None:
    """Say which of the set's live has otherwise: those stay as live has them."""
    other = sorted(about for about in taken if taken[about] != stays.get(about, taken[about]))
    if other:
        text = f"the database's own {', '.join(other)} are other in the set than in live, and stay as live has them"
        journal.write(
            Event.RESTORE_SETTINGS_STAY, text, priority=journal.WARNING, fields={"target": live.facts.database}
        )


def wanted(live: DatabaseSource, own: Statements) -> Statements:
    """Return what the restored database is to have: what live has, then the set's ``own``, whose owner goes first.

    What all databases of the server have, it has without being given it; the set's ``own`` goes before that.
    """
    now, inherited = _now(live), own_settings.of_all(live.server)
    its_own = {about: statement for about, statement in now.items() if about not in inherited}
    both = {**own, **its_own} | {about: own[about] for about in own.keys() & {own_settings.OWNER}}
    return {about: each for about, each in both.items() if about not in inherited or each != now[about]}


def _now(live: DatabaseSource) -> Statements:
    """Return what live has; RefusedError, with the statement that takes it away, where that cannot be read."""
    text, database = own_settings.of(live.server), live.facts.database
    try:
        return own_settings.statements(text)
    except ValueError as error:
        taking_away = own_settings.taking_away(text[error.args[0] :], database)
        raise RefusedError(
            f"db: what database {database} has of its own is not written as settings are, expected to give it to the "
            "restored one; nothing was touched",
            hint=shlex.join(databases.admins_psql(live.server, live.facts.user, taking_away)),
        ) from None


def given(live: DatabaseSource, own: Statements) -> Collection[str]:
    """Return the set's ``own`` statements by which the restored database is to get what live has not."""
    now, stays = _now(live), wanted(live, own)
    return [each for about, each in own.items() if now.get(about) != each == stays.get(about)]


def left_out(live: DatabaseSource, statements: Iterable[str]) -> Collection[str]:
    """Return which of a set's statements set what the server does not take, and say so.

    What a database or a role has of its own is not worth the restore, unless text or numbers would read otherwise, as
    by what the database has, or the role that dumps: RefusedError names that.
    """
    statements = list(statements)
    lacking = [*unknown_settings.odd(statements)]
    lacking += unknown_settings.among(statements, lambda script: _takes(live, script))
    comments = (each for each in statements if each.startswith("COMMENT"))  # in bytes that are no text there
    lacking += [each for each in comments if not _takes(live, _tried(live, each))]
    shut_out = unknown_settings.shutting_out([each for each in statements if each not in lacking], live.server)
    for statement in lacking:
        reads_otherwise = unknown_settings.name(statement) in pinned_settings.WRITTEN_BY
        if reads_otherwise and unknown_settings.is_of(statement, live.facts.user):
            raise _not_taken(f"{unknown_settings.told(statement)}", "a value that it does not know")
    left = [*lacking, *shut_out]
    if left:
        named = ", ".join(unknown_settings.told(statement) for statement in left)
        text = f"the server does not take the set's own {named}, as it lacks a library or does not know that, so that"
        tell_left(live, f"{text} it is left out; all else is restored")
    return left


def tell_left(live: DatabaseSource, text: str) -> None:
    """Say which settings the server does not take."""
    fields: dict[str, journal.Field] = {"target": live.facts.database}
    journal.write(Event.RESTORE_SETTINGS_LEFT, text, priority=journal.WARNING, fields=fields)


def _tried(live: DatabaseSource, statement: str) -> str:
    return f"begin;\n{own_settings.script(statement, live.facts.database)}rollback;\n"


def _takes(live: DatabaseSource, script: str) -> bool:
    try:
        databases.tell(live.server, own_settings.UNLOGGED + script)
    except RestoreError:
        return False
    return True


def _not_taken(about: str, why: str) -> RefusedError:
    return RefusedError(
        f"db: the server does not take the set's {about} ({why}), expected a server that can have it; "
        "the live database is as it was",
        hint="install on the server what that needs, a locale say; then try again",
    )


def rehearse(live: DatabaseSource, database: str, taken: Statements) -> None:
    """Raise RefusedError, which names it, when the server does not take one of the settings for a database."""
    for about, statement in wanted(live, taken).items():
        try:
            databases.tell(live.server, f"begin;\n{own_settings.script(statement, database)}rollback;\n")
        except RestoreError as error:
            raise _not_taken(about, error.message) from None


def give_custom(live: DatabaseSource, database: str, custom: Mapping[str, str]) -> None:
    """Give a new database what its functions may read while it is filled; nothing of it stands in an argv."""
    sets = f"alter database {postgres.quoted(database)} set"
    databases.tell(
        live.server,
        own_settings.UNLOGGED
        + "".join(f"{sets} {postgres.quoted(name)} to {postgres.literal(value)};\n" for name, value in custom.items()),
    )


def script(live: DatabaseSource, database: str, taken: Statements) -> str:
    """Return the SQL that gives a database what it is to have."""
    return own_settings.script("".join(wanted(live, taken).values()), database)


def give(live: DatabaseSource, taken: Statements) -> None:
    """Give the live database itself what it has not; RestoreError, and it has none of it."""
    databases.tell(live.server, f"begin;\n{script(live, live.facts.database, taken)}commit;\n")
