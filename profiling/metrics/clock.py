"""How slow the fastest cores became."""

from __future__ import annotations

from effvit.profiling.heat import heat_of
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return the lowest clock at which they were seen in any round."""
    lowest_hz = heat_of(evidence).lowest_hz
    return (Reading("clock_hz.lowest", lowest_hz, note="" if lowest_hz else "the kernel tells no clock here"),)


METRIC = Metric("clock_hz", "Hz", "higher", "Lowest clock of the fastest cores in any round", measure)
