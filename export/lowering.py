"""ExecuTorch programs: the model exported for one batch, its constants folded, and handed to XNNPACK."""

from __future__ import annotations

import contextlib
import logging
import operator
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from effvit.errors import ExportError, UnsupportedError
from effvit.export.base import Source
from effvit.export.program_file import FORWARD, METADATA, Leftover, ProgramRecord
from effvit.storage import write_atomically

# The modules of a model that are a mechanism's: layers of attention, and the row of blocks where one changes what
# flows from block to block.
_MECHANISM = re.compile(r"(^|\.)blocks(\.\d+\.attn(\..*)?)?$")


def export_program(source: Source, path: Path) -> Path:
    """Write the program of `source` to `path` and return it; what it was made of travels in it.

    Raises:
        UnsupportedError: It is to be quantised in a way that XNNPACK is not, modules are to stay in fp32, or there are
            too few training images.
        DataError: The training images are gone, damaged, or not the same any more.
        ExportError: PyTorch could not export the model, or ExecuTorch could not lower it.
        StorageError: The disk is full, or the folder cannot be written.
    """
    if source.pins:
        raise UnsupportedError("modules of an ExecuTorch program cannot stay in fp32", "leave --pin-fp32 out")
    with quiet_exporters(), torch.no_grad():
        content = _program_of(source)
    write_atomically(path, content)
    return path


def _program_of(source: Source) -> bytes:
    from executorch.exir import error as exir

    try:
        program, quantised = folded(source.model(), example(source)), None
        if source.precision.quantised:
            from effvit.export.pt2e import quantise

            program, quantised = quantise(program, source)
        return lowered(program, ProgramRecord(source.run.record.spec, source.precision, quantised))
    except (exir.ExportError, exir.InternalError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            "executorch", f"ExecuTorch could not lower the model: {reason}", "report this model to effvit"
        ) from error


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep exporters from advising their own developers, and from setting up the logging of the whole program."""
    root, silent = logging.getLogger(), logging.NullHandler()
    loggers = [logging.getLogger(name) for name in ("torch", "torchao", "executorch")]
    levels = [logger.level for logger in loggers]
    root.addHandler(silent)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def example(source: Source) -> Tensor:
    """Return images of the shape that a program is for, `(batch, 3, height, width)`."""
    return torch.zeros(source.batch, 3, source.height, source.width)


def folded(model: nn.Module, images: Tensor) -> ExportedProgram:
    """Return `model` as a graph in which what is computed from weights alone is a weight.

    XNNPACK takes products with weights that are constants; a part of a weight, or a joint of two, is none.
    """
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    exported = torch.export.export(model, (images,), strict=False)
    constant = constant_prop_pass(exported.run_decompositions(_simpler_operators()))
    # A weight that was transposed or cut is a view, and files of ExecuTorch do not hold its strides: what it multiplied
    # came out wrong (linformer, fp32). Exported once more, the graph knows its weights as they now lie.
    for name, value in constant.constants.items():
        constant.constants[name] = value.clone(memory_format=torch.contiguous_format)
    return torch.export.export(constant.module(), (images,), strict=False)


def _simpler_operators() -> dict[OpOverload, Callable[..., Any]]:
    """Return what stands in for operators that ExecuTorch has no kernel of, or that XNNPACK would not take whole."""
    aten = torch.ops.aten
    return {
        aten.argsort.default: _argsort,
        aten.scaled_dot_product_attention.default: _attention,
        aten.select.int: _selected,
    }


def _argsort(x: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    return torch.topk(x, x.shape[dim], dim, largest=descending, sorted=True)[1]


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return PyTorch's attention of models in evaluation; its own guards against rows that are masked as a whole."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1) @ v


def _selected(x: Tensor, dim: int, index: int) -> Tensor:
    return x.narrow(dim, index % x.shape[dim], 1).squeeze(dim)


def lowered(program: ExportedProgram, record: ProgramRecord) -> bytes:
    """Return the content of the file that `program` becomes, with `record` in it and what XNNPACK left."""
    from executorch.backends.transforms.replace_squeeze_unsqueeze_with_view import (
        ReplaceSqueezeAndUnsqueezeWithViewPass,
    )
    from executorch.backends.xnnpack._passes.remove_noop_expand_copy_pass import RemoveNoopExpandCopyPass
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeProgramManager, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    passes = [RemoveNoopExpandCopyPass(), ReplaceSqueezeAndUnsqueezeWithViewPass()]
    edge = to_edge_transform_and_lower(program, passes, [XnnpackPartitioner()])
    whole = edge.exported_program(FORWARD)
    record = replace(record, leftovers=leftovers_of(whole))
    # What was left is known only now, and methods are named when a manager is made.
    described = EdgeProgramManager(whole, {METADATA: msgspec.json.encode(record).decode()}, edge.compile_config)
    # Images stay where they are bound: planned memory of an input is used again once it was read, and a second launch
    # would see what is there then.
    planning = MemoryPlanningPass(alloc_graph_input=False)
    return bytes(described.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer)


def leftovers_of(program: ExportedProgram) -> tuple[Leftover, ...]:
    """Return the operators of a lowered `program` that its delegates did not take."""
    from executorch.exir.delegate import executorch_call_delegate

    found, in_attention = Counter[str](), Counter[str]()
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target in (executorch_call_delegate, operator.getitem):
            continue
        name = str(node.target._schema.name) if hasattr(node.target, "_schema") else node.target.__name__
        found[name] += 1
        in_attention[name] += _of_mechanism(node)
    return tuple(Leftover(name, count, in_attention[name]) for name, count in found.most_common())


def _of_mechanism(node: Node) -> bool:
    """Return whether a mechanism of attention made the node."""
    modules = node.meta.get("nn_module_stack") or {}
    path = str(list(modules.values())[-1][0]) if modules else ""
    return bool(_MECHANISM.search(path))
