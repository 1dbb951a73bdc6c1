"""Engines are of use to the TensorRT, the GPU and the driver that they were built with. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence

from effvit.errors import ExportError
from effvit.export.base import Artifact


def check_engine(artifact: Artifact, tensorrt: str | None, gpus: Sequence[str]) -> None:
    """Check that an engine was built with this version of TensorRT and on these GPUs, before it is loaded.

    Raises:
        ExportError: It was not.
    """
    built = dict(artifact.built_with).get("tensorrt")
    if None not in (built, tensorrt) and built != tensorrt:
        raise ExportError(
            "open", f"{artifact.path} was built with TensorRT {built}, and here is {tensorrt}", "export it again here"
        )
    if artifact.gpus and tuple(artifact.gpus) != tuple(gpus):
        here = ", ".join(gpus) or "no GPU"
        raise ExportError(
            "open",
            f"{artifact.path} was built on {', '.join(artifact.gpus)}, and here is {here}",
            "export it again here",
        )
