"""Differences of cells that were judged on the same images or timed in the same rounds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from outcomes import judged_accuracy, make_evidence, make_samples
from outcomes import make_cell as cell_of

from effvit.profiling import stats
from effvit.profiling.records import Evidence, Throughput
from effvit.profiling.report.margins import latency_margins, throughput_margins, top1_margins
from effvit.profiling.rounds import latency_ratio, throughput_ratio
from effvit.profiling.stats import Floats

NOISE = random.Random(7)
Margins = Callable[[Sequence[Evidence | None]], Floats]


def judged(right: list[bool], images_key: str | None = "images") -> Evidence:
    return replace(make_evidence(cell_of()), accuracy=judged_accuracy(right, images_key))


def timed(*seconds: float, comparison: str = "one", left_out: tuple[int, ...] = ()) -> Evidence:
    """Return evidence of so many seconds a launch in each round, whose blocks take half of that."""
    samples = replace(make_samples(*((one,) for one in seconds)), left_out=left_out)
    throughput = Throughput(tuple((100, 50 * one) for one in seconds), left_out)
    return replace(make_evidence(cell_of()), comparison=comparison, samples=samples, throughput=throughput)


def drawn(rounds: int, center: float) -> list[float]:
    return [center * NOISE.lognormvariate(0, 0.1) for _ in range(rounds)]


def test_ten_of_two_thousand_images_gained_are_a_margin_above_zero() -> None:
    """By hand: up 11/2002, down 1/2002, 10/2002 - 1.96 sqrt((12/2002 - (10/2002)^2) / 2002) = 0.00161."""
    shared = [True] * 1590 + [False] * 400
    cells = [judged([False] * 10 + shared), judged([True] * 10 + shared)]
    margins = top1_margins(cells)
    assert margins[0, 1] == pytest.approx(0.00161, abs=5e-6)
    assert margins[1, 0] == pytest.approx(-0.00838, abs=5e-6)


def test_margins_of_top1_are_the_lower_ends_of_the_differences_one_by_one() -> None:
    cells = [judged([NOISE.random() < share for _ in range(203)]) for share in (0.5, 0.6, 0.7, 0.8, 0.9)]
    margins = top1_margins(cells)
    for one, reference in enumerate(cells):
        for other, evidence in enumerate(cells):
            assert evidence.accuracy is not None
            assert reference.accuracy is not None
            gap = stats.top1_gap(evidence.accuracy, reference.accuracy)
            assert gap is not None
            assert margins[one, other] == pytest.approx(gap.low)


def test_other_images_or_none_that_are_known_are_not_paired() -> None:
    right = [True] * 30 + [False] * 10
    counted = judged(right)
    assert counted.accuracy is not None
    blind = replace(counted, accuracy=replace(counted.accuracy, hits=None))
    without = replace(counted, accuracy=None)
    margins = top1_margins([counted, judged(right, "others"), judged(right, None), blind, without, None])
    assert np.isfinite(margins).sum() == 2  # with themselves
    assert np.isnan(margins[0, 1:]).all()


@pytest.mark.parametrize("margins_of", [latency_margins, throughput_margins])
def test_margins_of_rounds_are_those_of_a_paired_t_test(margins_of: Margins) -> None:
    slow, fast = drawn(6, 1.1), drawn(6, 1.0)
    margins = margins_of([timed(*slow), timed(*fast)])
    interval = scipy.stats.ttest_rel(np.log(slow), np.log(fast)).confidence_interval(0.95)
    assert margins[0, 1] == pytest.approx(interval.low)
    assert margins[1, 0] == pytest.approx(-interval.high)


@pytest.mark.parametrize("margins_of", [latency_margins, throughput_margins])
def test_rounds_that_are_not_shared_or_were_disturbed_do_not_count(margins_of: Margins) -> None:
    slow, fast = drawn(5, 1.1), drawn(5, 1.0)
    whole = margins_of([timed(*slow[1:]), timed(*fast[1:])])
    disturbed = margins_of([timed(9.0, *slow[1:], left_out=(0,)), timed(*fast)])
    assert disturbed[0, 1] == pytest.approx(whole[0, 1])
    sittings = [timed(*slow), timed(*fast, comparison="two"), timed(*fast, left_out=(1, 2, 3, 4)), None]
    # With one round in common there is no interval.
    assert np.isnan(margins_of(sittings)).all()


def test_a_block_belongs_to_the_round_at_its_place() -> None:
    """The second was not measured in round 1: its blocks are those of rounds 0, 2 and 3."""
    one, other = timed(1.0, 8.0, 2.0, 3.0), timed(0.5, 1.0, 1.5)
    other = replace(other, samples=replace(other.samples, rounds=(0, 2, 3)))
    ratio = throughput_ratio(other, one)
    assert ratio is not None
    assert ratio.value == pytest.approx(2.0)
    assert (ratio.low, ratio.high) == (pytest.approx(2.0), pytest.approx(2.0))


def test_blocks_whose_rounds_are_unknown_are_not_paired() -> None:
    one = timed(1.0, 2.0, 3.0)
    fewer = replace(one, throughput=Throughput(one.throughput.blocks[:2]))
    assert throughput_ratio(fewer, one) is None
    assert np.isnan(throughput_margins([one, fewer])).all()


def test_ratios_of_rounds_say_how_many_times_as_much() -> None:
    reference, double = timed(1.0, 2.0), timed(2.0, 4.0)
    latency, throughput = latency_ratio(double, reference), throughput_ratio(double, reference)
    assert latency is not None
    assert throughput is not None
    assert latency.value == pytest.approx(2.0)
    assert throughput.value == pytest.approx(0.5)
    assert math.isclose(latency.value * throughput.value, 1)
    assert latency_ratio(timed(2.0, 4.0, comparison="two"), reference) is None
    assert throughput_ratio(timed(2.0, 4.0, comparison="two"), reference) is None
