"""TensorRT: strongly typed engines from typed ONNX graphs, the same code for TensorRT 10.13 and later and for 11.

TensorRT 11 has no precision flags any more: the graph's types are the precision, which is why a typed graph is written
first. PyTorch lends device memory and the stream; it shares the primary CUDA context with TensorRT.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effvit.environment import capture_environment, package_version
from effvit.errors import ExportError, UnsupportedError
from effvit.export.base import Artifact, Backend, Images, Logits, Session, Source
from effvit.export.cuda import require_gpu
from effvit.export.engine_file import check_engine
from effvit.export.settings import RuntimeSettings
from effvit.spec import Precision

if TYPE_CHECKING:
    import tensorrt as trt

# Smallest, tuned-for and largest batch of an engine; the batch of one engine is free within these bounds.
BATCHES = (1, 8, 64)
WORKSPACE_BYTES = 4 * 2**30


class TensorrtSession:
    """An engine with its execution context; launches are enqueued on a stream of their own."""

    def __init__(self, plan: bytes) -> None:
        import tensorrt as trt
        import torch

        self._torch = torch
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ExportError(
                "open",
                "TensorRT cannot load the engine: another version or another GPU built it",
                "export it again here",
            )
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        self._input, self._output = _tensor_names(self._engine)
        self._images = self._logits = torch.empty(0)

    def bind(self, images: Images) -> None:
        if len(images) > BATCHES[-1]:
            raise UnsupportedError(
                f"the engine takes up to {BATCHES[-1]} images, not {len(images)}", "use a smaller --batch"
            )
        self._images = self._torch.from_numpy(images).cuda()
        if not self._context.set_input_shape(self._input, tuple(images.shape)):
            raise ExportError("open", f"the engine refuses images of shape {images.shape}", "export it again")
        shape = tuple(self._context.get_tensor_shape(self._output))
        self._logits = self._torch.empty(shape, device="cuda")
        self._context.set_tensor_address(self._input, self._images.data_ptr())
        self._context.set_tensor_address(self._output, self._logits.data_ptr())
        # The copy above ran on another stream.
        self._torch.cuda.synchronize()

    def launch(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise ExportError("measure", "TensorRT refused to run the engine", "see TensorRT's messages above")

    def synchronize(self) -> None:
        self._stream.synchronize()

    def logits(self) -> Logits:
        return np.asarray(self._logits.cpu().numpy(), dtype=np.float32)

    def settings(self) -> RuntimeSettings:
        """Say what is known: an engine does not tell in which types it computes."""
        return RuntimeSettings(f"tensorrt {package_version('tensorrt')}", str(self._images.device), None, None)


def export(source: Source, path: Path) -> Path:
    """Write the typed ONNX graph beside `path`, and the engine built from it to `path`.

    Raises:
        ExportError: TensorRT refuses the graph or cannot build it; the node is named.
    """
    import tensorrt as trt

    from effvit.export.onnx import INPUT
    from effvit.export.tensorrt_graph import export_graph
    from effvit.storage import write_atomically

    graph = export_graph(source, path.with_suffix(".onnx"))
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # TensorRT 10 needs the flag, 11 accepts and ignores it. Its number differs between the two.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ExportError("parse", f"TensorRT cannot read the graph: {reasons}", "report this model to effvit")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default; strict fp32 is what fp32 says.
    (config.set_flag if source.precision is Precision.TF32 else config.clear_flag)(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((batch, 3, source.height, source.width) for batch in BATCHES))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError("build", "TensorRT could not build the engine", "see TensorRT's messages above")
    write_atomically(path, bytes(plan))
    return path


def graph_backend(precision: Precision) -> Backend:
    """Return what runs the graph of an engine without TensorRT, to verify it: ONNX Runtime on the CPU.

    Graphs that are quantised for TensorRT are others than those for processors; the rest are the same.
    """
    from effvit.export.backends import ort_cpu
    from effvit.export.tensorrt_graph import export_graph

    if not precision.quantised:
        return ort_cpu.BACKEND
    return replace(
        ort_cpu.BACKEND,
        name="ort-cpu",
        format="onnx for tensorrt",
        precisions=frozenset({Precision.INT8, Precision.FP8}),
        export=export_graph,
    )


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the engine.

    Raises:
        ExportError: The engine was built by another TensorRT or on another GPU.
    """
    check_engine(artifact, package_version("tensorrt"), capture_environment().gpus)
    return TensorrtSession(Path(artifact.path).read_bytes())


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Load the engine onto the GPU of that number.

    Raises:
        BackendUnavailableError: PyTorch, which lends the memory, does not see that GPU.
        ExportError: The engine was built by another TensorRT or on another GPU.
    """
    import torch

    require_gpu(index)
    torch.cuda.set_device(index)
    return open_session(artifact, threads)


def layer_information(plan: bytes) -> bytes:
    """Return what the inspector of the engine in `plan` tells of its layers, as JSON.

    Raises:
        ExportError: TensorRT cannot load it.
    """
    import tensorrt as trt

    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(
            "open", "TensorRT cannot load the engine: another version or another GPU built it", "export it again here"
        )
    context, inspector = engine.create_execution_context(), engine.create_engine_inspector()
    # Without shapes, the formats of a dynamic engine are "N/A due to dynamic shapes".
    image, _ = _tensor_names(engine)
    context.set_input_shape(image, engine.get_tensor_profile_shape(image, 0)[1])
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON)).encode()


def unavailable() -> str | None:
    """Return why TensorRT cannot be used here, or None."""
    try:
        import tensorrt  # noqa: F401
    except ImportError as error:
        return f"tensorrt cannot be imported ({error})"
    import torch

    # Asked before TensorRT's runtime is touched: without a device it ends the process.
    return None if torch.cuda.is_available() else "there is no CUDA GPU"


def _tensor_names(engine: trt.ICudaEngine) -> tuple[str, str]:
    import tensorrt as trt

    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    (image,) = (name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    (logits,) = (name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT)
    return image, logits


BACKEND = Backend(
    name="tensorrt",
    summary="TensorRT engines on an NVIDIA GPU",
    format="tensorrt",
    suffix=".engine",
    precisions=frozenset(Precision),
    install="pip install 'effvit[tensorrt]' on a machine with an NVIDIA GPU and its driver",
    unavailable=unavailable,
    version=lambda: package_version("tensorrt"),
    export=export,
    open=open_session,
    device_bound=True,
    open_on_gpu=open_on_gpu,
)
