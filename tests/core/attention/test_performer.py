from __future__ import annotations

import math

import torch
from attention_layers import donor_of, geometry_of, layer_of, tokens_of

from effvit.attention.performer import PerformerAttention, favor_attention, orthogonal_features


def test_features_of_a_block_are_orthogonal() -> None:
    rows = orthogonal_features(20, 8, seed=0).double()
    for start in (0, 8, 16):
        block = rows[start : start + 8]
        gram = block @ block.T
        # orthogonalised in float64, stored in float32: 6e-8 of squared lengths of about 8
        assert (gram - torch.diag(gram.diagonal())).abs().max() < 1e-5


def test_feature_lengths_are_those_of_normal_vectors() -> None:
    squares = orthogonal_features(8000, 8, seed=0).double().square().sum(dim=1)
    # chi-squared with 8 degrees of freedom: mean 8, variance 16; five standard errors of 8000 draws
    assert abs(float(squares.mean()) - 8) < 5 * 4 / math.sqrt(8000)
    # its fourth central moment is 12 * 8 * (8 + 4) = 1152, so the variance's standard error is sqrt(1152 - 256) / 89
    assert abs(float(squares.var()) - 16) < 5 * math.sqrt((1152 - 256) / 8000)


def test_the_kernel_is_unbiased_over_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64) * 0.6
    estimates = []
    for seed in range(200):
        rows = orthogonal_features(32, 8, seed).double()
        q_features = torch.exp(q @ rows.T - q.square().sum(dim=1, keepdim=True) / 2)
        k_features = torch.exp(k @ rows.T - k.square().sum(dim=1, keepdim=True) / 2)
        estimates.append(q_features @ k_features.T / 32)
    draws = torch.stack(estimates)
    error = (draws.mean(dim=0) - torch.exp(q @ k.T)).abs()
    # The mean of 200 independent draws; 36 pairs, of which the largest of as many normals stays below four deviations.
    assert (error < 4 * draws.std(dim=0) / math.sqrt(200)).all()


@torch.no_grad()
def test_many_features_converge_to_exact_attention() -> None:
    geometry = geometry_of((4, 4))
    errors = {}
    x = 0.2 * tokens_of(geometry)  # long keys need exponentially many features
    exact = donor_of(geometry)(x)
    for features in (16, 16384):
        layer = layer_of("performer", geometry, donor_of(geometry), features=features)
        errors[features] = float((layer(x) - exact).norm() / (exact - exact.mean(dim=1, keepdim=True)).norm())
    # A Monte-Carlo error falls with the root of the draws: 32-fold from 16 to 16384. Half of that is asked for, as one
    # draw of 16 may be lucky.
    assert errors[16384] < errors[16] / 16
    assert errors[16384] < 0.1


def test_a_shift_of_all_keys_changes_nothing() -> None:
    q, k, v = torch.randn(3, 2, 2, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = orthogonal_features(32, 8, seed=0).double()
    shifted = k + torch.linspace(-20, 20, 8, dtype=torch.float64)
    # float64 rounding of numbers of about 20, in exponents
    torch.testing.assert_close(
        favor_attention(q, k, v, rows), favor_attention(q, shifted, v, rows), rtol=1e-10, atol=1e-10
    )


def test_queries_that_meet_no_key_get_the_mean_value() -> None:
    v = torch.randn(1, 1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, k = torch.zeros_like(v), torch.zeros_like(v)
    # Seen through one feature an axis, keys this far out along the first axis have no other feature that float64 can
    # tell from 0, and the queries have none but the second: without the floor the result is 0 / 0.
    k[..., ::2, 0], k[..., 1::2, 0] = 4000.0, -4000.0
    q[..., 1] = 4000.0
    out = favor_attention(q, k, v, torch.eye(8, dtype=torch.float64))
    # float64 rounding
    torch.testing.assert_close(out, v.mean(dim=2, keepdim=True).expand_as(v), rtol=1e-12, atol=1e-12)


def test_seeds_differ_and_repeat() -> None:
    assert torch.equal(orthogonal_features(32, 8, seed=1), orthogonal_features(32, 8, seed=1))
    assert not torch.equal(orthogonal_features(32, 8, seed=1), orthogonal_features(32, 8, seed=2))


def test_the_projection_is_saved() -> None:
    layer = layer_of("performer", geometry_of((4, 4)))
    assert layer.state_dict()["projection"].shape == (128, 12)


def test_long_keys_are_not_drowned_by_another_image() -> None:
    q, k, v = torch.randn(3, 1, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far = 15 * k  # every feature of these keys is many orders below 1, which features of keys at 0 are
    rows = orthogonal_features(32, 8, seed=0).double()
    alone = favor_attention(q, far, v, rows)
    together = favor_attention(q.repeat(2, 1, 1, 1), torch.cat([0 * k, far]), v.repeat(2, 1, 1, 1), rows)
    # the same float64 products in another batch
    torch.testing.assert_close(together[1:], alone, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_autocast_does_not_reach_the_features() -> None:
    layer = layer_of("performer", geometry_of((4, 4)))
    assert isinstance(layer, PerformerAttention)
    x = tokens_of(geometry_of((4, 4)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q, k, v = layer.project_qkv(x)
        mixed = layer.mix(x)
    assert q.dtype == mixed.dtype == torch.bfloat16
    expected = favor_attention(q.float(), k.float(), v.float(), layer.projection)
    assert torch.equal(mixed, expected.bfloat16())
