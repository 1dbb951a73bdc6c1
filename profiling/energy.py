"""Energy from the counters that processors (RAPL) and NVIDIA GPUs (NVML) keep, where they may be read.

Where there are none, the power of a board's supplies is read all the time and summed up.

A counter is of the whole machine, not of a process: what else runs is in it. Energy is therefore told twice, all of it
(gross) and without what the machine took before, while the cell was open and idle (net).

Source:
    https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from effvit.hardware import ROOT
from effvit.profiling.hwmon import chips
from effvit.profiling.nvml import open_nvml
from effvit.profiling.rails import Rail, rails
from effvit.profiling.records import Energy, EnergyWindow

POWERCAP = Path("/sys/class/powercap")
IDLE_S = 1.0
MEASURED_S = 2.0
"""RAPL counts every millisecond, NVML every 20 to 100: of windows this long they are about a twentieth at the most."""
# An INA3221 has a new average a few times as often; each reading keeps its bus busy for a millisecond.
POLLED_S = 0.05


class Counter(Protocol):
    """What one device has taken so far."""

    device: Literal["cpu", "gpu", "board"]
    source: str

    def joules(self) -> float:
        """Return the energy since the counter was made."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """The counters that can be read here, and why others cannot; `polled` ones have to be read all the time."""

    counters: tuple[Counter, ...]
    reasons: tuple[str, ...]
    polled: bool = False


NO_INSTRUMENTS = Instruments((), ("no energy counter was looked for",))


class RaplCounter:
    """One processor package; it wraps round after some minutes at full power, and has to be read more often.

    Raises:
        OSError: The kernel lets only root read it, say.
    """

    device: Literal["cpu", "gpu", "board"] = "cpu"

    def __init__(self, folder: Path) -> None:
        self._energy = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self.source = f"RAPL {(folder / 'name').read_text().strip()}"
        self._last_uj = int(self._energy.read_text())
        self._total_uj = 0

    def joules(self) -> float:
        now_uj = int(self._energy.read_text())
        step_uj = now_uj - self._last_uj
        self._total_uj += step_uj if step_uj >= 0 else step_uj + self._range_uj
        self._last_uj = now_uj
        return self._total_uj * 1e-6


class NvmlCounter:
    """One NVIDIA GPU, Volta or newer.

    Raises:
        pynvml.NVMLError: The GPU keeps no such counter.
    """

    device: Literal["cpu", "gpu", "board"] = "gpu"

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.source = f"NVML GPU {index}"
        self._start_mj: int = nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)

    def joules(self) -> float:
        now_mj: int = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        return (now_mj - self._start_mj) * 1e-3


class RailCounter:
    """One supply of a board: its power over time, as straight lines between the moments at which it is read."""

    def __init__(self, rail: Rail, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device: Literal["cpu", "gpu", "board"] = rail.feeds
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


def instruments(powercap: Path = POWERCAP, nvml: Any = None, root: Path = ROOT) -> Instruments:
    """Return the counters of this machine; `nvml` is the module of that interface (None: the installed `pynvml`).

    The supplies of a board below `root` are taken only where nothing else counts: the same energy is in both.
    """
    rapl, rapl_reason = _rapl_counters(powercap)
    gpus, gpu_reason = _nvml_counters(nvml)
    reasons = tuple(filter(None, (rapl_reason, gpu_reason)))
    if rapl or gpus:
        return Instruments((*rapl, *gpus), reasons)
    supplies = tuple(RailCounter(rail) for rail in rails(chips(root)) if rail.watts() is not None)
    if supplies:
        return Instruments(supplies, reasons, polled=True)
    return Instruments((), (*reasons, "no labelled supply of a board in /sys"))


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


def _rapl_counters(powercap: Path) -> tuple[tuple[Counter, ...], str]:
    # Packages alone: cores and memory (intel-rapl:0:0) are parts of them, and psys has them in it.
    folders = sorted(folder for folder in powercap.glob("intel-rapl:*") if folder.name.count(":") == 1)
    try:
        packages = [folder for folder in folders if (folder / "name").read_text().startswith("package")]
        if not packages:
            return (), f"no RAPL counter in {powercap}"
        return tuple(RaplCounter(folder) for folder in packages), ""
    except OSError as error:
        return (), f"RAPL cannot be read: {(error.strerror or type(error).__name__).lower()}"


def _nvml_counters(nvml: Any) -> tuple[tuple[Counter, ...], str]:
    nvml, reason = open_nvml(nvml)
    if nvml is None:
        return (), reason
    try:
        count: int = nvml.nvmlDeviceGetCount()
        counters = tuple(NvmlCounter(nvml, index) for index in range(count))
    except nvml.NVMLError as error:
        return (), f"NVML cannot be read: {error}"
    return counters, "" if counters else "NVML knows no GPU"
