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
LARGEST_ANSWER_BYTES = 4 << 20
OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
# Counts the rows of each COPY of a dump on stdin, in memory that stays flat however long a row is, and prints
# "name TAB rows" lines, a NUL, and the dump's last bytes. A row is a line; only "\\." alone on one ends them.
COUNT_ROWS = r"""
my $name = qr/"(?:[^"\n]|"")*"|[^"\s.(]+/;
my ($text, $tail, $table, $at_line_start, %rows) = ("", "");
while (sysread(STDIN, my $chunk, 1 << 20)) {
    $text .= $chunk;
    $tail = substr($tail . $chunk, -512);
    while (1) {
        if (!defined $table) {
            if ($text =~ /^COPY ($name(?:\.$name)*)(?: \(.*\))? FROM stdin;\n/mg) {
                ($table, $at_line_start, $text) = ($1, 1, substr($text, pos $text));
                $rows{$table} += 0;
            } else {
                $text = substr($text, rindex($text, "\n") + 1);
                last;
            }
        } elsif ($at_line_start && substr($text, 0, 3) eq "\\.\n") {
            ($table, $text) = (undef, substr($text, 3));
        } elsif ((my $end = index($text, "\n\\.\n")) >= 0) {
            $rows{$table} += substr($text, 0, $end + 1) =~ tr/\n//;
            ($table, $text) = (undef, substr($text, $end + 4));
        } else {
            last if length($text) <= 3;
            my $counted = substr($text, 0, -3);
            $rows{$table} += $counted =~ tr/\n//;
            ($at_line_start, $text) = (substr($counted, -1) eq "\n", substr($text, -3));
            last;
        }
    }
}
print map("$_\t$rows{$_}\n", sort keys %rows), "\0", $tail;
"""
# pg_dump and pg_dumpall end so; since August 2025 a line \unrestrict follows in dumps
TRAILERS = {
    Kind.DB: re.compile(rb"\n--\n-- PostgreSQL database dump complete\n--\n\n(\\unrestrict \w+\n\n)?\Z"),
    Kind.GLOBALS: re.compile(rb"\n--\n-- PostgreSQL database cluster dump complete\n--\n\n(\\unrestrict \w+\n\n)?\Z"),
}


def content(path: Path, kind: Kind, source: int, *, index: Path | None = None, beat: Beat = None) -> dict[str, int]:
    """Prove that the open file ``source`` holds what its kind has to, and return a dump's rows by table.

    gzip is read to its end, a dump has its completion trailer, an archive is readable to its last entry and,
    where ``index`` is given, holds exactly those names. ``path`` is only named in VerificationError.
    """
    os.lseek(source, 0, os.SEEK_SET)
    if kind is Kind.ATTACHMENTS:
        _check_archive(path, source, index, beat)
        return {}
    return _check_dump(path, kind, source, beat)


def plain_dump(path: Path, source: int) -> None:
    """Prove that an open, uncompressed file ends as a whole dump does; VerificationError otherwise."""
    size = os.fstat(source).st_size
    tail = os.pread(source, TAIL_BYTES, max(0, size - TAIL_BYTES))
    _check_trailer(path, Kind.DB, tail)


def sha256(path: Path, source: int, *, beat: Beat = None) -> str:
    """Return the SHA-256 of an open file as 64 hexadecimal digits. ``path`` is only named in VerificationError."""
    os.lseek(source, 0, os.SEEK_SET)
    # the second is an answer that we know: a sha256sum that always says the same, or reads nothing, shows by it
    out = _run(path, [["sha256sum", "--binary", "-", "/dev/null"]], source, beat).decode("ascii", "replace")
    match = re.fullmatch(rf"([0-9a-f]{{64}}) \*-\n{OF_NOTHING} \*/dev/null\n", out)
    if not match or (match[1] == OF_NOTHING and os.fstat(source).st_size > 0):
        raise VerificationError(f"{path}: sha256sum printed no checksum, expected 64 hexadecimal digits that are right")
    return match[1]


def _check_dump(path: Path, kind: Kind, source: int, beat: Beat) -> dict[str, int]:
    out = _run(path, [["gzip", "--decompress", "--stdout"], ["perl", "-e", COUNT_ROWS]], source, beat)
    counts, _, tail = out.partition(b"\0")
    _check_trailer(path, kind, tail)
    lines = [line.rpartition("\t") for line in counts.decode("utf-8", "backslashreplace").split("\n")[:-1]]
    return {table: int(rows) for table, _, rows in lines}


def _check_trailer(path: Path, kind: Kind, tail: bytes) -> None:
    if not TRAILERS[kind].search(tail):
        raise VerificationError(
            f"{path}: the dump does not end with its completion mark, expected a whole dump",
            hint="dental-pms-backup list   # choose another set",
        )


def _check_archive(path: Path, source: int, index: Path | None, beat: Beat) -> None:
    listed = ["tar", "--list", "--file=-", "--quoting-style=escape"]
    unpacked = ["gzip", "--decompress", "--stdout"]
    if index is not None:
        _run(path, [unpacked, listed, ["cmp", "--quiet", "-", str(index)]], source, beat)
    elif not re.match(rb"[1-9]", _run(path, [unpacked, listed, ["wc", "--lines"]], source, beat)):
        raise VerificationError(f"{path}: the archive holds no entry, expected at least the directory itself")


def _run(path: Path, argvs: Sequence[Sequence[str]], source: int, beat: Beat) -> bytes:
    """Run a checking pipeline on a file and return its small output; VerificationError unless all exited 0."""
    with tools.memory("checked") as out:
        ended = tools.pipeline(*argvs, source=source, out=out, beat=beat)
        failed = next((program for program in ended if not program.ok and not program.broken_pipe), None)
        failed = failed or next((program for program in ended if not program.ok), None)
        if failed:
            raise VerificationError(
                f"{path}: the content is not sound ({failed}), expected it to be readable to its end",
                hint="dental-pms-backup verify   # which sets are good",
            )
        return os.pread(out, LARGEST_ANSWER_BYTES, 0)
