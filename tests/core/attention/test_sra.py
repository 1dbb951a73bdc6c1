from __future__ import annotations

import pytest
import torch
from attention_layers import donor_of, geometry_of, layer_of, tokens_of

from effvit.attention.sra import SpatialReductionAttention, reduced_grid


def sra_of(grid: tuple[int, int], reduction: int = 2, prefix_tokens: int = 1) -> SpatialReductionAttention:
    layer = layer_of("sra", geometry_of(grid, prefix_tokens), reduction=reduction)
    assert isinstance(layer, SpatialReductionAttention)
    return layer


def test_a_reduction_of_one_is_exact_attention() -> None:
    geometry = geometry_of((5, 4), 2)
    exact = donor_of(geometry)
    x = tokens_of(geometry)
    # The same sums in another order: float32 rounding.
    torch.testing.assert_close(sra_of((5, 4), 1, 2)(x), exact(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("side", "reduction", "pool"), [(6, 2, 3), (6, 3, 2), (8, 4, 2)])
def test_it_starts_as_pooling_linformer_where_the_grid_divides(side: int, reduction: int, pool: int) -> None:
    geometry = geometry_of((side, side))
    x = tokens_of(geometry)
    # The same sums in another order: float32 rounding.
    pooled = layer_of("linformer", geometry, pool=pool)(x)
    torch.testing.assert_close(sra_of((side, side), reduction)(x), pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", [2, 3, 4, 7])
@pytest.mark.parametrize("grid", [(7, 7), (5, 7), (1, 7), (14, 9)])
def test_every_cell_starts_as_the_mean_of_its_patches(grid: tuple[int, int], reduction: int) -> None:
    layer = sra_of(grid, reduction)
    rows, columns = grid
    patches = torch.randn(2, rows * columns, 24, generator=torch.Generator().manual_seed(0))
    maps = patches.reshape(2, rows, columns, 24)
    means = [
        maps[:, top : top + reduction, left : left + reduction].mean(dim=(1, 2))
        for top in range(0, rows, reduction)
        for left in range(0, columns, reduction)
    ]
    # Means of up to 49 numbers of about 1 in float32
    torch.testing.assert_close(layer.reduce(patches), torch.stack(means, dim=1), rtol=0, atol=2e-6)


def test_the_number_of_keys_grows_with_the_grid_and_no_weight_does() -> None:
    layer = sra_of((6, 6))
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    for grid, cells in (((5, 9), 3 * 5), ((12, 12), 6 * 6), ((6, 6), 3 * 3)):
        layer.resize(geometry_of(grid))
        assert layer.reduce(torch.ones(1, grid[0] * grid[1], 24)).shape == (1, cells, 24)
        assert {name: value.shape for name, value in layer.state_dict().items()} == shapes


def test_prefix_tokens_stay_keys_of_their_own() -> None:
    layer = sra_of((6, 6), 3, prefix_tokens=2)
    x = tokens_of(layer.geometry).requires_grad_()
    weights = torch.autograd.grad(layer.mix(x)[:, :, 5].sum(), x)[0].abs().sum(dim=-1)
    assert (weights[:, :2] > weights[:, 2:].mean()).all()  # one of 6 keys each, where a patch is a ninth of one


def test_a_learned_weight_meets_the_patch_at_its_place() -> None:
    layer = sra_of((4, 4))
    with torch.no_grad():
        layer.reduction_weight.zero_()
        layer.reduction_weight[:, 0, 1, 0] = 1.0  # the lower left of every cell
        kept = layer.reduce(torch.arange(16.0)[None, :, None].expand(1, 16, 24))
    assert kept[0, :, 0].tolist() == [4.0, 6.0, 12.0, 14.0]


def test_cells_cover_the_grid() -> None:
    assert reduced_grid((14, 14), 2) == (7, 7)
    assert reduced_grid((5, 7), 3) == (2, 3)
    assert reduced_grid((1, 2), 2) == (1, 1)
