"""TensorRT: strongly typed engines from typed ONNX graphs, the same code for TensorRT 10.13 and later and for 11.

TensorRT 11 has no precision flags any more: the graph's types are the precision, which is why a typed graph is written
first.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from effvit.environment import engine_gpus, package_version
from effvit.export.base import Artifact, Backend, Session, Source
from effvit.export.device import no_device, open_device
from effvit.export.engine_file import check_engine, layers_file
from effvit.export.engine_options import AttentionForm, EngineOptions
from effvit.spec import Precision


def export(source: Source, path: Path) -> Path:
    """Write the typed ONNX graph beside `path`, the engine built from it to `path`, and what its layers are beside it.

    Raises:
        ExportError: TensorRT refuses the graph or cannot build it; the node is named.
    """
    from effvit.export.tensorrt_build import build_engine
    from effvit.export.tensorrt_graph import export_graph

    graph = export_graph(source, path.with_suffix(".onnx"))
    size = source.height, source.width
    build_engine(graph, path, source.engine, size=size, tf32=source.precision is Precision.TF32)
    return _described(path, source.engine)


def refitting(engine: Artifact) -> Backend:
    """Return the backend whose engines are made by putting other weights into `engine`, rather than built."""

    def export(source: Source, path: Path) -> Path:
        from effvit.export.tensorrt_graph import export_graph
        from effvit.export.tensorrt_refit import refit_engine

        graph = export_graph(source, path.with_suffix(".onnx"))
        refit_engine(Path(engine.path).read_bytes(), graph, path, host_code=source.engine.version_compatible)
        return _described(path, source.engine)

    return replace(BACKEND, export=export)


def _described(path: Path, options: EngineOptions) -> Path:
    """Write what the layers of the engine in the file `path` are beside it, and return the file."""
    from effvit.export.tensorrt_engine import layer_information, load_engine
    from effvit.storage import write_atomically

    loaded = load_engine(path.read_bytes(), host_code=options.version_compatible)
    write_atomically(layers_file(path), layer_information(loaded, loaded.typical_context()))
    return path


def graph_backend(precision: Precision, attention: AttentionForm = "products") -> Backend:
    """Return what runs the graph of an engine without TensorRT, to verify it: ONNX Runtime on the CPU.

    Graphs for TensorRT alone are others than those for processors: those that are quantised, and those that hold
    attention as an operator. The rest are the same.
    """
    from effvit.export.backends import ort_cpu
    from effvit.export.tensorrt_graph import export_graph

    if not precision.quantised and attention == "products":
        return ort_cpu.BACKEND
    return replace(
        ort_cpu.BACKEND,
        name="ort-cpu",
        format="onnx for tensorrt" if attention == "products" else f"onnx for tensorrt, attention as {attention}",
        precisions=ort_cpu.BACKEND.precisions | {Precision.FP8},
        export=export_graph,
    )


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the engine onto the first GPU.

    Raises:
        ExportError: The engine was built by another TensorRT or on another GPU.
    """
    return open_on_gpu(artifact, threads, 0)


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Load the engine onto the GPU of that number; every launch enqueues its kernels anew.

    Raises:
        BackendUnavailableError: CUDA does not see that GPU.
        ExportError: The engine was built by another TensorRT or on another GPU.
    """
    return open_engine(artifact, index, graph=False)


def open_engine(artifact: Artifact, index: int, *, graph: bool) -> Session:
    """Load the engine onto the GPU of that number; with `graph`, launches repeat a CUDA graph.

    Raises:
        BackendUnavailableError: CUDA does not see that GPU.
        ExportError: The engine was built by another TensorRT or on another GPU.
    """
    check_engine(artifact, package_version("tensorrt"), engine_gpus())
    device = open_device(index)
    from effvit.export.tensorrt_engine import load_engine
    from effvit.export.tensorrt_session import session_of

    host_code = artifact.engine is not None and artifact.engine.version_compatible
    loaded = load_engine(Path(artifact.path).read_bytes(), host_code=host_code)
    return session_of(loaded, device, artifact, graph=graph)


def unavailable() -> str | None:
    """Return why TensorRT cannot be used here, or None."""
    try:
        import tensorrt  # noqa: F401
    except ImportError as error:
        return f"tensorrt cannot be imported ({error})"
    # CUDA is asked before TensorRT's runtime is touched: without a device that ends the process.
    return no_device()


BACKEND = Backend(
    name="tensorrt",
    summary="TensorRT engines on an NVIDIA GPU, every launch enqueued anew",
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
