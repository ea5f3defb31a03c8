"""The process of a command: independent of whatever started it."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading

from dental_pms_backup.host import stop

THREAD_STACK_BYTES = 256 << 10
STDERR = 2


def prepare() -> None:
    """Make the process independent of what it inherited: umask, closed descriptors, signals, encodings."""
    os.umask(0o077)
    threading.stack_size(
        THREAD_STACK_BYTES
    )  # sh starts one for each program: where memory is short, large ones do not fit
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:  # a closed 0, 1 or 2 must not become a file of ours
        pass
    os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, no exit status would ever be seen
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: stop.request(number))
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)  # None where it was closed
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold any byte
            stream.reconfigure(errors="backslashreplace")
