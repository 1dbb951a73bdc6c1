"""What a pretrained model answers before it is trained, where its head knows the classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from models_for_tests import digits, finished_run, record_of
from safetensors.torch import save_file
from timm.data import ImageNetInfo

from effvit.data.base import ImageData
from effvit.finetune import Finetuning, finetune
from effvit.images import evaluation_pixels
from effvit.mix import parse_mix
from effvit.preprocessing import normalise, preprocessing_of
from effvit.run import Run
from effvit.zero_training import matching

KNOWN = [("n01", "tench", " Tinca tinca"), ("n02", "crane"), ("n03", "crane"), ("n04", "great white-shark")]


@pytest.mark.parametrize(
    ("classes", "indices"),
    [
        (("n04", "n01"), (3, 0)),
        (("Tinca_tinca", "great white shark"), (0, 3)),
        (("n02", "n03"), (1, 2)),
        (("tench", "crane"), None),
        (("tench", "whale"), None),
        (("tench", "n01"), None),
    ],
    ids=["synsets", "descriptions", "told_apart", "ambiguous", "unknown", "the_same_twice"],
)
def test_classes_are_found_by_any_of_their_names(classes: tuple[str, ...], indices: tuple[int, ...] | None) -> None:
    assert matching(classes, KNOWN) == indices


def trained(data: ImageData, root: Path, **changes: str) -> Run:
    request = Finetuning(
        parse_mix("linformer"),
        model="test_vit",
        resolution=(64, 64),
        recipe={"epochs": 1, "batch": 20},
        device="cpu",
        threads=1,
    )
    return finetune(replace(request, **changes), data, out=root)


def accuracy_by_hand(model: torch.nn.Module, data: ImageData, indices: list[int]) -> float:
    preprocessing = preprocessing_of(model)
    pixels = evaluation_pixels(data.val, preprocessing, 64, 64)
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(normalise(pixels, preprocessing))).numpy()[:, indices]
    return float(np.mean(logits.argmax(axis=1) == [sample.label for sample in data.val]))


def test_the_slice_of_an_imagenet_head_is_evaluated_before_training(hub: Path, tmp_path: Path) -> None:
    snapshot = hub / "models--timm--test_vit.r160_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    donor = timm.create_model("test_vit", num_classes=1000)
    save_file(donor.state_dict(), snapshot / "model.safetensors")
    indices = list(range(900, 1000, 10))
    data = replace(digits(), classes=tuple(ImageNetInfo().label_names()[index] for index in indices))
    zero = trained(data, tmp_path).record.zero_training
    assert zero is not None
    assert (zero.head, zero.of_classes, zero.accuracy.images) == ("imagenet-1k", 1000, 20)
    model = timm.create_model("test_vit", num_classes=1000, img_size=64, pretrained=True)
    assert zero.accuracy.top1_correct / 20 == pytest.approx(accuracy_by_hand(model, data, indices))
    assert trained(digits(), tmp_path / "other").record.zero_training is None  # digits are no class of ImageNet's


def test_a_run_on_more_classes_is_evaluated_on_those_of_the_data(tmp_path: Path) -> None:
    donor, model = finished_run(tmp_path, "donor", record_of())
    data = digits()
    chosen = ("7", "3", "5")
    val = tuple(replace(one, label=chosen.index(str(one.label))) for one in data.val if str(one.label) in chosen)
    few = replace(data, classes=chosen, val=val, train=tuple(replace(one, label=0) for one in data.train))
    zero = trained(few, tmp_path, weights=str(donor.folder)).record.zero_training
    assert zero is not None
    assert (zero.head, zero.of_classes, zero.accuracy.images) == ("digits", 10, len(val))
    assert zero.accuracy.top1_correct / len(val) == pytest.approx(accuracy_by_hand(model, few, [7, 3, 5]))


def test_random_weights_have_no_answers(tmp_path: Path) -> None:
    assert trained(digits(), tmp_path, weights="none").record.zero_training is None
