"""PyTorch itself, eager, on the CPU: the reference that exported artifacts are held against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effvit.environment import package_version
from effvit.export.base import Artifact, Backend, Images, Logits, Session, Source
from effvit.spec import Precision

if TYPE_CHECKING:
    from torch import nn


class TorchSession:
    """A model in eager mode; every launch is finished when it returns."""

    def __init__(self, model: nn.Module) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._images = torch.empty(0)
        self._logits = torch.empty(0)

    def bind(self, images: Images) -> None:
        self._images = self._torch.from_numpy(images)

    def launch(self) -> None:
        with self._torch.inference_mode():
            self._logits = self._model(self._images)

    def synchronize(self) -> None:
        return

    def logits(self) -> Logits:
        return np.asarray(self._logits.numpy(), dtype=np.float32)


def export(source: Source, path: Path) -> Path:
    """Return the run's own checkpoint: PyTorch needs no other file."""
    return source.run.weights


def open_session(artifact: Artifact, threads: int) -> Session:
    """Rebuild the model around its checkpoint, at the artifact's resolution.

    Raises:
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    import torch

    from effvit.backbone import set_resolution
    from effvit.checkpoint import load_weights, read_weights
    from effvit.export.typed import TypedModel
    from effvit.surgery import model_from_spec

    torch.set_num_threads(threads)
    model = model_from_spec(artifact.model)
    load_weights(model, read_weights(Path(artifact.path)), artifact.path)
    set_resolution(model, artifact.height, artifact.width)
    return TorchSession(TypedModel(model, artifact.precision))


def unavailable() -> str | None:
    """Return None: PyTorch is a dependency. Imports what a session needs, so that memory is read after it."""
    import torch  # noqa: F401

    import effvit.surgery  # noqa: F401

    return None


BACKEND = Backend(
    name="torch",
    summary="PyTorch eager on the CPU",
    format="checkpoint",
    suffix=".safetensors",
    precisions=frozenset({Precision.FP32, Precision.FP16, Precision.BF16}),
    install="pip install torch",
    unavailable=unavailable,
    version=lambda: package_version("torch"),
    export=export,
    open=open_session,
)
