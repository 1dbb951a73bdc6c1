"""Atrous attention: windows at several dilations, fused by a learned gate, with the weights of one exact layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.attention.base import (
    AttentionMacs,
    AttentionVariant,
    Geometry,
    InheritedAttention,
    half_grid_side,
    projection_macs,
    require_at_least,
    require_within_grid,
)

# Added to the score of a padded key. Its exponential is 0 beside any real score, yet float16 can hold it, and a window
# of padding alone gives finite rows (which are cut off) where minus infinity would give NaN.
PADDED_SCORE = -3e4


@dataclass(frozen=True, slots=True)
class AtrousOptions:
    """`window` is the nominal side of a window (None: half the grid's side, at most 7).

    `levels` is the number of dilations: 1, 2, 4 and so on.

    Raises:
        UsageError: A window or a number of levels below 1.
    """

    window: int | None = None
    levels: int = 2

    def __post_init__(self) -> None:
        if self.window is not None:
            require_at_least("window", self.window, 1)
        require_at_least("levels", self.levels, 1)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How windows of (rows, columns) `window` cover a grid, padded below and on the right to `padded`, at `dilations`.

    At dilation d a window takes every d-th patch of a square d times its side, so at every dilation there are equally
    many windows, and together they hold every patch once.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    padded: tuple[int, int]
    dilations: tuple[int, ...]

    @property
    def area(self) -> int:
        """Patches of one window."""
        return self.window[0] * self.window[1]

    @property
    def windows(self) -> int:
        """Windows at one dilation."""
        return self.padded[0] * self.padded[1] // self.area

    def blocks(self, dilation: int) -> tuple[int, int, int, int, int, int]:
        """Return the padded rows and columns, each split into block, place in the window, and phase."""
        (rows, columns), (high, wide) = self.padded, self.window
        return rows // (high * dilation), high, dilation, columns // (wide * dilation), wide, dilation


def tiling_of(grid: tuple[int, int], options: AtrousOptions) -> Tiling:
    """Return the tiling of a grid, its window as close to the nominal one as tiling without padding allows."""
    nominal = half_grid_side(grid, 7) if options.window is None else options.window
    dilations = tuple(2**level for level in range(options.levels))
    window = _window_side(grid[0], nominal, dilations[-1]), _window_side(grid[1], nominal, dilations[-1])
    padded = tuple(_round_up(side, cells * dilations[-1]) for side, cells in zip(grid, window, strict=True))
    return Tiling(grid, window, (padded[0], padded[1]), dilations)


def _window_side(side: int, nominal: int, dilation: int) -> int:
    """Return the window side with the least padding within half the nominal side of it; of equals, the closest.

    A window that reaches past the grid at the largest dilation would gain padding alone, so the nominal side is cut to
    that first.
    """
    longest = math.ceil(side / dilation)
    nominal = min(nominal, longest)
    candidates = range(nominal - nominal // 2, min(nominal + nominal // 2, longest) + 1)
    return min(candidates, key=lambda cells: (_round_up(side, cells * dilation), abs(cells - nominal), cells))


def _round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple


class AtrousAttention(InheritedAttention):
    """Exact attention within windows at each dilation, the levels weighed by their softmax mass and a learned gate.

    The levels share the donor's projections. A level's weight is the softmax over levels of the log-sum-exp of its
    scores plus a gate, linear in the token and zero at first. Without the gate that is one softmax over the keys of
    all levels together, a key counted as often as levels hold it: the pretrained attention on fewer keys, not a new
    operation. Prefix tokens are keys of every window, and attend to all tokens themselves.

    Source:
        After Ibtehaz et al. 2024, https://arxiv.org/abs/2403.04200 (gated windows at several dilations); the fusion by
        softmax mass is ours.
    """

    padding: Tensor | None

    def __init__(self, geometry: Geometry, options: AtrousOptions, donor: Attention) -> None:
        super().__init__(geometry, donor)
        self.options = options
        weight = donor.qkv.weight
        # Without the random start: it would be overwritten, and would shift everything drawn after this layer.
        gate = nn.Linear(geometry.dim, geometry.heads * options.levels, device="meta", dtype=weight.dtype)
        self.level_gate = gate.to_empty(device=weight.device)
        nn.init.zeros_(self.level_gate.weight)
        nn.init.zeros_(self.level_gate.bias)
        self._tile(weight.device)

    def resize(self, geometry: Geometry) -> None:
        """Tile another grid, in place; nothing learned depends on it."""
        super().resize(geometry)
        self._tile(self.level_gate.weight.device)

    def mix(self, x: Tensor) -> Tensor:
        prefix = self.geometry.prefix_tokens
        batch, count, _ = x.shape
        # q, k and v move into windows together, as heads of one tensor; the norms come after, each window's own.
        packed = self.qkv(x).reshape(batch, count, 3 * self.heads, self.head_dim).transpose(1, 2)
        levels = [self._mix_level(packed[:, :, prefix:], level) for level in range(self.options.levels)]
        gate = self.level_gate(x[:, prefix:]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        masses = torch.cat([mass for _, mass in levels], dim=-1) + gate  # (batch, heads, patches, levels)
        if not prefix:
            return _joined([values for values, _ in levels], masses)
        q, k, v = packed.chunk(3, dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        # Keys of every window: their scores are computed once, and counted with the gates of all levels.
        weights, mass = _softmax_and_mass(q[:, :, prefix:] * self.scale @ k[:, :, :prefix].mT)
        weights = F.dropout(weights, self.dropout, self.training)
        masses = torch.cat([masses, mass + _log_sum_exp(gate)], dim=-1)
        patches = _joined([*(values for values, _ in levels), weights @ v[:, :, :prefix]], masses)
        # Joined token by token, as both lie in memory and as the output projection reads them.
        own = self.attend(q[:, :, :prefix], k, v)
        return torch.cat([own.transpose(1, 2), patches.transpose(1, 2)], dim=1).transpose(1, 2)

    def _mix_level(self, packed: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return the patches' values mixed within the windows of one level, and the log of their softmax mass.

        Args:
            packed: q, k and v of the patches, `(batch, 3 * heads, patches, head_dim)`, before their norms.
            level: Index of the dilation.

        Returns:
            `(batch, heads, patches, head_dim)` and `(batch, heads, patches, 1)`.
        """
        dilation = self.tiling.dilations[level]
        q, k, v = into_windows(packed, self.tiling, dilation).chunk(3, dim=1)
        scores = (self.q_norm(q) * self.scale) @ self.k_norm(k).mT
        if self.padding is not None:
            scores = scores + self.padding[level]
        weights, mass = _softmax_and_mass(scores)
        weights = F.dropout(weights, self.dropout, self.training)
        return out_of_windows(weights @ v, self.tiling, dilation), out_of_windows(mass, self.tiling, dilation)

    def _tile(self, device: torch.device) -> None:
        self.tiling = tiling_of(self.geometry.grid, self.options)
        padding = None
        if self.tiling.padded != self.tiling.grid:
            scores = torch.zeros(1, 1, self.geometry.patches, 1)
            levels = [into_windows(scores, self.tiling, dilation, PADDED_SCORE) for dilation in self.tiling.dilations]
            padding = torch.cat(levels)[:, 0, :, None, :, 0].to(device)  # (levels, windows, 1, area)
        # Not persistent: it follows from the geometry, and a checkpoint must load at any resolution.
        self.register_buffer("padding", padding, persistent=False)


def _joined(parts: Sequence[Tensor], masses: Tensor) -> Tensor:
    """Return the values of all parts, `(batch, heads, patches, head_dim)`, each weighed by its share of the masses.

    Args:
        parts: As many values as masses.
        masses: `(batch, heads, patches, parts)`, logarithms.
    """
    shares = masses.softmax(dim=-1).to(parts[0].dtype).split(1, dim=-1)
    mixed: Tensor = shares[0] * parts[0]
    for share, values in zip(shares[1:], parts[1:], strict=True):
        mixed = torch.addcmul(mixed, share, values)
    return mixed


def _softmax_and_mass(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax over keys in the type of `scores`, and the log-sum-exp, `(..., 1)`, in single precision.

    TensorRT expands ReduceLogSumExp without subtracting the maximum, which overflows. Here it comes from what softmax
    computes anyway: its largest weight is exp(largest score - log-sum-exp).
    """
    # A level's weight is the exponential of a difference of masses: no place for half precision.
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights = wide.softmax(dim=-1)
    mass = wide.amax(dim=-1, keepdim=True) - weights.amax(dim=-1, keepdim=True).log()
    return weights.to(scores.dtype), mass


def _log_sum_exp(levels: Tensor) -> Tensor:
    """Return the log-sum-exp over the last dimension, which stays, in operators that every runtime computes safely.

    It is a mass, and in single precision as those of the levels.
    """
    wide = levels.to(torch.promote_types(levels.dtype, torch.float32))
    largest = wide.amax(dim=-1, keepdim=True)
    return largest + (wide - largest).exp().sum(dim=-1, keepdim=True).log()


def into_windows(tokens: Tensor, tiling: Tiling, dilation: int, padding: float = 0.0) -> Tensor:
    """Return `(batch, heads, windows, area, width)` from patches `(batch, heads, patches, width)`."""
    batch, heads, _, width = tokens.shape
    maps: Tensor = tokens.unflatten(2, tiling.grid)
    below, right = tiling.padded[0] - tiling.grid[0], tiling.padded[1] - tiling.grid[1]
    if below or right:
        maps = F.pad(maps, (0, 0, 0, right, 0, below), value=padding)
    blocks = maps.reshape(batch, heads, *tiling.blocks(dilation), width)
    # (batch, heads, row block, row phase, column block, column phase, window row, window column, width)
    blocks = blocks.permute(0, 1, 2, 4, 5, 7, 3, 6, 8)
    return blocks.reshape(batch, heads, tiling.windows, tiling.area, width)


def out_of_windows(windows: Tensor, tiling: Tiling, dilation: int) -> Tensor:
    """Return patches `(batch, heads, patches, width)`, laid out token by token: the inverse of `into_windows`."""
    batch, heads, _, _, width = windows.shape
    row_blocks, high, _, column_blocks, wide, _ = tiling.blocks(dilation)
    blocks = windows.reshape(batch, heads, row_blocks, dilation, column_blocks, dilation, high, wide, width)
    maps: Tensor = blocks.permute(0, 2, 6, 3, 4, 7, 5, 1, 8).reshape(batch, *tiling.padded, heads, width)
    if tiling.padded != tiling.grid:
        maps = maps[:, : tiling.grid[0], : tiling.grid[1]]
    return maps.flatten(1, 2).transpose(1, 2)


def resolve(options: AtrousOptions, geometry: Geometry) -> AtrousOptions:
    """Fix the nominal window at this grid.

    Raises:
        UsageError: A window or a dilation above the longer side of the grid.
    """
    window = half_grid_side(geometry.grid, 7) if options.window is None else options.window
    require_within_grid("window", window, geometry.grid)
    require_within_grid("dilation", 2 ** (options.levels - 1), geometry.grid)
    return replace(options, window=window)


def build(geometry: Geometry, options: AtrousOptions, donor: Attention) -> nn.Module:
    """Return a layer around the donor's modules with a new module, `level_gate`."""
    return AtrousAttention(geometry, options, donor)


def macs(geometry: Geometry, options: AtrousOptions) -> AttentionMacs:
    """Count the windows, padding included, the prefix tokens as keys and as queries of all tokens, and the gate."""
    tiling = tiling_of(geometry.grid, options)
    windows = 2 * options.levels * tiling.windows * tiling.area**2 * geometry.attention_dim
    prefix = 2 * geometry.prefix_tokens * (geometry.patches + geometry.tokens) * geometry.attention_dim
    gate = geometry.patches * geometry.dim * geometry.heads * options.levels
    return AttentionMacs(projection_macs(geometry), windows + prefix + gate)


VARIANT = AttentionVariant(
    name="atrous",
    summary="windows at dilations 1, 2, 4... fused by softmax mass and a learned gate",
    source="after Ibtehaz et al. 2024, https://arxiv.org/abs/2403.04200",
    build=build,
    macs=macs,
    options=AtrousOptions,
    resolve=resolve,
)
