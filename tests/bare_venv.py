"""A virtual environment with what the agent needs on a device, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from effvit.errors import UnavailableError


def make_bare_venv(folder: Path, program: str = sys.executable) -> Path:
    """Return the Python of a new virtual environment with numpy and ONNX Runtime, made by the Python `program`.

    Raises:
        UnavailableError: That makes none, or nothing can be downloaded.
    """
    python = folder / "bin/python"
    # The one that pip runs in may be another than the one that it installs for.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in ([program, "-m", "venv", "--without-pip", str(folder)], [*pip, "numpy", "onnxruntime"]):
        try:
            ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        except OSError as error:
            raise UnavailableError(f"{program} cannot be run: {error}") from error
        if ended.returncode:
            raise UnavailableError(f"{program} makes no environment: {ended.stderr.strip()[-300:]}")
    return python
