"""Reaching PostgreSQL with its own client programs: in a container of the compose project, or natively.

The programs are always those of the server's major version. No password is handled here: in the container its own
environment is used, natively a socket or a password file of libpq.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import (
    ConfigError,
    DatabaseError,
    DatabaseRefusedError,
    DockerError,
    ToolMissingError,
    shell_word,
)
from dental_pms_backup.host import client_cage, owners, programs, server_sandbox
from dental_pms_backup.host.journal import redacted
from dental_pms_backup.live import in_container, pinned_settings
from dental_pms_backup.live.server import Facts, InContainer, Inside, OnHost, Server

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("Facts", "InContainer", "Inside", "OnHost", "Server")  # what is asked here

IN_CONTAINER = ("sh", "-c", in_container.SCRIPT, "sh")
INSTALLED = Path("/usr/lib/postgresql")
ANSWERS_S = 60
NO_DOCKER = re.compile(r"docker daemon|docker API|No such exec instance", re.IGNORECASE)
# libpq's and the server's words for a connection that somebody else ended
LOST = re.compile(r"server closed the connection|terminating connection|connection to (the )?server|database system is")
LASTING = re.compile(r"does not exist|authentication failed|no password supplied|permission denied|no pg_hba.conf")
NOT_THERE = re.compile(r"No such file or directory|Connection refused")
DATABASE, USER = ("database.name", "native.database"), ("database.user", "native.user")
MISSING = (
    (r'database ".*" does not exist', DATABASE),
    (r'role ".*" does not exist|no password supplied|authentication failed', USER),
)
NOBODY = "dental_pms_nobody"
NOT_CONNECTED = 2  # psql's exit status
ASK = """\
select json_build_object('version', current_setting('server_version_num')::int, 'database', current_database(),
 'user', current_user, 'size', pg_database_size(current_database()), 'started', pg_postmaster_start_time(),
 'system', (select system_identifier::text from pg_control_system()), 'oid', (select oid::bigint from pg_database
  where datname = current_database()), 'port', current_setting('port')::int,
 'superuser', current_setting('is_superuser') = 'on',
 'hides_damage', (with hides (name) as (values ('zero_damaged_pages'), ('ignore_checksum_failure'))
  select coalesce(json_agg(found order by found), '[]') from (
   select array[name, ''] from hides where current_setting(name)::bool
   union select array[name, coalesce(rolname, '')] from pg_db_role_setting cross join unnest(setconfig) entry
    join hides on case when name = split_part(entry, '=', 1) then split_part(entry, '=', 2)::bool end
    left join pg_roles r on r.oid = setrole
    where setdatabase in (0, (select oid from pg_database where datname = current_database()))
  ) _ (found)),
 'settings', (select jsonb_strip_nulls(jsonb_build_object('encoding', pg_encoding_to_char(d.encoding),
  'collate', j->>'datcollate', 'ctype', j->>'datctype', 'locale_provider', j->>'datlocprovider',
  'locale', coalesce(j->>'datlocale', j->>'daticulocale'), 'icu_rules', j->>'daticurules',
  'superuser', (select rolname from pg_roles where oid = 10), 'standby', case when pg_is_in_recovery() then 'yes' end,
  'amount', case when {has_money} then (-1234567.89)::numeric::money::text end))
   || (select jsonb_object_agg(name, current_setting(name)) from unnest(string_to_array('{names}', ' ')) name)
   || coalesce((select jsonb_build_object('of_our_role', string_agg(lower(name), ' ')) from pg_settings
    where source in ('client', 'user', 'database user') and lower(name) = any (string_to_array('{names}', ' '))), '{}')
  from pg_database d, to_jsonb(d) j where d.datname = current_database()))
""".replace("{names}", " ".join(pinned_settings.WRITTEN_BY)).replace("{has_money}", pinned_settings.HAS_MONEY)
# not every role may see the setting itself
DATA_DIRECTORY = "select setting from pg_settings where name = 'data_directory'"


def client(
    server: Server,
    program: str,
    *arguments: str,
    session: str,
    stdin: bool = False,
    options: str = pinned_settings.OPTIONS,
) -> list[str]:
    """Return the argv of a client program, connected to the server's database as its user.

    ``session`` becomes the application name, by which ``sessions.end`` finds it. ``stdin`` passes ours on. With
    ``options`` pinned.AS_CONFIGURED names are looked up as the database has it: for the admin's own queries only.
    """
    options += server.more
    given = (f"PGAPPNAME={session}", f"PGOPTIONS={options}")
    match server:
        case InContainer(entry=OnHost() as on_socket):
            here = dataclasses.replace(on_socket, host=client_cage.HERE)
            hosts = client(here, program, *arguments, session=session, options=options)
            return [*client_cage.beside(Path(on_socket.host)), *hosts]
        case InContainer(entry=Inside() as inside):
            cage = client_cage.alone if inside.alone else client_cage.inside
            words = [*inside.settings, *server.login.settings, "LC_ALL=C", *given]
            return [*cage(inside.root, inside.uid, inside.gid, words), *IN_CONTAINER, program, *arguments]
        case InContainer(container_id=container_id):
            asked = ["--interactive"] if stdin else []
            words = [f"--env={setting}" for setting in (*server.login.settings, *given)]
            return ["docker", "exec", *asked, *words, container_id, *IN_CONTAINER, program, *arguments]
        case OnHost():
            words = [*(f"{name}={value}" for name, value in _connection(server).items()), *given]
            argv = [program if "/" in program else _newest(server, program), *arguments]
            if server.root:
                return [*server_sandbox.client(server.root, ["LC_ALL=C", *words]), *argv]
            return programs.as_user(["env", *words, *argv], server.run_as) if server.run_as else ["env", *words, *argv]


def _connection(server: OnHost) -> dict[str, str]:
    settings = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user}
    settings |= {"PGDATABASE": server.database, "PGCONNECT_TIMEOUT": "10"}
    if server.pgpass_file:
        settings["PGPASSFILE"] = str(server.pgpass_file)
    if server.proves_itself:
        settings["PGREQUIREAUTH"] = "scram-sha-256"
    elif not server.host.startswith("/"):
        settings["PGREQUIREAUTH"] = "!password"  # whoever listens there may not have it in clear
    return settings


def to_database(name: str) -> str:
    """Return the option that connects a client program to another database of the server, whatever its name."""
    return "--dbname=dbname='" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"


def literal(text: str) -> str:
    """Return a text as SQL quotes it, whatever standard_conforming_strings is in the session that it is typed in."""
    inside = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{inside}'" if "\\" in text else f"'{inside}'"


def quoted(name: str) -> str:
    """Return a name as SQL quotes it."""
    return '"' + name.replace('"', '""') + '"'


def ask(
    server: Server,
    sql: str,
    *,
    session: str = "dental-pms-backup",
    timeout_s: float = ANSWERS_S,
    database: str | None = None,
) -> str:
    """Return what psql prints for a query, unaligned, of the server's database or of another one.

    DatabaseError when the server cannot be reached, DockerError when not even Docker can, DatabaseRefusedError when
    it says no for good.
    """
    other = [] if database is None else [to_database(database)]
    words = ("-XAtq", "-w", "-v", "ON_ERROR_STOP=1", *other, "-c", pinned_settings.FIRST, "-c", sql)
    argv = client(server, "psql", *words, session=session)
    ended, out = programs.capture(argv, timeout_s=timeout_s)
    if ended.ok:
        return out.strip("\n")  # a name may begin or end with any other space
    if isinstance(server, InContainer):
        in_container.check_named(server.name, ended.said)
    said = complaint(ended)
    if pinned_settings.NOT_PINNED.search(said):
        raise DatabaseRefusedError(
            "db: the search_path that was asked for is not in force, as behind a pooler that drops options, "
            "expected a connection to the server itself",
            hint="editor /etc/dental-pms/backup.yaml   # set native.host and native.port to those of the server itself",
        )
    if LASTING.search(said):
        raise DatabaseRefusedError(f"db: the server refuses: {said}", hint=_key(server, said))
    _check_docker(server, ended)
    hint = _look(server)
    if ended.exit_code == NOT_CONNECTED and (keys := _unknown_in_any_language(server, said, other)):
        raise DatabaseRefusedError(f"db: the server refuses: {said}", hint=_to_edit(server, keys))
    if NOT_THERE.search(said):
        hint += (
            f"   # or set {'database' if isinstance(server, InContainer) else 'native'}.port, if it listens on another"
        )
    raise DatabaseError(f"db: the server does not answer: {said}", hint=hint)


def _unknown_in_any_language(server: Server, said: str, database: Sequence[str]) -> Sequence[Sequence[str]]:
    """Return the keys of which names a server says no for good, as it says the same of a name that nobody has.

    No role that cannot log in may choose the language in which it is told so.
    """
    found = []
    for keys, word in ((DATABASE, to_database(NOBODY)), (USER, f"--username={NOBODY}")):
        argv = client(server, "psql", "-XAtq", "-w", *database, word, "-c", "", session="dental-pms-backup")
        of_nobody = complaint(programs.capture(argv, timeout_s=10)[0]).split(NOBODY)
        if len(of_nobody) > 1 and re.fullmatch(".+".join(map(re.escape, of_nobody)), said):
            found.append(keys)
    return found


def complaint(ended: programs.Ended) -> str:
    """Return the line in which a client program said why it failed, redacted; the last one may be a detail."""
    telling = [line for line in ended.said if re.search(r"(error|ERROR|FATAL):", line)]
    return _shown((telling or list(ended.said) or ["it said nothing"])[-1])


def examine(server: Server) -> Facts:
    """Ask the server what it is; DatabaseError when it does not answer."""
    try:
        return Facts(**json.loads(ask(server, f"{pinned_settings.CHECK}set work_mem = '4MB';\n{ASK}")))
    except (ValueError, TypeError):
        raise not_what_was_asked_for(server) from None


def not_what_was_asked_for(server: Server) -> DatabaseError:
    """Return the error for an answer that cannot be read."""
    return DatabaseError("db: the answer of psql is not what was asked for", hint=_look(server))


def check_stayed(server: Server, facts: Facts, ended: programs.Ended) -> None:
    """Raise DatabaseError when a client failed because the server stopped, was started anew or hung up on it.

    DockerError when Docker went away. Where none of it is so, the failure is the client's own.
    """
    if examine(server).started != facts.started:
        raise DatabaseError("db: the server was restarted during the dump", hint=_look(server))
    _check_docker(server, ended)
    lost = [line for line in ended.said if LOST.search(line)]
    if lost:
        raise DatabaseError(f"db: the server closed the connection: {_shown(lost[-1])}", hint=_look(server))


def check_same(server: Server, facts: Facts) -> None:
    """Raise DatabaseError unless it is still the server and the database that were meant before the dump."""
    found = examine(server)
    if (found.system, found.database) != (facts.system, facts.database):
        raise DatabaseError("db: another server answers after the dump, expected the dumped one", hint=_look(server))


def data_directory(server: Server) -> Path | None:
    """Return where the server's data lies as this host sees it, None where it does not."""
    match server:
        case InContainer(entry=Inside(root=root)):
            return Path(f"{root}{ask(server, DATA_DIRECTORY)}")
        case OnHost(host=host) if host.startswith("/"):
            return Path(ask(server, DATA_DIRECTORY) or "/nowhere")
        case _:
            return None


def matching(server: Server, facts: Facts, program: str) -> str:
    """Return the client program of the server's major version; ToolMissingError when it is not installed.

    A newer one is taken only from ``native.bin_dir``: what it writes, the server itself may not load.
    """
    if isinstance(server, InContainer):
        return matching(server.entry, facts, program) if isinstance(server.entry, OnHost) else program
    for path in _installed(server, program):
        if _major(path) == facts.major or (server.bin_dir and _major(path) > facts.major):
            return str(path)
    raise ToolMissingError(
        f"{program}: not installed for PostgreSQL {facts.major}, the server's major version",
        hint=f"apt install postgresql-client-{facts.major}   # or set native.bin_dir to those of a newer version",
    )


def in_database(server: OnHost, database: str) -> OnHost:
    """Return the same server with another database."""
    return dataclasses.replace(server, database=database)


def described(server: Server, facts: Facts) -> dict[str, str | int]:
    """Return what a manifest says of where a dump came from: no address, no password."""
    match server:
        case InContainer(name=name, image=image):
            place = {"source": "compose", "container": name, "image": image, "road": str(server.road)}
            place |= {"image_id": server.image_id} if server.image_id else {}
        case OnHost():
            place = {"source": "native"}
    return {
        **place,
        "database": facts.database,
        "database_bytes": facts.size,
        "server_version": facts.version,
        "system_identifier": facts.system,
        "database_oid": facts.oid,
        **facts.settings,
    }


def _newest(server: OnHost, program: str) -> str:
    found = _installed(server, program)
    return str(max(found, key=_major)) if found else programs.path_of(program)


def _installed(server: OnHost, program: str) -> list[Path]:
    if server.bin_dir:
        path = server.bin_dir / program
        if not os.access(path, os.X_OK):
            raise ConfigError((f"native.bin_dir: no {program} in {server.bin_dir}, expected the client programs",))
        if who := owners.who_changes(path):
            raise ConfigError(
                (f"native.bin_dir: {who}, expected programs that only root can change",),
                hint=f"namei -l {shell_word(path)}   # each of these has to be root's, mode go-w",
            )
        return [path]
    return [path for path in INSTALLED.glob(f"*/bin/{program}") if path.parts[-3].isdigit()]


def _major(path: Path) -> int:
    """Return the major version of an installed client program, from its place or else its own word."""
    if path.is_relative_to(INSTALLED):
        return int(path.parts[-3])
    ended, out = programs.capture([str(path), "--version"], timeout_s=10)
    version = re.search(r"(\d+)[.\d]*", out)
    if not ended.ok or version is None:
        raise ToolMissingError(f"{path}: does not tell its version, expected a client program of PostgreSQL")
    return int(version[1])


def _check_docker(server: Server, ended: programs.Ended) -> None:
    """Raise DockerError when a client in a container failed because dockerd is not there, or not the same any more."""
    if (said := [line for line in ended.said if NO_DOCKER.search(line)]) and isinstance(server, InContainer):
        raise DockerError(f"docker: {said[-1]}, expected an answer", hint="systemctl status docker.service")


def _shown(said: str) -> str:
    return redacted(re.sub(r"detail: Error message from server: ", "", said))


def _key(server: Server, said: str) -> str:
    """Return what helps where the server has no such database or role: the key that names it."""
    return _to_edit(server, [keys for pattern, keys in MISSING if re.search(pattern, said)])


def _to_edit(server: Server, found: Sequence[Sequence[str]]) -> str:
    if len(found) != 1:
        return "dental-pms-backup config show"
    in_a_container, native = found[0]
    return f"editor /etc/dental-pms/backup.yaml   # set {in_a_container if isinstance(server, InContainer) else native}"


def _look(server: Server) -> str:
    match server:
        case InContainer(name=name):
            return f"docker logs --tail 20 {shell_word(name)}"
        case OnHost():
            return "systemctl status postgresql.service"
