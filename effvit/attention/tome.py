"""Token merging: in every block the most alike patches become one, so attention and MLP run on ever fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.attention.base import (
    AttentionMacs,
    AttentionVariant,
    Geometry,
    InheritedAttention,
    Merging,
    projection_macs,
)
from effvit.errors import UnsupportedError, UsageError


@dataclass(frozen=True, slots=True)
class TomeOptions:
    """`rate` is the share of the image's patches that every block merges away, at most half of those left.

    The paper fixes a number of patches; a share keeps its meaning at every resolution. A sixteenth merges 12 of 196 in
    a block and leaves a quarter after twelve blocks.

    Raises:
        UsageError: A rate outside 0 to 0.5.
    """

    rate: float = 0.0625

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 0.5:
            raise UsageError(f"rate must lie above 0 and up to 0.5, not {self.rate}", "choose a share such as 0.0625")


class MergingAttention(InheritedAttention):
    """Exact attention over tokens of which each may stand for several patches.

    Merging itself is between attention and MLP, thus the work of `MergingBlocks`; the layer alone is exact attention.
    """

    def __init__(self, geometry: Geometry, options: TomeOptions, donor: Attention) -> None:
        super().__init__(geometry, donor)
        self.options = options

    def mix(self, x: Tensor) -> Tensor:
        return self.attend(*self.project_qkv(x))

    def attend_merged(self, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the layer's output and the keys averaged over heads.

        Args:
            x: `(batch, tokens, dim)`.
            sizes: How many patches each token stands for, `(batch, tokens)`; None: one each.

        Returns:
            `(batch, tokens, dim)` and `(batch, tokens, head_dim)`.

        Source:
            Bolya et al. 2023, equation 1 (proportional attention)
        """
        q, k, v = self.project_qkv(x)
        # A key of size s counts as s keys: its exponential times s, its score plus log s.
        bias = None if sizes is None else sizes.log().to(q.dtype)[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return self.project_out(mixed, x), k.mean(dim=1)


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of the image's patches.

    `sizes` `(batch, tokens)`, never of half precision, is how many patches each token stands for, and 1 for prefix
    tokens; `places` `(batch,
    image patches)` is where, among the patches that are left, each patch of the image went.
    """

    sizes: Tensor
    places: Tensor


class MergingBlocks(nn.Sequential):
    """A model's blocks, of which some merge tokens; the output has all tokens again, copies where they were merged.

    With the copies every kind of head works as before: an average over them weighs each token by its size.

    Source:
        Bolya et al. 2023, section 3, https://arxiv.org/abs/2210.09461
    """

    def forward(self, x: Tensor) -> Tensor:
        merged = None
        prefix = 0
        for block in self:
            layer = block.get_submodule("attn")
            if isinstance(layer, MergingAttention):
                prefix = layer.geometry.prefix_tokens
                x, merged = merging_block(block, layer, x, merged)
            else:
                x = block(x)
        return x if merged is None else _all_patches(x, merged, prefix)


def merging_block(block: nn.Module, layer: MergingAttention, x: Tensor, merged: Merged | None) -> tuple[Tensor, Merged]:
    """Run a block, merging between attention and MLP; return its tokens and what became of the patches."""
    part = block.get_submodule
    attended, keys = layer.attend_merged(part("norm1")(x), None if merged is None else merged.sizes)
    x = x + part("drop_path1")(part("ls1")(attended))
    geometry = layer.geometry
    if merged is None:
        sizes = x.new_ones(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32))
        merged = Merged(sizes, torch.arange(geometry.patches, device=x.device).expand(x.shape[0], -1))
    patches = x.shape[1] - geometry.prefix_tokens
    x, merged = merge(x, keys, merged, geometry.prefix_tokens, merged_patches(patches, geometry, layer.options))
    return x + part("drop_path2")(part("ls2")(part("mlp")(part("norm2")(x)))), merged


def merge(x: Tensor, keys: Tensor, merged: Merged, prefix: int, count: int) -> tuple[Tensor, Merged]:
    """Merge `count` of the patches into those most like them: bipartite soft matching.

    The patches are dealt into two sets in turn. Each of the first has its most similar one in the second, by the
    cosine of their keys; the `count` most similar pairs become one token, the mean weighed by size.

    Args:
        x: `(batch, tokens, dim)`, the first `prefix` of which stay as they are.
        keys: `(batch, tokens, head_dim)`.

    Returns:
        `(batch, tokens - count, dim)`: prefix, patches of the first set that were left alone, patches of the second.

    Source:
        Bolya et al. 2023, section 3 and appendix D
    """
    if count == 0:
        return x, merged
    # Sums and cosines in single precision: sizes and rankings do not survive the rounding of a half.
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(device_type=x.device.type, enabled=False):
        direction = F.normalize(keys[:, prefix:].detach().to(wide), dim=-1)
        likeness, partner = (direction[:, 0::2] @ direction[:, 1::2].mT).max(dim=-1)  # (batch, first set)
        order = likeness.argsort(dim=-1, descending=True)
        sizes = merged.sizes[:, prefix:, None]
        weighed = torch.cat([x[:, prefix:].to(wide) * sizes, sizes], dim=-1)  # (batch, patches, dim + 1)
        first = _gathered(weighed[:, 0::2], order)
        second = weighed[:, 1::2]
        chosen = partner.gather(1, order[:, :count])
        # The sums as a matrix product: adding in place to scattered rows is where runtimes differ and lose time.
        columns = torch.arange(second.shape[1], device=x.device)
        assigned = (columns[:, None] == chosen[:, None, :]).to(wide)  # (batch, second set, count)
        weighed = torch.cat([first[:, count:], second + assigned @ first[:, :count]], dim=1)
    patches = (weighed[..., :-1] / weighed[..., -1:]).to(x.dtype)
    # Detached: sizes are counts, and a bias that asks for gradients would rule fused attention out.
    sizes = torch.cat([merged.sizes[:, :prefix], weighed[..., -1].detach()], dim=1)
    places = _destinations(order, partner, columns, count).gather(1, merged.places)
    return torch.cat([x[:, :prefix], patches], dim=1), Merged(sizes, places)


def _destinations(order: Tensor, partner: Tensor, columns: Tensor, count: int) -> Tensor:
    """Return where each patch goes, `(batch, patches)`; `count` of the first set go where their partners go."""
    kept = order.shape[1] - count
    # Sorting an order gives its inverse; as floats, since TensorRT sorts no long integers.
    rank = order.to(torch.float32).argsort(dim=-1)
    first = torch.where(rank < count, kept + partner, rank - count)
    second = (kept + columns).expand(order.shape[0], -1)
    # The sets were dealt in turn, so patch i is number i // 2 of one of them.
    index = torch.arange(order.shape[1] + len(columns), device=order.device)
    return torch.cat([first, second], dim=1).index_select(1, index // 2 + index % 2 * order.shape[1])


def _gathered(rows: Tensor, order: Tensor) -> Tensor:
    return rows.gather(1, order[..., None].expand(-1, -1, rows.shape[-1]))


def _all_patches(x: Tensor, merged: Merged, prefix: int) -> Tensor:
    """Return `(batch, prefix + image patches, dim)`: each patch of the image has the token it was merged into."""
    return torch.cat([x[:, :prefix], _gathered(x[:, prefix:], merged.places)], dim=1)


def merged_patches(patches: int, geometry: Geometry, options: TomeOptions) -> int:
    """Return how many of the `patches` that are left a block merges away."""
    rows, columns = geometry.grid
    return min(round(options.rate * rows * columns), patches // 2)


def assemble(blocks: nn.Sequential, layers: Sequence[int]) -> nn.Sequential:
    """Return the same blocks in a row that merges tokens from the first of `layers` on.

    Raises:
        UnsupportedError: A block is not a plain one, with attention and MLP one after the other.
        UsageError: A block after the first that merges does not: it would not know what its tokens stand for.
    """
    first = min(layers)
    if len(layers) != len(blocks) - first:
        raise UsageError(
            "token merging has to go on to the last block: other attention does not know what merged tokens stand for",
            f"write --layers {first}-{len(blocks) - 1}",
        )
    for index in layers:
        if type(blocks[index]) is not Block:
            raise UnsupportedError(
                f"tokens cannot be merged inside a {type(blocks[index]).__name__}", "choose a model with plain blocks"
            )
    return MergingBlocks(*blocks)


def build(geometry: Geometry, options: TomeOptions, donor: Attention) -> nn.Module:
    """Return a layer around the donor's modules; it has no parameters of its own."""
    return MergingAttention(geometry, options, donor)


def macs(geometry: Geometry, options: TomeOptions) -> AttentionMacs:
    """Count exact attention over the tokens that are left."""
    return AttentionMacs(projection_macs(geometry), 2 * geometry.tokens**2 * geometry.attention_dim)


def merging(geometry: Geometry, options: TomeOptions) -> Merging:
    """Count the similarities of both sets, and the sums of the patches that are merged."""
    first, second = (geometry.patches + 1) // 2, geometry.patches // 2
    count = merged_patches(geometry.patches, geometry, options)
    similarities = first * second * geometry.head_dim
    return Merging(count, similarities + second * count * (geometry.dim + 1) if count else 0)


VARIANT = AttentionVariant(
    name="tome",
    summary="exact attention; every block merges the patches most alike (token merging)",
    source="Bolya et al. 2023, section 3, https://arxiv.org/abs/2210.09461",
    build=build,
    macs=macs,
    options=TomeOptions,
    assemble=assemble,
    merging=merging,
)
