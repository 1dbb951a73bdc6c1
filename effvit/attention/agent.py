"""Agent attention: a few pooled queries gather the values, and hand them out to all tokens."""

from __future__ import annotations

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.attention.base import (
    AttentionMacs,
    AttentionVariant,
    Geometry,
    InheritedAttention,
    PoolOptions,
    landmark_pooling,
    pooled_tokens,
    projection_macs,
    resolve_pool,
)

KERNEL = 3  # side of the convolution of the values, as in the paper


class AgentAttention(InheritedAttention):
    """Attention as (tokens to agents) x (agents to tokens), plus a convolution of the values.

    Agents are the queries of the prefix tokens and the averages of the patches' queries over `pool`² cells. Both
    factors are fused attention calls and no matrix of tokens x agents is ever stored. The convolution, which gives back
    the differences between neighbours that few agents blur, starts at zero, so a swap starts without it; prefix tokens
    have no neighbours and get none. The paper's agent biases are left out: their size is tied to that of the grid.

    Source:
        Han et al. 2023, section 3, https://arxiv.org/abs/2312.08874
    """

    landmarks: Tensor

    def __init__(self, geometry: Geometry, options: PoolOptions, donor: Attention) -> None:
        super().__init__(geometry, donor)
        self.options = options
        weight = donor.qkv.weight
        self.value_convolution = nn.Parameter(torch.zeros(geometry.attention_dim, 1, KERNEL, KERNEL).to(weight))
        self._place_agents(weight)

    def resize(self, geometry: Geometry) -> None:
        """Place the agents on another grid, in place; nothing learned depends on it."""
        super().resize(geometry)
        self._place_agents(self.landmarks)

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.project_qkv(x)
        agents = self.landmarks @ q  # (batch, heads, agents, head_dim)
        return self.attend(q, agents, self.attend(agents, k, v)) + self._convolve(v)

    def _convolve(self, v: Tensor) -> Tensor:
        """Return the convolved values, 0 for prefix tokens, `(batch, heads, tokens, head_dim)`."""
        prefix = self.geometry.prefix_tokens
        patches = v[:, :, prefix:].transpose(1, 2).flatten(2)  # (batch, patches, heads * head_dim)
        maps = patches.mT.unflatten(2, self.geometry.grid)  # (batch, heads * head_dim, rows, columns)
        maps = F.conv2d(maps, self.value_convolution, padding=KERNEL // 2, groups=maps.shape[1])
        local = maps.flatten(2).unflatten(1, (self.heads, self.head_dim)).mT  # (batch, heads, patches, head_dim)
        return F.pad(local, (0, 0, prefix, 0))

    def _place_agents(self, like: Tensor) -> None:
        # Not persistent: they follow from the geometry, and a checkpoint must load at any resolution.
        placed = landmark_pooling(self.geometry, self.options.pool)
        self.register_buffer("landmarks", placed.to(like), persistent=False)


def build(geometry: Geometry, options: PoolOptions, donor: Attention) -> nn.Module:
    """Return a layer around the donor's modules with a new parameter, `value_convolution`."""
    return AgentAttention(geometry, options, donor)


def macs(geometry: Geometry, options: PoolOptions) -> AttentionMacs:
    """Count pooling, both attention calls and the convolution."""
    agents = pooled_tokens(geometry, options.pool)
    pooling = agents * geometry.tokens * geometry.attention_dim
    attention = 4 * agents * geometry.tokens * geometry.attention_dim
    convolution = KERNEL**2 * geometry.patches * geometry.attention_dim
    return AttentionMacs(projection_macs(geometry), pooling + attention + convolution)


VARIANT = AttentionVariant(
    name="agent",
    summary="attention through pooled queries, and a convolution of the values",
    source="Han et al. 2023, section 3, https://arxiv.org/abs/2312.08874",
    build=build,
    macs=macs,
    options=PoolOptions,
    resolve=resolve_pool,
)
