"""Whether an artifact decides as PyTorch does: counts, tests and intervals against other routes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from artifacts import ARTIFACT
from scipy import stats

from effvit.errors import MismatchError
from effvit.export.base import Artifact, Flip, Parity
from effvit.export.decisions import MOST_FLIPS, Truth, change, change_of, check_drop, divergence
from effvit.export.verify import compare
from effvit.spec import Precision

REFERENCE = np.array([[4.0, 0.0, 0.0], [0.0, 2.0, 1.0], [1.0, 1.5, 0.0], [0.0, 0.0, 3.0]], dtype=np.float32)
TRUTH = Truth((0, 1, 0, 2), ("a.png", "b.png", "c.png", "d.png"))
PARITY = Parity(200, 0.1, 0.999, 0.98, 1.0, 0.01, correct=150, lost=3, gained=1)


def test_images_that_change_are_lost_gained_or_neither() -> None:
    """PyTorch is right but for c; the artifact loses b, gains c, and changes nothing about d."""
    logits = np.array([[3.0, 0, 0], [0, 1.0, 1.25], [1.5, 1.0, 0], [0, 0, 9.0]], dtype=np.float32)
    parity = compare(REFERENCE, logits, Precision.FP16, TRUTH)
    assert (parity.correct, parity.lost, parity.gained, parity.agreement) == (3, 1, 1, 0.5)
    assert parity.flips == (
        Flip("b.png", 1, 1, 2, margin=1.0, lead=0.25),
        Flip("c.png", 0, 1, 0, margin=0.5, lead=0.5),
    )


def test_logits_that_are_no_numbers_lose_an_image_without_a_flip() -> None:
    logits = REFERENCE.copy()
    logits[0, 0] = np.nan
    parity = compare(REFERENCE, logits, Precision.FP16, TRUTH)
    assert (parity.correct, parity.lost, parity.gained, parity.flips) == (3, 1, 0, ())


def test_without_labels_there_is_agreement_but_no_accuracy() -> None:
    parity = compare(REFERENCE, REFERENCE[:, ::-1].copy(), Precision.FP16)
    assert (parity.correct, parity.lost, parity.gained) == (None, None, None)
    assert change_of(parity) is None
    # The middle class stays where it was: the third image's decision does, too.
    assert [(flip.image, flip.label) for flip in parity.flips] == [("image 0", None), ("image 3", None)]
    with pytest.raises(ValueError, match="without labels"):
        check_drop(parity, ARTIFACT, 1.0)


def test_the_list_of_flips_keeps_the_clearest_decisions() -> None:
    count = MOST_FLIPS + 20
    reference = np.zeros((count, 2), np.float32)
    reference[:, 0] = np.arange(1, count + 1)
    truth = Truth((0,) * count, tuple(map(str, range(count))))
    parity = compare(reference, reference[:, ::-1], Precision.FP16, truth)
    assert [flip.margin for flip in parity.flips] == list(range(count, 20, -1))
    assert parity.lost == count


def test_the_divergence_is_that_of_the_probabilities() -> None:
    """Probabilities (1/2, 1/2) and (1/4, 3/4): log 2 - log 3 / 2 nats; what is added to all logits changes nothing."""
    reference = np.array([[0.0, 0.0], [5.0, 5.0]], np.float32)
    logits = np.array([[0.0, math.log(3)], [7.0, 7.0]], np.float32)
    assert divergence(reference, logits) == pytest.approx((math.log(2) - math.log(3) / 2) / 2, rel=1e-6)
    assert math.isnan(divergence(reference, np.full((2, 2), np.inf, np.float32)))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (3, 1), (10, 2), (7, 7), (25, 10)])
def test_mcnemars_test_counts_coins(lost: int, gained: int) -> None:
    """The p value by summing up what is at most as likely under a fair coin."""
    n = lost + gained
    likely = [math.comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(p for p in likely if p <= likely[lost] * (1 + 1e-9))
    assert change(lost, gained, 200).p == pytest.approx(min(expected, 1.0))


def test_the_interval_of_a_change_is_the_papers() -> None:
    """3 lost and 1 gained of 200, by hand: (2 - 4) / 202 +- 1.95996 sqrt((6 / 202 - (2 / 202)^2) / 202)."""
    measured = change(3, 1, 200)
    assert measured.value == -0.01
    half = 1.959964 * math.sqrt((6 / 202 - (2 / 202) ** 2) / 202)
    assert (measured.low, measured.high) == (pytest.approx(-2 / 202 - half), pytest.approx(-2 / 202 + half))
    extreme = change(4, 0, 4)
    assert (extreme.low >= -1, extreme.value) == (True, -1)


def test_the_interval_covers_the_true_change() -> None:
    """All outcomes of 40 images, weighted by their probability, where 8 % are lost and 3 % gained."""
    images, down, up = 40, 0.08, 0.03
    covered = 0.0
    for lost, gained in itertools.product(range(images + 1), repeat=2):
        if lost + gained > images:
            continue
        probability = stats.multinomial.pmf([lost, gained, images - lost - gained], images, [down, up, 1 - down - up])
        interval = change(lost, gained, images)
        covered += float(probability) * (interval.low <= up - down <= interval.high)
    assert 0.93 <= covered <= 0.995


@pytest.mark.parametrize(("most", "fine"), [(0.5, False), (0.99, False), (1.0, True), (2.0, True)])
def test_an_artifact_may_lose_what_is_allowed_and_no_more(most: float, fine: bool) -> None:
    """Two of 200 images net: exactly one point."""
    if fine:
        check_drop(PARITY, ARTIFACT, most)
        return
    with pytest.raises(
        MismatchError, match=r"loses 1\.00 points of top-1 \(95 % interval .* p = 0\.62\) on 200 images"
    ):
        check_drop(PARITY, ARTIFACT, most)


def test_an_artifact_that_gains_is_never_refused() -> None:
    check_drop(replace(PARITY, lost=1, gained=3), ARTIFACT, 0.0)


def test_too_few_images_to_tell_are_said() -> None:
    with pytest.raises(MismatchError) as caught:
        check_drop(replace(PARITY, images=64), ARTIFACT, 0.5)
    assert "a single one of 64 is 1.56 points" in caught.value.hint


def test_what_was_verified_before_labels_were_looked_at_is_still_read() -> None:
    old = {"images": 64, "max_abs": 0.1, "cosine": 0.9, "agreement": 1.0, "decisive_agreement": 1.0}
    written = msgspec.json.decode(msgspec.json.encode(ARTIFACT), type=dict[str, object])
    written["parity"] = old
    del written["gpus"]
    artifact = msgspec.json.decode(msgspec.json.encode(written), type=Artifact)
    assert artifact.parity == Parity(64, 0.1, 0.9, 1.0, 1.0)
    assert change_of(artifact.parity) is None
