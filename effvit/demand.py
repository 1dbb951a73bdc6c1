"""What one image demands of whatever runs a model, counted without weights and without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from effvit.backbone import create_backbone, patch_size, set_resolution
from effvit.cost import cost_of
from effvit.prospect import unallocated_model
from effvit.spec import Cost, ModelSpec, Swap, check_resolution
from effvit.surgery import replace_attention
from effvit.traffic import traffic_of


@dataclass(frozen=True, slots=True)
class Demand:
    """What one image of `height` x `width` px demands of what runs `model`, in fp32.

    A forward pass has `operators`, which read and write `moved_bytes` beside `weight_bytes`, and keep `peak_bytes` at
    once, images and weights not counted; it goes through so many `blocks`. Operators are PyTorch's, with attention in
    the steps that graphs have it in: a runtime that fuses them has fewer, and moves less. The model's patch size is
    always named.
    """

    model: ModelSpec
    height: int
    width: int
    cost: Cost
    blocks: int
    operators: int
    moved_bytes: int
    weight_bytes: int
    peak_bytes: int


def demand_of(spec: ModelSpec, height: int, width: int) -> Demand:
    """Return what a model of this specification demands at (height, width) px.

    Raises:
        UnknownNameError, UnsupportedError, UsageError: It is not one that this installation can build.
    """
    with torch.device("meta"):
        model = create_backbone(spec.backbone, classes=spec.classes, resolution=spec.trained, patch=spec.patch).eval()
    replace_attention(model, spec.swaps)
    return _demand(model, spec, height, width)


def demands_of(swaps: Sequence[Swap], backbone: str, resolutions: Sequence[tuple[int, int]]) -> list[Demand]:
    """Return what timm's `backbone` with these swaps demands at each of the `resolutions`, (height, width) px.

    Options are resolved at the backbone's own resolution, as for a model that was trained there.

    Raises:
        UnknownNameError, UnsupportedError, UsageError: A name that does not exist, a value that does not fit.
    """
    model, spec = unallocated_model(swaps, backbone)
    return [_demand(model, spec, height, width) for height, width in resolutions]


def _demand(model: VisionTransformer, spec: ModelSpec, height: int, width: int) -> Demand:
    patch = patch_size(model)[0]
    check_resolution(spec.backbone, (height, width), patch)
    set_resolution(model, height, width)
    cost, pretending = cost_of(model, spec), deepcopy(model)
    # The mode gives tensors that only pretend to be on the CPU: see prospect.py.
    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH):
        pretending = pretending.to_empty(device="cpu")
        traffic = traffic_of(pretending, torch.empty(1, 3, height, width))
        weights = (*pretending.parameters(), *pretending.buffers())
        weight_bytes = sum(tensor.nbytes for tensor in weights)
    return Demand(
        model=replace(spec, patch=patch),
        height=height,
        width=width,
        cost=cost,
        blocks=len(model.blocks),
        operators=traffic.operators,
        moved_bytes=traffic.moved_bytes - weight_bytes,
        weight_bytes=weight_bytes,
        peak_bytes=traffic.peak_bytes,
    )
