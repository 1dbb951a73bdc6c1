"""Where the blocks of an exported graph end: PyTorch's exporter writes down which module each node came from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from effvit.errors import ArtifactError
from effvit.export.graph_file import origin_of

BEFORE, AFTER = "embedding", "logits"
_BLOCK = re.compile(r"(?:^|[./ ])blocks\.(\d+)(?:[.:/]|$)")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_OUTPUT = "effvit_blocks"


@dataclass(frozen=True, slots=True)
class Boundary:
    """The tensor that passes from one part of a model to the next; `part` is what it comes from."""

    part: str
    tensor: str


def boundaries(model: onnx.ModelProto, path: Path) -> tuple[Boundary, ...]:
    """Return what passes between the blocks of `model`, from the embedded patches to the logits.

    Of the tensors of a block that later parts read, the last is what it hands on; the others are constants and shapes
    that the exporter shares.

    Raises:
        ArtifactError: The graph does not say which block its nodes belong to.
    """
    parts = {name: part for node, part in _parts(model.graph) for name in node.output}
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    handed: defaultdict[int, list[str]] = defaultdict(list)
    order = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    for node, part in _parts(model.graph):
        for name in node.input:
            if name in parts and parts[name] < part and types.get(name, TensorProto.FLOAT) in _FLOATS:
                handed[parts[name]].append(name)
    last = {part: max(names, key=order.__getitem__) for part, names in handed.items()}
    blocks = sorted(part for part in last if part >= 0)
    if -1 not in last or blocks != list(range(len(blocks))) or not blocks:
        raise ArtifactError(
            f"{path} does not say which block its nodes belong to", "name a graph that `effvit export` wrote"
        )
    between = [Boundary(BEFORE, last[-1]), *(Boundary(f"block {part}", last[part]) for part in blocks)]
    return (*between, Boundary(AFTER, model.graph.output[0].name))


def with_boundaries(model: onnx.ModelProto, between: tuple[Boundary, ...]) -> onnx.ModelProto:
    """Return a copy of `model` with a single output: all boundaries side by side, `(batch, numbers)` in float32.

    One output in the place of many, so that whatever runs the model runs the copy, too.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    flat = []
    for index, boundary in enumerate(between):
        names = [f"{_OUTPUT}_{index}_{step}" for step in ("float", "flat")]
        copy.graph.node.append(helper.make_node("Cast", [boundary.tensor], names[:1], to=TensorProto.FLOAT))
        copy.graph.node.append(helper.make_node("Flatten", names[:1], names[1:], axis=1))
        flat.append(names[1])
    copy.graph.node.append(helper.make_node("Concat", flat, [_OUTPUT], axis=1))
    batch = copy.graph.input[0].type.tensor_type.shape.dim[0]
    del copy.graph.output[:]
    copy.graph.output.append(
        helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, [batch.dim_param or batch.dim_value, None])
    )
    return copy


def made_in(node: onnx.NodeProto, modules: Collection[str]) -> bool:
    """Return whether the node came from one of the `modules` of a model, or from one inside it."""
    scopes = {scope.partition(":")[0] for scope in origin_of(node).split("/")}
    return any(f"model.{module}" in scopes for module in modules)


def _parts(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Yield each node with the block it belongs to: -1 before the first block, one more than the last behind it.

    A node that came from no module belongs where the nodes around it do.
    """
    count = 1 + max((block for node in graph.node if (block := _block(node)) is not None), default=-1)
    seen = -1
    for node in graph.node:
        block = _block(node)
        if block is not None:
            seen = block
        elif _named(node) and seen >= 0:
            seen = count
        yield node, seen


def _block(node: onnx.NodeProto) -> int | None:
    found = _BLOCK.findall(origin_of(node))
    return int(found[-1]) if found else None


def _named(node: onnx.NodeProto) -> bool:
    """Return whether the node came from a module of the model, rather than from a tool."""
    return "/" in origin_of(node)
