"""Hedgehog: linear attention whose features are learned to imitate the softmax of the layer it replaces."""

from __future__ import annotations

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from effvit.attention.base import (
    AttentionMacs,
    AttentionVariant,
    Geometry,
    InheritedAttention,
    NoOptions,
    linear_state,
    projection_macs,
    read_state,
)

# What every key feature is raised by: features are 1 / head_dim on average, so this shows only where a query would
# otherwise divide by next to nothing.
FEATURE_FLOOR = 1e-12


class HedgehogAttention(InheritedAttention):
    """Linear-time attention with learned features, one map a head for queries and one for keys.

    The maps start as the identity: what makes them imitate softmax attention is training, and until then the layer is
    a far smoother attention than the donor's. The paper's features are exponentials, made stable by a softmax over the
    features; the scale of the softmax they imitate goes half to the queries and half to the keys, before the maps.

    Source:
        Zhang et al. 2024, section 4, https://arxiv.org/abs/2402.04347
    """

    def __init__(self, geometry: Geometry, donor: Attention) -> None:
        super().__init__(geometry, donor)
        identity = torch.eye(geometry.head_dim).to(donor.qkv.weight).repeat(geometry.heads, 1, 1)
        self.query_map = nn.Parameter(identity)  # (heads, head_dim, head_dim)
        self.key_map = nn.Parameter(identity.clone())

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.project_qkv(x)
        # Small features meet in the denominator, so everything up to the division runs in single precision.
        wide = torch.promote_types(v.dtype, torch.float32)
        with torch.autocast(device_type=x.device.type, enabled=False):
            state = linear_state(softmax_features(k.to(wide), self.key_map.to(wide)), v.to(wide), FEATURE_FLOOR)
            mixed = read_state(softmax_features(q.to(wide), self.query_map.to(wide)), state)
        return mixed.to(v.dtype)


def softmax_features(tokens: Tensor, maps: Tensor) -> Tensor:
    """Return the softmax over channels of the mapped tokens, then that of their negatives.

    Args:
        tokens: `(batch, heads, tokens, head_dim)`, not yet scaled.
        maps: `(heads, head_dim, head_dim)`, one a head.

    Returns:
        `(batch, heads, tokens, 2 * head_dim)`, each half adding up to 1.
    """
    mapped = tokens @ (maps * tokens.shape[-1] ** -0.25)
    return torch.cat([mapped.softmax(dim=-1), (-mapped).softmax(dim=-1)], dim=-1)


def build(geometry: Geometry, options: NoOptions, donor: Attention) -> nn.Module:
    """Return a layer around the donor's modules with new parameters, `query_map` and `key_map`."""
    return HedgehogAttention(geometry, donor)


def macs(geometry: Geometry, options: NoOptions) -> AttentionMacs:
    """Count the maps of q and k and both products of features with the values and their column of ones."""
    maps = 2 * geometry.tokens * geometry.attention_dim * geometry.head_dim
    products = 2 * geometry.tokens * geometry.heads * 2 * geometry.head_dim * (geometry.head_dim + 1)
    return AttentionMacs(projection_macs(geometry), maps + products)


VARIANT = AttentionVariant(
    name="hedgehog",
    summary="learned softmax features instead of a softmax over tokens, linear in the tokens",
    source="Zhang et al. 2024, section 4, https://arxiv.org/abs/2402.04347",
    build=build,
    macs=macs,
)
