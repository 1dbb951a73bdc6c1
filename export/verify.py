"""An artifact is compared with the PyTorch model on real images before anything is measured."""

from __future__ import annotations

import numpy as np

from effvit.errors import MismatchError
from effvit.export.base import Artifact, Logits, Parity
from effvit.export.decisions import Truth, correct, divergence, flips
from effvit.spec import Precision

# Largest difference of a logit, relative to the spread (standard deviation) of the reference's logits. For fp32 the
# difference is rounding in another order; half types keep 11 and 8 significant bits (relative error 5e-4 and 4e-3)
# through some hundred layers' worth of additions.
TOLERANCES = {
    Precision.FP32: 1e-3,
    Precision.TF32: 2e-2,
    Precision.FP16: 5e-2,
    Precision.BF16: 4e-1,
    Precision.INT8: 4e-1,
    Precision.FP8: 4e-1,
}
LEAST_COSINE = {
    Precision.FP32: 0.99999,
    Precision.TF32: 0.9999,
    Precision.FP16: 0.999,
    Precision.BF16: 0.99,
    # No more than a guard against garbage: of 359 digits, one fell to 0.85 and kept its class.
    Precision.INT8: 0.5,
    Precision.FP8: 0.5,
}
LEAST_AGREEMENT, LEAST_QUANTISED_AGREEMENT = 0.99, 0.97


def compare(reference: Logits, logits: Logits, precision: Precision, truth: Truth | None = None) -> Parity:
    """Return how far `logits` lie from the fp32 `reference`, both `(images, classes)`.

    With `truth`, also what that does to accuracy.

    An image counts as decisive when the reference's first two classes lie further apart than twice the tolerance: less
    than that, and errors within the tolerance may swap them.
    """
    ordered = np.sort(reference, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    decisive = margin > 2 * _tolerance(reference, precision)
    same = reference.argmax(axis=1) == logits.argmax(axis=1)
    same &= np.isfinite(logits).all(axis=1)
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(logits, axis=1)
    with np.errstate(invalid="ignore"):  # infinite logits have no direction: NaN, which fails the check
        cosines = (reference * logits).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    right = counts = None
    if truth is not None:
        right, now = correct(reference, truth), correct(logits, truth)
        counts = int((right & ~now).sum()), int((now & ~right).sum())
    names = [f"image {index}" for index in range(len(reference))] if truth is None else truth.names
    return Parity(
        images=len(reference),
        max_abs=float(np.abs(reference - logits).max()),
        cosine=float(cosines.min()),
        agreement=float(same.mean()),
        decisive_agreement=float(same[decisive].mean()) if decisive.any() else 1.0,
        divergence=divergence(reference, logits),
        correct=None if right is None else int(right.sum()),
        lost=None if counts is None else counts[0],
        gained=None if counts is None else counts[1],
        flips=flips(reference, logits, names, None if truth is None else truth.labels),
        median_cosine=float(np.median(cosines)),
    )


def check(parity: Parity, reference: Logits, artifact: Artifact) -> None:
    """Check that the artifact is the model it was made from.

    In fp32 that is a matter of numbers. Any other type changes them, which may or may not matter: there, the decisions
    and the direction of the logits are what is judged, and differences are for information.

    Raises:
        MismatchError: Its logits differ by more than its precision explains, or it decides otherwise.
    """
    if artifact.precision.quantised:
        _check_decisions(parity, artifact)
        return
    tolerance = _tolerance(reference, artifact.precision)
    least = LEAST_COSINE[artifact.precision]
    # Written so that a NaN fails.
    if artifact.precision is Precision.FP32:
        close = parity.cosine >= least and parity.max_abs <= tolerance
    else:
        # The direction of most images, and no garbage: where a mechanism chooses, as token merging does, the logits of
        # an image with a near tie jump, by whatever rounding. Of a trained tome, those of 1 digit of 359 did, to 0.974.
        typical = parity.cosine if parity.median_cosine is None else parity.median_cosine
        close = typical >= least and parity.cosine >= LEAST_COSINE[Precision.INT8]
    if close and parity.decisive_agreement >= LEAST_AGREEMENT:
        return
    raise MismatchError(
        f"the {artifact.precision} artifact of {artifact.model.attention} at {artifact.height} px is not the PyTorch "
        f"model: logits differ by up to {parity.max_abs:.3g} (allowed {tolerance:.3g}), cosine {parity.cosine:.6f}, "
        f"same class for {parity.agreement:.1%} of {parity.images} images",
        "keep what it cannot hold in fp32 with --pin-fp32 auto, or use a variant that keeps this precision",
        max_abs=parity.max_abs,
        cosine=parity.cosine,
        agreement=parity.agreement,
    )


def _check_decisions(parity: Parity, artifact: Artifact) -> None:
    """Check that a quantised artifact decides as the model does: its logits differ a little on every image.

    Raises:
        MismatchError: It does not.
    """
    # Written so that a NaN fails.
    alike = parity.cosine >= LEAST_COSINE[artifact.precision]
    if alike and parity.decisive_agreement >= LEAST_QUANTISED_AGREEMENT:
        return
    raise MismatchError(
        f"the {artifact.precision} artifact of {artifact.model.attention} at {artifact.height} px does not decide as "
        f"the PyTorch model: same class for {parity.decisive_agreement:.1%} of the images that are no near tie (at "
        f"least {LEAST_QUANTISED_AGREEMENT:.0%}), for {parity.agreement:.1%} of all {parity.images}, cosine "
        f"{parity.cosine:.6f} (at least {LEAST_COSINE[artifact.precision]})",
        "take ranges otherwise (--calibration, --calibration-images), or keep parts in fp32: --pin-fp32 auto",
        max_abs=parity.max_abs,
        cosine=parity.cosine,
        agreement=parity.agreement,
    )


def _tolerance(reference: Logits, precision: Precision) -> float:
    return TOLERANCES[precision] * max(float(reference.std()), 1e-3)
