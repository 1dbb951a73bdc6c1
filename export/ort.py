"""What the backends of ONNX Runtime share: how sessions are set up, and what they tell of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effvit.environment import package_version
from effvit.errors import ExportError, first_line
from effvit.export.base import Source
from effvit.export.settings import Placement
from effvit.spec import Precision

INSTALL = "pip install 'effvit[cpu]' (or 'effvit[gpu]', never both: they share an import name)"
CPU_PROVIDER = "CPUExecutionProvider"
PRODUCTS = ("Conv", "Gemm", "MatMul")
# A provider with its options, as ONNX Runtime takes it.
Provider = tuple[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Assigned:
    """A node of a graph, and which provider took it; what ONNX Runtime adds itself has no name."""

    provider: str
    kind: str
    name: str


def options(ort: Any, threads: int) -> Any:
    """Return the options of a session that uses exactly `threads` threads, and tells who runs which node."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 3
    chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Processors without VNNI add pairs of 8-bit products in 16 bits, which overflow with weights of 8 full bits: there,
    # and only there, this takes slower kernels that do not,
    # https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/onnxruntime_session_options_config_keys.h
    chosen.add_session_config_entry("session.x64quantprecision", "1")
    return chosen


def opened(ort: Any, path: str, chosen: Any, providers: Sequence[str | Provider]) -> Any:
    """Return a session of the graph in the file `path` on these providers.

    Raises:
        ExportError: ONNX Runtime refuses the file, or an option of a provider.
    """
    try:
        # Refused options would otherwise be printed, and the session made on the CPU instead.
        return ort.InferenceSession(path, chosen, providers=list(providers), enable_fallback=0)
    except _load_errors(ort) as error:
        reason = first_line(error)
        raise ExportError("open", f"ONNX Runtime cannot load {path}: {reason}", "export the artifact again") from error


def _load_errors(ort: Any) -> tuple[type[Exception], ...]:
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NoSuchFile", "NotImplemented")
    # What its own classes do not cover, options of providers above all, comes as Python's.
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names))


def assigned_nodes(session: Any) -> list[Assigned] | None:
    """Return which provider took which nodes, in the order in which they were placed; None before ONNX Runtime 1.24."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    return [Assigned(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]


def placement(session: Any, nodes: Sequence[Assigned] | None) -> tuple[Placement, ...]:
    """Return how many of the nodes each provider took; without numbers where that is not known."""
    if nodes is None:
        return tuple(Placement(provider, None) for provider in session.get_providers())
    counts = Counter(node.provider for node in nodes)
    return tuple(Placement(provider, count) for provider, count in sorted(counts.items()))


def computed_in(graph: Precision, nodes: Sequence[Assigned]) -> Precision:
    """Return the type of the matrix products among `nodes` of a graph of this precision.

    A graph's own nodes are placed first. For those that no provider computes in their type, ONNX Runtime then adds
    casts to fp32 and back, without names, and places them behind these casts.
    """
    placed = [node.kind if node.name or node.kind != "Cast" else "added cast" for node in nodes]
    own = placed[: placed.index("added cast")] if "added cast" in placed else placed
    products = sum(kind in PRODUCTS for kind in placed)
    return graph if 2 * sum(kind in PRODUCTS for kind in own) >= products else Precision.FP32


def export_typed(source: Source, path: Path) -> Path:
    """Write the typed ONNX graph of `source` to `path`, the same for every provider, and return it."""
    from effvit.export.onnx import export_onnx  # needs torch, which a session of a graph does without

    return export_onnx(source, path)


def version() -> str | None:
    return package_version("onnxruntime") or package_version("onnxruntime-gpu")
