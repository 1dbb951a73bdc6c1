"""What ONNX files are made of, on files whose every number can be computed by hand."""

from __future__ import annotations

import resource
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effvit.errors import DamagedArtifactError
from effvit.export.census import Count, Port, ProductShare, WeightShare, graph_census


def test_operators_weights_and_ports_are_those_of_the_file(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "model.onnx", graphs.classifier())
    census = graph_census(path)
    assert census.operators == (Count("Conv", 1), Count("Flatten", 1), Count("Gemm", 1), Count("MatMul", 1))
    assert census.weights == (WeightShare("float", 3, 5 * 48 + 140 + 70, 4 * (5 * 48 + 140 + 70)),)
    assert census.inputs == (Port("images", "float", ("batch", 3, 8, 8)),)
    assert census.outputs == (Port("logits", "float", ("batch", 10)),)
    assert (census.opsets, census.producer, census.ir_version) == ((Count("ai.onnx", 20),), "a hand", 10)
    assert (census.size_bytes, census.external, census.quantisation) == (path.stat().st_size, (), None)
    assert (census.precision, census.model) == (None, None)


def test_macs_are_those_of_one_image(tmp_path: Path) -> None:
    """Four places of 5 channels from 48 numbers each; 20 to 7; 7 to 10."""
    census = graph_census(graphs.write(tmp_path / "model.onnx", graphs.classifier()))
    assert census.products == (ProductShare("fp32", 3, 4 * 5 * 48 + 20 * 7 + 7 * 10, 3),)


def test_products_are_counted_by_the_type_of_their_factors(tmp_path: Path) -> None:
    """One product in half precision, one between dequantised tensors, which is one of integers, and one in float."""
    nodes = [
        helper.make_node("Cast", ["images"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Flatten", ["half"], ["flat"]),
        helper.make_node("MatMul", ["flat", "first"], ["hidden"]),
        helper.make_node("Cast", ["hidden"], ["full"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["full", "second"], ["logits"]),
    ]
    made = graphs.model(nodes, [graphs.weight("first", 192, 6, dtype="float16"), graphs.weight("second", 6, 10)])
    census = graph_census(graphs.write(tmp_path / "half.onnx", made))
    assert census.products == (ProductShare("fp16", 1, 192 * 6, 1), ProductShare("fp32", 1, 60, 1))
    assert [(share.type, share.size_bytes) for share in census.weights] == [("float16", 2 * 192 * 6), ("float", 240)]

    census = graph_census(graphs.write(tmp_path / "int8.onnx", graphs.quantised()))
    assert census.products == (ProductShare("int8", 1, 192 * 7, 1), ProductShare("fp32", 1, 70, 1))


@pytest.mark.parametrize(("zero_point", "asymmetric"), [(0, 0), (3, 2)])
def test_the_form_of_a_quantised_graph_is_told(tmp_path: Path, zero_point: int, asymmetric: int) -> None:
    census = graph_census(graphs.write(tmp_path / "int8.onnx", graphs.quantised(zero_point)))
    form = census.quantisation
    assert form is not None
    assert (form.quantise, form.dequantise, form.types) == (1, 2, ("int8",))
    assert (form.asymmetric, form.per_channel, form.blocked, form.weights) == (asymmetric, 1, 0, 1)


def test_products_inside_attention_have_no_weights(tmp_path: Path) -> None:
    """Two heads' worth of queries and keys of 3 tokens, and the same as one Einsum."""
    nodes = [
        helper.make_node("MatMul", ["images", "keys"], ["queries"]),
        helper.make_node("MatMul", ["images", "queries"], ["scores"]),
        helper.make_node("Einsum", ["scores", "queries"], ["logits"], equation="bhij,bhjd->bhid"),
    ]
    shape = ("batch", 2, 4, 4)
    made = graphs.model(nodes, [graphs.weight("keys", 4, 4)], shape, shape)
    census = graph_census(graphs.write(tmp_path / "attention.onnx", made))
    assert census.products == (ProductShare("fp32", 3, 3 * 2 * 4 * 4 * 4, 1),)


@pytest.mark.parametrize("ndim", [3, 4])
def test_the_attention_operator_is_two_products(tmp_path: Path, ndim: int) -> None:
    """Two heads of 4 numbers, 5 queries on 5 keys: 2 * 5 * 5 * 4 multiplications, twice."""
    shape = ("batch", 2, 5, 4) if ndim == 4 else ("batch", 5, 8)
    heads = {} if ndim == 4 else {"q_num_heads": 2, "kv_num_heads": 2}
    nodes = [helper.make_node("Attention", ["images"] * 3, ["logits"], **heads)]
    census = graph_census(graphs.write(tmp_path / "attention.onnx", graphs.model(nodes, [], shape, shape, opset=23)))
    assert census.products == (ProductShare("fp32", 1, 2 * 2 * 5 * 5 * 4, 0),)


def test_operators_of_a_runtime_are_counted_and_their_macs_not_guessed(tmp_path: Path) -> None:
    """Behind an operator that only one runtime knows there are no shapes."""
    nodes = [
        helper.make_node("Mystery", ["images"], ["flat"], domain="com.microsoft"),
        helper.make_node("MatMul", ["flat", "inner"], ["logits"]),
    ]
    made = graphs.model(nodes, [graphs.weight("inner", 20, 10)])
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    census = graph_census(graphs.write(tmp_path / "own.onnx", made))
    assert Count("com.microsoft::Mystery", 1) in census.operators
    assert census.products == (ProductShare("fp32", 1, None, 1),)


def test_weights_beside_the_graph_are_counted_and_not_read(tmp_path: Path) -> None:
    """The file of the weights is sparse and too large to be read in passing."""
    path = graphs.write(tmp_path / "model.onnx", graphs.classifier(), external=True)
    data = tmp_path / "model.onnx.data"
    with data.open("r+b") as stream:
        stream.truncate(2**36)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    census = graph_census(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    ((name, size_bytes, tensors),) = [(file.name, file.size_bytes, file.tensors) for file in census.external]
    assert (name, size_bytes, tensors) == ("model.onnx.data", 2**36, 3)
    assert census.size_bytes == path.stat().st_size + 2**36
    assert census.products == (ProductShare("fp32", 3, 4 * 5 * 48 + 20 * 7 + 7 * 10, 3),)


def test_missing_and_torn_weights_are_one_sentence(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "model.onnx", graphs.classifier(), external=True)
    data = tmp_path / "model.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[:-8])
    with pytest.raises(DamagedArtifactError, match="are torn"):
        graph_census(path)
    data.unlink()
    with pytest.raises(DamagedArtifactError, match=r"3 of its tensors lie in model.onnx.data, which is not there"):
        graph_census(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", ""])
def test_weights_outside_of_the_graphs_folder_are_refused(tmp_path: Path, location: str) -> None:
    made = graphs.classifier()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(DamagedArtifactError, match="outside of its folder"):
        graph_census(path)


def test_every_way_to_cut_a_graph_short_is_one_sentence(tmp_path: Path) -> None:
    content = graphs.classifier().SerializeToString()
    path = tmp_path / "torn.onnx"
    whole = 0
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        try:
            graph_census(path)
        except DamagedArtifactError:
            continue
        whole += 1
    assert whole == 0


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello, world\n", b"{}", bytes(64), b"\x08\x0a"]
)
def test_other_files_are_no_graphs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(DamagedArtifactError):
        graph_census(path)


def test_numbers_of_four_bits_take_half_a_byte(tmp_path: Path) -> None:
    made = graphs.classifier()
    made.graph.initializer.append(
        helper.make_tensor("packed", TensorProto.INT4, [5], np.array([0x21, 0x43, 0x05], np.uint8).tobytes(), raw=True)
    )
    assert numpy_helper.to_array(made.graph.initializer[-1]).astype(int).tolist() == [1, 2, 3, 4, 5]
    census = graph_census(graphs.write(tmp_path / "packed.onnx", made))
    assert WeightShare("int4", 1, 5, 3) in census.weights
    assert isinstance(onnx.load(tmp_path / "packed.onnx"), onnx.ModelProto)
