"""Resident memory of this process, from the kernel's own accounting. Standard library only."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


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


def forget_peak() -> None:
    """Let the peak start again from the present, where the kernel can: the next reading is of what comes now."""
    with suppress(OSError):
        CLEAR_REFS.write_text(FORGET_PEAK)


def _bytes(field: str | None) -> int | None:
    return None if field is None else int(field.split()[0]) * 1024
