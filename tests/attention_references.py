"""The attention mechanisms in float64, from their papers: dense matrices and loops over images, heads and tokens.

`REFERENCES[name](image)` mixes the tokens of one image and returns `(heads, tokens, head_dim)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from effvit.attention.atrous import tiling_of
from effvit.attention.base import Geometry

State = dict[str, Tensor]


@dataclass(frozen=True)
class Image:
    """What a layer knows of one image: q, k, v of `(heads, tokens, head_dim)`, and its input x of `(tokens, dim)`."""

    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor
    state: State
    geometry: Geometry
    options: Any


def reference_layer(name: str, state: State, x: Tensor, geometry: Geometry, options: Any) -> Tensor:
    """Return a whole layer's output, `(batch, tokens, dim)`; `state` and `x` are float64."""
    images = []
    for image in x:
        q, k, v = (_heads(state, image, part, geometry) for part in range(3))
        q, k = _norm(state, "q_norm", q), _norm(state, "k_norm", k)
        mixed = REFERENCES[name](Image(q, k, v, image, state, geometry, options))
        mixed = _norm(state, "norm", torch.cat(list(mixed), dim=-1))
        if "gate.weight" in state:
            mixed = mixed / (1 + torch.exp(-(image @ state["gate.weight"].T + state.get("gate.bias", 0))))
        images.append(mixed @ state["proj.weight"].T + state["proj.bias"])
    return torch.stack(images)


def block_average(grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Return the pooling matrix `(cells, patches)`: every patch is split into cells[0] x cells[1] equal pieces."""
    patches = torch.eye(math.prod(grid), dtype=torch.float64).reshape(-1, *grid)
    pieces = patches.repeat_interleave(cells[0], dim=1).repeat_interleave(cells[1], dim=2)
    pooled = [
        pieces[:, row * grid[0] : (row + 1) * grid[0], column * grid[1] : (column + 1) * grid[1]].mean(dim=(1, 2))
        for row in range(cells[0])
        for column in range(cells[1])
    ]
    return torch.stack(pooled).float().double()  # the layers hold their pooling in float32


def levels_of_pair(query: int, key: int, geometry: Geometry, window: tuple[int, int], levels: int) -> list[int]:
    """Return the levels in which two patches share a window."""
    shared = []
    for level in range(levels):
        places = []
        for patch in (query, key):
            row, column = divmod(patch, geometry.grid[1])
            dilation = 2**level
            places.append(
                (row // (window[0] * dilation), row % dilation, column // (window[1] * dilation), column % dilation)
            )
        if places[0] == places[1]:
            shared.append(level)
    return shared


def _heads(state: State, image: Tensor, part: int, geometry: Geometry) -> Tensor:
    rows = slice(part * geometry.attention_dim, (part + 1) * geometry.attention_dim)
    bias = state["qkv.bias"][rows] if "qkv.bias" in state else 0
    projected = image @ state["qkv.weight"][rows].T + bias
    return torch.stack(projected.split(geometry.head_dim, dim=-1))


def _norm(state: State, name: str, value: Tensor) -> Tensor:
    if f"{name}.weight" not in state:
        return value
    return F.layer_norm(value, value.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.T / math.sqrt(q.shape[-1]), dim=-1) @ v


def _exact(image: Image) -> Tensor:
    return torch.stack([_softmax_attention(*head) for head in zip(image.q, image.k, image.v, strict=True)])


def _linformer(image: Image) -> Tensor:
    state, geometry = image.state, image.geometry
    kept = torch.block_diag(torch.eye(geometry.prefix_tokens, dtype=torch.float64), state["compression"])
    inputs = kept @ image.x
    keys = _norm(state, "k_norm", _heads(state, inputs, 1, geometry))
    values = _heads(state, inputs, 2, geometry)
    return torch.stack([_softmax_attention(*head) for head in zip(image.q, keys, values, strict=True)])


def _performer(image: Image) -> Tensor:
    projection = image.state["projection"]
    heads = []
    for queries, keys, values in zip(image.q, image.k - image.k.mean(dim=1, keepdim=True), image.v, strict=True):
        query_features = _positive_features(queries, projection)
        key_features = _positive_features(keys, projection)
        kernel = query_features @ (key_features + 1e-6 * key_features.detach().max()).T
        heads.append(kernel @ values / kernel.sum(dim=1, keepdim=True))
    return torch.stack(heads)


def _positive_features(tokens: Tensor, projection: Tensor) -> Tensor:
    tokens = tokens / tokens.shape[-1] ** 0.25
    return torch.exp(tokens @ projection.T - (tokens**2).sum(dim=1, keepdim=True) / 2) / math.sqrt(len(projection))


def _nystromformer(image: Image) -> Tensor:
    geometry, options = image.geometry, image.options
    cells = min(options.pool, geometry.grid[0]), min(options.pool, geometry.grid[1])
    unit = torch.eye(geometry.prefix_tokens, dtype=torch.float64)
    pooling = torch.block_diag(unit, block_average(geometry.grid, cells))
    scale = 1 / math.sqrt(geometry.head_dim)
    heads = []
    for queries, keys, values in zip(image.q, image.k, image.v, strict=True):
        first = torch.softmax(queries @ (pooling @ keys).T * scale, dim=-1)
        middle = torch.softmax(pooling @ queries @ (pooling @ keys).T * scale, dim=-1)
        last = torch.softmax(pooling @ queries @ keys.T * scale, dim=-1)
        inverse = middle.T / (middle.abs().sum(dim=0).max() * middle.abs().sum(dim=1).max())
        unit = torch.eye(len(middle), dtype=torch.float64)
        for _ in range(options.iterations):
            step = middle @ inverse
            inverse = inverse @ (13 * unit - step @ (15 * unit - step @ (7 * unit - step))) / 4
        heads.append(first @ inverse @ last @ values)
    return torch.stack(heads)


def _atrous(image: Image) -> Tensor:
    """One dense softmax: a key's score gets the log of the summed gates of the levels that hold it."""
    geometry, state = image.geometry, image.state
    gate = image.x @ state["level_gate.weight"].T + state["level_gate.bias"]
    gate = gate.reshape(geometry.tokens, geometry.heads, -1)
    levels = _levels_by_pair(image)
    heads = []
    for head in range(geometry.heads):
        bias = torch.full((geometry.tokens, geometry.tokens), -math.inf, dtype=torch.float64)
        bias[: geometry.prefix_tokens] = 0
        rows = list(bias)
        for query in range(geometry.prefix_tokens, geometry.tokens):
            outside = rows[query][0]
            rows[query] = torch.stack(
                [torch.logsumexp(gate[query, head, held], 0) if held else outside for held in levels[query]]
            )
        scores = image.q[head] @ image.k[head].T / math.sqrt(geometry.head_dim) + torch.stack(rows)
        heads.append(torch.softmax(scores, dim=-1) @ image.v[head])
    return torch.stack(heads)


def _levels_by_pair(image: Image) -> list[list[list[int]]]:
    """Return the levels that hold each key for each query; prefix tokens are held by all."""
    geometry, options = image.geometry, image.options
    prefix, tokens = geometry.prefix_tokens, geometry.tokens
    window = tiling_of(geometry.grid, options).window  # the choice of the side has tests of its own
    every_level = list(range(options.levels))
    return [
        [
            every_level
            if min(query, key) < prefix
            else levels_of_pair(query - prefix, key - prefix, geometry, window, options.levels)
            for key in range(tokens)
        ]
        for query in range(tokens)
    ]


def _agent(image: Image) -> Tensor:
    """One dense tokens x tokens matrix, and the convolution as a sum of shifted images."""
    geometry, prefix = image.geometry, image.geometry.prefix_tokens
    cells = min(image.options.pool, geometry.grid[0]), min(image.options.pool, geometry.grid[1])
    pooling = block_average(geometry.grid, cells)
    weights = image.state["value_convolution"].reshape(geometry.heads, geometry.head_dim, 3, 3)
    heads = []
    for head, (queries, keys, values) in enumerate(zip(image.q, image.k, image.v, strict=True)):
        agents = torch.cat([queries[:prefix], pooling @ queries[prefix:]])
        handing_out = torch.softmax(queries @ agents.T / math.sqrt(geometry.head_dim), dim=-1)
        gathering = torch.softmax(agents @ keys.T / math.sqrt(geometry.head_dim), dim=-1)
        mixed = list(handing_out @ gathering @ values)
        for patch in range(geometry.patches):
            for neighbour, (row, column) in _neighbours(patch, geometry.grid).items():
                weighted = weights[head, :, row, column] * values[prefix + neighbour]
                mixed[prefix + patch] = mixed[prefix + patch] + weighted
        heads.append(torch.stack(mixed))
    return torch.stack(heads)


def _neighbours(patch: int, grid: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Return the patches of the 3 x 3 square around a patch, and each one's (row, column) in it."""
    row, column = divmod(patch, grid[1])
    return {
        (row + down - 1) * grid[1] + column + right - 1: (down, right)
        for down in range(3)
        for right in range(3)
        if 0 <= row + down - 1 < grid[0] and 0 <= column + right - 1 < grid[1]
    }


def _sra(image: Image) -> Tensor:
    state, geometry, side = image.state, image.geometry, image.options.reduction
    prefix = geometry.prefix_tokens
    inputs = torch.stack([*image.x[:prefix], *_merged(image.x[prefix:], state["reduction_weight"], geometry, side)])
    keys = _norm(state, "k_norm", _heads(state, inputs, 1, geometry))
    values = _heads(state, inputs, 2, geometry)
    return torch.stack([_softmax_attention(*head) for head in zip(image.q, keys, values, strict=True)])


def _merged(patches: Tensor, weight: Tensor, geometry: Geometry, side: int) -> list[Tensor]:
    """Return the weighted sum of the patches of each cell, cells in rows, as if a cell at the border were whole."""
    cells: dict[tuple[int, int], list[Tensor]] = {}
    for index, patch in enumerate(patches):
        row, column = divmod(index, geometry.grid[1])
        weighted = weight[:, 0, row % side, column % side] * patch
        cells.setdefault((row // side, column // side), []).append(weighted)
    return [torch.stack(cells[place]).mean(dim=0) * side**2 for place in sorted(cells)]


def _hedgehog(image: Image) -> Tensor:
    heads = []
    for head, (queries, keys, values) in enumerate(zip(image.q, image.k, image.v, strict=True)):
        query_features = _signed_features(queries, image.state["query_map"][head])
        key_features = _signed_features(keys, image.state["key_map"][head])
        kernel = query_features @ (key_features + 1e-12).T
        heads.append(kernel / kernel.sum(dim=1, keepdim=True) @ values)
    return torch.stack(heads)


def _signed_features(tokens: Tensor, mapping: Tensor) -> Tensor:
    exponents = tokens / tokens.shape[-1] ** 0.25 @ mapping
    halves = [torch.exp(sign * exponents) for sign in (1, -1)]
    return torch.cat([half / half.sum(dim=1, keepdim=True) for half in halves], dim=1)


REFERENCES = {
    "softmax": _exact,
    "linformer": _linformer,
    "performer": _performer,
    "nystromformer": _nystromformer,
    "atrous": _atrous,
    "agent": _agent,
    "sra": _sra,
    "hedgehog": _hedgehog,
    "tome": _exact,  # merging is between the blocks: test_tome.py
}
