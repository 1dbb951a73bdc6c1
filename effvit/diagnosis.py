"""Where in a model a training went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

GROWN = 1e3
"""By what factor a part's output must exceed its input to be named: a healthy one is of the same order."""


def diagnosis(model: VisionTransformer, images: Tensor) -> str:
    """Return, as the end of a sentence, which part of `model` is the first to fail on `images`; "" if none does.

    That is the first with a parameter or an output that is no number, in the order of the forward pass; else the last
    with such a gradient, which is where the backward pass meets it first; else the first whose output is far larger
    than what went into it.
    """
    sizes = _sizes(model, images)
    for name, (_, size) in sizes.items():
        if not size < float("inf"):
            return f": {name} is the first part whose output is not finite{_parameter_of(model, name)}"
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f": the gradient of {name} is the first, from the loss backwards, that is not finite"
    for name, (before, after) in sizes.items():
        if after > GROWN * max(before, 1.0):
            return f": {name} is the first part whose output is huge, {after:.2g} from {before:.2g}"
    return ""


def _sizes(model: VisionTransformer, images: Tensor) -> dict[str, tuple[float, float]]:
    """Return the root mean square of every part's input and output, in the order of the forward pass."""
    sizes: dict[str, tuple[float, float]] = {}
    training = model.training
    with torch.no_grad(), _traced(model, sizes):
        model.eval()(images)
    model.train(training)
    return sizes


@contextmanager
def _traced(model: VisionTransformer, sizes: dict[str, tuple[float, float]]) -> Iterator[None]:
    handles = [part.register_forward_hook(partial(_keep, sizes, name)) for name, part in _parts(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parts(model: VisionTransformer) -> Iterator[tuple[str, nn.Module]]:
    yield "the patch embedding", model.patch_embed
    for index, block in enumerate(model.blocks):
        yield f"the attention of block {index}", block.get_submodule("attn")
        yield f"the MLP of block {index}", block.get_submodule("mlp")
        yield f"block {index}", block
    yield "the final norm", model.norm
    yield "the classifier", model.head


def _keep(
    sizes: dict[str, tuple[float, float]], name: str, part: nn.Module, arguments: tuple[Tensor, ...], output: object
) -> None:
    # A block that hands on more than tokens is not looked at as a whole; its parts are.
    if isinstance(output, Tensor):
        sizes[name] = _size(arguments[0]), _size(output)


def _size(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


def _parameter_of(model: VisionTransformer, part: str) -> str:
    """Return which parameter of a part is itself no number, as the end of a sentence."""
    for name, module in _parts(model):
        if name == part:
            for own, parameter in module.named_parameters():
                if not bool(torch.isfinite(parameter).all()):
                    return f", and its parameter {own} is not either"
    return ""
