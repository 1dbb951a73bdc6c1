"""The tables behind the table: how well a cell uses the machine, what takes a call on a GPU, and how hot it became."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from effvit.export.pins import PinCost
from effvit.profiling.heat import heat_of
from effvit.profiling.report import display, quantities
from effvit.profiling.report.display import Column
from effvit.profiling.report.quantities import ABSENT
from effvit.profiling.report.rows import Row
from effvit.profiling.stats import Estimate


def _measured(row: Row) -> bool:
    return row.outcome.evidence is not None


@dataclass(frozen=True, slots=True)
class Detail:
    """A table of its own for what the table of all cells has no room for, and what its numbers mean.

    Only rows that it `has` something for are in it.
    """

    title: str
    meaning: str
    columns: tuple[Column, ...]
    has: Callable[[Row], bool] = _measured


def macs_per_s(row: Row) -> str:
    """Return multiply-accumulates a second: `61 GMAC/s`."""
    reading = row.reading("rate.macs_per_s")
    return ABSENT if reading.value is None else quantities.si(reading.value, "MAC/s", reading.low, reading.high)


def bound(row: Row) -> str:
    """Return what takes longer by the roofline: `compute` or `memory`."""
    ratio = row.reading("efficiency.compute_to_memory").value
    if ratio is None:
        return ABSENT
    return "compute" if ratio >= 1 else "memory"


def pin_cost(row: Row) -> str:
    """Return how many times as long a call takes as without modules in fp32, and how that is known."""
    cost = row.pin_cost
    if cost is not None:
        return f"{_times(cost)} the time of the same without, in the same rounds"
    evidence = row.outcome.evidence
    pinned = None if evidence is None else evidence.artifact.pinned
    if pinned is None or pinned.cost is None:
        return ABSENT
    known = pinned.cost
    on = f"batch {known.batch} on {known.threads} thread{'s' * (known.threads != 1)}"
    doubt = f"; unstable: {known.unstable}" if known.unstable else ""
    return f"{_times(known)} the time of the same without when it was exported, {on}{doubt}"


def _times(cost: Estimate | PinCost) -> str:
    interval = "" if cost.low is None or cost.high is None else f" ({cost.low:.3f}x to {cost.high:.3f}x)"
    return f"{cost.value:.3f}x{interval}"


def _share(name: str, sign: str = "") -> Callable[[Row], str]:
    """Return what renders the share called `name`: `61 % (±2)`, with `sign` before it."""

    def text(row: Row) -> str:
        reading = row.reading(name)
        return ABSENT if reading.value is None else sign + quantities.percent(reading.value, reading.low, reading.high)

    return text


def _degrees(name: str) -> Callable[[Row], str]:
    """Return what renders the temperature called `name`: `84 °C`."""

    def text(row: Row) -> str:
        value = row.reading(name).value
        return ABSENT if value is None else f"{value:.0f} °C"

    return text


def _in_unit(name: str, unit: str) -> Callable[[Row], str]:
    """Return what renders the reading called `name` in its unit: `1.5 GHz`."""

    def text(row: Row) -> str:
        value = row.reading(name).value
        return ABSENT if value is None else quantities.si(value, unit)

    return text


def slowed(row: Row) -> str:
    """Return in how many rounds heat, or want of power, slowed the machine down: `3 of 9`."""
    evidence = row.outcome.evidence
    heat = None if evidence is None else heat_of(evidence)
    return ABSENT if heat is None or heat.slowed is None else f"{heat.slowed} of {heat.rounds}"


def _reasons(row: Row) -> str:
    evidence = row.outcome.evidence
    return ABSENT if evidence is None else "; ".join(heat_of(evidence).reasons) or ABSENT


_HEAT = ("temperature_c.peak", "clock_hz.lowest", "slowed.rounds", "power_w.supply")
# What names a cell; the first column of the table of all cells holds the signs of its fronts.
_NAMING = display.NAMING[1:]
DETAILS = (
    Detail(
        "Efficiency",
        "What the model's multiply-accumulates and bytes take of what numpy reached on this machine in fp32: in "
        "products of square matrices, and in copies of arrays that no cache holds. A runtime's kernels may be faster "
        "than numpy's, so a share may exceed 100 %. The bytes are a lower bound: every weight once a call, pixels "
        "once, and what passes from block to block twice; where a cache holds them, less comes from memory. A cell "
        "is bound by what of the two takes longer, which is its roofline.",
        (
            *_NAMING,
            Column("MACs a second", macs_per_s),
            Column("of the GEMM rate", _share("efficiency.gemm_share")),
            Column("of the bandwidth", _share("efficiency.bandwidth_share", "≥ ")),
            Column("of the roofline", _share("efficiency.roofline_share", "≥ ")),
            Column("bound by", bound, numeric=False),
        ),
    ),
    Detail(
        "Kept in fp32",
        "Modules that stay in fp32 in an artifact of lower precision, and what that costs. Where the same artifact "
        "without them was measured in the same rounds, the ratio is paired round by round; where it was refused, both "
        "were timed in turns when the modules were found.",
        (
            *_NAMING,
            Column("kept in fp32", lambda row: ", ".join(row.outcome.cell.pins), numeric=False),
            Column("takes", pin_cost, numeric=False),
        ),
        has=lambda row: bool(row.outcome.cell.pins),
    ),
    Detail(
        "Calls on a GPU",
        "Medians of a pass of its own after the rounds, with one call in flight. From host to host is by the host's "
        "clock: images from page-locked memory to the GPU, the pass, logits back, and the wait for them. Enqueueing is "
        "how long the launch took to return; where that is as long as computing, the processor and not the GPU sets "
        "the pace. The other three are told by CUDA events. The latency of all other tables has no transfer in "
        "it: launch and wait, with the images on the GPU.",
        (
            *_NAMING,
            Column("latency p50", display.latency),
            Column("host to host", _in_unit("device_s.end_to_end", "s")),
            Column("enqueueing", _in_unit("device_s.enqueue", "s")),
            Column("host to device", _in_unit("device_s.host_to_device", "s")),
            Column("computing", _in_unit("device_s.compute", "s")),
            Column("device to host", _in_unit("device_s.device_to_host", "s")),
        ),
        has=lambda row: row.reading("device_s.end_to_end").value is not None,
    ),
    Detail(
        "Heat and power",
        "What the machine's own sensors told before the warm-up of each round and right after it, rounds that are left "
        "out included. The temperature is that of the processor's hottest sensor, the clock the lowest at which the "
        "fastest cores ran for longer than a moment, and the power that of the board's supply. A round in which heat, "
        "or want of power, slowed the machine down is disturbed: it is repeated, and left out where enough others are "
        "there.",
        (
            *_NAMING,
            Column("latency p50", display.latency),
            Column("at first", _degrees("temperature_c.start")),
            Column("at most", _degrees("temperature_c.peak")),
            Column("lowest clock", _in_unit("clock_hz.lowest", "Hz")),
            Column("power", _in_unit("power_w.supply", "W")),
            Column("rounds slowed down", slowed),
            Column("slowed down by", _reasons, numeric=False),
        ),
        has=lambda row: any(row.reading(name).value is not None for name in _HEAT),
    ),
)
