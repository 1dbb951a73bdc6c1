"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from effvit.export.base import Artifact, Backend, Images, Logits, Session, Source
from effvit.export.ort import (
    CPU_PROVIDER,
    INSTALL,
    assigned_nodes,
    computed_in,
    export_typed,
    opened,
    options,
    placement,
    version,
)
from effvit.export.quantisation import Quantised
from effvit.export.settings import RuntimeSettings
from effvit.spec import Precision

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
        nodes, providers = assigned_nodes(self._session), self._session.get_providers()
        precision = None if nodes is None else computed_in(self._artifact.precision, nodes)
        if self._artifact.quantised is not None:
            kernels = _kernels(self._artifact, self._threads, self._images[:1])
            precision = _multiplied_in(kernels, self._artifact.quantised)
        return RuntimeSettings(
            runtime=f"onnxruntime {version()}",
            device=",".join(provider.removesuffix("ExecutionProvider").lower() for provider in providers),
            precision=precision,
            threads=self._session.get_session_options().intra_op_num_threads,
            placement=placement(self._session, nodes),
        )


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
        watching = options(ort, threads)
        watching.enable_profiling = True
        watching.profile_file_prefix = str(Path(folder) / "launch")
        session = opened(ort, artifact.path, watching, [CPU_PROVIDER])
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
    return export_typed(source, path)


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the graph with exactly `threads` threads on the CPU provider.

    Raises:
        ExportError: ONNX Runtime refuses the file.
    """
    import onnxruntime as ort

    return OrtSession(opened(ort, artifact.path, options(ort, threads), [CPU_PROVIDER]), artifact, threads)


def unavailable() -> str | None:
    """Return why ONNX Runtime cannot be used here, or None."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error})"
    known = onnxruntime.get_available_providers()
    return None if CPU_PROVIDER in known else f"this build of onnxruntime lacks {CPU_PROVIDER}"


BACKEND = Backend(
    name="ort-cpu",
    summary="ONNX Runtime on the CPU",
    format="onnx",
    suffix=".onnx",
    precisions=frozenset({Precision.FP32, Precision.FP16, Precision.INT8}),
    install=INSTALL,
    unavailable=unavailable,
    version=version,
    export=export,
    open=open_session,
    providers=frozenset({CPU_PROVIDER}),
)
