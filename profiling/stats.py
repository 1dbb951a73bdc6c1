"""What raw samples support: medians, percentiles and ratios, each with its doubt. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from effvit.accuracy import Accuracy, lost_and_gained
from effvit.export.base import Parity
from effvit.export.decisions import paired_interval
from effvit.profiling.records import Samples, Throughput

CONFIDENCE = 0.95
# A percentile p is shown when at least one of n samples lies above it with 95 % probability: 1 - p^n >= 0.95.
_MISSED = 1 - CONFIDENCE
# The standard deviation over so many draws is known to 1 / sqrt(2 * 2000), 1.6 %.
DRAWS = 2000
# Thinned out to so many, the steps between levels are far below the width of the interval that they make up.
MOST_LEVELS = 128
NORMAL_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval; both ends are None where the data support no interval."""

    value: float
    low: float | None = None
    high: float | None = None


def median_s(samples: Samples) -> float:
    """Return the median of all launches in seconds, without those of disturbed rounds."""
    return float(np.median(counted(samples).seconds))


def counted(samples: Samples) -> Samples:
    """Return `samples` without the rounds that its statistics leave out."""
    if not samples.left_out:
        return samples
    kept = [pair for pair in zip(samples.seconds, samples.rounds, strict=True) if pair[1] not in samples.left_out]
    seconds, rounds = zip(*kept, strict=True)
    return replace(samples, seconds=seconds, rounds=rounds, left_out=())


def samples_needed(share: float) -> int:
    """Return how many samples a percentile needs: 1 for the median, 29 for p90, 59 for p95, 299 for p99."""
    return 1 if share <= 0.5 else math.ceil(math.log(_MISSED) / math.log(share))


def percentile_s(samples: Samples, share: float) -> float | None:
    """Return the smallest sample that at least `share` of all samples do not exceed, or None with too few samples.

    `share` lies above 0 and below 1; 0.5 gives the median. A slow launch counts however slow it was: what is left out
    are whole rounds in which other processes were seen at work, whatever their launches took.
    """
    if share == 0.5:
        return median_s(samples)
    seconds = counted(samples).seconds
    count = len(seconds)
    if count < samples_needed(share):
        return None
    # The product is exact only in the reals: 0.07 * 100 is 7.000000000000001, and would skip an order.
    rank = math.ceil(round(share * count, 9))
    return sorted(seconds)[rank - 1]


def median_interval(samples: Samples) -> Estimate:
    """Return the median latency in seconds with the interval that its rounds support; none below 2 rounds.

    Launches of one round share clock, temperature and neighbours, so rounds are what is drawn, whole and with
    replacement. The interval is p50 * exp(+-t * s * sqrt(R / (R - 1))): s is the standard deviation of the logarithm of
    the median over such draws, t the quantile for R - 1 degrees of freedom, and the root undoes that a draw of R rounds
    varies too little.

    The usual bounds, the 2.5 and 97.5 % quantiles of the draws, cover far too seldom with few rounds: the median of
    1,000 synthetic measurements of 5 rounds lay in 82-90 % of them, and in 93-97 % of these, with heavy tails, slow
    rounds and drift (tests/profiling/test_coverage.py); in more where drift exceeds what else rounds differ by. Rounds
    that resemble the ones just before them are beyond either: 78-84 % where neighbours correlate by 0.5. What is
    measured in one sitting does not know what the next one will be like.

    Source:
        Field and Welsh 2007, bootstrapping clustered data, https://doi.org/10.1111/j.1467-9868.2007.00593.x;
        Hesterberg 2015, on its narrowness with few observations, https://doi.org/10.1080/00031305.2015.1089789
    """
    kept = counted(samples)
    return _clustered(np.asarray(kept.seconds), np.asarray(kept.rounds))


def speedup(baseline: Samples, other: Samples) -> Estimate | None:
    """Return how many times faster `other` is, paired over the rounds that both were measured in.

    The ratio is exp(mean of the differences of log round medians), which cancels whatever slowed a whole round, with
    the t interval of that mean: its means of 5 rounds are normal enough to be covered in 93-97 % of 1,000 synthetic
    comparisons, and equal contenders are told apart in at most 5 % (tests/profiling/test_coverage.py). A round that was
    disturbed for either is left out. None without a common round; no interval with one.
    """
    return paired_ratio(round_logs(baseline), round_logs(other))


def paired_ratio(dividend: Mapping[int, float], divisor: Mapping[int, float]) -> Estimate | None:
    """Return the ratio of two numbers whose logarithms are known by round, as `speedup` does."""
    differences = [log - divisor[number] for number, log in dividend.items() if number in divisor]
    if not differences:
        return None
    return _spread(math.exp(math.fsum(differences) / len(differences)), differences)


def round_logs(samples: Samples) -> dict[int, float]:
    """Return the logarithm of the median of each undisturbed round, in seconds."""
    kept = counted(samples)
    rounds, seconds = np.asarray(kept.rounds), np.asarray(kept.seconds)
    order = np.lexsort((seconds, rounds))
    numbers, starts, counts = np.unique(rounds[order], return_index=True, return_counts=True)
    # Of an odd count both are the same one; thousands of calls of np.median would take seconds.
    lower, upper = (seconds[order][starts + middle] for middle in ((counts - 1) // 2, counts // 2))
    return dict(zip(numbers.tolist(), np.log((lower + upper) / 2).tolist(), strict=True))


def block_logs(throughput: Throughput, samples: Samples) -> dict[int, float]:
    """Return the logarithm of the seconds an image took in the block of each undisturbed round.

    Empty unless there is a block for each round of `samples`: others cannot be told which round they belong to.
    """
    rounds = dict.fromkeys(samples.rounds)
    if len(rounds) != len(throughput.blocks):
        return {}
    blocks = enumerate(zip(rounds, throughput.blocks, strict=True))
    return {
        number: math.log(seconds / images)
        for place, (number, (images, seconds)) in blocks
        if place not in throughput.left_out
    }


@lru_cache(maxsize=16)  # the metrics of a cell ask for it one after the other
def images_per_second(throughput: Throughput) -> Estimate | None:
    """Return the median rate of the blocks with the interval that they support, or None without a block."""
    blocks = enumerate(throughput.blocks)
    rates = [images / seconds for number, (images, seconds) in blocks if number not in throughput.left_out]
    return _clustered(np.asarray(rates), np.arange(len(rates))) if rates else None


def half_width(estimate: Estimate) -> float | None:
    """Return half the width of the interval as a share of the value, or None without an interval."""
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / 2 / estimate.value


def log_deviation(estimate: Estimate) -> float:
    """Return the standard deviation of the logarithm, as a normal one with this interval has it; 0 without one."""
    if not estimate.low or not estimate.high:
        return 0.0
    return math.log(estimate.high / estimate.low) / 2 / NORMAL_QUANTILE


@lru_cache(maxsize=4096)
def proportion(hits: int, trials: int) -> Estimate:
    """Return `hits` / `trials` with its Wilson interval, which stays within 0 and 1 and holds for few trials.

    Source:
        Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    from scipy import stats  # devices that measure, and make no report, have none

    interval = stats.binomtest(hits, trials).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Estimate(hits / trials, float(interval.low), float(interval.high))


def agreement_of(parity: Parity) -> Estimate:
    """Return the share of images that an artifact decides as PyTorch does, with its Wilson interval."""
    return proportion(round(parity.agreement * parity.images), parity.images)


def top1_gap(accuracy: Accuracy, reference: Accuracy) -> Estimate | None:
    """Return the top-1 of `accuracy` less that of `reference`, or None where one of them has no images.

    Where both tell of each of the same images, the interval is that of paired shares (`effvit.export.decisions`): what
    both get right or both get wrong says nothing of their difference. Otherwise it is that of independent ones.
    """
    if not accuracy.images or not reference.images:
        return None
    counts = lost_and_gained(reference, accuracy)
    if counts is not None:
        lost, gained = counts
        low, high = paired_interval(np.array(float(lost)), np.array(float(gained)), accuracy.images)
        return Estimate((gained - lost) / accuracy.images, float(low), float(high))
    now = proportion(accuracy.top1_correct, accuracy.images)
    return difference(now, proportion(reference.top1_correct, reference.images))


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


@cache
def t_quantile(freedom: int) -> float:
    """Return within how many standard errors a t distribution with so many degrees of freedom holds CONFIDENCE.

    SciPy would know, but the devices that measure need not have it.

    Source:
        Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halved down to the last bit of a float
        angle = (low + high) / 2
        if _held_within(angle, freedom) < CONFIDENCE:
            low = angle
        else:
            high = angle
    return math.sqrt(freedom) * math.tan(low)


def _held_within(angle: float, freedom: int) -> float:
    """Return the share of a t distribution between -t and t, where t is the root of `freedom` times tan(angle)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for index in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (index - 1) / index
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def _clustered(values: Floats, rounds: Integers) -> Estimate:
    """Return the median of positive `values`, with the interval over draws of whole rounds."""
    median = float(np.median(values))
    count = len(np.unique(rounds))
    if count < 2:
        return Estimate(median)
    deviation = float(np.std(np.log(_drawn_medians(values, rounds))))
    quantile = t_quantile(count - 1)
    factor = math.exp(quantile * deviation * math.sqrt(count / (count - 1)))
    return Estimate(median, median / factor, median * factor)


def _drawn_medians(values: Floats, rounds: Integers) -> Floats:
    """Return the median of all values of as many rounds as there are, drawn with replacement, DRAWS times.

    The middle of many parts lies between the smallest and the largest middle of one, so only values there are looked
    at: how many of a round's values do not exceed each, times how often the round was drawn, gives the draw's ranks.
    """
    parts = [np.sort(values[rounds == number]) for number in np.unique(rounds)]
    # The middle of an even count is between two values; both are needed.
    low = min(part[(len(part) - 1) // 2] for part in parts)
    high = max(part[len(part) // 2] for part in parts)
    levels = _thinned(np.unique(values[(values >= low) & (values <= high)]))
    below = np.stack([np.searchsorted(part, levels, side="right") for part in parts])  # (rounds, levels)
    times = _drawn_rounds(len(parts), DRAWS)
    ranks = times @ below.astype(np.float64)  # (draws, levels)
    half = times @ np.array([len(part) for part in parts]) / 2
    lower = levels[np.argmax(ranks >= half[:, None], axis=1)]
    upper = levels[np.argmax(ranks > half[:, None], axis=1)]
    return np.asarray((lower + upper) / 2)


@cache
def _drawn_rounds(count: int, draws: int) -> Floats:
    """Return how often each of `count` rounds is drawn, `draws` times: (draws, rounds).

    They are the same draws every time: a report rendered twice shows the same interval.
    """
    # In floats, which hold counts exactly: products of integers take several times as long.
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), draws).astype(np.float64)


def _thinned(ordered: Floats) -> Floats:
    """Return the first, the last and evenly spaced others of `ordered`, MOST_LEVELS at most."""
    if len(ordered) <= MOST_LEVELS:
        return ordered
    return ordered[np.linspace(0, len(ordered) - 1, MOST_LEVELS).round().astype(np.int64)]


def _spread(value: float, logs: Sequence[float]) -> Estimate:
    """Return `value` with the t interval of the mean of `logs`, laid around it on the log scale."""
    count = len(logs)
    if count < 2:
        return Estimate(value)
    quantile = t_quantile(count - 1)
    factor = math.exp(quantile * float(np.std(logs, ddof=1)) / math.sqrt(count))
    return Estimate(value, value / factor, value * factor)
