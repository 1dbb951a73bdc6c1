"""How mechanisms rank by latency on each device, and how that order changes from one to another."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.stats import kendalltau

from effvit.profiling import stats
from effvit.profiling.report.rows import Row
from effvit.profiling.stats import Estimate
from effvit.spec import Precision

_LATENCY = "latency_s.p50"


@dataclass(frozen=True, slots=True, order=True)
class Ground:
    """What is the same on all devices that are compared."""

    backbone: str
    data: str
    backend: str
    precision: Precision
    batch: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, order=True)
class Spot:
    """A device, which is a part of a machine."""

    machine: str
    device: str


@dataclass(frozen=True, slots=True)
class Place:
    """A mechanism among those of one device: 1 is the fastest, and those that cannot be told apart share a rank."""

    label: str
    rank: int
    tied: bool
    latency_s: Estimate


@dataclass(frozen=True, slots=True)
class Ranking:
    """The mechanisms of one device, the fastest first; of those that share a rank, by their medians."""

    spot: Spot
    places: tuple[Place, ...]

    def place(self, label: str) -> Place:
        """Return the place of a mechanism."""
        return next(place for place in self.places if place.label == label)


@dataclass(frozen=True, slots=True)
class Reversal:
    """Two mechanisms of which one is faster beyond doubt on the first of two devices, the other on the second."""

    faster_on_first: str
    faster_on_second: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the rankings of two devices are.

    `tau` is Kendall's tau-b of their ranks: 1 for the same order, -1 for the opposite one, and None where all share one
    rank on either. Of the pairs of mechanisms `decided` can be told apart on both devices.
    """

    first: Spot
    second: Spot
    tau: float | None
    decided: int
    reversals: tuple[Reversal, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rankings of all devices on the same ground, of the mechanisms that all of them measured reliably."""

    ground: Ground
    rankings: tuple[Ranking, ...]
    agreements: tuple[Agreement, ...]


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
    """Return a comparison for every ground on which two devices or more have two mechanisms or more in common.

    Unstable and emulated rows are left out. Devices come in the order of the rows.
    """
    grounds: dict[Ground, dict[Spot, dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.outcome.status == "ok" and not row.emulated:
            grounds[_ground(row)][_spot(row)][row.label] = row
    found = []
    for ground, spots in sorted(grounds.items()):
        common = set.intersection(*(set(measured) for measured in spots.values()))
        if len(spots) > 1 and len(common) > 1:
            kept = {spot: [row for row in measured.values() if row.label in common] for spot, measured in spots.items()}
            found.append(_comparison(ground, kept))
    return found


def _ground(row: Row) -> Ground:
    cell, work = row.outcome.cell, row.workload
    kind = (cell.model.backbone, row.outcome.data, cell.backend, cell.precision)
    return Ground(*kind, work.batch, work.height, work.width)


def _spot(row: Row) -> Spot:
    return Spot(row.machine, str(row.outcome.cell.device))


def _comparison(ground: Ground, rows: dict[Spot, list[Row]]) -> Comparison:
    rankings = {spot: Ranking(spot, tuple(_places(measured))) for spot, measured in rows.items()}
    pairs = itertools.combinations(rankings, 2)
    agreements = [_agreement(rankings[one], rankings[other], rows[one], rows[other]) for one, other in pairs]
    return Comparison(ground, tuple(rankings.values()), tuple(agreements))


def _places(rows: Sequence[Row]) -> Iterator[Place]:
    """Yield the places by latency: a row shares the rank of the first before it that it cannot be told from."""
    ordered = sorted(rows, key=lambda row: _latency(row).value)
    groups: list[list[Row]] = []
    for row in ordered:
        if groups and not _faster(groups[-1][0], row):
            groups[-1].append(row)
        else:
            groups.append([row])
    rank = 1
    for group in groups:
        yield from (Place(row.label, rank, len(group) > 1, _latency(row)) for row in group)
        rank += len(group)


def _latency(row: Row) -> Estimate:
    reading = row.reading(_LATENCY)
    assert reading.value is not None
    return Estimate(reading.value, reading.low, reading.high)


def _faster(row: Row, other: Row) -> bool:
    """Return whether `row` is faster beyond doubt: by their rounds where these are the same, or by their intervals."""
    ours, theirs = row.outcome.evidence, other.outcome.evidence
    assert ours is not None
    assert theirs is not None
    if ours.comparison == theirs.comparison:
        ratio = stats.speedup(theirs.samples, ours.samples)
        if ratio is not None and ratio.low is not None:
            return ratio.low > 1
    high, low = _latency(row).high, _latency(other).low
    return high is not None and low is not None and high < low


def _agreement(one: Ranking, other: Ranking, rows: Sequence[Row], others: Sequence[Row]) -> Agreement:
    labels = [place.label for place in one.places]
    ranks = [[ranking.place(label).rank for label in labels] for ranking in (one, other)]
    tau = float(kendalltau(*ranks).statistic)
    ways = [_ways({row.label: row for row in some}, labels) for some in (rows, others)]
    decided = [pair for pair in ways[0] if pair in ways[1] or pair[::-1] in ways[1]]
    reversals = [Reversal(*pair) for pair in decided if pair[::-1] in ways[1]]
    return Agreement(one.spot, other.spot, None if math.isnan(tau) else tau, len(decided), tuple(reversals))


def _ways(rows: dict[str, Row], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return each pair of mechanisms whose first is faster than its second beyond doubt."""
    return [pair for pair in itertools.permutations(labels, 2) if _faster(rows[pair[0]], rows[pair[1]])]
