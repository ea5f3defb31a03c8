"""Where the audit trail of a test ends."""


def send(_text: str, **_fields: str) -> None:
    """Write nothing."""
