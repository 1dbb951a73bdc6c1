"""Perceptual hashes, and the pairs of them that are near."""

import numpy as np
import numpy.typing as npt
import pytest
from pictures import noise
from PIL import Image, ImageDraw, ImageEnhance

from effvit.likeness import near_pairs, perceptual_hash


def scene(seed: int) -> Image.Image:
    """Return an image of a few large shapes, as smooth as photographs are."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (200, 150), tuple(generator.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, width, height = generator.integers(0, 120, 4).tolist()
        draw.ellipse((x, y, x + width + 5, y + height + 5), fill=tuple(generator.integers(0, 256, 3).tolist()))
    return image


def bits_apart(one: Image.Image, other: Image.Image) -> int:
    return int(np.bitwise_count(perceptual_hash(one) ^ perceptual_hash(other)).sum())


def test_the_bits_are_the_low_frequencies_above_their_median() -> None:
    image = scene(1)
    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.LANCZOS), dtype=np.float64)
    frequency, position = np.arange(16)[:, None], np.arange(64)[None, :]
    cosines = 2 * np.cos(np.pi * frequency * (2 * position + 1) / 128)  # DCT-II by its definition
    lowest = np.round(cosines @ grey @ cosines.T / 64, 1)
    assert np.unpackbits(perceptual_hash(image)).astype(bool).tolist() == (lowest > np.median(lowest)).ravel().tolist()


def test_the_same_picture_in_another_size_or_brightness_is_near_and_another_is_far() -> None:
    image = scene(1)
    assert bits_apart(image, image.resize((320, 240), Image.Resampling.BICUBIC)) <= 10
    assert bits_apart(image, ImageEnhance.Brightness(image).enhance(0.9)) <= 10
    assert min(bits_apart(image, scene(seed)) for seed in range(2, 12)) > 40
    assert bits_apart(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 40


def test_flat_images_are_alike_whatever_their_colour() -> None:
    assert bits_apart(Image.new("RGB", (30, 40), "white"), Image.new("RGB", (90, 20), (10, 20, 30))) == 0


@pytest.mark.parametrize("most_bits", [0, 3, 10])
def test_every_near_pair_is_found_once(most_bits: int) -> None:
    generator = np.random.default_rng(0)
    hashes: npt.NDArray[np.uint8] = generator.integers(0, 256, (60, 32), dtype=np.uint8)
    bits = np.unpackbits(hashes, axis=1)
    for row in range(30, 60):  # each a copy of an earlier one with up to 14 bits turned
        bits[row] = bits[row - 30]
        bits[row, generator.choice(256, row // 4, replace=False)] ^= 1
    hashes = np.packbits(bits, axis=1)
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    expected = [(i, j, int(apart[i, j])) for i in range(60) for j in range(i + 1, 60) if apart[i, j] <= most_bits]
    found = near_pairs(hashes, most_bits)
    assert sorted(zip(*(array.tolist() for array in found), strict=True)) == expected
    assert expected or most_bits < 7


def test_one_hash_has_no_pair() -> None:
    assert [len(array) for array in near_pairs(perceptual_hash(noise())[None], 10)] == [0, 0, 0]
