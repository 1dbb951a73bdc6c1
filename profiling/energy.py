"""Energy of calls, by the counters of the machine.

Where there are none, the power of a board's supplies is read all the time and summed up.

A counter is of the whole machine, not of a process: what else runs is in it. Energy is therefore told twice, all of it
(gross) and without what the machine took before, while the cell was open and idle (net).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effvit.counters import POWERCAP, Counter, Device, Instruments, instruments
from effvit.hardware import ROOT
from effvit.profiling.hwmon import chips
from effvit.profiling.rails import Rail, rails
from effvit.profiling.records import Energy, EnergyWindow

IDLE_S = 1.0
MEASURED_S = 2.0
"""RAPL counts every millisecond, NVML every 20 to 100: of windows this long they are about a twentieth at the most."""
# An INA3221 has a new average a few times as often; each reading keeps its bus busy for a millisecond.
POLLED_S = 0.05


class RailCounter:
    """One supply of a board: its power over time, as straight lines between the moments at which it is read."""

    def __init__(self, rail: Rail, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device: Device = rail.feeds
        self.source = rail.name
        self._rail, self._clock = rail, clock
        self._alone = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._total_j = 0.0

    def joules(self) -> float:
        with self._alone:
            watts, now_s = self._rail.watts(), self._clock()
            if watts is None:  # the chip did not answer: the line goes on to the next moment at which it does
                return self._total_j
            if self._last is not None:
                last_s, last_w = self._last
                self._total_j += (now_s - last_s) * (watts + last_w) / 2
            self._last = now_s, watts
            return self._total_j


def all_instruments(powercap: Path = POWERCAP, nvml: Any = None, root: Path = ROOT) -> Instruments:
    """Return the counters of this machine as `instruments` does, or, where nothing counts, the supplies of its board.

    The same energy is in both, and supplies, those below `root`, have to be read all the time.
    """
    here = instruments(powercap, nvml)
    if here.counters:
        return here
    supplies = tuple(RailCounter(rail) for rail in rails(chips(root)) if rail.watts() is not None)
    if supplies:
        return Instruments(supplies, here.reasons, polled=True)
    return Instruments((), (*here.reasons, "no labelled supply of a board in /sys"))


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
    with _polling(here):
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
    # A supply that gave nothing did not answer.
    told = [one for one in windows if not here.polled or min(one.joules, one.idle_joules) > 0]
    silent = [f"{one.source} did not answer" for one in windows if one not in told]
    return Energy(tuple(told), images, "; ".join([*here.reasons, *silent]))


def _readings(counters: Sequence[Counter]) -> list[float]:
    return [counter.joules() for counter in counters]


@contextmanager
def _polling(here: Instruments) -> Iterator[None]:
    """Read the counters all the time where they have to be: nothing is timed in this pass."""
    if not here.polled:
        yield
        return
    done = threading.Event()

    def poll() -> None:
        while not done.wait(POLLED_S):
            _readings(here.counters)

    poller = threading.Thread(target=poll, daemon=True)
    poller.start()
    try:
        yield
    finally:
        done.set()
        poller.join()
