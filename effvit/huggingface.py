"""Checkpoints of Hugging Face `transformers`, read without that package and converted for timm's models."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import GluMlp, LayerScale, Mlp, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from effvit.backbone import patch_size, resample_position, unallocated
from effvit.checkpoint import read_weights
from effvit.errors import CheckpointError
from effvit.huggingface_config import CONFIG, EPSILON, WEIGHT_FILES, Config, read_config, shards_of

# Parts beside the trunk that no timm model of these families has.
HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.", "pooler.", "decoder.", "embeddings.mask_token")
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}


@dataclass(frozen=True, slots=True)
class Form:
    """What a Vision Transformer computes, but for the values of its tensors and its patch size."""

    width: int
    depth: int
    head_count: int
    mlp: str
    mlp_width: int
    channel_count: int
    prefix: tuple[str, ...]
    qkv_bias: bool
    layer_scale: bool
    block: str
    pooling: str
    norm: str


def check_fit(
    config: Config, model: VisionTransformer, backbone: str, source: str, *, other_patch: bool = False
) -> None:
    """Check that `model`, timm's `backbone` before any swap, computes what the checkpoint `source` was trained as.

    With `other_patch` the patch size may differ.

    Raises:
        CheckpointError: It does not; the first difference is named, and the timm model that would where there is one.
    """
    theirs, ours = _form_of_config(config), _form_of_model(model)
    differences = [
        (field.name, getattr(theirs, field.name), getattr(ours, field.name))
        for field in fields(Form)
        if getattr(theirs, field.name) != getattr(ours, field.name)
    ]
    if not differences and not other_patch and config.patch != patch_size(model):
        differences = [("patch", _pixels(config.patch), _pixels(patch_size(model)))]
    if differences:
        name, theirs_value, ours_value = differences[0]
        fitting = _fitting_model(config, theirs)
        raise CheckpointError(
            f"{source} does not fit {backbone}: its {name.replace('_', ' ')} is {_text(theirs_value)}, "
            f"not {_text(ours_value)}",
            f"use `effvit finetune {fitting} ...`" if fitting else "name the timm model of the same architecture",
        )


def huggingface_weights(folder: Path, model: VisionTransformer, source: str) -> dict[str, Tensor]:
    """Return the checkpoint in `folder` as `model` would hold it, which `check_fit` has accepted.

    Patch and position embedding are resampled where patch size or grid differ, as timm does it. Heads that timm's model
    does not have are left out: the one of DINOv2 reads the mean patch beside the class token, the only one of a DeiT
    without a teacher no distillation token.

    Raises:
        CheckpointError: The folder is damaged, lacks a tensor or holds an unknown one.
    """
    config = read_config(folder)
    tensors = _Tensors(_read_tensors(folder), config.model_type, source)
    converted = _embeddings(config, tensors, model)
    for index in range(config.num_hidden_layers):
        for name, tensor in _block(config, tensors, f"encoder.layer.{index}.").items():
            converted[f"blocks.{index}.{name}"] = tensor
    converted |= tensors.layer("layernorm", "norm", config.hidden_size)
    converted |= _classifiers(config, tensors)
    tensors.require_empty()
    return converted


class _Tensors:
    """The tensors of a checkpoint, each taken once; what is left in the end is unknown."""

    def __init__(self, tensors: dict[str, Tensor], trunk: str, source: str) -> None:
        self.source = source
        self.tensors = {name.removeprefix(f"{trunk}."): tensor for name, tensor in tensors.items()}

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor in float32.

        Raises:
            CheckpointError: There is none, or of another shape or type.
        """
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise CheckpointError(f"{self.source} lacks {name}", "copy or download the folder again")
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{self.source} holds {name} in shape {tuple(tensor.shape)}, where its {CONFIG} asks for {shape}",
                "copy or download the folder again",
            )
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{self.source} holds {name} as {tensor.dtype}", "name a checkpoint that is not quantised"
            )
        return tensor.float()

    def layer(self, name: str, target: str, *shape: int, bias: bool = True) -> dict[str, Tensor]:
        """Return weight and bias of the layer `name` under the name `target`; `shape` is the weight's."""
        taken = {f"{target}.weight": self.take(f"{name}.weight", *shape)}
        if bias:
            taken[f"{target}.bias"] = self.take(f"{name}.bias", shape[0])
        return taken

    def require_empty(self) -> None:
        """Refuse tensors nobody took, but for heads.

        Raises:
            CheckpointError: There are some.
        """
        unknown = [name for name in self.tensors if not name.startswith(HEADS)]
        if unknown:
            raise CheckpointError(
                f"{self.source} has an unknown {unknown[0]}"
                + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""),
                "name a checkpoint that `save_pretrained` wrote",
            )


def _embeddings(config: Config, tensors: _Tensors, model: VisionTransformer) -> dict[str, Tensor]:
    width, (rows, columns) = config.hidden_size, config.grid
    registers = config.num_register_tokens
    # In `transformers` class and distillation token have a position, registers have none.
    positioned = len(config.prefix_tokens) - registers
    classes = tensors.take("embeddings.cls_token", 1, 1, width)
    position = tensors.take("embeddings.position_embeddings", 1, positioned + rows * columns, width)
    if model.no_embed_class:  # timm's model has none either: what is always added becomes part of the token
        classes = classes + position[:, :1]
        position, positioned = position[:, 1:], 0
    kernel = (width, config.num_channels, *config.patch)
    converted = tensors.layer("embeddings.patch_embeddings.projection", "patch_embed.proj", *kernel)
    if patch_size(model) != config.patch:
        weight = converted["patch_embed.proj.weight"]
        converted["patch_embed.proj.weight"] = resample_patch_embed(weight, list(patch_size(model)))
    converted["cls_token"] = classes
    converted["pos_embed"] = resample_position(position, positioned, config.grid, model.patch_embed.grid_size)
    if "distillation" in config.prefix_tokens:
        converted["dist_token"] = tensors.take("embeddings.distillation_token", 1, 1, width)
    if registers:
        converted["reg_token"] = tensors.take("embeddings.register_tokens", 1, registers, width)
    return converted


def _block(config: Config, tensors: _Tensors, block: str) -> dict[str, Tensor]:
    """Return the tensors of the block whose names begin with `block`, under timm's names."""
    width = config.hidden_size
    first, second = ("norm1", "norm2") if config.is_dinov2 else ("layernorm_before", "layernorm_after")
    converted = tensors.layer(f"{block}{first}", "norm1", width) | tensors.layer(f"{block}{second}", "norm2", width)
    parts = [
        tensors.layer(f"{block}attention.attention.{part}", "attn.qkv", width, width, bias=config.qkv_bias)
        for part in ("query", "key", "value")
    ]
    # timm packs q, k and v along the outputs of one layer.
    converted |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    converted |= tensors.layer(f"{block}attention.output.dense", "attn.proj", width, width)
    for target, (name, outputs, inputs) in _mlp_layers(config).items():
        converted |= tensors.layer(f"{block}{name}", target, outputs, inputs)
    if config.is_dinov2:
        for scale in (1, 2):
            converted[f"ls{scale}.gamma"] = tensors.take(f"{block}layer_scale{scale}.lambda1", width)
    return converted


def _mlp_layers(config: Config) -> dict[str, tuple[str, int, int]]:
    """Return (name, outputs, inputs) of a block's two linear layers, by timm's names."""
    width, hidden = config.hidden_size, config.mlp_width
    first, second = ("mlp.fc1", "mlp.fc2") if config.is_dinov2 else ("intermediate.dense", "output.dense")
    inner = hidden
    if config.use_swiglu_ffn:  # gate and value are packed alike in both
        first, second, inner = "mlp.weights_in", "mlp.weights_out", 2 * hidden
    return {"mlp.fc1": (first, inner, width), "mlp.fc2": (second, width, hidden)}


def _classifiers(config: Config, tensors: _Tensors) -> dict[str, Tensor]:
    """Return the heads that compute what timm's do; none for a checkpoint without."""
    names = {"vit": {"classifier": "head"}, "deit": {"cls_classifier": "head", "distillation_classifier": "head_dist"}}
    converted: dict[str, Tensor] = {}
    for name, target in names.get(config.model_type, {}).items():
        weight = tensors.tensors.get(f"{name}.weight")
        if weight is not None:
            converted |= tensors.layer(name, target, len(weight), config.hidden_size)
    return converted


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " + ".join(value) or "none"
    return str(value)


def _form_of_config(config: Config) -> Form:
    return Form(
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        head_count=config.num_attention_heads,
        mlp="swiglu" if config.use_swiglu_ffn else config.hidden_act,
        mlp_width=config.mlp_width,
        channel_count=config.num_channels,
        prefix=config.prefix_tokens,
        qkv_bias=config.qkv_bias,
        layer_scale=config.is_dinov2,
        block="Block",
        pooling="class token",
        norm=f"LayerNorm with epsilon {max(config.layer_norm_eps, EPSILON)}",
    )


def _form_of_model(model: VisionTransformer) -> Form:
    block: Any = model.blocks[0]
    prefix = ("class",) * (model.cls_token is not None) + ("distillation",) * hasattr(model, "dist_token")
    by_class_token = model.global_pool == "token" and isinstance(model.fc_norm, nn.Identity)
    return Form(
        width=model.embed_dim,
        depth=len(model.blocks),
        head_count=block.attn.num_heads,
        mlp=_mlp_of(block.mlp),
        mlp_width=block.mlp.fc2.in_features,
        channel_count=model.patch_embed.proj.in_channels,
        prefix=prefix + ("register",) * model.num_reg_tokens,
        qkv_bias=block.attn.qkv.bias is not None,
        layer_scale=isinstance(getattr(block, "ls1", None), LayerScale),
        block=type(block).__name__,
        pooling="class token" if by_class_token else f"{model.global_pool} of the tokens",
        norm=f"{type(block.norm1).__name__} with epsilon {getattr(block.norm1, 'eps', None)}",
    )


def _mlp_of(mlp: nn.Module) -> str:
    """Return the activation by its name in `transformers`, or the class where the layer is not two linear ones."""
    if isinstance(mlp, GluMlp):
        return "swiglu" if isinstance(mlp.act, nn.SiLU) and not mlp.gate_last else "GluMlp"
    if type(mlp) is not Mlp or not isinstance(mlp.norm, nn.Identity):
        return type(mlp).__name__
    return "gelu" if isinstance(mlp.act, nn.GELU) and mlp.act.approximate == "none" else type(mlp.act).__name__


def _fitting_model(config: Config, form: Form) -> str | None:
    """Return the timm model of this form, None where it is not one of the usual."""
    size, patch = SIZES.get(config.hidden_size), config.patch[0]
    registers = f"_reg{config.num_register_tokens}" if config.num_register_tokens else ""
    stem = {"vit": f"vit_{size}_patch{patch}", "deit": f"deit_{size}_distilled_patch{patch}"}.get(config.model_type)
    names = (
        [f"vit_{size}_patch{patch}{registers}_dinov2"]
        if stem is None
        else [f"{stem}_{pixels}" for pixels in (config.pixels[0], 224, 384)]
    )
    for name in names:
        if timm.is_model(name) and _form_of_model(unallocated(name)) == form:
            return name
    return None


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            parts = shards_of(folder / name) if name.endswith(".json") else [name]
            return {tensor: value for part in parts for tensor, value in read_weights(folder / part).items()}
    raise CheckpointError(f"{folder} holds none of {', '.join(WEIGHT_FILES)}", "copy or download the folder again")
