"""Graphs as TensorRT takes them: types and operators of its parser, and the form of their Q/DQ pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from tensorrt_parser import types_of, undocumented
from untrained_runs import make_run

from effvit.export.backends.tensorrt import graph_backend
from effvit.export.base import Source, pick_backend, predict
from effvit.export.cache import make, reference_logits
from effvit.export.quantisation import Quantisation
from effvit.export.tensorrt_graph import _make_fp8, export_graph, scale_weights
from effvit.preprocessing import normalise
from effvit.run import Run
from effvit.spec import Precision
from effvit.surgery import attention_variants

TYPES = {
    Precision.FP32: TensorProto.FLOAT,
    Precision.TF32: TensorProto.FLOAT,
    Precision.FP16: TensorProto.FLOAT16,
    Precision.BF16: TensorProto.BFLOAT16,
    Precision.INT8: TensorProto.INT8,
    Precision.FP8: TensorProto.FLOAT8E4M3FN,
}
# Exponentials and squares overflow in half precision, and logarithms of what is left are no masses.
WIDE = ("Exp", "Log", "Pow", "ReduceL2", "Reciprocal")
FEW = Quantisation(images=16)


def graph_of(run: Run, precision: Precision, folder: Path, px: int) -> onnx.ModelProto:
    return onnx.load(export_graph(Source(run, px, px, precision, FEW), folder / f"{precision}.onnx"))


def check_types(graph: onnx.ModelProto, precision: Precision) -> None:
    """Check the graph's types, operators and inputs; a quantised graph's remainder is fp16."""
    onnx.checker.check_model(graph, full_check=True)
    assert undocumented(graph) == []
    for value in (*graph.graph.input, *graph.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    types = types_of(graph)
    assert types.keys() >= {name for node in graph.graph.node for name in node.output}
    rest = TYPES[Precision.FP16 if precision.quantised else precision]
    layers = Counter(types[node.output[0]] for node in graph.graph.node if node.op_type == "LayerNormalization")
    assert set(layers) == {rest}
    for node in graph.graph.node:
        if node.op_type in WIDE:
            assert types[node.input[0]] in (TensorProto.FLOAT, TensorProto.INT64), node.name


def check_pairs(graph: onnx.ModelProto, precision: Precision) -> None:
    """Check that pairs are symmetric, weights have a scale for every output, and results of products are left alone.

    Of the products only those with a layer's weights have pairs, around both operands.
    """
    weights = {weight.name: weight for weight in graph.graph.initializer}
    makers = {output: node for node in graph.graph.node for output in node.output}
    quantised = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len([node for node in quantised if node.op_type == "QuantizeLinear"]) * 2 == len(quantised)
    for node in quantised:
        scale, zero = weights[node.input[1]], weights[node.input[2]]
        assert zero.data_type == TYPES[precision]
        assert scale.data_type == TensorProto.FLOAT16
        source = makers.get(node.input[0])
        if node.op_type == "DequantizeLinear":
            assert source is not None
            assert source.op_type == "QuantizeLinear"
            assert source.input[1:] == node.input[1:]
        else:
            assert source is None or source.op_type not in ("Conv", "Gemm", "MatMul")
            assert len(scale.dims) == (1 if node.input[0] in weights else 0)
    products = [node for node in graph.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    for node in products:
        pairs = [makers[name].op_type == "DequantizeLinear" for name in node.input[:2] if name in makers]
        assert all(pairs) or not any(pairs)
        if any(pairs):
            assert makers[makers[node.input[1]].input[0]].input[0] in weights


@pytest.mark.parametrize(
    ("node", "phrase"),
    [
        (helper.make_node("Sin", ["hidden"], ["out"]), "Sin of ''"),
        (helper.make_node("Cast", ["hidden"], ["out"], to=TensorProto.DOUBLE), "Cast of DOUBLE"),
        (helper.make_node("ReduceSum", ["hidden", "shape"], ["out"]), "ReduceSum over axes that are no constant"),
        (helper.make_node("TopK", ["hidden", "k"], ["out", "places"], sorted=0), "TopK that is not sorted"),
        (
            helper.make_node("QuantizeLinear", ["hidden", "scale", "three"], ["out"]),
            "with a zero point other than zero",
        ),
        (helper.make_node("QuantizeLinear", ["hidden", "none", "zero"], ["out"]), "with a scale that is not positive"),
        (
            helper.make_node("QuantizeLinear", ["hidden", "scale"], ["out"], precision=1),
            "QuantizeLinear with precision",
        ),
    ],
)
def test_what_the_parser_does_not_document_is_found(node: onnx.NodeProto, phrase: str) -> None:
    graph = graphs.classifier()
    graph.opset_import[0].version = 23
    assert undocumented(graph) == []
    values = {
        "k": np.array([2]),
        "scale": np.float32(0.1),
        "none": np.float32(0),
        "three": np.int8(3),
        "zero": np.int8(0),
    }
    graph.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in values.items())
    graph.graph.node.extend([helper.make_node("Shape", ["hidden"], ["shape"]), node])
    (found,) = undocumented(graph)
    assert phrase in found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "performer", px=32)


@pytest.fixture(scope="module")
def int8(run: Run, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return graph_of(run, Precision.INT8, tmp_path_factory.mktemp("graphs"), 32)


@pytest.fixture(scope="module")
def fp8(run: Run, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return graph_of(run, Precision.FP8, tmp_path_factory.mktemp("graphs"), 32)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_half_graphs_keep_wide_what_needs_it(run: Run, tmp_path: Path, precision: Precision) -> None:
    check_types(graph_of(run, precision, tmp_path, 32), precision)


def test_an_int8_graph_has_symmetric_pairs_around_its_layers(int8: onnx.ModelProto) -> None:
    check_types(int8, Precision.INT8)
    check_pairs(int8, Precision.INT8)
    # Every layer of test_vit's six blocks, the head, and the embedding: an activation and a weight each. The
    # activations of the layers are no other layer's.
    assert sum(node.op_type == "QuantizeLinear" for node in int8.graph.node) == 2 * (6 * 4 + 2)


@pytest.mark.parametrize(
    ("precision", "embedding"), [(Precision.INT8, 1), pytest.param(Precision.FP8, 0, marks=pytest.mark.slow)]
)
def test_products_around_a_softmax_have_symmetric_pairs_if_asked(
    tmp_path: Path, precision: Precision, embedding: int
) -> None:
    run = make_run(tmp_path, "softmax", px=32)
    asked = Quantisation(images=16, attention=True)
    graph = onnx.load(export_graph(Source(run, 32, 32, precision, asked), tmp_path / "asked.onnx"))
    check_types(graph, precision)
    makers = {output: node for node in graph.graph.node for output in node.output}
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.graph.initializer}
    products = [node for node in graph.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    paired = [node for node in products if all(_paired(name, makers) for name in node.input[:2])]
    # Four layers and two products of attention in each of six blocks, and the head.
    assert (len(paired), len(products)) == (6 * 6 + 1 + embedding, 6 * 6 + 2)
    inside = [node for node in paired if makers[makers[node.input[1]].input[0]].input[0] not in weights]
    assert len(inside) == 6 * 2
    for node in inside:
        for name in node.input:
            quantise = makers[makers[name].input[0]]
            scale, zero = weights[quantise.input[1]], weights[quantise.input[2]]
            assert (scale.shape, scale.dtype, float(zero)) == ((), np.float16, 0.0)
    of_softmax = [
        node for node in inside if makers[makers[makers[node.input[0]].input[0]].input[0]].op_type == "Softmax"
    ]
    assert len(of_softmax) == 6


def _paired(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    maker = makers.get(name)
    return maker is not None and maker.op_type == "DequantizeLinear"


SMALLEST = 2.0**-24
"""The least number of half precision above 0."""


def quantised_weight(values: np.ndarray, scale: np.ndarray) -> onnx.ModelProto:
    """Return a graph of a weight, an output a row, with a pair around it."""
    nodes = [
        helper.make_node("QuantizeLinear", ["weight", "scale", "zero"], ["small"], axis=0),
        helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["out"], axis=0),
    ]
    constants = {"weight": values, "scale": scale, "zero": np.zeros(len(values), np.int8)}
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT16, values.shape)
    graph = helper.make_graph(nodes, "pair", [], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def scaled(values: np.ndarray, largest: int = 127) -> np.ndarray:
    """Return the scales of a weight whose quantiser has given it the scale 1."""
    graph = quantised_weight(values, np.ones(len(values), np.float16))
    scale_weights(graph, largest)
    return numpy_helper.to_array(graph.graph.initializer[1])


def test_the_largest_weight_of_an_output_becomes_the_largest_number() -> None:
    """By hand: 127/127 is 1; 2**-10 / 127 is no half but lies between two; the last three have no normal scale."""
    most = np.float16([127.0, 2.0**-10, 100 * SMALLEST, SMALLEST, 0.0])
    values = np.stack([most, -most / 2], axis=1)
    scales = scaled(values)
    assert scales.dtype == np.float16
    below = np.float16(2.0**-10 / 127)
    np.testing.assert_array_equal(scales[[0, 2, 3, 4]], np.float16([1, SMALLEST, SMALLEST, 1]))
    assert scales[1] in (below, np.nextafter(below, np.float16(1)))
    assert float(scales[1]) * 127 >= 2.0**-10
    np.testing.assert_array_equal(scaled(values[:1], 448), np.float16([0.2837]))


@settings(deadline=None)
@given(arrays(np.float16, (3, 4), elements=st.floats(-100, 100, width=16, allow_subnormal=True)))
def test_no_weight_is_lost_to_its_scale(values: np.ndarray) -> None:
    scales = scaled(values).astype(np.float64)
    assert (scales > 0).all()
    small = np.clip(np.rint(values.astype(np.float64) / scales[:, None]), -128, 127)
    # Half a step, of which there are 127, or of which each is the least number that there is.
    most = np.abs(values.astype(np.float64)).max(axis=1)
    step = np.maximum(most / 127 * (1 + 2.0**-10), SMALLEST)
    assert (np.abs(small * scales[:, None] - values) <= step[:, None] / 2 + 1e-12).all()


def test_scales_of_small_activations_do_not_become_0_in_fp8() -> None:
    graph = quantised_weight(np.ones((2, 2), np.float16), np.float16([SMALLEST, 1.0]))
    _make_fp8(graph)
    # 127/448 of the least number is that number; of 1 it is 0.28348, and no less than that in half precision 0.2837.
    np.testing.assert_array_equal(numpy_helper.to_array(graph.graph.initializer[1]), np.float16([SMALLEST, 0.2837]))


def scales_of(graph: onnx.ModelProto, largest: int) -> dict[str, np.ndarray]:
    """Return the largest magnitude of every quantised tensor by the name of its scale."""
    weights = {weight.name: weight for weight in graph.graph.initializer}
    scales = {node.input[1] for node in graph.graph.node if node.op_type == "QuantizeLinear"}
    return {name: numpy_helper.to_array(weights[name]).astype(float) * largest for name in scales}


def test_an_fp8_graph_scales_the_same_ranges_to_its_own_largest_number(
    int8: onnx.ModelProto, fp8: onnx.ModelProto
) -> None:
    check_types(fp8, Precision.FP8)
    check_pairs(fp8, Precision.FP8)
    ranges = [scales_of(graph, largest) for graph, largest in ((int8, 127), (fp8, 448))]
    # The embedding of the images stays in half precision: two pairs less.
    assert len(ranges[0]) - len(ranges[1]) == 2
    common = sorted(ranges[1])
    eight, floating = (np.concatenate([np.ravel(one[name]) for name in common]) for one in ranges)
    # Scales are fp16: 11 significant bits, and fewer below 6e-5.
    np.testing.assert_allclose(floating, eight, rtol=5e-3)


def test_the_int8_graph_of_an_engine_is_verified_and_is_another_than_that_of_a_processor(run: Run) -> None:
    source = Source(run, 32, 32, Precision.INT8, FEW)
    ours, theirs = make(source, graph_backend(Precision.INT8)), make(source, pick_backend("ort-cpu"))
    assert ours.path != theirs.path
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    images = normalise(pixels, run.record.preprocessing)
    logits = predict(graph_backend(Precision.INT8).open(ours, 1), images, 8)
    exact = reference_logits(source, pixels)
    cosine = (logits * exact).sum() / np.linalg.norm(logits) / np.linalg.norm(exact)
    assert cosine > 0.99


def test_an_engine_that_is_not_quantised_shares_its_graph_with_onnx_runtime() -> None:
    assert graph_backend(Precision.FP16) is pick_backend("ort-cpu")
    assert graph_backend(Precision.FP16, "operator").format != pick_backend("ort-cpu").format


@pytest.mark.slow
@pytest.mark.timeout(900)  # six exports each
@pytest.mark.parametrize("px", [224, 384])
@pytest.mark.parametrize("attention", list(attention_variants()))
def test_every_variant_has_a_graph_for_tensorrt_in_every_precision(tmp_path: Path, attention: str, px: int) -> None:
    run = make_run(tmp_path, attention, backbone="test_vit", px=224)
    for precision in TYPES:
        graph = graph_of(run, precision, tmp_path, px)
        check_types(graph, precision)
        if precision.quantised:
            check_pairs(graph, precision)
