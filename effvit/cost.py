"""What a model costs on paper: parameters and multiply-accumulates for one image."""

from __future__ import annotations

from dataclasses import replace

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from effvit.backbone import attention_layers, geometry_of, patch_size
from effvit.errors import UnsupportedError
from effvit.spec import Cost, ModelSpec
from effvit.surgery import variants_by_block


def cost_of(model: VisionTransformer, spec: ModelSpec) -> Cost:
    """Return the cost of `model`, built from `spec`, at its present resolution.

    Raises:
        UnsupportedError: The head pools with attention of its own in a form that is not counted.
    """
    layers = attention_layers(model, spec.backbone)
    geometry = geometry_of(model, layers[0])
    rows, columns = patch_size(model)
    embedding = model.patch_embed.proj
    pixels = embedding.in_channels * rows * columns * geometry.patches
    macs = embedding.out_channels * pixels
    passed_on = geometry.tokens * geometry.dim
    core, merged = 0, 0
    variants = variants_by_block(spec.swaps, len(layers))
    for block, layer, (variant, options) in zip(model.blocks, layers, variants, strict=True):
        seen = replace(geometry_of(model, layer), merged=merged)
        attention = variant.macs(seen, options)
        merging = variant.merging(seen, options)
        merged += merging.patches
        mlp: nn.Module = block.get_submodule("mlp")
        gate = getattr(layer, "gate", None)  # timm's attention has had one since 2026
        macs += attention.total + _linear_macs(gate) * seen.tokens
        macs += merging.macs + _linear_macs(mlp) * (geometry.tokens - merged)
        core += attention.core + merging.macs
        passed_on += (geometry.tokens - merged) * geometry.dim
    # Distilled models classify twice.
    heads = _linear_macs(model.head) + _linear_macs(getattr(model, "head_dist", None))
    macs += _pooling_macs(model, geometry.tokens if model.pool_include_prefix else geometry.patches) + heads
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, macs, core, geometry.tokens, pixels + 2 * passed_on)


def _linear_macs(module: nn.Module | None) -> int:
    """Return the MACs of all linear layers in `module` for one token; 0 without a module."""
    if module is None:
        return 0
    return sum(part.in_features * part.out_features for part in module.modules() if isinstance(part, nn.Linear))


def _pooling_macs(model: VisionTransformer, tokens: int) -> int:
    """Return the MACs of an attention-pooling head (SigLIP), which runs once on `tokens` tokens; 0 without one."""
    pool = getattr(model, "attn_pool", None)
    if pool is None:
        return 0
    if not all(hasattr(pool, part) for part in ("q", "kv", "proj", "latent_len")):
        raise UnsupportedError(
            f"the MACs of {type(pool).__name__} are not counted", "choose a model with class-token or average pooling"
        )
    latents = pool.latent_len
    width = pool.num_heads * pool.head_dim
    pooling: int = (
        latents * (_linear_macs(pool.q) + _linear_macs(pool.proj) + _linear_macs(pool.mlp))
        + tokens * _linear_macs(pool.kv)
        + 2 * latents * tokens * width
    )
    return pooling
