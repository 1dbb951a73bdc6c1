"""The matrix products of an ONNX graph: in which type each is computed, and how many MACs it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

Shape = tuple[int, ...]

TYPES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
    # Unsigned activations with signed weights are one product of 8-bit integers, as signed ones are.
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.FLOAT8E4M3FNUZ: "fp8",
    TensorProto.FLOAT8E5M2: "fp8",
    TensorProto.FLOAT8E5M2FNUZ: "fp8",
}
UNKNOWN = "unknown"
# What lies between a dequantised tensor and its product without changing a number.
LAYOUT = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The element type of a tensor, an ONNX number, and its shape where every size is known."""

    type: int
    shape: Shape | None


@dataclass(frozen=True, slots=True)
class Product:
    """A node that multiplies matrices; `macs` are None where shapes do not tell.

    `weighted` says that one factor is a constant, which the products inside attention have not.
    """

    node: str
    operator: str
    type: str
    macs: int | None
    weighted: bool


class Products:
    """Finds products among the nodes of one graph."""

    def __init__(self, graph: onnx.GraphProto, tensors: Mapping[str, TensorInfo], constants: Container[str]) -> None:
        """Know the types and shapes of `tensors` by name, and which of them are `constants`."""
        self._tensors = tensors
        self._producers = {name: node for node in graph.node for name in node.output}
        self._constants = constants

    def product(self, node: onnx.NodeProto) -> Product | None:
        """Return the product that `node` is, or None."""
        counter = _MACS.get(node.op_type)
        if counter is None or (node.op_type == "Einsum" and len(node.input) < 2):
            return None
        shapes = [self._shape(name) for name in (*node.input, *node.output)]
        count = counter(node, shapes[: len(node.input)], shapes[len(node.input)])
        return Product(node.name, node.op_type, self._type(node), count, any(map(self._constant, node.input)))

    def _type(self, node: onnx.NodeProto) -> str:
        """Return the type of the factors: a product between dequantised tensors is meant for integers."""
        if node.op_type in _INTEGERS:
            return "int8"
        factors = [self._quantised(name) for name in node.input[:2]]
        if all(factors):
            return str(factors[0])
        types = [self._tensors[name].type for name in (*node.output, *node.input) if name in self._tensors]
        return TYPES.get(types[0], UNKNOWN) if types else UNKNOWN

    def _quantised(self, name: str) -> str | None:
        """Return the type that the tensor `name` was dequantised from, or None."""
        node = self._producers.get(name)
        while node is not None and node.op_type in LAYOUT:
            node = self._producers.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return None
        source = self._tensors.get(node.input[0])
        return UNKNOWN if source is None else TYPES.get(source.type, UNKNOWN)

    def _constant(self, name: str) -> bool:
        """Return whether the tensor `name` is a matrix that does not depend on the images."""
        shape, node = self._shape(name), self._producers.get(name)
        while node is not None and node.op_type in (*LAYOUT, "Cast", "DequantizeLinear", "QuantizeLinear"):
            name = node.input[0]
            node = self._producers.get(name)
        return len(shape or ()) > 1 and (name in self._constants or (node is not None and node.op_type == "Constant"))

    def _shape(self, name: str) -> Shape | None:
        info = self._tensors.get(name)
        return None if info is None else info.shape


Shapes = list[Shape | None]
_INTEGERS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _matmul(node: onnx.NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
    left = inputs[0]
    return None if left is None or output is None else math.prod(output) * left[-1]


def _gemm(node: onnx.NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
    left = inputs[0]
    inner = 0 if _attribute(node, "transA", 0) else 1
    return None if left is None or output is None else math.prod(output) * left[inner]


def _convolution(weight: int) -> Callable[[onnx.NodeProto, Shapes, Shape | None], int | None]:
    def macs(node: onnx.NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
        kernel = inputs[weight]  # (channels out, channels in of a group, height, width)
        return None if kernel is None or output is None else math.prod(output) * math.prod(kernel[1:])

    return macs


def _transposed_convolution(node: onnx.NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
    image, kernel = inputs[:2]  # the kernel is (channels in, channels out of a group, height, width)
    return None if image is None or kernel is None else math.prod(image) * math.prod(kernel[1:])


def _einsum(node: onnx.NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
    equation = next(attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        # An ellipsis stands for dimensions without letters, and more than two factors for an order of products.
        if shape is None or len(term) != len(shape) or "." in term or len(terms) > 2:
            return None
        sizes |= dict(zip(term, shape, strict=True))
    return math.prod(sizes.values())


def _attention(node: onnx.NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
    query, key, value = inputs[:3]
    if query is None or key is None or value is None:
        return None
    if len(query) == 4:  # (batch, heads, tokens, head_dim)
        return math.prod(query[:3]) * key[2] * (query[3] + value[3])
    # Heads lie beside one another in the last dimension.
    heads, value_heads = _attribute(node, "q_num_heads", 1), _attribute(node, "kv_num_heads", 1)
    return math.prod(query[:2]) * key[1] * (query[2] + heads * value[2] // value_heads)


_MACS: dict[str, Callable[[onnx.NodeProto, Shapes, Shape | None], int | None]] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _matmul,
}
