"""Energy of calls, by the counters of the machine.

A counter is of the whole machine, not of a process: what else runs is in it. Energy is therefore told twice, all of it
(gross) and without what the machine took before, while the cell was open and idle (net).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from effvit.counters import Counter, Instruments
from effvit.profiling.records import Energy, EnergyWindow

IDLE_S = 1.0
MEASURED_S = 2.0
"""RAPL counts every millisecond, NVML every 20 to 100: of windows this long they are about a twentieth at the most."""


def measure_energy(
    here: Instruments,
    run: Callable[[], int],
    *,
    idle_s: float = IDLE_S,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> Energy:
    """Read the counters over `idle_s` seconds of nothing and then over `run`, which returns how many images it passed.

    Without a counter nothing is run: the result says why.
    """
    if not here.counters:
        return Energy((), 0, "; ".join(here.reasons))
    start_s, start = clock(), _readings(here.counters)
    sleep(idle_s)
    middle_s, middle = clock(), _readings(here.counters)
    images = run()
    end_s, end = clock(), _readings(here.counters)
    windows = tuple(
        EnergyWindow(
            device=counter.device,
            source=counter.source,
            joules=after - between,
            seconds=end_s - middle_s,
            idle_joules=between - before,
            idle_s=middle_s - start_s,
        )
        for counter, before, between, after in zip(here.counters, start, middle, end, strict=True)
    )
    return Energy(windows, images, "; ".join(here.reasons))


def _readings(counters: Sequence[Counter]) -> list[float]:
    return [counter.joules() for counter in counters]
