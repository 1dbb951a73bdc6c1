"""timm's policies of automatic augmentation, checked, and able to keep no bit of a colour."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from PIL import Image
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment, posterize
from timm.data.transforms_factory import create_transform

from effvit.errors import UsageError, first_line
from effvit.randomness import drawn_from

if TYPE_CHECKING:
    from torch import Tensor

Transform = Callable[[Image.Image], "Tensor"]
SECTION = re.compile(r"[a-z]+\d+(\.\d+)?|t(weights|3a|3aw)")
"""What may follow the kind of a policy, each after a hyphen; timm passes over anything else without a word."""
HINT = "write it as in rand-m9-mstd0.5-inc1: https://huggingface.co/docs/timm/reference/data"


def require_policy(text: str) -> None:
    """Check that timm has this policy.

    Raises:
        UsageError: It has not, or a part of it means nothing.
    """
    unknown = [section for section in text.split("-")[1:] if not SECTION.fullmatch(section)]
    if unknown:
        raise UsageError(f"auto_augment cannot be {text!r}: {unknown[0]!r} means nothing in it", HINT)
    try:
        with drawn_from(0):
            augment = create_transform(input_size=(3, 8, 8), is_training=True, auto_augment=text)
            keeping_any_bits(augment)(Image.new("RGB", (8, 8)))
    except (AssertionError, ValueError) as error:
        raise UsageError(f"auto_augment cannot be {text!r}: {first_line(error)}", HINT) from error


def keeping_any_bits(transform: Transform) -> Transform:
    """Return a transform of timm whose policy may keep none of a colour's bits: all is black then.

    So it was until Pillow came to refuse it, and so the recipes that name these policies were found.
    """
    for step in _steps(transform):
        if step.aug_fn is posterize:
            step.aug_fn = _posterized
    return transform


def _steps(transform: Transform) -> Iterator[AugmentOp]:
    for part in getattr(transform, "transforms", ()):
        if isinstance(part, RandAugment | AugMixAugment):
            yield from part.ops
        elif isinstance(part, AutoAugment):
            yield from chain.from_iterable(part.policy)


def _posterized(image: Image.Image, bits: int, **_: object) -> Image.Image:
    if bits < 1:
        return Image.new(image.mode, image.size)
    kept: Image.Image = posterize(image, bits)
    return kept
