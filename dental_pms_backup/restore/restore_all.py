"""Both streams of a set in the live ones' place, and the application's own view of them: each row has its file."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dental_pms_backup.drill import admin_queries, compare_files, compare_live
from dental_pms_backup.errors import BackupError, DatabaseRefusedError, RestoreError, shell_word
from dental_pms_backup.host import descriptors, filters, journal, places, programs, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import pinned_settings, postgres, psql, sessions, sources, swap
from dental_pms_backup.restore import attachments, backup_file, database, terms
from dental_pms_backup.store import named_files, sets
from dental_pms_backup.store.named_files import Matched
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from dental_pms_backup.config.settings import Application, Config
    from dental_pms_backup.host.places import Place
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.terms import Prospect, Restored, Terms

# The table with both columns, a view is none; of one that has partitions, each of these. What somebody made for it or
# for its columns is not run: COPY of a table plans nothing, and writes values as they are stored. What it does not
# write as a query does, a query is asked for.
COPIES = """\
select json_agg(format('copy %s (%I, %I) to stdout', coalesce(p.relid, c.oid::regclass), {key}, {size}))
 from pg_class c left join pg_partition_tree(c.oid) p on p.isleaf
 where c.oid = coalesce(to_regclass({table}), to_regclass('public.' || {table}))
 and (c.relkind = 'r' or c.relkind = 'p' and p.relid is not null)
 and 2 = (select count(*) from pg_attribute a where a.attrelid = c.oid and not a.attisdropped
  and a.attname in ({key}, {size}) and a.attgenerated = '' and a.atttypid <> 'bpchar'::regtype)"""
IS_THERE = "select coalesce(to_regclass({table}), to_regclass('public.' || {table})) is not null"
AS_STORED = ("--command=set client_encoding = 'UTF8'", "--command=set row_security = off")
AS_IN_THE_SET = "both streams are restored as the set has them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How psql asks for path and size of each file: its arguments, what its stdin tells it, and who asks then."""

    words: Sequence[str]
    text: str = ""
    by: str = ""
    options: str = pinned_settings.OPTIONS


def both_in_place(
    config: Config, wanted: str, on: Terms, *, now: datetime, watch: Watch
) -> Sequence[Restored] | Sequence[Prospect]:
    """Restore a set's database and its attachments in place; what was done of each.

    All that can refuse is asked, and both are restored beside what is live, before that is touched. Then nobody gets
    into the database while the files are swapped and it is switched; where that fails, the files that were live are
    brought back.
    """
    backup_file.find(config.store, wanted, Kind.DB)
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


def match(config: Config, wanted: str, *, watch: Watch) -> Matched | None:
    """Compare what the application's table, or its query, says of its files with the files; None without such a table.

    RestoreError, with numbers only, when more rows lack their file than when the restored set was taken.
    """
    application = config.application
    if application.files is None:
        return None
    live = sources.database(config)
    asking = _copying(live, application) or _asking(live, application, application.files, config.drill.timeout_s)
    if asking is None:
        return None
    files = sources.attachments(config)
    with places.opened(files.path, files.identity) as place, open(os.devnull, "rb") as nothing:  # noqa: SIM117
        with watch.showing("attachments: rows and files", nothing.fileno(), 0) as beat:
            found = _counted(live, asking, place, application, beat)
    if found is None:
        return None
    known = {} if application.query else _known(config, wanted)
    if found.lacks_more(known):
        raise RestoreError(
            f"attachments: {found.told('')}, expected {named_files.expected(known)}; {AS_IN_THE_SET}",
            hint="dental-pms-backup extract SET PATH --stored-names   # an older or a newer set may have them",
        )
    if found.missing or found.other_size:
        text = f"attachments: {found.told('')}, as when the set was taken"
        journal.write(Event.RESTORE_LACKS_FILES, text, priority=journal.WARNING)
    else:
        journal.write(Event.RESTORE_MATCHED, f"each of {found.rows} rows of attachments has its file")
    return found


def _known(config: Config, wanted: str) -> Mapping[str, Any]:
    """Return what the manifest of a set says of its attachments, nothing where it has gone meanwhile."""
    with contextlib.suppress(BackupError):
        manifest = sets.find(config.store, wanted, having=Kind.ATTACHMENTS).manifest or {"streams": {}}
        part: Mapping[str, Any] = manifest["streams"].get(Stream.ATTACHMENTS, {})
        return part
    return {}


def _copying(live: DatabaseSource, application: Application) -> Asking | None:
    """Return what copies the table's rows, None where it is no table that can be copied, or is not to be."""
    if application.query:
        return None
    columns = {"key": postgres.literal(application.key_column), "size": postgres.literal(application.size_column)}
    asked = COPIES.format(table=postgres.literal(application.table or ""), **columns)
    copies = json.loads(postgres.ask(live.server, asked) or "[]") or []
    return Asking(words=(*psql.STRICT, *AS_STORED, *(f"--command={copy}" for copy in copies))) if copies else None


def _asking(live: DatabaseSource, application: Application, sql: str, timeout_s: float) -> Asking | None:
    """Return what asks a query as a drill does, but of live: by somebody without rights; None without the table."""
    try:
        asked = admin_queries.every_file(sql)
        text, by = compare_live.script(live, asked, timeout_s=timeout_s, relation=application.table or "")
    except DatabaseRefusedError as error:
        is_there = IS_THERE.format(table=postgres.literal(application.table or ""))
        if not application.query and postgres.ask(live.server, is_there) != "t":
            return None
        raise RestoreError(f"{error.message}; rows and files are not compared, and {AS_IN_THE_SET}") from None
    options = pinned_settings.AS_CONFIGURED
    return Asking(words=(*psql.ROWS, postgres.to_database(live.facts.database)), text=text, by=by, options=options)


def _counted(
    live: DatabaseSource, asking: Asking, place: Place, application: Application, beat: Callable[[], None]
) -> Matched | None:
    """Count, of what psql says of the files, what has none; None where the query's table is not there."""
    program = postgres.matching(live.server, live.facts, "psql")
    with (
        descriptors.memory("matched") as out,
        descriptors.memory("asked") as asked,
        sessions.opened(live.server, on_any_road=bool(asking.text)) as session,
    ):
        os.write(asked, asking.text.encode())
        os.lseek(asked, 0, os.SEEK_SET)
        words = asking.words
        client = postgres.client(
            live.server, program, *words, session=session.name, stdin=bool(asking.text), options=asking.options
        )
        counting = filters.argv("rows_and_files.pl", str(place.for_programs), application.directory)
        ended = programs.pipeline(client, counting, stdin=asked, out=out, beat=beat)
        session.done = not programs.failed(ended)
        answer = re.fullmatch(r"(\d+) (\d+) (\d+)\n", os.pread(out, 100, 0).decode("ascii", "replace"))
    state = psql.sqlstate(ended[0])
    if state == compare_files.UNDEFINED_TABLE and not application.query:
        return None
    if asking.text and state:
        raise _misfit(application, asking.by, state)
    failed = programs.failed(ended)
    if failed or not answer:
        raise RestoreError(f"attachments: {failed or ended[-1]}, while rows and files were compared; {AS_IN_THE_SET}")
    count, missing, other = (int(number) for number in answer.groups())
    return Matched(rows=count, missing=missing, other_size=other)


def _misfit(application: Application, by: str, state: str) -> RestoreError:
    """Return the error for what the server refuses to be asked, with the keys that it is made of."""
    what = f"application.query: the server refuses the query (SQLSTATE {state})"
    if not application.query:
        columns = f"{application.key_column} and {application.size_column}"
        what = f"application.table: {application.table} is no table with the columns {columns}"
    hint = "dental-pms-backup config show   # then: dental-pms-backup drill"
    if state == admin_queries.NO_RIGHT:
        what = f"application: {by} asks on the live server and lacks a right to read what names the files"
        hint = f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {by};   # as their owner"
    return RestoreError(
        f"{what}, so rows and files cannot be compared; {AS_IN_THE_SET}",
        hint=hint,
    )
