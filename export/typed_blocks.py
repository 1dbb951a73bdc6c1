"""Where a model in half precision parts from itself in fp32, block by block, as PyTorch computes both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from effvit.export.base import Images, Source
from effvit.export.blocks import AFTER, BEFORE
from effvit.export.differences import MARGIN, PartDifference, relative_error, typical_error
from effvit.export.typed import TypedModel
from effvit.spec import Precision


def compare_typed(source: Source, images: Images) -> tuple[PartDifference, ...]:
    """Return how far the model of `source`, in its type and with its pins, lies from fp32 behind every part.

    For types that no runtime here takes graphs of: PyTorch rounds where an engine does, if not in the same order.
    """
    exact = _ends(TypedModel(source.model(), Precision.FP32), images)
    rounded = _ends(TypedModel(source.model(), source.precision, source.pins), images)
    names = [BEFORE, *(f"block {index}" for index in range(len(exact) - 2)), AFTER]
    parts = []
    for index, (name, wanted, found) in enumerate(zip(names, exact, rounded, strict=True)):
        with np.errstate(invalid="ignore"):  # what is no number stays none
            gap, norm = float(np.square(wanted - found).sum()), float(np.square(wanted).sum())
        explained = MARGIN * typical_error(source.precision, index)
        parts.append(PartDifference(name, relative_error(gap, norm), explained))
    return tuple(parts)


def _ends(model: TypedModel, images: Images) -> list[npt.NDArray[np.float64]]:
    """Return what goes into the first block, what comes out of every block, and the logits."""
    ends: list[npt.NDArray[np.float64]] = []

    def keep(values: Any) -> None:
        ends.append(values.double().numpy())

    blocks: Any = model.model.blocks
    blocks[0].register_forward_pre_hook(lambda _, given: keep(given[0]))
    for block in blocks:
        block.register_forward_hook(lambda *given: keep(given[-1]))
    with torch.inference_mode():
        keep(model(torch.from_numpy(images)))
    return ends
