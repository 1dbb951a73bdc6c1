"""What share of the machine's own rates a model reaches, and which of the two bounds it.

The roofline: a call takes at least as long as its MACs at the machine's rate of matrix products, and as its bytes at
the machine's bandwidth. The bytes are a lower bound (see `CallWork`): what they call memory-bound is so as long as no
cache holds them between blocks, and what they call compute-bound may still wait for memory between its operators.

Source:
    Williams, Waterman and Patterson 2009, https://doi.org/10.1145/1498765.1498785
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from effvit.profiling import stats
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Calibration, Evidence
from effvit.profiling.stats import Estimate

_GEMM, _MEMORY, _ROOF, _BALANCE = (
    "efficiency.gemm_share", "efficiency.bandwidth_share", "efficiency.roofline_share", "efficiency.compute_to_memory",
)  # fmt: skip
_DISTURBED = "other processes ran during the calibration: its rates are too low"


@dataclass(frozen=True, slots=True)
class _Call:
    """The least that one call takes: for its MACs, and for its bytes."""

    images: int
    compute_s: float
    memory_s: float | None


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return shares of the machine's rates, and the ratio of the two least times: above 1, MACs take longer."""
    calibration, work = evidence.calibration, evidence.work
    rate = stats.images_per_second(evidence.throughput)
    if calibration is None or work is None:
        return _gaps("no calibration of this machine belongs to this cell")
    if rate is None:
        return _gaps("no back-to-back block was measured")
    memory_s = None if work.least_bytes is None else work.least_bytes / calibration.bytes_per_s
    call = _Call(work.images, work.images * evidence.cost.macs / calibration.macs_per_s, memory_s)
    return tuple(_readings(call, rate, _note(calibration)))


def _readings(call: _Call, rate: Estimate, note: str) -> Iterator[Reading]:
    yield _share(_GEMM, call.compute_s, call, rate, note)
    if call.memory_s is None:
        unknown = "the bytes of this artifact were not counted: export it again"
        yield from (Reading(name, None, note=unknown) for name in (_MEMORY, _ROOF, _BALANCE))
        return
    least = f"at least; {note}"
    yield _share(_MEMORY, call.memory_s, call, rate, least)
    yield _share(_ROOF, max(call.compute_s, call.memory_s), call, rate, least)
    yield Reading(_BALANCE, call.compute_s / call.memory_s, note=f"at most; {note}")


def _share(name: str, least_s: float, call: _Call, rate: Estimate, note: str) -> Reading:
    """Return the least time of a call over the time it took, the interval that of the rate of images."""
    of_an_image = least_s / call.images
    low, high = (None if end is None else end * of_an_image for end in (rate.low, rate.high))
    return Reading(name, rate.value * of_an_image, low, high, note)


def _gaps(note: str) -> tuple[Reading, ...]:
    return tuple(Reading(name, None, note=note) for name in (_GEMM, _MEMORY, _ROOF, _BALANCE))


def _note(calibration: Calibration) -> str:
    threads = "1 thread" if calibration.threads == 1 else f"{calibration.threads} threads"
    rates = f"fp32 products and copies in {calibration.library}, {threads}"
    return f"{rates}; {_DISTURBED}" if calibration.disturbed else rates


METRIC = Metric(
    "efficiency", "share", "higher", "Share of the machine's own GEMM rate, bandwidth and roofline", measure
)
