"""The table of all keys of the configuration: what each does, its default, what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dental_pms_backup.config.values import Road, Source, Where

if TYPE_CHECKING:
    from dental_pms_backup.config.values import Value

Kind = Literal["number", "switch", "text", "path", "choice", "checks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of the configuration. ``least`` and ``most`` bound a number; a ``credential`` path may begin with %d.

    ``null_too``: null is a value, and not the default.
    """

    name: str
    kind: Kind
    default: Value
    says: str
    least: int = 0
    most: int = 1_000_000
    choices: tuple[str, ...] = ()
    variable: str = ""
    credential: bool = False
    null_too: bool = False

    @property
    def optional(self) -> bool:
        """Tell whether null is a value of this key."""
        return self.null_too or self.default is None

    @property
    def expected(self) -> str:
        """Say what a value of this key has to be, to end a sentence with."""
        match self.kind:
            case "number":
                return f"a whole number from {self.least} to {self.most}"
            case "switch":
                return "true or false"
            case "text":
                return "text"
            case "path":
                return "an absolute path"
            case "choice":
                return "one of " + ", ".join(self.choices)
            case "checks":
                return "names, each with an SQL query"


KEYS = (
    Key(
        name="compose.project_dir",
        kind="path",
        default=Path("/srv/dental-pms"),
        says="directory of the docker compose project",
    ),
    Key(
        name="compose.project",
        kind="text",
        default=None,
        says="name of the compose project; when set, containers are found by it and not by the directory",
    ),
    Key(name="compose.db_service", kind="text", default="db", says="compose service that runs PostgreSQL"),
    Key(
        name="compose.backend_service",
        kind="text",
        default="backend",
        says="compose service that holds the attachments",
    ),
    Key(
        name="backup_dir",
        kind="path",
        default=None,
        variable="BACKUP_DIR",
        says="the store; unset: /srv/dental-pms/backups if it exists, else .run/backups in the project",
    ),
    Key(
        name="keep",
        kind="number",
        default=14,
        least=1,
        variable="BACKUP_KEEP",
        says="how many artefacts of each stream stay; pinned sets stay beside them",
    ),
    Key(
        name="keep_within_days",
        kind="number",
        default=0,
        most=36_500,
        says="sets younger than so many days stay as well, however many",
    ),
    Key(name="keep_daily", kind="number", default=0, says="the newest set of each of the last so many days stays"),
    Key(name="keep_weekly", kind="number", default=0, says="the newest set of each of the last so many weeks stays"),
    Key(name="keep_monthly", kind="number", default=0, says="the newest set of each of the last so many months stays"),
    Key(name="keep_yearly", kind="number", default=0, says="the newest set of each of the last so many years stays"),
    Key(
        name="require_mount",
        kind="switch",
        default=False,
        says="refuse to run unless the store is on another filesystem than /: a disk that is not mounted is noticed",
    ),
    Key(name="reserve_mb", kind="number", default=500, says="megabytes that a run has to leave free in the store"),
    Key(
        name="compression_level",
        kind="number",
        default=6,
        least=1,
        most=9,
        says="1 is fastest, 9 smallest, as gzip counts; igzip, if installed, has 1, 2 (from 2) and 3 (from 7)",
    ),
    Key(
        name="stall_timeout_s",
        kind="number",
        default=900,
        least=5,
        most=86_400,
        says="seconds without a byte moved after which a run gives up",
    ),
    Key(
        name="lock_wait_s",
        kind="number",
        default=0,
        most=86_400,
        says="seconds to wait for another run on the same store before giving up",
    ),
    Key(
        name="retry.attempts",
        kind="number",
        default=3,
        least=1,
        most=100,
        says="how often the sources are tried before a run gives up",
    ),
    Key(name="retry.wait_s", kind="number", default=20, most=3_600, says="seconds between two tries"),
    Key(
        name="database.source",
        kind="choice",
        default=Source.COMPOSE,
        choices=tuple(Source),
        says="where PostgreSQL runs: in the compose project, or native on a host",
    ),
    Key(
        name="database.road",
        kind="choice",
        default=Road.AUTO,
        choices=tuple(Road),
        says="road to a server in a container: its own programs in its root directory (namespace), this host's on its "
        "socket (socket) or docker exec (exec), which is the slowest; auto: the first of these that works",
    ),
    Key(
        name="database.lock_wait_s",
        kind="number",
        default=60,
        least=1,
        most=600,
        says="seconds that pg_dump waits for a locked table before it fails",
    ),
    Key(
        name="database.role_passwords",
        kind="switch",
        default=False,
        says="save the roles' password hashes with the set",
    ),
    Key(
        name="native.host",
        kind="text",
        default="/run/postgresql",
        says="directory of the socket, or name of the host",
    ),
    Key(name="native.port", kind="number", default=5432, least=1, most=65_535, says="port of the server"),
    Key(name="native.user", kind="text", default="postgres", says="role that reads the database"),
    Key(
        name="native.run_as",
        kind="text",
        default="postgres",
        says="system user that the clients run as on a socket (peer authentication)",
    ),
    Key(
        name="native.database",
        kind="text",
        default=None,
        says="name of the database; needed when database.source is native",
    ),
    Key(
        name="native.pgpass_file",
        kind="path",
        credential=True,
        default=None,
        says="password file of libpq, mode 0600; %d stands for the service's credentials directory",
    ),
    Key(
        name="native.bin_dir",
        kind="path",
        default=None,
        says="directory of pg_dump and psql; unset: those of the server's major version",
    ),
    Key(
        name="attachments.path",
        kind="path",
        default=None,
        variable="ATTACHMENTS_PATH",
        says="directory of the attachments; unset: the backend's mount",
    ),
    Key(
        name="attachments.mount",
        kind="path",
        default=Path("/data"),
        says="mount point in the backend that holds the attachments",
    ),
    Key(
        name="application.table",
        kind="text",
        default="attachments",
        null_too=True,
        says="the application's table that has a row for each file, as SQL names it; null: no table names the files",
    ),
    Key(
        name="application.key_column",
        kind="text",
        default="storage_key",
        says="its column with a file's path below application.directory",
    ),
    Key(
        name="application.size_column",
        kind="text",
        default="byte_size",
        says="its column with a file's size in bytes",
    ),
    Key(
        name="application.name_column",
        kind="text",
        default="original_filename",
        says="its column with the name that extract gives a file",
    ),
    Key(
        name="application.directory",
        kind="text",
        default="attachments",
        says="directory among the attachments in which these files are; a dot: they are not in one",
    ),
    Key(
        name="application.query",
        kind="text",
        default=None,
        says="SQL that returns path and size of every file that the database knows; unset: both columns of the table",
    ),
    Key(
        name="suspect.db_shrink_percent",
        kind="number",
        default=50,
        most=100,
        says="a dump that is so many percent smaller than the last good one makes the set suspect; 100: never",
    ),
    Key(
        name="suspect.rows_shrink_percent",
        kind="number",
        default=50,
        most=100,
        says="a table of 100 rows or more that has lost so many percent of them makes the set suspect; 100: never",
    ),
    Key(
        name="suspect.attachments_shrink_percent",
        kind="number",
        default=50,
        most=100,
        says="the same for the archive of the attachments",
    ),
    Key(
        name="drill.where",
        kind="choice",
        default=Where.AUTO,
        choices=tuple(Where),
        says="where a drill restores to: a container of the live image, a private cluster, or what fits the set",
    ),
    Key(
        name="drill.directory",
        kind="path",
        default=Path("/var/tmp"),  # noqa: S108 - a directory of mode 0711 with a name of its own is made in it
        says="where the private cluster of a drill and its lists lie; it needs about the room of the database",
    ),
    Key(
        name="drill.timeout_s",
        kind="number",
        default=21_600,
        least=10,
        most=604_800,
        says="seconds after which a drill gives up",
    ),
    Key(
        name="drill.checks",
        kind="checks",
        default=(),
        says="queries on the restored database by a name each; a drill fails unless every one returns true",
    ),
    Key(
        name="drill.same_as_live",
        kind="checks",
        default=(),
        says="queries by a name each; a drill fails unless every one returns one value, the same on the restored and "
        "on the live database, if that answers",
    ),
    Key(
        name="drill.after_run", kind="switch", default=False, says="start the drill's service after each successful run"
    ),
    Key(
        name="offsite.remote",
        kind="text",
        default=None,
        says="rclone remote of type crypt, with a path if wanted: practice-crypt:backups",
    ),
    Key(
        name="offsite.rclone_config",
        kind="path",
        credential=True,
        default=Path("/etc/dental-pms/rclone.conf"),
        says="configuration file of rclone, mode 0600; %d stands for the service's credentials directory",
    ),
)
KEY_OF = {key.name: key for key in KEYS}
SECTIONS = tuple(dict.fromkeys(key.name.split(".")[0] for key in KEYS if "." in key.name))
