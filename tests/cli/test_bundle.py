"""`effvit bundle` and `effvit predict` on a run's graphs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import Effvit, refused

from effvit.storage import sha256_of


@pytest.fixture
def exported(effvit: Effvit, trained: Path) -> Path:
    """Return the runs' folder, where `lin` has a graph in fp16."""
    if not list((trained / "runs/lin/artifacts").glob("*fp16*.onnx")):
        answer = effvit(
            "export", "lin", "--onnx", "fp16", "--threads", 1, "--allow-fallback", "--runs", trained / "runs"
        )
        assert answer.code == 0, answer.err
    return trained / "runs"


def test_a_run_becomes_a_bundle_that_classifies_images(effvit: Effvit, exported: Path, tmp_path: Path) -> None:
    answer = effvit("bundle", "lin", "--precision", "fp16", "--runs", exported, "--json")
    assert answer.code == 0, answer.err
    manifest = json.loads(answer.out)
    folder = tmp_path / "bundles" / manifest["name"]
    assert (manifest["precision"], manifest["artifact"]["classes"]) == ("fp16", ["cat", "dog"])
    for file in manifest["files"]:
        assert file["sha256"] == sha256_of(folder / file["name"])
    image = next((exported.parent / "pictures/dog").iterdir())
    shutil.copy(image, tmp_path / "a b;c.png")
    predicted = effvit("predict", folder, "a b;c.png", "--threads", 1, "--json")
    assert predicted.code == 0, predicted.err
    (one,) = json.loads(predicted.out)
    assert one["image"] == "a b;c.png"
    assert {guess["name"] for guess in one["guesses"]} == {"cat", "dog"}
    assert sum(guess["probability"] for guess in one["guesses"]) == pytest.approx(1)
    shown = effvit("predict", folder, "a b;c.png", "--threads", 1)
    assert one["guesses"][0]["name"] in shown.out.splitlines()[1]

    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    refused(effvit("predict", folder, "a b;c.png"), 4, "model.onnx is not the file that was recorded")
    refused(effvit("bundle", "lin", "--runs", exported), 2, "exists already")


def test_a_graph_is_bundled_by_its_path(effvit: Effvit, exported: Path, tmp_path: Path) -> None:
    (graph,) = (exported / "lin/artifacts").glob("*fp16*.onnx")
    answer = effvit("bundle", graph, "--out", "there", "--triton")
    assert answer.code == 0, answer.err
    assert answer.out == "there\n"
    assert len(list(Path(tmp_path, "there/model_repository").rglob("model.onnx"))) == 1


def test_what_cannot_be_bundled_is_a_sentence(effvit: Effvit, exported: Path, tmp_path: Path) -> None:
    refused(effvit("bundle", "lin", "--backend", "openvino", "--runs", exported), 2, "has no such graph")
    refused(effvit("bundle", "lin", "--precision", "int8", "--runs", exported), 2, "has no such graph")
    refused(effvit("bundle", tmp_path / "missing.onnx"), 2, "there is no file", "missing.onnx")
    (graph,) = (exported / "lin/artifacts").glob("*fp16*.onnx")
    refused(effvit("bundle", graph, "--backend", "openvino"), 2, "was verified by ort-cpu")
    refused(effvit("bundle", graph, "--backend", "opnvino"), 2, "openvino")
    refused(effvit("predict", tmp_path, "x.png"), 2, "is not a bundle")
