"""Modules that stay in fp32 in an artifact of lower precision. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from effvit.spec import Precision

PINNABLE = (Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8)
"""tf32 is rounding inside the products of an fp32 graph, which has nothing to say about it."""

AUTO = ("auto",)
"""In the place of names: what a search found to have to stay in fp32."""


@dataclass(frozen=True, slots=True)
class PinCost:
    """How many times as long a call takes as without pins, and its 95 % interval, of `batch` images on `threads`.

    Both ends are None where the rounds support no interval; `unstable` is why the numbers cannot be relied on, empty if
    they can.
    """

    value: float
    low: float | None
    high: float | None
    batch: int
    threads: int
    unstable: str = ""


@dataclass(frozen=True, slots=True)
class Pinned:
    """Which modules of a model stay in fp32, by their names in PyTorch.

    They were `searched` for, as the fewest that repair the artifact, or else named by someone. `cost` is None until it
    was measured.
    """

    modules: tuple[str, ...]
    searched: bool = False
    cost: PinCost | None = None
