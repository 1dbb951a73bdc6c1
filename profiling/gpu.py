"""What a GPU did beside a round of measuring, as its driver tells. Standard library, and NVML where it is installed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from effvit.nvml import open_nvml

T = TypeVar("T")
PROC = Path("/proc")

HEAT = "software thermal slowdown", "hardware thermal slowdown"
POWER_BRAKE = "hardware power brake"
SLOWDOWN = "hardware slowdown"
# What may hold clocks down, by the bits of NVML; the power cap is how a GPU is under full load.
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: SLOWDOWN,
    0x10: "sync boost",
    0x20: HEAT[0],
    0x40: HEAT[1],
    0x80: POWER_BRAKE,
    0x100: "display clocks",
}


@dataclass(frozen=True, slots=True)
class GpuConditions:
    """What a GPU did beside a round; None: not readable here, and `note` says which and why.

    Right after the round: the clocks `sm_hz` and `memory_hz`, the `reasons` that held them down, the temperature in
    degrees Celsius, the power, and how many `others` there are: processes besides this sweep's that compute on it.
    Since before the warm-up: `heat_s` for which heat held the clocks down, and the largest `others_share` of its time
    that the driver saw such a process have.
    """

    sm_hz: float | None
    memory_hz: float | None
    reasons: tuple[str, ...] | None
    heat_s: float | None
    temperature_c: float | None
    power_w: float | None
    others: int | None
    others_share: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of a GPU in bytes after launches, as its driver tells: that of the process, and all that is in use.

    Runtimes do not give back to the driver what they took for a launch, so it is their peak but for what loading took
    for a moment. None: the driver does not tell, and `note` says why.
    """

    process_bytes: int | None
    device_bytes: int | None
    note: str = ""


class GpuMeter:
    """Reads one GPU before and after rounds; `gpu` is its name with the driver, `GPU-` and a UUID."""

    def __init__(self, gpu: str, nvml: Any = None, proc: Path = PROC) -> None:
        """Find the GPU; `nvml` is the module of that interface (None: the installed `pynvml`)."""
        self._nvml, self._missing = open_nvml(nvml)
        self._proc = proc
        self._handle: Any = None
        self._heat_ns: int | None = None
        self._since_us = 0
        self._gaps: list[str] = []
        if self._nvml is not None:
            self._handle = self._asked(gpu, lambda: self._nvml.nvmlDeviceGetHandleByUUID(gpu))
            self._missing = "; ".join(self._gaps)

    def start(self) -> None:
        """Begin a round, before its warm-up: a GPU that waits for questions in between would lower its clocks."""
        self._since_us = time.time_ns() // 1000
        if self._handle is not None:
            self._heat_ns = self._heat()

    def conditions(self) -> GpuConditions:
        """Return what the GPU did in the round that has just ended."""
        if self._handle is None:
            return GpuConditions(None, None, None, None, None, None, None, None, self._missing)
        nvml, handle, self._gaps = self._nvml, self._handle, []
        # Clocks first: the GPU lowers them when it has nothing to do.
        sm_mhz = self._asked("SM clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        memory_mhz = self._asked("memory clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))
        bits = self._asked("slowdowns", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        power_mw = self._asked("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        heat_ns = self._heat()
        others = self._asked("processes", self._others)
        return GpuConditions(
            sm_hz=_scaled(sm_mhz, 1e6),
            memory_hz=_scaled(memory_mhz, 1e6),
            reasons=None if bits is None else tuple(name for bit, name in REASONS.items() if bits & bit),
            heat_s=None if heat_ns is None or self._heat_ns is None else (heat_ns - self._heat_ns) * 1e-9,
            temperature_c=self._asked(
                "temperature", lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
            ),
            power_w=_scaled(power_mw, 1e-3),
            others=None if others is None else len(others),
            others_share=None if others is None else self._asked("shares", lambda: self._share(others)),
            note="; ".join(self._gaps),
        )

    def memory(self) -> GpuMemory:
        """Return how much memory of the GPU this process has now, and how much of it is in use in all."""
        if self._handle is None:
            return GpuMemory(None, None, self._missing)
        self._gaps = []
        process_bytes = self._asked("memory of the process", self._own_bytes)
        device_bytes = self._asked("memory", lambda: int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used))
        return GpuMemory(process_bytes, device_bytes, "; ".join(self._gaps))

    def _own_bytes(self) -> int | None:
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        self._gaps.append(
            "memory of the process: the driver does not tell it, as in containers with numbers of their own"
        )
        return None

    def _asked(self, what: str, ask: Callable[[], T | None]) -> T | None:
        """Return an answer of the driver; None, with the reason among the gaps, where it gives none."""
        try:
            return ask()
        except self._nvml.NVMLError as error:
            self._gaps.append(f"{what}: {error}")
            return None

    def _heat(self) -> int | None:
        """Return for how many nanoseconds heat has held the clocks down so far."""
        nvml = self._nvml
        return self._asked(
            "heat", lambda: nvml.nvmlDeviceGetViolationStatus(self._handle, nvml.NVML_PERF_POLICY_THERMAL).violationTime
        )

    def _others(self) -> list[int] | None:
        """Return the processes that compute on the GPU and are none of this sweep's."""
        found = [process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)]
        if os.getpid() not in found:
            self._gaps.append("processes: the driver does not name ours, as in containers with numbers of their own")
            return None
        # Workers that are parked beside this one have the same parent.
        return [pid for pid in found if pid != os.getpid() and parent_of(pid, self._proc) != os.getppid()]

    def _share(self, others: Sequence[int]) -> float | None:
        if not others:
            return 0.0
        samples = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, self._since_us)
        return max((sample.smUtil / 100 for sample in samples if sample.pid in others), default=0.0)


def parent_of(pid: int, proc: Path = PROC) -> int | None:
    """Return the process that started `pid`; None where the kernel does not tell.

    Source:
        proc_pid_stat(5): the name in brackets may hold anything, state and parent follow it.
    """
    try:
        return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):  # ended in between; no /proc
        return None


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor
