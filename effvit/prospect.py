"""What an attention variant promises a model on paper, before anything is trained."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from effvit.attention.base import AttentionVariant, Geometry, InheritedAttention
from effvit.backbone import (
    attention_layers,
    create_backbone,
    geometry_of,
    patch_size,
    resolution_of,
    set_resolution,
)
from effvit.cost import cost_of
from effvit.spec import BASELINE, Cost, ModelSpec, OptionValue, Swap, check_resolution
from effvit.surgery import pick_variant, replace_attention
from effvit.traffic import traffic_bytes

# What most of timm's models classify; the head is a small part of the cost whatever it is.
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class ResolvedOption:
    """An option of a variant: its default, and what it comes to for one model."""

    name: str
    default: OptionValue
    resolved: OptionValue


@dataclass(frozen=True, slots=True)
class Bill:
    """What one image of `height` x `width` px costs a model, and the bytes its first attention layer moves in fp32."""

    height: int
    width: int
    cost: Cost
    layer_bytes: int


@dataclass(frozen=True, slots=True)
class Promise:
    """The bill of a variant beside that of exact attention.

    `macs_ratio` is the exact model's MACs over these, the speed-up if time followed MACs; `ceiling` is that of exact
    attention whose core costs nothing.
    """

    bill: Bill
    exact: Bill
    macs_ratio: float
    ceiling: float | None


@dataclass(frozen=True, slots=True)
class Prospect:
    """An attention variant in every block of timm's `model`, whose own resolution is `trained`, (height, width) px.

    `mechanism` and `options_meaning` are prose, one line a paragraph; empty where there is nothing to say.
    """

    name: str
    summary: str
    mechanism: str
    source: str
    model: str
    trained: tuple[int, int]
    options: tuple[ResolvedOption, ...]
    options_meaning: str
    promises: tuple[Promise, ...]


def prospects_of(
    attentions: Sequence[str],
    backbone: str,
    resolutions: Sequence[tuple[int, int]],
    options: Sequence[tuple[str, OptionValue]] = (),
) -> list[Prospect]:
    """Return what each of `attentions` promises timm's `backbone` at `resolutions`, each (height, width) px.

    Options are resolved at the backbone's own resolution, as for a model that was trained there. Weights are neither
    fetched nor given memory, and no layer computes anything.

    Raises:
        UnknownNameError, UnsupportedError, UsageError: A name that does not exist, a value that does not fit.
    """
    variants = [pick_variant(name) for name in attentions]
    exact = _bills(*unallocated_model((Swap(BASELINE),), backbone), resolutions)
    return [_prospect(variant, backbone, options, exact) for variant in variants]


def _prospect(
    variant: AttentionVariant, backbone: str, options: Sequence[tuple[str, OptionValue]], exact: Sequence[Bill]
) -> Prospect:
    model, spec = unallocated_model((Swap(variant.name, tuple(options)),), backbone)
    layer = attention_layers(model, backbone)[0]
    defaults = variant.options()
    bills = _bills(model, spec, [(bill.height, bill.width) for bill in exact])
    return Prospect(
        name=variant.name,
        summary=variant.summary,
        # timm's layer is not ours to explain.
        mechanism=_prose(type(layer)) if isinstance(layer, InheritedAttention) else "",
        source=variant.source,
        model=backbone,
        trained=spec.trained,
        options=tuple(ResolvedOption(name, getattr(defaults, name), value) for name, value in spec.options),
        options_meaning=_prose(variant.options) if fields(variant.options) else "",
        promises=tuple(
            Promise(ours, theirs, theirs.cost.macs / ours.cost.macs, theirs.cost.ceiling)
            for ours, theirs in zip(bills, exact, strict=True)
        ),
    )


def unallocated_model(swaps: Sequence[Swap], backbone: str) -> tuple[VisionTransformer, ModelSpec]:
    """Return timm's `backbone` with its attention swapped, without memory for its weights, and what it is.

    Raises:
        UnknownNameError, UnsupportedError, UsageError: A name that does not exist, a value that does not fit.
    """
    with torch.device("meta"):
        model = create_backbone(backbone, classes=IMAGENET_CLASSES).eval()
    # Not on the meta device by default: what variants compute when they are built may need numbers.
    surgery = replace_attention(model, swaps)
    return model, ModelSpec(backbone, surgery.swaps, IMAGENET_CLASSES, resolution_of(model))


def _bills(model: VisionTransformer, spec: ModelSpec, resolutions: Sequence[tuple[int, int]]) -> list[Bill]:
    bills = []
    for height, width in resolutions:
        check_resolution(spec.backbone, (height, width), patch_size(model)[0])
        set_resolution(model, height, width)
        layer = attention_layers(model, spec.backbone)[0]
        bills.append(Bill(height, width, cost_of(model, spec), _layer_bytes(layer, geometry_of(model, layer))))
    return bills


def _layer_bytes(layer: nn.Module, geometry: Geometry) -> int:
    layer = deepcopy(layer)
    # Tensors that only pretend to be on the CPU: on the meta device PyTorch does not choose fused attention.
    with FakeTensorMode(allow_non_fake_inputs=True):
        return traffic_bytes(layer.to_empty(device="cpu"), torch.empty(1, geometry.tokens, geometry.dim))


def _prose(documented: type) -> str:
    """Return the docstring of a class, one line a paragraph, without its sections (`Raises:`, `Source:`)."""
    text = re.split(r"^\w+:$", inspect.cleandoc(documented.__doc__ or ""), maxsplit=1, flags=re.MULTILINE)[0]
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
