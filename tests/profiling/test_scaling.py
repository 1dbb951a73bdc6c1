"""Curves over tokens and batch, held against formulas and against least squares by another route."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from effvit.profiling.scaling import Curve, Observation, fit

PART = st.floats(min_value=0.01, max_value=10)


def _observed(curve: Curve, tokens: tuple[int, ...], batches: tuple[int, ...] = (1,)) -> list[Observation]:
    return [Observation(n, b, curve.at(n, b), 0.01) for n in tokens for b in batches]


def test_a_call_of_four_images_of_ten_tokens() -> None:
    assert Curve(call=1.0, image=2.0, token=3.0, pair=0.5).at(10, 4) == 1 + 4 * (2 + 30 + 50)


def test_two_resolutions_determine_no_curve() -> None:
    curve = Curve(1.0, 0.0, 0.1, 0.01)
    assert fit(_observed(curve, (10, 20))) is None
    assert fit(_observed(curve, (10, 20), (1, 2, 4))) is None
    assert fit(_observed(curve, (10, 20, 30))) is not None


@settings(max_examples=100, deadline=None)
@given(PART, PART, PART, PART)
def test_a_curve_is_found_again_over_tokens_and_batches(call: float, image: float, token: float, pair: float) -> None:
    curve = Curve(call, image, token / 200, pair / 200**2)
    found = fit(_observed(curve, (197, 577, 1025), (1, 8)))
    assert found is not None
    for tokens, batch in ((300, 1), (800, 4)):
        assert found.at(tokens, batch) == pytest.approx(curve.at(tokens, batch), rel=1e-6)


def test_in_one_batch_what_an_image_costs_is_counted_to_its_call() -> None:
    found = fit(_observed(Curve(1.0, 2.0, 0.1, 0.001), (10, 20, 40, 80), (4,)))
    assert found is not None
    assert found.image == 0
    assert found.call == pytest.approx(1 + 4 * 2)


def test_no_part_is_below_zero_where_times_grow_less_than_in_proportion() -> None:
    observed = [Observation(n, 1, n**0.5, 0.01) for n in (100, 200, 400, 800)]
    found = fit(observed)
    assert found is not None
    assert min(found.call, found.token, found.pair) == 0
    assert found.call > 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(min_value=0.5, max_value=2), min_size=5, max_size=5))
def test_the_fit_is_that_of_bounded_least_squares_with_relative_weights(noise: list[float]) -> None:
    tokens = np.array([100, 200, 300, 400, 500])
    values = np.array(noise) * (1 + tokens / 100)
    found = fit([Observation(int(n), 1, float(value), 0.03) for n, value in zip(tokens, values, strict=True)])
    assert found is not None
    scaled = np.stack([np.ones(5), tokens / 100, (tokens / 100) ** 2], axis=1) / values[:, None]
    reference = lsq_linear(scaled, np.ones(5), bounds=(0, np.inf), tol=1e-14)
    ours = np.array([found.call, found.token * 100, found.pair * 1e4])
    assert np.sum((scaled @ ours - 1) ** 2) <= np.sum((scaled @ reference.x - 1) ** 2) + 1e-9


def test_a_noisy_point_pulls_less_than_one_that_is_known() -> None:
    curve = Curve(1.0, 0.0, 0.1, 0.0)
    observed = _observed(curve, (10, 20, 30, 40))
    odd = 2 * curve.at(30, 1)
    errors = []
    for deviation in (0.01, 1.0):
        found = fit([*observed[:2], Observation(30, 1, odd, deviation), observed[3]])
        assert found is not None
        errors.append(abs(found.at(30, 1) - curve.at(30, 1)))
    assert errors[1] < errors[0] / 20
