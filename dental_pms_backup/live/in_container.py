"""The environment of a database's container: which database, role and port it means, and what it cannot tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dental_pms_backup.errors import ConfigError, shell_word

if TYPE_CHECKING:
    from collections.abc import Sequence

# What names a database or a role, by its content or by a file's: of the official image, of Bitnami's, of Red Hat's.
NAMES = tuple(
    f"{name}{suffix}"
    for name in ("POSTGRES_USER", "POSTGRES_DB", "POSTGRESQL_DATABASE", "POSTGRESQL_USERNAME", "POSTGRESQL_USER")
    for suffix in ("", "_FILE")
)
# Which of them name a database, and a user for whom the official image makes one of that name: no other image does.
NAMING = {"POSTGRES_DB", "POSTGRESQL_DATABASE"}
NAMING_AS_ITS_USER = "POSTGRES_USER"
USUAL = "postgres"
# What the official image does: the user defaults to postgres, the database to the user, *_FILE to a file's content. But
# the entry point may read as root what its server's user may not: a file that does not tell its name is never taken for
# one that is not there. A server notes its port in its data directory, whatever gave it that one.
# "$@" is the client program and its arguments. No login shell: /etc/profile may print into the dump. Nothing but the
# shell itself, which in a drill's cage can start no other program.
SCRIPT = """\
value() {
 eval "v=\\${$1:-}; f=\\${$1_FILE:-}"
 if [ -z "$v" ] && [ -n "$f" ]; then { IFS= read -r v <"$f"; } 2>/dev/null; fi
}
named() {
 key=$1; shift
 for name; do
  value "$name"
  [ -z "$v" ] || return 0
  if [ -n "$f" ]; then echo "dental-pms-backup: unread: $key ${name}_FILE $f" >&2; exit 78; fi
 done
}
v=${DENTAL_PMS_USER:-}
[ -n "$v" ] || named database.user POSTGRES_USER POSTGRESQL_USERNAME POSTGRESQL_USER
PGUSER=${v:-postgres}
v=${DENTAL_PMS_DATABASE:-}
[ -n "$v" ] || named database.name POSTGRES_DB POSTGRESQL_DATABASE POSTGRES_USER
PGDATABASE=${v:-postgres}
value POSTGRES_PASSWORD
[ -n "$v" ] || [ "$PGUSER" != postgres ] || value POSTGRESQL_POSTGRES_PASSWORD
[ -n "$v" ] || value POSTGRESQL_PASSWORD
if [ -n "$v" ]; then export PGPASSWORD="$v"; fi
v=${DENTAL_PMS_PORT:-}
if [ -z "$v" ] && [ -f "${PGDATA:-/nowhere}/postmaster.pid" ]; then
 { read -r _ && read -r _ && read -r _ && read -r v; } 2>/dev/null <"$PGDATA/postmaster.pid"
fi
case $v in *[!0-9]*) v= ;; esac
v=${v:-${PGPORT:-${POSTGRESQL_PORT_NUMBER:-}}}
if [ -n "$v" ]; then export PGPORT="$v"; fi
export PGUSER PGDATABASE; unset PGHOST PGHOSTADDR PGSERVICE PGSERVICEFILE PGCLIENTENCODING
exec "$@"
"""
UNREAD = re.compile(r"dental-pms-backup: unread: (database\.name|database\.user) (\w+) (.*)")


def names(settings: Sequence[str], database: str) -> bool:
    """Tell whether NAME=value of a container's environment say that this database is meant, be it by its user's name.

    Where two of them name one, of which an image may take the other, none is meant; nor is the one that every server
    has, because its superuser has the usual name.
    """
    given = [(name.removesuffix("_FILE"), value) for name, _, value in (each.partition("=") for each in settings)]
    named = {value for name, value in given if name in NAMING and value}
    as_its_user = any(name == NAMING_AS_ITS_USER and value for name, value in given)
    return len(named) == 1 or (not named and as_its_user and database != USUAL)


def check_named(container: str, said: Sequence[str]) -> None:
    """Raise ConfigError where a client was not started since a name stands in a file that cannot be read."""
    unread = next((found for line in said if (found := UNREAD.fullmatch(line))), None)
    if unread:
        key, variable, file = unread.groups()
        what = "role" if key == "database.user" else "database"
        raise ConfigError(
            (
                f"{key}: {variable} of container {container} names the file {file}, in which no name can be read, "
                f"expected the name of the {what}",
            ),
            hint=f"editor /etc/dental-pms/backup.yaml   # set {shell_word(key)}",
        )
