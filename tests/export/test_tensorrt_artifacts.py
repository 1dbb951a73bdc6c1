"""Engines beside their run: built, verified and judged through the backends, with a TensorRT that runs PyTorch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorrt_fakes import Tensorrt, layer
from untrained_runs import make_run

from effvit.data.base import load_data
from effvit.errors import FallbackError, MismatchError
from effvit.export.base import Backend, Source, pick_backend
from effvit.export.build import Limits, artifact_accuracy, refuse, verified_artifact
from effvit.export.cache import find, forget, make
from effvit.export.engine_file import layers_file
from effvit.export.engine_options import engine_for
from effvit.images import evaluation_pixels
from effvit.run import Run
from effvit.spec import Precision

BATCH, IMAGES = 2, 5
HONEST = Limits(fallback=refuse)
HALVES = [layer("a"), layer("b"), layer("c", of="Float")]
FLOATS = [layer("a"), layer("b", of="Float"), layer("c", of="Float")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax")


@pytest.fixture
def pixels(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "pixels.npy"
    np.save(path, evaluation_pixels(load_data("digits").val[:IMAGES], run.record.preprocessing, 32, 32))
    return path


@pytest.fixture
def tensorrt(run: Run, monkeypatch: pytest.MonkeyPatch) -> Tensorrt:
    model = run.model(32, 32)

    def compute(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images.copy())).numpy()

    made = Tensorrt(batches=(BATCH,) * 3, size=(32, 32), classes=10, model=compute, layers=HALVES)
    made.install(monkeypatch)
    return made


def source(run: Run) -> Source:
    return Source(run, 32, 32, Precision.FP16, engine=engine_for(BATCH))


def backend(name: str = "tensorrt") -> Backend:
    return pick_backend(name)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-graph"])
def test_an_engine_is_verified_in_its_own_batch_and_found_again(
    run: Run, pixels: Path, tensorrt: Tensorrt, name: str
) -> None:
    artifact = verified_artifact(source(run), backend(name), pixels, 1, limits=HONEST)
    assert artifact.parity is not None
    assert (artifact.parity.images, artifact.engine) == (IMAGES, engine_for(BATCH))
    assert set(tensorrt.asked["shapes"]) == {(BATCH, 3, 32, 32)}
    assert json.loads(layers_file(Path(artifact.path)).read_text())["Layers"] == HALVES
    tensorrt.asked.clear()
    assert verified_artifact(source(run), backend(name), pixels, 1, limits=HONEST) == artifact
    assert "parsed" not in tensorrt.asked
    assert find(replace(source(run), engine=engine_for(4)), backend(name), "cuda") is None


def test_accuracy_through_an_engine_is_that_of_the_model(run: Run, pixels: Path, tensorrt: Tensorrt) -> None:
    artifact = verified_artifact(source(run), backend(), pixels, 1)
    labels = tensorrt.logits(np.zeros((IMAGES, 3, 32, 32), np.float32)).argmax(axis=1)
    zeros = pixels.with_name("zeros.npy")
    means = np.multiply(run.record.preprocessing.mean, 255).round()
    np.save(zeros, np.broadcast_to(means.astype(np.uint8), (IMAGES, 32, 32, 3)))
    accuracy = artifact_accuracy(artifact, backend(), zeros, labels.tolist(), IMAGES, 1)
    assert (accuracy.top1_correct, accuracy.images) == (IMAGES, IMAGES)


@pytest.mark.usefixtures("tensorrt")
def test_an_engine_whose_products_are_not_what_was_asked_for_is_exit_4(
    run: Run, pixels: Path, tensorrt: Tensorrt
) -> None:
    verified_artifact(source(run), backend(), pixels, 1, limits=HONEST)
    tensorrt.layers = FLOATS
    forget(source(run), backend())
    with pytest.raises(FallbackError, match="tensorrt: asked for fp16, computes in fp32") as caught:
        verified_artifact(source(run), backend(), pixels, 1, limits=HONEST)
    assert caught.value.exit_code == 4
    known = find(source(run), backend(), "cuda")
    assert known is None or known.parity is None


def test_an_engine_that_computes_something_else_is_refused(run: Run, pixels: Path, tensorrt: Tensorrt) -> None:
    forget(source(run), backend())
    tensorrt.model = lambda images: np.random.default_rng(0).standard_normal((len(images), 10), dtype=np.float32)
    with pytest.raises(MismatchError, match="is not the PyTorch model"):
        verified_artifact(source(run), backend(), pixels, 1)


def test_what_is_no_engine_has_no_options_of_one(run: Run) -> None:
    assert make(source(run), pick_backend("torch")).engine is None
