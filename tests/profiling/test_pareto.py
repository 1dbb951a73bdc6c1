import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvit.profiling.report.pareto import front

GRID = st.sampled_from((None, 0.0, 1.0, 2.0, 3.0))


def test_a_point_that_is_worse_in_both_is_beaten() -> None:
    assert front([0.9, 0.8, 0.7], [2.0, 1.0, 3.0]) == (True, True, False)


def test_equal_gain_at_a_higher_cost_is_beaten() -> None:
    assert front([0.9, 0.9], [1.0, 2.0]) == (True, False)


def test_equal_points_share_the_front() -> None:
    assert front([0.9, 0.9], [1.0, 1.0]) == (True, True)


def test_points_without_a_number_neither_stand_nor_beat() -> None:
    assert front([0.9, None, 0.5], [None, 1.0, 9.0]) == (False, False, True)


def test_both_lists_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        front([1.0, 2.0], [1.0])


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(GRID, GRID), max_size=12))
def test_the_front_is_what_no_weighting_of_a_pair_rejects(points: list[tuple[float | None, float | None]]) -> None:
    gains, costs = [gain for gain, _ in points], [cost for _, cost in points]
    # Another route: walk by rising cost, and keep whatever has more gain than everything cheaper before it.
    known = {(gain, cost) for gain, cost in points if gain is not None and cost is not None}
    expected, best = set(), float("-inf")
    for cost in sorted({cost for _, cost in known}):
        gain = max(gain for gain, other in known if other == cost)
        if gain > best:
            expected.add((gain, cost))
            best = gain
    assert front(gains, costs) == tuple(point in expected for point in points)
