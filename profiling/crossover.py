"""From which resolution on each variant beats exact attention: on one device, in one precision, at one batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from effvit.profiling import scaling
from effvit.profiling.metrics.base import Reading
from effvit.profiling.report.rows import Context, Row
from effvit.profiling.scaling import Curve, Observation
from effvit.profiling.stats import CONFIDENCE, Estimate, Floats, log_deviation

Way = Literal["faster", "undecided", "slower"]
_DRAWS = 400


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against softmax in the same rounds: `ratio` is softmax's median latency `baseline_s` over its own.

    `side_px` is the side of a square image of as many pixels as the resolution has.
    """

    tokens: int
    batch: int
    side_px: float
    baseline_s: Estimate
    ratio: Estimate

    @property
    def way(self) -> Way:
        """Whether the variant was faster or slower beyond doubt."""
        if self.ratio.low is not None and self.ratio.low > 1:
            return "faster"
        return "slower" if self.ratio.high is not None and self.ratio.high < 1 else "undecided"


@dataclass(frozen=True, slots=True)
class Crossover:
    """Where a variant becomes faster than softmax, and stays so up to the largest resolution that was measured.

    `start` is the side in px from which on it is; the smallest measured one where it is at all of them, and None where
    it is not at the largest. `low` and `high` are the ends of the 95 % interval of that, in the same terms: `low` None
    says that it is beyond doubt not faster at the largest, `high` None that perhaps it is not.
    `bracket` are the measured sides between which it crosses. `measured` are the comparisons at this batch, by size.
    `fitted` says whether curves over the tokens located it, or a straight line between the ends of the bracket. Where
    no measurement is left over to tell how well they do, the interval says no more than that it lies in it.
    """

    context: Context
    label: str
    start: float | None
    low: float | None
    high: float | None
    bracket: tuple[float, float] | None
    measured: tuple[Comparison, ...]
    fitted: bool

    @property
    def smallest_px(self) -> float:
        """The smallest side that was measured."""
        return self.measured[0].side_px

    @property
    def largest_px(self) -> float:
        """The largest side that was measured."""
        return self.measured[-1].side_px

    @property
    def certain(self) -> bool:
        """Whether the kind of answer is beyond doubt: everywhere, from somewhere on, or not up to the largest."""
        if self.start is None:
            return self.low is None
        return self.high is not None and (self.start > self.smallest_px or self.high == self.smallest_px)


def crossovers(rows: Sequence[Row]) -> list[Crossover]:
    """Return one for each variant and context in which it was measured beside softmax at two resolutions or more.

    Only latencies of the same rounds are compared, and no unstable ones. A curve is fitted over all batches of a
    device, precision and backend where there are three resolutions, with which it finds the place within the bracket
    of two measured ones: no extrapolation, and nothing that contradicts a measurement.
    """
    groups: dict[tuple[Context, str], list[tuple[Context, Comparison]]] = defaultdict(list)
    medians = {id(row.outcome): row.reading("latency_s.p50") for row in rows if row.is_baseline}
    for row in rows:
        median = medians.get(id(row.baseline))
        if median is not None and (compared := _comparison(row, median)) is not None:
            groups[replace(row.context, batch=0), row.label].append((row.context, compared))
    return [one for (_, label), members in groups.items() for one in _of_group(label, members)]


def _comparison(row: Row, median: Reading) -> Comparison | None:
    ratio, tokens, baseline = row.speedup, row.tokens, row.baseline
    if ratio is None or ratio.low is None or tokens is None or baseline is None:
        return None
    if median.value is None or median.low is None:
        return None
    if row.unstable or baseline.status == "unstable":
        return None
    work = row.workload
    baseline_s = Estimate(median.value, median.low, median.high)
    return Comparison(tokens, work.batch, math.sqrt(work.height * work.width), baseline_s, ratio)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one draw has the crossing, in px: between which sides, and at which; infinity for nowhere."""

    lower: float
    start: float
    upper: float


_EVERYWHERE, _NOWHERE = _Place(0, 0, 0), _Place(math.inf, math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class _Draw:
    """All comparisons of a group as they might have been measured: their ratios, and the curves through them.

    `shift` is by what factor the ratio of the curves misses that of the runtimes.
    """

    ratios: Floats
    curves: tuple[Curve, Curve] | None
    shift: float = 1.0


def _of_group(label: str, members: Sequence[tuple[Context, Comparison]]) -> list[Crossover]:
    """Return the crossovers of the batches of a group, which share their curves and draws.

    Where it is unknown by how much the curves miss, so is the place in a draw's bracket, and the ends of that count.
    """
    among = [compared for _, compared in members]
    ratios = [one.ratio.value for one in among]
    curves = _curves(among, [one.baseline_s.value for one in among], ratios)
    spread = None if curves is None else _misfit(among, curves)
    known = _Draw(np.array(ratios), curves)
    draws = _draws(among, spread)
    found = []
    for context in dict.fromkeys(context for context, _ in members):
        here = [place for place, (where, _) in enumerate(members) if where == context]
        here.sort(key=lambda place: among[place].tokens)
        if len({among[place].tokens for place in here}) > 1:
            measured, place = [among[one] for one in here], _place(among, here, known)
            drawn = [_place(among, here, draw) for draw in draws]
            if spread is not None:
                drawn = [replace(one, lower=one.start, upper=one.start) for one in drawn]
            found.append(_crossover(context, label, measured, place, drawn, curves is not None))
    return found


def _crossover(
    context: Context,
    label: str,
    measured: Sequence[Comparison],
    place: _Place,
    drawn: Sequence[_Place],
    fitted: bool,
) -> Crossover:
    """Return the crossover at `place`, with the interval that the `drawn` ones make up."""
    doubt, smallest = (1 - CONFIDENCE) / 2, measured[0].side_px
    low = _quantile([one.lower for one in drawn], doubt)
    high = _quantile([one.upper for one in drawn], 1 - doubt)
    return Crossover(
        context,
        label,
        start=_within(place.start, smallest),
        low=_within(low, smallest),
        high=_within(high, smallest),
        bracket=(place.lower, place.upper) if 0 < place.lower < math.inf else None,
        measured=tuple(measured),
        fitted=fitted,
    )


def _within(side: float, smallest: float) -> float | None:
    return None if side == math.inf else max(side, smallest)


def _curves(
    among: Sequence[Comparison], baselines: Sequence[float], ratios: Sequence[float]
) -> tuple[Curve, Curve] | None:
    """Return the curves of softmax and of the variant, or None where the sizes do not determine one."""
    where = [(one.tokens, one.batch) for one in among]
    alone = [log_deviation(one.baseline_s) for one in among]
    both = [math.hypot(log_deviation(one.baseline_s), log_deviation(one.ratio)) for one in among]
    base = scaling.fit([Observation(*at, *known) for at, *known in zip(where, baselines, alone, strict=True)])
    times = [seconds / ratio for seconds, ratio in zip(baselines, ratios, strict=True)]
    other = scaling.fit([Observation(*at, *known) for at, *known in zip(where, times, both, strict=True)])
    return None if base is None or other is None else (base, other)


def _misfit(among: Sequence[Comparison], curves: tuple[Curve, Curve]) -> float | None:
    """Return by what standard deviation of the logarithm measured ratios miss those of the curves beyond their noise.

    None where no comparison is left over to tell.
    """
    free = len(among) - scaling.terms([Observation(one.tokens, one.batch, 1.0, 0.0) for one in among])
    if free < 1:
        return None
    misses = [
        math.log(one.ratio.value * curves[1].at(one.tokens, one.batch) / curves[0].at(one.tokens, one.batch))
        for one in among
    ]
    noise = sum(log_deviation(one.ratio) ** 2 for one in among) / len(among)
    return math.sqrt(max(0.0, sum(miss**2 for miss in misses) / free - noise))


def _draws(among: Sequence[Comparison], spread: float | None) -> list[_Draw]:
    """Return draws of all medians and ratios within their intervals, and of what the curves miss by `spread`."""
    # The same draws every time: a report rendered twice shows the same interval.
    random = np.random.default_rng(0)
    shape = (_DRAWS, len(among))
    baselines = _drawn([one.baseline_s for one in among], random.standard_normal(shape))
    ratios = _drawn([one.ratio for one in among], random.standard_normal(shape))
    if spread is None:
        return [_Draw(ratio, None) for ratio in ratios]
    shifts = np.exp(spread * random.standard_normal(_DRAWS))
    return [
        _Draw(ratio, _curves(among, baseline.tolist(), ratio.tolist()), float(shift))
        for baseline, ratio, shift in zip(baselines, ratios, shifts, strict=True)
    ]


def _drawn(estimates: Sequence[Estimate], noise: Floats) -> Floats:
    values = np.array([one.value for one in estimates])
    return np.asarray(values * np.exp(noise * np.array([log_deviation(one) for one in estimates])))


def _quantile(sides: Sequence[float], share: float) -> float:
    """Return an order statistic, away from the middle: interpolating beside infinity gives no number."""
    ordered = sorted(sides)
    place = share * (len(ordered) - 1)
    return ordered[math.floor(place) if share < 0.5 else math.ceil(place)]


def _place(among: Sequence[Comparison], here: Sequence[int], draw: _Draw) -> _Place:
    """Return where the last ratio at or below 1 is left behind, by the curves if they cross there as well.

    `here` are the places of one batch's comparisons among all of them, by size.
    """
    ratios = draw.ratios[here].tolist()
    if ratios[-1] <= 1:
        return _NOWHERE
    slower = [index for index, ratio in enumerate(ratios) if ratio <= 1]
    if not slower:
        return _EVERYWHERE
    below, above = among[here[slower[-1]]], among[here[slower[-1] + 1]]
    tokens = None
    if draw.curves is not None:
        tokens = crossing_tokens(*draw.curves, below.batch, below.tokens, above.tokens, draw.shift)
    if tokens is None:
        tokens = _interpolated(below.tokens, above.tokens, ratios[slower[-1]], ratios[slower[-1] + 1])
    # The pixels of an image, and so the square of its side, grow in proportion to the tokens.
    squares = np.interp(tokens, [below.tokens, above.tokens], [below.side_px**2, above.side_px**2])
    return _Place(below.side_px, math.sqrt(float(squares)), above.side_px)


def crossing_tokens(
    base: Curve, other: Curve, batch: int, lower: float, upper: float, shift: float = 1.0
) -> float | None:
    """Return the tokens between `lower` and `upper` at which `other` becomes cheaper than `shift` times `base`.

    None where it already is at `lower`, or is not yet at `upper`. Of two such places it is the only one that leads
    from dearer to cheaper: the difference of two curves is a parabola.
    """

    def gain(tokens: float) -> float:
        return shift * base.at(tokens, batch) - other.at(tokens, batch)

    if gain(lower) > 0 or gain(upper) <= 0:
        return None
    return float(brentq(gain, lower, upper))


def _interpolated(lower: float, upper: float, ratio_below: float, ratio_above: float) -> float:
    """Return where the ratio is 1 on a straight line between two points, all in logarithms."""
    share = math.log(ratio_below) / (math.log(ratio_below) - math.log(ratio_above))
    return math.exp(math.log(lower) + share * math.log(upper / lower))
