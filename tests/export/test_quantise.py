"""Graphs in int8 for processors: what is quantised in them, from which images, and what they still decide."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import graphs
import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from artifacts import ARTIFACT
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from untrained_runs import make_run

from effvit.checkpoint import save_weights
from effvit.data.base import load_data
from effvit.errors import BackendUnavailableError, LackingError, UsageError
from effvit.export.base import Artifact, Session, Source, pick_backend, predict
from effvit.export.build import verified_artifact
from effvit.export.cache import find, make
from effvit.export.calibration import CalibrationReader, calibration_pixels
from effvit.export.quantisable import own_weights
from effvit.export.quantisation import Quantisation, Quantised
from effvit.export.quantise import FOR_CPU, quantise
from effvit.export.settings import RuntimeSettings
from effvit.images import evaluation_pixels, labels_of
from effvit.preprocessing import normalise
from effvit.run import Run, with_weights
from effvit.spec import Precision
from effvit.surgery import attention_variants

PX = 32
FEW = Quantisation(images=64)
# The runtimes that int8 is for, of those that are here.
HERE = [name for name in ("ort-cpu", "openvino") if pick_backend(name).unavailable() is None]


def fit(root: Path, attention: str) -> Run:
    """Return a run on the digits whose head was fitted to the features of random blocks: trained, and in seconds."""
    run = make_run(root, attention, name=f"fitted-{attention}", px=PX)
    model = run.model()
    data = load_data("digits")
    images = normalise(evaluation_pixels(data.train, run.record.preprocessing, PX, PX), run.record.preprocessing)
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(torch.from_numpy(images)), pre_logits=True).numpy()
    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(C=0.01, max_iter=200).fit(scaler.transform(features), labels_of(data.train))
    weight = fitted.coef_ / scaler.scale_
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weight))
        model.head.bias.copy_(torch.from_numpy(fitted.intercept_ - weight @ scaler.mean_))
    save_weights(run.weights, model)
    return run.updated(with_weights(run.record, run.weights))


def held_out(run: Run, root: Path, px: int = PX) -> Path:
    """Write all held-out digits to a file and return it."""
    path = root / f"{px}.npy"
    if not path.exists():
        np.save(path, evaluation_pixels(load_data("digits").val, run.record.preprocessing, px, px))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root: Path) -> Run:
    return fit(root, "performer")


@pytest.fixture(scope="module")
def artifact(run: Run, root: Path) -> Artifact:
    source = Source(run, PX, PX, Precision.INT8, FEW)
    return verified_artifact(source, pick_backend("ort-cpu"), held_out(run, root), threads=1)


@pytest.fixture(scope="module")
def graph(artifact: Artifact) -> onnx.ModelProto:
    return onnx.load(artifact.path)


def weights_of(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {weight.name: numpy_helper.to_array(weight) for weight in graph.graph.initializer}


@pytest.mark.parametrize("name", HERE)
def test_int8_decides_as_fp32_on_a_trained_model(run: Run, root: Path, name: str) -> None:
    backend, pixels = pick_backend(name), held_out(run, root)
    small, exact = (
        verified_artifact(Source(run, PX, PX, precision, FEW), backend, pixels, threads=1)
        for precision in (Precision.INT8, Precision.FP32)
    )
    images = normalise(np.load(pixels), run.record.preprocessing)
    classes = [predict(backend.open(one, 1), images, 60).argmax(axis=1) for one in (small, exact)]
    right = np.mean(classes[1] == np.array([sample.label for sample in load_data("digits").val]))
    assert right > 0.8  # trained, so that decisions mean something
    assert np.mean(classes[0] == classes[1]) >= 0.97


def test_every_layer_has_8_bit_operands_and_attention_has_not(artifact: Artifact, graph: onnx.ModelProto) -> None:
    """Performer's blocks have four linear layers and four products of their own; test_vit has six blocks."""
    assert artifact.quantised == Quantised(FEW, images=64, products=6 * 4 + 2, of_products=6 * 8 + 2)
    onnx.checker.check_model(graph, full_check=True)
    weights = weights_of(graph)
    types = Counter(
        weights[node.input[2]].dtype.name for node in graph.graph.node if node.op_type == "DequantizeLinear"
    )
    # Activations are unsigned, weights signed; biases are sums of both.
    assert set(types) == {"uint8", "int8", "int32"}
    assert types["int8"] == 6 * 4 + 2


def test_weights_have_a_scale_for_every_output(graph: onnx.ModelProto) -> None:
    weights = weights_of(graph)
    makers = {output: node for node in graph.graph.node for output in node.output}
    seen = set()
    for node in graph.graph.node:
        made_by = makers.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if made_by is None or made_by.op_type != "DequantizeLinear":
            continue
        values, scales, zeros = (weights[name] for name in made_by.input)
        (axis,) = (attribute.i for attribute in made_by.attribute if attribute.name == "axis")
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        assert axis == {"Conv": 0, "Gemm": 0 if transposed else 1, "MatMul": 1}[node.op_type]
        assert scales.shape == zeros.shape == (values.shape[axis],)
        assert not zeros.any()
        seen.add(node.op_type)
    assert seen == {"Conv", "Gemm", "MatMul"}


@pytest.mark.parametrize("name", HERE)
def test_a_runtime_says_that_it_multiplies_8_bit_operands(artifact: Artifact, name: str) -> None:
    backend = pick_backend(name)
    assert settings_of(backend.open(artifact, 1)).departures(Precision.INT8, 1, backend.providers) == []


@pytest.mark.parametrize("name", HERE)
def test_a_graph_that_only_claims_to_be_int8_is_a_departure(artifact: Artifact, run: Run, name: str) -> None:
    backend = pick_backend(name)
    exact = make(Source(run, PX, PX, Precision.FP32), backend)
    claimed = replace(exact, precision=Precision.INT8, quantised=artifact.quantised)
    settings = settings_of(backend.open(claimed, 1))
    assert settings.departures(Precision.INT8, 1, backend.providers) == ["asked for int8, computes in fp32"]


def settings_of(session: Session) -> RuntimeSettings:
    session.bind(np.zeros((2, 3, PX, PX), dtype=np.float32))
    session.launch()
    return session.settings()


@pytest.mark.parametrize("name", HERE)
def test_the_batch_of_an_int8_graph_is_free(artifact: Artifact, run: Run, root: Path, name: str) -> None:
    images = normalise(np.load(held_out(run, root))[:7], run.record.preprocessing)
    session = pick_backend(name).open(artifact, 1)
    together, alone = predict(session, images, 7), predict(session, images, 1)
    # Scales are constants, so integers do not depend on the batch; but floats are added in another order, and then a
    # number between two steps is rounded to the other one, 1/255 of its range away.
    np.testing.assert_allclose(together, alone, atol=0.05 * float(alone.std()))


def test_ranges_are_taken_from_training_images_the_classes_evenly(run: Run) -> None:
    source = Source(run, 16, 16, Precision.INT8, Quantisation(images=40))
    pixels = calibration_pixels(source)
    train = load_data("digits").train
    every = evaluation_pixels(train, run.record.preprocessing, 16, 16)
    known = {image.tobytes(): sample.label for image, sample in zip(every, train, strict=True)}
    labels = Counter(known[image.tobytes()] for image in pixels)
    assert labels == dict.fromkeys(range(10), 4)
    again = calibration_pixels(source)
    other = calibration_pixels(replace(source, quantisation=Quantisation(images=40, seed=1)))
    assert np.array_equal(pixels, again)
    assert not np.array_equal(pixels, other)


def test_the_reader_hands_out_every_image_once_normalised(run: Run) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    reader = CalibrationReader(pixels, run.record.preprocessing, "images")
    handed = []
    for start in range(len(reader)):
        reader.set_range(start, start + 1)
        while (inputs := reader.get_next()) is not None:
            handed.append(inputs["images"])
    np.testing.assert_array_equal(np.concatenate(handed), normalise(pixels, run.record.preprocessing))


def test_what_ranges_are_taken_from_is_a_part_of_what_an_artifact_is_made_of(
    artifact: Artifact, run: Run, root: Path
) -> None:
    backend = pick_backend("ort-cpu")
    found = find(Source(run, PX, PX, Precision.INT8, FEW), backend)
    assert found == artifact
    for other in (replace(FEW, images=65), replace(FEW, seed=1), replace(FEW, method="entropy"), Quantisation()):
        assert find(Source(run, PX, PX, Precision.INT8, other), backend) is None
    # Other precisions do not depend on it.
    exact = verified_artifact(Source(run, PX, PX, Precision.FP32, FEW), backend, held_out(run, root), threads=1)
    assert find(Source(run, PX, PX, Precision.FP32), backend) == exact


def test_the_products_around_a_softmax_are_quantised_if_asked(root: Path) -> None:
    run = make_run(root, "softmax", px=PX)
    asked = replace(FEW, attention=True)
    made = make(Source(run, PX, PX, Precision.INT8, asked), pick_backend("ort-cpu"))
    assert made.quantised == Quantised(asked, images=64, products=6 * 6 + 2, of_products=6 * 6 + 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_every_method_makes_a_graph_and_is_silent(
    root: Path, method: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    handlers = list(logging.getLogger().handlers)
    run = make_run(root, "linformer", name=method, px=PX)
    source = Source(run, PX, PX, Precision.INT8, replace(FEW, method=method))  # type: ignore[arg-type]
    path = pick_backend("ort-cpu").export(source, tmp_path / "model.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert capsys.readouterr().out == ""
    assert logging.getLogger().handlers == handlers


def linear(name: str, *inputs: str) -> onnx.NodeProto:
    """Return a node that PyTorch's exporter makes of a linear layer with this name."""
    node = onnx.helper.make_node("Gemm" if len(inputs) == 3 else "MatMul", inputs, [f"{name}_out"], name)
    node.metadata_props.add(key="namespace", value=f"model: Model/{name}: Linear/linear: aten.linear.default")
    return node


def test_layers_that_share_a_weight_and_a_bias_keep_their_results(run: Run, tmp_path: Path) -> None:
    """The exporter stores equal tensors once; here both layers, and an addition, use them."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((192, 192), np.float32) / 14, rng.standard_normal(192, np.float32)
    shape = numpy_helper.from_array(np.array([-1, 192]), "shape")
    nodes = [
        onnx.helper.make_node("Reshape", ["images", "shape"], ["flat"], "flatten"),
        linear("first", "flat", "weight", "bias"),
        onnx.helper.make_node("Add", ["first_out", "bias"], ["moved"], "move"),
        linear("second", "moved", "weight", "bias"),
    ]
    made = onnx.helper.make_graph(
        nodes,
        "shared",
        [onnx.helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("second_out", TensorProto.FLOAT, ["batch", 192])],
        [shape, numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    pixels = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    reader = CalibrationReader(pixels, run.record.preprocessing, "images")
    small = quantise(model, reader, FEW, FOR_CPU, tmp_path)
    onnx.checker.check_model(small, full_check=True)
    onnx.save(small, tmp_path / "small.onnx")
    images = normalise(pixels, run.record.preprocessing)
    flat = images.reshape(16, 192)
    expected = (flat @ weight + 2 * bias) @ weight + bias
    import onnxruntime as ort

    session = ort.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"images": images})
    # Two layers of 8 bits: noise some 30 dB below the signal, so no more than a tenth of its deviation.
    assert np.sqrt(np.mean((out - expected) ** 2)) < 0.1 * expected.std()


@pytest.mark.parametrize("name", HERE)
def test_a_layer_of_joined_tokens_runs_in_every_runtime(run: Run, tmp_path: Path, name: str) -> None:
    """OpenVINO stumbles over zero points that it has moved in front of a Concat."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((48, 5), np.float32) / 7
    constants = {"weight": weight, "shape": np.array([0, 4, 48]), "first": np.array([1, 3]), "flat": np.array([0, 20])}
    nodes = [
        onnx.helper.make_node("Reshape", ["images", "shape"], ["tokens"], "tokens"),
        onnx.helper.make_node("Split", ["tokens", "first"], ["prefix", "patches"], "split", axis=1),
        onnx.helper.make_node("Exp", ["patches"], ["changed"], "change"),
        onnx.helper.make_node("Concat", ["prefix", "changed"], ["joined"], "join", axis=1),
        linear("layer", "joined", "weight"),
        onnx.helper.make_node("Reshape", ["layer_out", "flat"], ["logits"], "flatten"),
    ]
    made = graphs.model(
        nodes, [numpy_helper.from_array(value, key) for key, value in constants.items()], logits=("batch", 20)
    )
    pixels = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    reader = CalibrationReader(pixels, run.record.preprocessing, "images")
    small = quantise(onnx.shape_inference.infer_shapes(made), reader, FEW, FOR_CPU, tmp_path)
    onnx.checker.check_model(small, full_check=True)
    artifact = replace(
        ARTIFACT,
        path=str(graphs.write(tmp_path / "small.onnx", small)),
        precision=Precision.INT8,
        quantised=Quantised(FEW, 16, 1, 1),
    )
    images = normalise(pixels, run.record.preprocessing)
    tokens = images.reshape(16, 4, 48)
    expected = np.concatenate([tokens[:, :1], np.exp(tokens[:, 1:])], axis=1) @ weight
    out = predict(pick_backend(name).open(artifact, 1), images, 16).reshape(expected.shape)
    # A layer of 8 bits: some 30 dB below the signal, so no more than a tenth of its deviation.
    assert np.sqrt(np.mean((out - expected) ** 2)) < 0.1 * expected.std()


def test_too_few_training_images_leave_nothing_behind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits")
    monkeypatch.setattr("effvit.run.known_data", lambda *_: replace(data, train=data.train[:15]))
    record = replace(run.record, data=replace(run.record.data, name="fifteen"))
    source = Source(Run(run.folder, record), 48, 48, Precision.INT8)
    before = set(run.folder.rglob("*"))
    with pytest.raises(LackingError, match="needs 16 training images to take ranges from, and fifteen has 15"):
        make(source, pick_backend("ort-cpu"))
    assert set(run.folder.rglob("*")) == before


@pytest.mark.parametrize("name", HERE)
def test_without_the_quantiser_there_is_no_int8(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    before = set(run.folder.rglob("*"))
    with pytest.raises(BackendUnavailableError, match="quantised by onnxruntime") as caught:
        make(Source(run, 48, 48, Precision.INT8), pick_backend(name))
    assert "pip install" in caught.value.hint
    assert set(run.folder.rglob("*")) == before


@pytest.mark.parametrize(("field", "value"), [("images", 15), ("seed", -1)])
def test_settings_that_cannot_be(field: str, value: int) -> None:
    with pytest.raises(UsageError, match=str(value)):
        replace(FEW, **{field: value})


@pytest.mark.slow
@pytest.mark.parametrize("px", [224, 384])
@pytest.mark.parametrize("attention", list(attention_variants()))
def test_every_variant_makes_a_valid_int8_graph_at_full_size(tmp_path: Path, attention: str, px: int) -> None:
    run = make_run(tmp_path, attention, backbone="vit_tiny_patch16_224", px=224)
    for name in HERE:
        artifact = make(Source(run, px, px, Precision.INT8, FEW), pick_backend(name))
        onnx.checker.check_model(onnx.load(artifact.path), full_check=True)
        images = normalise(np.zeros((2, px, px, 3), dtype=np.uint8), run.record.preprocessing)
        assert np.isfinite(predict(pick_backend(name).open(artifact, 1), images, 2)).all()


def test_products_that_share_a_weight_get_one_each_and_nothing_else_changes() -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        shared (float[2, 2] x) => (float[2, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, float[2, 2] other = {5, 6, 7, 8}> {
            [first] a = MatMul(x, w)
            [second] b = MatMul(a, w)
            [third] c = MatMul(b, other)
            [left] y = MatMul(c, w)
        }
    """)
    x = np.float32([[1, 2], [3, 4]])
    before = ReferenceEvaluator(graph).run(None, {"x": x})[0]
    own_weights(graph, ("first", "second", "third"))
    assert [node.input[1] for node in graph.graph.node] == ["w", "w_of_second", "other", "w"]
    np.testing.assert_array_equal(ReferenceEvaluator(graph).run(None, {"x": x})[0], before)
