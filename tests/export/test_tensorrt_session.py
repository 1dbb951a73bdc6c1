"""TensorRT's session on a GPU in the memory of the host; `tensorrt_fakes` says what of TensorRT is real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from artifacts import ARTIFACT
from cuda_fakes import COPY_S, KERNEL_S
from tensorrt_fakes import Tensorrt, layer

from effvit.errors import ExportError, UnsupportedError
from effvit.export.base import Artifact, Images, Session, StagedSession, pick_backend, predict
from effvit.export.engine_options import EngineOptions
from effvit.export.tensorrt_engine import load_engine
from effvit.export.tensorrt_session import TensorrtSession
from effvit.export.tensorrt_times import layer_seconds
from effvit.profiling.staging import time_stages
from effvit.spec import Precision

HALF = replace(ARTIFACT, format="tensorrt", precision=Precision.FP16)


def images(count: int = 2, seed: int = 0) -> Images:
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 4), dtype=np.float32)


def session(made: Tensorrt, *, graph: bool = False, artifact: Artifact = HALF, count: int = 2) -> TensorrtSession:
    return TensorrtSession(load_engine(b"a plan"), made.device, artifact, images(count), graph=graph)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Tensorrt:
    return installed(monkeypatch)


def installed(monkeypatch: pytest.MonkeyPatch, **changes: object) -> Tensorrt:
    made = Tensorrt(**changes)  # type: ignore[arg-type]
    made.install(monkeypatch)
    return made


@pytest.mark.parametrize("graph", [False, True])
def test_a_launch_computes_the_logits_of_what_was_bound_last(made: Tensorrt, graph: bool) -> None:
    one = session(made, graph=graph)
    for seed in (1, 2):
        one.bind(images(seed=seed))
        one.launch()
        one.synchronize()
        np.testing.assert_allclose(one.logits(), made.logits(images(seed=seed)), atol=1e-5)


def test_the_parts_of_a_call_are_timed_apart(made: Tensorrt) -> None:
    one = session(made)
    assert isinstance(one, StagedSession)
    times = time_stages(one, passes=3, warmup_s=0)
    assert times.host_to_device_s == pytest.approx([COPY_S] * 3)
    assert times.compute_s == pytest.approx([KERNEL_S] * 3)
    assert times.device_to_host_s == pytest.approx([COPY_S] * 3)


@pytest.mark.parametrize("graph", [False, True])
def test_a_launch_enqueues_and_does_nothing_else(made: Tensorrt, graph: bool) -> None:
    one = session(made, graph=graph)
    waits, graphs, enqueued = made.gpu.waits, made.gpu.launched_graphs, made.asked.get("enqueued", 0)
    one.launch()
    assert made.gpu.waits == waits
    assert made.gpu.launched_graphs - graphs == int(graph)
    assert made.asked.get("enqueued", 0) - enqueued == int(not graph)
    assert one.settings().cuda_graph is graph


def test_a_graph_is_captured_after_a_launch_that_settles_shapes(made: Tensorrt) -> None:
    session(made, graph=True)
    assert made.asked["enqueued"] == 2
    assert made.gpu.launched_graphs == 0


def test_logits_stay_as_they_were_when_the_next_are_downloaded(made: Tensorrt) -> None:
    one = session(made)
    one.launch()
    first = one.logits()
    kept = first.copy()
    one.bind(images(seed=1))
    one.launch()
    one.logits()
    np.testing.assert_array_equal(first, kept)


def test_most_products_say_the_precision_and_the_gpu_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = installed(monkeypatch, layers=[layer("a"), layer("b", of="Float"), layer("c", of="Float")])
    settings = session(made).settings()
    assert (settings.precision, settings.device) == (Precision.FP32, "cuda:0")
    assert settings.runtime == "tensorrt 10.16.1.11"
    assert settings.departures(Precision.FP16, 1, ()) == ["asked for fp16, computes in fp32"]
    assert session(made).gpu.startswith("GPU-")


def test_fp32_that_rounds_to_tf32_is_seen_and_tf32_is_not_judged_where_it_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = installed(monkeypatch, layers=[layer("a", of="Float"), layer("b", of="Float", tactic="gemm_tf32f32")])
    exact = session(made, artifact=replace(HALF, precision=Precision.FP32)).settings()
    assert exact.departures(Precision.FP32, 1, ()) == ["asked for fp32, rounds some products to tf32"]
    made = installed(monkeypatch, layers=[layer("a", of="Float")])
    rounded = session(made, artifact=replace(HALF, precision=Precision.TF32)).settings()
    assert (rounded.precision, rounded.tf32) == (None, None)


def opened(path: Path, graph: bool = False, **changes: object) -> Session:
    path.write_bytes(b"a plan")
    backend = pick_backend("tensorrt-graph" if graph else "tensorrt")
    return backend.open_on(replace(HALF, path=str(path), **changes), 1, 0)


@pytest.mark.parametrize("graph", [False, True])
def test_a_backend_opens_an_engine_and_takes_any_batch_after_the_first(
    made: Tensorrt, tmp_path: Path, graph: bool
) -> None:
    one = opened(tmp_path / "a.engine", graph)
    np.testing.assert_allclose(predict(one, images(5), 2), made.logits(images(5)), atol=1e-5)
    assert isinstance(one, StagedSession)
    assert one.settings().cuda_graph is graph
    assert made.asked["plan"] == b"a plan"


@pytest.mark.parametrize(
    ("batches", "batch", "words"),
    [((2, 2, 2), 3, "built for a batch of 2, not of 3"), ((1, 4, 8), 9, "built for batches of 1 to 8, not of 9")],
)
def test_an_engine_is_not_measured_at_a_batch_that_it_is_not_built_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batches: tuple[int, int, int], batch: int, words: str
) -> None:
    installed(monkeypatch, batches=batches)
    with pytest.raises(UnsupportedError, match=words) as caught:
        opened(tmp_path / "a.engine").bind(images(batch))
    assert f"--batch {batch}" in caught.value.hint


def test_host_code_is_for_engines_that_say_so_alone(made: Tensorrt, tmp_path: Path) -> None:
    opened(tmp_path / "a.engine", engine=EngineOptions())
    assert made.asked["host_code"] is False
    opened(tmp_path / "a.engine", engine=EngineOptions(version_compatible=True))
    assert made.asked["host_code"] is True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loadable": False, "says": [("ERROR", "the magic tag is wrong")]}, "cannot load .*: the magic tag is wrong"),
        ({"loadable": False}, "cannot load .*: it does not say why"),
        ({"contexts": False}, "TensorRT cannot run the engine"),
        ({"image_type": "HALF"}, "not float32 images and logits"),
        ({"size": (8, 8)}, r"takes images of \(3, 8, 8\), not of \(3, 4, 4\)"),
    ],
)
def test_an_engine_that_tensorrt_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], words: str
) -> None:
    made = installed(monkeypatch, **changes)
    with pytest.raises(ExportError, match=words) as caught:
        session(made)
    assert caught.value.hint


def test_a_launch_that_tensorrt_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    one = session(installed(monkeypatch, runnable=False))
    with pytest.raises(ExportError, match="refuses to run"):
        one.launch()


def test_an_engine_of_another_version_is_refused_before_tensorrt_sees_it(made: Tensorrt, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"built with TensorRT 10\.13\.2, and here is 10\.16\.1\.11"):
        opened(tmp_path / "a.engine", built_with=(("tensorrt", "10.13.2"),))
    assert "plan" not in made.asked


def test_layers_are_timed_after_a_warm_up_and_their_times_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    made = installed(monkeypatch, layers=[layer("first"), layer("second")], batches=(1, 4, 8))
    seconds = layer_seconds(load_engine(b"a plan"), made.device)
    assert seconds == {"first": pytest.approx(0.001), "second": pytest.approx(0.002)}
    assert made.asked["shapes"] == [(4, 3, 4, 4)]
