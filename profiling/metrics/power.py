"""What a board takes right after rounds, by its own supply's meter."""

from __future__ import annotations

from effvit.profiling.heat import heat_of
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return the mean over all rounds, in watts."""
    watts = heat_of(evidence).power_w
    note = "right after each round; no interval" if watts is not None else "no labelled supply could be read"
    return (Reading("power_w.supply", watts, note=note),)


METRIC = Metric("power_w", "W", "lower", "Power of the board's supply right after rounds", measure)
