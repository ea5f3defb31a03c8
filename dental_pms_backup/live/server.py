"""What a server of PostgreSQL is to us: where its client programs run, and what it said of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dental_pms_backup.config.values import Road

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OnHost:
    """A server asked by programs of this host. ``run_as`` is the system user of the clients, None for our own.

    ``root`` is the root directory of the sandbox that the server runs in, to be shared by them; empty without one.
    With ``proves_itself`` a client that can (libpq since 16) lets in no server that does not know the role's password.
    ``more`` are options that each session of ours has there besides.
    """

    host: str
    port: int
    user: str
    database: str
    run_as: str | None
    pgpass_file: Path | None
    bin_dir: Path | None
    root: str = ""
    proves_itself: bool = False
    more: str = ""


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
class Login:
    """How to log in to a server in a container, as configured; of what is None its own environment tells."""

    database: str | None = None
    user: str | None = None
    port: int | None = None

    @property
    def settings(self) -> list[str]:
        """Return NAME=value of what ``in_container`` goes by rather than by the container's environment."""
        given = {"DATABASE": self.database, "USER": self.user, "PORT": self.port}
        return [f"DENTAL_PMS_{name}={value}" for name, value in given.items() if value is not None]


AS_ITS_ENVIRONMENT = Login()


@dataclass(frozen=True, slots=True, kw_only=True)
class InContainer:
    """A server in a container: asked by the container's own programs, in its root directory or through docker exec.

    Or by programs of this host, on the container's socket. ``more`` are options that each session of ours has besides.
    """

    container_id: str
    name: str
    image: str
    entry: Inside | OnHost | None = None
    image_id: str = ""
    login: Login = AS_ITS_ENVIRONMENT
    more: str = ""

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

    ``started`` is when it was started, as it writes it: only ever compared. ``oid`` is the database's own number on the
    server, which one that is made anew under its name has not. ``settings`` decide how
    pg_dump writes a value, and how text is ordered: the columns of pg_database for that differ from version to version.
    ``superuser`` tells whether we are one there. ``hides_damage`` are settings by which somebody reads a damaged page
    of the database without an error, each with his role, which is empty for whoever comes.
    One of them is the superuser that made the cluster, whose the system's objects are: pg_dump writes what differs.
    """

    version: int
    database: str
    user: str
    size: int
    started: str
    system: str
    oid: int = 0
    port: int = 5432
    superuser: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    hides_damage: Sequence[Sequence[str]] = field(default_factory=list)

    @property
    def major(self) -> int:
        """Return the major version, 17 of 170002."""
        return self.version // 10_000
