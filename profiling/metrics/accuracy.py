"""How often the artifact is right on held-out images, through the runtime that was timed."""

from __future__ import annotations

from effvit.accuracy import Accuracy
from effvit.profiling import stats
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence

_NAMES = ("accuracy.top1", "accuracy.top5", "accuracy.balanced_top1")


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return shares from 0 to 1."""
    accuracy = evidence.accuracy
    if accuracy is None or accuracy.images == 0:
        return tuple(Reading(name, None, note="no held-out images were evaluated") for name in _NAMES)
    part = "" if accuracy.images == accuracy.of_images else f"from {accuracy.images} of {accuracy.of_images} images"
    top1 = stats.proportion(accuracy.top1_correct, accuracy.images)
    return (
        Reading(_NAMES[0], top1.value, top1.low, top1.high, part),
        _top5(accuracy, part),
        # A mean of shares of different sizes is not binomial, so Wilson's interval does not apply.
        Reading(_NAMES[2], _balanced(accuracy), note="; ".join(filter(None, ("no interval: not binomial", part)))),
    )


def _top5(accuracy: Accuracy, part: str) -> Reading:
    if accuracy.top5_correct is None:
        return Reading(_NAMES[1], None, note="says nothing for fewer than 6 classes")
    top5 = stats.proportion(accuracy.top5_correct, accuracy.images)
    return Reading(_NAMES[1], top5.value, top5.low, top5.high, part)


def _balanced(accuracy: Accuracy) -> float | None:
    """Return the mean over classes of the share that was right, classes without an image left out."""
    pairs = zip(accuracy.class_top1, accuracy.class_images, strict=True)
    shares = [right / images for right, images in pairs if images]
    return sum(shares) / len(shares) if shares else None


METRIC = Metric("accuracy", "share", "higher", "Top-1, top-5 and class-balanced top-1 on held-out images", measure)
