"""A throwaway PostgreSQL: a private cluster on a private socket that ends with its block."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING

from dental_pms_backup import postgres, stop, tools
from dental_pms_backup.errors import BackupError, DatabaseError, ToolMissingError
from dental_pms_backup.postgres import INSTALLED, OnHost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

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
    """Make and run a cluster of the newest version installed, as ``server``, with one empty database."""
    with server(directory, _newest(), user=user) as made:
        postgres.ask(made, f'create database "{database}"')
        yield postgres.in_database(made, database)


@contextlib.contextmanager
def server(
    directory: Path, bin_dir: Path, *, user: str = "postgres", superuser: str = "postgres", settings: Sequence[str] = ()
) -> Iterator[OnHost]:
    """Make a cluster in a new directory, run it as a system user, and yield its server as its superuser.

    Only its socket, in that directory of mode 0700, leads to it. The server ends with the block, also when this
    process is killed; the directory stays for the caller to remove. DatabaseError.
    """
    directory.mkdir(mode=0o700)
    run_as = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        run_as = user
        shutil.chown(directory, user, user)
    data = directory / "data"
    _made(bin_dir, data, superuser, run_as)
    argv = [str(bin_dir / "postgres"), "-D", str(data), "-k", str(directory), "-p", str(PORT)]
    argv += [word for setting in (*SETTINGS, *settings) for word in ("-c", setting)]
    made = OnHost(
        host=str(directory),
        port=PORT,
        user=superuser,
        database="postgres",
        run_as=run_as,
        pgpass_file=None,
        bin_dir=bin_dir,
    )
    with tools.background(tools.as_user(argv, run_as) if run_as else argv, log=directory.with_suffix(".log")):
        _wait_for(made)
        yield made


def programs(major: int) -> Path | None:
    """Return the directory of a major version's programs, None where no server of that version is installed."""
    return next((path.parent for path in INSTALLED.glob(f"{major}/bin/initdb")), None)


def _newest() -> Path:
    found = [path.parent for path in INSTALLED.glob("*/bin/initdb") if path.parts[-3].isdigit()]
    if not found:
        raise ToolMissingError("initdb: not found, expected a PostgreSQL server", hint="apt install postgresql")
    return max(found, key=lambda path: int(path.parts[-2]))


def _made(bin_dir: Path, data: Path, superuser: str, run_as: str | None) -> None:
    argv = [
        str(bin_dir / "initdb"),
        "-D",
        str(data),
        "-U",
        superuser,
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
    ]
    argv.append("--no-sync")
    ended, _ = tools.capture(tools.as_user(argv, run_as) if run_as else argv, timeout_s=120)
    if not ended.ok:
        said = ended.said[-1] if ended.said else "it said nothing"
        raise DatabaseError(f"{ended}: {said}, expected a new cluster")


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
