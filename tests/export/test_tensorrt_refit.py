"""Weights of another checkpoint in an engine: what TensorRT is told, and what is refused before it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from artifacts import ARTIFACT
from tensorrt_fakes import Tensorrt
from untrained_runs import make_run

from effvit.errors import ExportError, UnsupportedError
from effvit.export.base import Artifact
from effvit.export.engine_file import build_log
from effvit.export.engine_options import EngineOptions
from effvit.export.pins import Pinned
from effvit.export.tensorrt_refit import refit_engine, source_for
from effvit.run import Run
from effvit.spec import Precision

OPTIONS = EngineOptions(batches=(1, 4, 8), refittable=True)


def refit(made: Tensorrt, folder: Path) -> Path:
    path = folder / "tuned.engine"
    refit_engine(b"a plan", folder / "tuned.onnx", path, host_code=False)
    return path


def installed(monkeypatch: pytest.MonkeyPatch, **changes: object) -> Tensorrt:
    made = Tensorrt(**changes)  # type: ignore[arg-type]
    made.install(monkeypatch)
    return made


def test_an_engine_gets_the_weights_of_a_graph_and_stays_refittable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = installed(monkeypatch)
    path = refit(made, tmp_path)
    assert path.read_bytes() == b"a plan with other weights"
    assert made.asked["plan"] == b"a plan"
    assert made.asked["weights"] == str(tmp_path / "tuned.onnx")
    assert made.asked["serialized"] == "INCLUDE_REFIT"
    assert "parsed" not in made.asked, "nothing is built"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refittable": False}, "weights of the engine cannot be exchanged"),
        (
            {"parser_errors": [("/head/MatMul", "MatMul", "weights of another size")]},
            r"does not take the weights of tuned\.onnx: MatMul node /head/MatMul: weights of another size",
        ),
        ({"missing_weights": ["head.weight", "head.bias"]}, r"tuned\.onnx lacks 2 weights .*, such as head\.weight"),
        ({"refits": False, "says": (("ERROR", "weights are not finite"),)}, "exchange the weights: weights are not"),
        ({"loadable": False, "says": (("ERROR", "of another version"),)}, "cannot load the engine.*another version"),
    ],
)
def test_what_tensorrt_refuses_is_one_sentence_and_leaves_no_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ExportError, match=words) as caught:
        refit(installed(monkeypatch, **changes), tmp_path)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert not (tmp_path / "tuned.engine").exists()


def test_what_tensorrt_says_while_it_refits_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = refit(installed(monkeypatch, says=(("WARNING", "weights were rounded"),)), tmp_path)
    assert build_log(path).read_text() == "warning: weights were rounded\n" * 2  # loaded, and refitted


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax")


@pytest.fixture
def engine(run: Run) -> Artifact:
    """Return an engine of the same model as the run, with other weights."""
    model = replace(run.record.spec, weights="0" * 64)
    return replace(
        ARTIFACT, format="tensorrt", model=model, precision=Precision.FP16, height=48, width=32, engine=OPTIONS
    )


def test_all_but_the_weights_is_that_of_the_engine(run: Run, engine: Artifact) -> None:
    source = source_for(replace(engine, pinned=Pinned(("blocks.3",))), run)
    assert source.run is run
    assert (source.height, source.width, source.precision) == (48, 32, Precision.FP16)
    assert (source.engine, source.pins) == (OPTIONS, ("blocks.3",))


def test_engines_that_cannot_have_the_weights_are_refused(run: Run, engine: Artifact) -> None:
    with pytest.raises(UnsupportedError, match="cannot be exchanged") as caught:
        source_for(replace(engine, engine=replace(OPTIONS, refittable=False)), run)
    assert "--refit" in caught.value.hint
    with pytest.raises(UnsupportedError, match="is quantised by the ranges"):
        source_for(replace(engine, precision=Precision.INT8), run)
    with pytest.raises(UnsupportedError, match="is another model than softmax: test_vit, softmax, 7 classes"):
        source_for(replace(engine, model=replace(engine.model, classes=7)), run)
    with pytest.raises(ExportError, match="was built on Some GPU"):
        source_for(replace(engine, gpus=("Some GPU",)), run)
