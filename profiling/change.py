"""How much a number changed between two sittings, with its doubt. Pure functions.

Two sittings share no rounds, so nothing is paired. What each sitting knows of its own noise is the interval of its
number on the log scale; what it cannot know is what the next sitting will be like: another layout of memory, another
temperature, other neighbours. That is the noise floor: given, or estimated where cells were measured more than once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit  # what scipy.stats calls, after a hundred times as long

from effvit.profiling.stats import CONFIDENCE, Estimate, Floats

_NORMAL = float(ndtri((1 + CONFIDENCE) / 2))


@dataclass(frozen=True, slots=True)
class Spread:
    """A positive number, the standard deviation of its logarithm, and the degrees of freedom that this rests on."""

    value: float
    deviation: float
    freedom: float


@dataclass(frozen=True, slots=True)
class Floor:
    """What two sittings differ by, beyond what each knows of its own noise, as a deviation of the log of their ratio.

    `share` is the difference that 95 % of pairs stay below; `source` says where that is from.
    """

    deviation: float
    freedom: float
    share: float
    source: str


@dataclass(frozen=True, slots=True)
class Change:
    """By which share a number grew, or for shares by how much, with its 95 % interval where the data support one.

    `chance` is the probability of a growth of as much or more where nothing changed, small for what is certainly
    larger and close to 1 for what is certainly smaller; None without an interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def spread(estimate: Estimate, freedom: float) -> Spread | None:
    """Return the spread of an estimate whose interval is a t interval of its logarithm; None without an interval."""
    if estimate.low is None or estimate.high is None or estimate.low <= 0 or freedom < 1:
        return None
    return Spread(estimate.value, math.log(estimate.high / estimate.low) / 2 / _quantile(freedom), freedom)


def ratio_change(before: Sequence[Spread], now: Sequence[Spread], floor: Floor | None = None) -> Change:
    """Return the change between the geometric means of two sets of sittings.

    The interval is that of Welch: the variances of the logarithms add up, each with its degrees of freedom, and so
    does that of the floor, which shrinks as either side has more sittings.

    Source:
        Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28; Satterthwaite 1946, https://doi.org/10.2307/3002019
    """
    parts = [(one.deviation**2 / len(side) ** 2, one.freedom) for side in (before, now) for one in side]
    if floor is not None:
        parts.append((floor.deviation**2 * (1 / len(before) + 1 / len(now)) / 2, floor.freedom))
    gap = _mean_log([one.value for one in now]) - _mean_log([one.value for one in before])
    variance = math.fsum(part for part, _ in parts)
    if variance == 0:
        grown = math.expm1(gap)
        return Change(grown, grown, grown, 0.5 if gap == 0 else float(gap < 0))
    doubt = math.fsum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / doubt if doubt else math.inf
    half = _quantile(freedom) * math.sqrt(variance)
    chance = _chance_of_more(gap / math.sqrt(variance), freedom)
    return Change(math.expm1(gap), math.expm1(gap - half), math.expm1(gap + half), chance)


def plain_change(before: Sequence[float], now: Sequence[float]) -> Change:
    """Return the change between the geometric means of positive numbers that have no interval."""
    return Change(math.expm1(_mean_log(now) - _mean_log(before)))


def share_change(gap: Estimate) -> Change:
    """Return a difference of two shares as a change."""
    if gap.low is None or gap.high is None:
        return Change(gap.value)
    # The interval is not symmetric: what counts against no change is its end on the side of 0.
    reach = gap.value - gap.low if gap.value > 0 else gap.high - gap.value
    chance = float(ndtr(-gap.value / reach * _NORMAL)) if reach else 0.5
    return Change(gap.value, gap.low, gap.high, chance)


def given_floor(share: float) -> Floor:
    """Return the floor of which one says that 95 % of two sittings differ by less than `share`."""
    return Floor(math.log1p(share) / _NORMAL, math.inf, share, "given")


def estimated_floor(sittings: Sequence[Sequence[Spread]]) -> Floor | None:
    """Return the floor that cells show which were measured in several sittings; None with fewer than two.

    `sittings[i][j]` is cell j in sitting i. A sitting may slow all of its cells alike, or each by itself, and only the
    latter is seen as often as there are cells: both are told apart as in an analysis of variance, and the degrees of
    freedom follow. What the cells' own intervals explain is taken off. Two sittings show a shift of all cells only
    once: where that is all they differ by, 7.5 % of equal sittings are called slower instead of 2.5, and under 5 with
    three (tests/profiling/test_change.py).
    """
    count, cells = len(sittings), len(sittings[0]) if sittings else 0
    if count < 2 or cells < 1:
        return None
    logs = np.log([[one.value for one in sitting] for sitting in sittings])  # (sittings, cells)
    alike, apart = _mean_squares(logs)
    # The variance of one cell in one sitting: what a sitting does to all of its cells, and to each by itself.
    variance = (alike + (cells - 1) * apart) / cells
    if variance == 0:
        return Floor(0.0, math.inf, 0.0, _seen(count, cells))
    squares = (alike / cells) ** 2 / (count - 1)
    if cells > 1:
        squares += ((cells - 1) * apart / cells) ** 2 / ((count - 1) * (cells - 1))
    freedom = variance**2 / squares
    own = float(np.mean([[one.deviation**2 for one in sitting] for sitting in sittings]))
    deviation = math.sqrt(2 * max(0.0, variance - own))
    share = math.expm1(_quantile(freedom) * deviation)
    return Floor(deviation, freedom, share, _seen(count, cells))


def _quantile(freedom: float) -> float:
    """Return within how many standard errors a t distribution holds CONFIDENCE; infinite freedom is the normal one."""
    return _NORMAL if math.isinf(freedom) else float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _chance_of_more(deviations: float, freedom: float) -> float:
    """Return the probability of so many standard errors or more."""
    return float(ndtr(-deviations) if math.isinf(freedom) else stdtr(freedom, -deviations))


def _mean_squares(logs: Floats) -> tuple[float, float]:
    """Return the mean squares of sittings, and of what remains once sittings and cells are taken out."""
    count, cells = logs.shape
    of_sittings = logs.mean(axis=1) - logs.mean()
    remaining = logs - logs.mean(axis=0) - of_sittings[:, None]
    alike = cells * float(np.sum(of_sittings**2)) / (count - 1)
    apart = float(np.sum(remaining**2)) / ((count - 1) * (cells - 1)) if cells > 1 else 0.0
    return alike, apart


def _mean_log(values: Sequence[float]) -> float:
    return math.fsum(math.log(value) for value in values) / len(values)


def _seen(sittings: int, cells: int) -> str:
    return f"estimated from {sittings} sittings of {cells} cell{'' if cells == 1 else 's'}"
