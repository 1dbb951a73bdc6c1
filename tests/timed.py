"""Outcomes of cells whose times follow a formula: what a sweep would write, without one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from outcomes import make_outcome, make_samples

from effvit.profiling.records import Outcome

Seconds = Callable[[int, int], float]
ROUNDS = 8


def timed(attention: str, px: int, batch: int, seconds: Seconds, *, noise: float = 1e-4, seed: int = 0) -> Outcome:
    """Return a cell of `batch` images of `px` x `px`, which takes `seconds(tokens, batch)` within relative `noise`."""
    outcome = make_outcome(attention, px, batch)
    evidence = outcome.evidence
    assert evidence is not None
    drawn = random.Random(f"{attention} {px} {batch} {seed}")
    known = seconds(evidence.cost.tokens, batch)
    samples = make_samples(*((known * drawn.lognormvariate(0, noise),) for _ in range(ROUNDS)))
    return replace(outcome, evidence=replace(evidence, samples=samples))
