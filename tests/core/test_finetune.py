from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_for_tests import digits

from effvit.errors import UnavailableError, UnknownNameError, UsageError
from effvit.finetune import Finetuning, Listener, finetune
from effvit.run import EpochRecord, Run, open_run
from effvit.spec import Swap

BRIEF = {"epochs": 1, "batch": 20}


class Diary(Listener):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def begin(self, run: Run) -> None:
        self.entries.append(f"begin {run.name} {run.record.status}")

    def epoch(self, record: EpochRecord) -> None:
        self.entries.append(f"epoch {record.epoch}")


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_is_left_out_follows_from_the_data(tmp_path: Path) -> None:
    data, diary = digits(), Diary()
    hints = replace(data.hints, resolution=32, random_erasing=0.25)
    request = Finetuning(
        (Swap("linformer"),), weights="none", device="cpu", threads=1, recipe={**BRIEF, "drop_path": 0.125}
    )
    run = finetune(request, replace(data, hints=hints), out=tmp_path, name="first", listener=diary)
    record = open_run(run.folder).record
    spec, recipe = record.spec, record.recipe
    assert (spec.backbone, spec.attention, spec.classes, spec.trained) == ("test_vit", "linformer", 10, (32, 32))
    assert (spec.swaps, spec.patch) == ((Swap("linformer", (("pool", 1),)),), 16)
    assert (recipe.epochs, recipe.batch, recipe.drop_path) == (1, 20, 0.125)
    assert (recipe.learning_rate, recipe.layer_decay) == (hints.scratch_learning_rate, None)
    assert (recipe.crop_scale, recipe.horizontal_flip, recipe.random_erasing) == (hints.crop_scale, 0.0, 0.25)
    assert (record.data.train_images, record.data.val_images, record.data.classes) == (40, 20, data.classes)
    assert (record.device, record.environment.threads, record.status) == ("cpu", 1, "done")
    assert diary.entries == ["begin first running", "epoch 1"]
    assert run.model().blocks[-1].attn.compression.shape == (1, 4)


def refused(tmp_path: Path, **changes: object) -> None:
    request = replace(Finetuning((Swap("softmax"),), weights="none", device="cpu", threads=1, recipe=BRIEF), **changes)
    try:
        finetune(request, digits(), out=tmp_path, name="first")
    finally:
        assert not (tmp_path / "first").exists()


def test_an_unknown_recipe_field_gets_the_closest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="there is no recipe field named 'epoch'") as caught:
        refused(tmp_path, recipe={"epoch": 3})
    assert caught.value.closest[0] == "epochs"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"epochs": "three"}, "a recipe field does not fit"),
        ({"seed": -1}, "seed must lie in"),
        ({"mixup": -1.0}, "mixup"),
    ],
)
def test_a_recipe_is_checked_before_anything_is_built(recipe: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        # Building this model would raise another error.
        refused(tmp_path, recipe=recipe, model="no_such_model")


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "'gpu' is not a device"), ("mps", "mps devices are not supported")]
)
def test_a_device_that_is_none_is_refused(device: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        refused(tmp_path, device=device)


def test_a_gpu_that_is_absent_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="cuda was asked for, and PyTorch sees no CUDA GPU"):
        refused(tmp_path, device="cuda")


def test_a_gpu_beyond_the_last_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UnavailableError, match="cuda:1 was asked for, and this machine has 1 CUDA GPU"):
        refused(tmp_path, device="cuda:1")
