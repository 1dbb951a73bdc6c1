"""Which choices no other choice beats, and which cannot be told from those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from effvit.profiling.stats import Estimate, Floats

Standing = Literal["front", "near", "beaten"]
Flags = npt.NDArray[np.bool_]


def standings(gains: Sequence[Estimate | None], costs: Sequence[Estimate | None]) -> list[Standing | None]:
    """Return where each point stands; None for one that lacks either number.

    On the front by their values nothing beats them: no other has as much gain at no more cost, and is better in one of
    the two. `near` are others that cannot be told from the front: nothing beats them when every point is as bad as the
    intervals of it allow, and they themselves as good. What is left is beaten beyond doubt. A number without an
    interval counts as it is.
    """
    places = [place for place, pair in enumerate(zip(gains, costs, strict=True)) if None not in pair]
    gain = [known for place in places if (known := gains[place]) is not None]
    cost = [known for place in places if (known := costs[place]) is not None]
    found: list[Standing | None] = [None] * len(gains)
    value = np.array([one.value for one in gain]), np.array([one.value for one in cost])
    on_front = ~_beaten(*value, *value)
    possible = ~_beaten(_lows(gain), _highs(cost), _highs(gain), _lows(cost))
    for place, front, maybe in zip(places, on_front, possible, strict=True):
        found[place] = "front" if front else "near" if maybe else "beaten"
    return found


def _beaten(gain: Floats, cost: Floats, own_gain: Floats, own_cost: Floats) -> Flags:
    """Return for each of the points `own` whether one of the others is as good in both, and better in one."""
    more, less = gain[None, :] - own_gain[:, None], own_cost[:, None] - cost[None, :]  # (points, others)
    beats = (more >= 0) & (less >= 0) & ((more > 0) | (less > 0))
    return np.asarray(beats.any(axis=1))


def _lows(estimates: Sequence[Estimate]) -> Floats:
    return np.array([one.value if one.low is None else one.low for one in estimates])


def _highs(estimates: Sequence[Estimate]) -> Floats:
    return np.array([one.value if one.high is None else one.high for one in estimates])
