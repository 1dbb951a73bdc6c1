"""Which images of each class are taken: splits and subsets. Deterministic; imports no torch."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from effvit.errors import UsageError

if TYPE_CHECKING:
    from effvit.data.base import Sample


def stratified_split(labels: Sequence[Hashable], val_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the positions for training and for validation, each in order.

    Each class gives `val_share` of its images, rounded, but at least one, and keeps at least one: scikit-learn's
    stratified split refuses small classes or leaves them out of one side. A class is drawn independently of the
    others, so that adding a class does not move images of the rest.

    Raises:
        ValueError: A class with a single image.
    """
    positions: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        positions[label].append(position)
    val: set[int] = set()
    for label, members in positions.items():
        if len(members) < 2:
            raise ValueError(f"class {label} has a single image and cannot be split")
        count = min(max(round(val_share * len(members)), 1), len(members) - 1)
        val.update(random.Random(seed).sample(members, count))
    return [position for position in range(len(labels)) if position not in val], sorted(val)


def stratified_subset(samples: Sequence[Sample], at_most: int, seed: int) -> tuple[Sample, ...]:
    """Return at most `at_most` samples, in order, with the classes as equally frequent as they can be.

    Raises:
        UsageError: `at_most` is below 1.
    """
    if at_most < 1:
        raise UsageError(f"a subset must hold at least 1 image, not {at_most}", "choose 1 or more")
    shuffled = random.Random(seed).sample(range(len(samples)), len(samples))
    taken: Counter[int] = Counter()
    turns: dict[int, int] = {}  # position -> how many of its class are drawn before it
    for position in shuffled:
        label = samples[position].label
        turns[position] = taken[label]
        taken[label] += 1
    chosen = sorted(shuffled, key=turns.__getitem__)[:at_most]
    return tuple(samples[position] for position in sorted(chosen))
