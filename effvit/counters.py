"""Counters of energy that processors (RAPL) and NVIDIA GPUs (NVML) keep, where they may be read.

A counter is of the whole machine, not of a process: what else runs is in it. Standard library, and NVML where it is
installed.

Source:
    https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from effvit.nvml import open_nvml

POWERCAP = Path("/sys/class/powercap")
Device = Literal["cpu", "gpu", "board"]


class Counter(Protocol):
    """What one device has taken so far."""

    device: Device
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

    device: Device = "cpu"

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

    device: Device = "gpu"

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.source = f"NVML GPU {index}"
        self._start_mj: int = nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)

    def joules(self) -> float:
        now_mj: int = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        return (now_mj - self._start_mj) * 1e-3


def instruments(powercap: Path = POWERCAP, nvml: Any = None) -> Instruments:
    """Return the counters of this machine; `nvml` is the module of that interface (None: the installed `pynvml`)."""
    rapl, rapl_reason = _rapl_counters(powercap)
    gpus, gpu_reason = _nvml_counters(nvml)
    return Instruments((*rapl, *gpus), tuple(filter(None, (rapl_reason, gpu_reason))))


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
