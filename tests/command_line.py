"""What a command of the command line said and returned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """The exit code, and what went to stdout and stderr."""

    code: int
    out: str
    err: str


Effvit = Callable[..., Answer]
