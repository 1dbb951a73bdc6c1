from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import model_of
from safetensors import SafetensorError
from safetensors.torch import save_file

from effvit import checkpoint
from effvit.checkpoint import converted_weights, load_weights, read_weights, save_weights
from effvit.errors import CheckpointError, StorageError


class Malice:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_weights_survive_the_way_through_a_file(tmp_path: Path) -> None:
    model = model_of("performer")
    save_weights(tmp_path / "model.safetensors", model)
    read = read_weights(tmp_path / "model.safetensors")
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("extension", ["safetensors", "pth"])
@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "truncated", "text"])
def test_a_file_that_is_no_checkpoint_is_one_sentence(damage: str, extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{extension}"
    whole = {"head.weight": torch.zeros(10, 64)}
    if damage == "folder":
        path.mkdir()
    elif damage == "text":
        path.write_text("hello, world\n")
    elif damage == "empty":
        path.touch()
    elif damage == "truncated":
        save_file(whole, path) if extension == "safetensors" else torch.save(whole, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=f"model\\.{extension}") as caught:
        read_weights(path)
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("modern", [True, False])
def test_bytes_changed_at_random_never_escape_as_another_error(modern: bool, tmp_path: Path) -> None:
    path, rng = tmp_path / "model.pth", random.Random(0)
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=modern)
    whole = path.read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except CheckpointError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("written_by", ["torch", "pickle"])
def test_a_pickle_is_refused_and_not_executed(written_by: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pth", tmp_path / "executed"
    content = {"head.weight": torch.zeros(2), "malice": Malice(marker)}
    if written_by == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match="would have to be unpickled") as caught:
        read_weights(path)
    assert not marker.exists()
    assert "safetensors" in caught.value.hint
    pickle.loads(pickle.dumps(Malice(marker)))  # it would have been
    assert marker.exists()


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "state_dict_ema", "model_ema"])
def test_pytorch_files_are_read_with_or_without_a_wrapper(wrapper: str | None, tmp_path: Path) -> None:
    tensors = {"module.head.weight": torch.ones(2)}  # as DistributedDataParallel names it
    torch.save(tensors if wrapper is None else {wrapper: tensors, "epoch": 3}, tmp_path / "model.pth")
    read = read_weights(tmp_path / "model.pth")
    assert list(read) == ["head.weight"]
    assert torch.equal(read["head.weight"], torch.ones(2))


def test_averaged_weights_win_over_the_last_ones(tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": {"a": torch.ones(1)}}
    torch.save(content, tmp_path / "model.pth")
    assert read_weights(tmp_path / "model.pth")["a"] == 1


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.zeros(2)])
def test_a_file_without_named_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("donor", "clash"),
    [
        ({"attention": "linformer"}, r"has an unknown blocks\.0\.attn\.compression and 5 more"),
        ({"backbone": "test_vit4"}, "lacks cls_token and 14 more"),
        ({"resolution": (64, 96)}, "has another shape of pos_embed"),
    ],
)
def test_another_architecture_is_named_by_the_first_clash(donor: dict[str, Any], clash: str) -> None:
    model, tensors = model_of(), model_of(**donor).state_dict()
    before = model.head.weight.clone()
    with pytest.raises(CheckpointError, match=f"^old.pth is of another architecture than VisionTransformer.*{clash}"):
        load_weights(model, dict(tensors), "old.pth")
    assert torch.equal(model.head.weight, before)


def test_a_missing_tensor_is_named() -> None:
    tensors = dict(model_of().state_dict())
    del tensors["blocks.3.mlp.fc1.bias"]
    with pytest.raises(CheckpointError, match=r"it lacks blocks\.3\.mlp\.fc1\.bias$"):
        load_weights(model_of(), tensors, "old.pth")


def test_other_classes_keep_a_fresh_head_and_take_all_the_rest() -> None:
    model, donor = model_of(classes=3, seed=1), model_of(classes=10, seed=2)
    head = model.head.weight.clone()
    assert load_weights(model, dict(donor.state_dict()), "old.pth") == ("head.weight", "head.bias")
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.pos_embed, donor.pos_embed)


def test_only_parameters_of_a_swap_may_be_missing() -> None:
    model, tensors = model_of("linformer"), dict(model_of().state_dict())
    new = tuple(f"blocks.{block}.attn.compression" for block in range(6))
    assert load_weights(model, tensors, "old.pth", new=new) == new
    with pytest.raises(CheckpointError, match=r"lacks blocks\.0\.attn\.compression and 5 more"):
        load_weights(model_of("linformer"), tensors, "old.pth")


def test_the_tensors_passed_in_are_left_as_they_are() -> None:
    tensors = dict(model_of(classes=10).state_dict())
    load_weights(model_of(classes=3), tensors, "old.pth")
    assert "head.weight" in tensors


def test_a_position_embedding_of_another_grid_is_resampled() -> None:
    donor, model = model_of(), model_of(resolution=(96, 96))
    tensors = dict(donor.state_dict())
    tensors["pos_embed"] = torch.full_like(tensors["pos_embed"], 0.25)
    load_weights(model, converted_weights(model, tensors, "old.pth"), "old.pth")
    # Resampling a constant gives it back, up to the float32 rounding of weights that sum to 1.
    torch.testing.assert_close(model.pos_embed, torch.full((1, 1 + 6 * 6, 64), 0.25), rtol=1e-6, atol=0)


def test_weights_of_the_same_grid_are_loaded_bit_by_bit() -> None:
    # 4 x 25 patches are as many as the 10 x 10 of the backbone itself, for which timm would take them.
    donor, model = model_of(resolution=(64, 400), seed=1), model_of(resolution=(64, 400), seed=2)
    load_weights(model, dict(donor.state_dict()), "old.pth")
    assert torch.equal(model.pos_embed, donor.pos_embed)


def test_what_timm_cannot_convert_is_one_sentence() -> None:
    # timm tells CLIP's own checkpoints by the first name, and transposes the second
    clip = {"visual.class_embedding": torch.zeros(2), "visual.proj": torch.zeros(())}
    with pytest.raises(CheckpointError, match=r"^clip\.pth cannot be converted"):
        converted_weights(model_of(), clip, "clip.pth")


# What safetensors says on a full disk (0.8, on a full tmpfs), and where the operating system's number is missing.
@pytest.mark.parametrize(
    ("text", "cause", "hint"),
    [
        (
            "Error while serializing: I/O error: No space left on device (os error 28)",
            "no space left on device",
            "free some space",
        ),
        (
            'Error while serializing: I/O error: Permission denied (os error 13) at path "/data/7 /.tmp1"',
            "permission denied",
            "you may write to",
        ),
        ("Error while serializing: something", "error while serializing: something", "check the folder"),
    ],
)
def test_a_full_disk_is_a_storage_error_and_the_old_weights_stay(
    text: str, cause: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise SafetensorError(text)

    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(StorageError) as caught:
        save_weights(path, model_of())
    assert caught.value.message == f"{path} cannot be written: {cause}"
    assert hint in caught.value.hint
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
