"""PyTorch Inductor: the model of the eager backend, compiled for one batch into C++, or into Triton for a GPU."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.environment import package_version
from effvit.export import cuda, pytorch
from effvit.export.base import Artifact, Backend, Images, Session, StagedSession
from effvit.export.pieces import FixedBatchSession, StagedFixedBatchSession

if TYPE_CHECKING:
    from torch import Tensor

    from effvit.export.typed import TypedModel


def open_session(artifact: Artifact, threads: int) -> Session:
    """Rebuild the model around its checkpoint; it is compiled for the first batch that is bound.

    Raises:
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    model = pytorch.open_model(artifact, threads)

    def compiled_for(images: Images) -> Session:
        session = pytorch.TorchSession(model, _compiled(model))
        _compile(session, images)
        return session

    return FixedBatchSession(compiled_for)


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Rebuild the model around its checkpoint on the GPU of that number; compiled as on the CPU, into Triton kernels.

    Raises:
        BackendUnavailableError: PyTorch does not see that GPU.
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    model = cuda.open_model(artifact, threads, index)

    def compiled_for(images: Images) -> StagedSession:
        session = cuda.CudaSession(model, _compiled(model), index)
        _compile(session, images)
        return session

    return StagedFixedBatchSession(compiled_for)


def _compiled(model: TypedModel) -> Callable[[Tensor], Tensor]:
    """Return what compiles `model` when it is called for the first time."""
    import torch

    # A whole graph or an error: nothing falls back to eager mode in silence.
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, mode="default", dynamic=False, fullgraph=True)
    return compiled


def _compile(session: Session, images: Images) -> None:
    import torch._inductor.config as inductor
    from torch._inductor.utils import fresh_cache

    # Compilers that run beside one another are processes, which would outlive the compilation.
    inductor.compile_threads = 1
    session.bind(images)
    # An empty cache, so that the time of compiling does not depend on what was compiled before.
    with fresh_cache():
        session.launch()
        session.synchronize()


def unavailable() -> str | None:
    """Return what Inductor lacks here, or None. Imports what a session needs, so that memory is read after it."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler}"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "the headers of Python (Python.h) are missing"
    import torch  # noqa: F401

    import effvit.surgery  # noqa: F401

    return None


BACKEND = Backend(
    name="torch-compile",
    summary="PyTorch compiled by Inductor, on the CPU or an NVIDIA GPU; opening takes as long as compiling",
    format=pytorch.FORMAT,
    suffix=pytorch.SUFFIX,
    precisions=pytorch.PRECISIONS,
    install="install g++ and the headers of Python, or name another compiler in CXX",
    unavailable=unavailable,
    version=lambda: package_version("torch"),
    export=pytorch.export,
    open=open_session,
    open_on_gpu=open_on_gpu,
    slow_to_open=True,
)
