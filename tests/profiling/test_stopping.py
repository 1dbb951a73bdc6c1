"""When a cell has been measured enough: by hand, without a clock."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from effvit.errors import UsageError
from effvit.profiling.disturbance import Conditions
from effvit.profiling.plan import Effort
from effvit.profiling.stopping import Standing, standing
from effvit.profiling.timer import Round

EFFORT = Effort(threads=1, rounds=3, samples=6, least_s=5.0, most_s=100.0, max_noise=0.05)
QUIET = Conditions(2.0, 2.0, 1, 0.0, 0.0, 0, None, None)
DISTURBED = replace(QUIET, cpu_s=1.0, others_s=1.0)
REASON = "other processes had 50 % of the cores"


def round_of(*seconds: float, conditions: Conditions = QUIET) -> Round:
    """Return a round that took 2 s, and 0.5 s of warm-up before."""
    return Round(3, 0.5, seconds, 2, 1.0, conditions)


def stand(*rounds: Round, effort: Effort = EFFORT) -> Standing:
    return standing(list(enumerate(rounds)), effort)


ALIKE = round_of(1.0, 1.0)
DIFFERENT = round_of(1.4, 1.4)


@pytest.mark.parametrize(
    ("rounds", "unmet"),
    [
        ((ALIKE,) * 2, "2 of the 3 undisturbed rounds asked for"),
        ((round_of(3.0),) * 3, "3 of the 6 launches asked for"),
        ((round_of(0.5, 0.5),) * 3, "3 of the 5 s asked for"),
        ((ALIKE, ALIKE, DIFFERENT), "the interval is still ±"),
        ((ALIKE,) * 3, ""),
    ],
)
def test_the_first_criterion_that_is_not_met_is_named(rounds: tuple[Round, ...], unmet: str) -> None:
    found = stand(*rounds)
    assert found.unmet.startswith(unmet)
    assert bool(found.unmet) == bool(unmet)
    assert found.done == (not unmet)


def test_the_interval_that_was_not_reached_is_named_beside_the_one_asked_for() -> None:
    # Log medians 0, 0, 0.3365: 27 draws, 7 of them with two or three of the last, variance 0.1132 * 7/27 * 20/27,
    # half-width of the logarithm 4.302653 * 0.1475 * sqrt(3/2) = 0.777, sinh of it 0.86, to the 5 % of 2,000 draws.
    found = stand(ALIKE, ALIKE, DIFFERENT)
    assert found.unmet.endswith(" %, asked for ±5 %")
    assert float(found.unmet.split("±")[1].split()[0]) == pytest.approx(86, rel=0.1)


def test_enough_is_said_with_what_was_asked_for() -> None:
    assert stand(ALIKE, ALIKE, ALIKE).samples.stopped == "6 launches, 5 s and 3 rounds, interval within ±5 %"


def test_the_time_limit_counts_rounds_with_their_warm_up_and_names_what_is_missing() -> None:
    rounds = (ALIKE, ALIKE, DIFFERENT)  # 7.5 s
    assert not stand(*rounds, effort=replace(EFFORT, most_s=7.6)).done
    found = stand(*rounds, effort=replace(EFFORT, most_s=7.5))
    assert found.done
    assert found.samples.stopped.startswith("time limit: the interval is still ±")
    assert found.unstable == ""


def test_the_least_rounds_are_made_whatever_they_take() -> None:
    assert not stand(ALIKE, ALIKE, effort=replace(EFFORT, most_s=0.1)).done
    assert stand(ALIKE, ALIKE, ALIKE, effort=replace(EFFORT, most_s=0.1)).samples.stopped.startswith("6 launches")


def test_a_disturbed_round_is_marked_repeated_and_left_out_once_enough_others_are_there() -> None:
    slow = round_of(9.0, 9.0, conditions=DISTURBED)
    early = stand(ALIKE, slow, ALIKE)
    assert [turn.disturbed for turn in early.turns] == ["", REASON, ""]
    assert (early.done, early.unmet, early.samples.left_out) == (False, "2 of the 3 undisturbed rounds asked for", ())
    enough = stand(ALIKE, slow, ALIKE, ALIKE)
    assert (enough.done, enough.samples.left_out, enough.unstable) == (True, (1,), "")
    assert enough.samples.seconds == (1.0, 1.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0), "every launch is kept"
    assert enough.samples.rounds == (0, 0, 1, 1, 2, 2, 3, 3)


def test_a_cell_that_stays_disturbed_ends_unstable_with_all_its_rounds() -> None:
    noisy = round_of(1.0, 1.0, conditions=DISTURBED)
    # One quiet round; patience is for twice the three that are wanted, and for one more.
    assert not stand(ALIKE, *[noisy] * 6).done
    found = stand(ALIKE, *[noisy] * 7)
    assert found.done
    assert found.unstable == f"7 of 8 rounds were disturbed; in the last of them {REASON}"
    assert found.samples.stopped == "disturbed too often: 1 of the 3 undisturbed rounds asked for"
    assert found.samples.left_out == ()


def test_a_time_limit_reached_through_disturbances_is_unstable_too() -> None:
    noisy = round_of(1.0, 1.0, conditions=DISTURBED)
    found = stand(ALIKE, noisy, noisy, effort=replace(EFFORT, most_s=7.0))
    assert found.samples.stopped.startswith("time limit")
    assert "2 of 3 rounds were disturbed" in found.unstable


def test_numbers_of_rounds_that_a_cell_missed_are_kept() -> None:
    found = standing([(0, ALIKE), (4, DIFFERENT)], EFFORT)
    assert found.samples.rounds == (0, 0, 4, 4)
    assert [turn.round for turn in found.turns] == [0, 4]


def test_one_round_is_enough_only_where_no_interval_is_asked_for() -> None:
    once = replace(EFFORT, rounds=1, samples=1, least_s=0)
    assert stand(ALIKE, effort=once).unmet == "one round supports no interval"
    assert stand(ALIKE, effort=replace(once, max_noise=math.inf)).done


@pytest.mark.parametrize("noise", [0.0, -0.1, math.nan])
def test_noise_asked_for_must_be_positive(noise: float) -> None:
    with pytest.raises(UsageError, match="max_noise must be positive"):
        replace(EFFORT, max_noise=noise)
