"""ONNX files made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def weight(name: str, *shape: int, dtype: str = "float32") -> TensorProto:
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    return numpy_helper.from_array(values, name)


def model(
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto],
    image: tuple[int | str, ...] = ("batch", 3, 8, 8),
    logits: tuple[int | str, ...] = ("batch", 10),
    opset: int = 20,
) -> onnx.ModelProto:
    """Return a model from `images` to `logits`, both float32."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="a hand")
    made.ir_version = 10
    return made


def classifier() -> onnx.ModelProto:
    """Return a convolution of stride 4 to 5 channels (2 x 2), a product with (20, 7) and a Gemm with (10, 7)."""
    return model(
        [
            helper.make_node("Conv", ["images", "kernel"], ["patches"], "embed", strides=[4, 4]),
            helper.make_node("Flatten", ["patches"], ["flat"], "flatten"),
            helper.make_node("MatMul", ["flat", "inner"], ["hidden"], "hidden"),
            helper.make_node("Gemm", ["hidden", "outer"], ["logits"], "head", transB=1),
        ],
        [weight("kernel", 5, 3, 4, 4), weight("inner", 20, 7), weight("outer", 10, 7)],
    )


def quantised(zero_point: int = 0) -> onnx.ModelProto:
    """Return a product of int8 activations, one scale, and int8 weights, a scale a column; and one in float."""
    scales = numpy_helper.from_array(np.full(7, 0.1, np.float32), "weight_scale")
    return model(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["flat_q"]),
            helper.make_node("DequantizeLinear", ["flat_q", "scale", "zero"], ["flat_d"]),
            helper.make_node("DequantizeLinear", ["weight_q", "weight_scale"], ["weight_d"], axis=1),
            helper.make_node("MatMul", ["flat_d", "weight_d"], ["hidden"], "hidden"),
            helper.make_node("MatMul", ["hidden", "outer"], ["logits"], "head"),
        ],
        [
            numpy_helper.from_array(np.float32(0.1), "scale"),
            numpy_helper.from_array(np.int8(zero_point), "zero"),
            numpy_helper.from_array(np.ones((192, 7), np.int8), "weight_q"),
            scales,
            weight("outer", 7, 10),
        ],
    )


def write(path: Path, made: onnx.ModelProto, *, external: bool = False) -> Path:
    """Write `made` to `path`; if `external`, its weights into a file of their own beside it."""
    onnx.save_model(made, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path
