"""How hot the processor was beside the rounds, those that are left out included."""

from __future__ import annotations

from effvit.profiling.heat import heat_of
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return degrees Celsius before the first warm-up, and the highest before or after any round."""
    heat = heat_of(evidence)
    note = "no sensor of the processor could be read" if heat.peak_c is None else heat.sensor
    return (
        Reading("temperature_c.start", heat.start_c, note=note),
        Reading("temperature_c.peak", heat.peak_c, note=note),
    )


METRIC = Metric(
    "temperature_c", "°C", "lower", "Temperature of the processor: before the first round, and the highest", measure
)
