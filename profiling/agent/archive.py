"""The agent as one file: a zip archive of the modules that measure, which Python 3.10 and later run as it is."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import tempfile
import zipapp
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from effvit import __version__
from effvit.storage import replacing

# Whatever these import at their top goes into the archive; what they import inside functions is for other machines.
ROOTS = (
    "effvit.profiling.agent.entry",
    "effvit.profiling.agent.measuring",
    "effvit.profiling.worker",
    "effvit.profiling.calibration",
    "effvit.profiling.survey",
    "effvit.export.backends.ort_cpu",
    "effvit.export.backends.openvino",
)
STAND_IN = "effvit.profiling.agent.msgspec_stand_in"
_MAIN = """\
import sys

if sys.version_info < (3, 10):
    sys.exit("error: the agent needs Python 3.10 or later, and this is %d.%d" % sys.version_info[:2])

from effvit.profiling.agent.entry import main

if __name__ == "__main__":
    sys.exit(main({code!r}))
"""
# The zip format has no earlier time; with one and the same, the same code is the same file.
_ZIP_EPOCH_S = 315532800 + 86400


@cache
def modules() -> tuple[str, ...]:
    """Return the names of the modules that measuring needs."""
    found: set[str] = set()
    waiting = [*ROOTS]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(_source(name).read_text(encoding="utf-8"))
    return tuple(sorted(found))


@cache
def code_digest() -> str:
    """Return a hash of the code that measures, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in (*modules(), STAND_IN):
        digest.update(f"{name}\0".encode() + _source(name).read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def build(out: Path) -> Path:
    """Write the agent to the file `out`, whole or not at all, and return it; the same code gives the same file.

    Raises:
        StorageError: It cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="effvit-") as temporary:
        folder = Path(temporary) / "agent"
        for name in modules():
            source = _source(name)
            inner = Path(*name.split("."))
            path = folder / (inner / "__init__.py" if source.name == "__init__.py" else inner.with_suffix(".py"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
        (folder / "msgspec.py").write_bytes(_source(STAND_IN).read_bytes())
        metadata = folder / f"effvit-{__version__}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: effvit\nVersion: {__version__}\n", "utf-8")
        (folder / "__main__.py").write_text(_MAIN.format(code=code_digest()), "utf-8")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (_ZIP_EPOCH_S, _ZIP_EPOCH_S))
        with replacing(out) as target:
            zipapp.create_archive(folder, target, interpreter="/usr/bin/env python3", compressed=True)
    return out


def _imported(code: str) -> Iterator[str]:
    """Yield the modules of ours that a module imports at its top, and the packages around them."""
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "effvit":
                whole = [".".join(parts[: count + 1]) for count in range(len(parts))]
                yield from (one for one in whole if _origin(one) is not None)


def _source(name: str) -> Path:
    origin = _origin(name)
    assert origin is not None
    return origin


@cache
def _origin(name: str) -> Path | None:
    """Return the file of a module; None for a folder without code, or a name inside of a module."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
