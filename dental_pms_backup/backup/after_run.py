"""What may follow a run, after its own verdict: the drill's service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.errors import BackupError
from dental_pms_backup.host import journal, programs
from dental_pms_backup.host.journal import Event

if TYPE_CHECKING:
    from dental_pms_backup.config.settings import Config

UNIT = "dental-pms-backup-drill.service"
STARTS_WITHIN_S = 20


def follow(config: Config) -> None:
    """Start the drill's service when the configuration wants one after each run; that it cannot be is a warning."""
    if not config.drill.after_run:
        return
    try:
        ended, _ = programs.capture(["systemctl", "start", "--no-block", UNIT], timeout_s=STARTS_WITHIN_S)
        problem = "" if ended.ok else str(ended)
    except BackupError as error:  # the run's verdict stands
        problem = error.message
    if problem:
        text = f"the drill after the run was not started: {problem}"
        fields: dict[str, journal.Field] = {"hint": f"systemctl start {UNIT}"}
        journal.write(Event.DRILL_NOT_STARTED, text, priority=journal.WARNING, fields=fields)
