"""PyTorch's compiler around the steps of a training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effvit.errors import UnsupportedError, first_line


class _Compiled(nn.Module):
    """A module whose compiler's complaints are one sentence."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.answer = torch.compile(module)

    def forward(self, images: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException  # only once it is needed: it takes seconds to import

        try:
            logits: Tensor = self.answer(images)
        except TorchDynamoException as error:
            raise UnsupportedError(
                f"PyTorch cannot compile the model: {first_line(error)}", "leave --compile out"
            ) from error
        return logits


def compiled(module: nn.Module) -> nn.Module:
    """Return a module that does what `module` does, compiled at its first call.

    Raises:
        UnsupportedError: At that call: PyTorch cannot, for want of a C++ compiler, say.
    """
    return _Compiled(module)
