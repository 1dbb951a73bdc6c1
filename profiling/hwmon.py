"""Monitoring chips as the kernel lists them. Standard library only.

Source:
    https://docs.kernel.org/hwmon/sysfs-interface.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from effvit.pseudofiles import numbered, text_of


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip, or what looks like one: its driver's name, and the folder of its readings."""

    name: str
    folder: Path


def chips(root: Path) -> tuple[Chip, ...]:
    """Return the chips below `root`; nothing where the kernel lists none."""
    folders = numbered(root / "sys/class/hwmon", "hwmon*")
    return tuple(Chip(name, folder) for folder in folders if (name := text_of(folder / "name")) is not None)
