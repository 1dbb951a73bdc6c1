"""Nyströmformer for images: attention through landmarks, which are the prefix tokens and the cells of a 2-D pooling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.attention.base import (
    AttentionMacs,
    AttentionVariant,
    Geometry,
    InheritedAttention,
    PoolOptions,
    landmark_pooling,
    pooled_tokens,
    projection_macs,
    require_at_least,
    resolve_pool,
)
from effvit.unprojected import (
    attend_unprojected,
    gather_unprojected,
    is_linear,
    saves_projecting,
    unprojected_macs,
)


@dataclass(frozen=True, slots=True)
class NystromformerOptions(PoolOptions):
    """`pool` is the side of the grid of landmarks (None: half the grid's side, at most 7).

    `iterations` of the pseudo-inverse also regularise it: a weak direction grows 13/4-fold a step, so few steps leave
    out those that many would blow up. More than 6 is no improvement for nearly uniform attention.

    Raises:
        UsageError: A pool or a number of iterations below 1.
    """

    iterations: int = 6

    def __post_init__(self) -> None:
        # Not super(): dataclasses with slots are made anew, and the name would stand for the class they were made from.
        PoolOptions.__post_init__(self)
        require_at_least("iterations", self.iterations, 1)


class NystromformerAttention(InheritedAttention):
    """Attention as (tokens to landmarks) x (landmarks to landmarks)⁺ x (landmarks to tokens).

    The right pair of factors meets the values first. Where few landmarks save it, tokens are left unprojected; else
    both outer factors are fused attention calls. The paper's convolution of the values is left out: it is meant for
    sequences.

    Source:
        Xiong et al. 2021, equations 13 and 14, https://arxiv.org/abs/2102.03902
    """

    landmarks: Tensor
    identity: Tensor

    def __init__(self, geometry: Geometry, options: NystromformerOptions, donor: Attention) -> None:
        super().__init__(geometry, donor)
        self.options = options
        self._place_landmarks(donor.qkv.weight)

    def resize(self, geometry: Geometry) -> None:
        """Place the landmarks on another grid, in place; nothing learned depends on it."""
        super().resize(geometry)
        self._place_landmarks(self.landmarks)

    def transform(self, x: Tensor) -> Tensor:
        if not (is_linear(self) and saves_projecting(self.geometry, len(self.landmarks))):
            return super().transform(x)
        # Rows of the pooling sum to 1, so the landmarks of queries and keys are those of the tokens, projected.
        query, key, value = self.split_projection(1, 1, 1)
        tokens = self.landmarks @ x
        q, k = (self.split_heads(F.linear(tokens, *part), 1)[0] for part in (query, key))
        solved = self._solve(q, k, gather_unprojected(q, x, key, value))
        out: Tensor = self.proj_drop(attend_unprojected(x, k, solved, query, self.proj))
        return out

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.project_qkv(x)
        q_landmarks, k_landmarks = self.landmarks @ q, self.landmarks @ k  # (batch, heads, landmarks, head_dim)
        gathered = self.attend(q_landmarks, k, v)
        return self.attend(q, k_landmarks, self._solve(q_landmarks, k_landmarks, gathered))

    def _solve(self, q: Tensor, k: Tensor, gathered: Tensor) -> Tensor:
        """Return the pseudo-inverse of the landmarks' own attention times `gathered`, in the type of `gathered`."""
        # The iteration multiplies rounding errors by the condition of the matrix; half precision has none to spare.
        wide = torch.promote_types(gathered.dtype, torch.float32)
        with torch.autocast(device_type=q.device.type, enabled=False):
            scores = (q.to(wide) * self.scale) @ k.to(wide).mT
            attention = scores.softmax(dim=-1).flatten(0, 1)  # (batch * heads, landmarks, landmarks)
            inverse = pseudo_inverse(attention, self.identity.to(wide), self.options.iterations)
            solved: Tensor = inverse @ gathered.to(wide).flatten(0, 1)
        return solved.to(gathered.dtype).reshape(gathered.shape)

    def _place_landmarks(self, like: Tensor) -> None:
        placed = landmark_pooling(self.geometry, self.options.pool)
        # Not persistent: both follow from the geometry, and a checkpoint must load at any resolution.
        self.register_buffer("landmarks", placed.to(like), persistent=False)
        self.register_buffer("identity", torch.eye(len(placed)).to(like), persistent=False)


def pseudo_inverse(matrices: Tensor, identity: Tensor, iterations: int) -> Tensor:
    """Return the Moore-Penrose inverses of `(count, side, side)` matrices whose rows sum to 1, approximately.

    The start is scaled by each matrix's own norms; the one maximum over all matrices that the paper's code takes makes
    an image's result depend on the others in its batch, and converges later.

    Source:
        Xiong et al. 2021, equations 11 and 12; Razavi et al. 2014
    """
    largest_column = matrices.sum(dim=-2).amax(dim=-1)[:, None, None]  # the largest row, its counterpart, is 1
    inverse = matrices.mT / largest_column
    for _ in range(iterations):
        product = matrices @ inverse
        inner = torch.baddbmm(identity, product, 7.0 * identity - product, beta=15.0, alpha=-1.0)
        outer = torch.baddbmm(identity, product, inner, beta=3.25, alpha=-0.25)  # (13 I - product inner) / 4
        inverse = inverse @ outer
    return inverse


def build(geometry: Geometry, options: NystromformerOptions, donor: Attention) -> nn.Module:
    """Return a layer around the donor's modules; it has no parameters of its own."""
    return NystromformerAttention(geometry, options, donor)


def macs(geometry: Geometry, options: NystromformerOptions) -> AttentionMacs:
    """Count pooling, attention both ways, the landmarks' own and its inverse, in whichever form is run."""
    landmarks = pooled_tokens(geometry, options.pool)
    inverse = 4 * options.iterations * landmarks**3 * geometry.heads + 2 * landmarks**2 * geometry.attention_dim
    if saves_projecting(geometry, landmarks):
        pooling = landmarks * geometry.tokens * geometry.dim
        projected = 2 * landmarks * geometry.dim * geometry.attention_dim
        return AttentionMacs(projected, pooling + 2 * unprojected_macs(geometry, landmarks) + inverse)
    pooling = 2 * landmarks * geometry.tokens * geometry.attention_dim
    attention = 4 * landmarks * geometry.tokens * geometry.attention_dim
    return AttentionMacs(projection_macs(geometry), pooling + attention + inverse)


VARIANT = AttentionVariant(
    name="nystromformer",
    summary="attention through pooled landmarks and a pseudo-inverse",
    source="Xiong et al. 2021, equation 13, https://arxiv.org/abs/2102.03902",
    build=build,
    macs=macs,
    options=NystromformerOptions,
    resolve=resolve_pool,
)
