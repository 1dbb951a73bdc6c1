"""The wheel, built and installed away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy of what git tracks, as a clean clone would have it."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        source, target = ROOT / name, checkout / name
        if not source.exists() and not source.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            target.write_bytes(source.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        ".",
    ]
    subprocess.run([*command, "--disable-pip-version-check"], cwd=checkout, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, *arguments: str) -> str:
    """Run Python where the installed files come before the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=installed.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_wheel_holds_every_module(wheel: Path) -> None:
    expected = {"effvit/py.typed"}
    for folder, package in (
        ("effvit", "effvit"),
        ("export", "effvit/export"),
        ("profiling", "effvit/profiling"),
        ("cli", "effvit/cli"),
    ):
        for pattern in ("*.py", "*.j2", "*.css", "*.js"):
            for path in (ROOT / folder).rglob(pattern):
                if not any(part.is_symlink() for part in path.parents):
                    expected.add(f"{package}/{path.relative_to(ROOT / folder)}")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_installed_command_finds_every_variant(installed: Path) -> None:
    assert Path(run(installed, "-c", "import effvit; print(effvit.__file__)").strip()).is_relative_to(installed)
    listing = run(installed, "-m", "effvit.cli.main", "list", "attention")
    variants = {path.stem for path in (ROOT / "effvit" / "attention").glob("*.py")} - {"__init__", "base"}
    assert variants <= {line.split()[0] for line in listing.splitlines() if line.strip()}
