"""How much memory of a GPU a process takes that runs the cell, and how much of it is in use in all.

Read once, after launches, in the process that is weighed and not timed. Runtimes keep what they took for a launch.
"""

from __future__ import annotations

from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence

NAMES = ("gpu_memory.process_bytes", "gpu_memory.device_bytes")
SOURCE = "read from NVML after the launches"


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return what the driver counts for the process, and for everyone."""
    gpu = evidence.memory.gpu
    known = (
        ("process", None if gpu is None else gpu.process_bytes),
        ("device", None if gpu is None else gpu.device_bytes),
    )
    gap = "no GPU computed, or a runtime that does not tell which" if gpu is None else f"not available: {gpu.note}"
    return tuple(
        Reading(f"gpu_memory.{name}_bytes", value, note=gap if value is None else SOURCE) for name, value in known
    )


METRIC = Metric("gpu_memory", "bytes", "lower", "Memory of the GPU: the process's, and all that is in use", measure)
