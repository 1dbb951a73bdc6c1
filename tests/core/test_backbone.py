from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from models_for_tests import images_of, logits_of, model_of
from safetensors.torch import save_file

from effvit import hub as hub_module
from effvit.backbone import attention_layers, create_backbone, geometry_of, patch_size, resolution_of, set_resolution
from effvit.errors import UnavailableError, UnknownNameError, UnsupportedError, UsageError


def test_a_misspelt_model_gets_the_closest_names() -> None:
    with pytest.raises(UnknownNameError, match="there is no timm model named 'vit_tiny_patch16_223'") as caught:
        create_backbone("vit_tiny_patch16_223", classes=2)
    assert "vit_tiny_patch16_224" in caught.value.closest


def test_a_misspelt_tag_gets_the_tags_of_that_model() -> None:
    with pytest.raises(UnknownNameError, match="there is no pretrained tag") as caught:
        create_backbone("test_vit.r160_in21k", classes=2)
    assert caught.value.closest == ("test_vit.r160_in1k",)


@pytest.mark.parametrize("resolution", [None, (224, 224)])
@pytest.mark.parametrize(
    "name",
    [
        "swin_tiny_patch4_window7_224",
        "beit_base_patch16_224",
        "eva02_tiny_patch14_224",
        "xcit_nano_12_p8_224",
        "vit_tiny_r_s16_p8_224",
        "resnet18",
        "vit_small_patch16_18x2_224",
    ],
)
def test_other_families_are_refused_with_what_is_supported(name: str, resolution: tuple[int, int] | None) -> None:
    with torch.device("meta"), pytest.raises(UnsupportedError, match=f"^{name} is not supported: ") as caught:
        create_backbone(name, classes=2, resolution=resolution)
    assert "ViT, DeiT, DINOv2, CLIP, SigLIP" in caught.value.hint


@pytest.mark.parametrize(
    ("resolution", "sentence", "hint"),
    [
        ((65, 64), "65 px cannot be cut into the 16 px patches of test_vit", "64 or 80 px"),
        ((64, 79), "79 px cannot be cut into the 16 px patches of test_vit", "64 or 80 px"),
        ((8, 64), "8 px cannot be cut into the 16 px patches of test_vit", "use 16 px"),
        ((0, 64), "0 px cannot be cut into the 16 px patches of test_vit", "use 16 px"),
    ],
)
def test_a_resolution_that_cannot_be_cut_gets_near_ones(resolution: tuple[int, int], sentence: str, hint: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        create_backbone("test_vit", classes=2, resolution=resolution)
    assert hint in caught.value.hint
    with pytest.raises(UsageError, match=sentence.partition(" of ")[0]):
        set_resolution(model_of(), *resolution)


@pytest.mark.parametrize("patch", [0, -16])
@pytest.mark.parametrize("resolution", [None, (64, 64)])
def test_a_patch_without_pixels_is_refused(patch: int, resolution: tuple[int, int] | None) -> None:
    with pytest.raises(UsageError, match=f"patch size must be at least 1 px, not {patch}"):
        create_backbone("test_vit", classes=2, patch=patch, resolution=resolution)


def test_a_patch_must_divide_the_models_own_resolution() -> None:
    # 160 px hold 22 patches of 7 px, and 6 px more that no token would see
    with pytest.raises(UsageError, match="160 px cannot be cut into the 7 px patches"):
        create_backbone("test_vit", classes=2, patch=7)


def test_a_patch_replaces_the_models_own() -> None:
    model = create_backbone("test_vit", classes=2, patch=8, resolution=(64, 32))
    assert patch_size(model) == (8, 8)
    assert model.patch_embed.grid_size == (8, 4)


def test_images_need_not_be_square() -> None:
    model = model_of(resolution=(64, 96))
    assert resolution_of(model) == (64, 96)
    assert logits_of(model, images_of(64, 96)).shape == (2, 10)


def test_the_grid_of_tokens_is_fixed() -> None:
    # With timm's dynamic sizes this would resample the position embedding inside the graph.
    with pytest.raises(AssertionError, match="Input height"):
        logits_of(model_of(), images_of(96, 96))


def test_a_resolution_can_be_set_and_taken_back() -> None:
    model = model_of("linformer")
    set_resolution(model, 96, 128)
    assert resolution_of(model) == (96, 128)
    assert model.pos_embed.shape[1] == 1 + 6 * 8
    assert geometry_of(model, attention_layers(model, "test_vit")[0]).grid == (6, 8)
    assert logits_of(model, images_of(96, 128)).shape == (2, 10)
    set_resolution(model, 64, 64)
    assert logits_of(model, images_of()).shape == (2, 10)


def test_the_present_resolution_changes_nothing() -> None:
    model = model_of()
    before = model.pos_embed
    set_resolution(model, 64, 64)
    assert model.pos_embed is before


def test_equally_many_tokens_in_another_shape_are_resampled() -> None:
    # 4 x 6 and 6 x 4 patches: counting tokens alone would leave rows where columns belong.
    model = model_of(resolution=(64, 96))
    with torch.no_grad():
        rows = torch.arange(4.0).repeat_interleave(6)  # every patch holds the number of its row
        model.pos_embed[0, 1:] = rows[:, None]
    set_resolution(model, 96, 64)
    resampled = model.pos_embed[0, 1:, 0].reshape(6, 4)
    # equal along every row; 1e-5 is float32 rounding of values up to 3 over a kernel of 16 weights
    assert (resampled.max(dim=1).values - resampled.min(dim=1).values).max() < 1e-5
    assert resampled[5, 0] - resampled[0, 0] > 2.5


@pytest.mark.parametrize("frozen", [False, True])
def test_equally_many_tokens_are_resampled_to_a_square_too(frozen: bool) -> None:
    # timm 1.0.26 takes as many patches in a square for the grid they were in.
    model = model_of(resolution=(32, 128))
    with torch.no_grad():
        model.pos_embed[0, 1:] = torch.arange(2.0).repeat_interleave(8)[:, None]  # the number of the row
    model.pos_embed.requires_grad_(not frozen)
    set_resolution(model, 64, 64)
    resampled = model.pos_embed[0, 1:, 0].reshape(4, 4)
    assert (resampled.max(dim=1).values - resampled.min(dim=1).values).max() < 1e-5
    assert resampled[3, 0] - resampled[0, 0] > 0.9
    assert model.pos_embed.requires_grad is not frozen


@pytest.mark.parametrize(
    ("name", "prefix_tokens"),
    [
        ("test_vit2", 1),
        ("test_vit3", 1),
        ("deit_tiny_distilled_patch16_224", 2),
        ("vit_base_patch16_siglip_224", 0),
        ("vit_small_patch14_reg4_dinov2", 5),
    ],
)
def test_prefix_tokens_are_counted(name: str, prefix_tokens: int) -> None:
    with torch.device("meta"):
        model = create_backbone(name, classes=2, resolution=(112, 112))
    geometry = geometry_of(model, attention_layers(model, name)[0])
    assert geometry.prefix_tokens == prefix_tokens
    side = 112 // patch_size(model)[0]
    assert geometry.grid == (side, side)
    assert geometry.attention_dim == geometry.dim == model.embed_dim


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty hub cache, the only one timm sees, on a machine without network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "_answers", lambda _url: False)
    return tmp_path


def cache_weights(hub: Path, model: torch.nn.Module) -> Path:
    """Put the model's weights where a download of test_vit.r160_in1k would have put them."""
    repository = hub / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    return snapshot / "model.safetensors"


def test_pretrained_weights_that_cannot_be_had_are_one_sentence(hub: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(UnavailableError, match="pretrained weights of test_vit are not in the local cache") as caught:
        create_backbone("test_vit", classes=2, pretrained=True)
    # The hub's client alone retries for most of a minute.
    assert time.perf_counter() - started < 10
    assert "--weights none" in caught.value.hint
    assert constants.HF_HUB_OFFLINE is False


def test_pretrained_weights_come_from_the_cache_without_network(hub: Path) -> None:
    donor = timm.create_model("test_vit", num_classes=1000)
    cache_weights(hub, donor)
    model = create_backbone("test_vit", classes=2, resolution=(64, 64), pretrained=True)
    own = model.state_dict()
    for name, tensor in donor.state_dict().items():
        if name.split(".")[0] not in ("head", "pos_embed"):
            assert torch.equal(own[name], tensor), name
    assert model.pos_embed.shape[1] == 1 + 4 * 4
    assert torch.equal(own["pos_embed"][:, 0], donor.pos_embed[:, 0])  # the class token's is not resampled
    assert model.head.out_features == 2


def test_damaged_weights_in_the_cache_are_one_sentence(hub: Path) -> None:
    file = cache_weights(hub, timm.create_model("test_vit", num_classes=1000))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UnavailableError, match="timm could not load pretrained weights for test_vit"):
        create_backbone("test_vit", classes=2, pretrained=True)


def test_a_model_nobody_trained_has_no_pretrained_weights(hub: Path) -> None:
    with pytest.raises(UnavailableError, match="could not load pretrained weights for test_vit4"):
        create_backbone("test_vit4", classes=2, pretrained=True)


def test_a_host_that_does_not_answer_is_told_from_one_that_does() -> None:
    # Port 9 of this very machine: refused at once, without any network.
    assert hub_module._answers("http://127.0.0.1:9") is False
    assert hub_module._answers("not a url") is False
