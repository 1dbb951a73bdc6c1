"""In how many rounds heat, or want of power, slowed the processor or the GPU down."""

from __future__ import annotations

from effvit.profiling.heat import heat_of
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return their number, those that are left out included."""
    heat = heat_of(evidence)
    if heat.slowed is None:
        return (Reading("slowed.rounds", None, note="neither the kernel nor a firmware tells here"),)
    return (Reading("slowed.rounds", heat.slowed, note="; ".join(heat.reasons)),)


METRIC = Metric("slowed", "rounds", "lower", "Rounds that heat, or want of power, slowed down", measure)
