"""How long cores ran at which clock, as the kernel counts it. Standard library only.

Source:
    https://docs.kernel.org/cpu-freq/cpufreq-stats.html: kHz and time in ticks of 10 ms, a line each clock
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from effvit.pseudofiles import number_from, text_of

# Time is booked in ticks, here and there one to the wrong clock: as many prove nothing.
_DOUBTFUL_TICKS = 2


@dataclass(frozen=True, slots=True)
class ClockTime:
    """For how many ticks, since the start of the machine, the core `core` and those it shares a clock with ran so."""

    core: int
    hz: float
    ticks: int


def clock_times(cpus: Path, cores: Iterable[int]) -> tuple[ClockTime, ...]:
    """Return the time at each clock of the first of all `cores` that share one; nothing where that is not counted."""
    found: dict[str, tuple[ClockTime, ...]] = {}
    for core in cores:
        folder = cpus / f"cpu{core}" / "cpufreq"
        together = text_of(folder / "related_cpus") or str(core)
        if together not in found:
            found[together] = tuple(_times(core, text_of(folder / "stats/time_in_state") or ""))
    return tuple(time for times in found.values() for time in times)


def _times(core: int, text: str) -> Iterable[ClockTime]:
    for line in text.splitlines():
        words = line.split()
        khz, ticks = map(number_from, words) if len(words) == 2 else (None, None)
        if khz is not None and ticks is not None and khz > 0:
            yield ClockTime(core, khz * 1e3, ticks)


def lowest_hz(before: Sequence[ClockTime], after: Sequence[ClockTime]) -> float | None:
    """Return the lowest clock at which the fastest cores ran between two readings for longer than a moment.

    Of cores with clocks of their own it is that of the one that kept its clock up best: others may have been idle. None
    where the time is not counted.
    """
    earlier = {(one.core, one.hz): one.ticks for one in before}
    clocks: dict[int, list[float]] = defaultdict(list)
    ran: dict[int, list[float]] = defaultdict(list)
    for one in after:
        clocks[one.core].append(one.hz)
        known = earlier.get((one.core, one.hz))
        if known is not None and one.ticks - known > _DOUBTFUL_TICKS:
            ran[one.core].append(one.hz)
    top = max((max(known) for known in clocks.values()), default=0.0)
    return max((min(ran[core]) for core, known in clocks.items() if max(known) == top and core in ran), default=None)
