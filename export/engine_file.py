"""Engines are of use to the TensorRT, the GPU and the driver that they were built with. Standard library only.

Beside an engine lie what TensorRT said while it built it, and what its inspector tells of its layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from effvit.errors import ExportError
from effvit.export.base import Artifact

AGAIN = "export it again here"
# "Skipping tactic 0x3e9 due to insufficient memory on requested size of 8388608", "Tactic ... is skipped".
_SKIPPED = re.compile(r"skipp\w* tactic|tactic\b.*\bskipp", re.IGNORECASE)


def check_engine(artifact: Artifact, tensorrt: str | None, gpus: Sequence[str]) -> None:
    """Check that an engine was built with this version of TensorRT and on these GPUs, before it is loaded.

    Raises:
        ExportError: It was not.
    """
    built = dict(artifact.built_with).get("tensorrt")
    if built is not None and tensorrt is not None and not _fits(artifact, built, tensorrt):
        raise ExportError("open", f"{artifact.path} was built with TensorRT {built}, and here is {tensorrt}", AGAIN)
    if artifact.gpus and tuple(artifact.gpus) != tuple(gpus):
        here = ", ".join(gpus) or "no GPU"
        raise ExportError("open", f"{artifact.path} was built on {', '.join(artifact.gpus)}, and here is {here}", AGAIN)


def build_log(engine: Path) -> Path:
    """Return where what TensorRT said while it built `engine` is kept."""
    return engine.with_name(f"{engine.stem}-build.log")


def layers_file(engine: Path) -> Path:
    """Return where what the inspector tells of `engine`, as JSON, is kept."""
    return engine.with_name(f"{engine.stem}-layers.json")


def skipped_tactics(log: str) -> int:
    """Return how many lines of a build log say that a kernel was not tried, as for want of memory."""
    return sum(_SKIPPED.search(line) is not None for line in log.splitlines())


def _fits(artifact: Artifact, built: str, here: str) -> bool:
    """Return whether an engine of one version loads in another: later ones load those that are made for that."""
    if artifact.engine is not None and artifact.engine.version_compatible:
        return _numbers(here) >= _numbers(built)
    return here == built


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
