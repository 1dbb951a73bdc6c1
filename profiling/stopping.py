"""When a cell has been measured enough, and which of its rounds count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from effvit.profiling import stats
from effvit.profiling.disturbance import Turn, disturbances
from effvit.profiling.plan import Effort
from effvit.profiling.records import Samples
from effvit.profiling.timer import CLOCK, Round

# How many times the rounds that are wanted may be disturbed, beyond as many as were not, before measuring ends.
PATIENCE = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the measurement of one cell has come.

    `unmet` names the first criterion that its undisturbed rounds do not meet yet; empty if there is none. `limit` says
    what forbids further rounds, and is empty while they are allowed. `unstable` is why the numbers cannot be relied on;
    empty if they can.
    """

    turns: tuple[Turn, ...]
    samples: Samples
    unmet: str
    limit: str
    unstable: str

    @property
    def done(self) -> bool:
        """Whether the cell needs no further round."""
        return not self.unmet or bool(self.limit)

    @property
    def quiet(self) -> frozenset[int]:
        """The numbers of its undisturbed rounds."""
        return frozenset(turn.round for turn in self.turns if not turn.disturbed)


def standing(rounds: Sequence[tuple[int, Round]], effort: Effort) -> Standing:
    """Return how far a cell has come whose rounds, each with its number, are `rounds`."""
    reasons = disturbances([one.conditions for _, one in rounds], effort.tolerance)
    turns = tuple(
        Turn(number, one.conditions, reason, one.warmup_s)
        for (number, one), reason in zip(rounds, reasons, strict=True)
    )
    disturbed = [turn for turn in turns if turn.disturbed]
    quiet = len(turns) - len(disturbed)
    left_out = tuple(turn.round for turn in disturbed) if quiet >= effort.rounds else ()
    samples = _samples(rounds, left_out)
    unmet = _unmet(samples, quiet, effort)
    limit = _limit(rounds, quiet, effort)
    unstable = ""
    if limit and quiet < effort.rounds:
        unstable = (
            f"{len(disturbed)} of {len(turns)} rounds were disturbed; in the last of them {disturbed[-1].disturbed}"
        )
    stopped = f"{limit}: {unmet}" if limit and unmet else _met(effort)
    return Standing(turns, replace(samples, stopped=stopped), unmet, limit, unstable)


def _samples(rounds: Sequence[tuple[int, Round]], left_out: tuple[int, ...]) -> Samples:
    return Samples(
        seconds=tuple(second for _, one in rounds for second in one.seconds),
        rounds=tuple(number for number, one in rounds for _ in one.seconds),
        warmup=sum(one.warmup for _, one in rounds),
        clock=CLOCK,
        stopped="",
        left_out=left_out,
    )


def _unmet(samples: Samples, quiet: int, effort: Effort) -> str:
    if quiet < effort.rounds:
        return f"{quiet} of the {effort.rounds} undisturbed rounds asked for"
    seconds = stats.counted(samples).seconds
    if len(seconds) < effort.samples:
        return f"{len(seconds)} of the {effort.samples} launches asked for"
    if math.fsum(seconds) < effort.least_s:
        return f"{math.fsum(seconds):.2g} of the {effort.least_s:g} s asked for"
    noise = stats.half_width(stats.median_interval(samples))
    if noise is None:
        return "" if math.isinf(effort.max_noise) else "one round supports no interval"
    if noise > effort.max_noise:
        return f"the interval is still ±{100 * noise:.2g} %, asked for ±{100 * effort.max_noise:g} %"
    return ""


def _limit(rounds: Sequence[tuple[int, Round]], quiet: int, effort: Effort) -> str:
    """Return what ends the measurement of a cell that is not measured enough, or an empty text.

    The least rounds are made in any case: without them a slow cell would have no interval at all.
    """
    if len(rounds) < effort.rounds:
        return ""
    # Time in between, when others had their turn, is not the cell's.
    if math.fsum(one.warmup_s + one.conditions.wall_s for _, one in rounds) >= effort.most_s:
        return "time limit"
    # A neighbour who stays is not waited for until the time is up: there may be a hundred cells to come.
    if len(rounds) - quiet >= quiet + PATIENCE * effort.rounds:
        return "disturbed too often"
    return ""


def _met(effort: Effort) -> str:
    least = f"{effort.samples} launches, {effort.least_s:g} s and {effort.rounds} rounds"
    return least if math.isinf(effort.max_noise) else f"{least}, interval within ±{100 * effort.max_noise:g} %"
