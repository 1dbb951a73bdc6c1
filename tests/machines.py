"""Synthetic machines, whose measurements have a known truth.

Round medians of real sweeps differ by some per cent from round to round: they are what is simulated here, beside noise
within rounds, launches that take far longer, rounds that take longer, and drift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from effvit.profiling.records import Samples

LAUNCHES = 12
NOISE, ROUNDS_DIFFER = 0.01, 0.02


@dataclass(frozen=True)
class Machine:
    """How a synthetic machine errs, as shares of the time of a launch; times are lognormal around 1 s.

    `rounds_differ` is the standard deviation from round to round. A share `slow_launches` takes half as long again or
    more, a share `slow_rounds` a tenth longer. From the first to the last round times grow or fall by a share whose
    standard deviation is `drift`.
    """

    rounds_differ: float = ROUNDS_DIFFER
    slow_launches: float = 0.0
    slow_rounds: float = 0.0
    drift: float = 0.0

    def rounds(self, count: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
        """Return the natural logarithm of what slowed each round as a whole."""
        effect = random.normal(0, self.rounds_differ, count)
        effect += random.normal(0, self.drift) * np.linspace(-0.5, 0.5, count)
        return effect + 0.1 * (random.random(count) < self.slow_rounds)

    def samples(self, effect: npt.NDArray[np.float64], random: np.random.Generator) -> Samples:
        """Return launches of rounds slowed by `effect`."""
        size = (len(effect), LAUNCHES)
        logs = random.normal(0, NOISE, size) + effect[:, None]
        logs += np.where(random.random(size) < self.slow_launches, random.exponential(0.5, size), 0)
        numbers = np.repeat(np.arange(len(effect)), LAUNCHES)
        return Samples(tuple(np.exp(logs).ravel().tolist()), tuple(numbers.tolist()), 0, "synthetic", "")

    def median_s(self) -> float:
        """Return the median of a launch in a round drawn at random."""
        random = np.random.default_rng(99)
        still = replace(self, drift=0.0)
        return float(np.median(still.samples(still.rounds(20_000, random), random).seconds))


STEADY = Machine(rounds_differ=0.0)
UNEVEN = Machine()
HEAVY_TAILS = Machine(slow_launches=0.05)
DRIFTING = Machine(drift=0.02)
SLOW_ROUNDS = Machine(slow_rounds=0.1)
