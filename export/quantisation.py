"""How numbers become 8 bits wide: what is asked for, and what came of it. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from effvit.errors import UsageError

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
# Ranges of fewer images than this are those of these images: the next one exceeds them.
LEAST_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How 8-bit graphs are made.

    The ranges of activations are taken from `images` training images, drawn evenly over the classes by `seed`, as
    `method` does it. With `attention` the products of activations around a softmax are quantised, too.

    Raises:
        UsageError: Fewer images than ranges can be taken from, or a negative seed.
    """

    images: int = 128
    # Of 3 x 359 held-out digits (test_vit with softmax, performer and linformer, 64 px, ONNX Runtime), 4 changed their
    # class from fp32 to int8 with the ranges of minmax, 6 with those of percentile, 10 with those of entropy; 6 with
    # attention quantised, too. No more than a lead: the first two differ by chance.
    method: Method = "minmax"
    seed: int = 0
    attention: bool = False

    def __post_init__(self) -> None:
        if self.images < LEAST_IMAGES:
            raise UsageError(
                f"ranges cannot be taken from {self.images} images", f"calibrate on {LEAST_IMAGES} images or more"
            )
        if self.seed < 0:
            raise UsageError(f"a seed cannot be {self.seed}", "choose 0 or more")


DEFAULT_QUANTISATION = Quantisation()


@dataclass(frozen=True, slots=True)
class Quantised:
    """What an 8-bit graph is: how it was asked for, and what came of it.

    `images` are those there were, at most the ones asked for; `products` of the graph's `of_products` convolutions and
    matrix products have 8-bit operands.
    """

    asked: Quantisation
    images: int
    products: int
    of_products: int
