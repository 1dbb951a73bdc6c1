"""How the time or the memory of a call grows with tokens and batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from effvit.profiling.stats import Floats

# No runtime follows the formula more closely: one point that is known to 0.1 % must not outweigh all others.
_FORMULA_ERROR = 0.02
LEAST_SIZES = 3


@dataclass(frozen=True, slots=True)
class Observation:
    """A positive quantity of a call of `batch` images of `tokens` each, with its relative standard deviation."""

    tokens: int
    batch: int
    value: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Curve:
    """call + batch * (image + token * tokens + pair * tokens^2), in the unit of what was observed; no part below 0.

    A call costs its launch and the reading of the weights, a token its linear layers, a pair of tokens exact attention.
    """

    call: float
    image: float
    token: float
    pair: float

    def at(self, tokens: float, batch: int) -> float:
        """Return the quantity of one call."""
        return self.call + batch * (self.image + self.token * tokens + self.pair * tokens**2)


def terms(observations: Sequence[Observation]) -> int:
    """Return how many parts of a curve the observations tell apart: in one batch, an image's are those of its call."""
    return 4 if len({one.batch for one in observations}) > 1 else 3


def fit(observations: Sequence[Observation]) -> Curve | None:
    """Return the curve with the least weighted squares of relative residuals, or None for fewer than 3 token counts.

    Source:
        Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23, by scipy.optimize.nnls
    """
    if len({one.tokens for one in observations}) < LEAST_SIZES or len(observations) < terms(observations):
        return None
    tokens = np.array([one.tokens for one in observations], dtype=float)
    batches = np.array([one.batch for one in observations], dtype=float)
    values = np.array([one.value for one in observations])
    deviations = np.hypot([one.deviation for one in observations], _FORMULA_ERROR)
    columns = [np.ones_like(tokens), batches, batches * tokens, batches * tokens**2]
    if terms(observations) == 3:
        columns[1] = np.zeros_like(tokens)
    parts = _solved(np.stack(columns, axis=1) / (values * deviations)[:, None], 1 / deviations)
    return Curve(*(float(part) for part in parts))


def _solved(matrix: Floats, target: Floats) -> Floats:
    """Return the parts at or above 0 that come closest; columns are brought to one length, or rounding eats some."""
    lengths = np.linalg.norm(matrix, axis=0)
    lengths[lengths == 0] = 1
    parts, _ = nnls(matrix / lengths, target)
    return np.asarray(parts / lengths)
