"""The table of all keys of the configuration: what each does, its default, what it takes."""

from __future__ import annotations

from pathlib import Path

from dental_pms_backup.config.key import Key
from dental_pms_backup.config.values import Road, Source, Where

KEYS = (
    Key(
        name="compose.project_dir",
        kind="path",
        default=Path("/srv/dental-pms"),
        says="the docker compose project lies in this directory",
    ),
    Key(
        name="compose.project",
        kind="text",
        default=None,
        says="containers are found by this name of the compose project, and not by its directory",
    ),
    Key(name="compose.db_service", kind="text", default="db", says="this compose service runs PostgreSQL"),
    Key(
        name="compose.backend_service",
        kind="text",
        default="backend",
        says="this compose service has the attachments mounted",
    ),
    Key(
        name="backup_dir",
        kind="path",
        default=None,
        variable="BACKUP_DIR",
        says="the store is this directory; with null it is /srv/dental-pms/backups if that exists, else "
        ".run/backups in the project",
    ),
    Key(
        name="keep",
        kind="number",
        default=14,
        least=1,
        variable="BACKUP_KEEP",
        says="so many artefacts of each stream stay; pinned sets stay beside them",
    ),
    Key(
        name="keep_within_days",
        kind="number",
        default=0,
        most=36_500,
        says="sets that are younger than so many days stay as well, however many they are",
    ),
    Key(name="keep_daily", kind="number", default=0, says="the newest set of each of the last so many days stays"),
    Key(name="keep_weekly", kind="number", default=0, says="the newest set of each of the last so many weeks stays"),
    Key(name="keep_monthly", kind="number", default=0, says="the newest set of each of the last so many months stays"),
    Key(name="keep_yearly", kind="number", default=0, says="the newest set of each of the last so many years stays"),
    Key(
        name="require_mount",
        kind="switch",
        default=False,
        says="a run fails unless the store is on another filesystem than /, so that a missing disk is noticed",
    ),
    Key(name="reserve_mb", kind="number", default=500, says="a run leaves so many megabytes free in the store"),
    Key(
        name="compression_level",
        kind="number",
        default=6,
        least=1,
        most=9,
        says="1 is the fastest and 9 the smallest; igzip, if it is installed, knows 1, 2 (from 2 on) and 3 (from 7 on)",
    ),
    Key(
        name="stall_timeout_s",
        kind="number",
        default=900,
        least=5,
        most=86_400,
        says="a run gives up after so many seconds in which no byte moved",
    ),
    Key(
        name="lock_wait_s",
        kind="number",
        default=0,
        most=86_400,
        says="a run waits so many seconds for another run on the same store before it gives up",
    ),
    Key(
        name="retry.attempts",
        kind="number",
        default=3,
        least=1,
        most=100,
        says="docker and the database are tried so often before a run gives up",
    ),
    Key(name="retry.wait_s", kind="number", default=20, most=3_600, says="so many seconds pass between two tries"),
    Key(
        name="database.source",
        kind="choice",
        default=Source.COMPOSE,
        choices=tuple(Source),
        says="PostgreSQL runs in the compose project (compose) or on a host (native)",
    ),
    Key(
        name="database.road",
        kind="choice",
        default=Road.AUTO,
        choices=tuple(Road),
        says="a server in a container is reached by its own programs in its root directory (namespace), by this "
        "host's programs on its socket (socket) or by docker exec (exec), which is the slowest; auto takes "
        "the first of these that works",
    ),
    Key(
        name="database.name",
        kind="text",
        default=None,
        says="this database is backed up; with null it is the one that the container's environment names, or "
        "native.database",
    ),
    Key(
        name="database.user",
        kind="text",
        default=None,
        says="this role reads the database; with null it is the one that the container's environment names, or "
        "native.user",
    ),
    Key(
        name="database.port",
        kind="number",
        default=None,
        least=1,
        most=65_535,
        says="the server listens on this port; with null it is the one that the server notes in its data directory, "
        "or native.port",
    ),
    Key(
        name="database.others",
        kind="names",
        default=frozenset(),
        says="these other databases of the server may be left out; each run warns of any other that has tables, "
        "and with ignore of none",
    ),
    Key(
        name="database.lock_wait_s",
        kind="number",
        default=60,
        least=1,
        most=600,
        says="the program pg_dump waits so many seconds for a locked table before it fails",
    ),
    Key(
        name="database.role_passwords",
        kind="switch",
        default=False,
        says="the hashes of the roles' passwords are saved with the set",
    ),
    Key(
        name="native.host",
        kind="text",
        default="/run/postgresql",
        says="the server is reached by this directory of its socket, or by this name of its host",
    ),
    Key(name="native.port", kind="number", default=5432, least=1, most=65_535, says="the server listens on this port"),
    Key(name="native.user", kind="text", default="postgres", says="this role reads the database"),
    Key(
        name="native.run_as",
        kind="text",
        default="postgres",
        says="the programs psql and pg_dump run as this system user on a socket (peer authentication)",
    ),
    Key(
        name="native.database",
        kind="text",
        default=None,
        says="this database is backed up; it or database.name must be set when database.source is native",
    ),
    Key(
        name="native.pgpass_file",
        kind="path",
        credential=True,
        default=None,
        says="the password is read by libpq from this file, mode 0600; %d stands for the service's credentials "
        "directory",
    ),
    Key(
        name="native.bin_dir",
        kind="path",
        default=None,
        says="the programs pg_dump and psql are taken from this directory; with null those of the server's major "
        "version are taken",
    ),
    Key(
        name="attachments.path",
        kind="path",
        default=None,
        variable="ATTACHMENTS_PATH",
        says="the attachments are in this directory; with null they are where the backend has them mounted",
    ),
    Key(
        name="attachments.mount",
        kind="path",
        default=Path("/data"),
        says="the backend has the attachments mounted at this place",
    ),
    Key(
        name="application.table",
        kind="text",
        default="attachments",
        null_too=True,
        says="this table of the application has a row for each file, named as in SQL; null says that no table "
        "names the files",
    ),
    Key(
        name="application.key_column",
        kind="text",
        default="storage_key",
        says="this column has a file's path below application.directory",
    ),
    Key(
        name="application.size_column",
        kind="text",
        default="byte_size",
        says="this column has a file's size in bytes",
    ),
    Key(
        name="application.name_column",
        kind="text",
        default="original_filename",
        says="this column has the name that extract gives a file",
    ),
    Key(
        name="application.directory",
        kind="text",
        default="attachments",
        says="the files of the table lie in this directory of the attachments; with a dot they lie in the "
        "attachments themselves",
    ),
    Key(
        name="application.query",
        kind="text",
        default=None,
        says="this SQL returns the path and the size of every file that the database knows; with null both columns"
        " are asked",
    ),
    Key(
        name="suspect.db_shrink_percent",
        kind="number",
        default=50,
        most=100,
        says="a dump that is more than so many percent smaller than the last good one makes the set suspect; with "
        "100 none does",
    ),
    Key(
        name="suspect.rows_shrink_percent",
        kind="number",
        default=50,
        most=100,
        says="a table of 100 rows or more that has lost more than so many percent of them makes the set suspect; "
        "with 100 none does",
    ),
    Key(
        name="suspect.attachments_shrink_percent",
        kind="number",
        default=50,
        most=100,
        says="an archive that is more than so many percent smaller than the last good one makes the set suspect; "
        "with 100 none does",
    ),
    Key(
        name="drill.where",
        kind="choice",
        default=Where.AUTO,
        choices=tuple(Where),
        says="a drill restores into a container of the live image, into a private cluster, or (auto) into what "
        "fits the set",
    ),
    Key(
        name="drill.directory",
        kind="path",
        default=Path("/var/tmp"),  # noqa: S108 - a directory of mode 0700 with a name of its own is made in it
        says="the private cluster of a drill and its lists lie in this directory; it needs about the room of the "
        "database",
    ),
    Key(
        name="drill.timeout_s",
        kind="number",
        default=21_600,
        least=10,
        most=604_800,
        says="a drill gives up after so many seconds",
    ),
    Key(
        name="drill.checks",
        kind="checks",
        default=(),
        says="each of these queries has a name and is asked of the restored database; a drill fails unless every "
        "one returns true",
    ),
    Key(
        name="drill.same_as_live",
        kind="checks",
        default=(),
        says="each of these queries has a name; a drill fails unless every one returns one value, the same on the "
        "restored and on the live database, if that answers",
    ),
    Key(
        name="drill.after_run",
        kind="switch",
        default=False,
        says="the drill's service is started after each run that succeeded",
    ),
    Key(
        name="offsite.remote",
        kind="text",
        default=None,
        says="sets are copied to this rclone remote of type crypt, with a path if wanted: practice-crypt:backups",
    ),
    Key(
        name="offsite.rclone_config",
        kind="path",
        credential=True,
        default=Path("/etc/dental-pms/rclone.conf"),
        says="this is the configuration file of rclone, mode 0600; %d stands for the service's credentials directory",
    ),
)
KEY_OF = {key.name: key for key in KEYS}
SECTIONS = tuple(dict.fromkeys(key.name.split(".")[0] for key in KEYS if "." in key.name))
