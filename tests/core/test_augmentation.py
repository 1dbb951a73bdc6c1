"""Policies of timm: that they run where Pillow refuses what they ask for, and that nonsense is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import noise
from timm.data import auto_augment

from effvit.augmentation import require_policy
from effvit.errors import UsageError
from effvit.preprocessing import Preprocessing, training_transform
from effvit.randomness import drawn_from
from effvit.recipe import Recipe, checked_changes

PREPROCESSING = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, "bicubic")


def augmented(policy: str, seed: int) -> np.ndarray:
    recipe = Recipe(auto_augment=policy, crop_scale=(1.0, 1.0), horizontal_flip=0.0)
    with drawn_from(seed):
        return training_transform(PREPROCESSING, 16, 16, recipe)(noise(16, 16)).numpy()


# Of each kind one in which posterizing keeps no bit: at magnitude 10 where it grows, below 2.5 where it shrinks.
@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m30-mmax30-inc1", "rand-m1", "augmix-m10", "v0"])
def test_a_policy_may_keep_no_bit_of_a_colour(policy: str) -> None:
    require_policy(policy)
    for seed in range(60):
        assert augmented(policy, seed).shape == (3, 16, 16)


def test_what_keeps_no_bit_is_black_and_what_keeps_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_augment, "_RAND_INCREASING_TRANSFORMS", ["PosterizeIncreasing"])
    assert set(np.unique(augmented("rand-m10-p1-inc1", 0))) == {0.0}
    # Magnitude 9 keeps 4 - int(3.6) = 1 of 8 bits: a level is 0 or 128.
    assert np.unique(augmented("rand-m9-p1-inc1", 0)) == pytest.approx([0.0, 128 / 255])


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("rand-m9-inc", "'inc' means nothing in it"),
        ("rand-m9-tweigths", "'tweigths' means nothing in it"),
        ("rand-x9", "Unknown RandAugment config section"),
        ("rend", "Unknown AA policy rend"),
        ("rand-m9.5", "invalid literal"),
        ("rand-n99-tweights", "larger sample"),
    ],
)
def test_a_policy_that_timm_has_not_is_refused(policy: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        checked_changes({"auto_augment": policy})
    assert "rand-m9-mstd0.5-inc1" in caught.value.hint
