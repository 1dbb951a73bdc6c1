from __future__ import annotations

import pytest
import torch
from models_for_tests import model_of
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from effvit.backbone import create_backbone, resolution_of, set_resolution
from effvit.cost import cost_of
from effvit.errors import UnsupportedError
from effvit.spec import ModelSpec, Swap
from effvit.surgery import attention_variants, replace_attention


def built(
    backbone: str, attention: str, resolution: tuple[int, int] | None, layers: tuple[int, ...] | None = None
) -> tuple[VisionTransformer, ModelSpec]:
    # On the meta device nothing is computed and no memory taken, but every operator is counted. Matrices that variants
    # compute when they are built (random features, say) need a real one.
    with torch.device("cpu" if backbone == "test_vit" else "meta"):
        model = create_backbone(backbone, classes=7, resolution=resolution).eval()
        surgery = replace_attention(model, [Swap(attention, (), layers)])
    return model, ModelSpec(backbone, surgery.swaps, 7, resolution_of(model))


def counted_macs(model: VisionTransformer) -> float:
    """Return what PyTorch counts: matrix products and convolutions, two operations a multiply-accumulate."""
    counter = FlopCounterMode(display=False)
    model.requires_grad_(False)  # the counter follows gradients, and trips over expanded parameters without them
    images = torch.zeros(1, 3, *resolution_of(model), device=model.pos_embed.device)
    # Fused kernels are not all in the counter's table; the unfused products are.
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(images)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("resolution", [(64, 64), (96, 96), (64, 96)])
@pytest.mark.parametrize("attention", attention_variants())
def test_macs_are_what_pytorch_counts(attention: str, resolution: tuple[int, int]) -> None:
    model, spec = built("test_vit", attention, resolution)
    assert cost_of(model, spec).macs == counted_macs(model)


@pytest.mark.parametrize("attention", ["softmax", "linformer"])
@pytest.mark.parametrize(
    "backbone",
    [
        "test_vit2",
        "test_vit3",  # attention pooling
        "test_vit4",
        "deit_tiny_distilled_patch16_224",  # two heads
        "vit_base_patch16_siglip_224",  # attention pooling, no class token
        "aimv2_large_patch14_224",  # SwiGLU
        "vit_giant_patch14_dinov2",  # packed SwiGLU
        "vit_so150m_patch16_reg4_map_256",  # pools patches alone
    ],
)
def test_every_kind_of_head_and_mlp_is_counted(backbone: str, attention: str) -> None:
    model, spec = built(backbone, attention, None)
    assert cost_of(model, spec).macs == counted_macs(model)


def test_blocks_left_alone_cost_what_softmax_costs() -> None:
    model, spec = built("test_vit", "linformer", (64, 64), layers=(0, 3))
    assert cost_of(model, spec).macs == counted_macs(model)


def test_a_mix_costs_what_its_blocks_cost() -> None:
    model = create_backbone("test_vit", classes=7, resolution=(64, 64)).eval()
    surgery = replace_attention(model, [Swap("linformer", (), (0, 3)), Swap("performer", (), (1,))])
    assert cost_of(model, ModelSpec("test_vit", surgery.swaps, 7, (64, 64))).macs == counted_macs(model)


def test_a_resized_model_costs_what_it_costs_now() -> None:
    model = model_of("linformer")
    set_resolution(model, 96, 128)
    spec = ModelSpec("test_vit", (Swap("linformer", (("pool", 2),)),), 10, (64, 64))
    cost = cost_of(model, spec)
    assert cost.tokens == 1 + 6 * 8
    assert cost.macs == counted_macs(model)


@pytest.mark.parametrize("attention", ["softmax", "linformer"])
def test_the_gate_of_a_gated_donor_is_counted(attention: str) -> None:
    model = create_backbone("test_vit", classes=7, resolution=(64, 64)).eval()
    for block in model.blocks:
        assert isinstance(block.attn, Attention)
        block.attn.gate = nn.Linear(64, 64)
    surgery = replace_attention(model, [Swap(attention)])
    spec = ModelSpec("test_vit", surgery.swaps, 7, (64, 64))
    assert cost_of(model, spec).macs == counted_macs(model)


def test_the_core_is_what_vanishes_if_mixing_were_free() -> None:
    model, spec = built("test_vit", "softmax", (64, 64))
    # 6 blocks; q k^T and the weighted sum of v over 17 tokens at a width of 64
    assert cost_of(model, spec).core_macs == 6 * 2 * 17**2 * 64


def test_parameters_are_all_tensors_that_learn() -> None:
    model, spec = built("test_vit", "performer", (64, 64))
    buffers = sum(block.attn.projection.numel() for block in model.blocks)
    assert cost_of(model, spec).parameters == sum(tensor.numel() for tensor in model.state_dict().values()) - buffers


def test_a_pooling_head_that_is_not_known_is_refused() -> None:
    model, spec = built("test_vit3", "softmax", (64, 64))
    model.attn_pool = nn.Identity()
    with pytest.raises(UnsupportedError, match="the MACs of Identity are not counted"):
        cost_of(model, spec)


def test_the_least_moved_is_pixels_and_twice_what_passes_between_blocks() -> None:
    model, spec = built("test_vit", "softmax", (64, 64))
    passed_on: list[int] = []
    for module in (model.norm_pre, *model.blocks):  # what the first takes, and what every block gives
        module.register_forward_hook(lambda _module, _taken, given: passed_on.append(given.numel()))
    model(torch.zeros(1, 3, 64, 64))
    assert len(passed_on) == 1 + 6
    assert cost_of(model, spec).least_moved == 3 * 64 * 64 + 2 * sum(passed_on)


def test_merged_tokens_are_not_passed_on() -> None:
    exact, merging = (built("test_vit", attention, (64, 64)) for attention in ("softmax", "tome"))
    more, fewer = cost_of(*exact).least_moved, cost_of(*merging).least_moved
    assert more is not None
    assert fewer is not None
    assert fewer < more
