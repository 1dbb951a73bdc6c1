"""How much memory of the host a process takes that runs the cell, and what takes it: the ledger.

The lines add up to the peak: Python with effvit, the runtime, the weights, the images, the activations of a call, and
the residual that none of these explains (copies of weights in another order, graphs, allocators, what loading took for
a moment). A residual below zero is what the other lines count and memory does not hold.
"""

from __future__ import annotations

from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence, HostMemory


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return the peak of the process, what the model added to the bare runtime, and the lines of the ledger."""
    memory, weights_bytes = evidence.memory, evidence.artifact.size_bytes
    note = memory.note or f"read from {memory.source}"
    activations_bytes = _difference(memory.launch_peak_bytes, memory.bound_bytes)
    return (
        _reading("memory.host_peak_bytes", memory.peak_bytes, note),
        _reading("memory.host_model_bytes", _difference(memory.peak_bytes, memory.before_bytes), note),
        _reading("memory.python_bytes", memory.start_bytes, note),
        _reading("memory.runtime_bytes", _difference(memory.before_bytes, memory.start_bytes), note),
        Reading("memory.weights_bytes", weights_bytes, note="size of the artifact's file"),
        _reading("memory.images_bytes", memory.images_bytes, "size of the float32 batch"),
        _reading("memory.activations_bytes", activations_bytes, note),
        _reading("memory.residual_bytes", _residual(memory, weights_bytes, activations_bytes), note),
        _reading("memory.virtual_peak_bytes", memory.virtual_peak_bytes, "VmPeak: what was reserved, used or not"),
    )


def _reading(name: str, value: int | None, note: str) -> Reading:
    return Reading(name, value, note=note if value is not None else f"not available: {note}")


def _residual(memory: HostMemory, weights_bytes: int, activations_bytes: int | None) -> int | None:
    if memory.before_bytes is None or memory.images_bytes is None or activations_bytes is None:
        return None
    explained = memory.before_bytes + weights_bytes + memory.images_bytes + activations_bytes
    return _difference(memory.peak_bytes, explained)


def _difference(more: int | None, less: int | None) -> int | None:
    return None if more is None or less is None else more - less


METRIC = Metric(
    "memory", "bytes", "lower", "Resident memory of a process that runs the cell: its peak, and what takes it", measure
)
