"""Choices under constraints, by hand and against brute force."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import make_cell

from effvit.profiling.candidates import (
    DROP,
    Candidate,
    Check,
    best,
    more_needed,
    nearest_miss,
    relaxations,
)
from effvit.profiling.stats import Estimate

CELL = make_cell()
NAMES = ("latency_p50", "memory", DROP)


def candidate(merit: float, *values: float | None, half: float | None = None) -> Candidate:
    """Return a candidate whose checks have these values, each of at most 1, with intervals of this half-width."""
    checks = []
    for name, value in zip(NAMES, values, strict=False):
        ends = (None, None) if value is None or half is None else (value - half, value + half)
        checks.append(Check(name, 1.0, None if value is None else Estimate(value, *ends)))
    return Candidate(f"merit {merit}", CELL, "run", Estimate(merit), merit, tuple(checks))


@pytest.mark.parametrize(
    ("value", "half", "state", "met"),
    [
        (0.9, None, "satisfied", True),
        (1.0, None, "satisfied", True),
        (1.1, None, "not", False),
        (0.9, 0.05, "satisfied", True),
        (0.9, 0.2, "perhaps", True),
        (1.1, 0.2, "perhaps", False),
        (1.3, 0.2, "not", False),
        (None, None, "unknown", False),
    ],
)
def test_a_limit_is_kept_by_interval_and_by_estimate(
    value: float | None, half: float | None, state: str, met: bool
) -> None:
    (check,) = candidate(1.0, value, half=half).checks
    assert (check.state, check.met) == (state, met)


def test_an_excess_is_a_share_of_the_limit_but_points_of_accuracy() -> None:
    assert Check("memory", 4.0, Estimate(5.0)).excess == 0.25
    assert Check(DROP, 0.01, Estimate(0.03)).excess == pytest.approx(0.02)
    assert Check("memory", 4.0, Estimate(3.0)).excess == 0.0


def test_the_binding_limit_is_the_one_that_costs_most() -> None:
    """By hand: memory alone keeps out 12 and 20, latency alone 11; 30 exceeds both and no single step admits it."""
    chosen = candidate(10.0, 0.9, 0.9)
    others = [
        candidate(11.0, 1.1, 0.5),
        candidate(12.0, 0.5, 1.2),
        candidate(20.0, 0.5, 1.5),
        candidate(30.0, 1.1, 1.1),
        candidate(9.0, 1.01, 0.5),
        candidate(40.0, None, 0.5),
    ]
    memory, latency = relaxations([chosen, *others], best([one for one in [chosen, *others] if one.met]))
    assert (memory.name, memory.needed, memory.candidate.merit) == ("memory", 1.2, 12.0)
    assert memory.gain == pytest.approx(0.2)
    assert memory.most_gain == pytest.approx(1.0)
    assert (latency.name, latency.needed, latency.candidate.merit) == ("latency_p50", 1.1, 11.0)
    assert latency.most_gain == pytest.approx(0.1)


def test_no_limit_binds_the_best_of_all() -> None:
    chosen = candidate(10.0, 0.9)
    assert relaxations([chosen, candidate(9.0, 1.1)], chosen) == []


def test_the_nearest_is_the_one_whose_largest_excess_is_smallest() -> None:
    near = candidate(1.0, 1.2, 1.2)
    assert nearest_miss([candidate(9.0, 1.3, 0.1), near, candidate(5.0, None, 1.0)]) is near
    assert nearest_miss([candidate(5.0, None, 1.0)]) is None


def test_twice_as_narrow_takes_four_times_as_many() -> None:
    assert more_needed(5, half_width=0.04, gap=0.02) == 15
    assert more_needed(5, half_width=0.01, gap=0.02) == 1
    assert more_needed(5, half_width=0.01, gap=0.0) is None


VALUES = st.sampled_from((None, 0.5, 0.9, 1.0, 1.1, 1.5, 2.0))
CANDIDATES = st.lists(
    st.builds(candidate, st.sampled_from((1.0, 2.0, 3.0, 5.0, 8.0)), VALUES, VALUES, VALUES), max_size=8
)


def met_with(one: Candidate, limits: dict[str, float]) -> bool:
    values = [(check.name, check.value) for check in one.checks]
    return all(value is not None and value.value <= limits[name] for name, value in values)


def highest(candidates: list[Candidate], limits: dict[str, float]) -> float | None:
    return max((one.merit for one in candidates if met_with(one, limits)), default=None)


@settings(max_examples=1000, deadline=None)
@given(CANDIDATES)
def test_choice_and_relaxations_are_what_trying_every_limit_finds(candidates: list[Candidate]) -> None:
    limits = dict.fromkeys(NAMES, 1.0)
    choice = best([one for one in candidates if one.met])
    now = highest(candidates, limits)
    assert (None if choice is None else choice.merit) == now
    found = {one.name: one for one in relaxations(candidates, choice)}
    for name in NAMES:
        steps = [(most, highest(candidates, {**limits, name: most})) for most in (1.1, 1.5, 2.0)]
        better = [(most, merit) for most, merit in steps if merit is not None and (now is None or merit > now)]
        assert (name in found) == bool(better)
        if better:
            assert (found[name].needed, found[name].candidate.merit) == better[0]
            assert found[name].gain == (None if now is None else pytest.approx(better[0][1] / now - 1))
            assert found[name].most_gain == (None if now is None else pytest.approx(better[-1][1] / now - 1))
    order = [one.most_gain or 0.0 for one in relaxations(candidates, choice)]
    assert order == sorted(order, reverse=True)
    known = [one for one in candidates if all(check.value is not None for check in one.checks)]
    nearest = nearest_miss(candidates)
    assert (nearest is None) == (not known)
    if nearest is not None:
        excesses = [max(max(0.0, check.value.value - 1) for check in one.checks if check.value) for one in known]
        assert max(max(0.0, check.value.value - 1) for check in nearest.checks if check.value) == min(excesses)


@settings(max_examples=1000, deadline=None)
@given(CANDIDATES)
def test_the_nearest_is_what_giving_way_on_all_limits_alike_admits_first(candidates: list[Candidate]) -> None:
    """Limits are 1, so that a share beyond one and an amount beyond it are the same number."""
    known = [one for one in candidates if all(check.value is not None for check in one.checks)]
    steps = [step for step in (0.0, 0.1, 0.5, 1.0) if highest(known, dict.fromkeys(NAMES, 1.0 + step)) is not None]
    found = nearest_miss(candidates)
    assert (found is None) == (not steps)
    if found is not None:
        assert found.excess == pytest.approx(steps[0])
        assert found.merit == highest(known, dict.fromkeys(NAMES, 1.0 + steps[0]))
