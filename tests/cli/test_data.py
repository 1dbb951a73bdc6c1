"""`effvit data check` on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import Effvit, refused
from pictures import truncate, write_folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets", {"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dog": 1})


def test_a_sound_folder_is_described_and_ends_with_0(effvit: Effvit, pets: Path) -> None:
    answer = effvit("data", "check", pets)
    assert answer.code == 0
    lines = {line[:20].strip(): line[20:].strip() for line in answer.out.splitlines()}
    assert lines["split"] == "6 to train on, 2 held out"
    assert lines["balance"] == "3 (cat) to 3 (dog) a class to train on, 1 : 1"
    assert lines["unreadable"] == "0"


def test_an_unreadable_image_ends_with_4_and_the_rest_is_told(effvit: Effvit, pets: Path) -> None:
    truncate(pets / "train/cat/1.png")
    answer = effvit("data", "check", pets)
    assert answer.code == 4
    assert "train/cat/1.png: " in answer.out
    assert f"error: {pets}: 1 of 8 images cannot be read" in answer.err
    assert "hint: " in answer.err


def test_a_leak_ends_with_4_and_json_names_it(effvit: Effvit, pets: Path) -> None:
    shutil.copy(pets / "train/cat/2.png", pets / "val/cat/0.png")
    answer = effvit("data", "check", pets, "--json")
    assert answer.code == 4
    (repeat,) = json.loads(answer.out)["repeats"]
    assert (repeat["image"], repeat["of"], repeat["exact"]) == ("val/cat/0.png", "train/cat/2.png", True)
    assert "held-out images that are trained on as well: 1" in answer.err


def test_a_class_that_cannot_be_split_ends_with_4(effvit: Effvit, tmp_path: Path) -> None:
    answer = effvit("data", "check", write_folder(tmp_path / "few", {"cat": 4, "dog": 1}))
    assert answer.code == 4
    assert "the class dog" in answer.err


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("nowhere", 2, ["neither a data set nor a path"]),
        ("torchvision:MNST", 2, ["no torchvision data set named 'MNST'", "MNIST"]),
        ("table:nowhere", 2, ["there are no tables at nowhere"]),
        ("imagenet100:nowhere", 2, ["there is no folder nowhere"]),
        ("hf:a/b/c", 2, ["does not name a data set on the hub", "hf:NAME[@REVISION]"]),
    ],
)
def test_what_is_no_data_set_is_one_sentence(effvit: Effvit, source: str, code: int, words: list[str]) -> None:
    refused(effvit("data", "check", source), code, *words)
