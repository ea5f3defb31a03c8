"""Reaching PostgreSQL with its own client programs: in a container of the compose project, or natively.

The programs are always those of the server's major version. No password is handled here: in the container its own
environment is used, natively a socket or a password file of libpq.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.config.values import Road
from dental_pms_backup.errors import (
    ConfigError,
    DatabaseError,
    DatabaseRefusedError,
    DockerError,
    ToolMissingError,
    shell_word,
)
from dental_pms_backup.host import confinement, programs, sandbox
from dental_pms_backup.host.journal import redacted
from dental_pms_backup.live import pinned_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTALLED = Path("/usr/lib/postgresql")
ANSWERS_S = 60
NO_DOCKER = re.compile(r"docker daemon|docker API|No such exec instance", re.IGNORECASE)
# libpq's and the server's words for a connection that somebody else ended
LOST = re.compile(r"server closed the connection|terminating connection|connection to (the )?server|database system is")
LASTING = re.compile(r"does not exist|authentication failed|no password supplied|permission denied|no pg_hba.conf")
# What the official image does: the user defaults to postgres, the database to the user, *_FILE to a file's content.
# "$@" is the client program and its arguments. No login shell: /etc/profile may print into the dump.
IN_CONTAINER = """\
value() { eval "v=\\${$1:-}; f=\\${$1_FILE:-}"; if [ -z "$v" ] && [ -n "$f" ]; then v=$(cat "$f"); fi; }
value POSTGRES_USER; PGUSER=${v:-postgres}
value POSTGRES_DB; PGDATABASE=${v:-$PGUSER}
value POSTGRES_PASSWORD; if [ -n "$v" ]; then export PGPASSWORD="$v"; fi
export PGUSER PGDATABASE; unset PGHOST PGHOSTADDR PGSERVICE PGSERVICEFILE PGCLIENTENCODING
exec "$@"
"""
ASK = """\
select json_build_object('version', current_setting('server_version_num')::int, 'database', current_database(),
 'user', current_user, 'size', pg_database_size(current_database()), 'started', pg_postmaster_start_time(),
 'system', (select system_identifier::text from pg_control_system()),
 'settings', (select jsonb_strip_nulls(jsonb_build_object(
  'timezone', current_setting('timezone'), 'bytea_output', current_setting('bytea_output'),
  'lc_monetary', current_setting('lc_monetary'),
  'standard_conforming_strings', current_setting('standard_conforming_strings'),
  'encoding', pg_encoding_to_char(d.encoding),
  'collate', j->>'datcollate', 'ctype', j->>'datctype', 'locale_provider', j->>'datlocprovider',
  'locale', coalesce(j->>'datlocale', j->>'daticulocale')))
  from pg_database d, to_jsonb(d) j where d.datname = current_database()))
"""
# not every role may see the setting itself
DATA_DIRECTORY = "select setting from pg_settings where name = 'data_directory'"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnHost:
    """A server asked by programs of this host. ``run_as`` is the system user of the clients, None for our own.

    ``root`` is the root directory of the sandbox that the server runs in, to be shared by them; empty without one.
    """

    host: str
    port: int
    user: str
    database: str
    run_as: str | None
    pgpass_file: Path | None
    bin_dir: Path | None
    root: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """The root directory of a container, and who runs the container's own programs there, never root.

    ``settings`` are the NAME=value of the container's environment that these programs need. Each is ``alone`` where a
    dump of anybody's making is read as commands: it starts no other.
    """

    root: Path
    uid: int
    gid: int
    settings: tuple[str, ...]
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InContainer:
    """A server in a container: asked by the container's own programs, in its root directory or through docker exec.

    Or by programs of this host, on the container's socket.
    """

    container_id: str
    name: str
    image: str
    entry: Inside | OnHost | None = None
    image_id: str = ""

    @property
    def road(self) -> Road:
        """Return the road that its entry is."""
        match self.entry:
            case Inside():
                return Road.NAMESPACE
            case OnHost():
                return Road.SOCKET
            case None:
                return Road.EXEC


Server = InContainer | OnHost


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a server said of itself. ``version`` as in server_version_num; ``size`` of the database in bytes.

    ``started`` is when it was started, as it writes it: only ever compared. ``settings`` decide how
    pg_dump writes a value, and how text is ordered: the columns of pg_database for that differ from version to version.
    """

    version: int
    database: str
    user: str
    size: int
    started: str
    system: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def major(self) -> int:
        """Return the major version, 17 of 170002."""
        return self.version // 10_000


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
    given = (f"PGAPPNAME={session}", f"PGOPTIONS={options}")
    match server:
        case InContainer(entry=OnHost() as on_socket):
            here = dataclasses.replace(on_socket, host=confinement.HERE)
            hosts = client(here, program, *arguments, session=session, options=options)
            return [*confinement.beside(Path(on_socket.host)), *hosts]
        case InContainer(entry=Inside() as inside):
            cage = confinement.alone if inside.alone else confinement.inside
            caged = cage(inside.root, inside.uid, inside.gid, [*inside.settings, "LC_ALL=C", *given])
            return [*caged, "sh", "-c", IN_CONTAINER, "sh", program, *arguments]
        case InContainer(container_id=container_id):
            asked = ["--interactive"] if stdin else []
            argv = ["docker", "exec", *asked, *(f"--env={setting}" for setting in given), container_id]
            return [*argv, "sh", "-c", IN_CONTAINER, "sh", program, *arguments]
        case OnHost():
            settings = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user}
            settings |= {"PGDATABASE": server.database, "PGCONNECT_TIMEOUT": "10"}
            if server.pgpass_file:
                settings["PGPASSFILE"] = str(server.pgpass_file)
            words = [*(f"{name}={value}" for name, value in settings.items()), *given]
            argv = [program if "/" in program else _newest(server, program), *arguments]
            if server.root:
                return [*sandbox.client(server.root, ["LC_ALL=C", *words]), *argv]
            return programs.as_user(["env", *words, *argv], server.run_as) if server.run_as else ["env", *words, *argv]


def to_database(name: str) -> str:
    """Return the option that connects a client program to another database of the server, whatever its name."""
    return "--dbname=dbname='" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"


def literal(text: str) -> str:
    """Return a text as SQL quotes it."""
    return "'" + text.replace("'", "''") + "'"


def ask(server: Server, sql: str, *, session: str = "dental-pms-backup", timeout_s: float = ANSWERS_S) -> str:
    """Return what psql prints for a query, unaligned.

    DatabaseError when the server cannot be reached, DockerError when not even Docker can, DatabaseRefusedError when
    it says no for good.
    """
    argv = client(server, "psql", "-XAtq", "-w", "-v", "ON_ERROR_STOP=1", "-c", sql, session=session)
    ended, out = programs.capture(argv, timeout_s=timeout_s)
    if ended.ok:
        return out.strip()
    said = complaint(ended)
    if pinned_settings.NOT_PINNED.search(said):
        raise DatabaseRefusedError(
            "db: the search_path that was asked for is not in force, as behind a pooler that drops options, "
            "expected a connection to the server itself",
            hint="editor /etc/dental-pms/backup.yaml   # set native.host and native.port to those of the server itself",
        )
    if LASTING.search(said):
        raise DatabaseRefusedError(f"db: the server refuses: {said}", hint="dental-pms-backup config show")
    _check_docker(server, ended)
    raise DatabaseError(f"db: the server does not answer: {said}", hint=_look(server))


def complaint(ended: programs.Ended) -> str:
    """Return the line in which a client program said why it failed, redacted; the last one may be a detail."""
    telling = [line for line in ended.said if re.search(r"(error|ERROR|FATAL):", line)]
    return _shown((telling or list(ended.said) or ["it said nothing"])[-1])


def examine(server: Server) -> Facts:
    """Ask the server what it is; DatabaseError when it does not answer."""
    try:
        return Facts(**json.loads(ask(server, pinned_settings.CHECK + ASK)))
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
    said = [line for line in ended.said if NO_DOCKER.search(line)]
    if said and isinstance(server, InContainer):
        raise DockerError(f"docker: {said[-1]}, expected an answer", hint="systemctl status docker.service")


def _shown(said: str) -> str:
    return redacted(re.sub(r"detail: Error message from server: ", "", said))


def _look(server: Server) -> str:
    match server:
        case InContainer(name=name):
            return f"docker logs --tail 20 {shell_word(name)}"
        case OnHost():
            return "systemctl status postgresql.service"
