"""What a call on a GPU consists of when its images come from the host and its logits go back there.

A pass of its own tells it, with one call in flight. `latency_s` has neither of the transfers: there, the images lie on
the GPU already, and the logits stay.
"""

from __future__ import annotations

from statistics import median

from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import DeviceTimes, Evidence

PARTS = ("end_to_end", "enqueue", "host_to_device", "compute", "device_to_host")


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return medians: from host to host, the host's time until a launch returns, and the GPU's for the three parts."""
    times = evidence.device_times
    if times is None:
        return _gaps("the processor computed, or a runtime that does not tell the parts of a call")
    if not times.end_to_end_s:
        return _gaps(times.note)
    note = f"{times.clock}; {len(times.end_to_end_s)} calls, {times.queue_depth} in flight; no interval: one pass"
    return tuple(Reading(f"device_s.{part}", median(_seconds(times, part)), note=note) for part in PARTS)


def _seconds(times: DeviceTimes, part: str) -> tuple[float, ...]:
    return {
        "end_to_end": times.end_to_end_s,
        "enqueue": times.enqueue_s,
        "host_to_device": times.host_to_device_s,
        "compute": times.compute_s,
        "device_to_host": times.device_to_host_s,
    }[part]


def _gaps(note: str) -> tuple[Reading, ...]:
    return tuple(Reading(f"device_s.{part}", None, note=note) for part in PARTS)


METRIC = Metric(
    "device_s", "s", "lower", "Time of a call on a GPU from host to host: enqueueing, transfers, computing", measure
)
