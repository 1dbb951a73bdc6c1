"""Every family of timm's plain Vision Transformers with every variant, in the form of a real member but small."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest
import timm
import torch
from models_for_tests import images_of, logits_of
from timm.layers import LayerScale
from timm.layers.attention import Attention
from timm.models import list_models, list_modules
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from effvit.attention.base import InheritedAttention
from effvit.backbone import attention_layers, create_backbone, geometry_of, patch_size, resolution_of, set_resolution
from effvit.errors import UnsupportedError
from effvit.models import MODULES
from effvit.spec import Swap
from effvit.surgery import attention_variants, pick_variant, replace_attention

VARIANTS = tuple(attention_variants())
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
ROWS, COLUMNS = 4, 6


def gated(model: VisionTransformer) -> None:
    """Give every block an attention layer with an output gate, which no model of timm's has yet."""
    for block in model.blocks:
        block.attn = Attention(32, num_heads=4, qkv_bias=True, gated=True)


@dataclass(frozen=True)
class Family:
    """A member of a family, its prefix tokens and whether it has LayerScale; `choices` go to timm beside the sizes."""

    name: str
    prefix_tokens: int
    layer_scale: bool = False
    choices: tuple[tuple[str, Any], ...] = ()
    change: Callable[[VisionTransformer], None] | None = None


FAMILIES = {
    "ViT": Family("vit_tiny_patch16_224", 1),
    "ViT with registers": Family("vit_base_patch16_reg4_gap_256", 4),
    "ViT, norm after the layers": Family("vit_base_patch16_rpn_224", 0),
    "DeiT": Family("deit_tiny_patch16_224", 1),
    "DeiT, distilled": Family("deit_tiny_distilled_patch16_224", 2),
    "DeiT-III": Family("deit3_small_patch16_224", 1, True),
    "DINOv2": Family("vit_small_patch14_dinov2", 1, True),
    "DINOv2 with registers": Family("vit_small_patch14_reg4_dinov2", 5, True),
    "DINOv2, giant": Family("vit_giant_patch14_reg4_dinov2", 5, True),
    "CLIP": Family("vit_base_patch16_clip_224", 1),
    "CLIP with QuickGELU": Family("vit_base_patch32_clip_quickgelu_224", 1),
    "SigLIP": Family("vit_base_patch16_siglip_224", 0),
    "SigLIP, mean of the tokens": Family("vit_so400m_patch14_siglip_gap_224", 0),
    "EVA": Family("eva_large_patch14_196", 1),
    "AIMv2": Family("aimv2_large_patch14_224", 0),
    "BEiT-3, scale-norm": Family("beit3_base_patch16_224", 1),
    "qk-norm": Family("vit_tiny_patch16_224", 1, choices=(("qk_norm", True),)),
    "qk-norm and scale-norm": Family(
        "vit_small_patch14_reg4_dinov2", 5, True, (("qk_norm", True), ("scale_attn_norm", True))
    ),
}
if "gated" in inspect.signature(Attention).parameters:
    FAMILIES["gate"] = Family("deit_tiny_patch16_224", 1, change=gated)


@cache
def untouched(family: str) -> VisionTransformer:
    """Return a member with weights that are not the initial ones, of which zeros and ones would hide a lost module."""
    chosen = FAMILIES[family]
    torch.manual_seed(0)
    patch = timm.create_model(chosen.name, **SMALL).patch_embed.patch_size[0]
    size = (ROWS * patch, COLUMNS * patch)
    model = timm.create_model(chosen.name, **SMALL, img_size=size, **dict(chosen.choices)).eval()
    if chosen.change is not None:
        chosen.change(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def swapped(family: str, attention: str) -> VisionTransformer:
    model = deepcopy(untouched(family))
    surgery = replace_attention(model, (Swap(attention),))
    assert set(surgery.inherited) == set(untouched(family).state_dict())
    return model


# Where a variant refuses a family, and says so: merging tokens sits between attention and MLP of a plain block.
REFUSED = {("ViT, norm after the layers", "tome")}


@pytest.mark.parametrize(("family", "attention"), [pair for pair in product(FAMILIES, VARIANTS) if pair not in REFUSED])
def test_every_family_takes_every_variant_and_another_resolution(family: str, attention: str) -> None:
    donor, model = untouched(family), swapped(family, attention)
    for name, tensor in donor.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    layers = attention_layers(model, family)
    assert geometry_of(model, layers[0]).prefix_tokens == FAMILIES[family].prefix_tokens
    images = images_of(*resolution_of(model))
    if pick_variant(attention).exact:
        assert torch.equal(logits_of(model, images), logits_of(donor, images))
    else:
        assert all(isinstance(layer, InheritedAttention) for layer in layers)
        assert not torch.allclose(logits_of(model, images), logits_of(donor, images), atol=1e-4)
    patch = patch_size(model)[0]
    for grid in ((ROWS, COLUMNS), (6, 6), (COLUMNS, ROWS)):
        pixels = grid[0] * patch, grid[1] * patch
        set_resolution(model, *pixels)
        assert logits_of(model, images_of(*pixels)).isfinite().all()
        assert geometry_of(model, attention_layers(model, family)[1]).grid == grid


@pytest.mark.parametrize(("family", "attention"), sorted(REFUSED))
def test_a_variant_that_does_not_fit_a_family_says_so(family: str, attention: str) -> None:
    with pytest.raises(UnsupportedError, match="ResPostBlock"):
        swapped(family, attention)


@pytest.mark.parametrize("attention", [name for name in VARIANTS if not attention_variants()[name].exact])
@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.layer_scale])
def test_layer_scale_still_scales_a_swapped_layer(family: str, attention: str) -> None:
    # With all its scales at zero the attention cannot matter, so every variant must give what softmax gives.
    logits = []
    for model in (deepcopy(untouched(family)), swapped(family, attention)):
        for block in model.blocks:
            assert isinstance(block.ls1, LayerScale)
            nn.init.zeros_(block.ls1.gamma)
        logits.append(logits_of(model, images_of(*resolution_of(model))))
    assert torch.equal(*logits)


def refused(name: str) -> None:
    with torch.device("meta"), pytest.raises(UnsupportedError, match=f"^{name} is not supported: "):
        create_backbone(name, classes=2)


@pytest.mark.parametrize(
    "name",
    [
        "beitv2_base_patch16_224",
        "cait_xxs24_224",
        "convit_tiny",
        "crossvit_tiny_240",
        "davit_tiny",
        "levit_128s",
        "naflexvit_base_patch16_gap",
        "pit_ti_224",
        "samvit_base_patch16",
        "swinv2_tiny_window8_256",
        "tnt_s_patch16_224",
        "vit_relpos_small_patch16_224",
        "vit_small_patch16_rope_224",
        "volo_d1_224",
    ],
)
def test_transformers_of_other_kinds_are_refused_by_name(name: str) -> None:
    refused(name)


@pytest.mark.slow  # some 90 models, though without memory for their weights
@pytest.mark.parametrize(
    "module", [name for name in list_modules() if name not in MODULES and list_models(module=name)]
)
def test_members_of_every_other_module_are_refused_by_name(module: str) -> None:
    refused(list_models(module=module)[0])
