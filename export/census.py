"""What an ONNX file is made of: operators, types of its products, quantisation, weights, inputs and outputs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import onnx
from onnx import TensorProto

from effvit.errors import DamagedArtifactError
from effvit.export.graph_file import ExternalFile, external_files, nodes_of, read_graph, tensors_of
from effvit.export.products import UNKNOWN, Product, Products, TensorInfo
from effvit.spec import ModelSpec, Precision

# Larger tensors say nothing about shapes: they are left out when shapes are inferred, which copies what it is given.
_MOST_NUMBERS = 1024
_HALF_BYTES = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)
T = TypeVar("T")
_QUANTISE, _DEQUANTISE = ("QuantizeLinear", "DynamicQuantizeLinear"), ("DequantizeLinear",)


@dataclass(frozen=True, slots=True)
class Count:
    """How often something occurs."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class ProductShare:
    """The matrix products in one type: nodes, and MACs of one image where shapes tell them of every node.

    `weighted` of the nodes multiply with weights; the others are products inside attention.
    """

    type: str
    nodes: int
    macs: int | None
    weighted: int


@dataclass(frozen=True, slots=True)
class Quantisation:
    """The form of a graph's Q and DQ nodes.

    `asymmetric` counts those with a zero point other than zero, which TensorRT refuses; None where zero points are
    computed, or lie in another file. `per_channel` and `blocked` count those with a scale for every channel or block,
    `weights` the DQ nodes, or Q nodes, whose input is a constant.
    """

    quantise: int
    dequantise: int
    types: tuple[str, ...]
    asymmetric: int | None
    per_channel: int
    blocked: int
    weights: int


@dataclass(frozen=True, slots=True)
class WeightShare:
    """The constant tensors of one type; `numbers` of them in all, which take `size_bytes`."""

    type: str
    tensors: int
    numbers: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph or an engine; a dimension that is free has a name."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class GraphCensus:
    """An ONNX graph in numbers; `size_bytes` counts the files of its weights, too.

    `precision` and `model` are what the graph's metadata say that it was exported as and from, None in graphs of
    others; `pins` are the modules of the model that stay in fp32 in it.
    """

    path: str
    size_bytes: int
    ir_version: int
    opsets: tuple[Count, ...]
    producer: str
    operators: tuple[Count, ...]
    products: tuple[ProductShare, ...]
    quantisation: Quantisation | None
    weights: tuple[WeightShare, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    external: tuple[ExternalFile, ...]
    precision: Precision | None
    model: ModelSpec | None
    pins: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        return sum(operator.count for operator in self.operators)


def graph_census(path: Path) -> GraphCensus:
    """Return what the ONNX file `path` is made of; weights in files of their own are not read.

    Raises:
        ArtifactError: There is no such file.
        DamagedArtifactError: It is no whole ONNX graph, or weights of it are missing.
    """
    model = read_graph(path)
    graph = model.graph
    external = external_files(model, path)
    operators = Counter(_operator(node) for node in nodes_of(graph))
    weights, quantisation = _weights(tensors_of(graph)), _quantisation(graph)
    inputs, outputs = tuple(map(_port, _true_inputs(graph))), tuple(map(_port, graph.output))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    # The last step: it takes the graph apart.
    products = _product_shares(_products(model, path))
    return GraphCensus(
        path=str(path),
        size_bytes=path.stat().st_size + sum(file.size_bytes for file in external),
        ir_version=model.ir_version,
        opsets=tuple(Count(entry.domain or "ai.onnx", entry.version) for entry in model.opset_import),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        operators=most_frequent(operators),
        products=products,
        quantisation=quantisation,
        weights=weights,
        inputs=inputs,
        outputs=outputs,
        external=external,
        precision=_decoded(metadata.get("effvit.precision"), Precision),
        model=_decoded(metadata.get("effvit.model"), ModelSpec),
        pins=_decoded(metadata.get("effvit.pins"), tuple[str, ...]) or (),
    )


def _products(model: onnx.ModelProto, path: Path) -> list[Product]:
    """Return the products of `model`, counted for one image; the model is taken apart on the way."""
    graph = model.graph
    before = {value.name: _info(value.type.tensor_type) for value in graph.value_info}
    weights = {tensor.name: TensorInfo(tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    _free_of_large_tensors(graph)
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = 1
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DamagedArtifactError(
            f"{path} is not valid ONNX: {reason}", "export it again with `effvit export`"
        ) from error
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    # What inference does not know, operators of a runtime's own, say, has at least the type that the exporter wrote.
    tensors = {name: TensorInfo(info.type, None) for name, info in before.items()}
    tensors |= {value.name: _info(value.type.tensor_type) for value in values} | weights
    products = Products(graph, tensors, weights)
    return [found for node in graph.node if (found := products.product(node)) is not None]


def _free_of_large_tensors(graph: onnx.GraphProto) -> None:
    """Turn large weights into inputs of the same shape."""
    small, inputs = [], {value.name for value in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _MOST_NUMBERS and tensor.data_location != TensorProto.EXTERNAL:
            small.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    kept = onnx.GraphProto()
    kept.initializer.extend(small)
    del graph.initializer[:]
    graph.initializer.extend(kept.initializer)


def _product_shares(products: Iterable[Product]) -> tuple[ProductShare, ...]:
    """Return the products by type, most MACs first."""
    by_type: defaultdict[str, list[Product]] = defaultdict(list)
    for product in products:
        by_type[product.type].append(product)
    shares = []
    for kind, some in by_type.items():
        macs = [product.macs for product in some if product.macs is not None]
        known = len(macs) == len(some)
        weighted = sum(product.weighted for product in some)
        shares.append(ProductShare(kind, len(some), sum(macs) if known else None, weighted))
    return tuple(sorted(shares, key=lambda share: (-(share.macs or 0), -share.nodes)))


def _quantisation(graph: onnx.GraphProto) -> Quantisation | None:
    """Return the form of the Q and DQ nodes of `graph`, None where there are none."""
    nodes = [node for node in nodes_of(graph) if node.op_type in (*_QUANTISE, *_DEQUANTISE)]
    if not nodes:
        return None
    constants = {tensor.name: tensor for tensor in graph.initializer}
    zero_points = [_zero_points(node, constants) for node in nodes]
    blocked = [any(attribute.name == "block_size" and attribute.i for attribute in node.attribute) for node in nodes]
    channels = [
        node.op_type not in _QUANTISE[1:]
        and node.input[1] in constants
        and math.prod(constants[node.input[1]].dims) > 1
        for node in nodes
    ]
    types = {_quantised_type(node, constants) for node in nodes} - {None}
    return Quantisation(
        quantise=sum(node.op_type in _QUANTISE for node in nodes),
        dequantise=sum(node.op_type in _DEQUANTISE for node in nodes),
        types=tuple(sorted(str(kind) for kind in types)),
        asymmetric=None if None in zero_points else sum(map(bool, zero_points)),
        per_channel=sum(many and not block for many, block in zip(channels, blocked, strict=True)),
        blocked=sum(blocked),
        weights=sum(node.input[0] in constants for node in nodes),
    )


def _zero_points(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> bool | None:
    """Return whether the node has a zero point other than zero; None where that cannot be told."""
    if node.op_type == "DynamicQuantizeLinear":
        return None
    if len(node.input) < 3 or not node.input[2]:
        return False
    tensor = constants.get(node.input[2])
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return None
    return bool(np.any(onnx.numpy_helper.to_array(tensor).astype(np.float32)))


def _quantised_type(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> str | None:
    """Return the name of the type that a node converts to or from, as far as its constants tell."""
    for name in (node.input[2] if len(node.input) > 2 else "", node.input[0]):
        if name in constants and constants[name].data_type != TensorProto.FLOAT:
            return _type_name(constants[name].data_type)
    return None


def _weights(tensors: Iterable[TensorProto]) -> tuple[WeightShare, ...]:
    """Return the constant tensors by type, most bytes first."""
    by_type: defaultdict[int, list[int]] = defaultdict(list)
    for tensor in tensors:
        by_type[tensor.data_type].append(math.prod(tensor.dims))
    shares = [
        WeightShare(_type_name(kind), len(numbers), sum(numbers), sum(_size_bytes(kind, count) for count in numbers))
        for kind, numbers in by_type.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.size_bytes))


def _size_bytes(kind: int, numbers: int) -> int:
    if kind in _HALF_BYTES:
        return (numbers + 1) // 2
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize) * numbers


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower() if kind in TensorProto.DataType.values() else UNKNOWN


def _operator(node: onnx.NodeProto) -> str:
    """Return the operator of `node`, behind its domain where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def most_frequent(counter: Counter[str]) -> tuple[Count, ...]:
    """Return what was counted, most frequent first, and by name where as frequent."""
    return tuple(Count(name, count) for name, count in sorted(counter.items(), key=lambda pair: (-pair[1], pair[0])))


def _true_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are no weights with a value."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    return Port(
        value.name, _type_name(tensor.elem_type), tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    )


def _info(tensor: onnx.TypeProto.Tensor) -> TensorInfo:
    dims = list(tensor.shape.dim)
    known = tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims)
    return TensorInfo(tensor.elem_type, tuple(dim.dim_value for dim in dims) if known else None)


def _decoded(text: str | None, kind: type[T]) -> T | None:
    """Return what metadata say, None where they are missing, or another effvit's."""
    try:
        return None if text is None else msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        return None
