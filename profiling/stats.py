"""What raw samples support: medians, percentiles and ratios, each with its doubt. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from effvit.profiling.records import Samples, Throughput

CONFIDENCE = 0.95
# A percentile p is shown when at least one of n samples lies above it with 95 % probability: 1 - p^n >= 0.95.
_MISSED = 1 - CONFIDENCE


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval; both ends are None where the data support no interval."""

    value: float
    low: float | None = None
    high: float | None = None


def median_s(samples: Samples) -> float:
    """Return the median of all launches in seconds."""
    return float(np.median(samples.seconds))


def samples_needed(share: float) -> int:
    """Return how many samples a percentile needs: 1 for the median, 29 for p90, 59 for p95, 299 for p99."""
    return 1 if share <= 0.5 else math.ceil(math.log(_MISSED) / math.log(share))


def percentile_s(samples: Samples, share: float) -> float | None:
    """Return the smallest sample that at least `share` of all samples do not exceed, or None with too few samples.

    `share` lies above 0 and below 1; 0.5 gives the median.
    """
    if share == 0.5:
        return median_s(samples)
    count = len(samples.seconds)
    if count < samples_needed(share):
        return None
    # The product is exact only in the reals: 0.07 * 100 is 7.000000000000001, and would skip an order.
    rank = math.ceil(round(share * count, 9))
    return sorted(samples.seconds)[rank - 1]


def median_interval(samples: Samples) -> Estimate:
    """Return the median latency in seconds with the interval that its rounds support.

    Launches of one round share clock, temperature and neighbours, so a round counts as one observation: the interval
    is p50 * exp(+-t * s / sqrt(rounds)), s the standard deviation of the log round medians. No interval below 2 rounds.
    """
    medians = [median for _, median in _round_medians(samples)]
    return _spread(median_s(samples), np.log(medians))


def speedup(baseline: Samples, other: Samples) -> Estimate | None:
    """Return how many times faster `other` is, paired over the rounds that both were measured in.

    The ratio is exp(mean of the differences of log round medians), which cancels whatever slowed a whole round.
    None without a common round; no interval with one.
    """
    slow, fast = dict(_round_medians(baseline)), dict(_round_medians(other))
    differences = [math.log(slow[number] / fast[number]) for number in slow if number in fast]
    if not differences:
        return None
    return _spread(math.exp(math.fsum(differences) / len(differences)), differences)


def images_per_second(throughput: Throughput) -> Estimate | None:
    """Return the median rate of the blocks with the interval that they support, or None without a block."""
    rates = [images / seconds for images, seconds in throughput.blocks]
    if not rates:
        return None
    return _spread(float(np.median(rates)), np.log(rates))


def proportion(hits: int, trials: int) -> Estimate:
    """Return `hits` / `trials` with its Wilson interval, which stays within 0 and 1 and holds for few trials.

    Source:
        Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    interval = stats.binomtest(hits, trials).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Estimate(hits / trials, float(interval.low), float(interval.high))


def difference(value: Estimate, reference: Estimate) -> Estimate:
    """Return `value` - `reference` for two independent proportions.

    Source:
        Newcombe 1998, method 10, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I
    """
    gap = value.value - reference.value
    if value.low is None or value.high is None or reference.low is None or reference.high is None:
        return Estimate(gap)
    below = math.hypot(value.value - value.low, reference.high - reference.value)
    above = math.hypot(value.high - value.value, reference.value - reference.low)
    return Estimate(gap, gap - below, gap + above)


def _round_medians(samples: Samples) -> list[tuple[int, float]]:
    """Return (round, median in seconds), rounds ascending."""
    rounds = np.asarray(samples.rounds)
    seconds = np.asarray(samples.seconds)
    return [(int(number), float(np.median(seconds[rounds == number]))) for number in np.unique(rounds)]


def _spread(value: float, logs: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> Estimate:
    """Return `value` with the t interval of the mean of `logs`, laid around it on the log scale."""
    count = len(logs)
    if count < 2:
        return Estimate(value)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    factor = math.exp(quantile * float(np.std(logs, ddof=1)) / math.sqrt(count))
    return Estimate(value, value / factor, value * factor)
