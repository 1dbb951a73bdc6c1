"""Small checkpoints of `transformers`, and the timm models that they are converted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers.utils import logging

from effvit.checkpoint import load_weights
from effvit.huggingface import check_fit, huggingface_weights
from effvit.huggingface_config import read_config
from effvit.spec import Swap
from effvit.weights import Architecture

logging.disable_progress_bar()
# Float32: sums of some hundred products in another order, over logits of about 1.
TOLERANCE = 1e-5
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEST_VIT = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 192}
PLAIN = Architecture("test_vit", 10, (Swap("softmax"),), resolution=(64, 64))


def config_of(family: str, **changes: Any) -> Any:
    """Return a configuration with two blocks 32 wide, for 4 x 4 patches of 16 px."""
    kinds = {
        "vit": transformers.ViTConfig,
        "deit": transformers.DeiTConfig,
        "dinov2": transformers.Dinov2Config,
        "dinov2_with_registers": transformers.Dinov2WithRegistersConfig,
    }
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "patch_size": 16}
    sizes |= {"layer_norm_eps": 1e-6}
    sizes |= {"mlp_ratio": 3} if "dinov2" in family else {"intermediate_size": 96}
    return kinds[family](**{**sizes, "num_labels": 10, "attn_implementation": "eager", **changes})


def saved(folder: Path, kind: type[Any], config: Any, **choices: Any) -> Any:
    """Return a model with weights far from their initial ones (which are zeros and ones in part), saved in `folder`."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, **choices)
    return model


def timm_model(kind: type[VisionTransformer] = VisionTransformer, **changes: Any) -> VisionTransformer:
    """Return timm's model of the form of `config_of`."""
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 3}
    return kind(**{**sizes, "num_classes": 10, **changes}).eval()


def converted(folder: Path, model: VisionTransformer) -> tuple[str, ...]:
    """Load the checkpoint in `folder` into `model` and return the names that stay fresh."""
    check_fit(read_config(folder), model, "this model", str(folder))
    return load_weights(model, huggingface_weights(folder, model, str(folder)), str(folder))


def reference(model: nn.Module, images: Tensor, **choices: Any) -> Any:
    with torch.inference_mode():
        return model(images, **choices)


def features(model: VisionTransformer, images: Tensor) -> Tensor:
    with torch.inference_mode():
        tokens: Tensor = model.forward_features(images)
    return tokens


def small_vit(folder: Path, **choices: Any) -> Any:
    """Save a checkpoint of the form of timm's test_vit."""
    return saved(folder, transformers.ViTForImageClassification, config_of("vit", **TEST_VIT), **choices)
