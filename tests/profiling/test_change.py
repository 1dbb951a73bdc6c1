import math

import numpy as np
import pytest
from scipy import stats as reference

from effvit.profiling.change import (
    Floor,
    Spread,
    estimated_floor,
    given_floor,
    plain_change,
    ratio_change,
    share_change,
    spread,
)
from effvit.profiling.stats import Estimate, difference, proportion

RUNS = 2000


def test_the_interval_is_that_of_welch() -> None:
    """Against SciPy's test of two samples with these means, deviations and counts."""
    before, now = Spread(2.0, 0.03, 4), Spread(2.2, 0.04, 9)
    change = ratio_change([before], [now])
    expected = reference.ttest_ind_from_stats(
        math.log(2.2), 0.04 * math.sqrt(10), 10, math.log(2.0), 0.03 * math.sqrt(5), 5, equal_var=False
    )
    assert change.value == pytest.approx(0.1)
    assert change.chance == pytest.approx(expected.pvalue / 2)
    # By hand: variance 0.0025, freedom 0.0025^2 / (0.0009^2 / 4 + 0.0016^2 / 9).
    half = reference.t.ppf(0.975, 0.0025**2 / (0.0009**2 / 4 + 0.0016**2 / 9)) * 0.05
    assert change.low == pytest.approx(1.1 * math.exp(-half) - 1)
    assert change.high == pytest.approx(1.1 * math.exp(half) - 1)


def test_several_sittings_give_their_geometric_mean() -> None:
    change = ratio_change([Spread(1.0, 0.01, 4), Spread(4.0, 0.01, 4)], [Spread(3.0, 0.01, 4)])
    assert change.value == pytest.approx(0.5)


def test_a_floor_of_2_percent_hides_2_percent() -> None:
    exact = Spread(1.0, 0.0, 4)
    change = ratio_change([exact], [Spread(1.02, 0.0, 4)], given_floor(0.02))
    assert change.low == pytest.approx(0.0)
    assert change.chance == pytest.approx(0.025)


def test_a_floor_shrinks_with_sittings() -> None:
    sittings = [Spread(1.0, 0.0, 4)] * 4
    change = ratio_change(sittings, sittings, given_floor(0.02))
    assert change.high == pytest.approx(math.exp(math.log(1.02) / 2) - 1)


def test_what_has_no_noise_is_certain() -> None:
    exact = Spread(1.0, 0.0, 4)
    assert ratio_change([exact], [exact]).chance == 0.5
    assert ratio_change([exact], [Spread(1.1, 0.0, 4)]).chance == 0.0
    assert ratio_change([exact], [Spread(0.9, 0.0, 4)]).chance == 1.0


def test_a_spread_is_read_off_its_interval() -> None:
    factor = math.exp(reference.t.ppf(0.975, 5) * 0.02)
    found = spread(Estimate(3.0, 3.0 / factor, 3.0 * factor), 5)
    assert found is not None
    assert found.deviation == pytest.approx(0.02)
    assert spread(Estimate(3.0), 5) is None
    assert spread(Estimate(3.0, 2.0, 4.0), 0) is None


def test_numbers_without_interval_have_none() -> None:
    assert plain_change([2.0], [3.0]).value == pytest.approx(0.5)
    assert plain_change([2.0], [3.0]).chance is None


@pytest.mark.parametrize(("now", "certain"), [(700, True), (790, False), (800, False)])
def test_a_share_is_certainly_smaller_exactly_where_its_interval_excludes_0(now: int, certain: bool) -> None:
    change = share_change(difference(proportion(now, 1000), proportion(800, 1000)))
    assert change.chance is not None
    assert change.high is not None
    assert (change.chance > 0.975) is certain is (change.high < 0)


def test_one_sitting_shows_no_floor() -> None:
    assert estimated_floor([]) is None
    assert estimated_floor([[Spread(1.0, 0.01, 4)]]) is None


def test_a_shift_of_the_whole_sitting_is_seen_once_only() -> None:
    """Two sittings that differ by 2 % in all of 10 cells: the deviation of one difference, known to 1 degree."""
    floor = estimated_floor([[Spread(1.0, 0.0, 4)] * 10, [Spread(1.02, 0.0, 4)] * 10])
    assert floor is not None
    assert floor.deviation == pytest.approx(math.log(1.02))
    assert floor.freedom == pytest.approx(1.0)
    assert floor.source == "estimated from 2 sittings of 10 cells"


def test_what_the_intervals_explain_is_no_floor() -> None:
    floor = estimated_floor([[Spread(1.0, 0.5, 4)], [Spread(1.02, 0.5, 4)]])
    assert floor is not None
    assert floor.deviation == floor.share == 0.0


@pytest.mark.parametrize(
    ("alike", "apart", "sittings", "most"),
    [
        (0.0, 0.02, 2, 0.05),
        (0.01, 0.02, 2, 0.05),
        (0.0, 0.02, 3, 0.05),
        (0.02, 0.0, 3, 0.05),
        (0.02, 0.0, 6, 0.05),
        # What two sittings differ by alike is one number, and it may be small by chance.
        (0.02, 0.0, 2, 0.08),
    ],
)
def test_with_an_estimated_floor_equal_sittings_are_rarely_called_different(
    alike: float, apart: float, sittings: int, most: float
) -> None:
    """Medians with a noise of 0.5 %, which 6 rounds tell; sittings shift all of 8 cells, or each by itself."""
    random = np.random.default_rng(3)
    own, freedom, cells = 0.005, 5, 8
    wrong = 0
    for _ in range(RUNS):
        shape = (sittings + 1, cells)
        logs = random.normal(0, alike, (sittings + 1, 1)) + random.normal(0, math.hypot(apart, own), shape)
        deviations = own * np.sqrt(random.chisquare(freedom, shape) / freedom)
        table = [
            [Spread(math.exp(log), deviation, freedom) for log, deviation in zip(*pair, strict=True)]
            for pair in zip(logs.tolist(), deviations.tolist(), strict=True)
        ]
        floor = estimated_floor(table[:-1])
        assert isinstance(floor, Floor)
        chance = ratio_change([sitting[0] for sitting in table[:-1]], [table[-1][0]], floor).chance
        assert chance is not None
        wrong += chance < 0.025
    assert wrong / RUNS <= most
