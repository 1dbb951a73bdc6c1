"""How long work tells its caller how far it is; nothing here prints."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Takes (items done, items in all); called from the thread that asked for the work."""


def silent(done: int, total: int) -> None:
    """Tell nobody."""
