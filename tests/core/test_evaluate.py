"""Counts against numbers worked out by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from effvit.accuracy import Accuracy, balanced_top1, top1, top5
from effvit.evaluate import count_correct, merge

LOGITS = np.array([[3, 1, 2], [0, 5, 1], [1, 0, 4], [9, 1, 2]], dtype=np.float32)  # ranked first: 0, 1, 2, 0
LABELS = np.array([0, 1, 0, 0])


def test_counts_of_four_images() -> None:
    assert count_correct(LOGITS, LABELS) == Accuracy(
        images=4,
        of_images=4,
        top1_correct=3,
        top5_correct=None,
        class_images=(3, 1, 0),
        class_top1=(2, 1, 0),
        hits="0A==",  # 1101 0000 is 0xd0
    )


def test_the_balanced_rate_weighs_classes_not_images_and_leaves_out_classes_without_images() -> None:
    counted = count_correct(LOGITS, LABELS)
    assert top1(counted) == 0.75
    assert balanced_top1(counted) == pytest.approx((2 / 3 + 1) / 2, abs=1e-15)


def test_top5_takes_five_of_six_classes() -> None:
    logits = np.array([[5, 4, 3, 2, 1, 0]] * 6, dtype=np.float32)
    counted = count_correct(logits, np.arange(6))
    assert (counted.top1_correct, counted.top5_correct) == (1, 5)
    assert top5(counted) == pytest.approx(5 / 6)


def test_top5_says_nothing_for_five_classes() -> None:
    counted = count_correct(np.eye(5, dtype=np.float32), np.arange(5))
    assert counted.top5_correct is None
    assert top5(counted) is None


def test_equal_logits_are_ranked_in_class_order() -> None:
    counted = count_correct(np.zeros((8, 8), dtype=np.float32), np.arange(8))
    assert (counted.top1_correct, counted.top5_correct) == (1, 5)
    assert counted.class_top1 == (1, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("label", range(6))
def test_an_image_with_a_nan_is_wrong_whatever_its_label(label: int) -> None:
    logits = np.array([[9, 1, 2, np.nan, 3, 4]], dtype=np.float32)
    counted = count_correct(logits, np.array([label]))
    assert (counted.top1_correct, counted.top5_correct) == (0, 0)


def test_an_infinite_logit_is_first() -> None:
    logits = np.array([[0, np.inf, -np.inf]], dtype=np.float32)
    assert count_correct(logits, np.array([1])).top1_correct == 1


def test_without_images_there_are_no_rates() -> None:
    counted = count_correct(np.empty((0, 10), dtype=np.float32), np.empty(0, dtype=np.int64))
    assert (top1(counted), top5(counted), balanced_top1(counted)) == (None, None, None)


def test_a_subset_says_what_it_was_taken_from() -> None:
    assert count_correct(LOGITS, LABELS, of_images=100).of_images == 100


def test_merging_parts_is_counting_the_whole() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    parts = [count_correct(logits[at : at + 16], labels[at : at + 16]) for at in range(0, 50, 16)]
    assert merge(parts) == count_correct(logits, labels)


def test_nothing_and_different_classes_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="there are some and all are of the same classes"):
        merge([])
    other = count_correct(np.eye(2, dtype=np.float32), np.arange(2))
    with pytest.raises(ValueError, match="there are some and all are of the same classes"):
        merge([other, count_correct(LOGITS, LABELS)])


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits \(4, 3\) and labels \(2,\)"):
        count_correct(LOGITS, LABELS[:2])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        count_correct(LOGITS, np.array([0, 1, 2, label]))


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(6, 12), images=st.integers(12, 60))
def test_rates_agree_with_scikit_learn(seed: int, classes: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    # A permutation a row: no ties, which scikit-learn ranks the other way round.
    logits = rng.permuted(np.tile(np.arange(classes, dtype=np.float32), (images, 1)), axis=1)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images - classes)])
    counted = count_correct(logits, labels)
    all_classes = np.arange(classes)
    # Both sum a few dozen doubles in another order.
    assert top1(counted) == pytest.approx(top_k_accuracy_score(labels, logits, k=1, labels=all_classes), abs=1e-12)
    assert top5(counted) == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=all_classes), abs=1e-12)
    assert balanced_top1(counted) == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)), abs=1e-12)
