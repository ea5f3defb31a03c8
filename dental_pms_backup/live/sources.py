"""Where the streams come from: the server that the configuration means, the directory of the attachments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dental_pms_backup.config.values import Source
from dental_pms_backup.errors import RefusedError, SourceError, shell_word
from dental_pms_backup.host import places
from dental_pms_backup.live import compose, postgres, roads
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dental_pms_backup.config.settings import Compose, Config, Native
    from dental_pms_backup.host.places import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSource:
    """A server that answered."""

    server: postgres.Server
    facts: postgres.Facts

    @property
    def told(self) -> str:
        """Return what a person is told of it: its version, and the road to one in a container."""
        road = f", road {self.server.road}" if isinstance(self.server, postgres.InContainer) else ""
        return f"PostgreSQL {self.facts.major}{road}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentsSource:
    """A directory that can be listed; ``container`` is the one it was found by, empty for a configured path.

    ``identity`` tells it from what somebody puts in its place later; no link of another user led there.
    """

    path: Path
    container: str
    identity: Identity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a run takes, each reached before anything is touched; None is not wanted."""

    database: DatabaseSource | None
    attachments: AttachmentsSource | None


def reach(config: Config, wanted: Sequence[Stream]) -> Sources:
    """Find what is wanted and make sure that it answers; BackupError names what does not."""
    return Sources(
        database=database(config) if Stream.DB in wanted else None,
        attachments=attachments(config) if Stream.ATTACHMENTS in wanted else None,
    )


def database(config: Config) -> DatabaseSource:
    """Find the server that the configuration means and ask it what it is."""
    match config.database.source:
        case Source.COMPOSE:
            container = compose.database_container(_project(config.compose), config.compose.db_service)
            server, facts = roads.open_to(container, config.database.road)
            return DatabaseSource(server=server, facts=facts)
        case Source.NATIVE:
            native = _native_server(config.native)
            return DatabaseSource(server=native, facts=postgres.examine(native))


def attachments(config: Config) -> AttachmentsSource:
    """Find the directory of the attachments: the configured path, else the backend's mount.

    RefusedError when a link of another user leads there, or a running backend has another directory mounted than is
    there on the host. What a container shows is a reason to refuse and never one to go on: its root can show anything.
    """
    if config.attachments.path:
        path, seen, name = config.attachments.path, None, ""
        check_readable(path)
    else:
        mount = config.attachments.mount
        path, container = compose.mounted_directory(_project(config.compose), config.compose.backend_service, mount)
        check_readable(path)
        seen, name = roads.seen_at(container, mount), container.name
    identity = _pinned(path)
    if seen not in {None, identity}:
        raise RefusedError(
            f"attachments: {path} is another directory than container {name} has at {config.attachments.mount}, "
            "expected the files that the application sees; nothing was touched",
            hint=f"docker restart {shell_word(name)}   # once what is in {shell_word(path)} is right",
        )
    return AttachmentsSource(path=path, container=name, identity=identity)


def _pinned(path: Path) -> Identity:
    try:
        return places.pinned(path)
    except RefusedError as error:
        raise RefusedError(
            f"attachments: {error.message}",
            hint=f"readlink -f {shell_word(path)}   # if that is the right directory, set attachments.path to it; "
            "or, in a directory of root's, make the link root's with chown -h root",
        ) from None


def _native_server(settings: Native) -> postgres.Server:
    by_socket = settings.host.startswith("/")
    return postgres.OnHost(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        database=settings.database or "",
        run_as=settings.run_as if by_socket and os.geteuid() == 0 else None,
        pgpass_file=settings.pgpass_file,
        bin_dir=settings.bin_dir,
    )


def _project(settings: Compose) -> compose.Project:
    return compose.Project(directory=settings.project_dir, name=settings.project)


def check_readable(directory: Path) -> None:
    """Raise SourceError unless the directory of the attachments can be listed."""
    try:
        os.scandir(directory).close()
    except OSError as error:
        raise SourceError(
            f"attachments: {directory}: {error.strerror}, expected a directory to read",
            hint=f"ls -ld {shell_word(directory)}",
        ) from None
