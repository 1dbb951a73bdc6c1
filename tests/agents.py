"""Kits and the agent's file for tests, and a Python in which nothing but numpy and a runtime can be imported."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sweep_program import QUICK
from untrained_runs import make_run

from effvit.profiling.agent.archive import build
from effvit.profiling.agent.kit import Kit
from effvit.profiling.agent.packing import Packing, write_kit
from effvit.profiling.devices import Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Plan
from effvit.spec import Precision

BRIEF = replace(QUICK, rounds=2, samples=2)
ABSENT = (
    "PIL", "altair", "msgspec._core", "onnx", "pandas", "rich", "safetensors", "scipy", "sklearn", "timm", "torch",
    "torchvision", "typer",
)  # fmt: skip
_BLOCK = """\
import importlib.abc
import sys


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if {{name, name.partition(".")[0]}} & set({absent!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Absent())
"""


@dataclass(frozen=True, slots=True)
class Workplace:
    """A folder with `agent.pyz` and `kit/`, of one run in two batches."""

    folder: Path
    kit: Kit
    runs: Path

    @property
    def agent(self) -> Path:
        return self.folder / "agent.pyz"


def make_workplace(folder: Path) -> Workplace:
    """Return a folder that could be copied to a device."""
    run, device = make_run(folder / "runs", "softmax"), Device(threads=1)
    plan = Plan((run,), ((32, 32),), (1, 2), (Precision.FP32,), ("ort-cpu",), (device,))
    with PixelStore() as pixels:
        kit = write_kit(Packing(plan, BRIEF, pixels, lambda _: None), folder / "kit")
    build(folder / "agent.pyz")
    return Workplace(folder, kit, folder / "runs")


def bare_environment(folder: Path, absent: Sequence[str] = ABSENT) -> dict[str, str]:
    """Return an environment in which Python and all that it starts cannot import what is `absent`, nor a checkout."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_BLOCK.format(absent=tuple(absent)))
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}


def run_agent(
    agent: Path, environment: dict[str, str], *arguments: object, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run a command of the agent away from everything else."""
    command = [python, str(agent), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")


def bare_python(folder: Path) -> Path:
    """Return a program in `folder` that is such a Python, with one thread."""
    path = folder / "python"
    variables = {"PYTHONPATH": bare_environment(folder / "bare")["PYTHONPATH"], "OMP_NUM_THREADS": "1"}
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    path.write_text(f'#!/bin/sh\nexport {settings}\nexec {shlex.quote(sys.executable)} "$@"\n')
    path.chmod(0o755)
    return path


def stand_in(folder: Path, python: Path | None, before: str = "true") -> tuple[str, ...]:
    """Return what is called like ssh and runs the command here, in a home below `folder`, as a server would."""
    home, programs = folder / "home", folder / "programs"
    for made in (home, programs):
        made.mkdir(exist_ok=True)
    if python is not None and not (programs / "python3").exists():
        (programs / "python3").symlink_to(python)
    script = folder / "ssh"
    # Its last argument is the command, which a server gives to the user's shell.
    script.write_text(
        f"#!/bin/bash\ncd {shlex.quote(str(home))}\nexport HOME=$PWD PATH={shlex.quote(str(programs))}\n"
        f'{before}\nexec /bin/sh -c "${{@: -1}}"\n'
    )
    script.chmod(0o755)
    return (str(script),)
