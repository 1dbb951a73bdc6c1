"""What measured cells say of others, computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from effvit.profiling.kinship import Kin, Known, Prior, around, conditioned
from effvit.spec import Precision

# Variances: machine 0.09, type 0.16, mechanism 0.04, mechanism there 0.01, cell 0.01.
PRIOR = Prior({Precision.FP32: 0.1, Precision.INT8: -0.5}, 0.3, 0.4, 0.2, 0.1, 0.1)
ASKED = Kin("desk", "ort-cpu", Precision.FP32, "linformer")


def test_without_measurements_the_prior_stands() -> None:
    assert conditioned(ASKED, [], PRIOR) == (0.1, pytest.approx(math.sqrt(0.09 + 0.04 + 0.01 + 0.01)))
    narrow = replace(ASKED, precision=Precision.INT8)
    assert conditioned(narrow, [], PRIOR) == (-0.5, pytest.approx(math.sqrt(0.15 + 0.16)))


@pytest.mark.parametrize(
    ("kin", "shared"),
    [
        (replace(ASKED, attention="softmax"), 0.09),
        (replace(ASKED, machine="pi"), 0.04),
        (ASKED, 0.09 + 0.04 + 0.01),  # at another size
        (replace(ASKED, machine="pi", attention="softmax"), 0.0),
    ],
    ids=["machine", "mechanism", "both", "neither"],
)
def test_one_measurement_counts_by_what_it_shares(kin: Kin, shared: float) -> None:
    mean, deviation = conditioned(ASKED, [Known(kin, 0.6)], PRIOR)
    assert mean == pytest.approx(0.1 + shared / 0.15 * (0.6 - 0.1))
    assert deviation == pytest.approx(math.sqrt(0.15 - shared**2 / 0.15))


def test_a_narrow_type_learns_more_from_its_own() -> None:
    asked = replace(ASKED, precision=Precision.INT8)
    of_type = Known(replace(asked, attention="softmax"), -0.2)
    mean, deviation = conditioned(asked, [of_type], PRIOR)
    assert mean == pytest.approx(-0.5 + (0.09 + 0.16) / 0.31 * 0.3)
    assert deviation == pytest.approx(math.sqrt(0.31 - 0.25**2 / 0.31))
    of_another = Known(ASKED, 0.6)  # fp32 of the same mechanism there
    mean, deviation = conditioned(asked, [of_another], PRIOR)
    assert mean == pytest.approx(-0.5 + 0.13 / 0.15 * 0.5)
    assert deviation == pytest.approx(math.sqrt(0.31 - 0.13**2 / 0.15))


def test_two_of_a_kind_count_less_than_twice() -> None:
    """By hand: both have 0.15, and 0.14 in common; with the one asked about 0.09 each: weights of 0.09 / 0.29."""
    other = replace(ASKED, attention="softmax")
    mean, deviation = conditioned(ASKED, [Known(other, 0.5), Known(other, 0.3)], PRIOR)
    assert mean == pytest.approx(0.1 + 0.09 / 0.29 * (0.4 + 0.2))
    assert deviation == pytest.approx(math.sqrt(0.15 - 2 * 0.09**2 / 0.29))


def test_an_interval_is_as_wide_up_as_down_in_factors() -> None:
    found = around(0.010, math.log(1.5), 0.2)
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx(0.015)
    assert found.high / found.value == pytest.approx(math.exp(1.959964 * 0.2))
    assert found.value / found.low == pytest.approx(found.high / found.value)
