"""timm Vision Transformers: creation, pretrained weights, input resolution."""

from __future__ import annotations

from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.attention.base import Geometry, InheritedAttention
from effvit.errors import UnavailableError, UnknownNameError, UnsupportedError, first_line
from effvit.hub import hub_answers_or_cache_only
from effvit.spec import check_resolution
from effvit.unprojected import is_linear

SUPPORTED = (
    "timm Vision Transformers whose blocks hold timm.layers.attention.Attention (ViT, DeiT, DINOv2, CLIP, SigLIP)"
)


def create_backbone(
    name: str,
    *,
    classes: int,
    resolution: tuple[int, int] | None = None,
    patch: int | None = None,
    drop_path: float = 0.0,
    pretrained: bool = False,
) -> VisionTransformer:
    """Return timm's model `name` with a head for `classes`, for images of `resolution` (height, width) px.

    `resolution` None means the model's own. The grid of tokens is fixed: a graph exported from a model that resamples
    its position embedding on the fly would need cubic resizing, which runtimes lack or get wrong.

    Raises:
        UnknownNameError: timm has no such model.
        UnsupportedError: Its blocks do not hold timm's plain attention.
        UsageError: The patch size is below 1 or does not divide the resolution.
        UnavailableError: `pretrained`, and the weights can be had neither from the hub nor from its cache.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownNameError("timm model", name, timm.list_models())
    if tag and f"{architecture}.{tag}" not in timm.list_pretrained(f"{architecture}.*"):
        raise UnknownNameError("pretrained tag", name, timm.list_pretrained(f"{architecture}.*"))
    arguments: dict[str, Any] = {"num_classes": classes, "drop_path_rate": drop_path}
    if patch is not None:
        arguments["patch_size"] = patch
    if resolution is not None:
        arguments["img_size"] = resolution
    if resolution is not None or patch is not None:
        own = unallocated(name)
        check_resolution(name, resolution or resolution_of(own), patch_size(own)[0] if patch is None else patch)
    if not pretrained:
        return _create(name, arguments)
    with hub_answers_or_cache_only():
        return _create_pretrained(name, arguments)


def _create(name: str, arguments: dict[str, Any], pretrained: bool = False) -> VisionTransformer:
    try:
        model = timm.create_model(name, pretrained=pretrained, dynamic_img_size=False, **arguments)
    except TypeError as error:  # a family without one of a ViT's arguments
        raise _unsupported(name, f"timm cannot build it like a ViT ({error})") from error
    if not isinstance(model, VisionTransformer):
        raise _unsupported(name, "it is not a plain Vision Transformer")
    attention_layers(model, name)
    return model


def _create_pretrained(name: str, arguments: dict[str, Any]) -> VisionTransformer:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return _create(name, arguments, pretrained=True)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UnavailableError(
            f"the pretrained weights of {name} are not in the local cache and the hub cannot be reached",
            "connect to the internet once, or name a checkpoint with --weights PATH, or use --weights none",
        ) from error
    # RuntimeError: there are none, or they do not fit. OSError: a failed download, a full disk.
    except (HfHubHTTPError, RuntimeError, SafetensorError, OSError) as error:
        raise UnavailableError(
            f"timm could not load pretrained weights for {name}: {first_line(error)}",
            "choose another model, or name a checkpoint with --weights PATH, or use --weights none",
        ) from error


def attention_layers(model: VisionTransformer, name: str) -> list[Attention | InheritedAttention]:
    """Return the attention layer of every block, in order; swapped layers included.

    Raises:
        UnsupportedError: The model is not a plain Vision Transformer, or a block's attention is of another kind.
    """
    if not isinstance(model.patch_embed, PatchEmbed):
        raise _unsupported(name, f"it cuts images into patches with {type(model.patch_embed).__name__}")
    layers: list[Attention | InheritedAttention] = []
    for index, block in enumerate(model.blocks):
        layer = getattr(block, "attn", None)
        # A subclass may compute something else with the same tensors, so only timm's very class is a donor.
        if isinstance(layer, InheritedAttention) or type(layer) is Attention:
            layers.append(layer)
        else:
            raise _unsupported(name, f"block {index} holds {type(layer).__name__}")
    return layers


def geometry_of(model: VisionTransformer, layer: Attention | InheritedAttention) -> Geometry:
    """Return the geometry of the tokens that `layer`, one of the model's attention layers, sees."""
    heads = layer.num_heads if isinstance(layer, Attention) else layer.heads
    return Geometry(
        dim=layer.qkv.in_features,
        heads=heads,
        head_dim=layer.head_dim,
        prefix_tokens=model.num_prefix_tokens,
        grid=tuple(model.patch_embed.grid_size),
        linear=is_linear(layer),
    )


def patch_size(model: VisionTransformer) -> tuple[int, int]:
    """Return (height, width) of a patch in px."""
    height, width = model.patch_embed.patch_size
    return height, width


def resolution_of(model: VisionTransformer) -> tuple[int, int]:
    """Return (height, width) in px of the images the model takes now."""
    height, width = model.patch_embed.img_size
    return height, width


def set_resolution(model: VisionTransformer, height: int, width: int) -> None:
    """Adapt the model to images of `height` x `width` px, in place: position embedding, and every swapped layer.

    Raises:
        UsageError: The patch size does not divide the resolution.
    """
    check_resolution(type(model).__name__, (height, width), patch_size(model)[0])
    if (height, width) == resolution_of(model):
        return
    before, position = tuple(model.patch_embed.grid_size), model.pos_embed
    with torch.no_grad():
        model.set_input_size(img_size=(height, width))
        if position is not None:
            # Older releases of timm leave a position embedding of as many patches in another shape as it is, and any
            # of them trainable again.
            prefix = 0 if model.no_embed_class else model.num_prefix_tokens
            resampled = resample_position(position, prefix, before, model.patch_embed.grid_size)
            model.pos_embed = nn.Parameter(resampled, position.requires_grad)
        for module in model.modules():
            if isinstance(module, InheritedAttention):
                module.resize(geometry_of(model, module))


def resample_position(position: Tensor, prefix_tokens: int, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Return a position embedding, `(1, prefix_tokens + patches, dim)`, for a grid of (rows, columns) `after`.

    Bicubic, and smoothed on the way down, as timm does it.
    """
    if tuple(before) == tuple(after):
        return position
    prefix, patches = position[:, :prefix_tokens], position[:, prefix_tokens:]
    maps = patches.float().reshape(1, *before, -1).permute(0, 3, 1, 2)  # (1, dim, rows, columns)
    maps = F.interpolate(maps, size=tuple(after), mode="bicubic", antialias=True)
    return torch.cat([prefix, maps.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)


def unallocated(name: str) -> VisionTransformer:
    """Return `name` at its own patch size and resolution, without memory for its weights."""
    with torch.device("meta"):
        return _create(name, {})


def _unsupported(name: str, reason: str) -> UnsupportedError:
    return UnsupportedError(f"{name} is not supported: {reason}", f"choose one of the {SUPPORTED}")
