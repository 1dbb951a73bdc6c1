"""Performer: the softmax kernel as an inner product of positive random features, so no token meets another (FAVOR+)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from effvit.attention.base import (
    AttentionMacs,
    AttentionVariant,
    Geometry,
    InheritedAttention,
    linear_state,
    projection_macs,
    read_state,
    require_at_least,
)

# Share of the largest key feature that every key feature gets. Large enough that a query whose features meet no key
# divides by something (it then returns the mean value), small enough to stay below the noise of the features.
FEATURE_FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class PerformerOptions:
    """`features` is the number of random features a head, `seed` what they are drawn from.

    Raises:
        UsageError: Fewer than 1 feature, or a negative seed.
    """

    features: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least("features", self.features, 1)
        require_at_least("seed", self.seed, 0)


class PerformerAttention(InheritedAttention):
    """Linear-time attention with positive orthogonal random features.

    The heads share one draw: their queries and keys differ, so their errors do too, and one matrix makes the features
    of all heads and images one matrix product, where a matrix a head would be copied for every image.

    Source:
        Choromanski et al. 2021, lemma 1 and section 2.4, https://arxiv.org/abs/2009.14794
    """

    projection: Tensor

    def __init__(self, geometry: Geometry, options: PerformerOptions, donor: Attention) -> None:
        super().__init__(geometry, donor)
        # Persistent: a layer fine-tuned around one draw is noise around another, whatever its seed says.
        projection = orthogonal_features(options.features, geometry.head_dim, options.seed)
        self.register_buffer("projection", projection.to(donor.qkv.weight))

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.project_qkv(x)
        # Exponentials of squares overflow in half precision, so everything up to the division runs in single.
        wide = torch.promote_types(v.dtype, torch.float32)
        with torch.autocast(device_type=x.device.type, enabled=False):
            mixed = favor_attention(q.to(wide), k.to(wide), v.to(wide), self.projection.to(wide))
        return mixed.to(v.dtype)


def favor_attention(q: Tensor, k: Tensor, v: Tensor, projection: Tensor) -> Tensor:
    """Return the estimate of softmax attention, `(batch, heads, tokens, head_dim)`.

    Args:
        q: `(batch, heads, tokens, head_dim)`, not yet scaled.
        k: As `q`.
        v: As `q`.
        projection: `(features, head_dim)`, rows of standard normal length and direction.
    """
    directions = projection.mT * k.shape[-1] ** -0.25  # the softmax scale, half of it for q and half for k
    state = linear_state(_key_features(k, directions), v, FEATURE_FLOOR)
    return read_state(_query_features(q, directions), state)


def _key_features(k: Tensor, directions: Tensor) -> Tensor:
    # Moving all keys by one vector multiplies a query's whole row by one factor, which softmax divides out; around
    # their mean the keys are short, and the variance of the estimate grows exponentially with their length.
    k = k - k.mean(dim=-2, keepdim=True)
    half_squares = k.square().sum(dim=-1, keepdim=True) * (0.5 * k.shape[-1] ** -0.5)
    # In place, here and below: fresh memory for every pass costs time and space, and no gradient needs the old values.
    exponents = (k @ directions).sub_(half_squares)
    # The greatest exponent of an image and head, |k|²/2 included, becomes 0: the largest feature is 1 and none
    # overflows. A maximum over the batch would let one image change the floor of another.
    return exponents.sub_(exponents.detach().amax(dim=(-2, -1), keepdim=True)).exp_()


def _query_features(q: Tensor, directions: Tensor) -> Tensor:
    # A query's |q|²/2 is one factor for its whole row, as is its maximum: both divide out, so neither is kept.
    exponents = q @ directions
    return exponents.sub_(exponents.detach().amax(dim=-1, keepdim=True)).exp_()


def orthogonal_features(features: int, head_dim: int, seed: int) -> Tensor:
    """Return `(features, head_dim)` normal vectors that are orthogonal within every block of `head_dim`, float32.

    Directions are uniform and lengths those of independent normal vectors, so each row alone is normally distributed
    and the kernel estimate unbiased; orthogonality only lowers its variance.

    Source:
        Choromanski et al. 2021, section 2.4 and theorem 2
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(math.ceil(features / head_dim)):
        gaussian = torch.randn(head_dim, head_dim, generator=generator, dtype=torch.float64)
        basis, triangle = torch.linalg.qr(gaussian)
        # QR alone prefers some signs; with those of the diagonal the basis is uniform over all rotations.
        blocks.append((basis * triangle.diagonal().sign()).T)
    normal = torch.randn(features, head_dim, generator=generator, dtype=torch.float64)
    lengths: Tensor = torch.linalg.vector_norm(normal, dim=1, keepdim=True)
    return (torch.cat(blocks)[:features] * lengths).float()


def build(geometry: Geometry, options: PerformerOptions, donor: Attention) -> nn.Module:
    """Return a layer around the donor's modules with a persistent buffer, `projection`."""
    return PerformerAttention(geometry, options, donor)


def macs(geometry: Geometry, options: PerformerOptions) -> AttentionMacs:
    """Count the features of q and k and both products with the values and their column of ones."""
    pairs = geometry.tokens * options.features * geometry.heads
    core = 2 * pairs * geometry.head_dim + 2 * pairs * (geometry.head_dim + 1)
    return AttentionMacs(projection_macs(geometry), core)


VARIANT = AttentionVariant(
    name="performer",
    summary="positive orthogonal random features instead of a softmax, linear in the tokens",
    source="Choromanski et al. 2021, section 2.4, https://arxiv.org/abs/2009.14794",
    build=build,
    macs=macs,
    options=PerformerOptions,
)
