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


def refused(answer: Answer, code: int, *words: str) -> None:
    """Check that the answer is one sentence and a hint, with these words in it, and nothing on stdout."""
    assert answer.code == code, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    sentence, _, hint = answer.err.partition("error: ")[2].partition("\n\nhint: ")
    assert sentence
    assert hint.strip()
    for word in words:
        assert word in answer.err
