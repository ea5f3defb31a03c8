"""A throwaway PostgreSQL: a private cluster on a private socket that ends with its block, in a sandbox or without."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError, DatabaseError, ToolMissingError
from dental_pms_backup.host import programs, server_sandbox, stop
from dental_pms_backup.live import postgres
from dental_pms_backup.live.postgres import INSTALLED, OnHost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dental_pms_backup.host.server_sandbox import Sandbox

PORT = 5432
STARTS_WITHIN_S = 60
# durability and network are of no use to a cluster that is thrown away; its log quotes no row; and where no page may
# be written and executed, as in our units, there is no JIT
SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "autovacuum=off",
    "max_connections=10",
    "log_min_messages=fatal",
    "jit=off",
)


@contextlib.contextmanager
def cluster(directory: Path, *, database: str, user: str = "postgres") -> Iterator[OnHost]:
    """Make and run a cluster of the newest version installed, with one empty database, for rows of our own making.

    It runs as a system user, in a new directory of mode 0700 whose socket alone leads to it. The server ends with the
    block, also when this process is killed; the directory stays for the caller to remove. DatabaseError.
    """
    bin_dir = _newest()
    directory.mkdir(mode=0o700)
    run_as = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        run_as = user
        shutil.chown(directory, user, user)
    made = _on_socket(directory, bin_dir, "postgres", run_as)
    ended, _ = programs.capture(_as(run_as, _initdb(directory, bin_dir, "postgres")), timeout_s=120)
    if not ended.ok:
        said = ended.said[-1] if ended.said else "it said nothing"
        raise DatabaseError(f"{ended}: {said}, expected a new cluster")
    with programs.background(_as(run_as, _postgres(directory, bin_dir)), log=directory.with_suffix(".log")):
        _wait_for(made)
        postgres.ask(made, f'create database "{database}"')
        yield postgres.in_database(made, database)


@contextlib.contextmanager
def sandboxed(
    directory: Path, bin_dir: Path, *, superuser: str, settings: Sequence[str], longest_s: float
) -> Iterator[OnHost]:
    """Make and run a cluster in a sandbox, for rows of anybody's making: it may write to its new directory only.

    Its clients run as the sandbox's user, too, and see what the sandbox sees. All of it ends with the block, also when
    this process is killed, and after so many seconds; the directory stays for the caller to remove. BackupError.
    """
    made = shlex.join(_initdb(directory, bin_dir, superuser))
    runs = shlex.join(_postgres(directory, bin_dir, settings))
    log = directory.with_suffix(".log")
    with server_sandbox.running(["sh", "-c", f"{made} && exec {runs}"], directory, longest_s=longest_s) as sandboxed:
        _wait_for_socket(sandboxed, directory, log)
        with sandboxed.root() as root:
            server = _on_socket(directory, bin_dir, superuser, server_sandbox.USER, root)
            _wait_for(server)
            yield server


def bin_directory(major: int) -> Path | None:
    """Return the directory of a major version's programs, None where no server of that version is installed."""
    return next((path.parent for path in INSTALLED.glob(f"{major}/bin/initdb")), None)


def _newest() -> Path:
    found = [path.parent for path in INSTALLED.glob("*/bin/initdb") if path.parts[-3].isdigit()]
    if not found:
        raise ToolMissingError("initdb: not found, expected a PostgreSQL server", hint="apt install postgresql")
    return max(found, key=lambda path: int(path.parts[-2]))


def _on_socket(directory: Path, bin_dir: Path, superuser: str, run_as: str | None, root: str = "") -> OnHost:
    return OnHost(
        host=str(directory),
        port=PORT,
        user=superuser,
        database="postgres",
        run_as=run_as,
        pgpass_file=None,
        bin_dir=bin_dir,
        root=root,
    )


def _as(run_as: str | None, argv: list[str]) -> list[str]:
    return programs.as_user(argv, run_as) if run_as else argv


def _initdb(directory: Path, bin_dir: Path, superuser: str) -> list[str]:
    argv = [str(bin_dir / "initdb"), "-D", str(directory / "data"), "-U", superuser]
    return [*argv, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]


def _postgres(directory: Path, bin_dir: Path, settings: Sequence[str] = ()) -> list[str]:
    argv = [str(bin_dir / "postgres"), "-D", str(directory / "data"), "-k", str(directory), "-p", str(PORT)]
    return [*argv, *(word for setting in (*SETTINGS, *settings) for word in ("-c", setting))]


def _wait_for_socket(sandboxed: Sandbox, directory: Path, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not os.path.lexists(directory / f".s.PGSQL.{PORT}"):
        if sandboxed.has_ended or time.monotonic() > deadline:
            said = server_sandbox.last_line(log) or "it says nothing"
            raise DatabaseError(f"drill: the private cluster does not start: {said}", hint="df -h")
        stop.rest(0.02)


def _wait_for(server: OnHost) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            postgres.ask(server, "select 1", timeout_s=10)
        except BackupError:
            if time.monotonic() > deadline:
                raise
            stop.rest(0.1)
        else:
            return
