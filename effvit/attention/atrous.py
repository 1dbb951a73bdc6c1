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
        batch, count, _ = x.shape
        packed = self.qkv(x).reshape(batch, count, 3 * self.heads, self.head_dim).transpose(1, 2)
        # q, k and v move into windows together, as heads of one tensor; the norms come after, each window's own.
        windows = into_windows(packed[:, :, prefix:], self.tiling)
        windows = windows.reshape(batch, 3, self.heads, *windows.shape[2:])
        tokens = packed.reshape(batch, 3, self.heads, count, self.head_dim)
        patches = self._mix_patches(windows, tokens[:, 1:, :, :prefix], self.level_gate(x[:, prefix:]))
        if not prefix:
            return patches
        q, k, v = tokens.unbind(1)
        return torch.cat([self.attend(self.q_norm(q[:, :, :prefix]), self.k_norm(k), v), patches], dim=2)

    def _mix_patches(self, windows: Tensor, shared: Tensor, gate: Tensor) -> Tensor:
        """Return the mixed values of the patches, `(batch, heads, patches, head_dim)`.

        Args:
            windows: q, k and v, `(batch, 3, heads, levels * windows, area, head_dim)`, before their norms.
            shared: k and v of the prefix tokens, keys of every window, `(batch, 2, heads, prefix, head_dim)`.
            gate: `(batch, patches, heads * levels)`.
        """
        q, keys_values = self.q_norm(windows[:, 0]), windows[:, 1:]
        if shared.shape[3]:
            copies = shared[:, :, :, None].expand(-1, -1, -1, windows.shape[3], -1, -1)
            keys_values = torch.cat([copies, keys_values], dim=4)
        k, v = self.k_norm(keys_values[:, 0]), keys_values[:, 1]
        # Softmax and mass in single precision: a level's weight is the exponential of a difference of scores.
        wide = torch.promote_types(v.dtype, torch.float32)
        scores = ((q * self.scale) @ k.mT).to(wide)
        if self.padding is not None:
            scores = scores + self.padding
        weights = scores.softmax(dim=-1)
        # The log-sum-exp from what softmax computed anyway: its largest weight is exp(largest score - log-sum-exp).
        # TensorRT expands ReduceLogSumExp without subtracting the maximum, which overflows.
        mass = scores.amax(dim=-1, keepdim=True) - weights.amax(dim=-1, keepdim=True).log()
        weights = F.dropout(weights.to(v.dtype), self.dropout, self.training)
        levels = out_of_windows(weights @ v, self.tiling)
        # to the shape of a mass: (batch, heads, levels, patches, 1)
        gate = gate.reshape(*gate.shape[:2], self.heads, -1).permute(0, 2, 3, 1)[..., None]
        shares = (torch.stack(out_of_windows(mass, self.tiling), dim=2) + gate).softmax(dim=2).to(v.dtype)
        mixed = shares[:, :, 0] * levels[0]
        for index, level in enumerate(levels[1:], start=1):
            mixed = mixed + shares[:, :, index] * level
        return mixed

    def _tile(self, device: torch.device) -> None:
        self.tiling = tiling_of(self.geometry.grid, self.options)
        padding = None
        if self.tiling.padded != self.tiling.grid:
            scores = torch.zeros(1, 1, self.geometry.patches, 1)
            scores = into_windows(scores, self.tiling, padding=PADDED_SCORE)[0, 0, :, None, :, 0]
            padding = F.pad(scores, (self.geometry.prefix_tokens, 0)).to(device)  # (levels * windows, 1, keys)
        # Not persistent: it follows from the geometry, and a checkpoint must load at any resolution.
        self.register_buffer("padding", padding, persistent=False)


def into_windows(tokens: Tensor, tiling: Tiling, padding: float = 0.0) -> Tensor:
    """Return `(batch, heads, levels * windows, area, width)` from patches `(batch, heads, patches, width)`."""
    batch, heads, _, width = tokens.shape
    maps = tokens.reshape(batch, heads, *tiling.grid, width)
    below, right = tiling.padded[0] - tiling.grid[0], tiling.padded[1] - tiling.grid[1]
    if below or right:
        maps = F.pad(maps, (0, 0, 0, right, 0, below), value=padding)
    levels = []
    for dilation in tiling.dilations:
        blocks = maps.reshape(batch, heads, *tiling.blocks(dilation), width)
        # (batch, heads, row block, row phase, column block, column phase, window row, window column, width)
        blocks = blocks.permute(0, 1, 2, 4, 5, 7, 3, 6, 8)
        levels.append(blocks.reshape(batch, heads, tiling.windows, tiling.area, width))
    return torch.cat(levels, dim=2) if len(levels) > 1 else levels[0]


def out_of_windows(windows: Tensor, tiling: Tiling) -> list[Tensor]:
    """Return each level's patches, `(batch, heads, patches, width)`: the inverse of `into_windows`, level by level."""
    batch, heads, _, _, width = windows.shape
    levels = []
    for index, dilation in enumerate(tiling.dilations):
        level = windows[:, :, index * tiling.windows : (index + 1) * tiling.windows]
        row_blocks, high, _, column_blocks, wide, _ = tiling.blocks(dilation)
        blocks = level.reshape(batch, heads, row_blocks, dilation, column_blocks, dilation, high, wide, width)
        maps = blocks.permute(0, 1, 2, 6, 3, 4, 7, 5, 8).reshape(batch, heads, *tiling.padded, width)
        levels.append(maps[:, :, : tiling.grid[0], : tiling.grid[1]].flatten(2, 3))
    return levels


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
    """Count the windows, padding included, the prefix tokens' own attention and the gate."""
    tiling = tiling_of(geometry.grid, options)
    keys = geometry.prefix_tokens + tiling.area
    windows = 2 * options.levels * tiling.windows * tiling.area * keys * geometry.attention_dim
    prefix = 2 * geometry.prefix_tokens * geometry.tokens * geometry.attention_dim
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
