"""What a key of the configuration is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dental_pms_backup.config.values import Value

Kind = Literal["number", "switch", "text", "path", "choice", "checks", "names"]

EXPECTED = {
    "switch": "true or false",
    "text": "text",
    "path": "an absolute path",
    "checks": "names, each with an SQL query",
    "names": "ignore or a list of names",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of the configuration. ``least`` and ``most`` bound a number; a ``credential`` path may begin with %d.

    ``null_too``: null is a value, and not the default.
    """

    name: str
    kind: Kind
    default: Value
    says: str
    least: int = 0
    most: int = 1_000_000
    choices: tuple[str, ...] = ()
    variable: str = ""
    credential: bool = False
    null_too: bool = False

    @property
    def optional(self) -> bool:
        """Tell whether null is a value of this key."""
        return self.null_too or self.default is None

    @property
    def expected(self) -> str:
        """Say what a value of this key has to be, to end a sentence with."""
        match self.kind:
            case "number":
                return f"a whole number from {self.least} to {self.most}"
            case "choice":
                return "one of " + ", ".join(self.choices)
            case kind:
                return EXPECTED[kind]
