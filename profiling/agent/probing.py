"""What another machine has, and what it lacks for an agent: asked of whatever Python is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effvit.errors import UnavailableError
from effvit.export.base import pick_backend
from effvit.profiling.agent.measuring import INSTALL
from effvit.profiling.agent.packing import BACKENDS

PYTHON = "python3"
LEAST_PYTHON = (3, 10)
# Distributions that give a runtime its name for `import`.
_DISTRIBUTIONS = {"ort-cpu": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
PROBED = ["numpy", *(name for names in _DISTRIBUTIONS.values() for name in names)]
"""Packages that are asked about."""
# Runs on whatever Python there is.
PROBE = """\
import hashlib, importlib.util, json, os, sys, sysconfig
try:
    from importlib.metadata import version
except ImportError:
    version = None
def installed(name):
    try:
        return version(name)
    except Exception:
        return None
def intact(path, digest):
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                found.update(part)
    except OSError:
        return False
    return found.hexdigest() == digest
asked = json.load(sys.stdin)
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "packages": {name: installed(name) for name in asked["packages"]},
    "missing": [n for n, digest in asked["files"].items() if not intact(os.path.join(asked["root"], n), digest)],
    "pip": importlib.util.find_spec("pip") is not None,
    "managed": os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")),
}))
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a machine has: its Python, versions of packages (None: not installed), which files it lacks.

    A `managed` Python belongs to the system, and pip installs nothing into it without being told to.
    """

    python: tuple[int, ...]
    packages: dict[str, str | None]
    missing: frozenset[str]
    pip: bool = True
    managed: bool = False


def require_version(host: str, probe: Probe) -> None:
    """Check that the host has a Python that the agent runs on.

    Raises:
        UnavailableError: It is too old.
    """
    if probe.python < LEAST_PYTHON:
        version = ".".join(map(str, probe.python))
        raise UnavailableError(f"{host} has Python {version}; the agent needs 3.10", "install a later Python there")


def require_python(host: str, probe: Probe) -> None:
    """Check that the host has what the agent itself needs.

    Raises:
        UnavailableError: Its Python is too old, or has no numpy.
    """
    require_version(host, probe)
    if probe.packages["numpy"] is None:
        raise UnavailableError(f"{host} has no numpy", _installing(f"{PYTHON} -m pip install numpy", probe))


def backends_there(host: str, asked: Sequence[str], probe: Probe) -> tuple[str, ...]:
    """Return the backends to measure: those that were asked for, or all that both machines have.

    Raises:
        UnavailableError: The host lacks one, or has none.
    """
    there = [name for name, names in _DISTRIBUTIONS.items() if any(probe.packages[one] is not None for one in names)]
    for name in asked:
        if name in BACKENDS and name not in there:
            raise UnavailableError(f"{host} has no runtime for {name}", _installing(INSTALL[name], probe))
    both = tuple(name for name in there if pick_backend(name).unavailable() is None)
    if not asked and not both:
        raise UnavailableError(f"{host} has no runtime that is here, too", _installing(INSTALL["ort-cpu"], probe))
    return tuple(asked) or both


def _installing(command: str, probe: Probe) -> str:
    """Return the hint to give a command of pip's on a machine, as its Python wants it."""
    if probe.managed:  # https://peps.python.org/pep-0668: that of Raspberry Pi OS refuses without this
        command = command.replace("pip install", "pip install --user --break-system-packages")
    return f"there: {command}" if probe.pip else f"there: sudo apt install python3-pip && {command}"
