"""Accuracy from logits: counting, and merging partial counts. NumPy only."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from effvit.accuracy import Accuracy

TOP5_MIN_CLASSES = 6
"""With five classes or fewer every answer is among the first five."""


def count_correct(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], *, of_images: int | None = None
) -> Accuracy:
    """Count the images whose label is ranked first, and among the first five.

    Equal logits are ranked in class order, as argmax does: a model that answers the same for every class gets no more
    than a guess would. An image with a NaN among its logits is wrong, whatever its label.

    Args:
        logits: `(images, classes)`.
        labels: `(images,)`, from 0 to classes - 1.
        of_images: Size of what these images were taken from; None if they are all of it.

    Raises:
        ValueError: Shapes that do not match, or a label that is no class.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} must be (images, classes) and (images,)")
    images, classes = logits.shape
    if images and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, not in {labels.min()}..{labels.max()}")
    ranks = _ranks(logits, labels)
    top1 = ranks == 0
    return Accuracy(
        images=images,
        of_images=images if of_images is None else of_images,
        top1_correct=int(top1.sum()),
        top5_correct=int((ranks < 5).sum()) if classes >= TOP5_MIN_CLASSES else None,
        class_images=_counts(labels, classes),
        class_top1=_counts(labels[top1], classes),
        hits=_packed(top1),
    )


def merge(parts: Sequence[Accuracy]) -> Accuracy:
    """Add up the counts, and the `of_images`, of disjoint parts of one held-out set, in the order of the images.

    Raises:
        ValueError: No parts, or parts with different classes.
    """
    if len({len(part.class_images) for part in parts}) != 1:
        raise ValueError("counts can be merged only if there are some and all are of the same classes")
    top5 = [part.top5_correct for part in parts if part.top5_correct is not None]
    return Accuracy(
        images=sum(part.images for part in parts),
        of_images=sum(part.of_images for part in parts),
        top1_correct=sum(part.top1_correct for part in parts),
        top5_correct=sum(top5) if top5 else None,
        class_images=tuple(map(sum, zip(*(part.class_images for part in parts), strict=True))),
        class_top1=tuple(map(sum, zip(*(part.class_top1 for part in parts), strict=True))),
        hits=_joined(parts),
    )


def _joined(parts: Sequence[Accuracy]) -> str | None:
    """Return the hits of all parts, None where one does not tell them."""
    bits = []
    for part in parts:
        if part.hits is None:
            return None
        packed = np.frombuffer(base64.b64decode(part.hits), dtype=np.uint8)
        bits.append(np.unpackbits(packed, count=part.images))
    return _packed(np.concatenate(bits))


def _packed(hits: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def _ranks(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many classes are ranked before each image's label, `(images,)`; all of them where a logit is NaN."""
    classes = logits.shape[1]
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # (images, 1)
    earlier = np.arange(classes) < labels[:, None]  # (images, classes)
    ranks: npt.NDArray[np.int64] = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    ranks[np.isnan(logits).any(axis=1)] = classes
    return ranks


def _counts(labels: npt.NDArray[np.int64], classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels, minlength=classes).tolist())
