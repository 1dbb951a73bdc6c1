"""Layers for the attention tests: a donor of a geometry, and a variant built around it."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from effvit.attention.base import AttentionVariant, Geometry
from effvit.registry import discover

VARIANTS = discover("effvit.attention", "VARIANT", AttentionVariant)
APPROXIMATE = [name for name, variant in VARIANTS.items() if not variant.exact]
# What variants learn beside the donor's weights.
NEW = {
    "compression",
    "level_gate.weight",
    "level_gate.bias",
    "value_convolution",
    "reduction_weight",
    "query_map",
    "key_map",
}


def geometry_of(grid: tuple[int, int], prefix_tokens: int = 1, dim: int = 24, heads: int = 2) -> Geometry:
    return Geometry(dim, heads, dim // heads, prefix_tokens, grid)


def donor_of(geometry: Geometry, seed: int = 0, **choices: Any) -> Attention:
    """Return a timm layer with weights large enough for attention that is far from uniform."""
    torch.manual_seed(seed)
    donor = Attention(geometry.dim, geometry.heads, **{"qkv_bias": True, "norm_layer": nn.LayerNorm} | choices)
    with torch.no_grad():
        donor.qkv.weight.mul_(3)
    return donor.eval()


def layer_of(name: str, geometry: Geometry, donor: Attention | None = None, **options: Any) -> nn.Module:
    variant = VARIANTS[name]
    resolved = variant.resolve(variant.options(**options), geometry)
    return variant.build(geometry, resolved, donor_of(geometry) if donor is None else donor).eval()


def unsettle(layer: nn.Module) -> None:
    """Move the variant's own parameters away from their start, where much cancels."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name in NEW:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(noise.to(parameter) * 0.1)


def tokens_of(geometry: Geometry, batch: int = 2, seed: int = 2) -> Tensor:
    return torch.randn(batch, geometry.tokens, geometry.dim, generator=torch.Generator().manual_seed(seed))
