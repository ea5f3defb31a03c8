"""Nobody writes to the live database from before its safety set until its content is replaced.

The session that will replace it locks its tables first, in the transaction in which it replaces them: others read, and
whoever writes waits. So what was acknowledged is in the safety set; and whatever is killed, server or program, the
transaction is rolled back, the locks are gone and the live database is as it was.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RestoreError
from dental_pms_backup.host import descriptors, programs, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from dental_pms_backup.host.programs import Ended, Running

# First the catalogs, so that nothing is made any more, then what was made before and is not committed yet is waited
# for, and then the list of tables is the last one. A sequence cannot be locked; only numbers of it are lost. pg_type is
# left alone, where a dump of ours makes a name, and so are the tables that it locks in a way that would wait for us.
# pg_largeobject is one: whoever reads a large object, as that dump does, locks it as whoever writes one.
LOCKED = """\
do $$ declare earlier xid[]; turn int := 0; name text; begin
 lock table pg_namespace, pg_class, pg_proc, pg_largeobject_metadata in share mode;
 select array_agg(backend_xid) into earlier from pg_stat_activity where datname = current_database()
  and pid <> pg_backend_pid() and backend_type <> 'autovacuum worker';
 while exists (select from pg_stat_activity where backend_xid = any (earlier)) loop
  turn := turn + 1;
  if turn > {lock_wait_s} * 10 then raise 'a transaction is open' using errcode = 'lock_not_available'; end if;
  perform pg_sleep(0.1), pg_stat_clear_snapshot();
 end loop;
 for name in select format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace
  where relkind in ('r', 'p') and relpersistence <> 't' and nspname !~ '^pg_' and nspname <> 'information_schema'
  and not exists (select from pg_extension, unnest(extconfig, extcondition) _ (configured, condition), pg_roles r
   where configured = c.oid and condition <> '' and r.oid = relowner and not rolsuper)
 loop execute format('lock table only %s in share mode', name); end loop; end $$"""
# So what large objects hold is remembered, row by row of their table, each with the transaction that wrote it, and
# looked at again once no dump reads them and nobody can write them any more: to write or to cut off is a row anew.
OBJECTS = "(select concat(count(*), ' ', sum(hashtextextended(concat(ctid, xmin), 0))) from pg_largeobject)"
REMEMBERED = f"select set_config('dental_pms.objects', {OBJECTS}, true)"
WRITTEN = "DP009"
UNCHANGED = f"""\
lock table pg_largeobject in share mode;
do $$ begin if current_setting('dental_pms.objects') <> {OBJECTS} then
 raise 'large objects' using errcode = '{WRITTEN}'; end if; end $$;
"""
# A client in a container that dockerd has forgotten never sees the end of its input: it would keep all out for ever.
SILENT_S = 300
SILENCE = f"set local idle_in_transaction_session_timeout = '{SILENT_S}s'"
SAYS_SO = r"\echo shut out"
STILL_HERE = b"select;\n"
AT_LAST = "set local idle_in_transaction_session_timeout = 0;\n"
SAID_EVERY_S = 5
NAP_S = 0.05


def before(lock_wait_s: int) -> Sequence[str]:
    """Return the statements that shut others out, in the transaction of whoever is to replace the content."""
    return (SILENCE, LOCKED.format(lock_wait_s=lock_wait_s), REMEMBERED, SAYS_SO)


class Script:
    """What a psql is given line by line, while it waits for more."""

    def __init__(self, file: BinaryIO, reader: Running) -> None:
        self._file = file
        self._reader = reader
        self._said_at = time.monotonic()
        self.lines = 0

    @property
    def descriptor(self) -> int:
        """Return what programs write to that go on with it."""
        return self._file.fileno()

    def say(self, text: bytes) -> None:
        """Give it lines; one that has ended hears nothing, and how it ended says why."""
        self.lines += text.count(b"\n")
        self._said_at = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self._file.write(text)

    def end(self) -> None:
        """Let it end: it has heard all."""
        self._file.close()

    def still_here(self) -> None:
        """Keep it waiting; RestoreError when it has ended."""
        if self._reader.has_ended:
            raise RestoreError("db: the session that keeps others from writing was ended, expected it to go on")
        if time.monotonic() > self._said_at + SAID_EVERY_S:
            self.say(STILL_HERE)


def replaced(
    client: Sequence[str],
    filling: Sequence[Sequence[str]],
    stdin: int,
    first: str,
    meanwhile: Callable[[Callable[[], None]], object],
    *,
    beat: Callable[[], None],
) -> tuple[tuple[Ended, ...], int]:
    """Run a psql that shuts others out, do something ``meanwhile``, and let it read ``first`` and what is filled in.

    Return how each program ended, the psql last, and how many lines it had read before those that were filled in.
    ``meanwhile`` is given what it calls as long as it goes on.
    """
    ended: tuple[Ended, ...] = ()
    with begun(client) as (script, psql):
        if not psql.has_ended:
            meanwhile(script.still_here)
            script.say(f"{AT_LAST}{UNCHANGED}{first}".encode())
            ended = programs.pipeline(*filling, stdin=stdin, out=script.descriptor, beat=beat)
        script.end()
        return (*ended, *psql.wait(beat)), script.lines


@contextlib.contextmanager
def begun(
    client: Sequence[str], first: str = "", beat: Callable[[], None] | None = None
) -> Iterator[tuple[Script, Running]]:
    """Run a psql while the block lasts, which has said something after what it was to read first, or has ended."""
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(descriptors.memory("shut out"))
        with descriptors.room_for("psql: cannot be started"):
            reading, writing = descriptors.wide_pipe()
        file = stack.enter_context(os.fdopen(writing, "wb", buffering=0))
        try:
            psql = stack.enter_context(programs.running(client, stdin=reading, out=out))
        finally:  # an end kept open here would hide from the programs that psql has ended
            os.close(reading)
        script = Script(file, psql)
        script.say(first.encode())
        while not (psql.has_ended or os.fstat(out).st_size):
            stop.rest(NAP_S, beat=beat)
        yield script, psql
