"""Artifacts made, verified and evaluated in this very process: for commands that measure no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from effvit.accuracy import Accuracy
from effvit.errors import FallbackError
from effvit.evaluate import count_correct, merge
from effvit.export.base import Artifact, Backend, Session, Source, predict
from effvit.export.cache import find, make, reference_logits, verify
from effvit.preprocessing import normalise

BATCH = 16
Fallback = Callable[[str], None]
"""Is told what a runtime does that it was not asked for, and may refuse that."""


def refuse(departures: str) -> None:
    """Take no runtime that does something else than it was asked for.

    Raises:
        FallbackError: Always.
    """
    raise FallbackError(departures, "ask for what the runtime can do, or take it as it is: --allow-fallback")


def verified_artifact(
    source: Source, backend: Backend, pixels: Path, threads: int, fallback: Fallback | None = None
) -> Artifact:
    """Return the artifact of `source`, made and verified unless it was before, on the uint8 images in `pixels`.

    `fallback` is called where the runtime does something else than it was asked for. None: whatever it does is fine, as
    long as its logits are.

    Raises:
        ExportError: It cannot be made.
        MismatchError: It is not the model it was made from.
        EffvitError: Whatever `fallback` raises; nothing is verified then.
    """
    artifact = find(source, backend) or make(source, backend)
    known = artifact.parity is not None
    if known and fallback is None:
        return artifact
    images = np.load(pixels)
    session = backend.open(artifact, threads)
    predicted = predict(session, normalise(images[:1] if known else images, artifact.preprocessing), BATCH)
    _judge(session, artifact, backend, threads, fallback)
    return artifact if known else verify(artifact, source, backend, reference_logits(source, images), predicted)


def artifact_accuracy(
    artifact: Artifact,
    backend: Backend,
    pixels: Path,
    labels: Sequence[int],
    of_images: int,
    threads: int,
    fallback: Fallback | None = None,
) -> Accuracy:
    """Return how many of the uint8 images in `pixels` the artifact classifies right, run through `backend`.

    `fallback` is called as by `verified_artifact`.

    Raises:
        EffvitError: Whatever `fallback` raises.
    """
    session = backend.open(artifact, threads)
    images = np.load(pixels, mmap_mode="r")
    truth = np.asarray(labels, dtype=np.int64)
    counts = []
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        logits = predict(session, normalise(images[part], artifact.preprocessing), BATCH)
        if start == 0:
            _judge(session, artifact, backend, threads, fallback)
        counts.append(count_correct(logits, truth[part]))
    return replace(merge(counts), of_images=of_images)


def _judge(session: Session, artifact: Artifact, backend: Backend, threads: int, fallback: Fallback | None) -> None:
    """Call `fallback` if the session, which was launched, does something else than it was asked for."""
    if fallback is None:
        return
    departures = session.settings().departures(artifact.precision, threads, backend.providers)
    if departures:
        fallback(f"{backend.name}: {'; '.join(departures)}")
