"""Power that monitoring chips read on the supplies of a board. Standard library only.

Source:
    https://docs.kernel.org/hwmon/ina3221.html, and https://docs.kernel.org/hwmon/sysfs-interface.html: millivolts,
    milliamperes, microwatts
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effvit.profiling.hwmon import Chip
from effvit.pseudofiles import number_of, numbered, text_of

# Meters of currents (INA219, INA226, INA3221, ...), and what ACPI has for a whole machine.
_METERS = re.compile(r"ina[0-9]|power_meter$")
# What supplies a Jetson, or another board, as a whole; VIN_SYS_5V0 of larger ones is a part.
_OF_BOARD = re.compile(r"(?:VDD_|POM_5V_|5V_|DC_?)IN|VIN", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rail:
    """A supply: the chip and label it is told by, what it feeds, and the files of its power, or else of its factors."""

    name: str
    feeds: Literal["board", "cpu"]
    power: Path | None
    voltage: Path
    current: Path

    def watts(self) -> float | None:
        """Return the power now; None where the chip does not answer."""
        if self.power is not None:
            microwatts = number_of(self.power)
            return None if microwatts is None or microwatts < 0 else microwatts * 1e-6
        millivolts, milliamperes = number_of(self.voltage), number_of(self.current)
        if millivolts is None or milliamperes is None:
            return None
        # Chips of both directions tell a small current the other way where there is none.
        return max(0.0, millivolts * milliamperes * 1e-6)


def rails(chips: Iterable[Chip]) -> tuple[Rail, ...]:
    """Return the supply of the whole board, or else those of the processor: no power is in two of them."""
    found = [rail for chip in chips if _METERS.match(chip.name) for rail in _of_chip(chip)]
    return tuple([one for one in found if one.feeds == "board"][:1] or found)


def _of_chip(chip: Chip) -> Iterator[Rail]:
    for label, number in _labels(chip):
        feeds = _fed(chip, label)
        power = next((path for path in _power_files(chip, number) if path.exists()), None)
        voltage, current = (chip.folder / f"{kind}{number}_input" for kind in ("in", "curr"))
        if feeds is not None and (power is not None or (voltage.exists() and current.exists())):
            yield Rail(f"{chip.name} {label}".rstrip(), feeds, power, voltage, current)


def _labels(chip: Chip) -> Iterator[tuple[str, str]]:
    """Yield the label and the number of each channel that has one; a chip of one supply may have one for itself."""
    for path in [*numbered(chip.folder, "in*_label"), *numbered(chip.folder, "power*_label")]:
        yield text_of(path) or "", re.sub(r"\D", "", path.name)
    if (chip.folder / "label").exists() or chip.name == "power_meter":
        yield text_of(chip.folder / "label") or "", "1"


def _power_files(chip: Chip, number: str) -> Iterator[Path]:
    return (chip.folder / f"power{number}_{kind}" for kind in ("input", "average"))


def _fed(chip: Chip, label: str) -> Literal["board", "cpu"] | None:
    """Return what a supply feeds; None for others, and where no label tells."""
    if chip.name == "power_meter" or _OF_BOARD.fullmatch(label):
        return "board"
    return "cpu" if "CPU" in label.upper() else None
