"""From a decoded image to what a model takes, as timm does it.

`Preprocessing` and `normalise` need NumPy only: measuring workers, which import no torch, use them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from effvit.errors import UnsupportedError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

CropMode = Literal["center", "squash", "border"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What belongs to a model's weights about its input, apart from the size.

    `mean` and `std` are per RGB channel of pixels scaled to 0..1. The image is resized so that `crop_fraction` of its
    shorter side becomes the input, by PIL's filter called `interpolation`. `crop_mode` is timm's: `center` keeps the
    aspect ratio and cuts, `squash` ignores it, `border` pads.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_fraction: float
    interpolation: str
    crop_mode: CropMode = "center"


class Augmentation(Protocol):
    """How training images vary: any value with these fields."""

    @property
    def crop_scale(self) -> tuple[float, float]:
        """Bounds of the share of an image's area that is cut out."""

    @property
    def horizontal_flip(self) -> float:
        """The share of images that is mirrored."""

    @property
    def auto_augment(self) -> str | None:
        """timm's policy string, https://huggingface.co/docs/timm/reference/data; None for no policy."""

    @property
    def random_erasing(self) -> float:
        """The share of images that loses a rectangle."""


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Return the preprocessing that a timm model's weights were trained with.

    Raises:
        UnsupportedError: The model does not take RGB images.
    """
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(model)
    mean, std = config["mean"], config["std"]
    if len(mean) != 3 or len(std) != 3:
        raise UnsupportedError(f"the model takes {len(mean)} channels, not 3", "choose a model for RGB images")
    return Preprocessing(
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        crop_fraction=float(config["crop_pct"]),
        interpolation=config["interpolation"],
        crop_mode=config["crop_mode"],
    )


def evaluation_transform(
    preprocessing: Preprocessing, height: int, width: int
) -> Callable[[Image.Image], npt.NDArray[np.uint8]]:
    """Return timm's evaluation transform up to, and without, the normalisation.

    It maps an RGB image of any size to pixels `(height, width, 3)`; `normalise` does the rest.
    """
    from timm.data.transforms_factory import create_transform

    transform = create_transform(
        input_size=(3, height, width),
        is_training=False,
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_fraction,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,  # the colour of the padding in mode `border`
        normalize=False,
    )

    def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
        channels_first: Tensor = transform(image)  # (3, height, width), uint8
        return channels_first.permute(1, 2, 0).contiguous().numpy()

    return pixels


def training_transform(
    preprocessing: Preprocessing, height: int, width: int, augmentation: Augmentation
) -> Callable[[Image.Image], Tensor]:
    """Return timm's training transform: an RGB image of any size to a normalised `(3, height, width)` float32.

    It draws from the global generators of `random`, `numpy` and `torch`.
    """
    from timm.data.transforms_factory import create_transform

    from effvit.augmentation import keeping_any_bits

    transform = create_transform(
        input_size=(3, height, width),
        is_training=True,
        scale=augmentation.crop_scale,
        hflip=augmentation.horizontal_flip,
        auto_augment=augmentation.auto_augment,
        color_jitter=0.0,
        re_prob=augmentation.random_erasing,
        re_mode="pixel",
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    return keeping_any_bits(transform)


def normalise(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Turn pixels `(batch, height, width, 3)` into a model's input `(batch, 3, height, width)`.

    Does in float32, in this order, what timm's transform does, so that both give the same numbers.
    """
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    images /= np.float32(255)
    images -= np.asarray(preprocessing.mean, dtype=np.float32)[:, None, None]  # (3, 1, 1)
    images /= np.asarray(preprocessing.std, dtype=np.float32)[:, None, None]
    return images
