"""Artifacts of every backend, made from runs with random weights and held against PyTorch."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from untrained_runs import make_run

import effvit
from effvit.data.base import load_data
from effvit.errors import (
    BackendUnavailableError,
    CheckpointError,
    ExportError,
    LackingError,
    MismatchError,
    UnknownNameError,
)
from effvit.export.base import Source, backends, pick_backend, predict
from effvit.export.build import Limits, artifact_accuracy, verified_artifact
from effvit.export.cache import find, forget, make, reference_logits, verify
from effvit.export.decisions import Truth
from effvit.images import evaluation_pixels, labels_of
from effvit.preprocessing import normalise
from effvit.run import Run
from effvit.spec import ModelSpec, Precision

HERE = [
    pytest.param(name, marks=[pytest.mark.slow] if backend.slow_to_open or backend.slow_to_make else [])
    for name, backend in backends().items()
    if backend.unavailable() is None and "cpu" in backend.devices
]
IMAGES = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "performer", px=48)


@pytest.fixture(scope="module")
def pixels(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pixels") / "pixels.npy"
    np.save(path, evaluation_pixels(load_data("digits").val[:IMAGES], run.record.preprocessing, 64, 64))
    return path


def source(run: Run, precision: Precision = Precision.FP32, px: int = 64) -> Source:
    return Source(run, px, px, precision)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8])
def test_every_backend_runs_what_it_exported(run: Run, pixels: Path, name: str, precision: Precision) -> None:
    backend = pick_backend(name)
    if precision not in backend.precisions:
        pytest.skip(f"{name} does not run {precision}")
    try:
        artifact = verified_artifact(source(run, precision), backend, pixels, threads=1)
    except LackingError as error:
        pytest.skip(error.message)
    assert artifact.parity is not None
    assert artifact.parity.images == IMAGES
    assert Path(artifact.path).stat().st_size == artifact.size_bytes
    assert artifact.classes == run.record.data.classes


@pytest.mark.parametrize("name", HERE)
def test_the_batch_of_an_artifact_is_free(run: Run, pixels: Path, name: str) -> None:
    backend = pick_backend(name)
    session = backend.open(verified_artifact(source(run), backend, pixels, threads=1), 1)
    images = normalise(np.load(pixels), run.record.preprocessing)
    # The same image beside others and alone: additions in another order, logits of order 1.
    np.testing.assert_allclose(predict(session, images[:7], 7), predict(session, images[:7], 1), atol=1e-4)


@pytest.mark.parametrize("name", HERE)
def test_a_launch_sees_what_was_bound_last(run: Run, pixels: Path, name: str) -> None:
    backend = pick_backend(name)
    session = backend.open(verified_artifact(source(run), backend, pixels, threads=1), 1)
    images = normalise(np.load(pixels), run.record.preprocessing)
    expected = reference_logits(source(run), np.load(pixels))
    for index in (3, 5):
        session.bind(np.ascontiguousarray(images[index : index + 1]))
        session.launch()
        session.synchronize()
        np.testing.assert_allclose(session.logits()[0], expected[index], atol=1e-4)


@pytest.mark.parametrize("name", HERE)
def test_a_session_reads_back_what_it_was_asked_for(run: Run, pixels: Path, name: str) -> None:
    backend = pick_backend(name)
    session = backend.open(verified_artifact(source(run), backend, pixels, threads=1), 1)
    session.bind(normalise(np.load(pixels)[:2], run.record.preprocessing))
    session.launch()
    settings = session.settings()
    assert settings.departures(Precision.FP32, 1, backend.providers) == []
    device = "cpu" if "cpu" in backend.devices else "cuda:0"
    assert (settings.precision, settings.threads, settings.device) == (Precision.FP32, 1, device)
    assert settings.runtime.split()[-1].split("+")[0] == str(backend.version()).split("+")[0]


def test_onnx_runtime_tells_in_which_type_it_computes_an_fp16_graph(run: Run, pixels: Path, tmp_path: Path) -> None:
    """The graph that ONNX Runtime writes down after its own changes is the independent witness."""
    backend = pick_backend("ort-cpu")
    artifact = verified_artifact(source(run, Precision.FP16), backend, pixels, threads=1)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns that the file is for this machine alone
    options.optimized_model_filepath = str(tmp_path / "changed.onnx")
    ort.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
    changed = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "changed.onnx"))
    types = {value.name: value.type.tensor_type.elem_type for value in changed.graph.value_info}
    products = {types[node.output[0]] for node in changed.graph.node if node.op_type == "MatMul"}
    assert len(products) == 1
    session = backend.open(artifact, 1)
    session.bind(normalise(np.load(pixels)[:2], run.record.preprocessing))
    expected = {onnx.TensorProto.FLOAT: Precision.FP32, onnx.TensorProto.FLOAT16: Precision.FP16}[products.pop()]
    assert session.settings().precision == expected


def test_accuracy_through_an_artifact_is_that_of_the_model(run: Run, pixels: Path) -> None:
    backend = pick_backend("ort-cpu")
    artifact = verified_artifact(source(run), backend, pixels, threads=1)
    labels = labels_of(load_data("digits").val[:IMAGES])
    accuracy = artifact_accuracy(artifact, backend, pixels, labels.tolist(), 359, threads=1)
    expected = int((reference_logits(source(run), np.load(pixels)).argmax(axis=1) == labels).sum())
    assert (accuracy.top1_correct, accuracy.images, accuracy.of_images) == (expected, IMAGES, 359)


def test_an_artifact_is_made_once_and_found_again(run: Run, pixels: Path) -> None:
    backend = pick_backend("ort-cpu")
    first = verified_artifact(source(run), backend, pixels, threads=1)
    written = Path(first.path).stat().st_mtime_ns
    assert verified_artifact(source(run), backend, pixels, threads=1) == first
    assert Path(first.path).stat().st_mtime_ns == written


def test_decisions_are_judged_once_labels_are_known_and_again_on_more_images(run: Run, pixels: Path) -> None:
    """Held against labels that PyTorch itself gives, every image is right."""
    backend, labels = pick_backend("ort-cpu"), reference_logits(source(run), np.load(pixels)).argmax(axis=1).tolist()
    names = tuple(f"{index}.png" for index in range(IMAGES))
    few = pixels.with_name("few.npy")
    np.save(few, np.load(pixels)[:10])
    assert verified_artifact(source(run), backend, pixels, 1).parity is not None
    parity = verified_artifact(source(run), backend, few, 1, Truth(tuple(labels[:10]), names[:10])).parity
    assert parity is not None
    assert (parity.images, parity.correct, parity.lost, parity.gained, parity.flips) == (10, 10, 0, 0, ())
    parity = verified_artifact(source(run), backend, pixels, 1, Truth(tuple(labels), names)).parity
    assert parity is not None
    assert (parity.images, parity.correct) == (IMAGES, IMAGES)
    assert verified_artifact(source(run), backend, few, 1, Truth(tuple(labels[:10]), names[:10])).parity == parity


def test_an_artifact_that_loses_too_much_does_not_count_as_verified(run: Run, pixels: Path) -> None:
    """In fp16, one near tie of 24 images falls the other way: 4.17 points."""
    backend, half = pick_backend("ort-cpu"), source(run, Precision.FP16)
    artifact = make(half, backend)
    reference = np.zeros((IMAGES, 10), np.float32)
    reference[:, 0], reference[0, 1] = 1.0, 0.999
    predicted = reference.copy()
    predicted[0, 1] = 1.001
    truth = Truth((0,) * IMAGES, tuple(map(str, range(IMAGES))))
    forget(half, backend)
    with pytest.raises(MismatchError, match=r"loses 4\.17 points"):
        verify(artifact, half, backend, reference, predicted, truth=truth, max_drop=4.0)
    known = find(half, backend)
    assert known is None or known.parity is None
    assert verify(artifact, half, backend, reference, predicted, truth=truth, max_drop=5.0).parity is not None
    assert verified_artifact(half, backend, pixels, 1, truth, Limits(max_drop=5.0)).parity is not None
    with pytest.raises(MismatchError, match=r"loses 4\.17 points"):
        verified_artifact(half, backend, pixels, 1, truth, Limits(max_drop=4.0))
    known = find(half, backend)
    assert known is None or known.parity is None


def test_a_damaged_artifact_is_not_found(run: Run, pixels: Path) -> None:
    backend = pick_backend("ort-cpu")
    artifact = verified_artifact(source(run, px=80), backend, _resized(pixels, 80), threads=1)
    content = bytearray(Path(artifact.path).read_bytes())
    content[100] ^= 1
    Path(artifact.path).write_bytes(content)
    assert find(source(run, px=80), backend) is None


def _resized(pixels: Path, px: int) -> Path:
    path = pixels.with_name(f"{px}.npy")
    np.save(path, np.resize(np.load(pixels), (4, px, px, 3)))
    return path


def test_the_graph_is_typed_static_but_for_the_batch_and_describes_itself(run: Run, pixels: Path) -> None:
    artifact = verified_artifact(source(run, Precision.FP16), pick_backend("ort-cpu"), pixels, threads=1)
    graph = onnx.load(artifact.path)
    onnx.checker.check_model(graph, full_check=True)
    (image,), (logits,) = graph.graph.input, graph.graph.output
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["batch", 3, 64, 64]
    assert image.type.tensor_type.elem_type == logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    # The convolution that embeds the patches is the largest weight: its type is the graph's.
    types = {weight.name: weight.data_type for weight in graph.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types.values()
    assert "Resize" not in {node.op_type for node in graph.graph.node}
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert msgspec.json.decode(metadata["effvit.model"], type=ModelSpec) == run.record.spec
    assert msgspec.json.decode(metadata["effvit.classes"]) == list(run.record.data.classes)


def test_no_exported_file_tells_where_it_was_made(run: Run, pixels: Path) -> None:
    """PyTorch's exporter writes a stack trace, with the paths of all its files, beside every node."""
    for precision in (Precision.FP32, Precision.FP16, Precision.INT8):
        artifact = verified_artifact(source(run, precision), pick_backend("ort-cpu"), pixels, threads=1)
        kept = {entry.key for node in onnx.load(artifact.path).graph.node for entry in node.metadata_props}
        assert kept == {"namespace"}
    files = {file: file.read_bytes() for file in Path(artifact.path).parent.rglob("*") if file.is_file()}
    assert {file.suffix for file in files} == {".onnx", ".json"}
    folders = {Path(effvit.__file__).parent, Path(timm.__file__).parent, run.folder, Path.home(), Path(sys.prefix)}
    places = {str(place) for folder in folders for place in (folder, folder.resolve())} | {".py", tempfile.gettempdir()}
    for file, content in files.items():
        assert not [place for place in places if place.encode() in content], file


@pytest.mark.parametrize("name", ["ort-cpu", "openvino"])
def test_a_graph_that_a_runtime_cannot_load_is_one_sentence(run: Run, pixels: Path, tmp_path: Path, name: str) -> None:
    backend = pick_backend(name)
    artifact = verified_artifact(source(run), backend, pixels, threads=1)
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(Path(artifact.path).read_bytes()[:1000])
    with pytest.raises(ExportError, match="cannot load"):
        backend.open(replace(artifact, path=str(torn)), 1)


def test_a_graph_that_openvino_cannot_compile_is_one_sentence(
    run: Run, pixels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Exception from src/core.cpp:117:\nException from src/plugin.cpp:54:\nno such layer\n\n")

    backend = pick_backend("openvino")
    session = backend.open(verified_artifact(source(run), backend, pixels, threads=1), 1)
    monkeypatch.setattr("openvino.Core.compile_model", refuse)
    with pytest.raises(ExportError, match=r"OpenVINO cannot compile .*\.onnx: no such layer$"):
        session.bind(normalise(np.load(pixels), run.record.preprocessing))


def test_the_bf16_artifact_of_openvino_is_its_fp32_graph(run: Run, pixels: Path) -> None:
    backend = pick_backend("openvino")
    graph = verified_artifact(source(run), backend, pixels, threads=1)
    artifact = make(source(run, Precision.BF16), backend)
    assert (artifact.sha256, artifact.precision) == (graph.sha256, Precision.BF16)


def test_a_model_beyond_two_gibibytes_is_refused_before_it_is_exported(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effvit.export.onnx.LARGEST_FILE_BYTES", 1000)
    with pytest.raises(ExportError, match="2 GiB"):
        pick_backend("ort-cpu").export(source(run), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_run_without_weights_has_no_artifacts(run: Run) -> None:
    empty = Run(run.folder, replace(run.record, spec=replace(run.record.spec, weights=None)))
    with pytest.raises(CheckpointError, match="no weights yet"):
        find(source(empty), pick_backend("ort-cpu"))


def test_a_missing_runtime_says_how_to_get_it() -> None:
    backend = pick_backend("tensorrt")
    if backend.unavailable() is None:
        pytest.skip("TensorRT is here")
    with pytest.raises(BackendUnavailableError) as caught:
        backend.require()
    assert "pip install" in caught.value.hint


def test_ctrl_c_while_a_runtime_is_imported_ends_the_work_and_does_not_make_the_runtime_unavailable() -> None:
    def imported() -> str | None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:  # as libraries with code in C do
            return "initialization failed"
        return None

    # Who runs tests in parallel ignores Ctrl-C in its processes.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            replace(pick_backend("ort-cpu"), unavailable=imported).require()
    finally:
        signal.signal(signal.SIGINT, handler)


def test_without_a_compiler_there_is_no_compiled_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendUnavailableError, match="no C\\+\\+ compiler no-such-compiler"):
        pick_backend("torch-compile").require()


def test_a_precision_that_a_backend_lacks_is_refused() -> None:
    with pytest.raises(LackingError, match="fp8"):
        pick_backend("ort-cpu").require(Precision.FP8)


def test_an_unknown_backend_gets_the_closest_name() -> None:
    with pytest.raises(UnknownNameError) as caught:
        pick_backend("ort-cp")
    assert "ort-cpu" in caught.value.closest


def test_the_checkpoint_is_pytorchs_artifact(run: Run) -> None:
    artifact = make(source(run), pick_backend("torch"))
    assert Path(artifact.path) == run.weights.resolve()
    assert artifact.sha256 == run.record.spec.weights


def test_exporting_leaves_pytorch_as_it_was(run: Run, tmp_path: Path) -> None:
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    pick_backend("ort-cpu").export(source(run, px=32), tmp_path / "model.onnx")
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
