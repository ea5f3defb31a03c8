"""Reading a file tree entry by entry, and a database table by table: what a restore has to bring back, all of it."""

import hashlib
import os
import re
import stat
from pathlib import Path

from tests.system.machine import Machine

Entry = dict[str, object]
ROWS = """\
select format(case relkind when 'S' then 'select %L, last_value, is_called from %I.%I' else
 'select %L, count(*), md5(coalesce(string_agg(row(t.*)::text, e''\\n'' order by row(t.*)::text), '''')) from %I.%I t'
 end, n.nspname || '.' || c.relname, n.nspname, c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm', 'S') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by 1 \\gexec
select 'large object ' || oid, length(lo_get(oid)), md5(lo_get(oid)) from pg_largeobject_metadata order by oid;
"""
SESSIONS_OWN = re.compile(r"^(\\(un)?restrict |-- Dumped (from|by) )", re.MULTILINE)


def tree(directory: Path) -> dict[bytes, Entry]:
    """Return everything that a directory holds, by relative name; sockets, which tar cannot hold, left out."""
    top = os.fsencode(directory)
    found: dict[bytes, Entry] = {}
    links: dict[int, list[bytes]] = {}
    for path in _walk(top):
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode):
            continue
        name = os.path.relpath(path, top)
        found[name] = _entry(path, status)
        if stat.S_ISREG(status.st_mode):
            links.setdefault(status.st_ino, []).append(name)
    for names in links.values():
        for name in names:
            found[name]["links"] = tuple(sorted(names))
    return found


def rows(machine: Machine, psql: str) -> list[str]:
    """Return name, row count and checksum of every table, sequence and large object that a psql command reaches."""
    return machine.run(f"{psql} -XAtq -v ON_ERROR_STOP=1", stdin=ROWS, timeout_s=120).stdout.splitlines()


def schema(machine: Machine, pg_dump: str) -> str:
    """Return what a pg_dump command prints, without what differs between two dumps of the same content."""
    lines = machine.run(pg_dump, timeout_s=120).stdout.splitlines()
    return "\n".join(line for line in lines if not SESSIONS_OWN.match(line))


def _walk(top: bytes) -> list[bytes]:
    found = [top]
    for here, directories, files in os.walk(top):
        found += [os.path.join(here, name) for name in directories + files]  # noqa: PTH118 - names that are bytes
    return found


def _entry(path: bytes, status: os.stat_result) -> Entry:
    entry: Entry = {
        "type": stat.S_IFMT(status.st_mode),
        "mode": stat.S_IMODE(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "mtime_ns": status.st_mtime_ns,
        # POSIX ACLs are extended attributes, too
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattr_names(path)},
    }
    if stat.S_ISLNK(status.st_mode):
        entry["target"] = os.readlink(path)  # noqa: PTH115 - the same
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            entry["content"] = hashlib.file_digest(file, "sha256").hexdigest()
        entry["size"] = status.st_size
        entry["sparse"] = status.st_blocks * 512 < status.st_size // 2
    return entry


def _xattr_names(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))
