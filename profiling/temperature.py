"""How hot the processor is, by whatever sensor the machine has. Standard library only.

Source:
    https://docs.kernel.org/driver-api/thermal/sysfs-api.html: thousandths of a degree Celsius
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from effvit.profiling.hwmon import Chip
from effvit.pseudofiles import number_of, numbered, text_of

# Raspberry Pi: cpu-thermal; Jetson: cpu-thermal, soc0-thermal, tj-thermal; Rockchip: bigcore0-thermal; Intel:
# x86_pkg_temp, TCPU; older Jetsons: BCPU-therm.
_OF_PROCESSOR = re.compile(r"cpu|core|soc|pkg|(?:^|\b)tj(?:\b|-)", re.IGNORECASE)
_CHIPS = ("coretemp", "cpu_thermal", "k10temp", "soc_thermal", "zenpower")
# Sensors that are switched off tell 0, or -256 °C.
_LEAST_C, _MOST_C = -40.0, 150.0


@dataclass(frozen=True, slots=True)
class Temperature:
    """Degrees Celsius, and the sensor that told them."""

    celsius: float
    sensor: str


@dataclass(frozen=True, slots=True)
class Sensor:
    """A temperature sensor: its name, and the file that it is read from."""

    name: str
    path: Path


def processor_sensors(root: Path, chips: Iterable[Chip]) -> tuple[Sensor, ...]:
    """Return the sensors of the processor; where no name tells them from others, those of the whole machine."""
    zones = [
        Sensor(kind, zone / "temp")
        for zone in numbered(root / "sys/class/thermal", "thermal_zone*")
        if (kind := text_of(zone / "type")) is not None
    ]
    of_processor = [zone for zone in zones if _OF_PROCESSOR.search(zone.name)]
    return tuple(of_processor or _of_chips(chips) or zones)


def _of_chips(chips: Iterable[Chip]) -> list[Sensor]:
    return [
        Sensor(f"{chip.name} {text_of(path.with_name(path.name.replace('_input', '_label'))) or ''}".rstrip(), path)
        for chip in chips
        if chip.name in _CHIPS
        for path in numbered(chip.folder, "temp*_input")
    ]


def hottest(sensors: Sequence[Sensor]) -> Temperature | None:
    """Return the highest of what the sensors tell now; None where none of them tells anything."""
    return max(_told(sensors), key=lambda one: one.celsius, default=None)


def _told(sensors: Sequence[Sensor]) -> Iterator[Temperature]:
    for sensor in sensors:
        thousandths = number_of(sensor.path)
        if thousandths and _LEAST_C <= thousandths / 1e3 <= _MOST_C:
            yield Temperature(thousandths / 1e3, sensor.name)
