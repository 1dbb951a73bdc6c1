"""What measured cells say of one that was not measured: the closer its kin, the more.

Of every cell something is expected, and what is measured differs by a factor. Its logarithm is taken as a sum of
independent normal parts, one for each thing that cells have in common: machine, type, mechanism. So what was measured
conditions what was not: a Gaussian process whose kernel says what two cells share.

Source:
    Rasmussen and Williams 2006, equations 2.25 and 2.26, http://gaussianprocess.org/gpml/
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from effvit.profiling.stats import NORMAL_QUANTILE, Estimate, Floats
from effvit.spec import Precision


@dataclass(frozen=True, slots=True)
class Kin:
    """What a cell has in common with others; `machine` tells with how much of it, too. Runtimes share nothing."""

    machine: str
    backend: str
    precision: Precision
    attention: str


@dataclass(frozen=True, slots=True)
class Known:
    """A measured cell, and the logarithm of what was measured over what was expected of it."""

    kin: Kin
    log_ratio: float


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of the logarithm of measured over expected in one runtime before anything is measured.

    `means` are those of each type. The rest are standard deviations of its parts: of what cells on one machine have in
    common, of one type other than fp32 there, of one mechanism on any machine, of one mechanism and type on one
    machine, and of what a cell has for itself.
    """

    means: Mapping[Precision, float]
    machine: float
    precision: float
    variant: float
    variant_there: float
    cell: float

    def mean(self, kin: Kin) -> float:
        """Return the expected logarithm."""
        return self.means[kin.precision]


def conditioned(asked: Kin, known: Sequence[Known], prior: Prior) -> tuple[float, float]:
    """Return mean and standard deviation of the logarithm of a cell that is in none of the `known` ones."""
    alone = float(_covariances([asked], [asked], prior)[0, 0]) + prior.cell**2
    if not known:
        return prior.mean(asked), math.sqrt(alone)
    kin = [one.kin for one in known]
    among = _covariances(kin, kin, prior) + prior.cell**2 * np.eye(len(known))
    shared = _covariances([asked], kin, prior)[0]
    weights = np.linalg.solve(among, shared)
    surprise = np.array([one.log_ratio - prior.mean(one.kin) for one in known])
    return prior.mean(asked) + float(weights @ surprise), math.sqrt(alone - float(weights @ shared))


def around(expected: float, mean: float, deviation: float) -> Estimate:
    """Return what is predicted where so much is expected, with its 95 % interval."""
    value, factor = expected * math.exp(mean), math.exp(NORMAL_QUANTILE * deviation)
    return Estimate(value, value / factor, value * factor)


def _covariances(ones: Sequence[Kin], others: Sequence[Kin], prior: Prior) -> Floats:
    """Return the covariances of different cells, `(ones, others)`."""

    def same(field: str) -> Floats:
        rows, columns = (np.array([getattr(one, field) for one in some]) for some in (ones, others))
        equal: Floats = np.equal(rows[:, None], columns[None, :]).astype(np.float64)
        return equal

    there, typed, alike = same("machine"), same("precision"), same("attention")
    narrow = np.array([one.precision is not Precision.FP32 for one in ones])[:, None]
    parts = (
        prior.machine**2 * there,
        prior.precision**2 * there * typed * narrow,
        prior.variant**2 * alike,
        prior.variant_there**2 * there * typed * alike,
    )
    covariances: Floats = np.sum(parts, axis=0)
    return covariances
