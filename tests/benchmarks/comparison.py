"""What the rounds of the attention benchmark say: our layers over peers, over exact attention, over their own MACs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from contenders import PEERS, PRODUCT
from turns import Pass, Timed, paired_ratios, typical_ratio

from effvit.profiling.stats import Estimate
from effvit.spec import BASELINE

Part = Literal["whole layer", "core alone"]
PARTS: tuple[Part, ...] = ("whole layer", "core alone")


@dataclass(frozen=True, slots=True)
class Cell:
    """What took turns together, and the raw result."""

    part: Part
    passes: Pass
    dim: int
    tokens: int
    timed: tuple[Timed, ...]

    @property
    def ours(self) -> list[Timed]:
        """Our own, exact attention among them."""
        return [one for one in self.timed if one.peer is None and one.mechanism != PRODUCT]

    def find(self, mechanism: str, peer: str | None = None) -> Timed | None:
        """Return the contender of ours, or the peer's; None if it took no part."""
        return next((one for one in self.timed if (one.mechanism, one.peer) == (mechanism, peer)), None)

    def peer_of(self, mechanism: str) -> Timed | None:
        """Return what a mechanism of ours is held against here."""
        return self.find(mechanism, PEERS[mechanism]) if mechanism in PEERS else None


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: the median time of a launch and its memory, or why there is neither."""

    name: str
    median_s: float | None
    peak_bytes: int | None
    refusal: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One mechanism in one cell.

    `peer_ratio` is the peer's time over ours, `softmax_ratio` exact attention's over ours, `bound_ratio` our time over
    what our MACs take at the rate of the plain matrix product in the same rounds. `macs` are those of the launch.
    """

    part: Part
    passes: Pass
    dim: int
    tokens: int
    mechanism: str
    macs: int | None
    ours: Side
    peer: Side | None
    peer_ratio: Estimate | None
    softmax_ratio: Estimate | None
    bound_ratio: Estimate | None


@dataclass(frozen=True, slots=True)
class Mean:
    """The geometric mean of peer over ours for all numbers of tokens; `dim` None: for all widths, too."""

    part: Part
    passes: Pass
    dim: int | None
    mechanism: str
    peer: str
    cells: int
    ratio: Estimate


def comparisons_of(cells: Sequence[Cell]) -> list[Comparison]:
    """Return one comparison for every mechanism of ours in every cell."""
    return [_comparison(cell, ours) for cell in cells for ours in cell.ours]


def means_of(cells: Sequence[Cell]) -> list[Mean]:
    """Return the means over tokens for every width, and where there are several widths, over these as well."""
    groups: dict[tuple[Part, Pass, str, int | None], list[list[float]]] = defaultdict(list)
    widths = {cell.dim for cell in cells}
    for cell in cells:
        for ours in cell.ours:
            ratios = _ratios(cell.peer_of(ours.mechanism), ours)
            for dim in (cell.dim, None) if len(widths) > 1 else (cell.dim,):
                if ratios:
                    groups[cell.part, cell.passes, ours.mechanism, dim].append(ratios)
    return [
        Mean(part, passes, dim, mechanism, PEERS[mechanism], len(ratios), typical_ratio(ratios))
        for (part, passes, mechanism, dim), ratios in groups.items()
    ]


def _comparison(cell: Cell, ours: Timed) -> Comparison:
    peer, exact = cell.peer_of(ours.mechanism), cell.find(BASELINE)
    return Comparison(
        part=cell.part,
        passes=cell.passes,
        dim=cell.dim,
        tokens=cell.tokens,
        mechanism=ours.mechanism,
        macs=ours.macs,
        ours=_side(ours),
        peer=None if peer is None else _side(peer),
        peer_ratio=_estimate(_ratios(peer, ours)),
        softmax_ratio=None if exact is ours else _estimate(_ratios(exact, ours)),
        bound_ratio=_estimate(_bound_ratios(ours, cell.find(PRODUCT))),
    )


def _side(timed: Timed) -> Side:
    median_s = float(np.median(timed.seconds)) if timed.seconds else None
    return Side(timed.name, median_s, timed.peak_bytes, timed.refusal)


def _ratios(slow: Timed | None, fast: Timed) -> list[float]:
    """Return the ratios of all rounds; none where either side was not measured."""
    return paired_ratios(slow, fast) if slow is not None and slow.seconds and fast.seconds else []


def _bound_ratios(ours: Timed, product: Timed | None) -> list[float]:
    if product is None or not product.macs or not ours.macs or not ours.seconds or not product.seconds:
        return []
    return [product.macs / ours.macs * one for one in paired_ratios(ours, product)]


def _estimate(ratios: list[float]) -> Estimate | None:
    return typical_ratio([ratios]) if ratios else None
