"""A model repository of Triton Inference Server: the folders it wants, and the description of one model. No torch.

Source:
    https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
    https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from effvit.errors import UnsupportedError
from effvit.export.base import Artifact
from effvit.export.graph_file import read_graph

BACKENDS = {"ort-cpu": "onnxruntime", "openvino": "openvino"}
TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.BFLOAT16: "TYPE_BF16",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT64: "TYPE_INT64",
}
MOST_BATCHED = 64
"""Images that the server puts into one call at most; a graph with a free batch takes any number."""
VERSION, MODEL, LABELS = "1", "model.onnx", "labels.txt"


def write_repository(artifact: Artifact, runtime: str, root: Path, name: str) -> Path:
    """Write a repository with one model to the folder `root`, and return where the model's file lies.

    The server uses folder names as names of models: other characters of `name` than letters, digits, `_`, `-` and `.`
    become `_`. Its label file has one class a line, and line breaks in the names of classes become spaces.
    """
    folder = root / (re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "model")
    model = folder / VERSION / MODEL
    model.parent.mkdir(parents=True)
    shutil.copyfile(artifact.path, model)
    (folder / LABELS).write_text("".join(f"{' '.join(label.splitlines())}\n" for label in artifact.classes), "utf-8")
    (folder / "config.pbtxt").write_text(config_text(read_graph(model), folder.name, BACKENDS[runtime]), "utf-8")
    return model


def config_text(model: onnx.ModelProto, name: str, backend: str) -> str:
    """Return the description of a graph with one input and one output in protocol buffers' text format.

    Where the first axis is free, the server gathers the images of several requests into one call.

    Raises:
        UnsupportedError: It has another number of inputs or outputs, or a free axis besides the first.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UnsupportedError(
            f"the graph has {len(inputs)} inputs and {len(model.graph.output)} outputs, not one of each",
            "write config.pbtxt by hand",
        )
    image, logits = inputs[0], model.graph.output[0]
    free = all(_dims(value)[0] is None for value in (image, logits))
    lines = [f"name: {_quoted(name)}", f"backend: {_quoted(backend)}", f"max_batch_size: {MOST_BATCHED if free else 0}"]
    lines += _tensor("input", image, free, [])
    lines += _tensor("output", logits, free, [f"label_filename: {_quoted(LABELS)}"])
    if free:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, value: onnx.ValueInfoProto, free: bool, more: Sequence[str]) -> list[str]:
    sizes = _dims(value)[1:] if free else _dims(value)
    if None in sizes:
        raise UnsupportedError(f"the tensor {value.name} has a free axis besides the batch", "export it with effvit")
    dims = ", ".join(str(size) for size in sizes)
    facts = [
        f"name: {_quoted(value.name)}",
        f"data_type: {TYPES.get(value.type.tensor_type.elem_type, 'TYPE_INVALID')}",
        f"dims: [ {dims} ]",
        *more,
    ]
    return [f"{kind} [", "  {", *(f"    {fact}" for fact in facts), "  }", "]"]


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """Return the sizes of a tensor's axes, None where they are free."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _quoted(text: str) -> str:
    escaped = "".join(rf"\{char}" if char in '"\\' else char for char in text)
    return f'"{escaped}"'
