"""Exact softmax attention: timm's own layer, untouched. The baseline."""

from __future__ import annotations

from timm.layers.attention import Attention
from torch import nn

from effvit.attention.base import AttentionMacs, AttentionVariant, Geometry, NoOptions, projection_macs


def build(geometry: Geometry, options: NoOptions, donor: Attention) -> nn.Module:
    """Return the donor itself."""
    return donor


def macs(geometry: Geometry, options: NoOptions) -> AttentionMacs:
    """Count q kᵀ and the weighted sum of v beside the four projections."""
    return AttentionMacs(projection_macs(geometry), 2 * geometry.tokens**2 * geometry.attention_dim)


VARIANT = AttentionVariant(
    name="softmax",
    summary="exact attention, timm's own layer: the baseline",
    source="Vaswani et al. 2017, equation 1, https://arxiv.org/abs/1706.03762",
    build=build,
    macs=macs,
    exact=True,
)
