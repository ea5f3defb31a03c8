"""Everything that this program says no with.

BackupError                 1   failed
├── UsageError              2   usage
├── RefusedError            4   refused          a safety rule stands against it
├── ConfigError            78   configuration
├── TemporaryError         75   temporary        worth a retry
│   ├── LockHeldError      75   locked
│   ├── DockerError        75   docker
│   └── DatabaseError      75   database
├── DatabaseRefusedError    1   database         it answers, and says no: that will not pass by itself
├── ToolMissingError        1   tool
├── SourceError             1   source           nothing to take the stream from
├── DumpError               1   dump             a program of the database stream failed
├── ArchiveError            1   archive          a program of the attachments stream failed
├── VerificationError       1   verification     the content is not what it has to be
├── StoreError              1   store            the store cannot be used
│   └── RoomError           1   room             the store has too little space or inodes, or is not mounted
├── StalledError            1   stalled          no byte moved for too long
├── SuspectError            1   suspect          a set was published, but the admin has to look at it
├── RestoreError            1   restore
│   └── SuperuserNeededError 1  restore          what is in a dump only a superuser may do
├── DrillError              1   drill            a set did not come back as what it was
├── OffsiteError            1   offsite
├── OutputError             1   output           what was to be printed did not arrive
└── InterruptedRunError     1   interrupted      a signal asked to stop
"""

from __future__ import annotations

import shlex


def shell_word(value: object) -> str:
    """Return what stands for a value, be it a name that somebody else chose, in a command of a hint."""
    return shlex.quote(str(value))


class BackupError(Exception):
    """A failure that the operator can understand: one line, and one hint to type.

    ``cause`` is the one word behind ``failure=``, ``exit_status`` what the process exits with; ``told`` says that
    the journal has it already.
    """

    exit_status = 1
    cause = "failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.told = False


def cause_of(error: Exception) -> str:
    """Return the one word for why something failed, be it a bug."""
    return error.cause if isinstance(error, BackupError) else "bug"


class UsageError(BackupError):
    """The command line asks for something that does not exist."""

    exit_status = 2
    cause = "usage"


class RefusedError(BackupError):
    """A safety rule refuses what was asked for; nothing was changed."""

    exit_status = 4
    cause = "refused"


class ConfigError(BackupError):
    """The configuration is not fully understood; ``problems`` has one line for each thing wrong."""

    exit_status = 78
    cause = "configuration"

    def __init__(self, problems: tuple[str, ...], *, hint: str = "") -> None:
        super().__init__("; ".join(problems), hint=hint)
        self.problems = problems


class TemporaryError(BackupError):
    """Something is not there now that may be there in a minute."""

    exit_status = 75
    cause = "temporary"


class LockHeldError(TemporaryError):
    """Another run holds the store."""

    cause = "locked"


class DockerError(TemporaryError):
    """The Docker engine does not answer."""

    cause = "docker"


class DatabaseError(TemporaryError):
    """The database does not answer."""

    cause = "database"


class DatabaseRefusedError(BackupError):
    """The database answers and refuses: no such database or role, a wrong password."""

    cause = "database"


class ToolMissingError(BackupError):
    """A program that is needed is not installed."""

    cause = "tool"


class SourceError(BackupError):
    """There is nothing to take the stream from."""

    cause = "source"


class DumpError(BackupError):
    """A program of the database stream failed."""

    cause = "dump"


class ArchiveError(BackupError):
    """A program of the attachments stream failed; ``unreadable`` names entries, for files of mode 0600 only."""

    cause = "archive"

    def __init__(self, message: str, *, hint: str = "", unreadable: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.unreadable = unreadable


class VerificationError(BackupError):
    """A file is not what it claims to be."""

    cause = "verification"


class StoreError(BackupError):
    """The store cannot be read or written."""

    cause = "store"


class RoomError(StoreError):
    """The store has not the room that a run needs, or is not on the disk that it should be on."""

    cause = "room"


class StalledError(BackupError):
    """No byte moved for longer than ``stall_timeout_s``."""

    cause = "stalled"


class SuspectError(BackupError):
    """A set was published and is kept, but looks wrong; retention is frozen until it is accepted."""

    cause = "suspect"


class RestoreError(BackupError):
    """A restore failed; the message says what state the target is in."""

    cause = "restore"


class SuperuserNeededError(RestoreError):
    """What stands in a dump only a superuser may do."""


class DrillError(BackupError):
    """A set did not pass its drill: what came back is not what went in."""

    cause = "drill"


class OffsiteError(BackupError):
    """The second place could not be written, read or trusted."""

    cause = "offsite"


class OutputError(BackupError):
    """Standard output took no more."""

    cause = "output"


class InterruptedRunError(BackupError):
    """A signal asked the program to stop."""

    cause = "interrupted"
