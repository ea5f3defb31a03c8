"""Both streams of a set in the live ones' place, and the application's own view of them: each row has its file."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RestoreError, UsageError, shell_word
from dental_pms_backup.host import descriptors, filters, journal, places, programs, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import postgres, psql, sessions, sources, swap
from dental_pms_backup.restore import attachments, database, dump_file, terms
from dental_pms_backup.store import sets
from dental_pms_backup.store.sets import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.config.settings import Application, Config
    from dental_pms_backup.host.places import Place
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.terms import Prospect, Restored, Terms

# The table with both columns, a view is none; of one that has partitions, each of these. What somebody made for it or
# for its columns is not run: COPY of a table plans nothing, and writes values as they are stored.
COPIES = """\
select json_agg(format('copy %s (%I, %I) to stdout', coalesce(p.relid, c.oid::regclass), {key}, {size}))
 from pg_class c left join pg_partition_tree(c.oid) p on p.isleaf
 where c.oid = coalesce(to_regclass({table}), to_regclass('public.' || {table}))
 and (c.relkind = 'r' or c.relkind = 'p' and p.relid is not null)
 and 2 = (select count(*) from pg_attribute a where a.attrelid = c.oid and not a.attisdropped
  and a.attname in ({key}, {size}))"""
IS_THERE = "select coalesce(to_regclass({table}), to_regclass('public.' || {table})) is not null"
AS_STORED = ("--command=set client_encoding = 'UTF8'", "--command=set row_security = off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """How many rows of the attachments' table there are, without a file, and with one of another size."""

    rows: int
    missing: int
    other_size: int


def both_in_place(
    config: Config, wanted: str, on: Terms, *, now: datetime, watch: Watch
) -> Sequence[Restored] | Sequence[Prospect]:
    """Restore a set's database and its attachments in place; what was done of each.

    All that can refuse is asked, and both are restored beside what is live, before that is touched. Then nobody gets
    into the database while the files are swapped and it is switched; where that fails, the files that were live are
    brought back.
    """
    wanted = _one_for_both(config.store, wanted)
    dump_file.find(config.store, wanted, Kind.DB)
    with (
        terms.held(config.store, on),
        attachments.ready(config, wanted, on, now=now, watch=watch) as files,
        database.ready(config, wanted, on, now=now, watch=watch) as rows,
    ):
        if on.dry_run:
            return [rows.prospect, files.prospect]
        terms.agree(on, rows.prospect, files.prospect)
        stamp = swap.free_stamp(files.live.around, files.live.path.name, now)
        alone = f"CONFIRM=YES dental-pms-backup restore db {shell_word(wanted)} --in-place --replace"
        hint = f"{alone}   # it needs fewer rights; then the attachments in the same way, without --replace"
        with (
            attachments.looked_at(files.live),
            database.loaded(config, rows, on, now=now, watch=watch) as filled,
            attachments.unpacked(files, stamp, watch=watch) as fresh,
            database.switching(filled, hint=hint) as switch_now,
        ):
            stop.check()
            kept = swap.swap(files.live, fresh, stamp, then=switch_now)
        return [filled.restored(), files.restored(kept)]


def _one_for_both(store: Path, wanted: str) -> str:
    """Return the name of the latest or oldest set that has both streams, if that is what is wanted; UsageError."""
    if wanted not in {"latest", "oldest"}:
        return wanted
    taken = (each for each in sets.listing(store) if not (each.manifest or {}).get("safety"))
    both = [each.name for each in taken if each.artefact(Kind.DB) and each.artefact(Kind.ATTACHMENTS)]
    if not both:
        raise UsageError(f"{store}: no set with both streams, expected at least one", hint="dental-pms-backup list")
    return both[-1 if wanted == "latest" else 0]


def match(config: Config, *, watch: Watch) -> Matched | None:
    """Compare the rows of the application's table of attachments with the files; None without such a table.

    RestoreError, with numbers only, when a row lacks its file.
    """
    application = config.application
    if application.table is None:
        return None
    live = sources.database(config)
    columns = {"key": postgres.literal(application.key_column), "size": postgres.literal(application.size_column)}
    asked = COPIES.format(table=postgres.literal(application.table), **columns)
    copies = json.loads(postgres.ask(live.server, asked) or "[]")
    if not copies:
        _check_missing(live, application)
        return None
    files = sources.attachments(config)
    with places.opened(files.path, files.identity) as place, open(os.devnull, "rb") as nothing:  # noqa: SIM117
        with watch.showing("attachments: rows and files", nothing.fileno(), 0) as beat:
            found = _counted(live, copies, place, application.directory, beat)
    if found.missing or found.other_size:
        raise RestoreError(
            f"attachments: of {found.rows} rows {found.missing} have no file and {found.other_size} one of another "
            "size, expected none; both streams are restored as the set has them",
            hint="dental-pms-backup extract SET PATH --stored-names   # an older or a newer set may have them",
        )
    journal.write(Event.RESTORE_MATCHED, f"each of {found.rows} rows of attachments has its file")
    return found


def _check_missing(live: DatabaseSource, application: Application) -> None:
    """RestoreError when the application's table is there, but not as the configuration says."""
    if postgres.ask(live.server, IS_THERE.format(table=postgres.literal(application.table or ""))) == "t":
        raise RestoreError(
            f"application.table: {application.table} is no table with the columns {application.key_column} and "
            f"{application.size_column}, so rows and files cannot be compared; both streams are restored as the set "
            "has them",
            hint="dental-pms-backup config show   # then: dental-pms-backup drill",
        )


def _counted(
    live: DatabaseSource, copies: Sequence[str], place: Place, directory: str, beat: Callable[[], None]
) -> Matched:
    program = postgres.matching(live.server, live.facts, "psql")
    words = (*psql.STRICT, *AS_STORED, *(f"--command={copy}" for copy in copies))
    with descriptors.memory("matched") as out, sessions.opened(live.server) as session:
        asking = postgres.client(live.server, program, *words, session=session.name)
        counting = filters.argv("rows_and_files.pl", str(place.for_programs), directory)
        ended = programs.pipeline(asking, counting, out=out, beat=beat)
        session.done = not programs.failed(ended)
        answer = re.fullmatch(r"(\d+) (\d+) (\d+)\n", os.pread(out, 100, 0).decode("ascii", "replace"))
    failed = programs.failed(ended)
    if failed or not answer:
        raise RestoreError(f"attachments: {failed or ended[-1]}, while rows and files were compared")
    count, missing, other = (int(number) for number in answer.groups())
    return Matched(rows=count, missing=missing, other_size=other)
