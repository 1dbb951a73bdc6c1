"""What 95 % intervals and comparisons promise, against synthetic measurements whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from machines import DRIFTING, HEAVY_TAILS, LAUNCHES, ROUNDS_DIFFER, SLOW_ROUNDS, STEADY, UNEVEN, Machine

from effvit.profiling import stats
from effvit.profiling.plan import LEAST_ROUNDS

RUNS = 1000


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make thousands of intervals in seconds; the deviation of 400 draws is known to 3.5 %."""
    monkeypatch.setattr(stats, "DRAWS", 400)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    ("machine", "rounds"),
    [
        (STEADY, 5),
        (UNEVEN, 5),
        (UNEVEN, 20),
        (HEAVY_TAILS, 5),
        (DRIFTING, 5),
        (DRIFTING, 10),
        (SLOW_ROUNDS, 10),
    ],
)
def test_the_interval_of_the_median_covers_in_93_to_97_of_100_measurements(machine: Machine, rounds: int) -> None:
    random = np.random.default_rng(1)
    truth = machine.median_s()
    hits = 0
    for _ in range(RUNS):
        estimate = stats.median_interval(machine.samples(machine.rounds(rounds, random), random))
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= truth <= estimate.high
    assert 0.93 <= hits / RUNS <= 0.97


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("differ", [0.01, 0.02, 0.03])
def test_stopping_as_soon_as_the_interval_is_narrow_costs_little_coverage(differ: float) -> None:
    """The least rounds are chosen so that few intervals are narrow enough by luck alone."""
    random = np.random.default_rng(7)
    machine, hits = Machine(rounds_differ=differ), 0
    for _ in range(RUNS):
        effect = machine.rounds(40, random)
        samples = machine.samples(effect, random)
        for count in range(LEAST_ROUNDS, 41):
            end = count * LAUNCHES
            estimate = stats.median_interval(
                replace(samples, seconds=samples.seconds[:end], rounds=samples.rounds[:end])
            )
            wide = stats.half_width(estimate)
            assert wide is not None
            if wide <= 0.02:
                break
        hits += estimate.low is not None and estimate.high is not None and estimate.low <= 1 <= estimate.high
    assert 0.92 <= hits / RUNS <= 0.97


@pytest.mark.usefixtures("few_draws")
def test_the_quantiles_of_the_draws_would_not_cover() -> None:
    """Why the interval is made of the deviation of the draws, and not of their quantiles as is usual."""
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(RUNS):
        samples = UNEVEN.samples(UNEVEN.rounds(5, random), random)
        low, high = np.quantile(
            stats._drawn_medians(np.asarray(samples.seconds), np.asarray(samples.rounds)), [0.025, 0.975]
        )
        hits += low <= 1 <= high
    assert hits / RUNS < 0.90


def compared(machine: Machine, rounds: int, gain: float, seed: int) -> Iterator[tuple[float, float]]:
    """Yield the intervals of speed-ups the true one of which is `gain`.

    What slows a round slows both alike; on top of it each differs from round to round by itself.
    """
    random = np.random.default_rng(seed)
    for _ in range(RUNS):
        shared = machine.rounds(rounds, random)
        slow, fast = (
            machine.samples(shared + random.normal(0, ROUNDS_DIFFER / 2, rounds) - step, random)
            for step in (0.0, np.log(gain))
        )
        estimate = stats.speedup(slow, fast)
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        yield estimate.low, estimate.high


@pytest.mark.parametrize(("machine", "rounds"), [(UNEVEN, 5), (HEAVY_TAILS, 5), (SLOW_ROUNDS, 7)])
def test_the_interval_of_a_ratio_covers_in_93_to_97_of_100_comparisons(machine: Machine, rounds: int) -> None:
    hits = sum(low <= 1.1 <= high for low, high in compared(machine, rounds, 1.1, seed=2))
    assert 0.93 <= hits / RUNS <= 0.97


@pytest.mark.parametrize("machine", [UNEVEN, HEAVY_TAILS, DRIFTING])
def test_equal_contenders_are_told_apart_in_at_most_5_of_100_comparisons(machine: Machine) -> None:
    declared = sum(low > 1 or high < 1 for low, high in compared(machine, 5, 1.0, seed=3))
    # Two standard deviations of a count of 1,000 with a chance of 5 %.
    assert declared / RUNS <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / RUNS)


def test_a_gain_of_a_tenth_is_found_through_drift_and_uneven_rounds() -> None:
    assert sum(low > 1 for low, _ in compared(DRIFTING, 5, 1.1, seed=4)) / RUNS > 0.95


def test_drawn_medians_are_those_of_the_pooled_launches() -> None:
    """Against NumPy's median of the launches themselves, for rounds of different lengths."""
    random = np.random.default_rng(5)
    parts = [random.lognormal(shift, 0.05, size) for shift, size in ((0.0, 3), (0.05, 8), (-0.05, 5), (0.1, 2))]
    values = np.concatenate(parts)
    rounds = np.repeat(np.arange(4), [len(part) for part in parts])
    times = np.random.default_rng(0).multinomial(4, np.full(4, 0.25), stats.DRAWS)
    expected = [
        np.median(np.concatenate([part for part, count in zip(parts, draw, strict=True) for _ in range(count)]))
        for draw in times
    ]
    np.testing.assert_allclose(stats._drawn_medians(values, rounds), expected, rtol=1e-12)


def test_thinning_out_changes_the_interval_by_less_than_a_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    values = np.concatenate([random.lognormal(shift, 0.05, 1000) for shift in random.normal(0, 0.02, 6)])
    rounds = np.repeat(np.arange(6), 1000)
    # Other draws would change it by as much: the same ones, few enough to look at every launch.
    monkeypatch.setattr(stats, "DRAWS", 200)
    thinned = stats.half_width(stats._clustered(values, rounds))
    monkeypatch.setattr(stats, "MOST_LEVELS", len(values))
    assert thinned == pytest.approx(stats.half_width(stats._clustered(values, rounds)), rel=0.01)
