"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from effvit.environment import package_version
from effvit.errors import CheckFailedError, ExportError
from effvit.export.base import Artifact, Backend, Images, Logits, Session, Source
from effvit.spec import Precision

PROVIDER = "CPUExecutionProvider"


class OrtSession:
    """An ONNX Runtime session bound to host buffers; every launch is finished when it returns."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def bind(self, images: Images) -> None:
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


def export(source: Source, path: Path) -> Path:
    """Write the typed ONNX graph."""
    from effvit.export.onnx import export_onnx

    return export_onnx(source, path)


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the graph with exactly `threads` threads on the CPU provider.

    Raises:
        ExportError: ONNX Runtime refuses the file.
        CheckFailedError: Another provider than the CPU's took the graph.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(artifact.path, options, providers=[PROVIDER])
    except (ort.capi.onnxruntime_pybind11_state.Fail, *_load_errors(ort)) as error:
        raise ExportError(
            "open", f"ONNX Runtime cannot load {artifact.path}: {error}", "export the artifact again"
        ) from error
    if session.get_providers() != [PROVIDER]:
        raise CheckFailedError(f"asked for {PROVIDER}, got {session.get_providers()}", "reinstall onnxruntime")
    return OrtSession(session)


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


BACKEND = Backend(
    name="ort-cpu",
    summary="ONNX Runtime on the CPU",
    format="onnx",
    suffix=".onnx",
    precisions=frozenset({Precision.FP32, Precision.FP16}),
    install="pip install 'effvit[cpu]' (or 'effvit[gpu]', never both: they share an import name)",
    unavailable=unavailable,
    version=lambda: package_version("onnxruntime") or package_version("onnxruntime-gpu"),
    export=export,
    open=open_session,
)
