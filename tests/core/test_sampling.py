"""Splits and subsets keep their promises for any mix of classes."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effvit.data.base import Sample
from effvit.errors import UsageError
from effvit.sampling import stratified_split, stratified_subset

SIZES = st.lists(st.integers(2, 30), min_size=1, max_size=6)


def labels_with(sizes: list[int]) -> list[int]:
    return [label for label, size in enumerate(sizes) for _ in range(size)]


def samples_with(sizes: list[int]) -> list[Sample]:
    return [Sample(Path(f"{index}.png"), label) for index, label in enumerate(labels_with(sizes))]


@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_a_split_is_disjoint_and_complete_and_has_every_class_on_both_sides(sizes: list[int], seed: int) -> None:
    labels = labels_with(sizes)
    train, val = stratified_split(labels, 0.2, seed)
    assert sorted(train + val) == list(range(len(labels)))
    assert {labels[at] for at in train} == {labels[at] for at in val} == set(labels)


def test_a_fifth_of_each_class_is_held_out() -> None:
    _, val = stratified_split(labels_with([100, 10, 2]), 0.2, 0)
    assert Counter(labels_with([100, 10, 2])[at] for at in val) == {0: 20, 1: 2, 2: 1}


def test_another_class_moves_no_image_of_the_rest() -> None:
    assert stratified_split(labels_with([30, 40]), 0.2, 0)[1][:6] == stratified_split(labels_with([30]), 0.2, 0)[1]


def test_another_seed_splits_differently() -> None:
    labels = labels_with([50])
    assert stratified_split(labels, 0.2, 0) != stratified_split(labels, 0.2, 1)


def test_a_single_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="class 7 has a single image"):
        stratified_split([3, 3, 7], 0.2, 0)


@given(sizes=SIZES, at_most=st.integers(1, 100), seed=st.integers(0, 1000))
def test_a_subset_is_as_balanced_as_the_classes_allow(sizes: list[int], at_most: int, seed: int) -> None:
    samples = samples_with(sizes)
    chosen = stratified_subset(samples, at_most, seed)
    assert len(chosen) == min(at_most, len(samples))
    counts = Counter(sample.label for sample in chosen)
    most = max(counts.values())
    # A class may lie more than one behind the largest only if it is used up.
    assert all(counts[label] >= min(size, most - 1) for label, size in enumerate(sizes))


def test_a_subset_keeps_the_order_and_is_the_same_every_time() -> None:
    samples = samples_with([20, 20])
    chosen = stratified_subset(samples, 8, seed=3)
    positions = [samples.index(sample) for sample in chosen]
    assert positions == sorted(positions)
    assert stratified_subset(samples, 8, seed=3) == chosen


def test_an_empty_subset_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 image, not 0"):
        stratified_subset(samples_with([2, 2]), 0, seed=0)
