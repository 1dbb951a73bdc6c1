"""What the attention benchmark times: our layers, their peers at equal settings, and the cores of some of both."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.attention.base import Geometry, pooled_tokens
from effvit.attention.performer import PerformerOptions, favor_attention, orthogonal_features
from effvit.errors import UnavailableError, UsageError
from effvit.surgery import attention_variants, pick_variant

HEAD_DIM = 64
PREFIX_TOKENS = 1
PRODUCT = "product"
# By distribution: what is imported of it, and the variant of ours it is held against.
MODULES = {
    "linformer": "linformer",
    "performer-pytorch": "performer_pytorch",
    "nystrom-attention": "nystrom_attention",
    "vit-pytorch": "vit_pytorch.vit",
}
PEERS = {
    "linformer": "linformer",
    "performer": "performer-pytorch",
    "nystromformer": "nystrom-attention",
    "softmax": "vit-pytorch",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and in which type modules run; `batch` images a launch.

    With `autocast` weights and inputs stay in single precision, and PyTorch chooses what to compute in `dtype`.
    """

    device: torch.device
    dtype: torch.dtype
    batch: int
    autocast: bool = False

    def place(self, module: nn.Module) -> nn.Module:
        return module.to(self.device, self.stored)

    def random(self, *shape: int) -> Tensor:
        """Return standard normal numbers, the same for every contender."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, *shape, generator=generator).to(self.device, self.stored)

    @property
    def stored(self) -> torch.dtype:
        return torch.float32 if self.autocast else self.dtype


@dataclass(frozen=True, slots=True)
class Contender:
    """A module and its inputs.

    `mechanism` is the variant of ours that it is or that it is held against, `peer` the distribution it comes from
    (None: ours), `macs` what one launch forward multiplies and adds, where that is counted.
    """

    mechanism: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    peer: str | None = None
    macs: int | None = None

    @property
    def name(self) -> str:
        return self.mechanism if self.peer is None else f"peer {self.peer}"


def require_peers() -> None:
    """Import every peer.

    Raises:
        UnavailableError: Some cannot be imported.
    """
    missing = []
    for distribution, module in MODULES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing.append(f"{distribution} ({error})")
    if missing:
        raise UnavailableError(
            f"peers to compare with cannot be imported: {', '.join(missing)}", "pip install 'effvit[bench]'"
        )


def geometry_of(dim: int, tokens: int) -> Geometry:
    """Return the geometry of one prefix token before a square grid, with heads of 64.

    Raises:
        UsageError: A width that is no multiple of 64, or a number of tokens that is no square plus 1.
    """
    side = math.isqrt(max(tokens - PREFIX_TOKENS, 0))
    if side < 1 or side**2 + PREFIX_TOKENS != tokens:
        raise UsageError(f"{tokens} tokens are not a prefix token and a square grid", "use 197, 577, 1025 or 4097")
    if dim < HEAD_DIM or dim % HEAD_DIM:
        raise UsageError(f"a width of {dim} cannot be cut into heads of {HEAD_DIM}", "use 192, 384 or 768")
    return Geometry(dim, dim // HEAD_DIM, HEAD_DIM, PREFIX_TOKENS, (side, side))


def landmarks_of(geometry: Geometry) -> int:
    """Return how many keys our Linformer and landmarks our Nyströmformer have by default: 50 at 224 px."""
    return pooled_tokens(geometry, None)


def layer_contenders(geometry: Geometry, setting: Setting) -> list[Contender]:
    """Return every variant of ours around a timm layer with its default options, and every peer."""
    inputs = (setting.random(geometry.tokens, geometry.dim),)
    ours = [
        Contender(name, setting.place(_our_layer(name, geometry)), inputs, macs=setting.batch * _macs(name, geometry))
        for name in attention_variants()
    ]
    theirs = [
        Contender(mechanism, setting.place(_PEER_LAYERS[peer](geometry)), inputs, peer=peer)
        for mechanism, peer in PEERS.items()
    ]
    return ours + theirs


def core_contenders(geometry: Geometry, setting: Setting) -> list[Contender]:
    """Return exact attention, FAVOR+ and Nyström attention of projected tokens, ours and the peers'.

    Layers whose core is a method and no function have their projections replaced by the identity, and get q, k and v
    packed as the projection would have left them.
    """
    heads = tuple(setting.random(geometry.heads, geometry.tokens, geometry.head_dim) for _ in range(3))
    packed = (setting.random(geometry.tokens, 3 * geometry.attention_dim),)
    # The peer pads the tokens to a multiple of its landmarks before projecting them. Padding the packed q, k and v
    # instead would cost it three times as much, so it gets tokens that need none: the difference is in its favour.
    padded = (setting.random(_padded_tokens(geometry), 3 * geometry.attention_dim),)
    parts = [
        Contender("softmax", ExactCore(), heads, macs=_core_macs("softmax", geometry)),
        Contender("performer", FavorCore(geometry), heads, macs=_core_macs("performer", geometry)),
        Contender("performer", _their_favor_core(geometry), heads, peer="performer-pytorch"),
        Contender("nystromformer", _our_nystrom_core(geometry), packed, macs=_core_macs("nystromformer", geometry)),
        Contender("nystromformer", _their_nystrom_core(geometry), padded, peer="nystrom-attention"),
    ]
    return [
        Contender(
            part.mechanism,
            setting.place(part.module),
            part.inputs,
            part.peer,
            None if part.macs is None else setting.batch * part.macs,
        )
        for part in parts
    ]


class ExactCore(nn.Module):
    """PyTorch's fused attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class FavorCore(nn.Module):
    """What our Performer layer does between its projections, single precision inside included."""

    projection: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        options = PerformerOptions()
        features = orthogonal_features(options.features, geometry.head_dim, options.seed)
        self.register_buffer("projection", features)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        wide = torch.promote_types(v.dtype, torch.float32)
        with torch.autocast(device_type=q.device.type, enabled=False):
            mixed = favor_attention(q.to(wide), k.to(wide), v.to(wide), self.projection.to(wide))
        return mixed.to(v.dtype)


class Product(nn.Module):
    """One matrix product: what the machine makes of multiply-accumulates at its best."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right


def product_contender(setting: Setting) -> Contender:
    """Return a square product large enough for the machine's full rate: beyond a cache's, short of a turn's time."""
    side = 8192 if setting.device.type == "cuda" else 1024
    generator = torch.Generator().manual_seed(0)
    matrices = (torch.randn(side, side, generator=generator).to(setting.device, setting.dtype) for _ in range(2))
    return Contender(PRODUCT, Product(), tuple(matrices), macs=side**3)


def _our_layer(name: str, geometry: Geometry) -> nn.Module:
    variant = pick_variant(name)
    options = variant.resolve(variant.options(), geometry)
    return variant.build(geometry, options, Attention(geometry.dim, geometry.heads, qkv_bias=True))


def _macs(name: str, geometry: Geometry) -> int:
    variant = pick_variant(name)
    return variant.macs(geometry, variant.resolve(variant.options(), geometry)).total


def _core_macs(name: str, geometry: Geometry) -> int:
    variant = pick_variant(name)
    geometry = replace(geometry, linear=False)  # here nothing can be multiplied into projections: there are none
    return variant.macs(geometry, variant.resolve(variant.options(), geometry)).core


def _their_favor_core(geometry: Geometry) -> nn.Module:
    return _performer_layer(geometry).get_submodule("fast_attention")


def _our_nystrom_core(geometry: Geometry) -> nn.Module:
    layer = _our_layer("nystromformer", replace(geometry, linear=False))
    layer.qkv = layer.proj = nn.Identity()
    return layer


def _their_nystrom_core(geometry: Geometry) -> nn.Module:
    layer = _nystrom_layer(geometry)
    layer.to_qkv = layer.to_out = nn.Identity()
    return layer


def _padded_tokens(geometry: Geometry) -> int:
    landmarks = landmarks_of(geometry)
    return math.ceil(geometry.tokens / landmarks) * landmarks


def _linformer_layer(geometry: Geometry) -> nn.Module:
    from linformer import LinformerSelfAttention

    layer: nn.Module = LinformerSelfAttention(
        geometry.dim,
        geometry.tokens,
        k=landmarks_of(geometry),
        heads=geometry.heads,
        one_kv_head=False,
        share_kv=False,
    )
    return layer


def _performer_layer(geometry: Geometry) -> nn.Module:
    from performer_pytorch import SelfAttention

    layer: nn.Module = SelfAttention(
        geometry.dim,
        heads=geometry.heads,
        dim_head=geometry.head_dim,
        nb_features=PerformerOptions().features,
        generalized_attention=False,
        qkv_bias=True,
    )
    return layer


def _nystrom_layer(geometry: Geometry) -> nn.Module:
    from nystrom_attention import NystromAttention

    layer: nn.Module = NystromAttention(
        geometry.dim,
        dim_head=geometry.head_dim,
        heads=geometry.heads,
        num_landmarks=landmarks_of(geometry),
        pinv_iterations=6,
        residual=False,
    )
    return layer


def _exact_layer(geometry: Geometry) -> nn.Module:
    # `vit_pytorch.vit` and not the package: importing names from the latter depends on its release.
    from vit_pytorch.vit import Attention as PeerAttention

    layer: nn.Module = PeerAttention(geometry.dim, heads=geometry.heads, dim_head=geometry.head_dim)
    layer.norm = nn.Identity()  # it holds the block's norm, which timm has outside the layer
    return layer


_PEER_LAYERS: dict[str, Callable[[Geometry], nn.Module]] = {
    "linformer": _linformer_layer,
    "performer-pytorch": _performer_layer,
    "nystrom-attention": _nystrom_layer,
    "vit-pytorch": _exact_layer,
}
