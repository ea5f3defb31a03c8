"""Where the streams come from: the server that the configuration means, the directory of the attachments."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.config.values import Source
from dental_pms_backup.errors import ConfigError, RefusedError, SourceError, shell_word
from dental_pms_backup.host import places
from dental_pms_backup.live import compose, in_container, mounts, pinned_settings, postgres, roads
from dental_pms_backup.live.server import Login
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dental_pms_backup.config.settings import Compose, Config, Database, Native
    from dental_pms_backup.host.places import Identity
    from dental_pms_backup.live.compose import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSource:
    """A server that answered; ``named`` tells whether anybody has said which of its databases is meant."""

    server: postgres.Server
    facts: postgres.Facts
    named: bool = True

    @property
    def told(self) -> str:
        """Return what a person is told of it: its version, and the road to one in a container."""
        road = f", road {self.server.road}" if isinstance(self.server, postgres.InContainer) else ""
        return f"PostgreSQL {self.facts.major}{road}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentsSource:
    """A directory that can be listed. ``container`` is the one it was found by, which has it at ``mount``.

    ``identity`` tells it from what somebody puts in its place later; no link of another user led there.
    A configured path has an empty container, and no mount.
    """

    path: Path
    container: str
    mount: Path | None = None
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
    """Find the server that the configuration means and ask it what it is, on which hangs what its sessions get."""
    found = _database(config)
    if not found.facts.superuser:
        return found
    more = pinned_settings.of_superuser(found.facts.major)
    return dataclasses.replace(found, server=dataclasses.replace(found.server, more=more))


def _database(config: Config) -> DatabaseSource:
    match config.database.source:
        case Source.COMPOSE:
            container = compose.database_container(_project(config.compose), config.compose.db_service)
            login = Login(database=config.database.name, user=config.database.user, port=config.database.port)
            server, facts = roads.open_to(container, config.database.road, login=login)
            named = bool(login.database) or in_container.names(container.settings, facts.database)
            return DatabaseSource(server=server, facts=facts, named=named)
        case Source.NATIVE:
            native = _native_server(config.native, config.database)
            return DatabaseSource(server=native, facts=postgres.examine(native))


def attachments(config: Config) -> AttachmentsSource:
    """Find the directory of the attachments: the configured path, else the backend's mount.

    RefusedError when a link of another user leads there, or a running backend has another directory mounted than is
    there on the host; ConfigError when it has more below that than the directory has. What a container shows is a
    reason to refuse and never one to go on: its root can show anything.
    """
    if config.attachments.path:
        check_readable(config.attachments.path)
        identity = _pinned(config.attachments.path)
        return AttachmentsSource(path=config.attachments.path, container="", identity=identity)
    mount = config.attachments.mount
    path, container = compose.mounted_directory(_project(config.compose), config.compose.backend_service, mount)
    check_readable(path)
    seen, identity = roads.seen_at(container, mount), _pinned(path)
    if seen not in {None, identity}:
        raise _not_seen(path, container, mount)
    _check_below(container, mount, path)
    return AttachmentsSource(path=path, container=container.name, mount=mount, identity=identity)


def _check_below(container: Container, mount: Path, path: Path) -> None:
    """Raise ConfigError for what a container sees below its mount and an archive of the directory would not have.

    RefusedError for what is mounted here, and the container does not see.
    """
    named = {Path(point) for point in container.mounts if Path(point) != mount and Path(point).is_relative_to(mount)}
    for point in sorted(named | roads.mounted_in(container, mount)):
        here = _identity(path / point.relative_to(mount))
        there = roads.seen_at(container, point)
        if (point in named and _identity(Path(container.mounts[str(point)])) != here) or there not in {None, here}:
            raise ConfigError(
                (
                    f"attachments: container {container.name} has another mount at {point}, whose files an archive of "
                    f"{path} would not have, expected one directory with all that the application sees below {mount}",
                ),
                hint=f"editor /etc/dental-pms/backup.yaml   # if {shell_word(path)} alone is to be taken, set "
                "attachments.path to it; else give the application one mount",
            )
    for here_only in sorted(mounts.below(path, mounts.of())):
        point = mount / here_only.relative_to(path)
        if roads.seen_at(container, point) not in {None, _identity(here_only)}:
            raise _not_seen(here_only, container, point)


def _not_seen(path: Path, container: Container, point: Path) -> RefusedError:
    return RefusedError(
        f"attachments: {path} is another directory than container {container.name} has at {point}, "
        "expected the files that the application sees; nothing was touched",
        hint=f"docker restart {shell_word(container.name)}   # once what is in {shell_word(path)} is right",
    )


def _identity(path: Path) -> Identity | None:
    try:
        return places.identity_of(path.stat())
    except OSError:
        return None


def _pinned(path: Path) -> Identity:
    try:
        return places.pinned(path)
    except RefusedError as error:
        raise RefusedError(
            f"attachments: {error.message}",
            hint=f"readlink -f {shell_word(path)}   # if that is the right directory, set attachments.path to it; "
            "or, in a directory of root's, make the link root's with chown -h root",
        ) from None


def _native_server(settings: Native, wanted: Database) -> postgres.Server:
    by_socket = settings.host.startswith("/")
    return postgres.OnHost(
        host=settings.host,
        port=wanted.port or settings.port,
        user=wanted.user or settings.user,
        database=wanted.name or settings.database or "",
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
