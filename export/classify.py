"""Image files classified by a bundle, through the runtime it is made for. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from effvit.decoding import decode
from effvit.export.base import pick_backend, predict
from effvit.export.bundle import Bundle
from effvit.export.bundled_predict import best_classes, model_input
from effvit.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Guess:
    """A class by name and index, and the share of certainty that softmax gives it."""

    name: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Classified:
    """An image file and the most probable classes, the best first."""

    image: str
    guesses: tuple[Guess, ...]


def classify(
    bundle: Bundle, images: Sequence[Path], threads: int, top: int, progress: Progress = silent
) -> list[Classified]:
    """Return the `top` classes of every image, which go through one by one: they need no more memory than one does.

    Raises:
        DataError: A file that is missing or damaged.
        BackendUnavailableError: The runtime is not here.
        ExportError: The runtime refuses the model.
    """
    artifact, backend = bundle.artifact, pick_backend(bundle.manifest.runtime)
    backend.require()
    session = backend.open(artifact, threads)
    settings = {**asdict(artifact.preprocessing), "height": artifact.height, "width": artifact.width}
    found = []
    for number, path in enumerate(images, start=1):
        (logits,) = predict(session, np.ascontiguousarray(model_input(decode(path), settings)[None]), 1)
        guesses = best_classes(logits, artifact.classes, top)
        found.append(Classified(str(path), tuple(Guess(*guess) for guess in guesses)))
        progress(number, len(images))
    return found
