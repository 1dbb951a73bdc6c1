"""PyTorch Inductor on the CPU: the model of the eager backend, compiled for one batch into C++."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from effvit.environment import package_version
from effvit.export import pytorch
from effvit.export.base import Artifact, Backend, Images, Session
from effvit.export.pieces import FixedBatchSession


def open_session(artifact: Artifact, threads: int) -> Session:
    """Rebuild the model around its checkpoint; it is compiled for the first batch that is bound.

    Raises:
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    model = pytorch.open_model(artifact, threads)

    def compiled_for(images: Images) -> Session:
        import torch
        import torch._inductor.config as inductor
        from torch._inductor.utils import fresh_cache

        # Compilers that run beside one another are processes, which would outlive the compilation.
        inductor.compile_threads = 1
        # A whole graph or an error: nothing falls back to eager mode in silence.
        session = pytorch.TorchSession(model, torch.compile(model, mode="default", dynamic=False, fullgraph=True))
        session.bind(images)
        # An empty cache, so that the time of compiling does not depend on what was compiled before.
        with fresh_cache():
            session.launch()
        return session

    return FixedBatchSession(compiled_for)


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
    summary="PyTorch compiled by Inductor on the CPU; opening takes as long as compiling",
    format=pytorch.FORMAT,
    suffix=pytorch.SUFFIX,
    precisions=pytorch.PRECISIONS,
    install="install g++ and the headers of Python, or name another compiler in CXX",
    unavailable=unavailable,
    version=lambda: package_version("torch"),
    export=pytorch.export,
    open=open_session,
    slow_to_open=True,
)
