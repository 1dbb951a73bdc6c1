from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvit.profiling.report.pareto import Standing, standings
from effvit.profiling.stats import Estimate, Floats


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


def test_what_pairs_say_goes_before_what_the_intervals_of_both_say() -> None:
    gains = [Estimate(0.80, 0.78, 0.82), Estimate(0.79, 0.77, 0.81)]
    costs = [Estimate(1.0, 0.9, 1.1), Estimate(1.01, 0.91, 1.11)]
    assert standings(gains, costs) == ["front", "near"]
    better, cheaper = _pairs(0.002), _pairs(0.008)
    assert standings(gains, costs, better, cheaper) == ["front", "beaten"]
    assert standings(gains, costs, better) == ["front", "near"]
    assert standings(gains, costs, better, _pairs(-0.001)) == ["front", "near"]
    # And they may leave open what intervals that lie apart would not.
    apart = [Estimate(1.0, 0.9, 1.1), Estimate(2.0, 1.9, 2.1)]
    assert standings(gains, apart, better) == ["front", "beaten"]
    assert standings(gains, apart, better, _pairs(-0.001)) == ["front", "near"]


def test_what_is_as_good_beyond_doubt_and_cheaper_beats() -> None:
    gains, costs = _exact(0.8, 0.8), [Estimate(1.0, 0.9, 1.1), Estimate(1.01, 0.91, 1.11)]
    assert standings(gains, costs, None, _pairs(0.008)) == ["front", "beaten"]
    assert standings(gains, costs, None, _pairs(0.0)) == ["front", "near"]


def test_what_pairs_call_beaten_is_on_no_front_whatever_its_value() -> None:
    gains, costs = _exact(0.8, 0.8), [Estimate(1.0, 0.9, 1.1), Estimate(1.01, 0.91, 1.11)]
    wins_by_pairs = np.array([[np.nan, 0.001], [-0.003, np.nan]])
    assert standings(gains, costs, None, wins_by_pairs) == ["beaten", "near"]


def _pairs(margin: float) -> Floats:
    """Return that the first of two points is better than the second by `margin` at least, and not the other way."""
    return np.array([[np.nan, -1.0], [margin, np.nan]])


def test_both_lists_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        standings(_exact(1.0, 2.0), _exact(1.0))


def test_no_points_are_no_standings() -> None:
    assert standings([], []) == []
    assert standings(_exact(None), _exact(1.0)) == [None]


GRID = st.sampled_from((0.0, 1.0, 2.0, 3.0, 4.0))
RANGE = st.tuples(GRID, GRID, GRID).map(sorted).map(lambda ends: Estimate(ends[1], ends[0], ends[2]))
POINT = st.one_of(st.none(), RANGE, GRID.map(Estimate))


@st.composite
def _tables(draw: st.DrawFn) -> tuple[list[tuple[Estimate | None, Estimate | None]], Floats, Floats]:
    """Return points, and what is known of some of their pairs in gain and in cost."""
    points = draw(st.lists(st.tuples(POINT, POINT), max_size=6))
    count = len(points)
    margins = st.lists(st.sampled_from((np.nan, np.nan, -1.0, 0.0, 1.0)), min_size=count**2, max_size=count**2)
    gain, cost = (np.array(draw(margins)).reshape(count, count) for _ in range(2))
    np.fill_diagonal(gain, np.nan)
    np.fill_diagonal(cost, np.nan)
    return points, gain, cost


def _brute_force(
    points: list[tuple[Estimate | None, Estimate | None]], pairs: tuple[Floats, Floats] | None = None
) -> list[Standing | None]:
    """Return the standings by the words of the definition, one pair of points after the other."""

    def certainly(which: int, one: int, other: int, apart: float) -> float:
        paired = np.nan if pairs is None else float(pairs[which][one, other])
        return apart if np.isnan(paired) else paired

    def ends(one: Estimate) -> tuple[float, float]:
        return (one.value if one.low is None else one.low, one.value if one.high is None else one.high)

    found: list[Standing | None] = []
    for one, (gain, cost) in enumerate(points):
        if gain is None or cost is None:
            found.append(None)
            continue
        standing: Standing = "front"
        for other, (other_gain, other_cost) in enumerate(points):
            if other_gain is None or other_cost is None:
                continue
            more = certainly(0, one, other, ends(other_gain)[0] - ends(gain)[1])
            less = certainly(1, one, other, ends(cost)[0] - ends(other_cost)[1])
            if more >= 0 and less >= 0 and (more, less) != (0, 0):
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


@settings(max_examples=1000, deadline=None)
@given(_tables())
def test_standings_of_pairs_are_those_of_the_definition(
    table: tuple[list[tuple[Estimate | None, Estimate | None]], Floats, Floats],
) -> None:
    points, gain, cost = table
    found = standings([gain for gain, _ in points], [cost for _, cost in points], gain, cost)
    assert found == _brute_force(points, (gain, cost))
