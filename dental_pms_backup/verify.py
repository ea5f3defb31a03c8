"""Is this file what it claims to be? Every check reads what is on disk, from the first byte to the last."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from dental_pms_backup import tools
from dental_pms_backup.artefacts import Kind
from dental_pms_backup.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Beat = Callable[[], None] | None

TAIL_BYTES = 512
# pg_dump and pg_dumpall end so; since August 2025 a line \unrestrict follows in dumps
TRAILERS = {
    Kind.DB: re.compile(rb"\n--\n-- PostgreSQL database dump complete\n--\n\n(\\unrestrict \w+\n\n)?\Z"),
    Kind.GLOBALS: re.compile(rb"\n--\n-- PostgreSQL database cluster dump complete\n--\n\n(\\unrestrict \w+\n\n)?\Z"),
}


def content(path: Path, kind: Kind, source: int, *, index: Path | None = None, beat: Beat = None) -> int:
    """Prove that the open file ``source`` holds what its kind has to, and return how many entries or 0.

    gzip is read to its end, a dump has its completion trailer, an archive is readable to its last entry and,
    where ``index`` is given, holds exactly those names. ``path`` is only named in VerificationError.
    """
    os.lseek(source, 0, os.SEEK_SET)
    match kind:
        case Kind.DB | Kind.GLOBALS:
            _check_dump(path, kind, source, beat)
            return 0
        case Kind.ATTACHMENTS:
            return _check_archive(path, source, index, beat)


def plain_dump(path: Path, source: int) -> None:
    """Prove that an open, uncompressed file ends as a whole dump does; VerificationError otherwise."""
    size = os.fstat(source).st_size
    tail = os.pread(source, TAIL_BYTES, max(0, size - TAIL_BYTES))
    _check_trailer(path, Kind.DB, tail)


def sha256(path: Path, source: int, *, beat: Beat = None) -> str:
    """Return the SHA-256 of an open file as 64 hexadecimal digits. ``path`` is only named in VerificationError."""
    os.lseek(source, 0, os.SEEK_SET)
    out = _run(path, [["sha256sum", "--binary", "-"]], source, beat).decode("ascii", "replace")
    if not re.match(r"[0-9a-f]{64} ", out):
        raise VerificationError(f"{path}: sha256sum printed no checksum, expected 64 hexadecimal digits")
    return out[:64]


def _check_dump(path: Path, kind: Kind, source: int, beat: Beat) -> None:
    tail = _run(path, [["gzip", "--decompress", "--stdout"], ["tail", f"--bytes={TAIL_BYTES}"]], source, beat)
    _check_trailer(path, kind, tail)


def _check_trailer(path: Path, kind: Kind, tail: bytes) -> None:
    if not TRAILERS[kind].search(tail):
        raise VerificationError(
            f"{path}: the dump does not end with its completion mark, expected a whole dump",
            hint="dental-pms-backup list   # choose another set",
        )


def _check_archive(path: Path, source: int, index: Path | None, beat: Beat) -> int:
    listed = ["tar", "--list", "--file=-", "--quoting-style=escape"]
    unpacked = ["gzip", "--decompress", "--stdout"]
    if index is not None:
        _run(path, [unpacked, listed, ["cmp", "--quiet", "-", str(index)]], source, beat)
        return 0
    out = _run(path, [unpacked, listed, ["wc", "--lines"]], source, beat)
    entry_count = int(out)
    if entry_count == 0:
        raise VerificationError(f"{path}: the archive holds no entry, expected at least the directory itself")
    return entry_count


def _run(path: Path, argvs: Sequence[Sequence[str]], source: int, beat: Beat) -> bytes:
    """Run a checking pipeline on a file and return its small output; VerificationError unless all exited 0."""
    out = os.memfd_create("checked", os.MFD_CLOEXEC)
    try:
        ended = tools.pipeline(*argvs, source=source, out=out, beat=beat)
        failed = next((program for program in ended if not program.ok and not program.broken_pipe), None)
        failed = failed or next((program for program in ended if not program.ok), None)
        if failed:
            raise VerificationError(
                f"{path}: the content is not sound ({failed}), expected it to be readable to its end",
                hint="dental-pms-backup verify   # which sets are good",
            )
        return os.pread(out, 4096, 0)
    finally:
        os.close(out)
