"""How TensorRT engines are built. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from effvit.errors import UsageError

LEVELS = range(6)
# What a graph holds of softmax attention: its products, which TensorRT fuses where it knows the pattern, or ONNX's
# operator of that name.
AttentionForm = Literal["products", "operator"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is built, other than its graph says.

    `batches` are the smallest batch, the one that kernels are chosen for, and the largest: an engine is static where
    they are the same. `workspace_bytes` is what a layer may take at most for itself, `level` how long TensorRT looks
    for kernels. Weights of a `refittable` engine can be exchanged, a `version_compatible` one loads in later versions
    of TensorRT, too; both may be slower.

    Raises:
        UsageError: Batches that are no range, a workspace below 1 byte, a level that TensorRT does not have.
    """

    batches: tuple[int, int, int] = (1, 1, 1)
    workspace_bytes: int = 4 * 2**30
    level: int = 3
    attention: AttentionForm = "products"
    refittable: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        least, tuned, most = self.batches
        if not 1 <= least <= tuned <= most:
            raise UsageError(
                f"an engine cannot be built for batches {least}:{tuned}:{most}",
                "write --batch SMALLEST:TUNED:LARGEST, such as 1:8:64, or --batch 8",
            )
        if self.workspace_bytes < 1:
            raise UsageError(
                f"a workspace cannot have {self.workspace_bytes} bytes", "choose 1 byte or more, such as 4GiB"
            )
        if self.level not in LEVELS:
            raise UsageError(
                f"there is no optimisation level {self.level}", f"choose {LEVELS[0]} to {LEVELS[-1]}; the default is 3"
            )

    @property
    def static(self) -> bool:
        """Whether the engine takes one batch alone."""
        return self.batches[0] == self.batches[-1]


DEFAULT_ENGINE = EngineOptions()


def engine_for(batch: int) -> EngineOptions:
    """Return the options of a static engine for one batch."""
    return EngineOptions(batches=(batch, batch, batch))
