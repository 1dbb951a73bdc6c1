from __future__ import annotations

import pytest
import torch
from attention_layers import VARIANTS, geometry_of, layer_of, tokens_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


# (3, 5) and (7, 7) need padded windows; only matrix products count, on both sides.
@pytest.mark.parametrize("prefix_tokens", [0, 1, 4])
@pytest.mark.parametrize("grid", [(4, 4), (6, 8), (3, 5), (7, 7)])
@pytest.mark.parametrize("name", VARIANTS)
def test_macs_are_half_the_flops_that_pytorch_counts(name: str, grid: tuple[int, int], prefix_tokens: int) -> None:
    geometry = geometry_of(grid, prefix_tokens)
    layer = layer_of(name, geometry)
    variant = VARIANTS[name]
    options = variant.resolve(variant.options(), geometry)
    counter = FlopCounterMode(display=False)
    # The fused CPU kernel is not in the counter's table; the unfused products are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        layer(tokens_of(geometry, batch=1))
    assert variant.macs(geometry, options).total * 2 == counter.get_total_flops()
