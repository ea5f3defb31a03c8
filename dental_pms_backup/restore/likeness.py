"""Whether text and dates read in a restored database as they did where a set was taken.

In another encoding the same bytes are other letters, or none: no way to load a set puts that right. By another locale
what is computed of text while a set is loaded would be other text, and rows would be in other partitions: the new
database gets the set's. By another DateStyle 03/04/1970 is another day, for the application too.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from dental_pms_backup.drill import load
from dental_pms_backup.errors import RefusedError
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import postgres, table_files
from dental_pms_backup.restore import databases, written_by

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.backup_file import BackupFile

ORDER = ("collate", "ctype", "locale_provider", "locale", "icu_rules")
DATES = {"datestyle": "DateStyle", "timezone": "TimeZone", "intervalstyle": "IntervalStyle"}
PROVIDERS_SINCE = 15
LIBC = "c"


def check(dump: BackupFile, live: DatabaseSource, said: str | None) -> None:
    """Raise RefusedError where live has another encoding, or lacks the set's locale; tell of another one.

    Where no manifest has the encoding, it is what the dump has ``said`` in its first lines. The server makes text of
    that one its own, but for SQL_ASCII, which is bytes and no text. Of the order that no manifest has nobody knows.
    """
    taken, now = dump.written_by, live.facts.settings
    encoding = taken.get("encoding", now.get("encoding"))
    if "encoding" not in taken and said and "SQL_ASCII" in {said.upper(), now.get("encoding")}:
        encoding = said.upper()
    if encoding != now.get("encoding"):
        what = f"the live database has the encoding {now['encoding']}, expected {encoding}, as the set has: "
        raise _refused(f"{what}the same text would be other text", dump, live, str(encoding))
    if not order(dump, live):
        return
    if lacking := _lacking(dump, live):
        raise RefusedError(
            f"db: the database of the set sorted text by the locale {lacking}, expected a server that has it: what is "
            "computed of text would be other text; nothing was touched",
            hint=written_by.command_for(live, lacking),
        )
    journal.write(
        Event.RESTORE_OTHER_ORDER,
        f"the live database sorts text otherwise than the one of the set did ({_differences(dump, live)}); "
        "the restored one does it as that of the set did",
        priority=journal.WARNING,
        fields={"target": live.facts.database},
    )


def check_replaced(dump: BackupFile, live: DatabaseSource) -> None:
    """Raise RefusedError where a set is to be loaded into the live database itself, and that has another locale."""
    if order(dump, live):
        raise _refused(
            f"the live database sorts text otherwise than the one of the set did ({_differences(dump, live)}), "
            "expected the same for --replace: what is computed of text would be other text",
            dump,
            live,
            str(live.facts.settings.get("encoding")),
        )


def order(dump: BackupFile, live: DatabaseSource) -> str:
    """Return the options that make a database sort text as the set's did; nothing where the live one does."""
    taken, now = (_ordered(each, live) for each in (dump.written_by, live.facts.settings))
    return load.locale(taken) if taken != now else ""


def dates(dump: BackupFile, live: DatabaseSource, its_own: Collection[str]) -> Mapping[str, str]:
    """Return the statements by which an empty database, or one of another server, reads dates as the set's did.

    They are what own_settings has for it, by what they are about. For any other database they are told, with the
    command: an admin may have set it otherwise since. What the set's database had of ``its_own`` comes with that.
    """
    taken, now = dump.written_by, live.facts.settings
    ours = {name for each in (taken, now) for name in str(each.get("of_our_role", "")).split()}
    server_s = {name for name in DATES.keys() - ours if f"setting {DATES[name]}" not in its_own}
    other = [name for name in server_s if str(taken.get(name, now.get(name))) != now.get(name)]
    values = {name: (postgres.quoted(DATES[name]), postgres.literal(str(taken[name]))) for name in sorted(other)}
    sets = {name: f"SET {setting} TO {value};" for name, (setting, value) in values.items()}
    is_new = dump.system not in {"", live.facts.system} or not table_files.numbers(live.server)
    given = [name for name in sets if is_new and written_by.known(live, {name: str(taken[name])})]
    _tell_dates(dump, live, {name: sets[name] for name in sets.keys() - {*given}})
    return {f"setting {DATES[name]}": f'ALTER DATABASE :"DBNAME" {sets[name]}\n' for name in given}


def _tell_dates(dump: BackupFile, live: DatabaseSource, sets: Mapping[str, str]) -> None:
    if not sets:
        return
    taken, now, name = dump.written_by, live.facts.settings, live.facts.database
    differs = ", ".join(f"{DATES[each]} {now.get(each)} instead of {taken[each]}" for each in sorted(sets))
    statements = " ".join(f"ALTER DATABASE {postgres.quoted(name)} {sets[each]}" for each in sorted(sets))
    journal.write(
        Event.RESTORE_OTHER_DATES,
        f"the live database reads and writes dates and times otherwise than the one of the set did ({differs}), "
        f"and so will the restored one; to have it as it was: {statements}",
        priority=journal.WARNING,
        fields={
            "target": name,
            "hint": f"{shlex.join(databases.admins_psql(live.server, live.facts.user, statements))}   # afterwards",
        },
    )


def _ordered(settings: Mapping[str, Any], live: DatabaseSource) -> Mapping[str, Any]:
    usual = {"locale_provider": LIBC} if live.facts.major >= PROVIDERS_SINCE else {}
    return {**usual, **{name: settings[name] for name in ORDER if name in settings}}


def _lacking(dump: BackupFile, live: DatabaseSource) -> str:
    """Return the locale that a set's database had and the server lacks, empty where it has it."""
    named = (str(dump.written_by.get(name, "C")) for name in ("collate", "ctype"))
    return next((name for name in named if not written_by.known(live, {"lc_time": name})), "")


def _differences(dump: BackupFile, live: DatabaseSource) -> str:
    taken, now = (_ordered(each, live) for each in (dump.written_by, live.facts.settings))
    both = ((name, now.get(name, "none"), taken.get(name, "none")) for name in ORDER)
    return ", ".join(f"{name} {has} instead of {had}" for name, has, had in both if has != had)


def _refused(what: str, dump: BackupFile, live: DatabaseSource, encoding: str) -> RefusedError:
    server, name = live.server, live.facts.database
    aside = databases.name_like(name, "_aside")
    plain = f"locale {postgres.literal('C.UTF-8' if encoding == 'UTF8' else 'C')}"
    locale = plain if _lacking(dump, live) else load.locale(_ordered(dump.written_by, live)) or plain
    statements = (
        f"alter database {postgres.quoted(name)} rename to {postgres.quoted(aside)}",
        f"create database {postgres.quoted(name)} template template0 encoding {postgres.literal(encoding)} {locale}",
    )
    command = shlex.join([*databases.admins_psql(server, live.facts.user, statements[0]), "--command", statements[1]])
    return RefusedError(f"db: {what}; nothing was touched", hint=f"{command}   # nobody may be connected")
