"""What an ExecuTorch program is made of: nodes that XNNPACK runs, operators that are left to ExecuTorch's kernels."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from effvit.errors import DamagedArtifactError
from effvit.export.census import Count, Port, ProductShare, most_frequent
from effvit.export.graph_file import AGAIN
from effvit.export.products import UNKNOWN
from effvit.export.program_file import FORWARD, XNNPACK, ProgramRecord, parsed_program, read_program, record_of
from effvit.export.quantisation import Quantised
from effvit.spec import Precision

# Where the second factor is among the operands of the kernels that multiply.
_PRODUCT_KERNELS = {"aten::addmm": 2, "aten::bmm": 1, "aten::convolution": 1, "aten::linear": 1, "aten::mm": 1}
# The nodes of XNNPACK that multiply two of their operands as matrices.
_PRODUCT_NODES = ("XNNBatchMatrixMultiply", "XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected")
_SCALAR_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BFLOAT16": "bf16"}
_DATATYPES = {
    "xnn_datatype_fp32": "fp32",
    "xnn_datatype_fp16": "fp16",
    "xnn_datatype_bf16": "bf16",
    "xnn_datatype_qint8": "int8",
    "xnn_datatype_quint8": "int8",
    "xnn_datatype_qcint8": "int8",
    "xnn_datatype_qdint8": "int8",
}
# flatc writes numbers that are none as JSON has no word for them.
_NO_NUMBER = re.compile(rb"(:\s*)(-?(?:inf|nan))\b")


@dataclass(frozen=True, slots=True)
class ProgramCensus:
    """A program in numbers.

    `delegates` are the parts of the graph that were handed over, by who took them; `delegated` the nodes in those of
    XNNPACK, `left` the operators beside all of them. MACs of `products` are not known.
    """

    path: str
    size_bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    delegates: tuple[Count, ...]
    delegated: tuple[Count, ...]
    left: tuple[Count, ...]
    products: tuple[ProductShare, ...]
    record: ProgramRecord | None

    @property
    def share(self) -> float | None:
        """The share of all nodes that XNNPACK runs; None where other delegates keep theirs to themselves."""
        if any(delegate.name != XNNPACK for delegate in self.delegates):
            return None
        taken, left = (sum(one.count for one in counts) for counts in (self.delegated, self.left))
        return taken / (taken + left) if taken + left else None

    def computed_in(self, quantised: Quantised | None) -> Precision | None:
        """Return the type of most products; int8 where half of those that were to have 8 bits do, at least."""
        counts = {share.type: share.nodes for share in self.products}
        integers = counts.pop(Precision.INT8, 0)
        if quantised is not None and 2 * integers >= quantised.products:
            return Precision.INT8
        kind = max(counts, key=lambda name: counts[name], default=UNKNOWN)
        return Precision(kind) if kind in list(Precision) else None


@dataclass(frozen=True, slots=True)
class _Product:
    type: str
    weighted: bool


class _Node(msgspec.Struct, frozen=True):
    """A node of XNNPACK; the operands of those that multiply."""

    input1_id: int = 0
    input2_id: int | None = None
    filter_id: int | None = None


class _XNode(msgspec.Struct, frozen=True):
    kind: str = msgspec.field(name="xnode_union_type")
    node: _Node = msgspec.field(name="xnode_union")


class _Value(msgspec.Struct, frozen=True):
    """A tensor of XNNPACK, or one with how it is quantised around it; constants have a number other than 0."""

    datatype: str = ""
    constant: int = msgspec.field(name="constant_buffer_idx", default=0)
    id: int = msgspec.field(name="id_out", default=0)
    inner: _Value | None = msgspec.field(name="tensor_value", default=None)


class _XValue(msgspec.Struct, frozen=True):
    value: _Value = msgspec.field(name="xvalue_union")

    @property
    def tensor(self) -> _Value:
        return self.value if self.value.inner is None else self.value.inner


class _XnnGraph(msgspec.Struct, frozen=True):
    xnodes: tuple[_XNode, ...] = ()
    xvalues: tuple[_XValue, ...] = ()


def program_census(path: Path) -> ProgramCensus:
    """Return what the ExecuTorch program in the file `path` is made of.

    Raises:
        DamagedArtifactError: It is no whole ExecuTorch program.
        BackendUnavailableError: ExecuTorch is not here.
    """
    content = read_program(path)
    program = parsed_program(content, path)
    plan = next((plan for plan in program.execution_plan if plan.name == FORWARD), program.execution_plan[0])
    blobs = [_blob(delegate, program, content) for delegate in plan.delegates if delegate.id == XNNPACK]
    delegated: Counter[str] = Counter()
    products: list[_Product] = []
    for graph in _xnnpack_graphs(blobs, path):
        delegated.update(node.kind.removeprefix("XNN") for node in graph.xnodes)
        products += _multiplied(graph)
    kernels = list(_kernel_calls(plan))
    products += [found for name, operands in kernels if (found := _kernel_product(name, operands)) is not None]
    return ProgramCensus(
        path=str(path),
        size_bytes=len(content),
        inputs=tuple(_port(f"input {place}", plan.values[at].val) for place, at in enumerate(plan.inputs)),
        outputs=tuple(_port(f"output {place}", plan.values[at].val) for place, at in enumerate(plan.outputs)),
        delegates=most_frequent(Counter(delegate.id for delegate in plan.delegates)),
        delegated=most_frequent(delegated),
        left=most_frequent(Counter(name for name, _ in kernels)),
        products=_shares(products),
        record=record_of(program),
    )


def quantised_program(path: Path) -> Quantised | None:
    """Return what the program in the file `path` says of its quantisation, None if it says nothing.

    Raises:
        DamagedArtifactError: It is no whole ExecuTorch program.
        BackendUnavailableError: ExecuTorch is not here.
    """
    record = record_of(parsed_program(read_program(path), path))
    return None if record is None else record.quantised


def _blob(delegate: Any, program: Any, content: bytes) -> bytes:
    """Return what a delegate was handed, which lies in the program or in a segment behind it."""
    from executorch.exir._serialize._program import _get_extended_header
    from executorch.exir.schema import DataLocation

    place = delegate.processed
    if place.location == DataLocation.INLINE:
        return bytes(program.backend_delegate_data[place.index].data)
    segment = program.segments[place.index]
    start = _get_extended_header(content).segment_base_offset + segment.offset
    return content[start : start + segment.size]


def _xnnpack_graphs(blobs: Sequence[bytes], path: Path) -> list[_XnnGraph]:
    """Return the graphs in XNNPACK's `blobs`, by the reader of such files that ExecuTorch brings.

    Raises:
        DamagedArtifactError: They are damaged, or of another ExecuTorch.
    """
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
    from executorch.exir._serialize._flatbuffer import _get_flatc_path

    if not blobs:
        return []
    with tempfile.TemporaryDirectory(prefix="effvit-") as name:
        folder = Path(name)
        (folder / "schema.fbs").write_bytes(_get_schema_bytes())
        for number, blob in enumerate(blobs):
            try:
                header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
            except ValueError as error:
                raise DamagedArtifactError(f"{path} is damaged: a part of XNNPACK has no header", AGAIN) from error
            start = header.flatbuffer_offset
            (folder / f"{number}.bin").write_bytes(blob[start : start + header.flatbuffer_size])
        files = [str(folder / f"{number}.bin") for number in range(len(blobs))]
        command = [_get_flatc_path(), "--json", "--strict-json", "--defaults-json", "-o", name]
        read = subprocess.run([*command, str(folder / "schema.fbs"), "--", *files], capture_output=True, check=False)
        try:
            texts = [(folder / f"{number}.json").read_bytes() for number in range(len(blobs))]
            return [msgspec.json.decode(_NO_NUMBER.sub(rb'\1"\2"', text), type=_XnnGraph) for text in texts]
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError) as error:
            said = read.stdout.decode(errors="replace").strip().splitlines()
            reason = said[0] if said else str(error)
            raise DamagedArtifactError(f"{path} is damaged, or of another ExecuTorch: {reason}", AGAIN) from error


def _multiplied(graph: _XnnGraph) -> Iterator[_Product]:
    """Yield the products among XNNPACK's nodes."""
    tensors = {value.tensor.id: value.tensor for value in graph.xvalues}
    for xnode in graph.xnodes:
        node = xnode.node
        second = node.filter_id if node.filter_id is not None else node.input2_id
        if second is None or xnode.kind not in _PRODUCT_NODES:
            continue
        types = {_DATATYPES.get(tensors[operand].datatype, UNKNOWN) for operand in (node.input1_id, second)}
        yield _Product(types.pop() if len(types) == 1 else UNKNOWN, tensors[second].constant != 0)


def _kernel_calls(plan: Any) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name of every kernel that the method calls, with the values it is called on."""
    from executorch.exir.schema import KernelCall

    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if isinstance(call, KernelCall):
                operands = [plan.values[place].val for place in call.args]
                yield plan.operators[call.op_index].name, operands


def _kernel_product(name: str, operands: Sequence[Any]) -> _Product | None:
    """Return the product that the kernel called `name` is, None if it multiplies no matrices."""
    if name not in _PRODUCT_KERNELS:
        return None
    second = operands[_PRODUCT_KERNELS[name]]
    kind = _SCALAR_TYPES.get(second.scalar_type.name, UNKNOWN)
    return _Product(kind, second.data_buffer_idx > 0)


def _shares(products: Sequence[_Product]) -> tuple[ProductShare, ...]:
    nodes, weighted = Counter(one.type for one in products), Counter(one.type for one in products if one.weighted)
    return tuple(ProductShare(kind, count, None, weighted[kind]) for kind, count in nodes.most_common())


def _port(name: str, value: Any) -> Port:
    kind = _SCALAR_TYPES.get(value.scalar_type.name, value.scalar_type.name.lower())
    return Port(name, kind, tuple(value.sizes))
