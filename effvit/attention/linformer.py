"""Linformer for images: keys and values come from tokens that a learned matrix compressed, starting as 2-D pooling."""

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
    average_pooling,
    pooled_grid,
    pooled_tokens,
    projection_macs,
    resolve_pool,
)
from effvit.unprojected import attend_unprojected, is_linear, saves_projecting, unprojected_macs


class LinformerAttention(InheritedAttention):
    """Softmax attention over the prefix tokens and `pool`² compressed patches.

    Compressing the tokens before projecting them to keys and values gives the same as compressing keys and values
    (the projection is linear, and its bias survives because the rows of the compression sum to 1), but projects only
    the few compressed tokens. One matrix serves keys, values and all heads: the paper's key-value sharing. Where so few
    keys save it, the tokens that ask are left unprojected, too.

    Source:
        Wang et al. 2020, equation 7, https://arxiv.org/abs/2006.04768
    """

    def __init__(self, geometry: Geometry, options: PoolOptions, donor: Attention) -> None:
        super().__init__(geometry, donor)
        self.options = options
        pooling = average_pooling(geometry.grid, pooled_grid(options.pool, geometry.grid))
        self.compression = nn.Parameter(pooling.to(donor.qkv.weight))  # (pooled patches, patches)

    def transform(self, x: Tensor) -> Tensor:
        if not (is_linear(self) and saves_projecting(self.geometry, pooled_tokens(self.geometry, self.options.pool))):
            return super().transform(x)
        query, key_value = self.split_projection(1, 2)
        k, v = self.split_heads(F.linear(self.compress(x), *key_value), 2)
        out: Tensor = self.proj_drop(attend_unprojected(x, k, v, query, self.proj))
        return out

    def mix(self, x: Tensor) -> Tensor:
        return self.attend(*self.project_apart(x, self.compress(x)))

    def compress(self, x: Tensor) -> Tensor:
        """Return the prefix tokens and the compressed patches of `x`, `(batch, keys, dim)`."""
        prefix = self.geometry.prefix_tokens
        compressed = self.compression @ x[:, prefix:]  # (batch, pooled patches, dim)
        return torch.cat([x[:, :prefix], compressed], dim=1) if prefix else compressed

    def resize(self, geometry: Geometry) -> None:
        """Carry the compression over to another grid, in place; the sum of every row is kept.

        Only what was learned, the difference from pooling, is interpolated, and added to the exact pooling of the new
        grid. Interpolating the whole matrix would blur the edges of the cells, so that even an untrained matrix would
        come back as something that is not pooling; this way it comes back as pooling.
        """
        old = self.geometry
        super().resize(geometry)
        if geometry.grid == old.grid:
            return
        before, after = pooled_grid(self.options.pool, old.grid), pooled_grid(self.options.pool, geometry.grid)
        # In double, from the pooling in the parameter's own type: an untrained matrix must differ by nothing at all.
        matrix = self.compression.detach().double()
        learned = matrix - average_pooling(old.grid, before).to(self.compression).double()
        learned = _resample(learned, old.grid, geometry.grid)
        learned = _resample(learned.T, before, after).T
        row_sums = _resample(matrix.sum(dim=1)[None], before, after).T  # (pooled patches, 1)
        # A row weighs tokens of smaller area now: without the ratio its sum would grow with their number.
        resized = average_pooling(geometry.grid, after).to(learned) + learned * (old.patches / geometry.patches)
        # Spread evenly and not by scaling: what was learned may sum to nothing.
        resized += (row_sums - resized.sum(dim=1, keepdim=True)) / geometry.patches
        self.compression = nn.Parameter(resized.to(self.compression), self.compression.requires_grad)


def _resample(maps: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Return `(rows, cells of before)` interpolated to `(rows, cells of after)`, smoothed on the way down."""
    if before == after:
        return maps
    images = maps.reshape(-1, 1, *before)
    return F.interpolate(images, size=after, mode="bicubic", antialias=True).flatten(1)


def build(geometry: Geometry, options: PoolOptions, donor: Attention) -> nn.Module:
    """Return a layer around the donor's modules with a new parameter, `compression`."""
    return LinformerAttention(geometry, options, donor)


def macs(geometry: Geometry, options: PoolOptions) -> AttentionMacs:
    """Count k and v projections of the kept tokens alone, the compression and attention, in whichever form is run."""
    keys = pooled_tokens(geometry, options.pool)
    compression = (keys - geometry.prefix_tokens) * geometry.patches * geometry.dim
    if saves_projecting(geometry, keys):
        projected = 2 * keys * geometry.dim * geometry.attention_dim
        return AttentionMacs(projected, compression + unprojected_macs(geometry, keys))
    attention = 2 * geometry.tokens * keys * geometry.attention_dim
    return AttentionMacs(projection_macs(geometry, keys), compression + attention)


VARIANT = AttentionVariant(
    name="linformer",
    summary="keys and values from a learned pooling of the patches",
    source="Wang et al. 2020, equation 7, https://arxiv.org/abs/2006.04768",
    build=build,
    macs=macs,
    options=PoolOptions,
    resolve=resolve_pool,
)
