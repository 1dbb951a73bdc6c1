"""Attention between all tokens and few others without projecting the tokens: (x W) kᵀ = x (W kᵀ).

The projections are multiplied into the few keys and values, so neither the queries or keys of all tokens nor their
mixed values are ever made. With fewer keys than a head is wide that takes fewer multiply-accumulates, and what is left
to do for every token are two large products.
"""

from __future__ import annotations

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from effvit.attention.base import Geometry, InheritedAttention

Projection = tuple[Tensor, Tensor | None]
"""Weight, `(heads * head_dim, dim)`, and bias, `(heads * head_dim,)` or None, of q, k or v."""

# The additional products are small, and small products run at a lower rate, so a few MACs fewer are no gain in time: it
# keeps the projections at 197 tokens of width 384 with 50 keys (8 % fewer), and drops them at 577 (23 %).
WORTH_A_DETOUR = 0.85


def saves_projecting(geometry: Geometry, few: int) -> bool:
    """Return whether to leave the tokens unprojected: where that takes clearly fewer MACs than attending to `few`."""
    projected = 2 * geometry.tokens * geometry.attention_dim * (geometry.dim + few)
    return geometry.linear and unprojected_macs(geometry, few) < WORTH_A_DETOUR * projected


def unprojected_macs(geometry: Geometry, few: int) -> int:
    """Return the MACs of attention between all tokens and `few` others, in either direction.

    Two projections times the few vectors, and the products of both results with all tokens.
    """
    return 2 * few * geometry.attention_dim * geometry.dim + 2 * geometry.tokens * geometry.heads * few * geometry.dim


def is_linear(layer: Attention | InheritedAttention) -> bool:
    """Return whether nothing but matrix products is between a layer's input and its scores, and on the way out.

    No norm of q, k or the mixed values, no gate, no dropout of the weights.
    """
    between = (layer.q_norm, layer.k_norm, layer.norm)
    dropout = layer.attn_drop.p if isinstance(layer, Attention) else layer.dropout
    # timm's layer has had an output gate since 2026; older releases lack the attribute.
    plain = getattr(layer, "gate", None) is None and not dropout
    return plain and all(isinstance(module, nn.Identity) for module in between)


def attend_unprojected(x: Tensor, k: Tensor, v: Tensor, query: Projection, out: nn.Linear) -> Tensor:
    """Return attention of all tokens over few keys, projected by `out`, `(batch, tokens, dim)`.

    Args:
        x: `(batch, tokens, dim)`.
        k: `(batch, heads, keys, head_dim)`.
        v: As `k`.
        query: The projection to queries.
        out: The output projection.
    """
    weights = _weights_over(x, k, query)
    values = _times_own(v, out.weight.mT.unflatten(0, (k.shape[1], -1))).flatten(1, 2)  # (batch, heads * keys, dim)
    return _products(weights, values, out.bias)


def gather_unprojected(q: Tensor, x: Tensor, key: Projection, value: Projection) -> Tensor:
    """Return what few queries gather of all tokens, `(batch, heads, queries, head_dim)`.

    The bias of the keys adds the same to all scores of a query, which softmax divides out; that of the values is added
    in the end, since weights sum to 1.

    Args:
        q: `(batch, heads, queries, head_dim)`.
        x: `(batch, tokens, dim)`.
        key: The projection to keys.
        value: The projection to values.
    """
    heads = q.shape[1]
    (key_weight, _), (value_weight, value_bias) = key, value
    scores = _times_own(q * q.shape[-1] ** -0.5, key_weight.unflatten(0, (heads, -1))).flatten(1, 2) @ x.mT
    gathered = scores.softmax(dim=-1) @ x  # (batch, heads * queries, dim)
    v = _times_own(gathered.unflatten(1, (heads, -1)), value_weight.unflatten(0, (heads, -1)).mT)
    return v if value_bias is None else v + value_bias.reshape(heads, 1, -1).to(v.dtype)


def _weights_over(x: Tensor, k: Tensor, query: Projection) -> Tensor:
    """Return the weight of each key for each token, `(batch, tokens, heads * keys)`."""
    heads = k.shape[1]
    query_weight, query_bias = query
    scaled = k * k.shape[-1] ** -0.5
    keys = _times_own(scaled, query_weight.unflatten(0, (heads, -1))).flatten(1, 2)  # (batch, heads * keys, dim)
    bias = None
    if query_bias is not None:
        bias = (scaled * query_bias.reshape(heads, 1, -1)).sum(dim=-1).flatten(1)[:, None]
    weights: Tensor = _products(x, keys.mT, bias).unflatten(2, (heads, -1)).softmax(dim=-1)
    return weights.flatten(2)


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
