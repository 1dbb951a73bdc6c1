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
    `linear` says that the layer's projections may be multiplied into each other: see `is_linear`.
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
    what would vanish if mixing tokens were free. A donor's output gate is in neither: no mechanism changes what it
    costs, so `cost_of` adds it.
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


def is_linear(layer: nn.Module) -> bool:
    """Return whether nothing but matrix products is between a layer's input and its scores, and on the way out.

    No norm of q, k or the mixed values, no gate, no dropout of the weights.
    """
    between = (layer.q_norm, layer.k_norm, layer.norm)
    # timm's layer has had an output gate since 2026; its dropout is a module, ours a number.
    dropout = layer.attn_drop.p if isinstance(layer, Attention) else layer.dropout
    plain = getattr(layer, "gate", None) is None and not dropout
    return plain and all(isinstance(module, nn.Identity) for module in between)


# Its additional products are small, and small products run at a lower rate: with 8 % fewer MACs (197 tokens of width
# 384, 50 keys) a layer was slower, with 23 % (577 tokens) faster.
WORTH_A_DETOUR = 0.85


def unprojected_macs(geometry: Geometry, few: int) -> int:
    """Return the MACs of attention between all tokens and `few` others without projecting the tokens, both ways in.

    The two projections' slices times the few vectors, and the products of both results with all tokens.
    """
    return 2 * few * geometry.attention_dim * geometry.dim + 2 * geometry.tokens * geometry.heads * few * geometry.dim


def saves_projecting(geometry: Geometry, few: int) -> bool:
    """Return whether to leave the tokens unprojected: where that takes clearly fewer MACs than attending to `few`."""
    projected = 2 * geometry.tokens * geometry.attention_dim * (geometry.dim + few)
    return geometry.linear and unprojected_macs(geometry, few) < WORTH_A_DETOUR * projected


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
        q, k, v = self._split_heads(self.qkv(x), 3)
        return self.q_norm(q), self.k_norm(k), v

    def project_queries(self, x: Tensor) -> Tensor:
        """Return q alone, `(batch, heads, tokens, head_dim)`, with qk-norm applied."""
        width = self.heads * self.head_dim
        bias = self.qkv.bias
        (q,) = self._split_heads(F.linear(x, self.qkv.weight[:width], None if bias is None else bias[:width]), 1)
        normed: Tensor = self.q_norm(q)
        return normed

    def project_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return k and v alone, each `(batch, heads, tokens, head_dim)`, with qk-norm applied."""
        width = self.heads * self.head_dim
        bias = self.qkv.bias
        k, v = self._split_heads(F.linear(x, self.qkv.weight[width:], None if bias is None else bias[width:]), 2)
        return self.k_norm(k), v

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

    def attend_unprojected(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the layer's output from tokens that were not projected to queries, over few keys.

        (x W) kᵀ = x (W kᵀ), and the same on the way out: both projections are multiplied into the few keys and values,
        and neither queries nor mixed values are ever made. Only for layers that are linear.

        Args:
            x: `(batch, tokens, dim)`.
            k: `(batch, heads, keys, head_dim)`.
            v: As `k`.

        Returns:
            `(batch, tokens, dim)`.
        """
        query_weight, _, _ = self._weights_by_head(self.qkv.weight)
        scaled = k * self.scale
        keys = _times_own(scaled, query_weight).flatten(1, 2)  # (batch, heads * keys, dim)
        bias = None
        if self.qkv.bias is not None:
            query_bias, _, _ = self._weights_by_head(self.qkv.bias)
            bias = (scaled * query_bias[:, None]).sum(dim=-1).flatten(1)[:, None]
        scores = _products(x, keys.mT, bias)
        weights = scores.unflatten(2, (self.heads, -1)).softmax(dim=-1).flatten(2)  # (batch, tokens, heads * keys)
        values = _times_own(v, self.proj.weight.mT.unflatten(0, (self.heads, -1))).flatten(1, 2)
        out: Tensor = self.proj_drop(_products(weights, values, self.proj.bias))
        return out

    def gather_unprojected(self, q: Tensor, x: Tensor) -> Tensor:
        """Return what few queries gather of all tokens, `(batch, heads, queries, head_dim)`.

        As `attend_unprojected`, the other way round. The bias of the keys adds the same to all scores of a query, which
        softmax divides out; that of the values is added in the end, since weights sum to 1.

        Args:
            q: `(batch, heads, queries, head_dim)`.
            x: `(batch, tokens, dim)`.
        """
        _, key_weight, value_weight = self._weights_by_head(self.qkv.weight)
        scores = _times_own(q * self.scale, key_weight).flatten(1, 2) @ x.mT  # (batch, heads * queries, tokens)
        v = _times_own((scores.softmax(dim=-1) @ x).unflatten(1, (self.heads, -1)), value_weight.mT)
        if self.qkv.bias is None:
            return v
        _, _, value_bias = self._weights_by_head(self.qkv.bias)
        return v + value_bias[:, None].to(v.dtype)

    def _weights_by_head(self, packed: Tensor) -> tuple[Tensor, ...]:
        """Return weight or bias of q, k and v, each `(heads, head_dim, ...)`."""
        parts: tuple[Tensor, ...] = packed.unflatten(0, (3, self.heads, self.head_dim)).unbind(0)
        return parts

    def _split_heads(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        batch, tokens, _ = packed.shape
        # (parts, batch, heads, tokens, head_dim): timm packs q, k, v outermost, heads next
        return packed.reshape(batch, tokens, parts, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)


def _times_own(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Return the vectors of each head times the matrix of that head, `(batch, heads, count, columns)`.

    Args:
        vectors: `(batch, heads, count, rows)`.
        matrices: `(heads, rows, columns)`.
    """
    batch, _, count, _ = vectors.shape
    # One product a head, not one an image and head, for which the matrices would be copied.
    products = vectors.transpose(0, 1).flatten(1, 2) @ matrices
    by_image: Tensor = products.unflatten(1, (batch, count)).transpose(0, 1)
    return by_image


def _products(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """Return `left @ right` for every image, plus a bias that is broadcast; under autocast all in one type."""
    return left @ right if bias is None else torch.baddbmm(bias, left, right)


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
