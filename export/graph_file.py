"""ONNX files as they are found: read without the weights that lie beside them, and refused in a sentence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError

from effvit.errors import ArtifactError, DamagedArtifactError

AGAIN = "export it again with `effvit export`"
# Where PyTorch's exporter writes down which modules and which operator a node came from, `.../model.blocks.3.attn:
# effvit.attention.linformer.LinformerAttention/matmul: aten.matmul.default`.
_ORIGIN = "namespace"
# The first field of every ONNX file is its version: field 1, a variable-length number.
_FIRST_BYTE = b"\x08"


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A file beside a graph that holds `tensors` of its weights."""

    name: str
    size_bytes: int
    tensors: int


def read_graph(path: Path) -> onnx.ModelProto:
    """Return the graph in `path`; tensors that lie in files of their own stay there.

    Raises:
        ArtifactError: There is no such file.
        DamagedArtifactError: It is no ONNX graph, or a part of one.
    """
    content = read_file(path)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        if content.startswith(_FIRST_BYTE):
            raise DamagedArtifactError(f"{path} is damaged: it breaks off, or is no ONNX graph at all", AGAIN) from None
        raise DamagedArtifactError(f"{path} is not an ONNX graph", "name an .onnx file, an engine or a run") from None
    if not (model.graph.node and model.graph.output and model.opset_import):
        raise DamagedArtifactError(
            f"{path} holds no whole ONNX graph: nodes, outputs or the operator set are missing", AGAIN
        )
    return model


def read_file(path: Path) -> bytes:
    """Return what `path` holds.

    Raises:
        ArtifactError: There is no such file, or it cannot be read.
        DamagedArtifactError: It is empty.
    """
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, not an artifact", "name a file in it, or a run")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"there is no file {path}", "name an .onnx file, an engine or a run") from None
    except OSError as error:
        cause = (error.strerror or type(error).__name__).lower()
        raise ArtifactError(f"{path} cannot be read: {cause}", "check its permissions and the disk") from error
    if not content:
        raise DamagedArtifactError(f"{path} is empty", AGAIN)
    return content


def check_whole(path: Path) -> None:
    """Check that `path` holds an ONNX graph, and that all of its weights are there.

    Raises:
        ArtifactError: There is no such file.
        DamagedArtifactError: It does not.
    """
    external_files(read_graph(path), path)


def external_files(model: onnx.ModelProto, path: Path) -> tuple[ExternalFile, ...]:
    """Return the files beside `path` that hold weights of `model`, largest first; they are not read.

    Raises:
        DamagedArtifactError: One of them is missing, too short, or would lie outside of the graph's folder.
    """
    ends: defaultdict[str, int] = defaultdict(int)
    counts: Counter[str] = Counter()
    for tensor in tensors_of(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        name = place.get("location", "")
        counts[name] += 1
        ends[name] = max(ends[name], _end(place, tensor.name, path))
    return tuple(
        sorted((_external_file(path, name, counts[name], end) for name, end in ends.items()), key=_size, reverse=True)
    )


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of `graph` in order, and behind each those of the graphs in its attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes_of(inner)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the constant tensors of `graph`: its weights, and the values of its nodes' attributes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from tensors_of(inner)


def origin_of(node: onnx.NodeProto) -> str:
    """Return the modules that PyTorch's exporter made `node` of, and the operator behind them; "" where it did not."""
    return next((entry.value for entry in node.metadata_props if entry.key == _ORIGIN), "")


def keep_origins_alone(graph: onnx.GraphProto) -> None:
    """Remove what tools wrote down about `graph`, its nodes and its tensors, except where its nodes came from.

    Of the rest nothing is ever read, and stack traces hold the paths of the machine that the graph was exported on.
    """
    for node in nodes_of(graph):
        origin = origin_of(node)
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        if origin:
            node.metadata_props.add(key=_ORIGIN, value=origin)
    for part in (graph, *graph.input, *graph.output, *graph.value_info, *tensors_of(graph)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _end(place: dict[str, str], tensor: str, path: Path) -> int:
    """Return where the bytes of an external tensor end in their file."""
    try:
        return int(place.get("offset", 0)) + int(place.get("length", 0))
    except ValueError:
        raise DamagedArtifactError(f"{path} does not say where its tensor {tensor} lies", AGAIN) from None


def _external_file(path: Path, name: str, tensors: int, end: int) -> ExternalFile:
    relative = PurePosixPath(name)
    if not name or relative.is_absolute() or ".." in relative.parts:
        raise DamagedArtifactError(f"{path} names weights outside of its folder: {name!r}", AGAIN)
    beside = path.parent / relative
    if not beside.is_file():
        raise DamagedArtifactError(
            f"the weights of {path} are missing: {tensors} of its tensors lie in {name}, which is not there",
            f"put {name} beside the graph, or export again",
        )
    size_bytes = beside.stat().st_size
    if size_bytes < end:
        raise DamagedArtifactError(
            f"the weights of {path} are torn: {beside} has {size_bytes} of at least {end} bytes",
            f"copy {name} again, or export again",
        )
    return ExternalFile(name, size_bytes, tensors)


def _size(file: ExternalFile) -> int:
    return file.size_bytes
