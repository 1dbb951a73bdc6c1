"""The digits are scikit-learn's, split once and for all."""

from collections import Counter

import numpy as np
from sklearn.datasets import load_digits

from effvit.data.base import load_data


def test_every_digit_is_in_one_part_a_fifth_held_out() -> None:
    data = load_data("digits")
    assert data.classes == tuple("0123456789")
    assert len(data.train) + len(data.val) == 1797
    held_out = Counter(sample.label for sample in data.val)
    assert held_out == {d: round(0.2 * count) for d, count in Counter(load_digits().target.tolist()).items()}


def test_images_are_8_by_8_rgb_with_white_at_the_highest_level() -> None:
    data = load_data("digits")
    first = next(sample for sample in data.train + data.val if sample.label == 0)
    assert isinstance(first.source, np.ndarray)
    assert (first.source.shape, first.source.dtype) == ((8, 8, 3), np.uint8)
    assert max(int(np.max(sample.source)) for sample in data.val) == 255  # type: ignore[arg-type]


def test_a_training_image_is_the_digit_it_is_labelled_as() -> None:
    digits = load_digits()
    known = {
        (image * 255 / 16).round().astype(np.uint8).tobytes(): d
        for image, d in zip(digits.images, digits.target, strict=True)
    }
    data = load_data("digits")
    assert all(known[sample.source[..., 1].tobytes()] == sample.label for sample in data.train + data.val)


def test_the_split_is_the_same_every_time() -> None:
    assert load_data("digits").fingerprint == load_data("digits").fingerprint


def test_digits_are_not_mirrored() -> None:
    hints = load_data("digits").hints
    assert (hints.model, hints.resolution, hints.horizontal_flip, hints.crop_scale) == ("test_vit", 64, 0.0, (0.9, 1.0))
