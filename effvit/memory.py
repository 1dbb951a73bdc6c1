"""Resident memory of this process, from the kernel's own accounting. Standard library only."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
MEMINFO = Path("/proc/meminfo")
CLEAR_REFS = Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


@dataclass(frozen=True, slots=True)
class ResidentMemory:
    """Resident bytes now and at their highest, and where the readings come from; None where there is none.

    `virtual_peak_bytes` is the most that was reserved, used or not.
    """

    now_bytes: int | None
    peak_bytes: int | None
    source: str
    note: str = ""
    virtual_peak_bytes: int | None = None


def resident_memory() -> ResidentMemory:
    """Read the resident memory of this process."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        now, peak, virtual = (_bytes(fields.get(name)) for name in ("VmRSS", "VmHWM", "VmPeak"))
        return ResidentMemory(now, peak, "VmRSS and VmHWM of /proc", virtual_peak_bytes=virtual)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return ResidentMemory(None, peak, "getrusage", "the present resident memory cannot be read without /proc")


def forget_peak() -> bool:
    """Let the peak start again from the present, and return whether the kernel could.

    If so, the next reading is of what comes now.
    """
    try:
        CLEAR_REFS.write_text(FORGET_PEAK)
    except OSError:
        return False
    return True


def available_bytes() -> int | None:
    """Return what new processes can take without others being moved out; None where the kernel does not tell."""
    if not MEMINFO.exists():
        return None
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return _bytes(fields.get("MemAvailable"))


def limit_data(size_bytes: int) -> int:
    """Let this process take no more than `size_bytes` of data, or what it was limited to before; return the limit.

    Data is all memory that it may write to and shares with nobody, whether or not it is in use yet (RLIMIT_DATA).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = min([size_bytes, *(earlier for earlier in (soft, hard) if earlier != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return limit


def _bytes(field: str | None) -> int | None:
    return None if field is None else int(field.split()[0]) * 1024
