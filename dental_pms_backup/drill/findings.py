"""What a drill found: its proofs, each passed, failed or not checked, with figures, problems and reasons."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dental_pms_backup.errors import DrillError, ToolMissingError, VerificationError
from dental_pms_backup.store.drill_record import Result

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Findings:
    """The proofs of a drill as they come in; ``reasons`` say why one was not checked, or how."""

    where: str = ""
    results: dict[str, Result] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def proof(self, name: str) -> Iterator[None]:
        """Keep what speaks against the set, so that the other proofs are tried as well; any other failure goes on."""
        self.results[name] = Result.FAILED
        try:
            yield
        except (DrillError, VerificationError) as error:
            self.problems.append(error.message)
        else:
            self.results[name] = Result.PASSED

    @contextlib.contextmanager
    def of_a_server_like_live(self, load: str) -> Iterator[None]:
        """Blame no set for what a throwaway server made of it that lacks something of live, as the load noted."""
        try:
            yield
        except DrillError as error:
            if not (why := self.reasons.get(load)):
                raise
            raise ToolMissingError(
                f"drill: the copy was made {why}, and there is no telling whose fault it is: {error.message}",
                hint="dental-pms-backup config show   # drill.where: container has the live server's own image",
            ) from None

    def leave(self, name: str, reason: str) -> None:
        """Note that a proof cannot be tried, which speaks neither for nor against the set."""
        self.results[name] = Result.NOT_CHECKED
        self.reasons[name] = reason

    @contextlib.contextmanager
    def timed(self, figure: str) -> Iterator[None]:
        """Measure the seconds of the block."""
        began = time.monotonic()
        yield
        self.figures[figure] = round(time.monotonic() - began, 1)
