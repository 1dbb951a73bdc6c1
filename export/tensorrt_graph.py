"""Graphs as TensorRT reads precision from them: typed, or with explicit Q/DQ pairs in int8 or fp8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from effvit.errors import UnsupportedError
from effvit.export.base import Source
from effvit.export.calibration import CalibrationReader, calibration_pixels
from effvit.export.onnx import ATTENTION_OPSET, INPUT, check_graph, export_onnx, save_graph
from effvit.export.quantise import Form, describe, quantise, require_quantiser, temporary_folder
from effvit.spec import Precision

# TensorRT wants zero points of 0, a float bias, pairs around weights and activations alike, and results left alone:
# https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
FOR_TENSORRT = Form(
    "QInt8",
    "QInt8",
    {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "AddQDQPairToWeight": True,
        "QDQDisableWeightAdjustForInt32Bias": True,
        "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"],
    },
)
# A caution that no GPU has seen: units that multiply 8-bit floats take channels by the sixteen, and images have three.
FOR_TENSORRT_FP8 = replace(FOR_TENSORRT, channels=16)
# What the largest magnitude that was seen becomes.
LARGEST_INT8, LARGEST_FP8 = 127, 448


def export_graph(source: Source, path: Path) -> Path:
    """Write the graph that TensorRT builds an engine from to `path`, and return it.

    What is not quantised of an int8 or fp8 graph is fp16.

    Raises:
        BackendUnavailableError: ONNX Runtime, whose quantiser it is, is not here.
        LackingError: There are too few training images to take ranges from.
        UnsupportedError: Attention was to be an operator, and the model has none, or the quantiser would take it for
            another one.
        DataError: The training images are gone, damaged, or not the same any more.
        ExportError: PyTorch could not export the model, or the graph is not valid.
        StorageError: A disk is full, or the folder cannot be written.
    """
    if source.engine.attention == "operator":
        return _with_attention(source, path)
    if not source.precision.quantised:
        return export_onnx(source, path)
    require_quantiser()
    pixels = calibration_pixels(source)
    with temporary_folder() as folder:
        graph = onnx.load(export_onnx(replace(source, precision=Precision.FP16), folder / "half.onnx"))
        reader = CalibrationReader(pixels, source.run.record.preprocessing, INPUT)
        form = FOR_TENSORRT_FP8 if source.precision is Precision.FP8 else FOR_TENSORRT
        graph = quantise(graph, reader, source.quantisation, form, folder, source.pins)
    if source.precision is Precision.FP8:
        _make_fp8(graph)
    scale_weights(graph, LARGEST_FP8 if source.precision is Precision.FP8 else LARGEST_INT8)
    describe(graph, source, len(pixels))
    check_graph(graph)
    return save_graph(graph, path)


def _with_attention(source: Source, path: Path) -> Path:
    """Write the graph with attention as the operator of that name.

    Raises:
        UnsupportedError: The model computes no softmax attention, or it is to be quantised.
    """
    if source.precision.quantised:
        # ONNX Runtime's quantiser knows another operator of that name.
        raise UnsupportedError(
            f"attention as an operator cannot be quantised to {source.precision}", "leave --attention-operator away"
        )
    with temporary_folder() as folder:
        graph = onnx.load(export_onnx(source, folder / "attention.onnx", ATTENTION_OPSET))
    if not any(node.op_type == "Attention" for node in graph.graph.node):
        raise UnsupportedError(
            f"{source.run.record.spec.attention} attention is no operator of ONNX", "leave --attention-operator away"
        )
    return save_graph(graph, path)


def _make_fp8(graph: onnx.ModelProto) -> None:
    """Turn int8 pairs into fp8 ones, in place: E4M3 holds magnitudes up to 448."""
    pairs = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales, zeros = ({node.input[place] for node in pairs} for place in (1, 2))
    for tensor in graph.graph.initializer:
        if tensor.name in scales:
            scale = numpy_helper.to_array(tensor)
            finer = _rounded_up(scale.astype(np.float64) * LARGEST_INT8 / LARGEST_FP8, scale.dtype)
            tensor.CopyFrom(numpy_helper.from_array(finer, tensor.name))
        elif tensor.name in zeros:
            none = bytes(int(np.prod(tensor.dims)))  # +0.0 is the zero byte
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, TensorProto.FLOAT8E4M3FN, tensor.dims, none, raw=True))
    quantised = {output for node in pairs if node.op_type == "QuantizeLinear" for output in node.output}
    for value in graph.graph.value_info:
        if value.name in quantised:
            value.type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN


def scale_weights(graph: onnx.ModelProto, largest: int) -> None:
    """Let every output of a weight have the scale that its largest magnitude becomes `largest` with, in place.

    ONNX Runtime's quantiser gives the scale 1, with which nothing is left of them, to weights so small that half
    precision has no number for their scale; earlier versions, no normal one, which are all outputs below 0.0078. The
    least number of the type holds the least weights exactly. Outputs of zeros keep the scale 1.
    """
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in tensors:
            continue
        weight, scale = (numpy_helper.to_array(tensors[name]) for name in node.input[:2])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1) % weight.ndim
        others = tuple(place for place in range(weight.ndim) if place != axis or not scale.ndim)
        most = np.abs(weight.astype(np.float64)).max(axis=others)
        fitting = np.where(most > 0, _rounded_up(most / largest, scale.dtype), np.ones((), scale.dtype))
        tensors[node.input[1]].CopyFrom(numpy_helper.from_array(fitting.astype(scale.dtype), node.input[1]))


def _rounded_up(values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return `values` in a coarser type, none of them smaller than it was: what is above 0 does not become 0."""
    nearest = values.astype(dtype)
    return np.where(nearest < values, np.nextafter(nearest, np.array(np.inf, dtype)), nearest).astype(dtype)
