"""What every attention mechanism is made of: geometry, the variant value, and the layer around the mixing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.errors import UnsupportedError, UsageError


@dataclass(frozen=True, slots=True)
class Geometry:
    """The tokens one attention layer sees: `prefix_tokens`, then a `grid` = (rows, columns) of patches, row by row.

    Of the patches, `merged` were merged into others by the blocks before; what is left of them is no grid any more.
    `linear` says that the layer's projections may be multiplied into others: see `effvit/unprojected.py`.
    """

    dim: int
    heads: int
    head_dim: int
    prefix_tokens: int
    grid: tuple[int, int]
    merged: int = 0
    linear: bool = True

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1] - self.merged

    @property
    def tokens(self) -> int:
        return self.prefix_tokens + self.patches

    @property
    def attention_dim(self) -> int:
        """Width of q, k and v over all heads; timm allows it to differ from `dim`."""
        return self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class AttentionMacs:
    """Multiply-accumulates of one layer for one image.

    `projections` are the matrix products with learned `dim x dim` weights (q, k, v, output); `core` is all the rest:
    what would vanish if mixing tokens were free, and the products that leave tokens unprojected. A donor's output gate
    is in neither: no mechanism changes what it costs, so `cost_of` adds it.
    """

    projections: int
    core: int

    @property
    def total(self) -> int:
        return self.projections + self.core


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a variant that has none."""


def unchanged(options: Any, geometry: Geometry) -> Any:
    """Return `options` as they are: for variants whose defaults do not depend on the geometry."""
    return options


def same_blocks(blocks: nn.Sequential, layers: Sequence[int]) -> nn.Sequential:
    """Return `blocks` as they are: for variants that keep to their layer."""
    return blocks


@dataclass(frozen=True, slots=True)
class Merging:
    """What vanishes between a block's attention and MLP: `patches`, and the MACs of finding and joining them."""

    patches: int = 0
    macs: int = 0


def no_merging(geometry: Geometry, options: Any) -> Merging:
    """Return nothing merged: for variants that keep all tokens."""
    return Merging()


@dataclass(frozen=True, slots=True)
class AttentionVariant:
    """One attention mechanism as a value.

    `options` is a frozen dataclass type that validates itself (UsageError). `resolve(options, geometry)` fills in what
    depends on the geometry the model is trained at, so that the result means the same at every later resolution.
    `build(geometry, options, donor)` returns a layer `(batch, tokens, dim) -> (batch, tokens, dim)` that takes over the
    donor's modules under their own names; parameters it does not share with the donor are new.
    `macs(geometry, options)` counts one layer, one image.

    Two more are for mechanisms that change what flows from block to block. `assemble(blocks, layers)` returns the row
    of blocks to be used when those at the indices `layers` hold the variant, or refuses it (UsageError,
    UnsupportedError). `merging(geometry, options)` says what vanishes between the layer and its block's MLP.
    """

    name: str
    summary: str
    source: str
    build: Callable[[Geometry, Any, Attention], nn.Module]
    macs: Callable[[Geometry, Any], AttentionMacs]
    options: type[Any] = NoOptions
    resolve: Callable[[Any, Geometry], Any] = field(default=unchanged)
    assemble: Callable[[nn.Sequential, Sequence[int]], nn.Sequential] = field(default=same_blocks)
    merging: Callable[[Geometry, Any], Merging] = field(default=no_merging)
    exact: bool = False


def projection_macs(geometry: Geometry, key_tokens: int | None = None) -> int:
    """Return the MACs of q and output projection over all tokens, and of k and v over `key_tokens` (default: all)."""
    width = geometry.dim * geometry.attention_dim
    keys = geometry.tokens if key_tokens is None else key_tokens
    return 2 * width * geometry.tokens + 2 * width * keys


class InheritedAttention(nn.Module):
    """A timm attention layer with the mixing of tokens left open.

    It takes over the donor's modules (`qkv`, `q_norm`, `k_norm`, `norm`, `gate`, `proj`, `proj_drop`) under their own
    names, so a donor's weights load into it unchanged. Subclasses define `mix` and, if they hold anything that depends
    on the grid, `resize`.
    """

    def __init__(self, geometry: Geometry, donor: Attention) -> None:
        super().__init__()
        self.geometry = geometry
        self.heads = geometry.heads
        self.head_dim = geometry.head_dim
        self.scale = geometry.head_dim**-0.5
        self.dropout = float(donor.attn_drop.p)
        self.qkv = donor.qkv
        self.q_norm = donor.q_norm
        self.k_norm = donor.k_norm
        self.norm = donor.norm
        # timm's layer has had an output gate since 2026; older releases lack the attribute.
        self.gate: nn.Module | None = getattr(donor, "gate", None)
        self.proj = donor.proj
        self.proj_drop = donor.proj_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Mix tokens.

        Args:
            x: `(batch, tokens, dim)`, prefix tokens first.
            attn_mask: Must be None; timm's blocks pass it.
            is_causal: Must be False; timm's blocks pass it.

        Returns:
            `(batch, tokens, dim)`.

        Raises:
            UnsupportedError: A mask or causal order was requested.
        """
        if attn_mask is not None or is_causal:
            raise UnsupportedError(
                f"{type(self).__name__} has no place for an attention mask or causal order",
                "use softmax attention for masked inputs",
            )
        return self.transform(x)

    def transform(self, x: Tensor) -> Tensor:
        """Return the layer's output, `(batch, tokens, dim)`."""
        return self.project_out(self.mix(x), x)

    def mix(self, x: Tensor) -> Tensor:
        """Return the mixed values, `(batch, heads, tokens, head_dim)`, of tokens `x`, `(batch, tokens, dim)`."""
        raise TypeError(f"{type(self).__name__} does not define how tokens are mixed")

    def resize(self, geometry: Geometry) -> None:
        """Adapt to another grid, in place."""
        self.geometry = geometry

    def project_qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v, each `(batch, heads, tokens, head_dim)`, with qk-norm applied."""
        q, k, v = self.split_heads(self.qkv(x), 3)
        return self.q_norm(q), self.k_norm(k), v

    def project_apart(self, x: Tensor, few: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q of the tokens `x`, and k and v of other tokens, each as from `project_qkv`."""
        # Split once: the gradient of a slice is as large as the whole weight, for every slice again.
        query, key_value = self.split_projection(1, 2)
        (q,), (k, v) = self.split_heads(F.linear(x, *query), 1), self.split_heads(F.linear(few, *key_value), 2)
        return self.q_norm(q), self.k_norm(k), v

    def split_projection(self, *parts: int) -> list[tuple[Tensor, Tensor | None]]:
        """Return weight and bias of the joint projection in pieces, which are `parts` of q, k and v: (1, 2), say.

        Weights are `(part * heads * head_dim, dim)`, biases `(part * heads * head_dim,)` or None.
        """
        rows = [part * self.heads * self.head_dim for part in parts]
        biases = [None] * len(parts) if self.qkv.bias is None else self.qkv.bias.split(rows)
        return list(zip(self.qkv.weight.split(rows), biases, strict=True))

    def project_out(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Return the layer's output, `(batch, tokens, dim)`, from what `mix` returned and the layer's input."""
        mixed = self.norm(mixed.transpose(1, 2).flatten(2))  # (batch, tokens, heads * head_dim)
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        out: Tensor = self.proj_drop(self.proj(mixed))
        return out

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax attention of q over k, v; the numbers of queries and keys may differ."""
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)

    def split_heads(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Return each of the `parts` that were projected at once, `(batch, heads, tokens, head_dim)`."""
        batch, tokens, _ = packed.shape
        # (parts, batch, heads, tokens, head_dim): timm packs q, k, v outermost, heads next
        return packed.reshape(batch, tokens, parts, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)


def half_grid_side(grid: tuple[int, int], at_most: int) -> int:
    """Return the default side of a pooled grid: half the shorter side, rounded up, and never more than `at_most`."""
    return min(at_most, max(1, (min(grid) + 1) // 2))


def pooled_grid(pool: int | None, grid: tuple[int, int]) -> tuple[int, int]:
    """Return the (rows, columns) of a grid pooled to `pool` x `pool` cells, never more cells than patches on a side.

    None stands for the default at this grid: half its side and at most 7, the side that keeps 49 of the 196 patches of
    a 224 px image.
    """
    side = half_grid_side(grid, 7) if pool is None else pool
    return min(side, grid[0]), min(side, grid[1])


def require_at_least(name: str, value: int, least: int) -> None:
    """Refuse an option below its least value.

    Raises:
        UsageError: `value` is below `least`.
    """
    if value < least:
        raise UsageError(f"{name} must be at least {least}, not {value}", f"choose a {name} of {least} or more")


def require_within_grid(name: str, side: int, grid: tuple[int, int]) -> None:
    """Refuse a side that exceeds both sides of the grid: it would be cut down without a word.

    Raises:
        UsageError: `side` is above the longer side of the grid.
    """
    if side > max(grid):
        raise UsageError(
            f"{name} ({side}) exceeds the grid of {grid[0]} x {grid[1]} patches",
            f"choose a {name} of at most {max(grid)}",
        )


def average_pooling(grid: tuple[int, int], pooled: tuple[int, int]) -> Tensor:
    """Return the matrix that averages a grid over equal areas, `(pooled patches, patches)`, float32.

    Where the grid does not divide, a border token counts for the fraction of its area that lies in the cell. So every
    row sums to 1, every token weighs the same over all rows, and no cell size has to be corrected for; and it is one
    constant matrix product, which every runtime can run, unlike adaptive pooling.
    """
    rows = _interval_overlap(grid[0], pooled[0])
    columns = _interval_overlap(grid[1], pooled[1])
    return torch.kron(rows, columns).float()


def _interval_overlap(size: int, cells: int) -> Tensor:
    """Return the share of each of `cells` equal intervals that each of `size` steps fills, `(cells, size)`, float64."""
    edges = torch.linspace(0, size, cells + 1, dtype=torch.float64)
    starts = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)
    return overlap.clamp(min=0) * (cells / size)


def pooled_tokens(geometry: Geometry, pool: int | None) -> int:
    """Return how many tokens are left where patches are pooled, prefix tokens included."""
    rows, columns = pooled_grid(pool, geometry.grid)
    return geometry.prefix_tokens + rows * columns


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """`pool` is the side of the grid that patches are pooled to; None: half the grid's side, at most 7.

    Raises:
        UsageError: A pool below 1.
    """

    pool: int | None = None

    def __post_init__(self) -> None:
        if self.pool is not None:
            require_at_least("pool", self.pool, 1)


def landmark_pooling(geometry: Geometry, pool: int | None) -> Tensor:
    """Return the matrix that makes landmarks of all tokens, `(landmarks, tokens)`, float32.

    Prefix tokens are landmarks of their own, before those that average the patches. One matrix for all tokens saves
    slicing and joining what it is applied to.
    """
    pooling = average_pooling(geometry.grid, pooled_grid(pool, geometry.grid))
    placed: Tensor = torch.block_diag(torch.eye(geometry.prefix_tokens), pooling)
    return placed


def resolve_pool(options: Any, geometry: Geometry) -> Any:
    """Fix the `pool` of `options` at this grid: half its side, at most 7, where it is None.

    Raises:
        UsageError: A pool above the longer side of the grid.
    """
    pool = max(pooled_grid(None, geometry.grid)) if options.pool is None else options.pool
    require_within_grid("pool", pool, geometry.grid)
    return replace(options, pool=pool)


def linear_state(key_features: Tensor, v: Tensor, floor: float) -> Tensor:
    """Return what all queries need to know of keys and values, `(batch, heads, features, head_dim + 1)`.

    Making it before the features of the queries, from key features that are kept nowhere else, halves the memory.

    Args:
        key_features: `(batch, heads, tokens, features)`, not negative.
        v: `(batch, heads, tokens, head_dim)`.
        floor: What every key feature is raised by, so that a query whose features meet no key divides by something:
            it then returns the mean value.

    Source:
        Katharopoulos et al. 2020, equation 5, https://arxiv.org/abs/2006.16236
    """
    extended = F.pad(v, (0, 1), value=1.0)  # the column of ones collects the denominator in the same product
    # Means and not sums, or the state would grow with the resolution. Adding the floor here, times the mean value,
    # equals adding it to every feature, without another pass over tokens x features.
    return key_features.mT @ extended / v.shape[-2] + floor * extended.mean(dim=-2, keepdim=True)


def read_state(query_features: Tensor, state: Tensor) -> Tensor:
    """Return the values weighed by the products of features, `(batch, heads, tokens, head_dim)`.

    Args:
        query_features: `(batch, heads, tokens, features)`, not negative; a factor of a token's own divides out.
        state: From `linear_state`.
    """
    weighted: Tensor = query_features @ state  # (batch, heads, tokens, head_dim + 1)
    mixed: Tensor = weighted[..., :-1] / weighted[..., -1:]
    return mixed
