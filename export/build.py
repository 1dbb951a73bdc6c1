"""Artifacts made, verified and evaluated in this very process: for commands that measure no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from effvit.accuracy import Accuracy
from effvit.errors import FallbackError, MismatchError
from effvit.evaluate import count_correct, merge
from effvit.export.base import Artifact, Backend, Images, Logits, Parity, Session, Source, predict
from effvit.export.cache import find, forget, make, reference_logits, verify
from effvit.export.decisions import Truth, check_drop
from effvit.preprocessing import normalise

BATCH = 16
Fallback = Callable[[str], None]
"""Is told what a runtime does that it was not asked for, and may refuse that."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an artifact may do at worst.

    `max_drop` is how many percentage points of top-1 it may lose; None: as many as it does. `fallback` is called where
    the runtime does something else than it was asked for; None: whatever it does is fine, as long as its logits are.
    """

    max_drop: float | None = None
    fallback: Fallback | None = None


def refuse(departures: str) -> None:
    """Take no runtime that does something else than it was asked for.

    Raises:
        FallbackError: Always.
    """
    raise FallbackError(departures, "ask for what the runtime can do, or take it as it is: --allow-fallback")


def verified_artifact(
    source: Source,
    backend: Backend,
    pixels: Path,
    threads: int,
    truth: Truth | None = None,
    limits: Limits = Limits(),  # it cannot be changed
) -> Artifact:
    """Return the artifact of `source`, made and verified unless it was before, on the uint8 images in `pixels`.

    What was verified on fewer images than `truth` knows, or without it, is verified again.

    Raises:
        ExportError: It cannot be made.
        MismatchError: It is not the model it was made from, or loses more; it does not count as verified then.
        EffvitError: Whatever `limits.fallback` raises; nothing is verified then.
    """
    artifact = find(source, backend) or make(source, backend)
    return judged_artifact(artifact, source, backend, pixels, threads, truth, limits)


def judged_artifact(
    artifact: Artifact,
    source: Source,
    backend: Backend,
    pixels: Path,
    threads: int,
    truth: Truth | None = None,
    limits: Limits = Limits(),  # it cannot be changed
) -> Artifact:
    """Return the artifact, which was made of `source`, verified as `verified_artifact` does it.

    Raises:
        MismatchError: It is not the model it was made from, or loses more; it does not count as verified then.
        EffvitError: Whatever `limits.fallback` raises; nothing is verified then.
    """
    known = artifact.parity is not None and _judged(artifact.parity, truth)
    if not known or limits.fallback is not None:
        images = np.load(pixels)
        session = backend.open(artifact, threads)
        predicted = _predicted(session, normalise(images[:1] if known else images, artifact.preprocessing), artifact)
        _judge(session, artifact, backend, threads, limits.fallback)
        if not known:
            forget(source, backend)
            reference = reference_logits(source, images)
            return verify(artifact, source, backend, reference, predicted, truth=truth, max_drop=limits.max_drop)
    if limits.max_drop is not None and artifact.parity is not None:
        try:
            check_drop(artifact.parity, artifact, limits.max_drop)
        except MismatchError:
            forget(source, backend)
            raise
    return artifact


def _judged(parity: Parity, truth: Truth | None) -> bool:
    """Return whether decisions were held against all that `truth` knows."""
    return truth is None or (parity.lost is not None and parity.images >= len(truth.labels))


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
        logits = _predicted(session, normalise(images[part], artifact.preprocessing), artifact)
        if start == 0:
            _judge(session, artifact, backend, threads, fallback)
        counts.append(count_correct(logits, truth[part]))
    return replace(merge(counts), of_images=of_images)


def _predicted(session: Session, images: Images, artifact: Artifact) -> Logits:
    """Return the logits of `images`; the first batch of an engine is one that it is built for."""
    if artifact.engine is None:
        return predict(session, images, BATCH)
    batch = artifact.engine.batches[1]
    enough = np.resize(images, (max(len(images), batch), *images.shape[1:]))
    return predict(session, enough, batch)[: len(images)]


def _judge(session: Session, artifact: Artifact, backend: Backend, threads: int, fallback: Fallback | None) -> None:
    """Call `fallback` if the session, which was launched, does something else than it was asked for."""
    if fallback is None:
        return
    departures = session.settings().departures(artifact.precision, threads, backend.providers)
    if departures:
        fallback(f"{backend.name}: {'; '.join(departures)}")
