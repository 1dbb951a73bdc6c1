from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_layers import APPROXIMATE, VARIANTS, donor_of, geometry_of, layer_of, tokens_of, unsettle
from torch import nn

from effvit.errors import UnsupportedError, UsageError
from effvit.unprojected import saves_projecting

NON_SQUARE = geometry_of((5, 7), 2)


@pytest.mark.parametrize("prefix_tokens", [0, 1, 2, 5])
@pytest.mark.parametrize("grid", [(1, 2), (5, 5), (7, 4), (14, 14)])
@pytest.mark.parametrize("name", VARIANTS)
def test_shape_and_type_are_kept(name: str, grid: tuple[int, int], prefix_tokens: int) -> None:
    geometry = geometry_of(grid, prefix_tokens)
    x = tokens_of(geometry)
    out = layer_of(name, geometry)(x)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
def test_heads_may_be_wider_than_the_model(name: str) -> None:
    geometry = replace(NON_SQUARE, head_dim=20)
    layer = layer_of(name, geometry, donor_of(geometry, attn_head_dim=20))
    assert layer(tokens_of(geometry)).shape == (2, geometry.tokens, geometry.dim)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    layer = layer_of(name, NON_SQUARE)
    unsettle(layer)
    image = tokens_of(NON_SQUARE, batch=1)
    loud = 10 * tokens_of(NON_SQUARE, batch=2, seed=5)
    with torch.no_grad():
        alone, together = layer(image)[0], layer(torch.cat([loud, image]))[2]
    # A matrix product of another batch may add in another order: float32 rounding and no more.
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", VARIANTS)
def test_queries_of_length_30_stay_finite_in_half_precision(name: str, dtype: torch.dtype) -> None:
    donor = donor_of(NON_SQUARE)
    x = tokens_of(NON_SQUARE)
    with torch.no_grad():
        length = donor.qkv(x)[..., : NON_SQUARE.head_dim].norm(dim=-1).mean()
        donor.qkv.weight.mul_(30 / length)
    layer = layer_of(name, NON_SQUARE, donor).to(dtype)
    x = x.to(dtype).requires_grad_()
    out = layer(x)
    out.float().square().mean().backward()
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("choices", [{}, {"qk_norm": True}], ids=["plain", "qk_norm"])
@pytest.mark.parametrize("name", APPROXIMATE)
def test_autocast_gives_what_single_precision_gives(name: str, choices: dict[str, Any]) -> None:
    layer = layer_of(name, NON_SQUARE, donor_of(NON_SQUARE, **choices))
    x = tokens_of(NON_SQUARE)
    with torch.no_grad():
        single = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = layer(x)
    assert half.dtype == torch.bfloat16
    # bfloat16 rounds at 4e-3 in each of a handful of products, and scores of up to 10 turn that into 4e-2.
    assert (half.float() - single).norm() < 0.1 * single.norm()


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("name", ["linformer", "nystromformer"])
def test_tokens_left_unprojected_give_what_projected_ones_give(name: str, qkv_bias: bool) -> None:
    geometry = geometry_of((6, 7), 2)  # 11 keys of width 12: few enough to save the projections
    x = tokens_of(geometry).double().requires_grad_()
    outputs, gradients = [], []
    for linear in (True, False):
        layer = layer_of(name, geometry, donor_of(geometry, qkv_bias=qkv_bias)).double()
        assert saves_projecting(layer.geometry, 11)  # type: ignore[arg-type]
        layer.geometry = replace(geometry, linear=linear)
        outputs.append(layer(x))
        weights = torch.randn(outputs[-1].shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
        leaves = (x, *(parameter for name, parameter in sorted(layer.named_parameters()) if "bias" not in name))
        gradients.append(torch.autograd.grad((outputs[-1] * weights).sum(), leaves, retain_graph=True))
    # Landmarks are pooled by a float32 matrix, whose rows sum to 1 within 6e-8.
    atol = 1e-10 if name == "linformer" else 1e-6
    torch.testing.assert_close(*outputs, rtol=0, atol=atol)
    torch.testing.assert_close(*gradients, rtol=0, atol=10 * atol)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_state_survives_a_fresh_module_of_another_seed(name: str) -> None:
    layer = layer_of(name, NON_SQUARE)
    unsettle(layer)
    other = {"seed": 7} if name == "performer" else {}
    fresh = layer_of(name, NON_SQUARE, donor_of(NON_SQUARE, seed=9), **other)
    x = tokens_of(NON_SQUARE)
    assert not torch.equal(fresh(x), layer(x))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))


@pytest.mark.parametrize("name", APPROXIMATE)
def test_state_of_a_resized_layer_loads_at_the_new_grid(name: str) -> None:
    layer = layer_of(name, geometry_of((4, 5)), pool=4) if name == "linformer" else layer_of(name, geometry_of((4, 5)))
    bigger = geometry_of((9, 6))
    unsettle(layer)
    layer.resize(bigger)  # type: ignore[operator]
    fresh = VARIANTS[name].build(
        bigger, layer.options if hasattr(layer, "options") else VARIANTS[name].options(), donor_of(bigger)
    )
    fresh.load_state_dict(layer.state_dict())
    x = tokens_of(bigger)
    assert torch.equal(fresh.eval()(x), layer(x))


@pytest.mark.parametrize("name", APPROXIMATE)
def test_a_layer_resized_there_and_back_is_what_it_was(name: str) -> None:
    layer = layer_of(name, geometry_of((14, 14)))
    if name != "linformer":  # what its compression learned is interpolated, which has tests of its own
        unsettle(layer)
    x = tokens_of(geometry_of((14, 14)))
    with torch.no_grad():
        before = layer(x)
        layer.resize(geometry_of((24, 24)))  # type: ignore[operator]
        layer.resize(geometry_of((14, 14)))  # type: ignore[operator]
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize("name", VARIANTS)
def test_building_twice_gives_the_same_layer(name: str) -> None:
    x = tokens_of(NON_SQUARE)
    first = layer_of(name, NON_SQUARE)
    torch.manual_seed(123)
    second = layer_of(name, NON_SQUARE)
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), first(x))


@pytest.mark.parametrize("name", APPROXIMATE)
def test_building_leaves_the_global_random_state_alone(name: str) -> None:
    donor = donor_of(NON_SQUARE)
    before = torch.random.get_rng_state()
    layer_of(name, NON_SQUARE, donor)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_donors_weights_keep_their_names(name: str) -> None:
    donor = donor_of(NON_SQUARE, qk_norm=True, scale_norm=True)
    names = set(donor.state_dict())
    weight = donor.qkv.weight
    layer = layer_of(name, NON_SQUARE, donor)
    assert names <= set(layer.state_dict())
    assert dict(layer.named_parameters())["qkv.weight"] is weight


@pytest.mark.parametrize("name", APPROXIMATE)
def test_new_state_takes_the_donors_type(name: str) -> None:
    layer = layer_of(name, NON_SQUARE, donor_of(NON_SQUARE).to(torch.bfloat16))
    assert {value.dtype for value in layer.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_masks_and_causal_order_are_refused(name: str) -> None:
    layer: nn.Module = layer_of(name, NON_SQUARE)
    x = tokens_of(NON_SQUARE)
    layer(x, attn_mask=None, is_causal=False)
    with pytest.raises(UnsupportedError, match="attention mask or causal order"):
        layer(x, attn_mask=torch.ones(NON_SQUARE.tokens, NON_SQUARE.tokens, dtype=torch.bool))
    with pytest.raises(UnsupportedError, match="attention mask or causal order"):
        layer(x, is_causal=True)


@pytest.mark.parametrize(
    ("name", "option", "value", "least"),
    [
        ("linformer", "pool", 0, 1),
        ("nystromformer", "pool", -1, 1),
        ("nystromformer", "iterations", 0, 1),
        ("performer", "features", 0, 1),
        ("performer", "seed", -1, 0),
        ("atrous", "window", 0, 1),
        ("atrous", "levels", 0, 1),
        ("agent", "pool", 0, 1),
        ("sra", "reduction", 0, 1),
    ],
)
def test_options_below_their_least_value_are_refused(name: str, option: str, value: int, least: int) -> None:
    with pytest.raises(UsageError, match=f"{option} must be at least {least}, not {value}") as caught:
        VARIANTS[name].options(**{option: value})
    assert caught.value.hint == f"choose a {option} of {least} or more"


@pytest.mark.parametrize(
    ("name", "options", "message", "hint"),
    [
        ("linformer", {"pool": 8}, r"pool \(8\) exceeds the grid of 5 x 7 patches", "choose a pool of at most 7"),
        ("nystromformer", {"pool": 8}, r"pool \(8\) exceeds", "choose a pool of at most 7"),
        ("atrous", {"window": 8}, r"window \(8\) exceeds", "choose a window of at most 7"),
        ("agent", {"pool": 8}, r"pool \(8\) exceeds", "choose a pool of at most 7"),
        ("sra", {"reduction": 8}, r"reduction \(8\) exceeds", "choose a reduction of at most 7"),
        ("atrous", {"levels": 4}, r"dilation \(8\) exceeds", "choose a dilation of at most 7"),
    ],
)
def test_options_beyond_the_grid_are_refused(name: str, options: dict[str, int], message: str, hint: str) -> None:
    variant = VARIANTS[name]
    with pytest.raises(UsageError, match=message) as caught:
        variant.resolve(variant.options(**options), NON_SQUARE)
    assert caught.value.hint == hint


@pytest.mark.parametrize("name", VARIANTS)
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(TypeError):
        VARIANTS[name].options(nonsense=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_resolved_options_are_the_same_resolved_again(name: str) -> None:
    variant = VARIANTS[name]
    resolved = variant.resolve(variant.options(), NON_SQUARE)
    assert variant.resolve(resolved, geometry_of((24, 24))) == resolved
    assert None not in [getattr(resolved, key) for key in resolved.__dataclass_fields__]
