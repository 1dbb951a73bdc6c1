"""OpenVINO on the CPU: the graphs of ONNX Runtime, with everything that OpenVINO would choose for itself said out loud.

Told nothing, it computes fp32 graphs in bf16 on processors that can, and chooses streams, threads and core pinning.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from effvit.environment import package_version
from effvit.errors import ExportError, LackingError, UnsupportedError
from effvit.export.base import Artifact, Backend, Images, Logits, Session, Source
from effvit.export.pieces import FixedBatchSession
from effvit.export.quantisation import Quantised
from effvit.export.settings import Placement, RuntimeSettings
from effvit.spec import Precision

DEVICE = "CPU"
# What OpenVINO is told to compute in; what a graph has quantised it computes in 8 bits all the same.
TYPES = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.INT8: "f32"}
NAMES = {"f32": Precision.FP32, "bf16": Precision.BF16, "f16": Precision.FP16}
# A layer's type is that of its first operand, the activation.
BYTES = ("i8", "u8")
# The layers of OpenVINO's own graph that are matrix products, and those that compute nothing.
PRODUCTS = ("Convolution", "FullyConnected", "MatMul")
IDLE = ("Const", "Input", "Output")


class OpenvinoSession:
    """A model compiled for one batch; every launch is finished when it returns."""

    def __init__(self, compiled: Any, quantised: Quantised | None) -> None:
        """Launch `compiled`; `quantised` says what the graph it was made of has in 8 bits."""
        import openvino

        self._tensor, self._quantised = openvino.Tensor, quantised
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._images = np.empty(0, dtype=np.float32)

    def bind(self, images: Images) -> None:
        self._images = images  # the tensor shares its memory
        self._request.set_input_tensor(self._tensor(images, shared_memory=True))

    def launch(self) -> None:
        self._request.infer(share_inputs=True, share_outputs=True)

    def synchronize(self) -> None:
        return

    def logits(self) -> Logits:
        return np.array(self._request.get_output_tensor().data, dtype=np.float32)

    def settings(self) -> RuntimeSettings:
        """Read the compiled model's properties, and the types of the graph that really runs."""
        layers = [_layer(node) for node in self._compiled.get_runtime_model().get_ops()]
        device = ",".join(self._compiled.get_property("EXECUTION_DEVICES"))
        products = Counter(kind for layer, kind in layers if layer in PRODUCTS)
        types = Counter(kind for layer, kind in layers if layer not in IDLE)
        return RuntimeSettings(
            runtime=f"openvino {package_version('openvino')}",
            device=device.lower(),
            precision=_computed_in(products, self._quantised),
            threads=self._compiled.get_property("INFERENCE_NUM_THREADS"),
            placement=tuple(Placement(device, count, kind) for kind, count in sorted(types.items())),
        )


def _computed_in(products: Counter[str], quantised: Quantised | None) -> Precision | None:
    """Return the type of most matrix products; of those that the graph has in 8 bits, where it has some."""
    if quantised is not None and 2 * sum(products[kind] for kind in BYTES) >= quantised.products:
        return Precision.INT8
    floats = Counter({kind: count for kind, count in products.items() if kind not in BYTES})
    return NAMES.get(floats.most_common(1)[0][0]) if floats else None


def _layer(node: Any) -> tuple[str, str]:
    """Return the kind of a node of the runtime's graph, and the type it computes in."""
    facts = node.get_rt_info()
    return facts["layerType"].astype(str), facts["runtimePrecision"].astype(str)


def export(source: Source, path: Path) -> Path:
    """Write the ONNX graph in fp32, also for bf16, which OpenVINO makes of it by itself; or return the one there is.

    ONNX has no convolution in bf16 before operator set 22. A graph in int8 is the one that ONNX Runtime takes.

    Raises:
        UnsupportedError: Modules are to stay in fp32 beside bf16.
    """
    from effvit.export.cache import find
    from effvit.export.onnx import export_onnx

    if source.precision is Precision.INT8:
        from effvit.export.quantise import export_for_cpu

        return export_for_cpu(source, path, BACKEND)
    if source.pins and source.precision is Precision.BF16:
        raise UnsupportedError(
            "OpenVINO makes bf16 of a whole fp32 graph, and keeps no module in fp32 in it",
            "leave --pin-fp32 away, or choose int8",
        )
    exact = replace(source, precision=Precision.FP32)
    known = find(exact, BACKEND)
    return Path(known.path) if known is not None else export_onnx(exact, path)


def open_session(artifact: Artifact, threads: int) -> Session:
    """Read the graph; it is compiled for the first batch that is bound, with exactly `threads` threads.

    Raises:
        LackingError: The CPU has no instructions for the artifact's precision.
        ExportError: OpenVINO refuses the file, or, when a batch is bound, to compile it.
    """
    import openvino

    core = openvino.Core()
    if str(artifact.precision).upper() not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise LackingError(
            f"this CPU has no instructions for {artifact.precision}", "profile in fp32, or on a CPU that has them"
        )
    try:
        model = core.read_model(artifact.path)
    except RuntimeError as error:
        raise ExportError(
            "open", f"OpenVINO cannot load {artifact.path}: {_reason(error)}", "export the artifact again"
        ) from error

    def compiled_for(images: Images) -> Session:
        model.reshape(list(images.shape))
        try:
            compiled = core.compile_model(model, DEVICE, _config(artifact.precision, threads))
        except RuntimeError as error:
            raise ExportError(
                "open",
                f"OpenVINO cannot compile {artifact.path}: {_reason(error)}",
                "run it with --backend ort-cpu, or in fp32",
            ) from error
        session = OpenvinoSession(compiled, artifact.quantised)
        session.bind(images)
        return session

    return FixedBatchSession(compiled_for)


def _reason(error: RuntimeError) -> str:
    """Return what OpenVINO says, without where among its own sources it says so."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return lines[0] if lines else type(error).__name__


def _config(precision: Precision, threads: int) -> dict[str, str | int | bool]:
    return {
        "INFERENCE_PRECISION_HINT": TYPES[precision],
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Workers that are parked beside this one would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
    }


def unavailable() -> str | None:
    """Return why OpenVINO cannot be used here, or None."""
    try:
        import openvino
    except ImportError as error:
        return f"openvino cannot be imported ({error})"
    return None if DEVICE in openvino.Core().available_devices else "OpenVINO finds no CPU that it supports"


BACKEND = Backend(
    name="openvino",
    summary="OpenVINO on the CPU",
    format="onnx",
    suffix=".onnx",
    precisions=frozenset(TYPES),
    install="pip install 'effvit[openvino]'",
    unavailable=unavailable,
    version=lambda: package_version("openvino"),
    export=export,
    open=open_session,
    providers=frozenset({DEVICE}),
)
