"""How long-running library functions report where they are."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``, for example ``("scoring", 25, 100)``."""

Warn = Callable[[str], None]
"""Called with one line that the user can act on."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def ignore(message: str) -> None:
    """Drop a warning; for callers that asked for silence."""
