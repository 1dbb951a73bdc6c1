"""Checkpoints of `transformers` that are damaged, or of another model than the one that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from huggingface_for_tests import PLAIN, config_of, converted, saved, timm_model
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from effvit.errors import CheckpointError, UnsupportedError
from effvit.huggingface import check_fit, huggingface_weights
from effvit.huggingface_config import read_config
from effvit.weights import initial_model


@pytest.mark.parametrize(
    ("family", "changes", "difference"),
    [
        ("vit", {"hidden_size": 48}, "its width is 48, not 32"),
        ("vit", {"num_hidden_layers": 3}, "its depth is 3, not 2"),
        ("vit", {"num_attention_heads": 2}, "its head count is 2, not 4"),
        ("vit", {"intermediate_size": 128}, "its mlp width is 128, not 96"),
        ("vit", {"hidden_act": "quick_gelu"}, "its mlp is quick_gelu, not gelu"),
        ("vit", {"hidden_act": "gelu_new"}, "its mlp is gelu_new, not gelu"),
        ("vit", {"qkv_bias": False}, "its qkv bias is False, not True"),
        ("vit", {"num_channels": 1}, "its channel count is 1, not 3"),
        ("vit", {"patch_size": 8}, "its patch is 8 x 8 px, not 16 x 16 px"),
        ("vit", {"layer_norm_eps": 1e-5}, "its norm is LayerNorm with epsilon 1e-05, not LayerNorm with epsilon 1e-06"),
        ("deit", {}, r"its prefix is class \+ distillation, not class"),
        ("dinov2", {}, "its layer scale is True, not False"),
        ("dinov2", {"use_swiglu_ffn": True}, "its mlp is swiglu, not gelu"),
        (
            "dinov2_with_registers",
            {"num_register_tokens": 2},
            r"its prefix is class \+ register \+ reg",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(
    family: str, changes: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    config_of(family, **changes).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"^x does not fit this_vit: {difference}") as caught:
        check_fit(read_config(tmp_path), timm_model(), "this_vit", "x")
    assert caught.value.hint == "name the timm model of the same architecture"


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"global_pool": "avg"}, "its pooling is class token, not avg of the tokens"),
        ({"class_token": False, "global_pool": "avg"}, "its prefix is class, not none"),
        ({"block_fn": ResPostBlock}, "its block is Block, not ResPostBlock"),
        ({"act_layer": "quick_gelu"}, "its mlp is gelu, not QuickGELU"),
        ({"norm_layer": nn.RMSNorm}, "its norm is LayerNorm with epsilon 1e-06, not RMSNorm"),
    ],
)
def test_a_backbone_that_computes_something_else_is_refused(
    changes: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    config_of("vit").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"^x does not fit this_vit: {difference}"):
        check_fit(read_config(tmp_path), timm_model(**changes), "this_vit", "x")


@pytest.mark.parametrize("choice", [{"qk_norm": True}, {"pre_norm": True}])
def test_a_backbone_with_more_layers_is_refused(choice: dict[str, bool], tmp_path: Path) -> None:
    saved(tmp_path, transformers.ViTForImageClassification, config_of("vit"))
    with pytest.raises(CheckpointError, match="it lacks "):
        converted(tmp_path, timm_model(**choice))


BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}


@pytest.mark.parametrize(
    ("family", "changes", "fitting"),
    [
        ("vit", {"intermediate_size": 3072, "image_size": 384}, "vit_base_patch16_384"),
        ("vit", {"intermediate_size": 3072, "image_size": 512}, "vit_base_patch16_224"),
        ("vit", {"intermediate_size": 3072, "patch_size": 32}, "vit_base_patch32_224"),
        ("deit", {"intermediate_size": 3072}, "deit_base_distilled_patch16_224"),
        ("dinov2", {"mlp_ratio": 4, "patch_size": 14}, "vit_base_patch14_dinov2"),
        ("dinov2_with_registers", {"mlp_ratio": 4, "patch_size": 14}, "vit_base_patch14_reg4_dinov2"),
    ],
)
def test_the_model_that_fits_is_named(family: str, changes: dict[str, Any], fitting: str, tmp_path: Path) -> None:
    config_of(family, **BASE, **changes).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="its width is 768, not 32") as caught:
        check_fit(read_config(tmp_path), timm_model(), "this_vit", "x")
    assert caught.value.hint == f"use `effvit finetune {fitting} ...`"


def test_a_dinov2_giant_fits_timms() -> None:
    config = config_of(
        "dinov2",
        hidden_size=1536,
        num_hidden_layers=40,
        num_attention_heads=24,
        mlp_ratio=4,
        use_swiglu_ffn=True,
        patch_size=14,
    )
    from effvit.huggingface_config import Config

    read = Config(**{name: getattr(config, name) for name in Config.__struct_fields__ if hasattr(config, name)})
    with torch.device("meta"):
        model = timm.create_model("vit_giant_patch14_dinov2")
    check_fit(read, model, "vit_giant_patch14_dinov2", "x")


@pytest.mark.parametrize("kind", ["beit", "swin", "vit_mae", "clip_vision_model"])
def test_another_model_type_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": "whatever"}))
    with pytest.raises(UnsupportedError, match=f"holds a model of type '{kind}'") as caught:
        initial_model(PLAIN, str(tmp_path))
    assert "vit, deit, dinov2, dinov2_with_registers" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"config\.json is damaged"),
        ("[]", r"config\.json is damaged"),
        ('{"model_type": "vit"', r"config\.json is damaged"),
        ('{"model_type": "vit"}', "missing required field `hidden_size`"),
        ('{"model_type": 3}', r"config\.json is damaged"),
        ('{"architecture": "test_vit"}', "names no model_type"),
    ],
)
def test_a_damaged_configuration_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        initial_model(PLAIN, str(tmp_path))
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("field", ["patch_size", "hidden_size", "intermediate_size", "num_attention_heads"])
@pytest.mark.parametrize("value", [0, -16, "many"])
def test_an_impossible_size_is_refused(field: str, value: int | str, tmp_path: Path) -> None:
    config = json.loads(config_of("vit").to_json_string())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        read_config(tmp_path)


def edited(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


KEY = "vit.encoder.layer.1.attention.attention.key.weight"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: tensors.pop(KEY), r"lacks encoder\.layer\.1\.attention\.attention\.key\.weight"),
        (lambda tensors: tensors.pop("vit.embeddings.cls_token"), r"lacks embeddings\.cls_token"),
        (lambda tensors: tensors.pop("classifier.bias"), r"lacks classifier\.bias"),
        (lambda tensors: tensors.update({KEY: torch.zeros(32, 16)}), r"key\.weight in shape \(32, 16\)"),
        (lambda tensors: tensors.update({KEY: tensors[KEY].to(torch.int8)}), r"key\.weight as torch\.int8"),
        (lambda tensors: tensors.update(lora=torch.zeros(2)), "has an unknown lora$"),
        (lambda tensors: tensors.update({"vit.a": torch.zeros(2), "vit.b": torch.zeros(2)}), "unknown a and 1 more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[dict[str, Tensor]], object], sentence: str, tmp_path: Path
) -> None:
    saved(tmp_path, transformers.ViTForImageClassification, config_of("vit"))
    edited(tmp_path, change)
    with pytest.raises(CheckpointError, match=sentence):
        converted(tmp_path, timm_model())


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    theirs = saved(tmp_path, transformers.ViTForImageClassification, config_of("vit"))
    edited(tmp_path, lambda tensors: tensors.update({name: tensor.half() for name, tensor in tensors.items()}))
    tensors = huggingface_weights(tmp_path, timm_model(), "x")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    torch.testing.assert_close(tensors["head.weight"], theirs.classifier.weight.half().float(), rtol=0, atol=0)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    config_of("vit").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds none of model\.safetensors"):
        converted(tmp_path, timm_model())


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ("{}", "index.json is damaged"),
        ('{"weight_map": {"a": "../../model.safetensors"}}', "which is not a file beside it"),
        ('{"weight_map": {"a": "/etc/model.safetensors"}}', "which is not a file beside it"),
        ('{"weight_map": {"a": "model-1-of-2.safetensors"}}', "there is no checkpoint at"),
    ],
)
def test_a_damaged_index_is_one_sentence(index: str, sentence: str, tmp_path: Path) -> None:
    config_of("vit").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=sentence):
        converted(tmp_path, timm_model())
