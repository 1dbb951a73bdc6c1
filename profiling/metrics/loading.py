"""What a process pays before it is warm."""

from __future__ import annotations

from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return single measurements: a process opens its artifact once."""
    note = "no interval: measured once"
    return (Reading("load_s.open", evidence.open_s, note=note), Reading("load_s.first", evidence.first_s, note=note))


METRIC = Metric("load_s", "s", "lower", "Time to open the artifact, and of the first call", measure)
