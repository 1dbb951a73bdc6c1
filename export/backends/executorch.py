"""ExecuTorch on the CPU: programs whose graphs XNNPACK runs, as far as it takes their operators."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from effvit.environment import package_version
from effvit.errors import ExportError
from effvit.export.base import Artifact, Backend, Images, Logits, Session, Source
from effvit.export.pieces import FixedBatchSession
from effvit.export.program_file import FORWARD, SUFFIX, XNNPACK
from effvit.export.settings import Placement, RuntimeSettings
from effvit.export.silence import silent_stderr
from effvit.spec import Precision

KERNELS = "ExecuTorch"


class ProgramSession:
    """A program's method for one batch; every launch is finished when it returns."""

    def __init__(self, method: Any, artifact: Artifact) -> None:
        import torch

        self._from_numpy = torch.from_numpy
        self._method, self._artifact = method, artifact
        self._images: Any = None

    def bind(self, images: Images) -> None:
        # The method reads the images where they are, as often as it is launched.
        self._images = self._from_numpy(images)
        self._method.set_inputs((self._images,))

    def launch(self) -> None:
        self._method.execute()

    def synchronize(self) -> None:
        return

    def logits(self) -> Logits:
        (logits,) = self._method.get_outputs()
        return np.asarray(logits.numpy(), dtype=np.float32)

    def settings(self) -> RuntimeSettings:
        """Read the pool's threads, and from the program what XNNPACK runs of it and in which type."""
        from effvit.export.program_census import program_census

        census = program_census(Path(self._artifact.path))
        taken, left = (sum(one.count for one in counts) for counts in (census.delegated, census.left))
        leftovers = () if census.record is None else census.record.leftovers
        return RuntimeSettings(
            runtime=f"executorch {package_version('executorch')}",
            device="cpu",
            precision=census.computed_in(self._artifact.quantised),
            threads=_runtime()._threadpool_get_thread_count(),
            placement=(Placement(XNNPACK, taken), Placement(KERNELS, left)),
            undelegated=tuple((one.operator, one.in_attention) for one in leftovers if one.in_attention),
        )


def export(source: Source, path: Path) -> Path:
    """Write the program, for the batch of `source` alone."""
    from effvit.export.lowering import export_program  # brings PyTorch

    return export_program(source, path)


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the program with exactly `threads` threads; batches other than its own run in pieces.

    Raises:
        ExportError: ExecuTorch refuses the file.
    """
    runtime = _runtime()
    try:
        with silent_stderr():
            # A program that is loaded keeps the pool of threads that it found: one is not put in the place of its like.
            if runtime._threadpool_get_thread_count() != threads:
                runtime._unsafe_reset_threadpool(threads)
            method = runtime._load_program(artifact.path).load_method(FORWARD)
    except RuntimeError as error:
        raise ExportError(
            "open", f"ExecuTorch cannot load {artifact.path}: {error}", "export the artifact again"
        ) from error

    def loaded_for(images: Images) -> Session:
        session = ProgramSession(method, artifact)
        session.bind(images)
        return session

    return FixedBatchSession(loaded_for, artifact.batch)


@cache
def _runtime() -> ModuleType:
    """Return ExecuTorch's runtime, which brings PyTorch: its bindings are made of PyTorch's tensors."""
    with warnings.catch_warnings(), silent_stderr():
        warnings.simplefilter("ignore")  # that it may change without notice
        from executorch.extension.pybindings import portable_lib
    runtime: ModuleType = portable_lib
    return runtime


def unavailable() -> str | None:
    """Return why ExecuTorch cannot be used here, or None."""
    try:
        runtime = _runtime()
    except ImportError as error:
        return f"executorch cannot be imported ({error})"
    return None if runtime._is_available(XNNPACK) else f"this build of executorch lacks {XNNPACK}"


BACKEND = Backend(
    name="executorch",
    summary="ExecuTorch on the CPU: programs of one batch, run by XNNPACK",
    format="executorch",
    suffix=SUFFIX,
    precisions=frozenset({Precision.FP32, Precision.INT8}),
    install="pip install 'effvit[executorch]'",
    unavailable=unavailable,
    version=lambda: package_version("executorch"),
    export=export,
    open=open_session,
    fixed_batch=True,
    slow_to_make=True,
    tools=("executorch", "torchao"),
)
