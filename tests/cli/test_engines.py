"""`effvit export --trt` with a TensorRT that runs PyTorch, and the options of engines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Effvit, refused
from tensorrt_fakes import Tensorrt, layer
from untrained_runs import make_run

from effvit.cli.engines import batches_from_text, engine_options
from effvit.errors import UsageError
from effvit.export.engine_options import DEFAULT_ENGINE, EngineOptions
from effvit.run import Run

EXPORT = ("export", "soft", "--trt", "fp16", "--batch", "2", "--verify-images", "4", "--threads", "1")
SKIPPED = (("WARNING", "Skipping tactic 0x3ea due to insufficient memory"),)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax", name="soft")


@pytest.fixture
def tensorrt(run: Run, monkeypatch: pytest.MonkeyPatch) -> Tensorrt:
    model = run.model(32, 32)

    def compute(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images.copy())).numpy()

    made = Tensorrt(batches=(2, 2, 2), size=(32, 32), classes=10, model=compute, says=SKIPPED)
    made.install(monkeypatch)
    return made


@pytest.mark.slow  # exports two graphs
def test_an_engine_is_exported_with_its_census_or_refused_for_its_types(
    effvit: Effvit, run: Run, tensorrt: Tensorrt
) -> None:
    runs = ("--runs", str(run.folder.parent))
    answer = effvit(*EXPORT, *runs, "--json")
    assert answer.code == 0, answer.err
    graph, engine = json.loads(answer.out)
    assert (Path(graph["path"]).suffix, Path(engine["path"]).suffix) == (".onnx", ".engine")
    assert engine["engine"]["batches"] == [2, 2, 2]
    assert "1 layers; products: 1 in fp16; fused attention 0; 0 reformats; 1 kernels not tried" in answer.err
    for sidecar in Path(engine["path"]).parent.glob("*.tensorrt.json"):
        sidecar.unlink()  # or it would be known as verified
    tensorrt.layers = [layer("a", of="Float")]
    refused(effvit(*EXPORT, *runs), 4, "tensorrt: asked for fp16, computes in fp32", "--allow-fallback")


@pytest.mark.slow  # exports three graphs
def test_an_engine_gets_the_weights_of_another_run(effvit: Effvit, run: Run, tensorrt: Tensorrt) -> None:
    root = run.folder.parent
    built = effvit(*EXPORT, "--refit", "--runs", root, "--json")
    assert built.code == 0, built.err
    engine = json.loads(built.out)[1]
    tuned = make_run(root, "softmax", name="tuned")
    model = tuned.model(32, 32)
    refit = ("refit", engine["path"], "tuned", "--verify-images", "4", "--threads", "1", "--runs", root, "--json")
    refused(effvit(*refit), 4, "is not the PyTorch model")  # of the run that has other weights now

    def compute(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images.copy())).numpy()

    tensorrt.model = compute
    answer = effvit(*refit)
    assert answer.code == 0, answer.err
    made = json.loads(answer.out)
    path = Path(made["path"])
    assert path.read_bytes() == b"a plan with other weights"
    assert path.parent == (tuned.folder / "artifacts").resolve()
    assert Path(engine["path"]).read_bytes() == b"a plan"
    assert (made["model"]["weights"], made["engine"]) == (tuned.record.spec.weights, engine["engine"])
    assert Path(tensorrt.asked["weights"]) == path.with_suffix(".onnx")
    assert "1 layers; products: 1 in fp16" in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", "8:4:64"), "an engine cannot be built for batches 8:4:64"),
        (("--batch", "0"), "batches 0:0:0"),
        (("--batch", "two"), "'two' is not a batch"),
        (("--batch", "1:8"), "'1:8' is not a range of batches"),
        (("--workspace", "4"), "'4' is not a size of memory"),
        (("--optimisation-level", "6"), "there is no optimisation level 6"),
    ],
)
def test_options_that_cannot_be_are_exit_2(effvit: Effvit, arguments: tuple[str, ...], words: str) -> None:
    refused(effvit("export", "--trt", "fp16", *arguments), 2, words)


def test_options_are_those_that_were_written() -> None:
    given = engine_options("1:8:64", "1GiB", 4, attention_operator=True, refit=True, version_compatible=True)
    assert given == EngineOptions((1, 8, 64), 2**30, 4, "operator", refittable=True, version_compatible=True)
    plain = engine_options("1", None, 3, attention_operator=False, refit=False, version_compatible=False)
    assert plain == DEFAULT_ENGINE
    assert batches_from_text("8") == (8, 8, 8)
    with pytest.raises(UsageError):
        batches_from_text("")
