"""The settings by which the values of a set's dump are written: they are read by the same ones, or not at all.

A dump names most of them itself. It does not name lc_monetary, and the same text is another amount of money by another
one (PostgreSQL manual, "Monetary Types"); nor the time zone, the order of a date or what the application has set for
the database, by which what is computed as it is loaded may differ.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError, RestoreError, VerificationError, shell_word
from dental_pms_backup.host import descriptors, filters, programs
from dental_pms_backup.live import own_settings, pinned_settings, postgres, unknown_settings
from dental_pms_backup.restore import database_settings, databases
from dental_pms_backup.store import verify_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.backup_file import BackupFile

# The last line says how many of them a role without rights may not set.
SET = """\
select set_config(key, value, false) from json_each_text({settings});
select count(*) from pg_settings where name in (select json_object_keys({settings})) and context <> 'user';
"""
# How one unit is kept, and how it reads, as the live database has it; then the same as the set was written.
READ_AS = """\
select encode(cash_send(1::numeric::money), 'hex');
set lc_monetary = {value};
select encode(cash_send(1::numeric::money), 'hex');"""

IS_LOCALE = re.compile(r"\w[\w.@-]*", re.ASCII)
# The same locale of another C library, as in an image of Alpine, writes and reads in its own way.
READS = """\
set lc_monetary = {value};
select 1 where {amount}::money = (-1234567.89)::numeric::money"""


def settings(
    dump: BackupFile, descriptor: int, live: DatabaseSource, own: Iterable[str], given: str | None
) -> Mapping[str, str]:
    """Return the settings by which an open dump is to be loaded; nothing where no manifest has them.

    ``given`` is the lc_monetary that the dump's first line names. RefusedError where the dump has amounts of money, and
    nobody says by which it is written, or the server lacks it, or a database that gets what it has of its ``own``,
    roles with it, would read other amounts in them.
    """
    said = {"lc_monetary": given, **dump.written_by} if given is not None else dump.written_by
    wanted = {name: str(value) for name, value in said.items() if name in pinned_settings.OF_VALUES}
    there = known(live, wanted)
    locale = wanted.get("lc_monetary")
    if locale is None:
        if _has_money(dump, descriptor):
            raise _unsaid(dump, live)
    elif "lc_monetary" not in there:
        if _has_money(dump, descriptor):
            raise _lacks(live, locale)
    elif not _reads(live, locale, said.get("amount")) and _has_money(dump, descriptor):
        raise _writes_otherwise(dump, locale, str(said["amount"]))
    elif not _reads_alike(live, locale, own) and _has_money(dump, descriptor):
        raise _reads_otherwise(live, locale)
    _tell_lacking(live, {name: value for name, value in wanted.items() if name not in there})
    return there


def _tell_lacking(live: DatabaseSource, lacking: Mapping[str, str]) -> None:
    """Say which of the settings by which a set is written are not in force while it is loaded."""
    if lacking:
        named = ", ".join(f"{name} = {value}" if value.isprintable() else name for name, value in lacking.items())
        text = f"the server does not take {named}, with which the set was written, so that what is computed while it "
        text += "is loaded may be other: generated columns and materialized views"
        database_settings.tell_left(live, text)


def known(live: DatabaseSource, wanted: Mapping[str, str]) -> Mapping[str, str]:
    """Return the settings that the server knows with these values, and lets whoever loads a dump set."""
    if _are_known(live, wanted):
        return wanted
    return {name: value for name, value in wanted.items() if _are_known(live, {name: value})}


def _are_known(live: DatabaseSource, wanted: Mapping[str, str]) -> bool:
    try:
        answer = databases.tell(
            live.server, own_settings.UNLOGGED + SET.format(settings=postgres.literal(json.dumps(wanted)))
        )
    except RestoreError:
        return False
    return answer.splitlines()[-1:] == ["0"]


def _reads(live: DatabaseSource, locale: str, amount: object) -> bool:
    """Tell whether an amount of the server that was backed up is read as what it was; True where none is known."""
    if amount is None:
        return True
    try:
        query = READS.format(value=postgres.literal(locale), amount=postgres.literal(str(amount)))
        return databases.tell(live.server, own_settings.UNLOGGED + query).splitlines()[-1:] == ["1"]
    except RestoreError:
        return False


def _reads_alike(live: DatabaseSource, locale: str, own: Iterable[str]) -> bool:
    """Tell whether an amount is kept alike by a locale, and by the one that the restored database is to have."""
    set_for_it = unknown_settings.in_force(own, live.facts.user).get("lc_monetary")
    its_own = f"set lc_monetary = {postgres.literal(set_for_it)};\n" if set_for_it is not None else ""
    try:
        one, other = databases.tell(live.server, its_own + READ_AS.format(value=postgres.literal(locale))).splitlines()
    except RestoreError:
        return False
    return one == other


def _has_money(dump: BackupFile, descriptor: int) -> bool:
    """Tell whether a dump has amounts of money, as far as it can be read; VerificationError when it ends before."""
    for unpack in (verify_file.unpacker(), verify_file.GZIP) if dump.packed else (("cat",),):
        with verify_file.reopened(descriptor) as again, descriptors.memory("nothing") as out:
            unpacked, looked = programs.pipeline(unpack, filters.argv("has_money.pl"), stdin=again, out=out)
        if unpacked.ok or not looked.ok:
            return not looked.ok
    raise VerificationError(f"{dump.file}: the content is not sound ({unpacked}), expected a dump readable to its end")


def _unsaid(dump: BackupFile, live: DatabaseSource) -> RefusedError:
    line = f"SET lc_monetary = {postgres.literal(str(live.facts.settings.get('lc_monetary', 'C')))};"
    return RefusedError(
        f"db: {dump.file}: has amounts of money, and no manifest says with which lc_monetary they were written, "
        "expected its first line to say it: by another one they would be other amounts; nothing was touched",
        hint=f"{{ printf '%s\\n' {shell_word(line)}; gzip -dcf {shell_word(dump.file)}; }} >said.sql; "
        "dental-pms-backup restore db said.sql   # if it was this one",
    )


def command_for(live: DatabaseSource, locale: str) -> str:
    """Return the command with which an admin gives the server a locale; for what is no locale's name, sees its locales.

    It is run by root, who would read and write where a path leads.
    """
    if not IS_LOCALE.fullmatch(locale):
        inside = ["docker", "exec", live.server.name] if isinstance(live.server, postgres.InContainer) else []
        return shlex.join([*inside, "locale", "-a"])
    name, at, modifier = locale.partition("@")
    language, _, encoding = name.partition(".")
    command = shlex.join(["localedef", "-i", language + at + modifier, "-c", "-f", _charmap(encoding), locale])
    match live.server:
        case postgres.InContainer(name=name):
            command = f"{shlex.join(['docker', 'exec', '--user', 'root', name])} {command}"
            how = f"{shlex.join(['docker', 'restart', name])}   # and into the image"
        case postgres.OnHost():
            how = "systemctl restart postgresql"
    return f"{command} && {how}"


def _lacks(live: DatabaseSource, locale: str) -> RefusedError:
    return RefusedError(
        f"db: the set has amounts of money, written with lc_monetary = {locale}, expected a server that has this "
        "locale: by another one they would be other amounts; nothing was touched",
        hint=command_for(live, locale),
    )


def _charmap(encoding: str) -> str:
    """Return the name of the character map of an encoding, as ``locale -a`` has it, of which there is none."""
    plain = encoding.lower().replace("-", "")
    if plain in {"", "utf8"}:
        return "UTF-8"
    iso = re.fullmatch(r"iso8859(\d\d?)", plain)
    return f"ISO-8859-{iso[1]}" if iso else encoding


def _writes_otherwise(dump: BackupFile, locale: str, amount: str) -> RefusedError:
    return RefusedError(
        f"db: the set has amounts of money, written as {amount} with lc_monetary = {locale}, and this server reads "
        "others with a locale of that name, expected the C library of the server that was backed up, "
        "Debian's or Alpine's; nothing was touched",
        hint=f"dental-pms-backup show {shell_word(dump.stamp or 'latest')} --json"
        "   # says of which image it was; restore into that",
    )


def _reads_otherwise(live: DatabaseSource, locale: str) -> RefusedError:
    database = live.facts.database
    statement = f"alter database {postgres.quoted(database)} set lc_monetary = {postgres.literal(locale)}"
    return RefusedError(
        f"db: the set has amounts of money, written with lc_monetary = {locale}, and with its own lc_monetary the live "
        "database would read other amounts in them, expected the same; nothing was touched",
        hint=shlex.join(databases.admins_psql(live.server, live.facts.user, statement)),
    )
