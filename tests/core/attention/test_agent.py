from __future__ import annotations

import pytest
import torch
from attention_layers import geometry_of, layer_of, tokens_of
from attention_references import block_average
from torch.nn import functional as F

from effvit.attention.agent import AgentAttention


def agent_of(grid: tuple[int, int], pool: int | None = None, prefix_tokens: int = 1) -> AgentAttention:
    layer = layer_of("agent", geometry_of(grid, prefix_tokens), pool=pool)
    assert isinstance(layer, AgentAttention)
    return layer


def test_agents_as_many_as_tokens_are_all_queries() -> None:
    layer = agent_of((4, 5), pool=5, prefix_tokens=2).double()
    x = tokens_of(layer.geometry).double()
    q, k, v = layer.project_qkv(x)
    expected = F.scaled_dot_product_attention(q, q, F.scaled_dot_product_attention(q, k, v))
    # the same float64 products; pooling by the identity adds nothing but zeros
    torch.testing.assert_close(layer.mix(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prefix_tokens", [0, 2])
def test_the_convolution_starts_without_effect_and_learns(prefix_tokens: int) -> None:
    layer = agent_of((5, 7), prefix_tokens=prefix_tokens)
    x = tokens_of(layer.geometry)
    q, k, v = layer.project_qkv(x)
    agents = layer.landmarks @ q
    assert torch.equal(layer.mix(x), layer.attend(q, agents, layer.attend(agents, k, v)))
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), layer.value_convolution)
    assert (gradient != 0).all()


def test_only_patches_get_the_convolution_and_only_of_their_neighbours() -> None:
    layer = agent_of((5, 5), prefix_tokens=2)
    v = torch.zeros(1, 2, 27, 12)
    v[0, :, 2 + 5 * 2 + 4] = 1.0  # the patch in row 2, at the right border
    with torch.no_grad():
        layer.value_convolution.fill_(1.0)
        local = layer._convolve(v)
    assert bool((local[:, :, :2] == 0).all())
    touched = local[0, 0, 2:, 0].reshape(5, 5)
    assert touched.nonzero().tolist() == [[1, 3], [1, 4], [2, 3], [2, 4], [3, 3], [3, 4]]


def test_prefix_tokens_are_agents_of_their_own() -> None:
    layer = agent_of((14, 14), prefix_tokens=2)
    expected = torch.block_diag(torch.eye(2, dtype=torch.float64), block_average((14, 14), (7, 7)))
    torch.testing.assert_close(layer.landmarks.double(), expected, rtol=2e-7, atol=0)  # float32 rounding


def test_agents_follow_the_grid_and_are_not_saved() -> None:
    layer = agent_of((4, 4))
    layer.resize(geometry_of((6, 9)))
    assert layer.landmarks.shape == (1 + 2 * 2, 1 + 54)
    assert "landmarks" not in layer.state_dict()
