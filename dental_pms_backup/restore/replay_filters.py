"""Between a dump and the psql that replays it: what the filters in ``filters/`` are given, and what they say.

A filter is perl, through which all of a dump goes; this process sees none of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RestoreError
from dental_pms_backup.host import descriptors, filters, programs, wording
from dental_pms_backup.live import postgres
from dental_pms_backup.restore import live_roles, replay_guards, replay_role

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.backup_file import BackupFile
    from dental_pms_backup.restore.replay_role import Restorer

# The end of the dump, which only what unpacked all of it lets follow.
UNPACKED = 'ends=$1; shift; "$@" && cat -- "$ends"'
LONGEST_ANSWER_BYTES = 1000
RIGHT = re.compile(r"((?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES|ALTER [A-Z ]+ \S.* OWNER TO) .*);$", re.MULTILINE)
REFRESH = re.compile(r"SELECT pg_temp\.dental_pms_refresh\('(.*)'\);$", re.MULTILINE)
SHOWN = 200  # characters of it
# One a line, whatever their names; and with each what it is: bare, as it has nothing of its own yet; one that reaches
# the whole server; and one of a new server, whose live database has no table yet.
EXISTING_ROLES = """\
select json_build_array(rolname::text, array_remove(array[case when rolconnlimit = -1 and not exists (
  select from pg_db_role_setting where setrole = r.oid and setdatabase = 0) then 'bare' end,
 case when {reaches} then 'reaches' end, case when not exists (
  select from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'r' and n.nspname !~ '^pg_'
   and n.nspname <> 'information_schema') then 'new' end], null)) from pg_roles r""".replace(
    "{reaches}", live_roles.REACHES
)
KNOWS_RESTRICT = (r"--command=\restrict x", r"--command=\unrestrict x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """An open dump: what unpacks it, the token of its line restrict, as in ``Head``, and whether it is a set's."""

    descriptor: int
    unpack: Sequence[str]
    token: str | None
    ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The files that the filter of a dump reads and writes, by their descriptors, but for ``gate``, a pipe."""

    control: int
    ends: int
    gate: int
    after: int
    rights: int
    late: int

    def argv(self) -> list[str]:
        """Return the argv of the filter."""
        files = (self.control, self.gate, self.after, self.rights, self.late)
        return filters.argv("replay.pl", *(path(each) for each in files))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Holds back the end of what a filter passes on, until it is known what comes ``after`` the dump."""

    keeper: BinaryIO
    after: int

    @property
    def is_open(self) -> bool:
        """Tell whether the end may come."""
        return self.keeper.closed

    def open(self, after: str = "") -> None:
        """Let what comes after the dump follow it, and the end come."""
        write(self.after, after)
        self.keeper.close()


def others_own(live: DatabaseSource, dump: Dump) -> bool:
    """Tell whether a dump names an owner who is not a superuser; RestoreError where it cannot be read."""
    with opened() as (files, gate):
        gate.open()
        known = [f"mighty={role}" for role in live_roles.superusers(live)]
        write(files.control, words("tell=0", "split=1", "ours=1", "restricts=1", *_heads(dump), *known))
        return _told(dump, files) != "0"


@contextlib.contextmanager
def opened() -> Iterator[tuple[Filter, Gate]]:
    """Open the files of a filter, and yield them with the gate that it waits at."""
    with contextlib.ExitStack() as stack:
        names = ("control", "ends", "after", "rights", "late")
        files = {name: stack.enter_context(descriptors.memory(name)) for name in names}
        # a pipe that nobody writes to: it is at its end once it is known what comes after
        gate, keeper = stack.enter_context(descriptors.pipe())
        ends = f"-- {secrets.token_hex(16)}"
        write(files["ends"], f"\n{ends}\n")
        write(files["control"], words(f"ends={ends}"))
        yield Filter(gate=gate, **files), Gate(keeper=keeper, after=files["after"])


def write_control(files: Filter, live: DatabaseSource, dump: Dump, by: Restorer | None, token: str) -> None:
    """Tell a filter what it has to know: whose dump it is, and who replays it, None for the superuser."""
    write(files.control, words(f"token={token}", *_restricts(live), *_heads(dump)))
    if not by:
        write(files.control, words("late=1"))
        return
    write(files.control, words("split=1", f"extension={by.extension}", f"owner={postgres.quoted(by.heir)}"))
    if dump.ours:
        write(files.control, words("ours=1", f"settings={replay_guards.settings(by.role)}"))
        write(files.control, words(*(f"superuser={role}" for role in live_roles.superusers(live))))
    write(files.control, words(*(f"mighty={role}" for role in live_roles.mighty(live))))
    if not dump.ours:
        write(files.control, words(*(f"in_use={role}" for role in live_roles.in_use(live))))
    write(files.rights, replay_role.before_rights(live, by))


def write_roles_control(
    control: int, live: DatabaseSource, roles: BackupFile, *, left: Iterable[str] = (), lists: str = ""
) -> None:
    """Tell the filter of roles which ones the server has, whose file of roles that is, and what is ``left`` out.

    It ``lists`` what roles.pl says there, and prints nothing else.
    """
    existing = [json.loads(line) for line in wording.lines(postgres.ask(live.server, EXISTING_ROLES))]
    elsewhere = ["new"] if roles.system not in {"", live.facts.system} else []
    known = words(*(f"{word}={role}" for role, is_it in existing for word in ("there", *is_it, *elsewhere)))
    known += words(*(f"left={each}" for each in left))
    known += words(
        *(["ours=1"] if roles.ours else []),
        *([] if roles.has_passwords else ["no_passwords=1"]),
        *([f"lists={lists}"] if lists else []),
    )
    write(control, words(f"token={secrets.token_hex(16)}", *_restricts(live)) + known)


def _heads(dump: Dump) -> Sequence[str]:
    return (f"head={dump.token}",) if dump.token else ()


def words(*given: str) -> str:
    """Return words as a filter reads them."""
    return "".join(f"{word}\0" for word in given)


def write(descriptor: int, text: str) -> None:
    """Write all of a text to a file in memory."""
    content = text.encode()
    while content:
        content = content[os.write(descriptor, content) :]


def path(descriptor: int) -> str:
    """Return the path by which a program of ours reads a file in memory, or a pipe."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def unpacking(dump: Dump, files: Filter) -> list[str]:
    """Return the argv that unpacks a dump, and then writes the line that says that it was all."""
    return ["sh", "-c", UNPACKED, "sh", path(files.ends), *dump.unpack]


def _restricts(live: DatabaseSource) -> Sequence[str]:
    """Return the word for a psql that knows the line restrict, since August 2025: one from before stops there."""
    program = postgres.matching(live.server, live.facts, "psql")
    ended, _ = programs.capture(postgres.client(live.server, program, "-X", "-w", *KNOWS_RESTRICT, session="restrict"))
    return ["restricts=1"] if ended.ok else []


def standing_at(line: int, dump: Dump, live: DatabaseSource, by: Restorer | None) -> str:
    """Return what stood in a line of what a filter gave to psql: kind and name, empty where that is not known."""
    with opened() as (files, gate), contextlib.suppress(RestoreError):
        gate.open()
        write_control(files, live, dump, by, "0")
        write(files.control, words(f"tell={line}"))
        return _told(dump, files)
    return ""


def right_at(line: int, cat: Sequence[str]) -> str:
    """Return the statement in a line of what ``cat`` prints, if it is about rights and owners: it holds names alone."""
    with descriptors.memory("right") as out:
        programs.pipeline(cat, ["sed", "--quiet", f"{line}{{p;q;}}"], out=out)
        said = os.pread(out, LONGEST_ANSWER_BYTES, 0).decode("utf-8", "replace")
    view, right = REFRESH.match(said), RIGHT.match(said)
    found = f"REFRESH MATERIALIZED VIEW {view[1]}" if view else right[1] if right else ""
    return "".join(each if each.isprintable() else "?" for each in found)[:SHOWN]


def _told(dump: Dump, files: Filter) -> str:
    """Return what the filter says of a dump, from its beginning, without replaying anything."""
    os.lseek(dump.descriptor, 0, os.SEEK_SET)
    with descriptors.memory("told") as out:
        *_, ended = programs.pipeline(unpacking(dump, files), files.argv(), stdin=dump.descriptor, out=out)
        if not ended.ok:
            raise RestoreError(
                f"db: the dump cannot be replayed ({filters.complaint(ended) or ended}), expected only SQL"
            )
        return os.pread(out, LONGEST_ANSWER_BYTES, 0).decode("utf-8", "replace")
