from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attention_layers import donor_of, geometry_of, layer_of, tokens_of
from attention_references import block_average
from torch.nn import functional as F

from effvit.attention.base import PoolOptions, average_pooling
from effvit.attention.linformer import VARIANT, LinformerAttention


def linformer_of(grid: tuple[int, int], pool: int | None = None, prefix_tokens: int = 1) -> LinformerAttention:
    layer = layer_of("linformer", geometry_of(grid, prefix_tokens), pool=pool)
    assert isinstance(layer, LinformerAttention)
    return layer


def smooth_deviation(cells: int, grid: tuple[int, int]) -> torch.Tensor:
    """Return what a row may have learned: a pattern of a third of the grid's resolution, the size of the pooling."""
    coarse = torch.randn(cells, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=grid, mode="bicubic").flatten(1) / (grid[0] * grid[1] / cells)


@pytest.mark.parametrize(
    ("grid", "cells"), [((14, 14), (7, 7)), ((24, 24), (7, 7)), ((5, 7), (3, 2)), ((3, 4), (3, 4))]
)
def test_pooling_averages_equal_areas(grid: tuple[int, int], cells: tuple[int, int]) -> None:
    # Both are float32 roundings of the same fractions.
    torch.testing.assert_close(average_pooling(grid, cells).double(), block_average(grid, cells), rtol=2e-7, atol=0)


def test_the_compression_starts_as_pooling() -> None:
    layer = linformer_of((14, 14))
    assert layer.compression.requires_grad
    torch.testing.assert_close(layer.compression.double(), block_average((14, 14), (7, 7)), rtol=2e-7, atol=0)


def test_identity_compression_equals_exact_attention() -> None:
    geometry = geometry_of((5, 4), 2)
    exact = donor_of(geometry)
    layer = layer_of("linformer", geometry, donor_of(geometry), pool=5)
    x = tokens_of(geometry)
    # The same sums in another order: float32 rounding.
    torch.testing.assert_close(layer(x), exact(x), rtol=1e-5, atol=1e-5)


def test_compressing_first_equals_projecting_first_when_rows_sum_to_one() -> None:
    geometry = geometry_of((6, 6), 1)
    layer = linformer_of((6, 6)).double()
    with torch.no_grad():
        noise = torch.randn_like(layer.compression)
        layer.compression.add_(noise - noise.mean(dim=1, keepdim=True))
    x = tokens_of(geometry).double()
    q, k, v = layer.project_qkv(x)
    kept = torch.block_diag(torch.eye(1, dtype=torch.float64), layer.compression)
    projected_first = F.scaled_dot_product_attention(q, kept @ k, kept @ v)
    # Float64 rounding, and the pooling's rows sum to 1 within that of float32 (6e-8).
    torch.testing.assert_close(layer.mix(x), projected_first, rtol=0, atol=1e-6)


def test_prefix_tokens_stay_keys_of_their_own() -> None:
    layer = linformer_of((4, 4), prefix_tokens=2)
    x = tokens_of(layer.geometry).requires_grad_()
    weights = torch.autograd.grad(layer.mix(x)[:, :, 5].sum(), x)[0].abs().sum(dim=-1)
    assert (weights[:, :2] > weights[:, 2:].mean()).all()  # one of 6 keys each, where a patch is a quarter of one


@pytest.mark.parametrize(("before", "after"), [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((14, 14), (4, 9))])
def test_an_untrained_compression_resizes_to_the_pooling_of_the_new_grid(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    layer = linformer_of(before)
    layer.resize(geometry_of(after))
    cells = min(7, after[0]), min(7, after[1])
    # float32 rounding of weights of at most 1
    torch.testing.assert_close(layer.compression.double(), block_average(after, cells), rtol=0, atol=1e-7)


@pytest.mark.parametrize("after", [(24, 24), (10, 17), (32, 32)])
def test_resizing_keeps_the_sum_of_every_row(after: tuple[int, int]) -> None:
    layer = linformer_of((14, 14))
    with torch.no_grad():
        layer.compression.add_(torch.randn_like(layer.compression) * 0.05)
    sums = layer.compression.detach().double().sum(dim=1)
    layer.resize(geometry_of(after))
    # Summed in float64; what remains is storing up to 1024 weights of at most 0.5 in float32, each off by up to 3e-8.
    torch.testing.assert_close(layer.compression.detach().double().sum(dim=1), sums, rtol=0, atol=1e-6)


def test_a_smooth_compression_survives_the_way_to_another_grid_and_back() -> None:
    layer = linformer_of((14, 14))
    with torch.no_grad():
        layer.compression.add_(smooth_deviation(49, (14, 14)))
    learned = layer.compression.detach() - average_pooling((14, 14), (7, 7))
    layer.resize(geometry_of((24, 24)))
    layer.resize(geometry_of((14, 14)))
    back = layer.compression.detach() - average_pooling((14, 14), (7, 7))
    # Bicubic interpolation and its smoothing on the way down take away a little of a pattern five patches wide.
    assert (back - learned).norm() < 0.1 * learned.norm()


def test_a_resized_compression_sees_a_smooth_image_as_before() -> None:
    layer = linformer_of((14, 14))
    coarse = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    small, large = (F.interpolate(coarse, size=side, mode="bicubic").reshape(-1) for side in (14, 24))
    pooled_small, pooled_large = average_pooling((14, 14), (7, 7)) @ small, average_pooling((24, 24), (7, 7)) @ large
    with torch.no_grad():
        layer.compression.add_(smooth_deviation(49, (14, 14)))
        learned_small = layer.compression @ small - pooled_small
        layer.resize(geometry_of((24, 24)))
        learned_large = layer.compression @ large - pooled_large
    # Sampling at 14 instead of 24 places costs patterns four and five patches wide a tenth at most; weights not made
    # smaller for smaller patches would be 2.9 times too large.
    assert (learned_large - learned_small).norm() < 0.1 * learned_small.norm()


def test_resizing_keeps_a_frozen_compression_frozen() -> None:
    layer = linformer_of((4, 4))
    layer.compression.requires_grad_(False)
    layer.resize(geometry_of((6, 6)))
    assert not layer.compression.requires_grad
    assert layer(tokens_of(geometry_of((6, 6)))).shape == (2, 37, 24)


def test_the_default_pool_is_fixed_at_the_trained_grid() -> None:
    assert VARIANT.resolve(PoolOptions(), geometry_of((14, 14))) == PoolOptions(pool=7)
    assert VARIANT.resolve(PoolOptions(), geometry_of((6, 9))) == PoolOptions(pool=3)


def test_macs_of_vit_small_are_those_of_the_formula() -> None:
    geometry = replace(geometry_of((14, 14)), dim=384, heads=6, head_dim=64)
    macs = VARIANT.macs(geometry, PoolOptions(pool=7))
    assert macs.projections == 2 * 384 * 384 * (197 + 50)
    assert macs.core == 49 * 196 * 384 + 2 * 197 * 50 * 384


def test_macs_of_vit_small_at_384_px_leave_the_tokens_unprojected() -> None:
    geometry = replace(geometry_of((24, 24)), dim=384, heads=6, head_dim=64)
    macs = VARIANT.macs(geometry, PoolOptions(pool=7))
    # k and v of 50 tokens, and these times the projections of q and of the output; then 300 columns for 577 tokens
    assert macs.projections == 2 * 50 * 384 * 384
    assert macs.core == 49 * 576 * 384 + 2 * 50 * 384 * 384 + 2 * 577 * 300 * 384
    with_norms = VARIANT.macs(replace(geometry, linear=False), PoolOptions(pool=7))
    assert with_norms.projections == 2 * 384 * 384 * (577 + 50)
