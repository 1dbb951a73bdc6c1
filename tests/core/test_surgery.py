from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from models_for_tests import images_of, logits_of, model_of
from safetensors.torch import load, save
from timm.models.vision_transformer import VisionTransformer

from effvit.attention.base import InheritedAttention
from effvit.backbone import create_backbone
from effvit.checkpoint import load_weights
from effvit.errors import UnknownNameError, UnsupportedError, UsageError
from effvit.mix import parse_mix
from effvit.spec import ModelSpec, Swap
from effvit.surgery import attention_variants, model_from_spec, parse_options, pick_variant, replace_attention

APPROXIMATE = [name for name, variant in attention_variants().items() if not variant.exact]
# What each variant adds to a block, from its paper: a convolution, a gate over levels, maps to features, a compression,
# the draw of features, a convolution with a stride.
NEW = {
    "agent": {"value_convolution"},
    "atrous": {"level_gate.weight", "level_gate.bias"},
    "hedgehog": {"query_map", "key_map"},
    "linformer": {"compression"},
    "nystromformer": set(),
    "performer": {"projection"},
    "sra": {"reduction_weight"},
    "tome": set(),
}


@cache
def untouched(backbone: str) -> VisionTransformer:
    """Return timm's own model; drawing its weights takes longer than all the rest."""
    return create_backbone(backbone, classes=10, resolution=(64, 64)).eval()


def test_softmax_leaves_timms_own_layers_and_logits_alone() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64)).eval()
    layers, before = [block.attn for block in model.blocks], logits_of(model, images_of())
    surgery = replace_attention(model, [Swap("softmax")])
    assert all(block.attn is layer for block, layer in zip(model.blocks, layers, strict=True))
    assert torch.equal(logits_of(model, images_of()), before)
    assert surgery.new == ()
    assert surgery.inherited == tuple(model.state_dict())


@pytest.mark.parametrize(
    "backbone", ["test_vit", "test_vit2", "test_vit3", "test_vit4", "deit_tiny_distilled_patch16_224"]
)
@pytest.mark.parametrize("attention", APPROXIMATE)
def test_every_variant_fits_every_backbone(attention: str, backbone: str) -> None:
    model = deepcopy(untouched(backbone))
    donor, depth = set(model.state_dict()), len(model.blocks)
    surgery = replace_attention(model, [Swap(attention)])
    assert set(surgery.inherited) == donor
    assert set(surgery.new) == {f"blocks.{block}.attn.{name}" for block in range(depth) for name in NEW[attention]}
    logits = logits_of(model, images_of())
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_only_the_named_blocks_are_swapped() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64))
    replace_attention(model, [Swap("linformer", (), (4, 1))])
    swapped = [index for index, block in enumerate(model.blocks) if isinstance(block.attn, InheritedAttention)]
    assert swapped == [1, 4]


@pytest.mark.parametrize("index", [-1, 6])
def test_a_block_that_does_not_exist_is_refused(index: int) -> None:
    model = model_of()
    with pytest.raises(UsageError, match=f"block {index} does not exist") as caught:
        replace_attention(model, [Swap("linformer", (), (index,))])
    assert "0 to 5" in caught.value.hint


def test_no_block_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no block is named"):
        replace_attention(model_of(), [Swap("linformer", (), ())])


def test_a_swapped_block_is_not_swapped_again_and_the_others_stay() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64))
    replace_attention(model, [Swap("linformer", (), (1,))])
    first = model.blocks[0].attn
    with pytest.raises(UnsupportedError, match="block 1 was swapped before"):
        replace_attention(model, [Swap("performer")])
    assert model.blocks[0].attn is first


def test_options_may_be_text() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64))
    surgery = replace_attention(model, [Swap("performer", (("features", "16"),))])
    assert surgery.swaps[0].options == (("features", 16), ("seed", 0))
    assert model.blocks[0].attn.projection.shape[0] == 16


def test_options_that_follow_from_the_geometry_are_resolved() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64))
    # half of the 4 x 4 grid
    assert replace_attention(model, [Swap("linformer")]).swaps[0].options == (("pool", 2),)


def test_a_misspelt_option_gets_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="no option of linformer attention named 'pol'") as caught:
        parse_options(pick_variant("linformer"), [("pol", 2)])
    assert caught.value.closest == ("pool",)


@pytest.mark.parametrize("value", ["many", "2.5", 2.5])
def test_an_option_of_another_type_is_refused(value: str | float) -> None:
    with pytest.raises(UsageError, match="an option of linformer attention does not fit"):
        parse_options(pick_variant("linformer"), [("pool", value)])


def test_an_option_the_variant_refuses_is_refused() -> None:
    with pytest.raises(UsageError, match="pool must be at least 1, not 0"):
        parse_options(pick_variant("linformer"), [("pool", 0)])


def test_a_variant_without_options_takes_none() -> None:
    with pytest.raises(UsageError, match="softmax attention has no options, not even 'pool'"):
        parse_options(pick_variant("softmax"), [("pool", 2)])


def test_a_misspelt_variant_gets_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="no attention variant named 'linfomer'") as caught:
        pick_variant("linfomer")
    assert caught.value.closest[0] == "linformer"


@pytest.mark.parametrize("attention", attention_variants())
def test_a_specification_and_saved_weights_give_the_same_logits(attention: str) -> None:
    torch.manual_seed(0)
    model = create_backbone("test_vit", classes=10, resolution=(64, 96)).eval()
    surgery = replace_attention(model, [Swap(attention, (), None if attention == "softmax" else (4, 5))])
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in surgery.new:  # as if trained, and performer's features as if from another draw
                tensor.add_(0.01 * torch.randn_like(tensor))
    spec = ModelSpec("test_vit", surgery.swaps, 10, (64, 96))
    again = model_from_spec(spec).eval()
    assert load_weights(again, load(save(model.state_dict())), "weights") == ()
    assert torch.equal(logits_of(again, images_of(64, 96)), logits_of(model, images_of(64, 96)))


@pytest.mark.parametrize(("backbone", "prefix_tokens"), [("test_vit", 1), ("deit_tiny_distilled_patch16_224", 2)])
def test_swapped_layers_know_the_geometry(backbone: str, prefix_tokens: int) -> None:
    geometry = model_of("nystromformer", backbone, resolution=(64, 96)).blocks[0].attn.geometry
    assert (geometry.prefix_tokens, geometry.grid) == (prefix_tokens, (4, 6))


def test_blocks_may_hold_different_mechanisms() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64)).eval()
    surgery = replace_attention(model, parse_mix("0-1:atrous,3-5:linformer", [("linformer.pool", "3")]))
    kinds = [type(block.attn).__name__ for block in model.blocks]
    assert kinds == ["AtrousAttention"] * 2 + ["Attention"] + ["LinformerAttention"] * 3
    assert surgery.swaps[1] == Swap("linformer", (("pool", 3),), (3, 4, 5))
    assert logits_of(model, images_of()).isfinite().all()
    spec = ModelSpec("test_vit", surgery.swaps, 10, (64, 64))
    again = model_from_spec(spec).eval()
    load_weights(again, load(save(model.state_dict())), "weights")
    assert torch.equal(logits_of(again, images_of()), logits_of(model, images_of()))


def test_two_mechanisms_for_one_block_are_refused_before_any_is_swapped() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64))
    with pytest.raises(UsageError, match="block 1 is named twice"):
        replace_attention(model, [Swap("linformer", (), (0, 1)), Swap("performer", (), (1, 2))])
    assert not any(isinstance(block.attn, InheritedAttention) for block in model.blocks)


def test_blocks_that_would_keep_what_they_hold_are_refused() -> None:
    with pytest.raises(UsageError, match="blocks hold softmax attention already"):
        replace_attention(model_of(), [Swap("softmax", (), (0, 1))])
