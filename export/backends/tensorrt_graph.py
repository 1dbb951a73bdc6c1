"""TensorRT, its launches captured once as a CUDA graph and repeated by one call of the driver."""

from __future__ import annotations

from dataclasses import replace

from effvit.export import bindings_device
from effvit.export.backends import tensorrt
from effvit.export.base import Artifact, Session


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the engine onto the first GPU.

    Raises:
        ExportError: The engine was built by another TensorRT or on another GPU.
    """
    return open_on_gpu(artifact, threads, 0)


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Load the engine onto the GPU of that number; its launches are captured for the first batch that is bound.

    Raises:
        BackendUnavailableError: CUDA does not see that GPU.
        ExportError: The engine was built by another TensorRT or on another GPU, or cannot be captured.
    """
    return tensorrt.open_engine(artifact, index, graph=True)


def unavailable() -> str | None:
    """Return why TensorRT, or what captures graphs, cannot be used here, or None."""
    return tensorrt.unavailable() or bindings_device.missing()


BACKEND = replace(
    tensorrt.BACKEND,
    name="tensorrt-graph",
    summary="the engines of tensorrt, every launch a CUDA graph that was captured once",
    unavailable=unavailable,
    open=open_session,
    open_on_gpu=open_on_gpu,
)
