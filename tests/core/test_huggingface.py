"""Checkpoints of `transformers`: its own models are the reference for what a converted one computes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_for_tests import (
    PLAIN,
    TEST_VIT,
    TOLERANCE,
    config_of,
    converted,
    features,
    reference,
    saved,
    small_vit,
    timm_model,
)
from models_for_tests import images_of, logits_of
from safetensors.torch import load_file
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.backbone import resolution_of, set_resolution
from effvit.errors import CheckpointError
from effvit.preprocessing import preprocessing_of
from effvit.spec import Swap
from effvit.weights import initial_model


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
