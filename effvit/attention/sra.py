"""Spatial-reduction attention: keys and values from patches that a learned, strided convolution has merged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.attention.base import (
    AttentionMacs,
    AttentionVariant,
    Geometry,
    InheritedAttention,
    projection_macs,
    require_at_least,
    require_within_grid,
)


@dataclass(frozen=True, slots=True)
class SraOptions:
    """`reduction` is the side, in patches, of the square cells that become one key each.

    Raises:
        UsageError: A reduction below 1.
    """

    reduction: int = 2

    def __post_init__(self) -> None:
        require_at_least("reduction", self.reduction, 1)


class SpatialReductionAttention(InheritedAttention):
    """Softmax attention over the prefix tokens and one key for every `reduction`² patches.

    The tokens are reduced before they are projected to keys and values, by a depthwise convolution that starts as the
    average. The paper's reduction is a full convolution and a LayerNorm. With either, pretrained key and value
    projections would meet inputs they were never trained for; an average of tokens is close to a token. No weight
    depends on the grid: the number of keys grows with it.

    Where `reduction` does not divide the grid, zeros are added below and on the right, and the cells at the border are
    multiplied by the inverse of the share of them that lies on the grid, so that they start as averages, too.

    Source:
        Wang et al. 2021, section 3.3, https://arxiv.org/abs/2102.12122
    """

    inverse_share: Tensor | None

    def __init__(self, geometry: Geometry, options: SraOptions, donor: Attention) -> None:
        super().__init__(geometry, donor)
        self.options = options
        weight = donor.qkv.weight
        side = options.reduction
        average = torch.full((geometry.dim, 1, side, side), 1 / side**2)
        self.reduction_weight = nn.Parameter(average.to(weight))
        self._fit_border(weight)

    def resize(self, geometry: Geometry) -> None:
        """Fit the border to another grid, in place; nothing learned depends on it."""
        super().resize(geometry)
        self._fit_border(self.reduction_weight)

    def mix(self, x: Tensor) -> Tensor:
        prefix = self.geometry.prefix_tokens
        reduced = self.reduce(x[:, prefix:])
        return self.attend(*self.project_apart(x, torch.cat([x[:, :prefix], reduced], dim=1) if prefix else reduced))

    def reduce(self, patches: Tensor) -> Tensor:
        """Return one token for every cell, `(batch, cells, dim)`, of `(batch, patches, dim)`."""
        rows, columns = self.geometry.grid
        side = self.options.reduction
        maps = patches.mT.unflatten(2, (rows, columns))  # (batch, dim, rows, columns)
        if self.inverse_share is not None:
            maps = F.pad(maps, (0, -columns % side, 0, -rows % side))
        maps = F.conv2d(maps, self.reduction_weight, stride=side, groups=maps.shape[1])
        cells = maps.flatten(2).mT  # (batch, cells, dim)
        return cells if self.inverse_share is None else cells * self.inverse_share

    def _fit_border(self, like: Tensor) -> None:
        side = self.options.reduction
        inverse_share = None
        if any(size % side for size in self.geometry.grid):
            rows, columns = (_inverse_shares(size, side) for size in self.geometry.grid)
            inverse_share = torch.outer(rows, columns).reshape(-1, 1).to(like)  # (cells, 1)
        # Not persistent: it follows from the geometry, and a checkpoint must load at any resolution.
        self.register_buffer("inverse_share", inverse_share, persistent=False)


def reduced_grid(grid: tuple[int, int], reduction: int) -> tuple[int, int]:
    """Return the (rows, columns) of cells of side `reduction` that cover a grid."""
    return math.ceil(grid[0] / reduction), math.ceil(grid[1] / reduction)


def _inverse_shares(size: int, side: int) -> Tensor:
    """Return for each interval of length `side` its length over that of its part within `size`, `(intervals,)`."""
    return torch.tensor([side / min(side, size - start) for start in range(0, size, side)], dtype=torch.float64)


def resolve(options: SraOptions, geometry: Geometry) -> SraOptions:
    """Return `options` as they are, where they fit the grid.

    Raises:
        UsageError: A reduction above the longer side of the grid.
    """
    require_within_grid("reduction", options.reduction, geometry.grid)
    return options


def build(geometry: Geometry, options: SraOptions, donor: Attention) -> nn.Module:
    """Return a layer around the donor's modules with a new parameter, `reduction_weight`."""
    return SpatialReductionAttention(geometry, options, donor)


def macs(geometry: Geometry, options: SraOptions) -> AttentionMacs:
    """Count k and v projections of the kept tokens alone, the convolution, padding included, and both products."""
    rows, columns = reduced_grid(geometry.grid, options.reduction)
    keys = geometry.prefix_tokens + rows * columns
    convolution = rows * columns * options.reduction**2 * geometry.dim
    attention = 2 * geometry.tokens * keys * geometry.attention_dim
    return AttentionMacs(projection_macs(geometry, keys), convolution + attention)


VARIANT = AttentionVariant(
    name="sra",
    summary="keys and values from patches merged by a learned strided convolution",
    source="Wang et al. 2021, section 3.3, https://arxiv.org/abs/2102.12122",
    build=build,
    macs=macs,
    options=SraOptions,
    resolve=resolve,
)
