from __future__ import annotations

import pytest
import torch
from attention_layers import donor_of, geometry_of, layer_of, tokens_of
from attention_references import block_average

from effvit.attention.nystromformer import NystromformerAttention, pseudo_inverse


def stochastic_matrices(sharpness: float) -> torch.Tensor:
    scores = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (scores + sharpness * torch.eye(12, dtype=torch.float64)).softmax(dim=-1)


def test_the_iteration_finds_the_inverse_of_well_conditioned_matrices() -> None:
    matrices = stochastic_matrices(5.0)
    inverse = pseudo_inverse(matrices, torch.eye(12, dtype=torch.float64), 6)
    # Convergence is of fourth order once it sets in; after six steps a condition number of about 3 is at rounding.
    assert float(torch.linalg.cond(matrices).max()) < 4
    torch.testing.assert_close(inverse, torch.linalg.inv(matrices), rtol=0, atol=1e-10)


def test_few_iterations_leave_weak_directions_small() -> None:
    matrices = stochastic_matrices(0.0)
    identity = torch.eye(12, dtype=torch.float64)
    few = pseudo_inverse(matrices, identity, 6)
    assert float(few.abs().max()) < float(torch.linalg.inv(matrices).abs().max())


def test_a_matrix_does_not_depend_on_those_beside_it() -> None:
    matrices = stochastic_matrices(1.0)
    identity = torch.eye(12, dtype=torch.float64)
    # the same float64 products in another batch
    torch.testing.assert_close(
        pseudo_inverse(matrices, identity, 6)[1:2], pseudo_inverse(matrices[1:2], identity, 6), rtol=1e-12, atol=1e-12
    )


def test_landmarks_as_many_as_tokens_give_exact_attention() -> None:
    geometry = geometry_of((3, 4), 1, dim=32, heads=2)
    donor = donor_of(geometry)
    with torch.no_grad():
        # Keys equal to queries, so every token attends to itself the most and the matrix is far from singular.
        donor.qkv.weight[32:64], donor.qkv.bias[32:64] = donor.qkv.weight[:32], donor.qkv.bias[:32]
    x = 2 * tokens_of(geometry)
    exact = donor(x)
    layer = layer_of("nystromformer", geometry, donor, pool=4)
    # With A = landmarks' attention the product is A A⁺ A v: exact but for the pseudo-inverse, which six steps find to
    # float32 rounding here, times the condition number of about 10.
    torch.testing.assert_close(layer(x), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (24, 24)])
def test_no_landmark_is_empty_and_prefix_tokens_are_their_own(grid: tuple[int, int]) -> None:
    layer = layer_of("nystromformer", geometry_of(grid, 2))
    landmarks = layer.get_buffer("landmarks")
    expected = torch.block_diag(torch.eye(2, dtype=torch.float64), block_average(grid, (7, 7)))
    torch.testing.assert_close(landmarks.double(), expected, rtol=2e-7, atol=0)  # float32 rounding


def test_landmarks_follow_the_grid_and_are_not_saved() -> None:
    layer = layer_of("nystromformer", geometry_of((4, 4)))
    layer.resize(geometry_of((6, 9)))  # type: ignore[operator]
    assert layer.get_buffer("landmarks").shape == (1 + 2 * 2, 1 + 54)
    assert not [name for name in layer.state_dict() if "landmarks" in name or "identity" in name]
    x = tokens_of(geometry_of((6, 9)))
    assert layer(x).shape == x.shape


@torch.no_grad()
def test_autocast_does_not_reach_the_pseudo_inverse() -> None:
    layer = layer_of("nystromformer", geometry_of((4, 4)))
    assert isinstance(layer, NystromformerAttention)
    landmarks = torch.randn(3, 2, 2, 5, 12, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = layer._solve(*landmarks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        solved = layer._solve(*landmarks)
    assert torch.equal(solved, expected)
