"""The machine and the software that produced a number. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGES = (
    "effvit",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "numpy",
)


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the software that produced an outcome; `cores` are those this process may use."""

    cpu: str
    cores: int
    ram_bytes: int | None
    gpus: tuple[str, ...]
    os: str
    python: str
    packages: tuple[tuple[str, str], ...]
    threads: int

    @property
    def key(self) -> str:
        """Equal for equal environments, 8 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


def capture_environment(threads: int | None = None) -> Environment:
    """Return the facts of this machine; `threads` is what runtimes are told to use (default: every usable core)."""
    return Environment(
        cpu=_cpu_model(),
        cores=usable_cores(),
        ram_bytes=_ram_bytes(),
        gpus=nvidia_gpus(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=tuple((name, version) for name in PACKAGES if (version := package_version(name)) is not None),
        threads=threads or usable_cores(),
    )


def usable_cores() -> int:
    """Return how many cores this process may run on, which a container or affinity can make fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    import importlib.metadata  # with the e-mail parser that it needs, it would double the time of `effvit --help`

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def nvidia_gpus() -> tuple[str, ...]:
    """Return name and driver of every NVIDIA GPU, in the order of their numbers; nothing without a driver."""
    # The driver's own tool, so that naming GPUs needs no torch and makes no CUDA context.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):  # not executable; a driver that hangs
        return ()
    return tuple(line.strip() for line in listing.stdout.splitlines() if line.strip()) if not listing.returncode else ()
