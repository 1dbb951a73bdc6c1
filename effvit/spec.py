"""Values that name what is measured: precision, workload, model, cost. Standard library only, frozen, hashable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum

from effvit.errors import UsageError

OptionValue = int | float | str | bool | None


class Precision(StrEnum):
    """The type in which an artifact computes; `fp32` is strict, with TF32 off."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"


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


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A timm backbone with the attention of some blocks replaced.

    `options` are the variant's resolved options as sorted pairs; `layers` are the indices of the swapped blocks (None:
    all of them); `patch` overrides the backbone's patch size in px; `trained` is the (height, width) in px that the
    weights belong to, and `weights` their sha256.
    """

    backbone: str
    attention: str
    classes: int
    trained: tuple[int, int]
    options: tuple[tuple[str, OptionValue], ...] = ()
    layers: tuple[int, ...] | None = None
    patch: int | None = None
    weights: str | None = None

    @property
    def slug(self) -> str:
        """A stable name for files: backbone, attention, and a hash of everything else."""
        rest = json.dumps([self.classes, self.trained, self.options, self.layers, self.patch, self.weights])
        return f"{self.backbone}-{self.attention}-{hashlib.sha256(rest.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one image costs on paper: parameters, MACs, the MACs of the attention cores alone, tokens.

    Counted are matrix products and convolutions; softmax, norms, activations and additions are not.
    """

    parameters: int
    macs: int
    core_macs: int
    tokens: int
