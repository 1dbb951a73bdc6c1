"""The code for TensorRT against its real bindings of both major versions, which PyPI has; no GPU, and no TensorRT.

`make types-tensorrt` runs these alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bindings_of_tensorrt import VERSIONS, Bindings, make_bindings
from tensorrt_fakes import BASES, CHOICES, SEVERITIES, SURFACE

ROOT = Path(__file__).parents[2]
TESTS = ("test_tensorrt_session.py", "test_tensorrt_build.py", "test_tensorrt_refit.py", "test_tensorrt_artifacts.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("cc") and shutil.which("nm")), reason="there is no C compiler"),
]


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    try:
        return make_bindings(request.param, tmp_path_factory.mktemp("bindings"))
    except subprocess.CalledProcessError as error:
        if "No matching distribution" in error.stderr:
            pytest.skip(f"PyPI has no bindings of TensorRT {request.param} for this machine")
        raise


def run(bindings: Bindings, *command: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=bindings.environment | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_types_are_strictly_right(bindings: Bindings, tmp_path: Path) -> None:
    run(bindings, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), MYPYPATH=str(bindings.stubs))


def test_types_that_are_wrong_are_found(bindings: Bindings, tmp_path: Path) -> None:
    """Without stubs everything of TensorRT would be Any, and every line right."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import tensorrt as trt\n\ntrt.Runtime(trt.Logger()).deserialize_cuda_engine(b'').num_layers\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=normal", str(wrong)]
    environment = bindings.environment | {"MYPYPATH": str(bindings.stubs)}
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'Item "None" of "ICudaEngine | None" has no attribute "num_layers"' in ended.stdout


def test_every_name_that_is_used_is_there(bindings: Bindings) -> None:
    """The fakes of the default tier have these names and no others."""
    names = [f"{kind}.{name}" for kind, members in (SURFACE | CHOICES).items() for name in members]
    names += [f"{kind}.{method}" for kind, method in BASES.items()]
    names += [f"ILogger.Severity.{name}" for name in SEVERITIES]
    code = "import sys, operator, tensorrt; [operator.attrgetter(name)(tensorrt) for name in sys.argv[1:]]"
    run(bindings, "-c", code, *names)


def test_sessions_and_builds_pass_with_autospecs_of_the_real_classes(bindings: Bindings) -> None:
    files = [str(Path("tests/export") / name) for name in TESTS]
    report = run(bindings, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert " passed" in report
    code = "import sys; sys.path.insert(0, 'tests'); from tensorrt_fakes import REAL; print(REAL.__version__)"
    assert run(bindings, "-c", code).strip() == bindings.version
