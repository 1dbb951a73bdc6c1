"""Whether the machine was ours: what it did beside a round of measuring, read without privileges, and what that means.

Standard library only. Linux tells what others did in /proc and /sys; elsewhere those readings are None with a note.
What GPUs did is read elsewhere, and judged here.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from effvit.environment import usable_cores
from effvit.profiling.board import BoardConditions
from effvit.profiling.clocks import ClockTime, clock_times, lowest_hz
from effvit.profiling.gpu import HEAT, POWER_BRAKE, SLOWDOWN, GpuConditions

PROC_STAT = Path("/proc/stat")
CPUS = Path("/sys/devices/system/cpu")

# Taking this share of the cores away makes a call longer by as much: what is measured to 2 % cannot bear more.
STEAL_SHARE = 0.02
# Daemons and kernel threads of an idle machine stay below; above it a call on every core waits visibly. Half a core of
# ten counts although the cell may use one core alone, because cores share caches, memory and clock.
OTHERS_SHARE = 0.05
# The kernel books processor time in ticks, here and there one to the wrong process: as many prove nothing.
DOUBTFUL_TICKS = 2
# A cell whose threads compute all the time shows at least this much processor time a second of its best round ...
BUSY_SHARE = 0.95
# ... and one that then shows less than this was kept waiting, whoever did that.
IDLE_SHARE = 0.90
# Against the median of the cell's rounds, not the best: a boost that ends after some seconds is how the processor is.
CLOCK_SHARE = 0.90


@dataclass(frozen=True, slots=True)
class Conditions:
    """What went on while one round was measured, warm-up excluded.

    `wall_s` is what it took. `cpu_s` is the processor time of the worker, all its threads together, and
    `involuntary_switches` how often they were taken off a core. `steal_s` is what the hypervisor took of the `cores`
    that the worker may use, `others_s` what other processes had of them. `clock_hz` is the mean clock of those cores at
    the end, `throttled` how often one of them slowed down because of heat. None: not readable here, and `note` says
    which and why. `gpu` tells of the GPU that computed, if one did. `lowest_hz` is the lowest clock of the fastest
    cores in between, and `board` what the board's sensors tell; None in files of versions that did not read them.
    """

    wall_s: float
    cpu_s: float
    cores: int
    steal_s: float | None
    others_s: float | None
    involuntary_switches: int | None
    clock_hz: float | None
    throttled: int | None
    note: str = ""
    gpu: GpuConditions | None = None
    lowest_hz: float | None = None
    board: BoardConditions | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of a cell: its number among the interleaved rounds, and what disturbed it; empty if nothing did.

    Before it, launches that were not timed took `warmup_s` seconds; None in files of versions that did not write it.
    """

    round: int
    conditions: Conditions
    disturbed: str = ""
    warmup_s: float | None = None


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a round may suffer before it counts as disturbed, as shares of the cores that the worker may use.

    Others may have as large a share of a GPU's time, and its clock is held against the same share of its usual one.
    """

    steal: float = STEAL_SHARE
    others: float = OTHERS_SHARE
    idle: float = IDLE_SHARE
    clock: float = CLOCK_SHARE


TOLERANCE = Tolerance()


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Seconds since the start of the machine that some cores were busy, and that the hypervisor took of them."""

    busy_s: float
    steal_s: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Running totals of this process and of its cores at one moment; differences of two make `Conditions`."""

    wall_s: float
    cpu_s: float
    involuntary_switches: int
    cores: tuple[int, ...]
    times: CoreTimes | None
    clock_hz: float | None
    throttled: int | None
    clocks: tuple[ClockTime, ...] = ()


def read_counters() -> Counters:
    """Read what the kernel counts about this process and the cores it may run on."""
    cores = _cores()
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Counters(
        wall_s=time.perf_counter(),
        cpu_s=sum(usage.ru_utime + usage.ru_stime for usage in own),
        involuntary_switches=sum(usage.ru_nivcsw for usage in own),
        cores=cores,
        times=core_times(PROC_STAT.read_text(), cores) if PROC_STAT.exists() else None,
        clock_hz=clock_hz(CPUS, cores),
        throttled=throttle_count(CPUS, cores),
        clocks=clock_times(CPUS, cores),
    )


def conditions_between(before: Counters, after: Counters) -> Conditions:
    """Return what went on between two readings of one process."""
    cpu_s = after.cpu_s - before.cpu_s
    steal_s = others_s = None
    if before.times is not None and after.times is not None:
        steal_s = after.times.steal_s - before.times.steal_s
        # Ticks and the finer account of the process differ a little, in either direction.
        others_s = max(0.0, after.times.busy_s - before.times.busy_s - cpu_s)
    throttled = None
    if before.throttled is not None and after.throttled is not None:
        throttled = after.throttled - before.throttled
    gaps = [
        "what others did: no /proc/stat" if others_s is None else "",
        "clock: no cpufreq in /sys" if after.clock_hz is None else "",
        "throttling: no thermal_throttle in /sys" if throttled is None else "",
    ]
    return Conditions(
        wall_s=after.wall_s - before.wall_s,
        cpu_s=cpu_s,
        cores=len(after.cores),
        steal_s=steal_s,
        others_s=others_s,
        involuntary_switches=after.involuntary_switches - before.involuntary_switches,
        clock_hz=after.clock_hz,
        throttled=throttled,
        note="; ".join(filter(None, gaps)),
        lowest_hz=_lowest_hz(before, after),
    )


def _lowest_hz(before: Counters, after: Counters) -> float | None:
    """Return the lowest clock in between; where its time is not counted, the lower of the two that were seen."""
    seen = [one for one in (before.clock_hz, after.clock_hz) if one is not None]
    return lowest_hz(before.clocks, after.clocks) or min(seen, default=None)


def disturbances(rounds: Sequence[Conditions], tolerance: Tolerance) -> list[str]:
    """Return what disturbed each of the rounds of one cell, as half a sentence, or an empty text where nothing did.

    How busy the worker is by itself tells the best of its rounds: one that waits for a GPU is idle in all of them.
    """
    busiest = max((one.cpu_s / one.wall_s for one in rounds), default=0.0)
    usual_hz = median([one.clock_hz or 0.0 for one in rounds]) if rounds else 0.0
    clocks_hz = [one.gpu.sm_hz for one in rounds if one.gpu is not None and one.gpu.sm_hz is not None]
    usual_sm_hz = median(clocks_hz) if clocks_hz else 0.0
    return [
        _disturbance(one, busiest, usual_hz, tolerance) or _of_gpu(one.gpu, one.wall_s, usual_sm_hz, tolerance)
        for one in rounds
    ]


def _disturbance(one: Conditions, busiest: float, usual_hz: float, tolerance: Tolerance) -> str:
    available_s = one.wall_s * one.cores
    doubtful_s = DOUBTFUL_TICKS / os.sysconf("SC_CLK_TCK")
    if one.steal_s is not None and one.steal_s - doubtful_s > tolerance.steal * available_s:
        return f"the hypervisor took {100 * one.steal_s / available_s:.0f} % of the cores"
    if one.others_s is not None and one.others_s - doubtful_s > tolerance.others * available_s:
        return f"other processes had {100 * one.others_s / available_s:.0f} % of the cores"
    if busiest >= BUSY_SHARE and one.cpu_s < tolerance.idle * one.wall_s:
        return f"the worker had a core for only {100 * one.cpu_s / one.wall_s:.0f} % of the time"
    if held := held_back(one):
        return held
    if one.clock_hz is not None and one.clock_hz < tolerance.clock * usual_hz:
        return f"the processor ran at {100 * one.clock_hz / usual_hz:.0f} % of its usual clock"
    return ""


def held_back(one: Conditions) -> str:
    """Return what heat, or want of power, did to the processor in a round, as half a sentence; empty for nothing."""
    if one.throttled:
        return f"heat slowed the processor down {one.throttled} times"
    return "" if one.board is None else ", ".join(one.board.held_back or ())


def gpu_held_back(gpu: GpuConditions | None, wall_s: float, tolerance: Tolerance = TOLERANCE) -> str:
    """Return what heat, or want of power, did to the GPU in a round of `wall_s` seconds, as `held_back` does."""
    reasons = () if gpu is None else gpu.reasons or ()
    # Slowed down at the end, or before for as large a share of the round as others may not take either.
    if any(heat in reasons for heat in HEAT) or (gpu is not None and (gpu.heat_s or 0.0) > tolerance.steal * wall_s):
        return "heat slowed the GPU down"
    if POWER_BRAKE in reasons:
        return "the power supply slowed the GPU down"
    return "the GPU slowed itself down" if SLOWDOWN in reasons else ""


def _of_gpu(gpu: GpuConditions | None, wall_s: float, usual_hz: float, tolerance: Tolerance) -> str:
    if gpu is None:
        return ""
    if held := gpu_held_back(gpu, wall_s, tolerance):
        return held
    if gpu.others_share is not None and gpu.others_share > tolerance.others:
        return f"other processes had {100 * gpu.others_share:.0f} % of the GPU's time"
    if gpu.others and gpu.others_share is None:
        return f"other processes, {gpu.others} of them, compute on the GPU"
    if gpu.sm_hz is not None and gpu.sm_hz < tolerance.clock * usual_hz:
        return f"the GPU ran at {100 * gpu.sm_hz / usual_hz:.0f} % of its usual clock"
    return ""


def core_times(text: str, cores: Iterable[int]) -> CoreTimes:
    """Return the times of `cores` from the content of /proc/stat.

    Source:
        proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, in ticks; guest time is part of user.
    """
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    wanted = {f"cpu{core}" for core in cores}
    busy = steal = 0
    for line in text.splitlines():
        name, *numbers = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, stolen = (int(number) for number in numbers[:8])
            busy += user + nice + system + irq + softirq
            steal += stolen
    return CoreTimes(busy / ticks_per_s, steal / ticks_per_s)


def clock_hz(cpus: Path, cores: Iterable[int]) -> float | None:
    """Return the mean clock of `cores`, or None where the kernel does not tell; virtual machines mostly do not."""
    khz = _readings(cpus, cores, "cpufreq/scaling_cur_freq")
    return 1e3 * sum(khz) / len(khz) if khz else None


def throttle_count(cpus: Path, cores: Iterable[int]) -> int | None:
    """Return how often `cores` were slowed down by heat since the start, or None where that is not counted."""
    counts = _readings(cpus, cores, "thermal_throttle/core_throttle_count")
    return sum(counts) if counts else None


def _readings(cpus: Path, cores: Iterable[int], name: str) -> list[int]:
    found = []
    for core in cores:
        try:
            found.append(int((cpus / f"cpu{core}" / name).read_text()))
        except (OSError, ValueError):  # not there; "<unknown>" while a core changes its clock
            continue
    return found


def _cores() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(usable_cores()))
