"""Artifacts made, verified and evaluated in this very process: for commands that measure no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from effvit.accuracy import Accuracy
from effvit.evaluate import count_correct, merge
from effvit.export.base import Artifact, Backend, Source, predict
from effvit.export.cache import find, make, reference_logits, verify
from effvit.preprocessing import normalise

BATCH = 16


def verified_artifact(source: Source, backend: Backend, pixels: Path, threads: int) -> Artifact:
    """Return the artifact of `source`, made and verified unless it was before, on the uint8 images in `pixels`.

    Raises:
        ExportError: It cannot be made.
        MismatchError: It is not the model it was made from.
    """
    artifact = find(source, backend) or make(source, backend)
    if artifact.parity is not None:
        return artifact
    images = np.load(pixels)
    session = backend.open(artifact, threads)
    predicted = predict(session, normalise(images, artifact.preprocessing), BATCH)
    return verify(artifact, source, backend, reference_logits(source, images), predicted)


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
