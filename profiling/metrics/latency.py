"""How long one call takes: launched, and waited for; on a GPU the images lie there already, and the logits stay."""

from __future__ import annotations

from effvit.profiling import stats
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence, Samples


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return the median with its interval, and the percentiles that the sample count supports."""
    samples = evidence.samples
    median = stats.median_interval(samples)
    note = "" if median.low is not None else "no interval: fewer than 2 rounds"
    return (
        Reading("latency_s.p50", median.value, median.low, median.high, note),
        _percentile("latency_s.p90", samples, 0.90),
        _percentile("latency_s.p95", samples, 0.95),
        _percentile("latency_s.p99", samples, 0.99),
        _percentile("latency_s.p99.9", samples, 0.999),
    )


def _percentile(name: str, samples: Samples, share: float) -> Reading:
    value = stats.percentile_s(samples, share)
    if value is None:
        count = len(stats.counted(samples).seconds)
        return Reading(name, None, note=f"{count} of {stats.samples_needed(share)} samples needed")
    return Reading(name, value)


METRIC = Metric("latency_s", "s", "lower", "Time of one call: median with interval, p90, p95, p99, p99.9", measure)
