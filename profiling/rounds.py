"""What two cells tell of one another that were measured in the same rounds: what slows a whole round cancels."""

from __future__ import annotations

from effvit.profiling import stats
from effvit.profiling.records import Evidence
from effvit.profiling.stats import Estimate


def latency_ratio(evidence: Evidence, reference: Evidence) -> Estimate | None:
    """Return the latency over that of `reference`; None where they share no rounds, no interval where only one."""
    if evidence.comparison != reference.comparison:
        return None
    return stats.speedup(evidence.samples, reference.samples)


def throughput_ratio(evidence: Evidence, reference: Evidence) -> Estimate | None:
    """Return the images a second over those of `reference`; None where they share no rounds."""
    if evidence.comparison != reference.comparison:
        return None
    ours, theirs = (stats.block_logs(one.throughput, one.samples) for one in (evidence, reference))
    return stats.paired_ratio(theirs, ours)
