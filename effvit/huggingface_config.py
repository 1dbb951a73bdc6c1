"""What the files beside a checkpoint of Hugging Face `transformers` say about it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TypeVar

import msgspec

from effvit.errors import CheckpointError, UnsupportedError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# Weights as `transformers` writes them, one file or an index of several. The first that is there is taken.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
# timm's ViTs divide by sqrt(variance + 1e-6), as the original ViT, DeiT and DINOv2 do; `transformers` writes 1e-12 for
# the very same weights of the first two. The converted model keeps timm's, so that a run can be built again from timm's
# name; logits then differ by about 1e-3 of their size at most (7e-4 for random weights in the form of ViT-Base), a step
# of bfloat16's being 4e-3. More than 1e-6 is another model.
EPSILON = 1e-6

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What `config.json` says about the computation, under its own names.

    `image_size` and `patch_size` are px: one number, or height and width.
    """

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int | tuple[int, int]
    patch_size: int | tuple[int, int]
    intermediate_size: int | None = None
    mlp_ratio: float | None = None
    num_channels: int = 3
    hidden_act: str = "gelu"
    layer_norm_eps: float = EPSILON
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 0

    @property
    def is_dinov2(self) -> bool:
        return self.model_type.startswith("dinov2")

    @property
    def pixels(self) -> tuple[int, int]:
        """(height, width) in px of the images that the position embedding is for."""
        return _pair(self.image_size)

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) of a patch in px."""
        return _pair(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches that the position embedding is for."""
        return self.pixels[0] // self.patch[0], self.pixels[1] // self.patch[1]

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        if self.model_type == "deit":
            return "class", "distillation"
        return ("class", *("register",) * self.num_register_tokens)

    @property
    def mlp_width(self) -> int:
        """Units of the hidden layer of a block's MLP."""
        if not self.is_dinov2:
            return self.intermediate_size or 0
        width = int(self.hidden_size * (self.mlp_ratio or 0))
        # SwiGLU has three matrices in place of two, so two thirds of the width, rounded up to a multiple of 8.
        return math.ceil((width * 2 // 3) / 8) * 8 if self.use_swiglu_ffn else width


class Processor(msgspec.Struct, frozen=True):
    """What `preprocessor_config.json` says about the scale of pixels."""

    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None


def is_huggingface(folder: Path) -> bool:
    """Say whether `folder` holds a model of the hub and not a run."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> Config:
    """Return the configuration in `folder`.

    Raises:
        CheckpointError: It is damaged, or lacks what the conversion needs.
        UnsupportedError: It is of a model type that timm's plain Vision Transformers do not compute.
    """
    path = folder / CONFIG
    kind = _decoded(path, _Kind).model_type
    if kind is None:
        raise CheckpointError(
            f"{path} names no model_type, so it is not of `transformers`",
            "name the file of the weights instead: --weights FOLDER/model.safetensors",
        )
    if kind not in MODEL_TYPES:
        raise UnsupportedError(
            f"{folder} holds a model of type {kind!r}",
            f"choose a checkpoint of one of the types {', '.join(MODEL_TYPES)}",
        )
    config = _decoded(path, Config)
    sizes = (*config.pixels, *config.patch, config.hidden_size, config.num_attention_heads)
    if min(*sizes, config.num_hidden_layers, config.mlp_width) < 1 or config.num_register_tokens < 0:
        raise CheckpointError(f"{path} is damaged: it lacks a size, or one is below 1", "copy the folder again")
    return config


def pixel_statistics(folder: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """Return (mean, standard deviation) of the pixels the checkpoint in `folder` was trained on, None if it is silent.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / PROCESSOR
    if not path.is_file():
        return None
    processor = _decoded(path, Processor)
    if processor.image_mean is None or processor.image_std is None:
        return None
    return processor.image_mean, processor.image_std


def shards_of(index: Path) -> list[str]:
    """Return the names of the files that the index of a checkpoint in several files names, all of them beside it.

    Raises:
        CheckpointError: The index is damaged, or names a file elsewhere.
    """
    shards = sorted(set(_decoded(index, _Index).weight_map.values()))
    for shard in shards:
        if not re.fullmatch(r"\w[\w.-]*", shard):
            raise CheckpointError(f"{index} names {shard!r}, which is not a file beside it", "use another checkpoint")
    return shards


class _Kind(msgspec.Struct, frozen=True):
    model_type: str | None = None


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def _decoded(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    # UnicodeDecodeError: msgspec lets it through.
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", "copy or download the folder again") from error


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
