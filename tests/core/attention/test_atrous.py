from __future__ import annotations

import pytest
import torch
from attention_layers import donor_of, geometry_of, layer_of, tokens_of
from attention_references import levels_of_pair
from torch.nn import functional as F

from effvit.attention.atrous import VARIANT, AtrousOptions, into_windows, out_of_windows, tiling_of


@pytest.mark.parametrize(
    ("side", "nominal", "levels", "window", "padded"),
    [
        (14, 7, 2, 7, 14),
        (24, 7, 2, 6, 24),
        (32, 7, 2, 8, 32),
        (16, 7, 2, 8, 16),
        (4, 2, 2, 2, 4),
        (4, 7, 2, 2, 4),
        (6, 3, 2, 3, 6),
        (28, 7, 3, 7, 28),
        (14, 7, 1, 7, 14),
        (13, 7, 2, 7, 14),
        (7, 4, 2, 4, 8),
        (14, 7, 3, 4, 16),
        (3, 2, 3, 1, 4),
        (1, 1, 2, 1, 2),
    ],
)
def test_windows_tile_the_grid_or_pad_it_the_least(
    side: int, nominal: int, levels: int, window: int, padded: int
) -> None:
    tiling = tiling_of((side, side), AtrousOptions(nominal, levels))
    assert (tiling.window, tiling.padded) == ((window, window), (padded, padded))


def test_the_sides_of_a_window_follow_the_sides_of_the_grid() -> None:
    tiling = tiling_of((14, 24), AtrousOptions(window=7))
    assert (tiling.window, tiling.padded) == ((7, 6), (14, 24))


def test_a_dilated_window_takes_every_other_patch() -> None:
    patches = torch.arange(16.0).reshape(1, 1, 16, 1)
    tiling = tiling_of((4, 4), AtrousOptions(window=2))
    near, far = (into_windows(patches, tiling, dilation)[0, 0, :, :, 0].tolist() for dilation in tiling.dilations)
    assert near == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert far == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]


@pytest.mark.parametrize("grid", [(4, 4), (5, 7), (3, 9)])
def test_every_level_returns_the_patches_it_was_given(grid: tuple[int, int]) -> None:
    tiling = tiling_of(grid, AtrousOptions(levels=3, window=2))
    patches = torch.arange(2.0 * 3 * grid[0] * grid[1] * 5).reshape(2, 3, -1, 5)
    for dilation in tiling.dilations:
        assert torch.equal(out_of_windows(into_windows(patches, tiling, dilation), tiling, dilation), patches)


@pytest.mark.parametrize("prefix_tokens", [0, 3])
def test_one_window_as_large_as_the_grid_equals_exact_attention(prefix_tokens: int) -> None:
    geometry = geometry_of((4, 6), prefix_tokens)
    exact = donor_of(geometry)
    layer = layer_of("atrous", geometry, donor_of(geometry), window=6, levels=1)
    x = tokens_of(geometry)
    # The same sums in another order: float32 rounding.
    torch.testing.assert_close(layer(x), exact(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", [(6, 6), (5, 7)])
def test_without_a_gate_it_is_one_softmax_over_the_keys_of_all_levels(grid: tuple[int, int]) -> None:
    geometry = geometry_of(grid, 0)
    layer = layer_of("atrous", geometry, window=3)
    window = tiling_of(grid, AtrousOptions(3)).window
    counts = [
        [len(levels_of_pair(query, key, geometry, window, levels=2)) for key in range(geometry.patches)]
        for query in range(geometry.patches)
    ]
    x = tokens_of(geometry)
    q, k, v = donor_of(geometry).qkv(x).reshape(2, geometry.patches, 3, 2, 12).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.tensor(counts).float().log())
    # float32 rounding; the padded keys of 5 x 7 would show at 1e-2
    torch.testing.assert_close(layer.mix(x), mixed, rtol=1e-5, atol=1e-5)  # type: ignore[operator]


def test_the_gate_starts_at_zero_and_is_learned() -> None:
    layer = layer_of("atrous", geometry_of((6, 6)))
    gate = layer.get_submodule("level_gate")
    assert not any(parameter.any() for parameter in gate.parameters())
    layer(tokens_of(geometry_of((6, 6)))).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in gate.parameters())


def test_a_gate_far_to_one_side_leaves_one_level() -> None:
    geometry = geometry_of((4, 4), 0)
    layer = layer_of("atrous", geometry, window=2)
    with torch.no_grad():
        layer.get_parameter("level_gate.bias").copy_(torch.tensor([50.0, 0.0, 50.0, 0.0]))  # (heads, levels)
    near = layer_of("atrous", geometry, donor_of(geometry), window=2, levels=1)
    x = tokens_of(geometry)
    # the other level keeps exp(-50) of its weight; the rest is float32 rounding
    torch.testing.assert_close(layer(x), near(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("after", [(9, 6), (2, 3), (7, 7)])
def test_a_resized_layer_equals_one_built_at_that_grid(after: tuple[int, int]) -> None:
    layer = layer_of("atrous", geometry_of((8, 8)))
    layer.resize(geometry_of(after))  # type: ignore[operator]
    fresh = VARIANT.build(geometry_of(after), AtrousOptions(window=4), donor_of(geometry_of(after))).eval()
    x = tokens_of(geometry_of(after))
    assert torch.equal(layer(x), fresh(x))


def test_dropout_acts_in_training_alone() -> None:
    geometry = geometry_of((4, 4))
    layer = layer_of("atrous", geometry, donor_of(geometry, attn_drop=0.5))
    x = tokens_of(geometry)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_dropout_reaches_the_weights_of_prefix_tokens_too() -> None:
    geometry = geometry_of((4, 6), 2)
    layer = layer_of("atrous", geometry, donor_of(geometry, attn_drop=1.0)).train()
    patches = layer(tokens_of(geometry))[:, 2:]
    # Nothing but the bias of the output projection is left of a patch.
    torch.testing.assert_close(patches, layer.get_parameter("proj.bias").expand_as(patches))
