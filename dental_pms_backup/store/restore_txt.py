"""STORE/RESTORE.txt: how to get the data back with gzip, psql, tar and sha256sum alone."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING

from dental_pms_backup.host import durable

if TYPE_CHECKING:
    from pathlib import Path

# What a database may have set for its sessions, and pg_dump does not set itself: it would end a load, or change it.
PLAIN = '-c "set role = none; set default_transaction_read_only = off; set array_nulls = on"'
MONEY = "sed -n '4s/^-- amounts of money: //p'"
TEXT = """\
How to get the data of this store back, with gzip, psql, tar and sha256sum alone
================================================================================

A set is what one run made. SET stands below for its name, such as 2026-11-23_023000; the newest is the last of
    ls {store}/sets/*.sha256

1. Is the set whole?
    cd {store} && sha256sum -c sets/SET.sha256

2. The database, into an EMPTY database NEWDB. First the roles, which a new server lacks, then what belongs to the
   database itself (owner, rights, settings), then the content:
    createdb -T template0 NEWDB
    gzip -dc {store}/db/globals_SET.sql.gz | psql -X -v ON_ERROR_STOP=1 -d NEWDB
    gzip -dc {store}/db/settings_SET.sql.gz | psql -X -v ON_ERROR_STOP=1 -d NEWDB
    { gzip -dc {store}/db/settings_SET.sql.gz | {money}; gzip -dc {store}/db/db_SET.sql.gz; } | \\
        psql -X -v ON_ERROR_STOP=1 -d NEWDB {plain} -f -
   Each psql has to end without an error. If one does not, drop NEWDB and begin again with an empty one.
   The first line of the file of settings says with which encoding and order of text the database was made.
   A set of an older version of the program has no file of settings.
   What is set before the content overrides what the database may have set for its sessions: with that the content
   would not load, or would be another. The same holds for how amounts of money are written, of which the file of
   settings has a line where there are any.
   What is in a dump runs while it is loaded, with the rights of who loads it, and psql obeys lines that begin with a
   backslash. So load a set that step 1 says is whole, and never a file of whose origin you are not sure.
   With docker compose, NEWDB in the container of service db:
    docker compose exec -T db sh -c 'createdb -U "$POSTGRES_USER" -T template0 NEWDB'
    gzip -dc {store}/db/globals_SET.sql.gz | docker compose exec -T db \\
        sh -c 'exec psql -U "$POSTGRES_USER" -X -v ON_ERROR_STOP=1 -d NEWDB'
    gzip -dc {store}/db/settings_SET.sql.gz | docker compose exec -T db \\
        sh -c 'exec psql -U "$POSTGRES_USER" -X -v ON_ERROR_STOP=1 -d NEWDB'
    { gzip -dc {store}/db/settings_SET.sql.gz | {money}; gzip -dc {store}/db/db_SET.sql.gz; } | \\
        docker compose exec -T db \\
        sh -c 'exec psql -U "$POSTGRES_USER" -X -v ON_ERROR_STOP=1 -d NEWDB {plain} -f -'

3. The attachments, as root, into a new directory NEWDIR, in a directory where only root can write:
    mkdir -m 700 NEWDIR NEWDIR/attachments
    tar -xzpf {store}/attachments_SET.tgz --xattrs --xattrs-include='*' --acls --numeric-owner -C NEWDIR/attachments
   Plain tar -xzf also works; it leaves out extended attributes and access lists.
   A device node, or a program that runs with its owner's rights, comes out as it was. Look for such before you move
   the attachments to where others can come to them:
    find NEWDIR -perm /6000 -o -type b -o -type c

With the package installed, it is one command, which checks everything first and keeps what was there; see "THE SERVER
IS GONE" in "man dental-pms-backup":
    dental-pms-backup list
    CONFIRM=YES dental-pms-backup restore all SET --in-place
"""


def leave(store: Path) -> None:
    """Put the instructions, with this store's path in them, into the store; durable on return."""
    content = (
        TEXT.replace("{plain}", PLAIN).replace("{money}", MONEY).replace("{store}", shlex.quote(str(store))).encode()
    )
    path = store / "RESTORE.txt"
    with contextlib.suppress(OSError):  # what cannot be read is written anew
        if durable.read(path) == content:
            return
    durable.write(path, content)
