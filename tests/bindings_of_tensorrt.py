"""The real Python bindings of TensorRT, importable without TensorRT and without a GPU, and stubs of them for mypy.

Wheels of the bindings are on PyPI; the libraries they call are not. They are linked to libraries of the same names
whose functions return null: classes, enumerations and loggers are then the real ones, and nothing can be built or run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

# The last of each major version that we support.
VERSIONS = ("10.16.1.11", "11.4.0.106")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# Whatever else the bindings lack comes from the C and C++ libraries, or from Python.
FOREIGN = re.compile(r"\bU (\w*(?:Infer|NvOnnx|PluginRegistry)\w*)$", re.MULTILINE)
SEQUENCE = "collections.abc.Sequence[int]"


@dataclass(frozen=True, slots=True)
class Bindings:
    """Folders of one version: `modules` for PYTHONPATH, `libraries` for LD_LIBRARY_PATH, `stubs` for MYPYPATH."""

    version: str
    modules: Path
    libraries: Path
    stubs: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to import the bindings, as `tensorrt`, beside whatever this one imports."""
        path = os.pathsep.join([str(self.modules), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(self.libraries)}


def make_bindings(version: str, folder: Path) -> Bindings:
    """Download the bindings of one version into `folder`, and make what they need.

    Raises:
        CalledProcessError: There is no such wheel to be had, or no C compiler and linker tools.
    """
    made = Bindings(version, folder / "modules", folder / "libraries", folder / "stubs")
    for place in (made.modules / "tensorrt", made.libraries, made.stubs / "tensorrt"):
        place.mkdir(parents=True)
    package = f"tensorrt-cu13-bindings=={version}"
    download = ("-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, package)
    _run(sys.executable, *download)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(made.modules)
    # `tensorrt` itself is a package that passes everything on.
    passing_on = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__ as __version__\n"
    (made.modules / "tensorrt" / "__init__.py").write_text(passing_on)
    (made.stubs / "tensorrt" / "__init__.pyi").write_text(passing_on)
    _link(made)
    stubgen = ("-m", "pybind11_stubgen", "tensorrt_bindings", "--ignore-all-errors", "--output-dir", made.stubs)
    _run(sys.executable, *stubgen, environment=made.environment)
    stub = made.stubs / "tensorrt_bindings" / "tensorrt.pyi"
    stub.write_text(mended(stub.read_text()))
    return made


def _link(made: Bindings) -> None:
    """Make the libraries that the bindings are linked to; the first holds all functions."""
    symbols = _run("nm", "--dynamic", made.modules / "tensorrt_bindings" / "tensorrt.so")
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in sorted(set(FOREIGN.findall(symbols))))
    code = made.libraries / "functions.c"
    for library in LIBRARIES:
        code.write_text(source if library == LIBRARIES[0] else "")
        name = f"lib{library}.so.{made.version.partition('.')[0]}"
        _run("cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", made.libraries / name, code)


def mended(stub: str) -> str:
    """Return a stub that mypy takes, and that says what the generator cannot see."""
    # Parameters that are called as a keyword, or that follow one with a default value.
    stub = re.sub(r"\bin: ", "in_: ", stub)
    stub = re.sub(r"^( *def .*\b\w+: [^=(),]+ = None, \w+: [^=(),]+)\)", r"\1 = ...)", stub, flags=re.MULTILINE)
    # pybind11 makes shapes of sequences, and shapes can be iterated over.
    stub = re.sub(r"(?<=: )Dims(?=[,)])", f"Dims | {SEQUENCE}", stub)
    stub = stub.replace("class Dims:\n", "class Dims:\n    def __iter__(self) -> typing.Iterator[int]: ...\n")
    stub = re.sub(
        r"(class IHostMemory:\n)", r"\1    def __buffer__(self, flags: int, /) -> memoryview: ...\n", stub, count=1
    )
    # What fails returns None.
    failing = "build_serialized_network|create_execution_context|create_timing_cache|deserialize_cuda_engine"
    stub = re.sub(rf"(def (?:{failing})\(.*\) -> \w+):$", r"\1 | None:", stub, flags=re.MULTILINE)
    # The class is defined behind its use.
    return re.sub(r"(def get_error\(.*\) -> )\.\.\.:", r"\1ParserError:", stub)


def _run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
