"""Counts of correct answers. Standard library only, so that a measuring worker can use it without torch."""

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
