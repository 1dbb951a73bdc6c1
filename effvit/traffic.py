"""What the operators of one forward pass read, write and keep, in bytes, and how many they are."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the `operators` of one eager forward move, and the most of their outputs that is alive at any time.

    `moved_bytes` are those of `traffic_bytes`. In `peak_bytes` is neither the input nor any weight.
    """

    operators: int
    moved_bytes: int
    peak_bytes: int


def traffic_bytes(module: nn.Module, x: Tensor) -> int:
    """Return the bytes that the operators of one eager forward of `module` on `x` read and write.

    Every operator that PyTorch dispatches reads each of its inputs once, weights included, and writes each of its
    outputs once; fused attention is one operator. Views move nothing, and along an expanded dimension there is one
    element. What stays in a cache is not told from what goes to memory, and a runtime that fuses operators moves less:
    the count compares mechanisms, it predicts no bandwidth.
    """
    return traffic_of(module, x).moved_bytes


def traffic_of(module: nn.Module, x: Tensor) -> Traffic:
    """Return what one eager forward of `module` on `x` does; views are no operators."""
    counting = _Counting()
    with torch.no_grad(), counting:
        module(x)
    return Traffic(counting.operators, counting.moved_bytes, counting.peak_bytes)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.operators = self.moved_bytes = self.peak_bytes = 0
        self._alive: dict[int, int] = {}  # bytes of every storage that operators made, by its identity

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        out: object = func(*args, **(kwargs or {}))
        # PyTorch does not declare as a view the one that ends a matrix product or a copying reshape.
        is_view = func.is_view or func is torch.ops.aten._unsafe_view.default
        if _tensors(out) and not is_view:  # fake tensors ask for their device by an operator, which returns no tensor
            self.operators += 1
            self.moved_bytes += sum(map(_stored_bytes, _tensors([args, kwargs, out])))
            self._keep(_tensors(out), _tensors([args, kwargs]))
        return out

    def _keep(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Count the storages of `outputs` as alive for as long as something refers to them."""
        given = {id(one.untyped_storage()) for one in inputs}  # what an operator in place returns
        for storage in (one.untyped_storage() for one in outputs):
            place = id(storage)
            if place not in given and place not in self._alive:
                self._alive[place] = storage.nbytes()
                weakref.finalize(storage, self._alive.pop, place)
        self.peak_bytes = max(self.peak_bytes, sum(self._alive.values()))


def _tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _stored_bytes(tensor: Tensor) -> int:
    """Return the bytes behind `tensor`; along an expanded dimension there is one element."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size if step or not size else 1 for size, step in steps) * tensor.element_size()
