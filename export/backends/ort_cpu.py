"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from effvit.environment import package_version
from effvit.errors import ExportError
from effvit.export.base import Artifact, Backend, Images, Logits, Session, Source
from effvit.export.quantisation import Quantised
from effvit.export.settings import Placement, RuntimeSettings
from effvit.spec import Precision

PROVIDER = "CPUExecutionProvider"
PRODUCTS = ("Conv", "Gemm", "MatMul")
# The kernels that multiply 8-bit operands.
INTEGER_PRODUCTS = (
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
)


class OrtSession:
    """An ONNX Runtime session bound to host buffers; every launch is finished when it returns."""

    def __init__(self, session: Any, artifact: Artifact, threads: int) -> None:
        self._session, self._artifact, self._threads = session, artifact, threads
        self._images = np.empty(0, dtype=np.float32)
        self._binding = session.io_binding()
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def bind(self, images: Images) -> None:
        self._images = images
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._binding.bind_cpu_input(self._input, images)
        self._binding.bind_output(self._output, "cpu")

    def launch(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def synchronize(self) -> None:
        return

    def logits(self) -> Logits:
        return np.asarray(self._binding.copy_outputs_to_cpu()[0], dtype=np.float32)

    def settings(self) -> RuntimeSettings:
        """Read the session's options, and which provider took which nodes where ONNX Runtime tells (since 1.24)."""
        providers = self._session.get_providers()
        placement = tuple(Placement(provider, None) for provider in providers)
        precision = None
        if hasattr(self._session, "get_provider_graph_assignment_info"):
            parts = self._session.get_provider_graph_assignment_info()
            nodes = [(part.ep_name, node.op_type, node.name) for part in parts for node in part.get_nodes()]
            counts = Counter(provider for provider, _, _ in nodes)
            placement = tuple(Placement(provider, count) for provider, count in sorted(counts.items()))
            precision = _computed_in(self._artifact.precision, [(kind, name) for _, kind, name in nodes])
        if self._artifact.quantised is not None:
            kernels = _kernels(self._artifact, self._threads, self._images[:1])
            precision = _multiplied_in(kernels, self._artifact.quantised)
        return RuntimeSettings(
            runtime=f"onnxruntime {_version()}",
            device=",".join(provider.removesuffix("ExecutionProvider").lower() for provider in providers),
            precision=precision,
            threads=self._session.get_session_options().intra_op_num_threads,
            placement=placement,
        )


def _computed_in(graph: Precision, nodes: list[tuple[str, str]]) -> Precision:
    """Return the type of the matrix products among `nodes`, (kind, name) in the order in which they were placed.

    A graph's own nodes are placed first. For those that no provider computes in their type, ONNX Runtime then adds
    casts to fp32 and back, without names, and places them behind these casts.
    """
    placed = [kind if name or kind != "Cast" else "added cast" for kind, name in nodes]
    own = placed[: placed.index("added cast")] if "added cast" in placed else placed
    products = sum(kind in PRODUCTS for kind in placed)
    return graph if 2 * sum(kind in PRODUCTS for kind in own) >= products else Precision.FP32


def _multiplied_in(kernels: Counter[str], quantised: Quantised) -> Precision:
    """Return the type of most of the products that the graph has in 8 bits."""
    integer = sum(kernels[kind] for kind in INTEGER_PRODUCTS)
    return Precision.INT8 if 2 * integer >= quantised.products else Precision.FP32


def _kernels(artifact: Artifact, threads: int, images: Images) -> Counter[str]:
    """Return which kernels one launch runs, by kind and how often.

    Q/DQ pairs and products are fused after nodes are placed, so what was placed does not tell. A session that is
    watched is another one: the one that is measured is never slowed down by it.
    """
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="effvit-") as folder:
        options = _options(ort, threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "launch")
        session = ort.InferenceSession(artifact.path, options, providers=[PROVIDER])
        session.run(None, {session.get_inputs()[0].name: images})
        events = json.loads(Path(session.end_profiling()).read_text())
    return Counter(
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )


def export(source: Source, path: Path) -> Path:
    """Write the typed ONNX graph, or the one that is quantised for processors."""
    if source.precision is Precision.INT8:
        from effvit.export.quantise import export_for_cpu

        return export_for_cpu(source, path, BACKEND)
    from effvit.export.onnx import export_onnx

    return export_onnx(source, path)


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the graph with exactly `threads` threads on the CPU provider.

    Raises:
        ExportError: ONNX Runtime refuses the file.
    """
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(artifact.path, _options(ort, threads), providers=[PROVIDER])
    except (ort.capi.onnxruntime_pybind11_state.Fail, *_load_errors(ort)) as error:
        raise ExportError(
            "open", f"ONNX Runtime cannot load {artifact.path}: {error}", "export the artifact again"
        ) from error
    return OrtSession(session, artifact, threads)


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Processors without VNNI add pairs of 8-bit products in 16 bits, which overflow with weights of 8 full bits: there,
    # and only there, this takes slower kernels that do not,
    # https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/onnxruntime_session_options_config_keys.h
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _load_errors(ort: Any) -> tuple[type[Exception], ...]:
    state = ort.capi.onnxruntime_pybind11_state
    return (state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, state.NoSuchFile, state.NotImplemented)


def unavailable() -> str | None:
    """Return why ONNX Runtime cannot be used here, or None."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error})"
    return None if PROVIDER in onnxruntime.get_available_providers() else f"this build of onnxruntime lacks {PROVIDER}"


def _version() -> str | None:
    return package_version("onnxruntime") or package_version("onnxruntime-gpu")


BACKEND = Backend(
    name="ort-cpu",
    summary="ONNX Runtime on the CPU",
    format="onnx",
    suffix=".onnx",
    precisions=frozenset({Precision.FP32, Precision.FP16, Precision.INT8}),
    install="pip install 'effvit[cpu]' (or 'effvit[gpu]', never both: they share an import name)",
    unavailable=unavailable,
    version=_version,
    export=export,
    open=open_session,
    providers=frozenset({PROVIDER}),
)
