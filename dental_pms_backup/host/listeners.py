"""Who listens on a TCP port of this host: as whoever connects finds it, by the address of the host itself."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

LISTENS = "0A"
EVERYWHERE, HERE = "0.0.0.0", "127.0.0.1"  # noqa: S104 - to be compared with
TABLE = Path("/proc/net/tcp")  # proc(5): local address and state, and the uid


def uids(port: int) -> set[int]:
    """Return the users who listen on a port at 127.0.0.1; nobody where that cannot be told."""
    found = set()
    try:
        lines = TABLE.read_text().split("\n")[1:-1]
    except OSError:
        return set()
    for fields in (line.split() for line in lines):
        address, _, its_port = fields[1].partition(":")
        at = socket.inet_ntoa(struct.pack("=I", int(address, 16)))
        if fields[3] == LISTENS and int(its_port, 16) == port and at in {EVERYWHERE, HERE}:
            found.add(int(fields[7]))
    return found
