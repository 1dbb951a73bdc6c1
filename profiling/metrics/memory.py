"""How much memory of the host the worker process holds."""

from __future__ import annotations

from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return the peak of the process, and what the model added to the bare runtime."""
    memory = evidence.memory
    note = memory.note or f"read from {memory.source}"
    model_bytes = None
    if memory.peak_bytes is not None and memory.before_bytes is not None:
        model_bytes = memory.peak_bytes - memory.before_bytes
    return (
        Reading("memory.host_peak_bytes", memory.peak_bytes, note=note),
        Reading("memory.host_model_bytes", model_bytes, note=note),
    )


METRIC = Metric(
    "memory", "bytes", "lower", "Resident memory of the worker: at its peak, and added by the model", measure
)
