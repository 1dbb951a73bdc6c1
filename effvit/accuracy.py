"""Counts of correct answers and the rates they support.

Standard library only, so that a measuring worker can use it without torch.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Counts over held-out images, measured through the runtime on the artifact.

    `class_images[c]` images of class c were seen, `class_top1[c]` of them ranked c first. `top5_correct` is None for
    fewer than 6 classes, where it would say nothing. `of_images` is the size of the whole held-out part.

    `hits` tells of every image in its order whether its label was ranked first: a bit each, the first image's the
    highest of the first byte, in base64. `images_key` is equal where the images and their order are. Both are None in
    what was written before they were kept.
    """

    images: int
    of_images: int
    top1_correct: int
    top5_correct: int | None
    class_images: tuple[int, ...]
    class_top1: tuple[int, ...]
    hits: str | None = None
    images_key: str | None = None


def top1(accuracy: Accuracy) -> float | None:
    """The share of images whose label is ranked first; None without images."""
    return accuracy.top1_correct / accuracy.images if accuracy.images else None


def top5(accuracy: Accuracy) -> float | None:
    """The share of images whose label is among the first five; None without images or with fewer than 6 classes."""
    if accuracy.top5_correct is None or not accuracy.images:
        return None
    return accuracy.top5_correct / accuracy.images


def balanced_top1(accuracy: Accuracy) -> float | None:
    """The mean over classes of each class's top-1 accuracy; classes without images are left out, None without any."""
    rates = [
        correct / images for correct, images in zip(accuracy.class_top1, accuracy.class_images, strict=True) if images
    ]
    return sum(rates) / len(rates) if rates else None


def lost_and_gained(reference: Accuracy, accuracy: Accuracy) -> tuple[int, int] | None:
    """Return how many images are wrong that were right for `reference`, and the other way round.

    None unless both tell of every image, and of the same ones in the same order.
    """
    if reference.images_key is None or reference.images_key != accuracy.images_key:
        return None
    before, now = _bits(reference), _bits(accuracy)
    return None if before is None or now is None else ((before & ~now).bit_count(), (now & ~before).bit_count())


def hits_add_up(accuracy: Accuracy) -> bool:
    """Return whether `hits`, if kept, are as many bits as there are images, and as many of them set as were right."""
    if accuracy.hits is None:
        return True
    try:
        packed = base64.b64decode(accuracy.hits, validate=True)
    except ValueError:  # not base64, or not even ASCII
        return False
    spare = -accuracy.images % 8
    bits = int.from_bytes(packed, "big")
    whole = len(packed) == (accuracy.images + 7) // 8 and not bits & ((1 << spare) - 1)
    return whole and bits.bit_count() == accuracy.top1_correct


def _bits(accuracy: Accuracy) -> int | None:
    return None if accuracy.hits is None else int.from_bytes(base64.b64decode(accuracy.hits), "big")
