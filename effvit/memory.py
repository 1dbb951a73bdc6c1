"""Memory of processes and of this machine, from the kernel's own accounting. Standard library only."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")
MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CLEAR_REFS = Path("/proc/self/clear_refs")
# What limits a cgroup, what counts as used in it, and how memory.stat calls the idle part of that.
GROUP_FILES = "memory.max", "memory.current", "inactive_file"
GROUP_FILES_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
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
        return _of_status(STATUS.read_text())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return ResidentMemory(None, peak, "getrusage", "the present resident memory cannot be read without /proc")


def resident_memory_of(process: int) -> ResidentMemory:
    """Read the resident memory of another process."""
    try:
        return _of_status(Path(f"/proc/{process}/status").read_text())
    except OSError:
        return ResidentMemory(None, None, "", "the process has ended, or there is no /proc")


def forget_peak() -> bool:
    """Let the peak start again from the present, and return whether the kernel could.

    If so, the next reading is of what comes now.
    """
    try:
        CLEAR_REFS.write_text(FORGET_PEAK)
    except OSError:
        return False
    return True


def available_bytes(groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """Return what new processes can take without others being moved out; None where the kernel does not tell.

    That is what the machine has left, or less where a limit holds for this process and others: that of a container.
    """
    found = list(_left_in_groups(groups, membership))
    with suppress(OSError):
        found += filter(None, [_bytes(_fields(MEMINFO.read_text()).get("MemAvailable"))])
    return min(found, default=None)


def _left_in_groups(root: Path, membership: Path) -> Iterator[int]:
    """Yield what every cgroup around this process has left of its limit, in both versions of the hierarchy.

    Source:
        https://docs.kernel.org/admin-guide/cgroup-v2.html#memory
        https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        limit, used, idle = GROUP_FILES_1 if controllers else GROUP_FILES
        own = base / path.lstrip("/")
        for folder in (own, *own.parents):
            # No limit ("max"), or none that can be seen from here.
            with suppress(OSError, ValueError):
                cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                # What was read from files and not been used for a while is given up when needed.
                taken = int((folder / used).read_text()) - int(cached.get(idle, 0))
                yield max(0, int((folder / limit).read_text()) - taken)
            if folder == base:
                break


def limit_data(size_bytes: int) -> int:
    """Let this process take no more than `size_bytes` of data, or what it was limited to before; return the limit.

    Data is all memory that it may write to and shares with nobody, whether or not it is in use yet (RLIMIT_DATA).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = min([size_bytes, *(earlier for earlier in (soft, hard) if earlier != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return limit


def _of_status(text: str) -> ResidentMemory:
    now, peak, virtual = (_bytes(_fields(text).get(name)) for name in ("VmRSS", "VmHWM", "VmPeak"))
    return ResidentMemory(now, peak, "VmRSS and VmHWM of /proc", virtual_peak_bytes=virtual)


def _fields(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _bytes(field: str | None) -> int | None:
    return None if field is None else int(field.split()[0]) * 1024
