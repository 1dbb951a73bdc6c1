"""The comparison of an artifact's logits with PyTorch's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from artifacts import ARTIFACT

from effvit.errors import MismatchError
from effvit.export.verify import check, compare
from effvit.spec import Precision

REFERENCE = np.array([[4.0, 0.0, 0.0], [0.0, 2.0, 1.0], [1.0, 1.01, 0.0], [0.0, 0.0, 3.0]], dtype=np.float32)


def test_equal_logits_agree_in_everything() -> None:
    parity = compare(REFERENCE, REFERENCE.copy(), Precision.FP32)
    assert (parity.images, parity.max_abs, parity.agreement, parity.decisive_agreement) == (4, 0.0, 1.0, 1.0)
    assert parity.cosine == pytest.approx(1.0)
    check(parity, REFERENCE, ARTIFACT)


def test_the_largest_difference_counts() -> None:
    other = REFERENCE.copy()
    other[1, 0] += 0.5
    assert compare(REFERENCE, other, Precision.FP32).max_abs == pytest.approx(0.5)


def test_a_near_tie_that_flips_is_not_decisive() -> None:
    """The third image's first two classes lie 0.01 apart; fp16 may rank them either way."""
    other = REFERENCE.copy()
    other[2] = [1.01, 1.0, 0.0]
    parity = compare(REFERENCE, other, Precision.FP16)
    assert parity.agreement == 0.75
    assert parity.decisive_agreement == 1.0
    check(parity, REFERENCE, replace(ARTIFACT, precision=Precision.FP16))


def test_a_flip_of_a_clear_decision_fails() -> None:
    other = REFERENCE.copy()
    other[0] = [0.0, 4.0, 0.0]
    parity = compare(REFERENCE, other, Precision.FP16)
    assert parity.decisive_agreement == pytest.approx(2 / 3)
    with pytest.raises(MismatchError, match="linformer at 64 px") as caught:
        check(parity, REFERENCE, replace(ARTIFACT, precision=Precision.FP16))
    assert caught.value.agreement == 0.75


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail(value: float) -> None:
    other = REFERENCE.copy()
    other[3, 2] = value
    parity = compare(REFERENCE, other, Precision.FP32)
    with pytest.raises(MismatchError):
        check(parity, REFERENCE, ARTIFACT)


def test_what_fp16_may_differ_fp32_may_not() -> None:
    other = REFERENCE + np.float32(0.01)
    for precision, fine in ((Precision.FP16, True), (Precision.FP32, False)):
        artifact = replace(ARTIFACT, precision=precision)
        parity = compare(REFERENCE, other, precision)
        if fine:
            check(parity, REFERENCE, artifact)
        else:
            with pytest.raises(MismatchError):
                check(parity, REFERENCE, artifact)


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.FP16, Precision.BF16])
def test_of_other_types_than_fp32_decisions_are_judged_not_differences(precision: Precision) -> None:
    """Logits ten times as far apart: the same decisions in the same direction."""
    other = REFERENCE * np.float32(10)
    artifact = replace(ARTIFACT, precision=precision)
    check(compare(REFERENCE, other, precision), REFERENCE, artifact)
    with pytest.raises(MismatchError):
        check(compare(REFERENCE, other, Precision.FP32), REFERENCE, ARTIFACT)


def test_in_fp16_one_image_may_jump_as_long_as_its_class_stays_and_most_may_not() -> None:
    """Token merging chooses between pairs that are nearly alike; the cosine of [4, 0, 0] and [4, 2, 0] is 0.894."""
    artifact = replace(ARTIFACT, precision=Precision.FP16)
    other = sure(0, 0, 0, 0)
    other[0, 1] = 2.0
    parity = compare(sure(0, 0, 0, 0), other, Precision.FP16)
    assert (parity.cosine, parity.median_cosine) == (pytest.approx(0.894, abs=1e-3), pytest.approx(1.0))
    check(parity, sure(0, 0, 0, 0), artifact)
    other[1:3, 1] = 2.0
    with pytest.raises(MismatchError):
        check(compare(sure(0, 0, 0, 0), other, Precision.FP16), sure(0, 0, 0, 0), artifact)


def sure(*classes: int) -> np.ndarray:
    """Return logits of four images that are sure of these classes."""
    return np.eye(3, dtype=np.float32)[list(classes)] * 4


def test_int8_is_judged_by_what_it_decides() -> None:
    """Every logit is off by a quarter of its size, and every decision stands."""
    other = sure(0, 1, 2, 0) * np.float32(0.75)
    parity = compare(sure(0, 1, 2, 0), other, Precision.INT8)
    assert parity.max_abs == pytest.approx(1.0)
    check(parity, sure(0, 1, 2, 0), replace(ARTIFACT, precision=Precision.INT8))
    with pytest.raises(MismatchError):
        check(parity, sure(0, 1, 2, 0), ARTIFACT)


def test_an_int8_artifact_that_decides_otherwise_fails_with_both_shares() -> None:
    other = sure(0, 1, 2, 0)
    other[3] = [3.9, 4.0, 0.0]
    parity = compare(sure(0, 1, 2, 0), other, Precision.INT8)
    with pytest.raises(MismatchError, match=r"does not decide as .* 75.0% of the images .*at least 97%") as caught:
        check(replace(parity, cosine=1.0), sure(0, 1, 2, 0), replace(ARTIFACT, precision=Precision.INT8))
    assert "--calibration" in caught.value.hint


def test_an_int8_artifact_of_another_direction_fails_even_where_nothing_is_decided() -> None:
    """All logits of the reference are nearly alike, so no image is decisive."""
    reference = np.array([[1.0, 1.01, 1.0], [1.0, 1.0, 1.01]], dtype=np.float32)
    parity = compare(reference, -reference, Precision.INT8)
    with pytest.raises(MismatchError):
        check(parity, reference, replace(ARTIFACT, precision=Precision.INT8))
