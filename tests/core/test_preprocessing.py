"""Pixels and normalisation give timm's own numbers."""

import random
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from effvit.data.base import PHOTOGRAPHS, DataDefaults
from effvit.errors import UnsupportedError
from effvit.preprocessing import Preprocessing, evaluation_transform, normalise, preprocessing_of, training_transform
from effvit.recipe import PRESETS, default_recipe

IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_fraction=0.875, interpolation="bilinear"
)
PLAIN = DataDefaults(model="", resolution=None, epochs=1, crop_scale=(1.0, 1.0), horizontal_flip=0.0)


def photograph(width: int = 97, height: int = 61) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (80, 48)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (8, 8)])
def test_pixels_normalised_are_what_timm_feeds_its_model(
    height: int, width: int, crop_mode: str, size: tuple[int, int]
) -> None:
    model = timm.create_model("test_vit", pretrained_cfg_overlay={"crop_mode": crop_mode, "std": (0.2, 0.3, 0.4)})
    config = {**resolve_model_data_config(model), "input_size": (3, height, width)}
    expected = create_transform(**config, is_training=False)(photograph(*size))

    preprocessing = preprocessing_of(model)
    pixels = evaluation_transform(preprocessing, height, width)(photograph(*size))
    assert pixels.shape == (height, width, 3)
    # Both compute (p / 255 - mean) / std in float32; values are below 10, so 1e-6 is a few units in the last place.
    np.testing.assert_allclose(normalise(pixels[None], preprocessing)[0], expected.numpy(), rtol=0, atol=1e-6)


def test_a_known_pixel_is_normalised_by_channel() -> None:
    pixels = np.array([255, 0, 51], dtype=np.uint8).reshape(1, 1, 1, 3)
    images = normalise(pixels, Preprocessing((0.5, 0.5, 0.0), (0.5, 0.25, 0.1), 1.0, "bicubic"))
    assert images.dtype == np.float32
    # float32 has 7 digits
    assert images.reshape(3) == pytest.approx([1.0, -2.0, 2.0], rel=1e-6)


def test_normalise_leaves_the_cached_pixels_alone() -> None:
    pixels = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    normalise(pixels, IMAGENET)
    assert (pixels == 100).all()


def test_preprocessing_is_read_from_the_model() -> None:
    assert preprocessing_of(timm.create_model("vit_tiny_patch16_224")) == Preprocessing(
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_fraction=0.9, interpolation="bicubic", crop_mode="center"
    )


def test_a_model_for_grey_images_is_refused() -> None:
    model = timm.create_model(
        "test_vit", in_chans=1, pretrained_cfg_overlay={"input_size": (1, 160, 160), "mean": (0.5,), "std": (0.5,)}
    )
    with pytest.raises(UnsupportedError, match="takes 1 channels, not 3"):
        preprocessing_of(model)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_training_images_have_the_models_size_and_type(height: int, width: int) -> None:
    defaults = DataDefaults("", None, 1, (0.08, 1.0), 0.5, "rand-m9-mstd0.5-inc1", random_erasing=1.0)
    image = training_transform(IMAGENET, height, width, defaults)(photograph())
    assert image.shape == (3, height, width)
    assert image.dtype == torch.float32


def test_without_augmentation_a_training_image_is_only_resized_and_normalised() -> None:
    image = photograph(64, 64)
    expected = normalise(np.asarray(image)[None], IMAGENET)[0]
    actual = training_transform(IMAGENET, 64, 64, PLAIN)(image)
    # The same float32 arithmetic in torch and in numpy.
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-6)


def test_a_certain_flip_mirrors_the_image() -> None:
    image = photograph(64, 64)
    mirrored = DataDefaults(model="", resolution=None, epochs=1, crop_scale=(1.0, 1.0), horizontal_flip=1.0)
    plain = training_transform(IMAGENET, 64, 64, PLAIN)(image)
    assert torch.equal(training_transform(IMAGENET, 64, 64, mirrored)(image), plain.flip(2))


@pytest.mark.parametrize(
    "change",
    [
        DataDefaults("", None, 1, (1.0, 1.0), 0.0, auto_augment="rand-m9-mstd0.5-inc1"),
        DataDefaults("", None, 1, (1.0, 1.0), 0.0, random_erasing=1.0),
        DataDefaults("", None, 1, (0.1, 0.2), 0.0),
    ],
    ids=["auto_augment", "random_erasing", "crop_scale"],
)
def test_augmentation_changes_images(change: DataDefaults) -> None:
    plain = training_transform(IMAGENET, 64, 64, PLAIN)(photograph(64, 64))
    augment = training_transform(IMAGENET, 64, 64, change)
    # RandAugment applies each of its two operations to every other image: 20 untouched ones are a matter of 0.25^20.
    assert not all(torch.equal(augment(photograph(64, 64)), plain) for _ in range(20))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_augmentation_of_every_recipe_survives_every_magnitude(preset: str) -> None:
    """timm's posterize keeps 0 bits at the largest magnitude, which Pillow refuses; found after 40 s on real images."""
    random.seed(0)
    np.random.seed(0)
    augment = training_transform(IMAGENET, 32, 32, default_recipe(PHOTOGRAPHS, from_scratch=True, preset=preset))
    image = photograph(48, 48)
    for _ in range(1500):  # 2 of some 15 operations an image; the uncapped policy fails within 300
        augment(image)


def test_preprocessing_evaluation_and_data_are_imported_without_torch() -> None:
    code = (
        "import sys, effvit.preprocessing, effvit.accuracy, effvit.evaluate, effvit.sampling, effvit.data.base as base;"
        "base.data_sources(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
