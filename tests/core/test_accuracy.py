"""What is kept of single images, against counting them one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import judged_accuracy

from effvit.accuracy import hits_add_up, lost_and_gained
from effvit.evaluate import count_correct, merge

FLAGS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=70)


@settings(max_examples=300, deadline=None)
@given(FLAGS)
def test_lost_and_gained_are_what_counting_image_by_image_finds(flags: list[tuple[bool, bool]]) -> None:
    before, now = (judged_accuracy([pair[side] for pair in flags]) for side in (0, 1))
    lost = sum(1 for was, is_ in flags if was and not is_)
    gained = sum(1 for was, is_ in flags if is_ and not was)
    assert lost_and_gained(before, now) == (lost, gained)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(1, 20))
def test_images_keep_their_order_whatever_the_batches(right: list[bool], batch: int) -> None:
    logits = np.array([[0, 1] if one else [1, 0] for one in right], dtype=np.float32)
    labels = np.ones(len(right), dtype=np.int64)
    starts = range(0, len(right), batch)
    merged = merge([count_correct(logits[at : at + batch], labels[at : at + batch]) for at in starts])
    assert merged.hits == judged_accuracy(right).hits
    assert hits_add_up(merged)


def test_other_images_or_counts_alone_are_not_paired() -> None:
    one = judged_accuracy([True, False, True])
    assert lost_and_gained(one, replace(one, images_key="others")) is None
    assert lost_and_gained(one, replace(one, hits=None)) is None
    nameless = replace(one, images_key=None)
    assert lost_and_gained(nameless, nameless) is None


def test_parts_of_which_one_tells_no_images_come_to_counts_alone() -> None:
    part = count_correct(np.eye(2, dtype=np.float32), np.arange(2))
    assert merge([part, replace(part, hits=None)]).hits is None


@pytest.mark.parametrize(
    "hits",
    ["", "AA==", "wA==", "oAA=", "sA==", "not base64", "o\u00e4=="],
    ids=["none", "too few", "too many", "another length", "a bit behind the last image", "text", "not ASCII"],
)
def test_hits_that_contradict_the_counts_are_noticed(hits: str) -> None:
    """By hand: right are the first and the third of three images, 1010 0000, which is oA==."""
    one = judged_accuracy([True, False, True])
    assert one.hits == "oA=="
    assert hits_add_up(one)
    assert not hits_add_up(replace(one, hits=hits, top1_correct=3 if hits == "wA==" else 2))
