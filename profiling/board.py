"""What a board's own sensors tell beside a round of measuring. Standard library only.

They are read before the warm-up and after everything else, never while a call is timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from effvit.hardware import ROOT
from effvit.profiling.hwmon import chips
from effvit.profiling.rails import rails
from effvit.profiling.temperature import Temperature, hottest, processor_sensors
from effvit.profiling.throttling import BrakeReader, Brakes, held_back, vcgencmd


@dataclass(frozen=True, slots=True)
class BoardConditions:
    """What a board's sensors told of a round; None: not readable here, and `note` says which and why.

    `start_c` and `end_c` are the temperatures in degrees Celsius before the warm-up and right after the round, by the
    processor's hottest sensor, which was `sensor` in the end. `held_back` is what slowed the processor down, each as
    half a sentence; empty where nothing did. `power_w` is that of the supplies `rail` right after the round.
    """

    start_c: float | None
    end_c: float | None
    held_back: tuple[str, ...] | None
    power_w: float | None
    sensor: str = ""
    rail: str = ""
    note: str = ""


class BoardMeter:
    """Looks once for the sensors of the machine below `root`, and reads them before and after rounds."""

    def __init__(self, root: Path = ROOT, tool: str | None = None) -> None:
        """Look for sensors; `tool` asks the firmware of a Raspberry Pi (None: the installed `vcgencmd`)."""
        found = chips(root)
        self._sensors = processor_sensors(root, found)
        self._brakes = BrakeReader(root, found, tool or vcgencmd())
        self._rails = rails(found)
        self._before: tuple[Temperature | None, Brakes] | None = None

    def start(self) -> None:
        """Begin a round, before its warm-up."""
        self._before = hottest(self._sensors), self._brakes.read()

    def conditions(self) -> BoardConditions:
        """Return what the sensors tell of the round that has just ended; of now alone where none was begun."""
        power_w = self._power_w()  # first: the load has just ended
        end, after = hottest(self._sensors), self._brakes.read()
        start, before = self._before or (end, after)
        held = held_back(before, after)
        gaps = [
            "temperature: no sensor of the processor in /sys" if start is None or end is None else "",
            "slowing down: neither cooling devices nor a firmware that tells" if held is None else "",
            "power: no labelled supply in /sys" if power_w is None else "",
        ]
        return BoardConditions(
            start_c=None if start is None else start.celsius,
            end_c=None if end is None else end.celsius,
            held_back=held,
            power_w=power_w,
            sensor="" if end is None else end.sensor,
            rail="" if power_w is None else " + ".join(rail.name for rail in self._rails),
            note="; ".join(filter(None, gaps)),
        )

    def _power_w(self) -> float | None:
        told = [rail.watts() for rail in self._rails]
        known = [watts for watts in told if watts is not None]
        return sum(known) if told and len(known) == len(told) else None
