"""How much longer one open session takes than another: both take turns in this very process."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from effvit.export.base import Session
from effvit.profiling.plan import Effort
from effvit.profiling.stats import Estimate, speedup
from effvit.profiling.stopping import Standing, standing
from effvit.profiling.timer import Round, time_round


@dataclass(frozen=True, slots=True)
class Ratio:
    """The time of one over that of another, paired by rounds, and why it cannot be relied on; empty if it can."""

    estimate: Estimate
    unstable: str


def latency_ratio(first: Session, second: Session, effort: Effort) -> Ratio:
    """Return how many times as long a call of `second` takes as one of `first`; both are bound to their images.

    Of use for sessions that a worker would not open, such as one that returns no numbers: the times of those are as
    good as any. The process is this one, so its layout of memory is shared, and what is left of a difference between
    processes is not in the interval.
    """
    order = random.Random()
    rounds: dict[int, list[tuple[int, Round]]] = {0: [], 1: []}
    sessions = first, second
    while True:
        number = len(rounds[0])
        for which in order.sample((0, 1), 2):
            rounds[which].append((number, _timed(sessions[which], effort)))
        one, other = (standing(rounds[which], effort) for which in (0, 1))
        if (one.done and other.done) or one.limit or other.limit:
            return _ratio(one, other)


def _timed(session: Session, effort: Effort) -> Round:
    return time_round(
        session,
        samples=math.ceil(effort.samples / effort.rounds),
        least_s=effort.least_s / effort.rounds,
        most_s=effort.most_s / effort.rounds,
        warmup_s=effort.warmup_s,
    )


def _ratio(first: Standing, second: Standing) -> Ratio:
    estimate, unstable = speedup(second.samples, first.samples), first.unstable or second.unstable
    if estimate is None:
        unstable = unstable or "no round was undisturbed for both"
        estimate = speedup(replace(second.samples, left_out=()), replace(first.samples, left_out=()))
    assert estimate is not None  # every round has both
    return Ratio(estimate, unstable)
