from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvit.profiling.report.pareto import Standing, standings
from effvit.profiling.stats import Estimate


def _exact(*values: float | None) -> list[Estimate | None]:
    return [None if value is None else Estimate(value) for value in values]


def test_a_point_that_is_worse_in_both_is_beaten() -> None:
    assert standings(_exact(0.9, 0.8, 0.7), _exact(2.0, 1.0, 3.0)) == ["front", "front", "beaten"]


def test_equal_gain_at_a_higher_cost_is_beaten_and_equal_points_share_the_front() -> None:
    assert standings(_exact(0.9, 0.9, 0.9), _exact(1.0, 2.0, 1.0)) == ["front", "beaten", "front"]


def test_points_without_a_number_neither_stand_nor_beat() -> None:
    assert standings(_exact(0.9, None, 0.5), _exact(None, 1.0, 9.0)) == [None, None, "front"]


def test_a_point_whose_interval_overlaps_the_front_cannot_be_told_from_it() -> None:
    gains = [Estimate(0.80, 0.78, 0.82), Estimate(0.79, 0.77, 0.81), Estimate(0.70, 0.68, 0.72)]
    costs = [Estimate(1.0, 0.9, 1.1), Estimate(1.05, 0.95, 1.15), Estimate(1.05, 0.95, 1.15)]
    # The third is certainly less accurate, but perhaps faster than either: 0.95 is less than 1.1.
    assert standings(gains, costs) == ["front", "near", "near"]
    slower = [*costs[:2], Estimate(1.5, 1.4, 1.6)]
    assert standings(gains, slower) == ["front", "near", "beaten"]


def test_both_lists_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        standings(_exact(1.0, 2.0), _exact(1.0))


def test_no_points_are_no_standings() -> None:
    assert standings([], []) == []
    assert standings(_exact(None), _exact(1.0)) == [None]


GRID = st.sampled_from((0.0, 1.0, 2.0, 3.0, 4.0))
RANGE = st.tuples(GRID, GRID, GRID).map(sorted).map(lambda ends: Estimate(ends[1], ends[0], ends[2]))
POINT = st.one_of(st.none(), RANGE, GRID.map(Estimate))


def _brute_force(points: list[tuple[Estimate | None, Estimate | None]]) -> list[Standing | None]:
    """Return the standings by the words of the definition, one pair of points after the other."""

    def ends(one: Estimate) -> tuple[float, float]:
        return (one.value if one.low is None else one.low, one.value if one.high is None else one.high)

    found: list[Standing | None] = []
    for gain, cost in points:
        if gain is None or cost is None:
            found.append(None)
            continue
        standing: Standing = "front"
        for other_gain, other_cost in points:
            if other_gain is None or other_cost is None:
                continue
            worst, best = (ends(other_gain)[0], ends(other_cost)[1]), (ends(gain)[1], ends(cost)[0])
            if worst[0] >= best[0] and worst[1] <= best[1] and worst != best:
                standing = "beaten"
                break
            values = (other_gain.value, other_cost.value)
            if values[0] >= gain.value and values[1] <= cost.value and values != (gain.value, cost.value):
                standing = "near"
        found.append(standing)
    return found


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(POINT, POINT), max_size=9))
def test_standings_are_those_of_the_definition(points: list[tuple[Estimate | None, Estimate | None]]) -> None:
    assert standings([gain for gain, _ in points], [cost for _, cost in points]) == _brute_force(points)
