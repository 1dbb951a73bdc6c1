"""8-bit graphs: ONNX Runtime's quantiser puts Q/DQ pairs around products, with ranges seen on training images."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from effvit.errors import BackendUnavailableError
from effvit.export.base import Backend, Source
from effvit.export.blocks import made_in
from effvit.export.calibration import CalibrationReader, calibration_pixels
from effvit.export.onnx import INPUT, PINS, check_graph, export_onnx, save_graph
from effvit.export.quantisable import (
    attention_products,
    count_products,
    flatten_joined,
    own_weights,
    weight_products,
)
from effvit.export.quantisation import Quantisation, Quantised
from effvit.spec import Precision
from effvit.storage import storage_errors

METADATA, PRECISION = "effvit.quantisation", "effvit.precision"
INSTALL = "pip install 'effvit[cpu]' (or 'effvit[gpu]', never both: they share an import name)"


@dataclass(frozen=True, slots=True)
class Form:
    """How a graph is quantised for one kind of runtime: the types, by ONNX Runtime's names, and its options.

    Convolutions are quantised whose input channels, those of a group, are a multiple of `channels`. If `flat`, products
    of tokens that were joined are products of rows.
    """

    activations: str
    weights: str
    options: Mapping[str, object]
    channels: int = 1
    flat: bool = False


# Unsigned activations and signed weights are what processors multiply. Weights keep all their 8 bits: those without
# VNNI add pairs of products in 16 bits, which overflow, but ONNX Runtime has an option against that (see ort_cpu).
# Products are left as they come out: quantised, too, they changed 11 decisions of 1,077 where 4 changed without.
# OpenVINO moves the quantisation of joined tokens in front of the Concat, once for each of its inputs, and then cannot
# make one tensor of their zero points: "Input shape dimension equal 50 cannot be broadcasted" (2026.4). A product of
# rows keeps it where it is.
FOR_CPU = Form("QUInt8", "QInt8", {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}, flat=True)


def export_for_cpu(source: Source, path: Path, backend: Backend) -> Path:
    """Write the graph of `source` to `path`, quantised for processors, and return it.

    It is made from the run's fp32 graph, which is taken from the artifacts of `backend` if there is one.

    Raises:
        BackendUnavailableError: ONNX Runtime, whose quantiser it is, is not here.
        LackingError: There are too few training images to take ranges from.
        DataError: The training images are gone, damaged, or not the same any more.
        ExportError: PyTorch could not export the model, or the graph is not valid.
        StorageError: A disk is full, or the folder cannot be written.
    """
    from effvit.export.cache import find

    require_quantiser()
    pixels = calibration_pixels(source)
    exact = replace(source, precision=Precision.FP32, pins=())
    with temporary_folder() as folder:
        known = find(exact, backend)
        graph = onnx.load(Path(known.path) if known is not None else export_onnx(exact, folder / "exact.onnx"))
        reader = CalibrationReader(pixels, source.run.record.preprocessing, INPUT)
        quantised = quantise(graph, reader, source.quantisation, FOR_CPU, folder, source.pins)
    describe(quantised, source, len(pixels))
    check_graph(quantised)
    return save_graph(quantised, path)


def require_quantiser() -> None:
    """Check that ONNX Runtime is here, whichever runtime a graph is quantised for.

    Raises:
        BackendUnavailableError: It is not.
    """
    try:
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            f"graphs are quantised by onnxruntime, which cannot be imported ({error})", INSTALL
        ) from error


def quantise(
    graph: onnx.ModelProto,
    reader: CalibrationReader,
    asked: Quantisation,
    form: Form,
    folder: Path,
    pins: Collection[str] = (),
) -> onnx.ModelProto:
    """Return the float32 `graph` with Q/DQ pairs around its products with weights; `folder` holds what comes between.

    Products in the modules `pins` are left as they are. `graph` itself is changed.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    _fold_constants(graph)
    if form.flat:
        flatten_joined(graph, weight_products(graph))
    chosen = weight_products(graph, form.channels) + (attention_products(graph) if asked.attention else [])
    if pins:
        pinned = {node.name for node in graph.graph.node if made_in(node, pins)}
        chosen = [name for name in chosen if name not in pinned]
    own_weights(graph, chosen)
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # or it is warned about
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    exact, quantised = folder / "folded.onnx", folder / "quantised.onnx"
    onnx.save_model(graph, exact)
    with _quiet_quantiser():
        quantize_static(
            exact,
            quantised,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType[form.activations],
            weight_type=QuantType[form.weights],
            calibrate_method=methods[asked.method],
            # A batch at a time: histograms would otherwise be made of the activations of all images at once.
            # A pair of its own for every product: what else reads the tensor is to read it as it is.
            extra_options={**form.options, "DedicatedQDQPair": True, "CalibStridedMinMax": 1},
        )
    return onnx.load(quantised)


def describe(graph: onnx.ModelProto, source: Source, images: int) -> None:
    """Write into the graph's metadata what it is now."""
    products, of_products = count_products(graph)
    told = Quantised(source.quantisation, images, products, of_products)
    kept = {entry.key: entry.value for entry in graph.metadata_props if entry.key.startswith("effvit.")}
    kept |= {PRECISION: f'"{source.precision}"', METADATA: msgspec.json.encode(told).decode()}
    if source.pins:
        kept[PINS] = msgspec.json.encode(source.pins).decode()
    onnx.helper.set_model_props(graph, kept)


def quantised_in(path: Path) -> Quantised | None:
    """Return what the graph in the file `path` says of its quantisation, None if it says nothing."""
    graph = onnx.load(path)
    told = [entry.value for entry in graph.metadata_props if entry.key == METADATA]
    return msgspec.json.decode(told[0], type=Quantised) if told else None


def _fold_constants(graph: onnx.ModelProto) -> None:
    """Make every weight a constant of its own: what is computed from weights alone cannot be quantised."""
    from onnxscript import optimizer

    _split_constants(graph)
    # Any size: the limits are those of a file, and there is nothing here but what PyTorch had in memory.
    optimizer.fold_constants(graph, input_size_limit=2**31, output_size_limit=2**31)
    optimizer.remove_unused_nodes(graph)


def _split_constants(graph: onnx.ModelProto) -> None:
    """Split weights that are split; the optimiser leaves operators of several results alone."""
    weights = {weight.name: weight for weight in graph.graph.initializer}
    for node in [node for node in graph.graph.node if node.op_type == "Split" and weights.keys() >= set(node.input)]:
        values, sizes = (numpy_helper.to_array(weights[name]) for name in node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        for name, part in zip(node.output, np.split(values, np.cumsum(sizes)[:-1], axis), strict=True):
            graph.graph.initializer.append(numpy_helper.from_array(part, name))
        graph.graph.node.remove(node)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is gone afterwards.

    Raises:
        StorageError: What is written into it does not fit on its disk.
    """
    with tempfile.TemporaryDirectory(prefix="effvit-") as folder, storage_errors(Path(folder)):
        yield Path(folder)


@contextlib.contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Keep the quantiser from printing, and from setting up the logging of the whole program on its first message."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty bins
            yield
    finally:
        root.removeHandler(silent)
