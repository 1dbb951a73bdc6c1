"""Typed ONNX graphs: one static resolution, a free batch axis, float32 at both ends."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import onnx
import torch

from effvit.errors import ExportError
from effvit.export.base import Source
from effvit.export.graph_file import keep_origins_alone
from effvit.export.typed import TypedModel
from effvit.spec import Precision
from effvit.storage import replacing

# The newest operator set whose attention is still MatMul-Softmax-MatMul, which every runtime fuses or at least runs.
OPSET = 20
# The first one that has attention as an operator, which keeps the products together.
ATTENTION_OPSET = 23
# Convolutions take bfloat16 since this one, whose attention is the same.
BFLOAT16_OPSET = 22
INPUT, OUTPUT = "images", "logits"
PINS = "effvit.pins"
# Protocol buffers hold no more than 2 GiB; the graph itself needs a little of that.
LARGEST_FILE_BYTES = 2**31 - 2**24


def export_onnx(source: Source, path: Path, opset: int | None = None) -> Path:
    """Write the graph of `source`, in this operator set or the usual one of its type, to `path` and return it.

    The model's specification, its preprocessing and its class names travel in the graph's metadata, and which module
    each node came from.

    Raises:
        ExportError: PyTorch could not export the model, the graph is not valid, or it exceeds 2 GiB.
        StorageError: The disk is full, or the folder cannot be written.
    """
    model = TypedModel(source.model(), source.precision, source.pins)
    size_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size_bytes > LARGEST_FILE_BYTES:
        raise ExportError(
            "onnx", f"the weights take {size_bytes} bytes, more than the 2 GiB one ONNX file holds", "use --onnx fp16"
        )
    # Two images: from a single one the exporter would conclude that the batch is always 1.
    example = torch.zeros(2, 3, source.height, source.width)
    if opset is None:
        opset = BFLOAT16_OPSET if source.precision is Precision.BF16 else OPSET
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=2**16)},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            text = str(error).strip().splitlines()
            raise ExportError(
                "onnx", f"PyTorch could not export the model: {text[0]}", "report this model to effvit"
            ) from error
    assert program is not None  # None is returned by the legacy exporter alone
    proto = program.model_proto
    _add_metadata(proto, source)
    check_graph(proto)
    return save_graph(proto, path)


def save_graph(proto: onnx.ModelProto, path: Path) -> Path:
    """Write the graph to `path`, whole or not at all, and return it; what tells of this machine is left out.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    keep_origins_alone(proto.graph)
    with replacing(path) as temporary:
        onnx.save_model(proto, temporary)
    return path


def _add_metadata(proto: onnx.ModelProto, source: Source) -> None:
    record = source.run.record
    for key, value in (
        ("effvit.model", record.spec),
        ("effvit.preprocessing", record.preprocessing),
        ("effvit.classes", record.data.classes),
        ("effvit.precision", str(source.precision)),
    ):
        proto.metadata_props.add(key=key, value=msgspec.json.encode(value).decode())
    if source.pins:
        proto.metadata_props.add(key=PINS, value=msgspec.json.encode(source.pins).decode())


def check_graph(proto: onnx.ModelProto) -> None:
    """Check that types and shapes fit together everywhere, and that the batch is free.

    Raises:
        ExportError: They do not, or it is not.
    """
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            "onnx", f"the exported graph is not valid ONNX: {error}", "report this model to effvit"
        ) from error
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    if not all(isinstance(shapes[name][0], str) for name in (INPUT, OUTPUT)):
        raise ExportError("onnx", f"the batch axis came out fixed: {shapes}", "report this model to effvit")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's advice to its own developers; its errors are raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
