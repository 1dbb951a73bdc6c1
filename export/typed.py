"""A model whose types say its precision, between float32 images and float32 logits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from effvit.spec import Precision

# TF32 is float32 in memory; the runtime rounds inside its matrix products.
DTYPES = {
    Precision.FP32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}


class TypedModel(nn.Module):
    """Computes in one type; mechanisms that need float32 inside (FAVOR+, the pseudo-inverse) cast for themselves."""

    def __init__(self, model: nn.Module, precision: Precision, pins: Sequence[str] = ()) -> None:
        """Take `model` itself; its modules named in `pins` stay in float32, their weights as they are."""
        super().__init__()
        self.dtype = DTYPES[precision]
        # Copied before they would be rounded: weights that overflow in 16 bits do not come back.
        wide = {name: copy.deepcopy(model.get_submodule(name)) for name in pins}
        self.model = model.eval().to(self.dtype)
        for name, module in wide.items():
            self.model.set_submodule(name, module.eval())
            module.register_forward_pre_hook(_widen, with_kwargs=True)
            if not _next_is_wide(name, pins):
                module.register_forward_hook(partial(_narrow, self.dtype))

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 logits `(batch, classes)` of float32 images `(batch, 3, height, width)`."""
        logits: Tensor = self.model(images.to(self.dtype)).float()
        return logits


def _next_is_wide(name: str, pins: Sequence[str]) -> bool:
    """Return whether what the block called `name` hands on goes into one that stays in float32, too."""
    stem, _, number = name.rpartition(".")
    return stem == "blocks" and f"{stem}.{int(number) + 1}" in pins


def _widen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_wide, args)), {name: _wide(value) for name, value in kwargs.items()}


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _narrow(dtype: torch.dtype, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.to(dtype)
