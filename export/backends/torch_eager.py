"""PyTorch itself, eager; on the CPU it is the reference that exported artifacts are held against."""

from __future__ import annotations

from effvit.environment import package_version
from effvit.export import cuda, pytorch
from effvit.export.base import Artifact, Backend, Session


def open_session(artifact: Artifact, threads: int) -> Session:
    """Rebuild the model around its checkpoint, at the artifact's resolution.

    Raises:
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    model = pytorch.open_model(artifact, threads)
    return pytorch.TorchSession(model, model)


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Rebuild the model around its checkpoint on the GPU of that number.

    Raises:
        BackendUnavailableError: PyTorch does not see that GPU.
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    model = cuda.open_model(artifact, threads, index)
    return cuda.CudaSession(model, model, index)


def unavailable() -> str | None:
    """Return None: PyTorch is a dependency. Imports what a session needs, so that memory is read after it."""
    import torch  # noqa: F401

    import effvit.surgery  # noqa: F401

    return None


BACKEND = Backend(
    name="torch",
    summary="PyTorch eager, on the CPU or an NVIDIA GPU",
    format=pytorch.FORMAT,
    suffix=pytorch.SUFFIX,
    precisions=pytorch.PRECISIONS,
    install="pip install torch",
    unavailable=unavailable,
    version=lambda: package_version("torch"),
    export=pytorch.export,
    open=open_session,
    open_on_gpu=open_on_gpu,
)
