"""How many images a second pass through when calls follow one another."""

from __future__ import annotations

from effvit.profiling import stats
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return the median rate of the back-to-back blocks."""
    rate = stats.images_per_second(evidence.throughput)
    if rate is None:
        return (Reading("throughput.images_per_s", None, note="no back-to-back block was measured"),)
    note = "" if rate.low is not None else "no interval: fewer than 2 blocks"
    return (Reading("throughput.images_per_s", rate.value, rate.low, rate.high, note),)


METRIC = Metric("throughput", "images/s", "higher", "Images a second in back-to-back calls", measure)
