"""What a machine takes while something goes on that lasts: an epoch of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from effvit.counters import Instruments

READ_EVERY_S = 30.0
"""A processor's counter wraps round after some minutes at full power, which only shows to who reads it meanwhile."""


@dataclass(frozen=True, slots=True)
class EnergyTaken:
    """What all processors and all GPUs of a machine took, whatever ran on them; None where `note` says why not."""

    cpu_joules: float | None
    gpu_joules: float | None
    note: str | None = None


class EnergyMeter:
    """Reads the counters of this machine from `begin` to `end`, and meanwhile wherever it is let `look`."""

    def __init__(self, here: Instruments, clock: Callable[[], float] = time.monotonic) -> None:
        self._here, self._clock = here, clock
        self._begun: list[float] = []
        self._read_s = 0.0

    def begin(self) -> None:
        """Count from now on."""
        self._begun = self._readings()

    def look(self) -> None:
        """Read the counters if it has been long: to be called every now and then."""
        if self._clock() - self._read_s >= READ_EVERY_S:
            self._readings()

    def end(self) -> EnergyTaken:
        """Return what was taken since the beginning."""
        taken = [after - before for before, after in zip(self._begun, self._readings(), strict=True)]
        cpu, gpu = (
            _sum(joules for counter, joules in zip(self._here.counters, taken, strict=True) if counter.device == device)
            for device in ("cpu", "gpu")
        )
        return EnergyTaken(cpu, gpu, "; ".join(self._here.reasons) or None)

    def _readings(self) -> list[float]:
        self._read_s = self._clock()
        return [counter.joules() for counter in self._here.counters]


def together(parts: Iterable[EnergyTaken]) -> EnergyTaken:
    """Return what several parts of a work took together, which is known only where all of them tell."""
    known = list(parts)
    notes = dict.fromkeys(one.note for one in known if one.note is not None)
    return EnergyTaken(
        _sum(one.cpu_joules for one in known), _sum(one.gpu_joules for one in known), "; ".join(notes) or None
    )


def _sum(parts: Iterable[float | None]) -> float | None:
    values = list(parts)
    told = [value for value in values if value is not None]
    return sum(told) if told and len(told) == len(values) else None
