"""Whether an artifact decides as the PyTorch model does, image by image. Pure functions, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from effvit.errors import MismatchError
from effvit.export.base import Artifact, Flip, Logits, Parity

CONFIDENCE = 0.95
_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
# An artifact that decides otherwise on more images than these is broken, and the list of no use.
MOST_FLIPS = 100
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Truth:
    """What held-out images really show: the label of each, and a name to find it by."""

    labels: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of accuracy as a share of all images, its 95 % interval, and how likely it is by chance alone.

    `p` is that of McNemar's exact test: were both models equally good, images would be lost and gained alike.
    """

    value: float
    low: float
    high: float
    p: float


def divergence(reference: Logits, logits: Logits) -> float:
    """Return the mean Kullback-Leibler divergence of the predicted probabilities from the reference's, in nats."""
    wanted = _log_softmax(reference)
    with np.errstate(invalid="ignore"):  # infinite logits have no probabilities: NaN
        found = _log_softmax(logits)
        return float((np.exp(wanted) * (wanted - found)).sum(axis=1).mean())


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Return the logarithms of the probabilities; SciPy has this, but not every device that verifies has SciPy."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logarithms: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logarithms


def correct(logits: Logits, truth: Truth) -> npt.NDArray[np.bool_]:
    """Return whether the first class of each image is its label; logits that are not finite are wrong."""
    right: npt.NDArray[np.bool_] = logits.argmax(axis=1) == np.asarray(truth.labels)
    return right & np.isfinite(logits).all(axis=1)


def flips(reference: Logits, logits: Logits, names: Sequence[str], labels: Sequence[int] | None) -> tuple[Flip, ...]:
    """Return the images that the artifact decides otherwise, PyTorch's clearest decisions first, MOST_FLIPS at most.

    Where logits are not finite there is no decision, and no flip.
    """
    wanted, found = reference.argmax(axis=1), logits.argmax(axis=1)
    ordered = np.sort(reference, axis=1)
    changed = np.flatnonzero((wanted != found) & np.isfinite(logits).all(axis=1))
    listed = [
        Flip(
            image=names[index],
            label=None if labels is None else labels[index],
            reference=int(wanted[index]),
            predicted=int(found[index]),
            margin=float(ordered[index, -1] - ordered[index, -2]),
            lead=float(logits[index, found[index]] - logits[index, wanted[index]]),
        )
        for index in changed.tolist()
    ]
    return tuple(sorted(listed, key=lambda flip: -flip.margin)[:MOST_FLIPS])


def change(lost: int, gained: int, images: int) -> Change:
    """Return how accuracy changes where `lost` of `images` are wrong that were right, and `gained` the other way round.

    Source:
        McNemar 1947, https://doi.org/10.1007/BF02295996, with the binomial distribution itself
    """
    from scipy import stats

    low, high = paired_interval(np.array(lost, float), np.array(gained, float), images)
    p = float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    return Change((gained - lost) / images, float(low), float(high), p)


def paired_interval(lost: Numbers, gained: Numbers, images: int) -> tuple[Numbers, Numbers]:
    """Return the ends of the 95 % interval of (`gained` - `lost`) / `images`, for many pairs of models at once.

    Source:
        Bonett and Price 2012, equation 4, https://doi.org/10.3102/1076998611411915
    """
    down, up = (lost + 1) / (images + 2), (gained + 1) / (images + 2)
    half = _QUANTILE * np.sqrt((down + up - (up - down) ** 2) / (images + 2))
    return np.maximum(up - down - half, -1.0), np.minimum(up - down + half, 1.0)


def change_of(parity: Parity) -> Change | None:
    """Return how accuracy changes from PyTorch to the artifact; None where labels were not looked at."""
    if parity.lost is None or parity.gained is None:
        return None
    return change(parity.lost, parity.gained, parity.images)


def check_drop(parity: Parity, artifact: Artifact, most: float) -> None:
    """Check that the artifact loses no more than `most` percentage points of top-1.

    Raises:
        MismatchError: It does.
        ValueError: Labels were not looked at.
    """
    measured = change_of(parity)
    if measured is None:
        raise ValueError("without labels there is no accuracy")
    # Counts are whole: rounding must not refuse what is exactly allowed.
    if -100 * measured.value <= most + 1e-9:
        return
    step = 100 / parity.images
    hint = "keep parts in fp32 with --pin-fp32 auto, choose a higher precision, or allow more with --max-drop"
    if step > most:
        hint = f"verify on more images: a single one of {parity.images} is {step:.2f} points"
    raise MismatchError(
        f"the {artifact.precision} artifact of {artifact.model.attention} at {artifact.height} px loses "
        f"{-100 * measured.value:.2f} points of top-1 (95 % interval {-100 * measured.high:+.2f} to "
        f"{-100 * measured.low:+.2f}, p = {measured.p:.2g}) on {parity.images} images, more than the {most:g} allowed",
        hint,
        max_abs=parity.max_abs,
        cosine=parity.cosine,
        agreement=parity.agreement,
    )
