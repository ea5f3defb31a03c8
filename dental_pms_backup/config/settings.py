"""The configuration: the file's values and the environment's, turned into frozen ones; all problems at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dental_pms_backup.config import validate, yaml_file
from dental_pms_backup.config.keys import KEY_OF, KEYS
from dental_pms_backup.config.values import Road, Source, Where
from dental_pms_backup.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dental_pms_backup.config.values import Checks, Names, Value

DEFAULT_FILE = Path("/etc/dental-pms/backup.yaml")
USUAL_STORE = Path("/srv/dental-pms/backups")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """How the containers of the project are found."""

    project_dir: Path
    project: str | None
    db_service: str
    backend_service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which sets stay: the newest ``keep``, all within some days, and the newest of each of the last periods."""

    keep: int
    keep_within_days: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the store has to be like before a run: megabytes left free after it, and a mount of its own."""

    reserve_mb: int
    require_mount: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """From when on a set is suspect: percent smaller than the last good one."""

    db_shrink_percent: int
    rows_shrink_percent: int
    attachments_shrink_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, and how far apart in seconds, the sources are tried."""

    attempts: int
    wait_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """What is dumped, by which road, and how long pg_dump waits for a lock, in seconds.

    ``name``, ``user`` and ``port`` are None where the container or section native has them. ``others`` of the server
    may be left out, all or by name.
    """

    source: Source
    road: Road
    name: str | None
    user: str | None
    port: int | None
    others: Names | str
    lock_wait_s: int
    role_passwords: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """How a PostgreSQL outside of compose is reached; ``database`` is set when it is the source."""

    host: str
    port: int
    user: str
    run_as: str
    database: str | None
    pgpass_file: Path | None
    bin_dir: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachments:
    """Where the attachments lie."""

    path: Path | None
    mount: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """The application's table of attachments; neither ``table`` nor ``query``: the database knows of no files."""

    table: str | None
    key_column: str
    size_column: str
    name_column: str
    directory: str
    query: str | None

    @property
    def files(self) -> str | None:
        """SQL that returns path and size of every file."""
        if self.query or not self.table:
            return self.query
        path, size = (f'"{name.replace(chr(34), chr(34) * 2)}"' for name in (self.key_column, self.size_column))
        return f"select {path}, {size} from {self.table}"  # noqa: S608 - the admin's words, asked as a role that reads

    @property
    def columns(self) -> tuple[str, str] | None:
        """The table's columns with path and size of every file, None where it is not the table that is asked."""
        return None if self.query or not self.table else (self.key_column, self.size_column)

    @property
    def below(self) -> str:
        """What stands before a file's path in an archive: the directory and a slash, or nothing."""
        return "" if self.directory == "." else f"{self.directory.strip('/')}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """How a drill restores and what it asks; ``timeout_s`` is for all of it.

    ``checks`` and ``same_as_live`` are names with a query each.
    """

    where: Where
    directory: Path
    timeout_s: int
    checks: Checks
    same_as_live: Checks
    after_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsite:
    """The second place."""

    remote: str | None
    rclone_config: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective configuration. ``origins`` says of every key where its value came from."""

    store: Path
    retention: Retention
    room: Room
    compression_level: int
    lock_wait_s: int
    stall_timeout_s: int
    suspect: Suspect
    retry: Retry
    compose: Compose
    database: Database
    native: Native
    attachments: Attachments
    application: Application
    drill: Drill
    offsite: Offsite
    values: Mapping[str, Value] = field(repr=False)
    origins: Mapping[str, str] = field(repr=False)


def load(path: Path, environment: Mapping[str, str]) -> Config:
    """Read the configuration file and the overriding variables.

    Raises ConfigError with every problem found, each naming file, line, key and what was expected.
    """
    values: dict[str, Value] = {key.name: key.default for key in KEYS}
    origins = {key.name: "default" for key in KEYS}
    problems: list[str] = []
    for name, scalar in yaml_file.scalars(path, problems).items():
        try:
            values[name] = validate.convert(KEY_OF[name], scalar)
            origins[name] = f"{path}:{scalar.line}"
        except ValueError as error:
            problems.append(f"{path}:{scalar.line}: {name}: {error}")
    for key in KEYS:
        if key.variable and key.variable in environment:
            try:
                values[key.name] = validate.from_variable(key, environment[key.variable])
                origins[key.name] = f"environment {key.variable}"
            except ValueError as error:
                problems.append(f"environment: {key.variable}: {error}")
    if not problems:
        problems.extend(_contradictions(values, origins))
    if problems:
        raise ConfigError(tuple(problems), hint="man dental-pms-backup.yaml")
    return _config(values, origins, Path(environment.get("CREDENTIALS_DIRECTORY", "/run/credentials")))


def _contradictions(values: Mapping[str, Value], origins: Mapping[str, str]) -> Iterator[str]:
    """Yield what no key shows alone."""

    def where(name: str) -> str:
        return f"{origins[name]}: {name}"

    names = {values["database.name"], values["native.database"]}
    if values["database.source"] == Source.NATIVE and names == {None}:
        yield f"{where('database.source')}: native, expected native.database to name the database"
    remote = values["offsite.remote"]
    if isinstance(remote, str) and not re.match(r"[\w.+@ -]+:", remote, re.ASCII):
        yield f"{where('offsite.remote')}: names no remote, expected NAME: or NAME:path"
    store, attachments = values["backup_dir"], values["attachments.path"]
    if isinstance(store, Path) and isinstance(attachments, Path) and (store.is_relative_to(attachments)):
        yield f"{where('backup_dir')}: {store} lies in attachments.path, expected a directory outside of it"
    if store == Path("/"):
        yield f"{where('backup_dir')}: / is the whole system, expected a directory of its own"
    if attachments == Path("/"):
        yield f"{where('attachments.path')}: / is the whole system, expected a directory of its own"


def _config(values: Mapping[str, Any], origins: Mapping[str, str], credentials: Path) -> Config:
    def credential(path: Path | None) -> Path | None:
        return credentials.joinpath(*path.parts[1:]) if path and path.parts[0] == "%d" else path

    def section(name: str) -> dict[str, Any]:
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}

    native = section("native")
    offsite = section("offsite")
    database = section("database")
    drill = section("drill")
    return Config(
        store=_store(values["backup_dir"], values["compose.project_dir"]),
        retention=Retention(**{name: value for name, value in values.items() if name.startswith("keep")}),
        room=Room(reserve_mb=values["reserve_mb"], require_mount=values["require_mount"]),
        compression_level=values["compression_level"],
        lock_wait_s=values["lock_wait_s"],
        stall_timeout_s=values["stall_timeout_s"],
        suspect=Suspect(**section("suspect")),
        retry=Retry(**section("retry")),
        compose=Compose(**section("compose")),
        database=Database(**database | {"source": Source(database["source"]), "road": Road(database["road"])}),
        native=Native(**native | {"pgpass_file": credential(native["pgpass_file"])}),
        attachments=Attachments(**section("attachments")),
        application=Application(**section("application")),
        drill=Drill(**drill | {"where": Where(drill["where"])}),
        offsite=Offsite(**offsite | {"rclone_config": credential(offsite["rclone_config"])}),
        values=values,
        origins=origins,
    )


def _store(backup_dir: Path | None, project_dir: Path) -> Path:
    """Return where the store is: contract section 3."""
    if backup_dir is not None:
        return backup_dir
    return USUAL_STORE if USUAL_STORE.is_dir() else project_dir / ".run" / "backups"
