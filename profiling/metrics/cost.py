"""What the model costs on paper."""

from __future__ import annotations

from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return counts for one image."""
    cost = evidence.cost
    return (
        Reading("cost.parameters", cost.parameters),
        Reading("cost.macs", cost.macs),
        Reading("cost.core_macs", cost.core_macs),
    )


METRIC = Metric(
    "cost", "count", "lower", "Parameters, MACs of one image, and MACs of the attention cores alone", measure
)
