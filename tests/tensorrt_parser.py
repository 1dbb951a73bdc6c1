"""What TensorRT's ONNX parser documents that it takes: operators, the types of their data, attributes, restrictions.

Operators, types and restrictions are those of docs/operators.md of https://github.com/onnx/onnx-tensorrt at TensorRT
10.15, of the operators that image classifiers hold; 11.x documents no less. Attributes are those that its importers
read (onnxOpImporters.cpp of the same repository).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

OPSETS = range(9, 25)
MOST_SORTED = 3840
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
ANY = NUMBERS | {TensorProto.BOOL}
BOOLEAN = frozenset({TensorProto.BOOL})
# Of numbers in 8 bits, TensorRT knows those that were quantised alone.
QUANTISED = frozenset({TensorProto.INT8, TensorProto.FLOAT8E4M3FN})


@dataclass(frozen=True, slots=True)
class Tensors:
    """What is known of a graph's tensors by their names: types, the sizes that are not free, and constant values."""

    types: dict[str, int]
    sizes: dict[str, tuple[int, ...]]
    constants: dict[str, TensorProto]


@dataclass(frozen=True, slots=True)
class Operator:
    """The types that the data of an operator may have, and the attributes that it may have, separated by spaces.

    `data` are the inputs that are data, and not shapes, indices or conditions; none: its outputs are.
    """

    types: frozenset[int]
    attributes: str = ""
    data: tuple[int, ...] = (0,)


_REDUCTIONS = ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
_PAIRS = ("QuantizeLinear", "DequantizeLinear")
_QUANTISATION = "axis saturate block_size output_dtype"
OPERATORS = {
    **dict.fromkeys(("Abs", "IsNaN", "Neg"), Operator(NUMBERS)),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"), Operator(NUMBERS, "", (0, 1))),
    **dict.fromkeys(("Equal", "Greater", "Less"), Operator(NUMBERS, "", (0, 1))),
    **dict.fromkeys(("And", "Not", "Or"), Operator(BOOLEAN)),
    **dict.fromkeys(("Clip", "Erf", "Exp", "Log", "Reciprocal", "Sigmoid", "Sqrt", "Tanh"), Operator(FLOATS)),
    **dict.fromkeys(_REDUCTIONS, Operator(NUMBERS, "keepdims noop_with_empty_axes")),
    **dict.fromkeys(("Expand", "Identity", "Squeeze", "Tile", "Unsqueeze"), Operator(ANY)),
    **dict.fromkeys(("Gather", "GatherElements"), Operator(ANY, "axis")),
    "ArgMax": Operator(NUMBERS, "axis keepdims select_last_index"),
    "AveragePool": Operator(FLOATS, "auto_pad ceil_mode count_include_pad kernel_shape pads strides"),
    "Cast": Operator(ANY, "to saturate"),
    "Concat": Operator(ANY, "axis"),
    "Constant": Operator(ANY, "value value_float value_floats value_int value_ints", ()),
    "ConstantOfShape": Operator(ANY, "value", ()),
    "Conv": Operator(FLOATS, "auto_pad dilations group kernel_shape pads strides", (0, 1)),
    "DequantizeLinear": Operator(QUANTISED, _QUANTISATION),
    "Einsum": Operator(FLOATS, "equation", (0, 1)),
    "Flatten": Operator(ANY, "axis"),
    "GatherND": Operator(ANY, "batch_dims"),
    "Gelu": Operator(FLOATS, "approximate"),
    "Gemm": Operator(FLOATS, "alpha beta transA transB", (0, 1)),
    "LayerNormalization": Operator(FLOATS, "axis epsilon stash_type"),
    "MatMul": Operator(FLOATS, "", (0, 1)),
    "Pad": Operator(NUMBERS, "mode"),
    "QuantizeLinear": Operator(FLOATS, _QUANTISATION),
    "Range": Operator(NUMBERS),
    "Reshape": Operator(ANY, "allowzero"),
    "Shape": Operator(ANY, "start end"),
    "Slice": Operator(ANY),
    "Softmax": Operator(FLOATS, "axis"),
    "Split": Operator(ANY, "axis num_outputs"),
    "TopK": Operator(NUMBERS, "axis largest sorted"),
    "Transpose": Operator(ANY, "perm"),
    "Trilu": Operator(ANY, "upper"),
    "Where": Operator(ANY, "", (1, 2)),
}


def undocumented(graph: onnx.ModelProto) -> list[str]:
    """Return what the parser does not document of `graph`, a phrase each."""
    tensors = _tensors(graph)
    found = [
        f"operator set {entry.version} of {entry.domain!r}"
        for entry in graph.opset_import
        if entry.domain or entry.version not in OPSETS
    ]
    for node in graph.graph.node:
        operator = OPERATORS.get(node.op_type)
        if operator is None or node.domain:
            found.append(f"{node.op_type} of {node.domain!r}")
            continue
        found += [f"{node.op_type} {why}" for why in _departures(node, operator, tensors)]
    return found


def types_of(graph: onnx.ModelProto) -> dict[str, int]:
    """Return the type of every tensor by its name, as ONNX infers it."""
    return _tensors(graph).types


def _tensors(graph: onnx.ModelProto) -> Tensors:
    inferred = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    made = {node.output[0]: _value(node) for node in graph.graph.node if node.op_type == "Constant"}
    return Tensors(
        types={value.name: value.type.tensor_type.elem_type for value in values}
        | {name: tensor.data_type for name, tensor in weights.items()},
        sizes={value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values},
        constants=weights | made,
    )


def _departures(node: onnx.NodeProto, operator: Operator, tensors: Tensors) -> Iterator[str]:
    data = [node.input[place] for place in operator.data] or list(node.output)
    # Casts lead to a type, too.
    for name in (*data, *(node.output if node.op_type == "Cast" else ())):
        if tensors.types[name] not in operator.types:
            yield f"of {TensorProto.DataType.Name(tensors.types[name])}"
    for attribute in node.attribute:
        if attribute.name not in operator.attributes.split():
            yield f"with {attribute.name}"
    for operators, what, holds in RESTRICTIONS:
        if node.op_type in operators and not holds(node, tensors):
            yield what


def _value(node: onnx.NodeProto) -> TensorProto:
    """Return the value of a Constant, an empty tensor where it is given in another way than as one."""
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), TensorProto())


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _is_constant(place: int) -> Callable[[onnx.NodeProto, Tensors], bool]:
    """Return whether the input at `place`, where there is one, is a constant."""
    return lambda node, tensors: not any(node.input[place : place + 1]) or node.input[place] in tensors.constants


def _is_sorted(node: onnx.NodeProto, tensors: Tensors) -> bool:
    size = tensors.sizes[node.output[0]][_attribute(node, "axis", -1)]
    return 0 < size < MOST_SORTED and _attribute(node, "sorted", 1) == 1


def _is_symmetric(node: onnx.NodeProto, tensors: Tensors) -> bool:
    if len(node.input) < 3:
        return True
    zero = tensors.constants.get(node.input[2])
    if zero is None or zero.data_type not in QUANTISED:
        return False
    return not np.any(numpy_helper.to_array(zero).astype(np.float32))


def _has_positive_scales(node: onnx.NodeProto, tensors: Tensors) -> bool:
    scale = tensors.constants.get(node.input[1])
    return scale is not None and bool((numpy_helper.to_array(scale).astype(np.float32) > 0).all())


RESTRICTIONS: tuple[tuple[Collection[str], str, Callable[[onnx.NodeProto, Tensors], bool]], ...] = (
    (_REDUCTIONS, "over axes that are no constant", _is_constant(1)),
    (("Squeeze", "Unsqueeze"), "of axes that are no constant", _is_constant(1)),
    (("Slice",), "along axes that are no constant", _is_constant(3)),
    (("LayerNormalization",), "with more than its first output", lambda node, _: len(node.output) == 1),
    (("TopK",), f"that is not sorted, or of {MOST_SORTED} and more", _is_sorted),
    (_PAIRS, "with a zero point other than zero, or of another type than int8 and fp8", _is_symmetric),
    (_PAIRS, "with a scale that is not positive", _has_positive_scales),
    (("AveragePool",), "with dilations", lambda node, _: all(entry.name != "dilations" for entry in node.attribute)),
)
