"""Which nodes of an ONNX graph are matrix products, of what, and with operands of how many bits."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx

from effvit.export.graph_file import origin_of

PRODUCTS = ("Conv", "Gemm", "MatMul")


def weight_products(graph: onnx.ModelProto, channels: int = 1) -> list[str]:
    """Return the names of the products of an activation with a layer's weights.

    Of convolutions those whose input channels, of a group, are a multiple of `channels`.

    Other constants are left out: FAVOR+'s random directions, whose products become exponents of e; poolings and
    compressions of tokens, which come first in their products; Hedgehog's maps, a matrix a head.
    """
    constants = {weight.name: tuple(weight.dims) for weight in graph.graph.initializer}
    return [node.name for node in _products(graph) if _is_layer(node, constants, channels)]


def _is_layer(node: onnx.NodeProto, constants: dict[str, tuple[int, ...]], channels: int) -> bool:
    weight = constants.get(node.input[1])
    if weight is None or node.input[0] in constants:
        return False
    if node.op_type == "Conv":
        return weight[1] % channels == 0
    # PyTorch's exporter tells what a node was made of. A linear layer is one whether a module or a function.
    return len(weight) == 2 and origin_of(node).endswith("aten.linear.default")


def attention_products(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the products around a softmax: of queries with keys, and of what it returns with values."""
    constants = {weight.name for weight in graph.graph.initializer}
    makers = {output: node for node in graph.graph.node for output in node.output}
    of_scores = {_scored(node, makers) for node in graph.graph.node if node.op_type == "Softmax"}
    names = []
    for node in _products(graph):
        if constants.intersection(node.input):
            continue
        first = makers.get(node.input[0])
        if node.name in of_scores or (first is not None and first.op_type == "Softmax"):
            names.append(node.name)
    return names


def _scored(softmax: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> str | None:
    """Return the name of the product whose result, scaled or with a bias perhaps, goes into a softmax."""
    node = makers.get(softmax.input[0])
    if node is not None and node.op_type in ("Add", "Mul"):
        node = makers.get(node.input[0])
    return node.name if node is not None and node.op_type in PRODUCTS else None


def flatten_joined(graph: onnx.ModelProto, names: Collection[str]) -> None:
    """Let the products called `names` multiply rows where they multiply tokens that a Concat has joined, in place.

    `(batch, tokens, width)` is `(batch * tokens, width)` for them, and back again.
    """
    makers = {output: node for node in graph.graph.node for output in node.output}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.graph.value_info}
    for node in [node for node in graph.graph.node if node.name in names]:
        joined, result = node.input[0], node.output[0]
        if joined not in makers or makers[joined].op_type != "Concat" or len(shapes[joined]) != 3:
            continue
        rows = f"{node.name}_rows"
        before = _reshape(graph, joined, rows, [-1, shapes[joined][2].dim_value])
        after = _reshape(graph, f"{rows}_out", result, [-1, *(dim.dim_value for dim in shapes[result][1:])])
        node.input[0], node.output[0] = before.output[0], after.input[0]
        place = list(graph.graph.node).index(node)
        graph.graph.node.insert(place + 1, after)
        graph.graph.node.insert(place, before)


def own_weights(graph: onnx.ModelProto, names: Collection[str]) -> None:
    """Let each of the products called `names` have weights of its own, in place.

    The exporter keeps equal weights once, such as those of modules that nobody has trained yet. ONNX Runtime refuses
    the graph where it repacks 8-bit weights that several products share.
    """
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    taken: set[str] = set()
    for node in (node for node in graph.graph.node if node.name in names):
        for place, name in enumerate(node.input):
            if name in taken:
                copy = graph.graph.initializer.add()
                copy.CopyFrom(weights[name])
                copy.name = node.input[place] = f"{name}_of_{node.name}"
            elif name in weights:
                taken.add(name)


def _reshape(graph: onnx.ModelProto, name: str, result: str, shape: list[int]) -> onnx.NodeProto:
    """Return a node that reshapes the tensor `name`, and add its shape to the constants of `graph`."""
    constant = onnx.numpy_helper.from_array(np.array(shape), f"{name}_to_{result}")
    graph.graph.initializer.append(constant)
    return onnx.helper.make_node("Reshape", [name, constant.name], [result], f"{result}_reshape")


def count_products(graph: onnx.ModelProto) -> tuple[int, int]:
    """Return how many products have operands of 8 bits only, and how many products there are."""
    dequantised = {output for node in graph.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    products = list(_products(graph))
    return sum(dequantised.issuperset(node.input[:2]) for node in products), len(products)


def _products(graph: onnx.ModelProto) -> Iterable[onnx.NodeProto]:
    return (node for node in graph.graph.node if node.op_type in PRODUCTS)
