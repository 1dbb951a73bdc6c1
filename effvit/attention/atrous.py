"""Atrous attention: windows at several dilations, fused by a learned gate, with the weights of one exact layer."""

from __future__ import annotations

import math
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
        q, k, v = self.project_qkv(x)
        patches = self._mix_patches(q[:, :, prefix:] * self.scale, k, v, self.level_gate(x[:, prefix:]))
        if not prefix:
            return patches
        # Joined token by token, as both lie in memory and as the output projection reads them.
        own = self.attend(q[:, :, :prefix], k, v)
        return torch.cat([own.transpose(1, 2), patches.transpose(1, 2)], dim=1).transpose(1, 2)

    def _mix_patches(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """Return the mixed values of the patches, `(batch, heads, patches, head_dim)`.

        Args:
            q: Scaled queries of the patches, `(batch, heads, patches, head_dim)`.
            k: Keys of all tokens, `(batch, heads, tokens, head_dim)`.
            v: As `k`.
            gate: `(batch, patches, heads * levels)`.
        """
        prefix = self.geometry.prefix_tokens
        # to the shape of the masses: (levels, batch, heads, patches, 1)
        gate = gate.reshape(*gate.shape[:2], self.heads, -1).permute(3, 0, 2, 1)[..., None]
        parts = [self._mix_level(q, k[:, :, prefix:], v[:, :, prefix:], level) for level in range(len(gate))]
        masses = [mass + bias for (_, mass), bias in zip(parts, gate.unbind(0), strict=True)]
        if prefix:
            # Keys of every window: their scores are computed once, and counted with the gates of all levels.
            weights, mass = _softmax_and_mass(q @ k[:, :, :prefix].mT)
            parts.append((weights @ v[:, :, :prefix], mass))
            masses.append(mass + _log_sum_exp(gate))
        shares = torch.stack(masses).softmax(dim=0).to(v.dtype)
        mixed = shares[0] * parts[0][0]
        for share, (values, _) in zip(shares[1:], parts[1:], strict=True):
            mixed = torch.addcmul(mixed, share, values)
        return mixed

    def _mix_level(self, q: Tensor, k: Tensor, v: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return the patches' values mixed within the windows of one level, and the log of their softmax mass."""
        dilation = self.tiling.dilations[level]
        q, k, v = (into_windows(tokens, self.tiling, dilation) for tokens in (q, k, v))
        scores = q @ k.mT
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
    """Return the log-sum-exp over the first dimension, in operators that every runtime computes safely."""
    largest = levels.amax(dim=0)
    return largest + (levels - largest).exp().sum(dim=0).log()


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
    patches: Tensor = maps[:, : tiling.grid[0], : tiling.grid[1]].flatten(1, 2).transpose(1, 2)
    return patches


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
