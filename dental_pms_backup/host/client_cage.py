"""The cage of programs that nobody vouches for: those of an image, or ours that read what anybody may have made.

It is the same in the service and by hand, with systemd or without, and asks for no right beyond entering the root
directory of a container. ``filters/confine`` starts a program in it.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import IO, TYPE_CHECKING

from dental_pms_backup.errors import ToolMissingError
from dental_pms_backup.host import filters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Of no range that users are made from (systemd.io/UIDS-GIDS): "nobody" has processes of its own on some hosts.
STRANGER = "1900000005"
REFUSED = "confine: filter: "
HERE = "/proc/self/fd/9"  # not the working directory: one of a container has no path, and pg_dumpall wants that
# All that a client program, its shell and its interpreter ask of the kernel. Of what is not here the program is told
# that this kernel has none (ENOSYS), as a C library expects it of a call that is newer than the kernel. Not here, among
# others: any signal, any way out of the group of processes that we end, any look into another process, any network, any
# file that is linked, renamed or removed, memory and queues that are shared by number, keys, namespaces, mounts, limits
# of others.
ALLOWED = (
    # open files, by descriptor and by name
    "access chdir close close_range dup dup2 dup3 faccessat faccessat2 fadvise64 fchdir fdatasync flock fstat fstatfs "
    "fsync getcwd getdents getdents64 lseek lstat newfstatat open openat openat2 pipe pipe2 pread64 preadv pwrite64 "
    "pwritev read readahead readlink readlinkat readv sendfile splice stat statfs statx umask write writev",
    # memory
    "brk madvise membarrier mincore mmap mprotect mremap munmap",
    # this process, and what it becomes
    "arch_prctl capget execve execveat exit exit_group getcpu getegid geteuid getgid getgroups "
    "getpgrp getpid getppid getrandom getresgid getresuid getrlimit getrusage gettid getuid rseq sched_yield "
    "set_robust_list set_tid_address sysinfo uname wait4 waitid",
    # without a capability these change nothing, and busybox goes no further without them
    "setgid setregid setresgid setresuid setreuid setuid",
    # its own signals, and time
    "alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause restart_syscall "
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait setitimer sigaltstack time "
    "times",
    # waiting
    "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 futex poll ppoll pselect6 select",
    # a connection, once there is a socket; neither listening nor passing descriptors on
    "connect getpeername getsockname getsockopt recvfrom sendto shutdown",
)
# A shell and pg_dumpall have processes of their own; a psql that reads somebody's dump needs none, and leaves none.
PROCESSES = ("fork", "vfork")
# Allowed with these values of an argument only: the call, which argument, the values, which are those of every machine.
AF_UNIX = 1
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW = range(8)
F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ = 1030, 1031, 1032
TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX = 0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451
PR_SET_NAME, PR_GET_NAME = 15, 16
ITSELF = 0
# CLONE_PIDFD, _PTRACE, _PARENT (ours) and all CLONE_NEW*
NO_CLONE = 0x1000 | 0x2000 | 0x8000 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
ONLY = (
    ("socket", 0, (AF_UNIX,)),
    ("getpgid", 0, (ITSELF,)),
    ("sched_getaffinity", 0, (ITSELF,)),
    # none that names who is sent a signal (F_SETOWN, F_SETSIG)
    ("fcntl", 1, (F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW)),
    ("fcntl", 1, (F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ)),
    # none that types at a terminal or takes one (TIOCSTI, TIOCLINUX, TIOCSCTTY)
    ("ioctl", 1, (TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX)),
    # none that lets it outlive us (PR_SET_PDEATHSIG)
    ("prctl", 0, (PR_SET_NAME, PR_GET_NAME)),
)


def inside(root: Path, uid: int, gid: int, settings: Sequence[str]) -> list[str]:
    """Return the argv before that of a program in another root directory, as a user of numbers, never root.

    ``settings`` are its whole environment, NAME=value. ToolMissingError where no cage can be made.
    """
    return filters.argv("confine", _filter(), "root", str(root), str(uid), str(gid), *settings, "--")


def alone(root: Path, uid: int, gid: int, settings: Sequence[str]) -> list[str]:
    """Return the argv before that of a program as ``inside`` does, which can start no process and no thread."""
    return filters.argv("confine", _filter(alone=True), "root", str(root), str(uid), str(gid), *settings, "--")


def beside(directory: Path) -> list[str]:
    """Return the argv before that of a program of this host that reaches a directory as ``HERE``.

    Its user owns nothing, its environment is empty. ToolMissingError where no cage can be made.
    """
    return filters.argv("confine", _filter(), "directory", str(directory), STRANGER, STRANGER, "--")


def write_filter(file: IO[bytes], *, alone: bool = False) -> None:
    """Write the filter of this machine as the kernel takes it into an open file, on a disk or in memory.

    ``alone`` allows no other process. A call of another architecture, as of a 32-bit program, ends the program.
    ToolMissingError.
    """
    try:
        import seccomp  # noqa: PLC0415 - only where a cage is wanted
    except ImportError:
        raise ToolMissingError(
            f"{REFUSED}libseccomp for Python is not installed", hint="apt install python3-seccomp"
        ) from None
    rules = seccomp.SyscallFilter(defaction=seccomp.ERRNO(errno.ENOSYS))
    for name in " ".join(ALLOWED if alone else (*ALLOWED, *PROCESSES)).split():
        rules.add_rule(seccomp.ALLOW, name)
    # of a process, none but itself, and to read
    rules.add_rule(seccomp.ALLOW, "prlimit64", seccomp.Arg(0, seccomp.EQ, 0), seccomp.Arg(2, seccomp.EQ, 0))
    if not alone:
        rules.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, NO_CLONE, 0))
    for name, which, values in ONLY:
        for value in values:
            # the kernel looks at 32 bits of these
            rules.add_rule(seccomp.ALLOW, name, seccomp.Arg(which, seccomp.MASKED_EQ, 0xFFFF_FFFF, value))
    rules.export_bpf(file)


@functools.cache
def _filter(*, alone: bool = False) -> str:
    """Return the path of this process's filter, a file in memory that is there as long as the process."""
    with open(os.memfd_create("filter", os.MFD_CLOEXEC), "wb", closefd=False) as file:
        try:
            write_filter(file, alone=alone)
        except (RuntimeError, ValueError, OSError) as error:  # what libseccomp's binding raises
            raise ToolMissingError(
                f"{REFUSED}libseccomp cannot make it: {error}", hint="apt install python3-seccomp"
            ) from None
        return f"/proc/{os.getpid()}/fd/{file.fileno()}"
