"""Which choices no other choice beats, and which cannot be told from those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from effvit.profiling.stats import Estimate, Floats

Standing = Literal["front", "near", "beaten"]
Flags = npt.NDArray[np.bool_]


def standings(
    gains: Sequence[Estimate | None],
    costs: Sequence[Estimate | None],
    paired_gains: Floats | None = None,
    paired_costs: Floats | None = None,
) -> list[Standing | None]:
    """Return where each point stands; None for one that lacks either number.

    A point beats another that has as much gain at no more cost, and is better in one of the two. What nothing beats by
    its values is on the front. What something beats beyond doubt is beaten, and what is left is `near`: it cannot be
    told from the front.

    Beyond doubt is what the pairs say: at [one, other] the least by which the other is better, NaN for two that are not
    paired. Of those it is what the intervals of both say: that they do not overlap. A number without an interval counts
    as it is.
    """
    places = [place for place, pair in enumerate(zip(gains, costs, strict=True)) if None not in pair]
    gain = [known for place in places if (known := gains[place]) is not None]
    cost = [known for place in places if (known := costs[place]) is not None]
    found: list[Standing | None] = [None] * len(gains)
    value = np.array([one.value for one in gain]), np.array([one.value for one in cost])
    surpassed = _beaten(_margins(value[0], value[0]), -_margins(value[1], value[1]))
    more = _among(places, paired_gains, _margins(_highs(gain), _lows(gain)))
    less = _among(places, paired_costs, -_margins(_lows(cost), _highs(cost)))
    for place, by_value, certainly in zip(places, surpassed, _beaten(more, less), strict=True):
        found[place] = "beaten" if certainly else "near" if by_value else "front"
    return found


def _margins(own: Floats, others: Floats) -> Floats:
    """Return at [one, other] by how much the other is more than one is itself."""
    return np.asarray(others[None, :] - own[:, None])


def _among(places: Sequence[int], paired: Floats | None, apart: Floats) -> Floats:
    """Return the margins of pairs, and `apart` those of points that are not paired."""
    if paired is None:
        return apart
    known = paired[np.ix_(places, places)]
    return np.where(np.isnan(known), apart, known)


def _beaten(more: Floats, less: Floats) -> Flags:
    """Return for each point whether one of the others is as good in gain and in cost, and better in one of them."""
    beats = (more >= 0) & (less >= 0) & ((more > 0) | (less > 0))
    return np.asarray(beats.any(axis=1))


def _lows(estimates: Sequence[Estimate]) -> Floats:
    return np.array([one.value if one.low is None else one.low for one in estimates])


def _highs(estimates: Sequence[Estimate]) -> Floats:
    return np.array([one.value if one.high is None else one.high for one in estimates])
