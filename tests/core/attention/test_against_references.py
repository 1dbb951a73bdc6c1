from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from attention_layers import APPROXIMATE, VARIANTS, donor_of, geometry_of, layer_of, tokens_of, unsettle
from attention_references import reference_layer
from timm.layers.attention import Attention
from torch import Tensor, nn

from effvit.attention.base import Geometry

# Both sides compute in float64 by different routes. Rounding (1e-16) is amplified by the pseudo-inverse and by the
# quotient of small kernel sums, by less than 1e5 here; a wrong formula is off by 1e-3 and more.
ROUNDING = 1e-10
# The pooling of landmarks is stored in float32, so its rows sum to 1 within 6e-8: that much the bias of a landmark
# depends on whether tokens are projected before they are pooled (the reference) or after.
ROUNDINGS = {"nystromformer": 2e-6}

GRIDS = [(4, 4), (3, 5), (6, 4)]
PREFIXES = [0, 1, 2, 5]
DONORS = [{}, {"qk_norm": True}, {"scale_norm": True}, {"qkv_bias": False}]
if "gated" in inspect.signature(Attention).parameters:
    DONORS.append({"gated": True, "qk_norm": True, "scale_norm": True})


def assert_matches_reference(name: str, geometry: Geometry, donor: Attention) -> None:
    layer = layer_of(name, geometry, donor).double()
    unsettle(layer)
    variant = VARIANTS[name]
    options = variant.resolve(variant.options(), geometry)
    x = tokens_of(geometry).double().requires_grad_()
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    # The buffers of a float64 layer hold float32 numbers, so `projection` is the same on both sides.
    state = {key: value.detach().clone() for key, value in layer.state_dict().items()}
    reference_x = x.detach().clone().requires_grad_()
    learned = [key for key, _ in layer.named_parameters()]
    for key in learned:
        state[key].requires_grad_()

    rounding = ROUNDINGS.get(name, ROUNDING)
    out = layer(x)
    expected = reference_layer(name, state, reference_x, geometry, options)
    torch.testing.assert_close(out, expected, rtol=rounding, atol=rounding)

    gradients = torch.autograd.grad(out, [x, *layer.parameters()], cotangent)
    wanted = torch.autograd.grad(expected, [reference_x, *(state[key] for key in learned)], cotangent)
    for key, gradient, reference in zip(["x", *learned], gradients, wanted, strict=True):
        scale = float(reference.abs().max().clamp(min=1.0))
        torch.testing.assert_close(gradient, reference, rtol=0, atol=rounding * scale, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("prefix_tokens", PREFIXES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_output_and_gradients_match_the_paper(name: str, grid: tuple[int, int], prefix_tokens: int) -> None:
    geometry = geometry_of(grid, prefix_tokens)
    assert_matches_reference(name, geometry, donor_of(geometry))


@pytest.mark.parametrize("choices", DONORS, ids=lambda choices: "+".join(choices) or "plain")
@pytest.mark.parametrize("name", APPROXIMATE)
def test_every_kind_of_donor_keeps_its_norms_and_gate(name: str, choices: dict[str, Any]) -> None:
    geometry = geometry_of((3, 4), 1)
    donor = donor_of(geometry, **choices)
    with torch.no_grad():
        for module in donor.modules():
            if isinstance(module, nn.LayerNorm):  # fresh norms have weight 1 and bias 0, and could be swapped unseen
                module.weight.add_(torch.linspace(-0.5, 0.5, module.weight.numel()))
                module.bias.add_(torch.linspace(0.3, -0.2, module.bias.numel()))
    assert_matches_reference(name, geometry, donor)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_single_precision_is_close_to_double(name: str) -> None:
    geometry = geometry_of((7, 7), 1)
    layer = layer_of(name, geometry)
    unsettle(layer)
    x = tokens_of(geometry)
    with torch.no_grad():
        single: Tensor = layer(x)
        double: Tensor = layer.double()(x.double())
    # float32 rounds at 6e-8; the pseudo-inverse multiplies that by the growth of its iterates, below 1e3 here.
    torch.testing.assert_close(single.double(), double, rtol=0, atol=5e-5)
