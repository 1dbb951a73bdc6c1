"""Counts of correct answers and the rates they support.

Standard library only, so that a measuring worker can use it without torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Counts over held-out images, measured through the runtime on the artifact.

    `class_images[c]` images of class c were seen, `class_top1[c]` of them ranked c first. `top5_correct` is None for
    fewer than 6 classes, where it would say nothing. `of_images` is the size of the whole held-out part.
    """

    images: int
    of_images: int
    top1_correct: int
    top5_correct: int | None
    class_images: tuple[int, ...]
    class_top1: tuple[int, ...]


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
