"""How long cores ran at which clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import draw, policy

from effvit.profiling.clocks import ClockTime, clock_times, lowest_hz

CPUS = Path("sys/devices/system/cpu")


def states(core: int, *ticks: int, clocks: tuple[float, ...] = (0.6e9, 1.5e9, 2.4e9)) -> tuple[ClockTime, ...]:
    return tuple(ClockTime(core, hz, count) for hz, count in zip(clocks, ticks, strict=True))


def test_the_time_at_each_clock_is_read_once_for_cores_that_share_it(tmp_path: Path) -> None:
    times = "1500000 7250\n2400000 91003\n"
    tree = policy(0, "0 1", 1_500_000, 2_400_000, "ondemand")
    draw(tmp_path, {**tree, **{str(CPUS / f"cpu{core}/cpufreq/stats/time_in_state"): times for core in (0, 1)}})
    expected = (ClockTime(0, 1.5e9, 7250), ClockTime(0, 2.4e9, 91003))
    assert clock_times(tmp_path / CPUS, [0, 1]) == expected
    assert clock_times(tmp_path / CPUS, [7]) == ()


@pytest.mark.parametrize(
    ("before", "after", "lowest"),
    [
        (states(0, 10, 20, 30), states(0, 10, 20, 80), 2.4e9),
        (states(0, 10, 20, 30), states(0, 10, 40, 60), 1.5e9),
        # Two ticks at the lowest clock may be booked to the wrong one; three are not.
        (states(0, 10, 20, 30), states(0, 12, 20, 80), 2.4e9),
        (states(0, 10, 20, 30), states(0, 13, 20, 80), 0.6e9),
        # A core that idles at its lowest clock beside one that computes.
        (states(0, 0, 0, 0) + states(1, 0, 0, 0), states(0, 50, 0, 0) + states(1, 0, 0, 50), 2.4e9),
        # Small cores ran at all they have: the large ones, which did not, are what counts.
        (
            states(0, 0, 0, 0) + states(4, 0, 0, 0, clocks=(0.6e9, 1.0e9, 1.8e9)),
            states(0, 0, 50, 0) + states(4, 0, 0, 50, clocks=(0.6e9, 1.0e9, 1.8e9)),
            1.5e9,
        ),
        ((), (), None),
        (states(0, 1, 1, 1), states(0, 1, 1, 2), None),
    ],
)
def test_the_lowest_clock_is_that_of_the_fastest_cores(
    before: tuple[ClockTime, ...], after: tuple[ClockTime, ...], lowest: float | None
) -> None:
    assert lowest_hz(before, after) == lowest


@given(st.text(max_size=80))
def test_odd_lines_are_left_out(text: str) -> None:
    from effvit.profiling.clocks import _times

    assert all(one.hz > 0 for one in _times(0, text))
