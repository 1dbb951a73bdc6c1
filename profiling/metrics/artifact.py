"""How large the exported file is."""

from __future__ import annotations

from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return the size of the file that was measured."""
    return (Reading("artifact.size_bytes", evidence.artifact.size_bytes),)


METRIC = Metric("artifact", "bytes", "lower", "Size of the exported file", measure)
