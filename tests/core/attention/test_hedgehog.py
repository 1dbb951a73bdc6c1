from __future__ import annotations

import torch
from attention_layers import geometry_of, layer_of, tokens_of, unsettle

from effvit.attention.base import linear_state, read_state
from effvit.attention.hedgehog import FEATURE_FLOOR, HedgehogAttention, softmax_features


def hedgehog_of(grid: tuple[int, int] = (4, 4)) -> HedgehogAttention:
    layer = layer_of("hedgehog", geometry_of(grid))
    assert isinstance(layer, HedgehogAttention)
    return layer


def attention_of(layer: HedgehogAttention, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the matrix the layer never forms, `(batch, heads, tokens, tokens)`: what it does to unit values."""
    unit = torch.eye(k.shape[2], dtype=k.dtype).expand(*k.shape[:2], -1, -1)
    query_features, key_features = softmax_features(q, layer.query_map), softmax_features(k, layer.key_map)
    return read_state(query_features, linear_state(key_features, unit, FEATURE_FLOOR))


@torch.no_grad()
def test_each_half_of_the_features_sums_to_one() -> None:
    layer = hedgehog_of()
    unsettle(layer)
    q = torch.randn(3, 2, 9, 12, generator=torch.Generator().manual_seed(0)) * 10
    features = softmax_features(q, layer.query_map)
    assert features.shape == (3, 2, 9, 24)
    assert ((features >= 0) & (features <= 1)).all()
    # float32 rounding of sums of 12
    torch.testing.assert_close(features[..., :12].sum(dim=-1), torch.ones(3, 2, 9))
    torch.testing.assert_close(features[..., 12:].sum(dim=-1), torch.ones(3, 2, 9))


def test_the_features_of_two_channels_are_those_computed_by_hand() -> None:
    # 16 channels halve the tokens; 2 ln 3 in one of them weighs it 3-fold, and its negative by a third.
    tokens = torch.zeros(1, 1, 1, 16)
    tokens[..., 5] = 2 * torch.log(torch.tensor(3.0))
    features = softmax_features(tokens, torch.eye(16)[None]).flatten()
    expected = torch.cat([torch.full((16,), 1 / 18), torch.full((16,), 3 / 46)])
    expected[5], expected[16 + 5] = 3 / 18, 1 / 46
    torch.testing.assert_close(features, expected)  # float32 rounding


@torch.no_grad()
def test_rows_of_the_implied_attention_sum_to_one() -> None:
    layer = hedgehog_of().double()
    unsettle(layer)
    q, k, _ = layer.project_qkv(tokens_of(layer.geometry).double())
    attention = attention_of(layer, q, k)
    assert (attention > 0).all()
    # float64 rounding of sums of 17
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 2, 17, dtype=torch.float64), rtol=1e-12, atol=0)


@torch.no_grad()
def test_large_maps_of_like_queries_and_keys_attend_to_themselves() -> None:
    layer = hedgehog_of()
    q = torch.eye(12).expand(1, 2, -1, -1)  # every token along a channel of its own
    smooth = attention_of(layer, q, q).diagonal(dim1=-2, dim2=-1)
    layer.query_map.mul_(50)
    layer.key_map.mul_(50)
    sharp = attention_of(layer, q, q).diagonal(dim1=-2, dim2=-1)
    # A one-hot positive half gives a token 1 with itself; the negative halves, flat over 11 channels, give 10 / 121
    # with each of the other 11 tokens and 1 / 11 with itself.
    expected = (1 + 1 / 11) / (1 + 1 / 11 + 11 * 10 / 121)
    assert (smooth < 0.15).all()
    torch.testing.assert_close(sharp, torch.full_like(sharp, expected), rtol=1e-4, atol=0)  # exp(-50 / 1.9) is left


def test_the_maps_start_as_the_identity_and_apart() -> None:
    layer = hedgehog_of()
    for mapping in (layer.query_map, layer.key_map):
        assert mapping.requires_grad
        assert torch.equal(mapping, torch.eye(12).expand(2, 12, 12))
    gradients = torch.autograd.grad(layer(tokens_of(layer.geometry)).square().sum(), [layer.query_map, layer.key_map])
    assert all((gradient != 0).all() for gradient in gradients)
    with torch.no_grad():
        layer.query_map.add_(1.0)
    assert torch.equal(layer.key_map, torch.eye(12).expand(2, 12, 12))


def test_queries_that_meet_no_key_get_the_mean_value() -> None:
    layer = hedgehog_of()
    v = torch.randn(1, 2, 6, 12, generator=torch.Generator().manual_seed(0))
    q, k = torch.zeros_like(v), torch.zeros_like(v)
    # So far out that float32 has no other feature than the one channel of the query and the other of the keys, in
    # either half: without the floor the result is 0 / 0.
    q[..., 0], q[..., 1] = 1e4, -1e4
    k[..., 2], k[..., 3] = 1e4, -1e4
    query_features, key_features = softmax_features(q, layer.query_map), softmax_features(k, layer.key_map)
    out = read_state(query_features, linear_state(key_features, v, FEATURE_FLOOR))
    torch.testing.assert_close(out, v.mean(dim=2, keepdim=True).expand_as(v))  # float32 rounding


@torch.no_grad()
def test_autocast_does_not_reach_the_features() -> None:
    layer = hedgehog_of()
    x = tokens_of(layer.geometry)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q, k, v = layer.project_qkv(x)
        mixed = layer.mix(x)
    assert q.dtype == mixed.dtype == torch.bfloat16
    state = linear_state(softmax_features(k.float(), layer.key_map), v.float(), FEATURE_FLOOR)
    assert torch.equal(mixed, read_state(softmax_features(q.float(), layer.query_map), state).bfloat16())


def test_repeating_all_tokens_changes_nothing() -> None:
    layer = hedgehog_of().double()
    q, k, v = torch.randn(3, 1, 2, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    query_features, key_features = softmax_features(q, layer.query_map), softmax_features(k, layer.key_map)
    # A floor that counts: beside a sum over tokens instead of a mean it would matter less, the more there are.
    once = read_state(query_features, linear_state(key_features, v, floor=0.1))
    often = read_state(query_features, linear_state(key_features.repeat(1, 1, 50, 1), v.repeat(1, 1, 50, 1), 0.1))
    torch.testing.assert_close(often, once, rtol=1e-12, atol=1e-12)  # float64 rounding
