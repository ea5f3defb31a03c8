"""The role that replays a dump: it may do nothing but fill the new database, and when that is done it is gone.

A dump is whatever its maker wrote, and what it makes runs while its rows are loaded: the check of a table, the function
of an index. So its session is one that was logged in as a role without rights: from SET ROLE, or SET SESSION
AUTHORIZATION, whatever runs in the session finds the way back. What changes owners and rights is kept apart, see
filters/replay.pl, and run by the superuser, when nothing of the dump runs any more.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RefusedError
from dental_pms_backup.host import client_cage, listeners, programs, wording
from dental_pms_backup.live import pinned_settings, postgres, sessions
from dental_pms_backup.live.postgres import InContainer, Inside, OnHost, literal
from dental_pms_backup.restore import databases, empty, leftover_roles, likeness, live_roles, replay_guards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dental_pms_backup.live.postgres import Server
    from dental_pms_backup.live.sources import DatabaseSource
    from dental_pms_backup.restore.backup_file import BackupFile

ITERATIONS = 4096  # what PostgreSQL itself takes
ANSWERS_S = 30
# Nothing of a replay that fails may be in the server's log: its CONTEXT quotes the row.
UNLOGGED = {
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
}
MAKE_ROLE = """\
set log_statement = 'none';
create role {role} login nosuperuser nocreatedb nocreaterole inherit noreplication bypassrls connection limit 3
 password {verifier};
select format('alter role {role} set %I to %L', key, value) from json_each_text({settings})
 where key in (select name from pg_settings) \\gexec
select format('grant create on tablespace %I to {role}', spcname) from pg_tablespace where spcname !~ '^pg_' \\gexec
"""
# An extension's script is run by the superuser. Nothing of the dump is there yet which that could meet, whosever it is:
# nothing lies in a schema but other extensions, and collations. pg_dump makes extensions before all else.
MAKE_EXTENSION = """\
create schema {role};
grant usage on schema {role} to {role};
create function {role}.make_extension(wanted text, place text) returns void language plpgsql security definer
 set search_path = pg_catalog, pg_temp as $dental_pms$ declare filled oid; begin
 if exists (select from pg_extension where extname = wanted) then return; end if;
 if not exists (select from pg_available_extensions where name = wanted) then raise 'not there' using errcode = 'DP003';
 end if;
 if not {ours} and wanted <> all ({known}::text[]) and not exists (select from pg_available_extension_versions v
  where v.name = wanted and (to_jsonb(v)->>'trusted')::bool) then raise 'not trusted' using errcode = 'DP004'; end if;
 if exists (select from pg_depend d where d.refclassid = 'pg_namespace'::regclass and d.deptype = 'n'
   and d.objid >= 16384 and d.refobjid not in (pg_my_temp_schema(), '{role}'::regnamespace)
   and d.classid not in ('pg_extension'::regclass, 'pg_collation'::regclass) and not exists (
   select from pg_depend e where (e.classid, e.objid, e.deptype) = (d.classid, d.objid, 'e')))
  then raise 'too late' using errcode = 'DP005'; end if;
 execute format('create extension %I', wanted) || case when place <> '' then format(' schema %I', place) else '' end;
 for filled in select unnest(extconfig) from pg_extension where extname = wanted loop
  execute format('grant select, insert on %s to {role}', filled::regclass);
 end loop; end $dental_pms$;
revoke all on function {role}.make_extension(text, text) from public;
grant execute on function {role}.make_extension(text, text) to {role};
"""
OWN_PUBLIC = "alter schema public owner to {role};\n"
# As template0 has it: the first superuser's.
GIVE_PUBLIC_BACK = """\
select format('alter schema public owner to %I', r.rolname) from pg_roles r, pg_namespace n
 where r.oid = 10 and n.nspname = 'public' and n.nspowner = '{role}'::regrole \\gexec
"""
# The restorer owned the database: what it set there would be in force for every session, ours too.
LOCK_OUT = """\
alter role {role} nologin;
do $dental_pms$ begin
 for turn in 1..300 loop
  perform pg_terminate_backend(pid), pg_stat_clear_snapshot() from pg_stat_activity where usename = '{role}';
  exit when not found;
  perform pg_sleep(0.1);
 end loop; end $dental_pms$;
{as_made}select format('alter database %I connection limit %s', {name}, datconnlimit)
 from pg_database where datname = {live} \\gexec
"""
GIVE_AWAY = """\
reset session authorization;
alter database {database} owner to {databases_owner};
{rest}drop owned by {role};
drop schema {role} cascade;
"""
# Of a file from elsewhere: what it has not made itself belongs to whom it did, and may be used by those who could.
OTHERS = """\
select 'pg_proc'::regclass::oid as class, oid, 0 as part, proowner as owner, proacl::text as acl from pg_proc
 union all select 'pg_class'::regclass, oid, 0, relowner, relacl::text from pg_class
 union all select 'pg_class'::regclass, attrelid, attnum, relowner, attacl::text
  from pg_attribute join pg_class c on c.oid = attrelid
 union all select 'pg_type'::regclass, oid, 0, typowner, typacl::text from pg_type
 union all select 'pg_namespace'::regclass, oid, 0, nspowner, nspacl::text from pg_namespace where nspname <> 'public'
 union all select 'pg_language'::regclass, oid, 0, lanowner, lanacl::text from pg_language
 union all select 'pg_operator'::regclass, oid, 0, oprowner, null from pg_operator
 union all select 'pg_opclass'::regclass, oid, 0, opcowner, null from pg_opclass
 union all select 'pg_opfamily'::regclass, oid, 0, opfowner, null from pg_opfamily
 union all select 'pg_collation'::regclass, oid, 0, collowner, null from pg_collation
 union all select 'pg_conversion'::regclass, oid, 0, conowner, null from pg_conversion
 union all select 'pg_ts_dict'::regclass, oid, 0, dictowner, null from pg_ts_dict
 union all select 'pg_ts_config'::regclass, oid, 0, cfgowner, null from pg_ts_config
 union all select 'pg_foreign_data_wrapper'::regclass, oid, 0, fdwowner, fdwacl::text from pg_foreign_data_wrapper
 union all select 'pg_foreign_server'::regclass, oid, 0, srvowner, srvacl::text from pg_foreign_server"""
REMEMBER_OTHERS = f"""\
create temp table dental_pms_others on commit drop as select * from ({OTHERS}) o where owner <> '{{role}}'::regrole;
"""
COMPARE_OTHERS = f"""\
do $dental_pms$ begin if exists (select from pg_temp.dental_pms_others b join ({OTHERS}) n using (class, oid, part)
 where b.owner <> n.owner or b.acl is distinct from n.acl) then raise 'others' using errcode = 'DP006'; end if;
end $dental_pms$;
"""
# Who gets what is in a file from elsewhere instead of the live database's owner. The database itself stays his, and
# what is in it is for him to use as before: as a superuser, or as a member.
MAKE_HEIR = """\
select format(word, {heir}) from unnest(array['create role %I', 'comment on role %I is ''{mark}''']) word
 where {heir} not in ({marked}) \\gexec
select format('grant %I to %I', {heir}, rolname) from pg_roles where rolname = {owner} and not rolsuper
 and not pg_has_role(rolname, {heir}, 'member') \\gexec
"""
# By what a role of an earlier restore is known again: no other is given to anybody.
HEIRS_MARK = "made by dental-pms-backup for what a file from elsewhere made"
MARKED = f"select rolname from pg_roles where shobj_description(oid, 'pg_authid') = '{HEIRS_MARK}'"
TAKEN = f"select json_agg(rolname::text) from pg_roles where rolname not in ({MARKED})"
# Foreign keys are checked as the owner of the table.
LET_HEIR_IN = """\
select format('grant usage on schema %I to %I', nspname, {heir}) from pg_namespace where nspname = 'public'
 and not has_schema_privilege({heir}, oid, 'usage') \\gexec
"""
OWNER = "select rolname from pg_roles join pg_database on datdba = pg_roles.oid where datname = current_database()"
EXTENSIONS = "select extname from pg_extension"
# Extensions that are not trusted, which a file from elsewhere gets all the same where live has them: they look at
# counts and pages, for superusers and whom those let.
HARMLESS = {
    "amcheck",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_stat_statements",
    "pg_visibility",
    "pgstattuple",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorer:
    """A role without rights that owns a new database; ``server`` is how it logs in, ``ours`` says whose dump it is.

    ``owner`` is the live database's; ``heir`` gets what nobody is named for: the owner, unless the dump is from
    elsewhere.
    """

    role: str
    server: Server
    verifier: str
    owner: str
    heir: str
    ours: bool

    @property
    def extension(self) -> str:
        """Return the name of the function that makes an extension."""
        return f"{self.role}.make_extension"

    def psql(self, program: str, *arguments: str, session: str) -> list[str]:
        """Return the argv of a psql that is logged in as the role."""
        return postgres.client(self.server, program, f"--username={self.role}", *arguments, session=session, stdin=True)


def new_role() -> str:
    """Return the name of a role that no other restore has; it needs no quotes."""
    return leftover_roles.PREFIX + secrets.token_hex(6)


@contextlib.contextmanager
def made(live: DatabaseSource, database: str, role: str, dump: BackupFile) -> Iterator[Restorer]:
    """Make a role and an empty database of its own like the live one; RefusedError where the server lets no role in.

    Neither is removed with the block.
    """
    password = secrets.token_urlsafe(24)
    kept = verifier(password)
    with _passfile(live.server, password) as passfile:
        _make(live, database, role, kept, dump)
        server = next((each for each in _roads(live.server, role, passfile) if _lets_in(each, role, database)), None)
        if server is None:
            raise _not_let_in(live.server)
        owner = postgres.ask(live.server, OWNER)
        heir = owner if dump.ours else ""  # not before the roles beside the file are made
        yield Restorer(role=role, server=server, verifier=kept, owner=owner, heir=heir, ours=dump.ours)


def _make(live: DatabaseSource, database: str, role: str, kept: str, dump: BackupFile) -> None:
    settings = literal(json.dumps(UNLOGGED | pinned_settings.TO_LOAD))
    databases.tell(live.server, MAKE_ROLE.format(role=role, verifier=literal(kept), settings=settings))
    databases.create_like(live.server, live.facts.database, database, owner=role, order=likeness.order(dump, live))
    there = [] if dump.ours else wording.lines(postgres.ask(live.server, EXTENSIONS))
    known = [each for each in there if each in HARMLESS]
    array = f"array[{', '.join(literal(each) for each in known)}]"
    script = MAKE_EXTENSION.format(role=role, ours=str(dump.ours).lower(), known=array) + replay_guards.before_any(role)
    script += replay_guards.before(role) if dump.ours else ""
    script += OWN_PUBLIC.format(role=role) if live.facts.major < empty.PUBLIC_IS_OWNED_SINCE else ""
    databases.tell(live.server, script, database=database)


def with_heir(live: DatabaseSource, restorer: Restorer) -> Restorer:
    """Return the same with the heir of what a file from elsewhere makes, once the roles beside that are made."""
    return restorer if restorer.ours else dataclasses.replace(restorer, heir=_heir(live))


def _heir(live: DatabaseSource) -> str:
    """Return a name like the live database's of no role that is there, but for a harmless one of an earlier restore."""
    taken = {*json.loads(postgres.ask(live.server, TAKEN)), *live_roles.mighty(live), *live_roles.in_use(live)}
    suffixes = ("_owner", *(f"_owner_{number}" for number in range(2, len(taken) + 3)))
    names = (databases.name_like(live.facts.database, suffix) for suffix in suffixes)
    return next(name for name in names if name not in taken)


def lock_out(live: DatabaseSource, restorer: Restorer, database: str) -> None:
    """End what the role does, let it in no more, and take back what it has set for the database."""
    name = literal(database)
    script = LOCK_OUT.format(
        role=restorer.role, as_made=databases.as_made(database), name=name, live=literal(live.facts.database)
    )
    databases.tell(live.server, script)


def before_rights(live: DatabaseSource, restorer: Restorer) -> str:
    """Return the SQL that stands before the statements that change owners and rights."""
    settings = "".join(f"set local {name} = '{value}';\n" for name, value in UNLOGGED.items())
    public = GIVE_PUBLIC_BACK.format(role=restorer.role) if live.facts.major < empty.PUBLIC_IS_OWNED_SINCE else ""
    begins = f"begin;\n{settings}{public}"
    if restorer.ours:
        return begins + replay_guards.before_rights(restorer.role)
    named = {"heir": literal(restorer.heir), "owner": literal(restorer.owner)}
    heir = MAKE_HEIR.format(**named, mark=HEIRS_MARK, marked=MARKED)
    return begins + REMEMBER_OTHERS.format(role=restorer.role) + (heir if restorer.heir != restorer.owner else "")


def after_rights(restorer: Restorer, database: str) -> str:
    """Return the SQL that stands after them: the role has nothing any more."""
    to_heir = f"reassign owned by {restorer.role} to {postgres.quoted(restorer.heir)};\n"
    given = GIVE_AWAY.format(
        role=restorer.role,
        rest=replay_guards.nothing_left(restorer.role) if restorer.ours else to_heir,
        database=postgres.quoted(database),
        databases_owner=postgres.quoted(restorer.owner),
    )
    if restorer.ours:
        return given
    let_in = LET_HEIR_IN.format(heir=literal(restorer.heir)) if restorer.heir != restorer.owner else ""
    return f"reset session authorization;\n{COMPARE_OTHERS}{let_in}{given}"


def verifier(password: str) -> str:
    """Return what PostgreSQL keeps of a password (RFC 5802), so that no log can have the password itself."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(each).decode() for each in (salt, stored, server)]
    return f"SCRAM-SHA-256${ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"


@contextlib.contextmanager
def _passfile(server: Server, password: str) -> Iterator[Path]:
    """Make a password file of libpq that only the user of the clients can read."""
    with tempfile.TemporaryDirectory(prefix="dental-pms-restore-") as place:
        directory, file = Path(place), Path(place) / "pgpass"
        directory.chmod(0o711)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(f"*:*:*:*:{password}\n")
        match server:
            case OnHost(run_as=str(user)):
                shutil.chown(file, user)
            case InContainer(entry=OnHost()):  # its clients are confined
                os.chown(file, int(client_cage.STRANGER), int(client_cage.STRANGER))
        yield file


def _roads(server: Server, role: str, passfile: Path) -> Iterator[Server]:
    """Yield how the role may log in: as we do, and then by the address of the server's own host."""
    server = dataclasses.replace(server, more="")  # those are a superuser's
    match server:
        case InContainer(entry=OnHost() as entry):
            yield dataclasses.replace(server, entry=dataclasses.replace(entry, user=role, pgpass_file=passfile))
        case InContainer(entry=Inside() as entry):
            yield dataclasses.replace(server, entry=dataclasses.replace(entry, alone=True))
            yield server  # a password in a file, or a psql of another kind, takes more than one program
        case InContainer():
            yield server
        case OnHost():
            yield dataclasses.replace(server, user=role, pgpass_file=passfile)
            if server.host.startswith("/") and _listens_itself(server):
                here = dataclasses.replace(server, user=role, host=listeners.HERE, pgpass_file=passfile)
                yield dataclasses.replace(here, proves_itself=True)


def _listens_itself(server: OnHost) -> bool:
    """Tell whether who listens at the host's own address is who made the socket: anybody could, and get all rows."""
    owner = (Path(server.host) / f".s.PGSQL.{server.port}").stat().st_uid
    return listeners.uids(server.port) == {owner}


def _lets_in(server: Server, role: str, database: str) -> bool:
    words = (
        "-XAtq",
        "-w",
        f"--username={role}",
        postgres.to_database(database),
        "-c",
        pinned_settings.CHECK + "select 1",
    )
    ended, out = programs.capture(postgres.client(server, "psql", *words, session=sessions.new()), timeout_s=ANSWERS_S)
    return ended.ok and out.strip() == "1"


def _not_let_in(server: Server) -> RefusedError:
    match server:
        case InContainer():
            how = "set database.road to socket, which can give a password"
        case OnHost(host=host):
            address = "127.0.0.1/32" if host.startswith("/") else "samehost"
            how = f"add the line 'host all all {address} scram-sha-256' to pg_hba.conf and reload the server, "
            how += "which has to listen there"
    return RefusedError(
        "restore: the server does not let a role that is made for the replay log in, but whatever is in a dump "
        "runs while it is replayed, and a superuser's session would let it do everything",
        hint=f"{how}; or, for a set of your own, if you trust all who could make objects in that database: "
        "--as-superuser",
    )
