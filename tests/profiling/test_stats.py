import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from outcomes import judged_accuracy, make_samples

from effvit.profiling import stats
from effvit.profiling.records import Throughput


def test_the_median_of_an_even_count_lies_between_the_middle_two() -> None:
    assert stats.median_s(make_samples((4.0, 1.0), (3.0, 2.0))) == 2.5


@pytest.mark.parametrize(("share", "needed"), [(0.5, 1), (0.9, 29), (0.95, 59), (0.99, 299), (0.999, 2995)])
def test_a_percentile_needs_enough_samples_to_be_exceeded_once(share: float, needed: int) -> None:
    assert stats.samples_needed(share) == needed
    assert stats.percentile_s(make_samples(tuple(float(i) for i in range(1, needed + 1))), share) is not None
    if needed > 1:
        assert stats.percentile_s(make_samples(tuple(float(i) for i in range(1, needed))), share) is None


def test_a_percentile_is_a_sample_by_order() -> None:
    hundred = make_samples(tuple(float(i) for i in range(100, 0, -1)))
    assert stats.percentile_s(hundred, 0.9) == 90.0
    assert stats.percentile_s(hundred, 0.95) == 95.0
    assert stats.percentile_s(hundred, 0.5) == 50.5


@given(st.lists(st.floats(1e-6, 10.0), min_size=59, max_size=200), st.sampled_from((0.9, 0.95)))
def test_a_percentile_agrees_with_numpy(seconds: list[float], share: float) -> None:
    expected = np.quantile(seconds, share, method="inverted_cdf")
    assert stats.percentile_s(make_samples(tuple(seconds)), share) == expected


def test_the_interval_of_the_median_by_hand() -> None:
    # Round medians e^0, e^1, e^2. Of the 27 draws of three, 7 have the median e^0, 13 e^1 and 7 e^2: the variance of
    # the logarithm is 14/27. t(0.975, 2) = 4.302653 (any table), and R / (R - 1) = 3/2.
    estimate = stats.median_interval(make_samples((1.0,), (math.e,), (math.e**2,)))
    logarithm = 4.302653 * math.sqrt(14 / 27 * 3 / 2)
    assert estimate.value == math.e
    assert estimate.low is not None
    assert estimate.high is not None
    # The deviation of 2,000 draws is known to 1.6 %; three times that.
    assert math.log(math.e / estimate.low) == pytest.approx(logarithm, rel=0.05)
    assert estimate.low * estimate.high == pytest.approx(math.e**2)


def test_rounds_left_out_count_nowhere() -> None:
    disturbed = replace(make_samples((1.0, 1.2), (9.0,) * 300, (1.1, 1.3)), left_out=(1,))
    quiet = make_samples((1.0, 1.2), (), (1.1, 1.3))
    assert stats.median_s(disturbed) == pytest.approx(1.15)
    assert stats.median_interval(disturbed) == stats.median_interval(quiet)
    assert stats.percentile_s(disturbed, 0.9) is None  # 4 samples, not 304
    assert stats.speedup(make_samples((2.0,), (1.0,), (2.0,)), disturbed) == stats.speedup(
        make_samples((2.0,), (), (2.0,)), quiet
    )


def test_blocks_left_out_do_not_count_for_throughput() -> None:
    estimate = stats.images_per_second(Throughput(((32, 2.0), (32, 9.0), (32, 2.0)), left_out=(1,)))
    assert estimate is not None
    assert (estimate.value, estimate.low) == pytest.approx((16.0, 16.0))


def test_half_the_width_of_an_interval_is_a_share_of_the_value() -> None:
    assert stats.half_width(stats.Estimate(2.0, 1.9, 2.2)) == pytest.approx(0.075)
    assert stats.half_width(stats.Estimate(2.0)) is None


def test_launches_of_one_round_count_once() -> None:
    once = stats.median_interval(make_samples((1.0,), (1.1,)))
    often = stats.median_interval(make_samples((1.0,) * 50, (1.1,) * 50))
    assert often == once


def test_one_round_supports_no_interval() -> None:
    estimate = stats.median_interval(make_samples((1.0, 2.0, 3.0)))
    assert (estimate.value, estimate.low, estimate.high) == (2.0, None, None)


def test_speedup_cancels_what_slows_a_whole_round() -> None:
    baseline, other = make_samples((2.0,), (20.0,), (4.0,)), make_samples((1.0,), (10.0,), (2.0,))
    estimate = stats.speedup(baseline, other)
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, 2.0, 2.0))


def test_speedup_agrees_with_scipys_paired_test() -> None:
    baseline, other = make_samples((2.0,), (2.3,), (1.9,), (2.2,)), make_samples((1.1,), (1.0,), (1.2,), (1.1,))
    paired = scipy.stats.ttest_rel(np.log(baseline.seconds), np.log(other.seconds)).confidence_interval(0.95)
    estimate = stats.speedup(baseline, other)
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(paired.low), math.exp(paired.high)))


def test_speedup_uses_only_common_rounds() -> None:
    baseline = make_samples((2.0,), (2.0,), (99.0,))
    estimate = stats.speedup(baseline, make_samples((1.0,), (1.0,)))
    assert estimate is not None
    assert estimate.value == pytest.approx(2.0)
    assert stats.speedup(baseline, make_samples()) is None
    single = stats.speedup(baseline, make_samples((1.0,)))
    assert single == stats.Estimate(2.0)


def test_throughput_counts_images_not_calls() -> None:
    estimate = stats.images_per_second(Throughput(((32, 2.0), (32, 2.0), (32, 2.0))))
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((16.0, 16.0, 16.0))
    assert stats.images_per_second(Throughput(())) is None


def test_the_wilson_interval_of_a_textbook_case() -> None:
    # 15 of 20, from the formula with z = 1.959964: centre 0.70980, half-width 0.17884.
    z = 1.959964
    centre = (0.75 + z**2 / 40) / (1 + z**2 / 20)
    half = z / (1 + z**2 / 20) * math.sqrt(0.75 * 0.25 / 20 + z**2 / 1600)
    estimate = stats.proportion(15, 20)
    assert estimate.low == pytest.approx(centre - half, rel=1e-6)
    assert estimate.high == pytest.approx(centre + half, rel=1e-6)


def test_top1_of_the_same_images_is_compared_image_by_image() -> None:
    """By hand, Bonett and Price: 2 of 100 lost, 6 gained; (3, 7) / 102, centre 4 / 102, half 1.96 * 0.030759."""
    shared = [True] * 60 + [False] * 32
    before = judged_accuracy(shared + [True] * 2 + [False] * 6)
    now = judged_accuracy(shared + [False] * 2 + [True] * 6)
    gap = stats.top1_gap(now, before)
    assert gap is not None
    assert gap.value == pytest.approx(0.04)
    assert (gap.low, gap.high) == pytest.approx((-0.02107, 0.09950), abs=1e-4)
    alone = stats.top1_gap(replace(now, images_key="others"), before)
    independent = stats.difference(stats.proportion(66, 100), stats.proportion(62, 100))
    assert alone == independent
    assert independent.low is not None
    assert independent.low < -0.09


def test_the_interval_of_paired_shares_is_that_of_drawing_images_again() -> None:
    """1,400 images right for both, 60 lost, 100 gained, 440 wrong for both; drawn with replacement 20,000 times."""
    kinds = np.array([1400, 60, 100, 440])
    draws = np.random.default_rng(0).multinomial(2000, kinds / 2000, 20_000)
    low, high = np.quantile((draws[:, 2] - draws[:, 1]) / 2000, (0.025, 0.975))
    before = judged_accuracy([True] * 1460 + [False] * 540)
    now = judged_accuracy([True] * 1400 + [False] * 60 + [True] * 100 + [False] * 440)
    gap = stats.top1_gap(now, before)
    assert gap is not None
    assert (gap.low, gap.high) == pytest.approx((low, high), abs=0.001)  # the quantiles are steps of 0.0005


def test_without_images_there_is_no_gap() -> None:
    assert stats.top1_gap(judged_accuracy([]), judged_accuracy([])) is None


def test_newcombes_difference_of_his_own_example() -> None:
    # Newcombe 1998, table II, column (a), method 10: 56/70 against 48/80 gives 0.0524 to 0.3339.
    estimate = stats.difference(stats.proportion(56, 70), stats.proportion(48, 80))
    assert estimate.value == pytest.approx(0.2)
    assert (estimate.low, estimate.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


@given(st.integers(1, 2000))
def test_the_quantile_of_the_t_distribution_is_scipys(freedom: int) -> None:
    assert stats.t_quantile(freedom) == pytest.approx(float(scipy.stats.t.ppf(0.975, freedom)), rel=1e-12)
