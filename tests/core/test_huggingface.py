"""Checkpoints of `transformers`: its own models are the reference for what a converted one computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from huggingface_hub import constants
from models_for_tests import images_of, logits_of
from safetensors.torch import load_file, save_file
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging

from effvit import hub as hub_module
from effvit.backbone import resolution_of, set_resolution
from effvit.checkpoint import load_weights
from effvit.errors import CheckpointError, UnavailableError, UnsupportedError, UsageError
from effvit.huggingface import check_fit, huggingface_weights
from effvit.huggingface_config import read_config
from effvit.preprocessing import preprocessing_of
from effvit.spec import Swap
from effvit.weights import Architecture, initial_model

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


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize(("image", "patch", "heads"), [((64, 64), 16, 4), ((64, 96), 16, 2), ((48, 32), 8, 1)])
def test_a_vit_gives_the_same_logits(
    image: tuple[int, int], patch: int, heads: int, qkv_bias: bool, tmp_path: Path
) -> None:
    config = config_of("vit", image_size=image, patch_size=patch, num_attention_heads=heads, qkv_bias=qkv_bias)
    theirs = saved(tmp_path, transformers.ViTForImageClassification, config)
    ours = timm_model(img_size=image, patch_size=patch, num_heads=heads, qkv_bias=qkv_bias)
    assert converted(tmp_path, ours) == ()
    images = images_of(*image)
    torch.testing.assert_close(logits_of(ours, images), reference(theirs, images).logits, rtol=0, atol=TOLERANCE)


def test_the_smaller_epsilon_of_transformers_is_the_only_difference(tmp_path: Path) -> None:
    theirs = saved(tmp_path, transformers.ViTForImageClassification, config_of("vit", layer_norm_eps=1e-12))
    ours = timm_model()
    assert converted(tmp_path, ours) == ()
    expected = reference(theirs, images_of()).logits
    difference = (logits_of(ours, images_of()) - expected).norm() / expected.norm()
    assert 1e-6 < difference < 1e-4  # half of 1e-6 over the variance of a token, here some 1e-1
    for module in ours.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12
    torch.testing.assert_close(logits_of(ours, images_of()), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [{}, {"embed_dim": 48, "num_heads": 3, "depth": 3}])
def test_a_distilled_deit_gives_the_same_logits_through_both_heads(size: dict[str, int], tmp_path: Path) -> None:
    names = {"embed_dim": "hidden_size", "num_heads": "num_attention_heads", "depth": "num_hidden_layers"}
    changes = {names[name]: value for name, value in size.items()} | ({"intermediate_size": 144} if size else {})
    theirs = saved(tmp_path, transformers.DeiTForImageClassificationWithTeacher, config_of("deit", **changes))
    ours = timm_model(VisionTransformerDistilled, **size)
    assert converted(tmp_path, ours) == ()
    images, output = images_of(), reference(theirs, images_of())
    torch.testing.assert_close(logits_of(ours, images), output.logits, rtol=0, atol=TOLERANCE)
    ours.set_distilled_training(True)
    by_class, by_distillation = ours.train()(images)
    torch.testing.assert_close(by_class, output.cls_logits, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(by_distillation, output.distillation_logits, rtol=0, atol=TOLERANCE)


def test_the_only_head_of_a_deit_without_a_teacher_is_left_out(tmp_path: Path) -> None:
    theirs = saved(tmp_path, transformers.DeiTForImageClassification, config_of("deit"))
    ours = timm_model(VisionTransformerDistilled)
    assert converted(tmp_path, ours) == ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
    output = reference(theirs.deit, images_of()).last_hidden_state
    torch.testing.assert_close(features(ours, images_of()), output, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("registers", [0, 1, 4])
@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("headed", [False, True])
def test_a_dinov2_gives_the_same_features(headed: bool, swiglu: bool, registers: int, tmp_path: Path) -> None:
    family = "dinov2_with_registers" if registers else "dinov2"
    changes = {"num_register_tokens": registers} if registers else {}
    config = config_of(family, use_swiglu_ffn=swiglu, patch_size=14, image_size=70, **changes)
    stem = "Dinov2WithRegisters" if registers else "Dinov2"
    kind = getattr(transformers, f"{stem}{'ForImageClassification' if headed else 'Model'}")
    theirs = saved(tmp_path, kind, config)
    # 32 x 3 units; SwiGLU: two thirds of them, counted twice by timm
    mlp = {"mlp_layer": SwiGLUPacked, "mlp_ratio": 4.0, "act_layer": nn.SiLU} if swiglu else {}
    ours = timm_model(
        img_size=70,
        patch_size=14,
        init_values=1.0,
        reg_tokens=registers,
        no_embed_class=registers > 0,
        **mlp,
    )
    assert converted(tmp_path, ours) == ("head.weight", "head.bias")
    images = images_of(70, 70)
    output = reference(getattr(theirs, family) if headed else theirs, images).last_hidden_state
    torch.testing.assert_close(features(ours, images), output, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", [transformers.ViTModel, transformers.ViTForMaskedImageModeling])
def test_a_vit_without_a_classifier_keeps_a_fresh_head(kind: type[Any], tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind, config_of("vit"))
    ours = timm_model()
    assert converted(tmp_path, ours) == ("head.weight", "head.bias")
    output = reference(getattr(theirs, "vit", theirs), images_of()).last_hidden_state
    torch.testing.assert_close(features(ours, images_of()), output, rtol=0, atol=TOLERANCE)


def test_other_classes_keep_a_fresh_head(tmp_path: Path) -> None:
    saved(tmp_path, transformers.ViTForImageClassification, config_of("vit"))
    assert converted(tmp_path, timm_model(num_classes=3)) == ("head.weight", "head.bias")


def resampled(position: Tensor, prefix: int, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    maps = position[:, prefix:].transpose(1, 2).unflatten(2, before)
    maps = F.interpolate(maps, size=after, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    return torch.cat([position[:, :prefix], maps], dim=1)


@pytest.mark.parametrize("after", [(6, 8), (2, 8), (3, 2)])
def test_another_resolution_gives_the_logits_of_the_resampled_position_embedding(
    after: tuple[int, int], tmp_path: Path
) -> None:
    theirs = saved(tmp_path / "small", transformers.ViTForImageClassification, config_of("vit"))
    pixels = after[0] * 16, after[1] * 16
    state = theirs.state_dict()
    name = "vit.embeddings.position_embeddings"
    state[name] = resampled(state[name], 1, (4, 4), after)
    large = transformers.ViTForImageClassification(config_of("vit", image_size=pixels)).eval()
    large.load_state_dict(state)
    built, resized = timm_model(img_size=pixels), timm_model()
    assert converted(tmp_path / "small", built) == converted(tmp_path / "small", resized) == ()
    set_resolution(resized, *pixels)
    images = images_of(*pixels)
    expected = reference(large, images).logits
    for ours in (built, resized):
        torch.testing.assert_close(logits_of(ours, images), expected, rtol=0, atol=TOLERANCE)


def test_transformers_own_interpolation_is_another_and_close(tmp_path: Path) -> None:
    # `interpolate_pos_encoding` is bicubic with another kernel and without smoothing, so equality is not to be had.
    theirs = saved(tmp_path, transformers.ViTForImageClassification, config_of("vit"))
    ours = timm_model(img_size=96)
    converted(tmp_path, ours)
    images = images_of(96, 96)
    expected = reference(theirs, images, interpolate_pos_encoding=True).logits
    difference = (logits_of(ours, images) - expected).norm() / expected.norm()
    assert 1e-4 < difference < 0.1


def test_a_grid_of_equally_many_patches_in_another_shape_is_resampled(tmp_path: Path) -> None:
    theirs = saved(tmp_path, transformers.ViTForImageClassification, config_of("vit", image_size=(32, 128)))
    ours = timm_model()  # 4 x 4 patches, the checkpoint is for 2 x 8
    converted(tmp_path, ours)
    expected = resampled(theirs.vit.embeddings.position_embeddings, 1, (2, 8), (4, 4))
    torch.testing.assert_close(ours.pos_embed, expected)


def test_another_patch_size_is_resampled_only_where_asked_for(tmp_path: Path) -> None:
    small_vit(tmp_path)
    initial = initial_model(replace(PLAIN, patch=8), str(tmp_path))
    assert initial.model.patch_embed.proj.weight.shape == (64, 3, 8, 8)
    assert initial.weights.fresh == ()
    config_of("vit", **TEST_VIT, patch_size=8).save_pretrained(tmp_path / "8")
    with pytest.raises(CheckpointError, match="its patch is 8 x 8 px, not 16 x 16 px"):
        initial_model(PLAIN, str(tmp_path / "8"))


def small_vit(folder: Path, **choices: Any) -> Any:
    """Save a checkpoint of the form of timm's test_vit."""
    return saved(folder, transformers.ViTForImageClassification, config_of("vit", **TEST_VIT), **choices)


def torch_format(folder: Path, *, names: tuple[str, str] = ("model.safetensors", "pytorch_model.bin")) -> None:
    torch.save(load_file(folder / names[0]), folder / names[1])
    (folder / names[0]).unlink()


def torch_shards(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for shard in set(index["weight_map"].values()):
        torch_format(folder, names=(shard, shard.replace("safetensors", "bin")))
    index["weight_map"] = {name: file.replace("safetensors", "bin") for name, file in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize(
    ("choices", "change"),
    [
        ({}, lambda _folder: None),
        ({}, torch_format),
        ({"max_shard_size": "200KB"}, lambda _folder: None),
        ({"max_shard_size": "200KB"}, torch_shards),
    ],
    ids=["safetensors", "torch", "safetensors in parts", "torch in parts"],
)
def test_every_layout_of_a_folder_is_read(
    choices: dict[str, str], change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = small_vit(tmp_path, **choices)
    change(tmp_path)
    assert choices == {} or len(list(tmp_path.glob("*-of-*"))) > 2
    expected = reference(theirs, images_of()).logits
    monkeypatch.setitem(sys.modules, "transformers", None)  # an import would fail
    initial = initial_model(PLAIN, str(tmp_path))
    assert (initial.weights.origin, initial.weights.fresh) == ("checkpoint", ())
    torch.testing.assert_close(logits_of(initial.model.eval(), images_of()), expected, rtol=0, atol=TOLERANCE)


def test_a_swapped_model_takes_everything_but_what_the_swap_added(tmp_path: Path) -> None:
    small_vit(tmp_path)
    initial = initial_model(replace(PLAIN, swaps=(Swap("linformer"),), resolution=(96, 64)), str(tmp_path))
    assert initial.weights.fresh == tuple(f"blocks.{block}.attn.compression" for block in range(6))
    assert resolution_of(initial.model) == (96, 64)
    assert logits_of(initial.model.eval(), images_of(96, 64)).isfinite().all()


def test_the_pixels_are_scaled_as_the_checkpoint_says(tmp_path: Path) -> None:
    small_vit(tmp_path)
    own = preprocessing_of(initial_model(PLAIN, str(tmp_path)).model)
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 64, "width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    preprocessing = preprocessing_of(initial_model(PLAIN, str(tmp_path)).model)
    assert preprocessing == replace(own, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty hub cache on a machine without network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "_answers", lambda _url: False)
    return tmp_path / "hub"


def cached(hub: Path, **choices: Any) -> Path:
    """Lay a checkpoint out as a download of hf:someone/small would have left it."""
    repository = hub / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    small_vit(repository / "snapshots" / COMMIT, **choices)
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
@pytest.mark.parametrize("choices", [{}, {"max_shard_size": "200KB"}])
def test_a_cached_checkpoint_is_found_without_network(choices: dict[str, str], revision: str, hub: Path) -> None:
    folder = cached(hub, **choices)
    initial = initial_model(PLAIN, f"hf:someone/small{revision}")
    assert initial.weights.asked == f"hf:someone/small{revision}"
    assert (initial.weights.revision, initial.weights.fresh) == (COMMIT, ())
    again = initial_model(PLAIN, str(folder)).model
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in initial.model.state_dict().items())
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("lost", [None, "config.json", "model.safetensors"])
def test_a_checkpoint_that_cannot_be_had_is_one_sentence(lost: str | None, hub: Path) -> None:
    if lost is not None:
        (cached(hub) / lost).unlink()
    with pytest.raises(
        UnavailableError, match=r"^the weights of hf:someone/small are not in the local cache"
    ) as caught:
        initial_model(PLAIN, "hf:someone/small")
    assert "--weights PATH" in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_part_that_is_not_cached_is_one_sentence(hub: Path) -> None:
    next(cached(hub, max_shard_size="200KB").glob("*-of-*")).unlink()
    with pytest.raises(UnavailableError, match="are not in the local cache"):
        initial_model(PLAIN, "hf:someone/small")


def test_what_does_not_fit_is_refused_before_its_weights_are_asked_for(hub: Path) -> None:
    (cached(hub) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"^hf:someone/small does not fit deit_tiny_patch16_224: its width"):
        initial_model(replace(PLAIN, backbone="deit_tiny_patch16_224"), "hf:someone/small")


@pytest.mark.parametrize("identifier", ["hf:", "hf:small", "hf:a/b/c", "hf:a/b@", "hf:a b/c", "hf:../..", "hf:a/b--c"])
def test_a_malformed_identifier_is_refused(identifier: str, hub: Path) -> None:
    with pytest.raises(UsageError, match="does not name a checkpoint on the hub") as caught:
        initial_model(PLAIN, identifier)
    assert "hf:OWNER/NAME" in caught.value.hint


def test_the_hubs_refusal_is_one_sentence(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_choices: object) -> str:
        raise OSError("404 Client Error.\nRepository Not Found")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UnavailableError, match=r"^the hub did not give hf:someone/small: 404 Client Error\.$"):
        initial_model(PLAIN, "hf:someone/small")


def test_the_hubs_own_variables_are_obeyed(tmp_path: Path) -> None:
    cached(tmp_path / "hub")
    code = """
from effvit.errors import UnavailableError
from effvit.hub import download_config, download_weights
snapshot = download_config("hf:someone/small")
download_weights("hf:someone/small", snapshot)
print(snapshot.revision)
try:
    download_config("hf:someone/large")
except UnavailableError as error:
    print(error.exit_code)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [COMMIT, "3"]
