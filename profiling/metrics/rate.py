"""How fast the model's multiply-accumulates are done."""

from __future__ import annotations

from effvit.profiling import stats
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return the MACs of one image times the images a second of back-to-back calls."""
    rate, macs = stats.images_per_second(evidence.throughput), evidence.cost.macs
    if rate is None:
        return (Reading("rate.macs_per_s", None, note="no back-to-back block was measured"),)
    if rate.low is None or rate.high is None:
        return (Reading("rate.macs_per_s", macs * rate.value, note="no interval: fewer than 2 blocks"),)
    return (Reading("rate.macs_per_s", macs * rate.value, macs * rate.low, macs * rate.high),)


METRIC = Metric("rate", "MAC/s", "higher", "MACs of the model a second, in back-to-back calls", measure)
