"""What `tests/evil` is called with, and what came of its tries."""

import ctypes
import re
from pathlib import Path

EVIL = Path(__file__).parent / "evil"
REFUSED = "Function not implemented"
BY_LANDLOCK = "Operation not permitted"
ABSENT = "absent"
LANDLOCK_CREATE_RULESET, VERSION, WITH_SCOPES = 444, 1, 6
ABSTRACT = "an abstract socket"
SERVICE = "the service of the host"
SEEN = "seeing it"
OUTSIDE = "a file of the host"
ELSEWHERE = {"No such file or directory", "another process of the same number"}
# What a user without rights is refused as a call that the kernel has not, cage or no cage.
NOT_COMPILED = {"a module", "a module by file", "a module gone", "another kernel", "ports", "the kernel's ciphers"}
# Prints "NAME NUMBER" for the names of system calls that it is given; by the libseccomp of the machine that runs it.
NUMBERS = """\
import seccomp, sys
for name in sys.argv[1:]:
    if (number := seccomp.resolve_syscall(seccomp.Arch(), name)) >= 0:
        print(name, number)
"""


def calls() -> list[str]:
    """Return the names of all system calls that are tried, and of those that a try needs."""
    tried = re.findall(r"""^    \[(?:'[^']+'|"[^"]+"), '(\w+)'""", EVIL.read_text(), re.MULTILINE)
    return sorted({*tried, "exit_group", "getpid"})


def outcomes(said: str) -> dict[str, str]:
    """Return what came of each try; of one that was made several times, each different outcome."""
    found: dict[str, str] = {}
    for line in said.splitlines():
        what, _, outcome = line.partition(": ")
        if outcome not in found.setdefault(what, outcome):
            found[what] += f", {outcome}"
    return found


def reached(said: str) -> dict[str, str]:
    """Return the tries that came to something else than a refusal.

    Abstract sockets are refused by kernels that can, from Linux 6.12 on.
    """
    found = outcomes(said)
    assert found, "no try was made"
    fine = {what: {REFUSED, ABSENT} for what in found}
    fine[SEEN] = fine[OUTSIDE] = ELSEWHERE
    fine[ABSTRACT] = {BY_LANDLOCK} if _scopes() else {BY_LANDLOCK, "done"}
    return {what: outcome for what, outcome in found.items() if not set(outcome.split(", ")) <= fine[what]}


def _scopes() -> bool:
    """Tell whether this kernel's Landlock keeps abstract sockets away."""
    return bool(ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, VERSION) >= WITH_SCOPES)
