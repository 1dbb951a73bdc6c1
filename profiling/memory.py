"""Resident memory of this process, from the kernel's own accounting. Standard library only."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class ResidentMemory:
    """Resident bytes now and at their highest, and where the readings come from; None where there is none."""

    now_bytes: int | None
    peak_bytes: int | None
    source: str
    note: str = ""


def resident_memory() -> ResidentMemory:
    """Read the resident memory of this process."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return ResidentMemory(_bytes(fields.get("VmRSS")), _bytes(fields.get("VmHWM")), "VmRSS and VmHWM of /proc")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return ResidentMemory(None, peak, "getrusage", "the present resident memory cannot be read without /proc")


def _bytes(field: str | None) -> int | None:
    return None if field is None else int(field.split()[0]) * 1024
