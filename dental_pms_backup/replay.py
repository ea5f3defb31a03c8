"""The strict replay: all of a dump into a database, every row counted, in one transaction, or nothing of it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup import databases, postgres, streams, tools
from dental_pms_backup.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dental_pms_backup.postgres import Server
    from dental_pms_backup.sources import DatabaseSource
    from dental_pms_backup.verify import Proof

PUBLIC_IS_OWNED_SINCE = 15
# What the seed's strict replay drops, and what else the dump brings back: other schemas, large objects.
DROP = """\
do $$ declare s name; begin
 perform lo_unlink(oid) from pg_largeobject_metadata;
 for s in select nspname from pg_namespace n where nspname !~ '^pg_' and nspname <> 'information_schema'
  and not exists (select from pg_depend where classid = 'pg_namespace'::regclass and objid = n.oid and deptype = 'e')
 loop execute format('drop schema %I cascade', s); end loop; end $$"""
# psql takes the end of its input as the end of a COPY and would commit half a dump; and a dump with large objects has
# a COMMIT of its own. So nothing can be committed before the mark, which follows the last byte of a whole dump.
GUARD = """\
create temp table dental_pms_guard (n int);
create function pg_temp.dental_pms_guard() returns trigger language plpgsql as $$ begin
 if coalesce(current_setting('dental_pms.whole', true), '') <> 'yes' then
  raise 'the dump is not whole' using errcode = 'DP001'; end if;
 return null; end $$;
create constraint trigger whole after insert on dental_pms_guard deferrable initially deferred
 for each row execute function pg_temp.dental_pms_guard();
insert into dental_pms_guard values (1)"""
MARK = "set local dental_pms.whole = 'yes';"
WITHOUT_COMMIT = r"""/^COPY .* FROM stdin;$/,/^\\\.$/b
/^-- Data for Name: .*; Type: BLOBS; /,/^COMMIT;$/{/^BEGIN;$/d;/^COMMIT;$/d}"""
# The gate is a pipe that nobody writes to: it is at its end once it is known what comes after.
UNPACKED_AND_AFTER = 'gate=$1 after=$2; shift 2; "$@" && echo && cat -- "$gate" "$after"'
# Fails unless each table has the rows of the dump. A name without a table is none, else the replay had stopped at it:
# its COPY stood in a comment or a function. An extension may fill its own tables of configuration, which the dump has
# in part. A partitioned table has, beside rows loaded through it, those of its partitions. No message of it can quote a
# row, so that it may say which table.
COUNT = """\
reset session authorization;
reset search_path;
set local standard_conforming_strings = on;
select set_config('dental_pms.rows', {rows}, true);
\\set VERBOSITY terse
do $$ declare dumped jsonb := current_setting('dental_pms.rows'); name text; rows bigint; relation regclass;
 parent boolean; filled boolean; counted bigint; wrong int := 0; first text; begin
 for name, rows in select * from jsonb_each_text(dumped) loop
  relation := to_regclass(name);
  if relation is not null then
   select relkind = 'p', exists (select from pg_extension where relation = any (extconfig)) into parent, filled
    from pg_class where oid = relation;
   if parent then select sum(value::bigint) into rows from jsonb_each_text(dumped)
    where to_regclass(key) in (select relid from pg_partition_tree(relation)); end if;
   execute format('select count(*) from %s %s', case when parent then '' else 'only' end, relation) into counted;
   if counted < rows or counted > rows and not filled then
    wrong := wrong + 1; first := coalesce(first, name); end if;
  end if;
 end loop;
 if wrong > 0 then raise 'DP002 % %', wrong, first; end if; end $$;
\\set VERBOSITY sqlstate
"""
COUNTED_OTHERS = re.compile(r"DP002 (\d+) (.+)")
ROLE_MISSING = "42704"
WAITING_STATES = {"55P03", "57014", "40P01"}  # lock not available, canceled, deadlock
FULL = "53100"
OUT_OF_MEMORY = "53200"  # mostly shared memory: each table that a transaction makes holds a lock there to its end
KNOWS_RESTRICT = (r"--command=\restrict x", r"--command=\unrestrict x")
# Of pg_dumpall's roles only those that the server lacks: what live ones may do now, nobody asked to change. A statement
# goes on over lines while a quote is open.
MISSING_ROLES = r"""
my %there = map { $_ => 1 } @ARGV;
my $name = qr/"(?:[^"]|"")*"|[^\s;"]+/;
my ($kept, $open) = (0, 0);
while (<STDIN>) {
    if (!$open) {
        next if /^--/;
        if (/^(?:DO \$dental_pms\$ BEGIN )?CREATE ROLE ($name);/) { $kept = !$there{$1} }
        elsif (/^(?:ALTER|COMMENT ON) ROLE ($name) (?!IN DATABASE)/) { $kept = !$there{$1} }
        elsif (/^GRANT ($name) TO ($name)/) { $kept = !($there{$1} && $there{$2}) }
        else { $kept = /^SET / }
    }
    print if $kept;
    my $text = $_;
    $text =~ s/"(?:[^"]|"")*"//g if !$open;
    $open ^= ($text =~ tr/'//) % 2;
}
"""
EXISTING_ROLES = "select quote_ident(rolname) from pg_roles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Into:
    """Where a dump is replayed: ``database``, whose content it replaces or which is new; ``state`` if it fails."""

    database: str
    replacing: bool
    lock_wait_s: int = 60
    state: str = "the live database is as it was"


def replay(
    live: DatabaseSource,
    source: int,
    into: Into,
    *,
    unpack: Sequence[str],
    token: str | None,
    proven: Callable[[], Proof | None],
    beat: Callable[[], None],
) -> None:
    """Replay an open dump, from its offset on, into a database of the live server; RestoreError, and nothing changed.

    ``token`` is what its line restrict has, see ``dumps.Head``. ``proven`` returns the dump's proof as soon as there is
    one, before which nothing is committed; it has to be by ``unpack``.
    """
    session = streams.new_session()
    psql = postgres.client(
        live.server,
        postgres.matching(live.server, live.facts, "psql"),
        "-Xq",
        "-w",
        postgres.to_database(into.database),
        "--set=ON_ERROR_STOP=1",
        "--set=VERBOSITY=sqlstate",  # the text of an error may quote a row
        "--output=/dev/null",
        *(f"--command={statement}" for statement in _before(into, live.facts.major)),
        "--file=-",
        "--command=commit",
        session=session,
        stdin=True,
    )
    filters = [WITHOUT_COMMIT, *_without_restrict(live, token)]
    with tools.memory("after") as after, tools.pipe() as (gate, keeper):

        def beat_and_open() -> None:
            beat()
            if not keeper.closed and (proof := proven()):
                if proof.unpack != unpack:
                    raise RestoreError(
                        f"db: {unpack[0]} does not unpack all of the dump, expected as {proof.unpack[0]}"
                    )
                rows = postgres.literal(json.dumps(proof.rows, ensure_ascii=False))
                os.write(after, f"{COUNT.format(rows=rows)}{MARK}\n".encode())
                keeper.close()

        beat_and_open()
        behind = [f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in (gate, after)]
        argvs = [
            ["sh", "-c", UNPACKED_AND_AFTER, "sh", *behind, *unpack],
            ["sed", *(f"--expression={script}" for script in filters)],
            psql,
        ]
        failed = _run(live.server, session, argvs, source, beat_and_open)
    if failed:
        raise _error(failed, into.state)


def load_roles(live: DatabaseSource, source: int, *, beat: Callable[[], None]) -> None:
    """Make the roles of an open file that the server lacks, with their memberships; RestoreError and none is made."""
    existing = postgres.ask(live.server, EXISTING_ROLES).splitlines()
    session = streams.new_session()
    options = ("-Xq", "-w", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=sqlstate", "--output=/dev/null")
    psql = postgres.client(
        live.server,
        postgres.matching(live.server, live.facts, "psql"),
        *options,
        postgres.to_database(databases.MAINTENANCE),
        "--single-transaction",
        "--file=-",
        session=session,
        stdin=True,
    )
    argvs = [["gzip", "--decompress", "--stdout"], ["perl", "-e", MISSING_ROLES, "--", *existing], psql]
    failed = _run(live.server, session, argvs, source, beat)
    if failed:
        state = databases.sqlstate(failed)
        why = f"SQLSTATE {state}" if state else str(failed)
        raise RestoreError(f"db: the set's roles cannot be made ({why}), expected those that the server lacks")


def _before(into: Into, major: int) -> Sequence[str]:
    """Return the statements that stand before the dump."""
    before = ["begin", GUARD, f"set local lock_timeout = '{into.lock_wait_s}s'"]
    return [*before, DROP, *_public(major)] if into.replacing else before


def _public(major: int) -> tuple[str, ...]:
    """Return what makes schema public as a new database has it: a dump holds only what differs from that."""
    comment = "comment on schema public is 'standard public schema'"
    if major >= PUBLIC_IS_OWNED_SINCE:
        owned = "create schema public authorization pg_database_owner"
        return (owned, "grant usage on schema public to public", comment)
    return ("create schema public", "grant all on schema public to public", comment)


def _without_restrict(live: DatabaseSource, token: str | None) -> Sequence[str]:
    """Return what takes the lines restrict and unrestrict away for a psql from before August 2025, which stops there.

    One that knows it keeps it: nothing in the dump can then make psql do more than SQL.
    """
    if token is None:
        return ()
    program = postgres.matching(live.server, live.facts, "psql")
    ended, _ = tools.capture(postgres.client(live.server, program, "-X", "-w", *KNOWS_RESTRICT, session="restrict"))
    return () if ended.ok else (rf"/^\\\(un\)\{{0,1\}}restrict {token}$/d",)


def _run(
    server: Server, session: str, argvs: Sequence[Sequence[str]], source: int, beat: Callable[[], None]
) -> tools.Ended | None:
    """Run a pipeline that ends in psql; return None, or the last program that failed, when nothing runs any more."""
    done = False
    with open(os.devnull, "wb") as nowhere:
        try:
            ended = tools.pipeline(*argvs, source=source, out=nowhere.fileno(), beat=beat)
            done = all(program.ok for program in ended)
        finally:
            if not done:
                streams.end_quietly(server, session)
    return None if done else next(program for program in reversed(ended) if not program.ok)


def _error(failed: tools.Ended, left: str) -> RestoreError:
    state = databases.sqlstate(failed)
    why = f"SQLSTATE {state}" if state else str(failed)
    hint = "dental-pms-backup list   # another set"
    others = next((found for line in failed.said if (found := COUNTED_OTHERS.search(line))), None)
    if others:
        why = f"{others[1]} tables have not the rows of the dump, the first is {others[2]}"
    if state == ROLE_MISSING:
        why += ", the server lacks a role"
        hint = "zgrep -oE '(OWNER|GRANT .*) TO [^;]+' FILE | sort -u   # make the roles that it names; then try again"
    if state in WAITING_STATES:
        why += ", a session of the application holds a table"
        hint = "docker compose stop backend   # or whatever uses the database; then try again"
    if state == FULL:
        why += ", the server's disk is full"
        hint = "df -h   # on the server; then try again"
    if state == OUT_OF_MEMORY:
        why += ", more tables than the server's memory for locks has room for in one transaction, or no memory left"
        hint = (
            "max_locks_per_transaction = 1024 in postgresql.conf, or in the compose file, service db: "
            "command: postgres -c max_locks_per_transaction=1024   # restart the server; then try again"
        )
    return RestoreError(f"db: the replay failed ({why}), expected every statement to succeed; {left}", hint=hint)
