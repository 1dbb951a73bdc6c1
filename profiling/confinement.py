"""A process held to its device: to some cores, and to an amount of memory. Standard library only."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from effvit.profiling.devices import Device, memory_text

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")
BY_RLIMIT = "RLIMIT_DATA"
BY_CGROUP = "cgroup v2 memory.max"


@dataclass(frozen=True, slots=True)
class Confinement:
    """What holds a process to its device, read back from the kernel; None where nothing does, or nobody tells.

    `cores` are the numbers of those it may run on. `memory_by` says which of two limits `memory_bytes` is: of a cgroup,
    which counts what is resident, or RLIMIT_DATA, which counts private memory that is set aside, used or not.
    """

    cores: tuple[int, ...] | None
    memory_bytes: int | None = None
    memory_by: str | None = None

    def departures(self, device: Device) -> list[str]:
        """Return what is not as the device has it, a phrase each."""
        found = []
        if device.threads is not None and self.cores is not None and len(self.cores) != device.threads:
            found.append(f"asked for {device.threads} of the cores, may run on {len(self.cores)}")
        if device.memory_bytes != self.memory_bytes:
            found.append(f"asked for {_size(device.memory_bytes)} of memory, has {_size(self.memory_bytes)}")
        return found


def _size(size_bytes: int | None) -> str:
    return "all" if size_bytes is None else memory_text(size_bytes)


def confine(device: Device, memory_by: str | None) -> Confinement:
    """Hold this process to `device` and return what the kernel says then.

    With `memory_by` a cgroup holds its memory already; otherwise a limit of the process does.
    """
    if device.threads is not None:
        os.sched_setaffinity(0, cores_for(device.threads))
    cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None
    if device.memory_bytes is None:
        return Confinement(cores)
    if memory_by is not None:
        return Confinement(cores, device.memory_bytes, memory_by)
    resource.setrlimit(resource.RLIMIT_DATA, (device.memory_bytes, device.memory_bytes))
    return Confinement(cores, resource.getrlimit(resource.RLIMIT_DATA)[0], BY_RLIMIT)


def cores_for(threads: int) -> set[int]:
    """Return `threads` of the usable cores, one hardware thread of each physical core before a second one of any."""
    taken: Counter[str] = Counter()
    ranked = []
    for core in sorted(os.sched_getaffinity(0)):
        siblings = _siblings(core)
        ranked.append((taken[siblings], core))
        taken[siblings] += 1
    return {core for _, core in sorted(ranked)[:threads]}


def _siblings(core: int) -> str:
    try:
        return (TOPOLOGY / f"cpu{core}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:  # some virtual machines do not tell: every core counts as one of its own
        return str(core)


class MemoryGroup:
    """A cgroup with a memory limit, for one process and what it starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def close(self) -> None:
        """Remove the group, whose processes have ended; the kernel may need a moment to notice."""
        for _ in range(50):
            with suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.01)


def memory_group(
    limit_bytes: int, process: int, root: Path = CGROUPS, membership: Path = MEMBERSHIP
) -> MemoryGroup | None:
    """Put `process` into a cgroup of its own with at most `limit_bytes`, swap included; None where we may not.

    The group is made below our own or beside it: a group that holds processes, as ours does, may have none below it
    with a memory limit, unless it is the root.
    """
    for parent in _parents(root, membership):
        folder = parent / f"effvit-{process}"
        try:
            if "memory" not in (parent / "cgroup.subtree_control").read_text().split():
                continue
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / "memory.max").write_text(str(limit_bytes))
            with suppress(FileNotFoundError):  # a kernel without accounting of swap
                (folder / "memory.swap.max").write_text("0")
            (folder / "cgroup.procs").write_text(str(process))
        except OSError:
            MemoryGroup(folder).close()
            continue
        return MemoryGroup(folder)
    return None


def _parents(root: Path, membership: Path) -> list[Path]:
    """Return where a group could be made in the one hierarchy of version 2; nothing where there is none."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    paths = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    if not paths or not (root / "cgroup.controllers").exists():
        return []
    own = root / paths[0]
    return [own] if own == root else [own, own.parent]
