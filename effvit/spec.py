"""Values that name what is measured: precision, workload, model, cost. Standard library only, frozen, hashable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from effvit.errors import UsageError

OptionValue = int | float | str | bool | None
BASELINE = "softmax"
"""The exact attention that every other mechanism is held against, and learns from."""


class Precision(str, Enum):
    """The type in which an artifact computes; `fp32` is strict, with TF32 off."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"

    # Written and shown as its value, as a StrEnum is: Python 3.10, which runs on many devices, has none.
    __str__ = str.__str__

    @property
    def quantised(self) -> bool:
        """Whether numbers are scaled to fit into the type, by ranges that were seen on images."""
        return self in (Precision.INT8, Precision.FP8)

    @property
    def size_bytes(self) -> int:
        """What a number of this type takes in memory."""
        # TF32 is float32 in memory; only matrix products round.
        return {Precision.FP32: 4, Precision.TF32: 4, Precision.FP16: 2, Precision.BF16: 2}.get(self, 1)


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """One call of a model: `batch` images of `height` x `width` px.

    Raises:
        UsageError: A count below 1.
    """

    batch: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for name in ("batch", "height", "width"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}", f"choose a {name} of 1 or more")

    @property
    def resolution(self) -> str:
        """`224` for square images, `224x320` (height x width) otherwise."""
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"


def check_resolution(name: str, resolution: tuple[int, int], patch: int) -> None:
    """Check that `resolution` (height, width) px can be cut into square patches of `patch` px.

    Raises:
        UsageError: It cannot.
    """
    if patch < 1:
        raise UsageError(f"the patch size must be at least 1 px, not {patch}", "choose a --patch of 1 or more")
    for pixels in resolution:
        if pixels < 1 or pixels % patch:
            below, above = pixels // patch * patch, (pixels // patch + 1) * patch
            near = f"{below} or {above}" if below else f"{above}"
            raise UsageError(f"{pixels} px cannot be cut into the {patch} px patches of {name}", f"use {near} px")


@dataclass(frozen=True, slots=True)
class Swap:
    """One attention mechanism in some blocks.

    `options` are those of the variant as sorted pairs; `layers` are the indices of the blocks (None: all of them).
    """

    attention: str
    options: tuple[tuple[str, OptionValue], ...] = ()
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A timm backbone with the attention of its blocks, or of some, replaced.

    `swaps` share no block, and their options are resolved; blocks in none of them keep timm's exact attention. `patch`
    overrides the backbone's patch size in px; `trained` is the (height, width) in px that the weights belong to, and
    `weights` their sha256.
    """

    backbone: str
    swaps: tuple[Swap, ...]
    classes: int
    trained: tuple[int, int]
    patch: int | None = None
    weights: str | None = None

    @property
    def attention(self) -> str:
        """The mechanisms by name: `linformer`, or `0-3:atrous+4-11:linformer` where not all blocks hold the same."""
        return mix_name(self.swaps)

    @property
    def options(self) -> tuple[tuple[str, OptionValue], ...]:
        """The options of all swaps; in a mix, each behind the name of its variant: `atrous.window`."""
        if len(self.swaps) == 1:
            return self.swaps[0].options
        return tuple((f"{swap.attention}.{name}", value) for swap in self.swaps for name, value in swap.options)


def file_name(attention: str) -> str:
    """Return the name of mechanisms as a part of a file's name: not every system allows a colon in one."""
    return attention.replace(":", ".")


def mix_name(swaps: Sequence[Swap]) -> str:
    """Return how swaps are written: by block, first to last, each unbroken range by itself."""
    parts: list[tuple[int, str]] = []
    for swap in swaps:
        if swap.layers is None:
            parts.append((0, swap.attention))
        else:
            parts += [(first, f"{blocks}:{swap.attention}") for first, blocks in _ranges(swap.layers)]
    return "+".join(text for _, text in sorted(parts))


def _ranges(layers: Sequence[int]) -> list[tuple[int, str]]:
    """Return the first block and the text of every unbroken range: (0, `0-3`), (7, `7`)."""
    ranges: list[list[int]] = []
    for index in sorted(layers):
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return [(first, str(first) if first == last else f"{first}-{last}") for first, last in ranges]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one image costs on paper: parameters, MACs, the MACs of the attention cores alone, tokens.

    Counted are matrix products and convolutions; softmax, norms, activations and additions are not. `least_moved` is
    how many numbers an image makes any runtime move that does not fuse across blocks: its pixels once, and what passes
    from one block to the next twice, written and read. None in what was written before it was counted.
    """

    parameters: int
    macs: int
    core_macs: int
    tokens: int
    least_moved: int | None = None

    @property
    def ceiling(self) -> float | None:
        """The speed-up if the attention cores took no time at all; None for a model that is nothing else."""
        rest = self.macs - self.core_macs
        return self.macs / rest if rest > 0 else None
