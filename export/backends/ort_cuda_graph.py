"""ONNX Runtime on an NVIDIA GPU, its launches recorded once as a CUDA graph and replayed by one call of the driver."""

from __future__ import annotations

from dataclasses import replace

from effvit.export.backends import ort_cuda
from effvit.export.base import Artifact, Session
from effvit.export.device import GpuDevice
from effvit.export.ort import Provider
from effvit.export.ort_gpu import open_for_batch

# The first launch allocates, the second is recorded.
LAUNCHES = 2


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the graph onto the first GPU, as `open_on_gpu` does it."""
    return open_on_gpu(artifact, threads, 0)


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Load the graph onto the GPU of that number; its launches are recorded for the first batch that is bound.

    Raises:
        BackendUnavailableError: There is no such GPU, or the provider does not load.
        FallbackError: The provider has not taken an option.
        ExportError: ONNX Runtime refuses the file.
    """

    def provider(device: GpuDevice, batch: int) -> Provider:
        return ort_cuda.provider_options(artifact.precision, device, cuda_graph=True)

    return open_for_batch(artifact, threads, index, provider, LAUNCHES)


BACKEND = replace(
    ort_cuda.BACKEND,
    name="ort-cuda-graph",
    summary="the graphs of ort-cuda, every launch a CUDA graph that was recorded once",
    open=open_session,
    open_on_gpu=open_on_gpu,
)
