"""By how much one cell is better than another beyond doubt, where both were measured with the same things.

Two cells that were judged on the same images, or timed in the same rounds, differ by less doubt than their own
intervals have: what is hard for both, or slow for both, cancels. A margin is the lower end of the 95 % interval of that
difference. Of a ratio it is the logarithm; whether it is above 0 is what counts.
"""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations

import numpy as np

from effvit.accuracy import Accuracy
from effvit.export.decisions import paired_interval
from effvit.profiling import stats
from effvit.profiling.records import Evidence
from effvit.profiling.stats import Floats

Cells = Sequence[Evidence | None]


def top1_margins(cells: Cells) -> Floats:
    """Return at [one, other] by how much the top-1 of the other is higher; NaN unless on the same images."""
    found = _unknown(cells)
    for places in _alike(cells, _judged_on):
        right = np.stack([_right(accuracy) for place in places if (accuracy := _accuracy(cells[place])) is not None])
        both = right @ right.T
        alone = np.diag(both)[:, None] - both  # at [one, other]: right for one, and wrong for the other
        found[np.ix_(places, places)], _ = paired_interval(alone, alone.T, right.shape[1])
    return found


def latency_margins(cells: Cells) -> Floats:
    """Return at [one, other] by how much the other is faster; NaN unless in the same rounds, two at least."""
    return _of_rounds(cells, lambda evidence: stats.round_logs(evidence.samples))


def throughput_margins(cells: Cells) -> Floats:
    """Return at [one, other] by how much the other's throughput is higher; NaN unless in the same rounds."""
    return _of_rounds(cells, lambda evidence: stats.block_logs(evidence.throughput, evidence.samples))


def _of_rounds(cells: Cells, logs: Callable[[Evidence], Mapping[int, float]]) -> Floats:
    """Return the margins of what is the better the less it takes; `logs` tells of each round the logarithm of that."""
    found = _unknown(cells)
    for places in _alike(cells, lambda evidence: evidence.comparison):
        known = {place: logs(evidence) for place in places if (evidence := cells[place]) is not None}
        for one, other in combinations(places, 2):
            ratio = stats.paired_ratio(known[one], known[other])
            if ratio is not None and ratio.low is not None and ratio.high is not None:
                found[one, other], found[other, one] = math.log(ratio.low), -math.log(ratio.high)
    return found


def _unknown(cells: Cells) -> Floats:
    return np.full((len(cells), len(cells)), np.nan)


def _alike(cells: Cells, what: Callable[[Evidence], Hashable]) -> list[list[int]]:
    """Return the places of cells that share `what`, without those of which that is None."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for place, evidence in enumerate(cells):
        if evidence is not None and (key := what(evidence)) is not None:
            found[key].append(place)
    return list(found.values())


def _judged_on(evidence: Evidence) -> Hashable:
    accuracy = evidence.accuracy
    if accuracy is None or accuracy.hits is None or accuracy.images_key is None:
        return None
    return accuracy.images_key, accuracy.images


def _accuracy(evidence: Evidence | None) -> Accuracy | None:
    return None if evidence is None else evidence.accuracy


def _right(accuracy: Accuracy) -> Floats:
    """Return 1 for each image that was decided rightly, and 0 for the others."""
    packed = np.frombuffer(base64.b64decode(accuracy.hits or ""), np.uint8)
    return np.unpackbits(packed, count=accuracy.images).astype(np.float64)
