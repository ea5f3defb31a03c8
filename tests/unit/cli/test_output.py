"""An error that no flow has told: refused is only what has changed nothing."""

from __future__ import annotations

import sys

import pytest

from dental_pms_backup.cli import output
from dental_pms_backup.errors import BackupError, ConfigError, DatabaseError, LockHeldError, RefusedError, RestoreError
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event


@pytest.mark.parametrize(
    ("error", "told_before", "event"),
    [
        (RefusedError("no"), False, Event.REFUSED),
        (ConfigError(("no",)), False, Event.REFUSED),
        (LockHeldError("no"), False, Event.REFUSED),
        (DatabaseError("no"), False, Event.REFUSED),
        (RestoreError("no"), False, Event.COMMAND_FAILED),
        (RefusedError("no"), True, Event.COMMAND_FAILED),
        (LockHeldError("no"), True, Event.COMMAND_FAILED),
    ],
    ids=lambda value: getattr(value, "name", str(type(value).__name__)),
)
def test_refused_is_what_a_rule_stopped_before_anything_was_told(
    error: BackupError, told_before: bool, event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Event] = []
    monkeypatch.setattr(journal, "_told", told_before)
    monkeypatch.setattr(journal, "write", lambda event, *_words, **_more: seen.append(event))
    output.explain(error)
    assert seen == [event]


@pytest.mark.parametrize(
    ("terminal", "quiet", "said"), [(True, False, "A sentence.\n"), (True, True, ""), (False, False, "")]
)
def test_sentences_are_for_a_person_at_a_terminal(
    terminal: bool, quiet: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    output.to_person("A sentence.", quiet=quiet)
    assert capsys.readouterr() == ("", said)
