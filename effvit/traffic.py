"""How many bytes the operators of one forward pass read and write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def traffic_bytes(module: nn.Module, x: Tensor) -> int:
    """Return the bytes that the operators of one eager forward of `module` on `x` read and write.

    Every operator that PyTorch dispatches reads each of its inputs once, weights included, and writes each of its
    outputs once; fused attention is one operator. Views move nothing, and along an expanded dimension there is one
    element. What stays in a cache is not told from what goes to memory, and a runtime that fuses operators moves less:
    the count compares mechanisms, it predicts no bandwidth.
    """
    counting = _Counting()
    with torch.no_grad(), counting:
        module(x)
    return counting.moved_bytes


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.moved_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        out: object = func(*args, **(kwargs or {}))
        # PyTorch does not declare as a view the one that ends a matrix product or a copying reshape.
        is_view = func.is_view or func is torch.ops.aten._unsafe_view.default
        if _tensors(out) and not is_view:  # fake tensors ask for their device by an operator, which returns no tensor
            self.moved_bytes += sum(map(_stored_bytes, _tensors([args, kwargs, out])))
        return out


def _tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _stored_bytes(tensor: Tensor) -> int:
    """Return the bytes behind `tensor`; along an expanded dimension there is one element."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size if step or not size else 1 for size, step in steps) * tensor.element_size()
