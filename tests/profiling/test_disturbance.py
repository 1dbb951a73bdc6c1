"""Whether the machine was ours, from what the kernel counts."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from effvit.profiling.board import BoardConditions
from effvit.profiling.clocks import ClockTime
from effvit.profiling.disturbance import (
    PROC_STAT,
    TOLERANCE,
    Conditions,
    CoreTimes,
    Counters,
    clock_hz,
    conditions_between,
    core_times,
    disturbances,
    read_counters,
    throttle_count,
)

# Two cores, one second: 100 ticks each at 100 ticks a second.
QUIET = Conditions(
    wall_s=1.0,
    cpu_s=1.98,
    cores=2,
    steal_s=0.0,
    others_s=0.03,
    involuntary_switches=4,
    clock_hz=3e9,
    throttled=0,
)
# user nice system idle iowait irq softirq steal guest guest_nice
STAT = """cpu  999999 0 0 0 0 0 0 0 0 0
cpu0 100 20 30 5000 70 4 6 9 50 0
cpu1 1000 0 500 5000 70 0 0 1 0 0
cpu2 7777 0 0 0 0 0 0 7777 0 0
cpu20 7777 0 0 0 0 0 0 7777 0 0
intr 1 2 3
"""


@pytest.fixture(autouse=True)
def _ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effvit.profiling.disturbance.os.sysconf", lambda name: {"SC_CLK_TCK": 100}[name])


def disturbance(**changes: float | None) -> str:
    """Return what disturbed a round with `changes` that stands between two quiet ones."""
    found = disturbances([QUIET, replace(QUIET, **changes), QUIET], TOLERANCE)  # type: ignore[arg-type]
    assert (found[0], found[2]) == ("", "")
    return found[1]


def test_core_times_are_those_of_the_named_cores_in_seconds() -> None:
    # cpu0: 100 + 20 + 30 + 4 + 6 = 160 ticks busy, guest time being part of user; cpu1: 1500.
    assert core_times(STAT, [0]) == CoreTimes(busy_s=1.60, steal_s=0.09)
    assert core_times(STAT, [0, 1]) == CoreTimes(busy_s=16.60, steal_s=0.10)


def test_others_have_what_was_busy_and_not_ours() -> None:
    before = Counters(10.0, 5.0, 3, (0, 1), CoreTimes(100.0, 1.0), 3e9, 7)
    after = Counters(12.0, 8.5, 9, (0, 1), CoreTimes(104.0, 1.25), 2e9, 8)
    assert conditions_between(before, after) == Conditions(
        wall_s=2.0,
        cpu_s=3.5,
        cores=2,
        steal_s=0.25,
        others_s=0.5,
        involuntary_switches=6,
        clock_hz=2e9,
        throttled=1,
        lowest_hz=2e9,
    )


def test_ticks_that_lag_behind_the_process_leave_nothing_to_others() -> None:
    before = Counters(0.0, 0.0, 0, (0,), CoreTimes(0.0, 0.0), None, None)
    after = Counters(1.0, 0.995, 0, (0,), CoreTimes(0.99, 0.0), None, None)
    assert conditions_between(before, after).others_s == 0.0


def test_what_cannot_be_read_is_none_with_a_note() -> None:
    bare = Counters(0.0, 0.0, 0, (0,), None, None, None)
    found = conditions_between(bare, replace(bare, wall_s=1.0, cpu_s=1.0))
    assert (found.steal_s, found.others_s, found.clock_hz, found.throttled) == (None, None, None, None)
    assert all(word in found.note for word in ("/proc/stat", "cpufreq", "thermal_throttle"))
    assert disturbances([found], TOLERANCE) == [""]


def test_a_quiet_round_is_not_disturbed() -> None:
    assert disturbance() == ""
    assert disturbances([], TOLERANCE) == []


# Of 2 core seconds: 2 % are 0.04 s and 5 % are 0.1 s, beyond two doubtful ticks of 0.02 s.
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steal_s": 0.06}, ""),
        ({"steal_s": 0.0601}, "the hypervisor took 3 % of the cores"),
        ({"others_s": 0.12}, ""),
        ({"others_s": 0.40}, "other processes had 20 % of the cores"),
        ({"cpu_s": 0.90}, ""),
        ({"cpu_s": 0.60}, "the worker had a core for only 60 % of the time"),
        ({"throttled": 2}, "heat slowed the processor down 2 times"),
        ({"clock_hz": 2.7e9}, ""),
        ({"clock_hz": 1.5e9}, "the processor ran at 50 % of its usual clock"),
        ({"involuntary_switches": 10_000}, ""),
    ],
)
def test_a_round_is_disturbed_by_what_exceeds_the_tolerance(changes: dict[str, float], reason: str) -> None:
    assert disturbance(**changes) == reason


def test_one_stray_tick_in_a_short_round_proves_nothing() -> None:
    short = replace(QUIET, wall_s=0.02, cpu_s=0.04, others_s=0.02)  # half of its core seconds
    assert disturbances([short], TOLERANCE) == [""]


def test_a_worker_that_waits_in_every_round_is_not_kept_from_running() -> None:
    waiting = replace(QUIET, cpu_s=0.3)
    assert disturbances([waiting, replace(waiting, cpu_s=0.1)], TOLERANCE) == ["", ""]


def test_a_boost_that_ends_disturbs_nothing() -> None:
    boosted = replace(QUIET, clock_hz=4e9)
    assert disturbances([boosted, QUIET, QUIET], TOLERANCE) == ["", "", ""]


def test_clock_and_throttling_are_read_where_the_kernel_tells(tmp_path: Path) -> None:
    for core, khz, count in ((0, "3000000\n", "2\n"), (1, "2000000\n", "3\n"), (2, "<unknown>\n", "x\n")):
        for name, text in (("cpufreq/scaling_cur_freq", khz), ("thermal_throttle/core_throttle_count", count)):
            path = tmp_path / f"cpu{core}" / name
            path.parent.mkdir(parents=True)
            path.write_text(text)
    assert clock_hz(tmp_path, [0, 1, 2]) == 2.5e9
    assert throttle_count(tmp_path, [0, 1, 2]) == 5
    assert (clock_hz(tmp_path, [2, 3]), throttle_count(tmp_path, [3])) == (None, None)


def test_the_lowest_clock_is_that_of_the_time_counted_or_else_of_what_was_seen() -> None:
    before = Counters(0.0, 0.0, 0, (0,), None, 2.4e9, None, (ClockTime(0, 1.5e9, 10), ClockTime(0, 2.4e9, 10)))
    after = replace(before, wall_s=1.0, clock_hz=2.3e9, clocks=(ClockTime(0, 1.5e9, 60), ClockTime(0, 2.4e9, 60)))
    assert conditions_between(before, after).lowest_hz == 1.5e9
    bare = [replace(one, clocks=()) for one in (before, after)]
    assert conditions_between(*bare).lowest_hz == 2.3e9
    assert conditions_between(*(replace(one, clock_hz=None) for one in bare)).lowest_hz is None


def test_what_a_board_says_of_heat_and_power_disturbs_a_round() -> None:
    hot = replace(QUIET, board=BoardConditions(80.0, 85.0, ("it was hot", "the voltage was low"), None))
    unknown = replace(QUIET, board=BoardConditions(None, None, None, None))
    assert disturbances([QUIET, hot, unknown], TOLERANCE) == ["", "it was hot, the voltage was low", ""]


def test_a_busy_neighbour_is_seen_and_our_own_work_is_not_taken_for_one() -> None:
    if not PROC_STAT.exists():
        pytest.skip("what others do is read from /proc/stat")
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)  # until it has started
        before = read_counters()
        started = time.perf_counter()
        while time.perf_counter() - started < 0.5:
            pass
        found = conditions_between(before, read_counters())
    finally:
        hog.kill()
        hog.wait()
    assert found.others_s is not None
    # It may share its core with others, ours included: at least a quarter of one is its.
    assert found.others_s > 0.125
    assert 0 < found.cpu_s <= found.wall_s + 0.02
    assert disturbances([found], TOLERANCE)[0].startswith(("other processes had", "the hypervisor took"))
