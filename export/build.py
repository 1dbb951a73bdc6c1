"""Artifacts made, verified and evaluated in this very process: for commands that measure no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from effvit.accuracy import Accuracy
from effvit.errors import MismatchError
from effvit.evaluate import count_correct, merge
from effvit.export.base import Artifact, Backend, Parity, Source, predict
from effvit.export.cache import find, forget, make, reference_logits, verify
from effvit.export.decisions import Truth, check_drop
from effvit.preprocessing import normalise

BATCH = 16


def verified_artifact(
    source: Source,
    backend: Backend,
    pixels: Path,
    threads: int,
    truth: Truth | None = None,
    max_drop: float | None = None,
) -> Artifact:
    """Return the artifact of `source`, made and verified unless it was before, on the uint8 images in `pixels`.

    What was verified on fewer images than `truth` knows, or without it, is verified again. `max_drop` is how many
    percentage points of top-1 the artifact may lose at most.

    Raises:
        ExportError: It cannot be made.
        MismatchError: It is not the model it was made from, or loses more; it does not count as verified then.
    """
    artifact = find(source, backend) or make(source, backend)
    if artifact.parity is None or not _judged(artifact.parity, truth):
        forget(source, backend)
        images = np.load(pixels)
        session = backend.open(artifact, threads)
        predicted = predict(session, normalise(images, artifact.preprocessing), BATCH)
        return verify(artifact, source, backend, reference_logits(source, images), predicted, truth, max_drop)
    if max_drop is not None:
        try:
            check_drop(artifact.parity, artifact, max_drop)
        except MismatchError:
            forget(source, backend)
            raise
    return artifact


def _judged(parity: Parity, truth: Truth | None) -> bool:
    """Return whether decisions were held against all that `truth` knows."""
    return truth is None or (parity.lost is not None and parity.images >= len(truth.labels))


def artifact_accuracy(
    artifact: Artifact, backend: Backend, pixels: Path, labels: Sequence[int], of_images: int, threads: int
) -> Accuracy:
    """Return how many of the uint8 images in `pixels` the artifact classifies right, run through `backend`."""
    session = backend.open(artifact, threads)
    images = np.load(pixels, mmap_mode="r")
    truth = np.asarray(labels, dtype=np.int64)
    counts = []
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        logits = predict(session, normalise(images[part], artifact.preprocessing), BATCH)
        counts.append(count_correct(logits, truth[part]))
    return replace(merge(counts), of_images=of_images)
