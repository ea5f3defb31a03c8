"""Symbolic links in the attachments that lead out of them: what is behind one is in no archive."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from dental_pms_backup.host import descriptors, programs, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

MOST_BYTES = 16 << 20  # of names of links; whoever has more of these has no files behind each
FOLLOWED = 40  # as many as the kernel follows
MOST_STEPS = 5_000_000  # of all links together, about a minute
STEPS_A_BEAT = 1000
NAMED = 100


def leading_out(directory: Path, known_as: Sequence[Path], beat: Callable[[], None] | None) -> tuple[list[str], int]:
    """Return the names of the first links in a directory that lead out of it, in order, and how many there are.

    A target below one of the paths that the directory is ``known_as``, here or in its container, is in it. Nothing is
    opened through any of them. One that is on its way when all together have gone too many steps is counted.
    """
    taken = itertools.count(1)

    def step() -> bool:
        if (steps := next(taken)) % STEPS_A_BEAT == 0 and steps <= MOST_STEPS:
            stop.check()
            if beat:
                beat()
        return steps <= MOST_STEPS

    finding = ["find", f"{directory}/.", "-type", "l", "-printf", "%P\\0"]
    with descriptors.memory("links") as out:
        programs.pipeline(finding, ["head", f"--bytes={MOST_BYTES}"], out=out, beat=beat)
        links = os.pread(out, MOST_BYTES, 0).split(b"\0")[:-1]
    here, outside = os.fsencode(directory), [os.fsencode(path).rstrip(b"/") for path in known_as]
    found = sorted(link for link in links if _leads_out(here, link, outside, step))
    return [_printable(link) for link in found[:NAMED]], len(found)


def _leads_out(here: bytes, link: bytes, known_as: Sequence[bytes], step: Callable[[], bool]) -> bool:
    """Walk a path as the kernel would in the directory itself, where nothing above it is, while it may take a step."""
    parts, walked, links = link.split(b"/"), list[bytes](), 0
    while parts and links <= FOLLOWED and step():
        part = parts.pop(0)
        if part in {b"", b"."}:
            continue
        if part == b"..":
            if not walked:
                return True
            walked.pop()
            continue
        try:
            target = os.readlink(b"/".join([here, *walked, part]))  # noqa: PTH115 - no text
        except OSError:  # no link, or not there
            walked.append(part)
            continue
        links += 1
        if target.startswith(b"/"):
            below = next(_below(target, known_as), None)
            if below is None:
                return True
            walked, target = [], below
        parts = [*target.split(b"/"), *parts]
    return bool(parts) and links <= FOLLOWED


def _below(target: bytes, known_as: Sequence[bytes]) -> Iterator[bytes]:
    yield from (target[len(path) :] for path in known_as if (target + b"/").startswith(path + b"/"))


def _printable(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
