"""A model whose types say its precision, between float32 images and float32 logits."""

from __future__ import annotations

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

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        self.model = model.eval().to(self.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 logits `(batch, classes)` of float32 images `(batch, 3, height, width)`."""
        logits: Tensor = self.model(images.to(self.dtype)).float()
        return logits
