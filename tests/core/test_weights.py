from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from models_for_tests import finished_run, images_of, logits_of, model_of, record_of
from safetensors.torch import save_file

from effvit import hub as hub_module
from effvit.backbone import patch_size, resolution_of
from effvit.checkpoint import save_weights
from effvit.errors import CheckpointError, UnavailableError, UnknownNameError, UsageError
from effvit.spec import Swap
from effvit.weights import Architecture, initial_model

PLAIN = Architecture("test_vit", 10, (Swap("softmax"),), resolution=(64, 64))
LINFORMER = replace(PLAIN, swaps=(Swap("linformer"),))
COMPRESSIONS = tuple(f"blocks.{block}.attn.compression" for block in range(6))


def test_auto_falls_back_to_random_weights_and_says_so(hub: Path) -> None:
    initial = initial_model(LINFORMER, "auto")
    assert (initial.weights.asked, initial.weights.origin, initial.weights.inherited) == ("auto", "random", 0)
    assert initial.weights.fresh == tuple(initial.model.state_dict())
    (warning,) = initial.warnings
    assert "training starts from random weights" in warning


def test_pretrained_does_not_fall_back(hub: Path) -> None:
    with pytest.raises(UnavailableError, match="not in the local cache"):
        initial_model(PLAIN, "pretrained")


def test_the_hub_is_not_asked_where_the_request_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_answers", lambda _url: pytest.fail("the network was touched"))
    with pytest.raises(UnknownNameError):
        initial_model(replace(PLAIN, swaps=(Swap("linfomer"),)), "auto")
    with pytest.raises(UsageError):
        initial_model(replace(PLAIN, resolution=(65, 65)), "auto")
    assert initial_model(PLAIN, "none").warnings == ()


@pytest.mark.parametrize("weights", ["auto", "pretrained"])
def test_pretrained_weights_in_the_cache_are_used_and_the_fresh_ones_named(weights: str, hub: Path) -> None:
    repository = hub / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    donor = timm.create_model("test_vit", num_classes=1000)
    save_file(donor.state_dict(), snapshot / "model.safetensors")
    initial = initial_model(LINFORMER, weights)
    assert (initial.weights.origin, initial.warnings) == ("pretrained", ())
    assert torch.equal(initial.model.blocks[0].mlp.fc1.weight, donor.blocks[0].mlp.fc1.weight)
    # A head for ten classes cannot be one for a thousand.
    assert set(initial.weights.fresh) == {*COMPRESSIONS, "head.weight", "head.bias"}
    assert initial.weights.inherited == len(donor.state_dict()) - 2


def test_stochastic_depth_reaches_the_blocks() -> None:
    model = initial_model(replace(PLAIN, drop_path=0.5), "none").model
    assert model.blocks[-1].drop_path1.drop_prob == 0.5


def test_a_checkpoint_file_gives_everything_but_the_new_parameters(tmp_path: Path) -> None:
    donor = model_of(seed=3)
    save_weights(tmp_path / "donor.safetensors", donor)
    initial = initial_model(LINFORMER, str(tmp_path / "donor.safetensors"))
    assert (initial.weights.origin, initial.weights.fresh) == ("checkpoint", COMPRESSIONS)
    assert initial.weights.inherited == len(donor.state_dict())
    assert torch.equal(initial.model.head.weight, donor.head.weight)


def test_a_checkpoint_file_of_another_grid_is_resampled(tmp_path: Path) -> None:
    save_weights(tmp_path / "donor.safetensors", model_of(resolution=(160, 160)))
    initial = initial_model(PLAIN, str(tmp_path / "donor.safetensors"))
    assert initial.weights.fresh == ()
    assert resolution_of(initial.model) == (64, 64)


def test_a_swapped_checkpoint_does_not_fit_another_attention(tmp_path: Path) -> None:
    save_weights(tmp_path / "donor.safetensors", model_of("linformer"))
    with pytest.raises(CheckpointError, match=r"has an unknown blocks\.0\.attn\.compression"):
        initial_model(PLAIN, str(tmp_path / "donor.safetensors"))


@pytest.mark.parametrize("trained", [(64, 64), (64, 400)])
def test_a_run_gives_the_very_model(trained: tuple[int, int], tmp_path: Path) -> None:
    run, donor = finished_run(tmp_path, "first", record_of("linformer", trained=trained, options=(("pool", 2),)))
    architecture = replace(LINFORMER, resolution=None, swaps=(Swap("linformer", (("pool", 2),)),))
    initial = initial_model(architecture, str(run.folder))
    images = images_of(*trained)
    assert torch.equal(logits_of(initial.model.eval(), images), logits_of(donor, images))


def test_a_run_is_resized_after_loading(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path, "first", record_of("linformer", options=(("pool", 2),)))
    initial = initial_model(replace(LINFORMER, resolution=(96, 128)), str(run.folder))
    assert resolution_of(initial.model) == (96, 128)
    assert logits_of(initial.model.eval(), images_of(96, 128)).isfinite().all()
    with pytest.raises(UsageError, match="65 px cannot be cut"):
        initial_model(replace(LINFORMER, resolution=(65, 64)), str(run.folder))


def test_a_run_keeps_its_patch_size(tmp_path: Path) -> None:
    run, donor = finished_run(tmp_path, "first", record_of(patch=8))
    initial = initial_model(replace(PLAIN, resolution=None), str(run.folder))
    assert patch_size(initial.model) == (8, 8)
    assert torch.equal(initial.model.patch_embed.proj.weight, donor.patch_embed.proj.weight)
    with pytest.raises(CheckpointError, match="first has patches of 8 px, not 16"):
        initial_model(replace(PLAIN, patch=16), str(run.folder))


def test_a_run_with_other_classes_gets_a_fresh_head(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path, "first", record_of())
    initial = initial_model(replace(PLAIN, classes=3), str(run.folder))
    assert initial.weights.fresh == ("head.weight", "head.bias")


def test_a_run_of_another_backbone_is_refused(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path, "first", record_of())
    with pytest.raises(CheckpointError, match="the run first is a test_vit, not a test_vit2"):
        initial_model(replace(PLAIN, backbone="test_vit2"), str(run.folder))


@pytest.mark.parametrize(
    ("make", "message"), [(Path.mkdir, "is not a run"), (lambda _path: None, "there is no checkpoint at")]
)
def test_a_path_without_weights_is_refused(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "weights")
    with pytest.raises(CheckpointError, match=message):
        initial_model(PLAIN, str(tmp_path / "weights"))
