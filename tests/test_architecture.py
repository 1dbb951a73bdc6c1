"""Rules of the source that no type checker knows."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"effvit": "effvit", "export": "effvit.export", "profiling": "effvit.profiling", "cli": "effvit.cli"}
# What each folder may import of the others: cli -> profiling -> export -> effvit core.
ALLOWED = {
    "effvit": set(),
    "export": {"effvit"},
    "profiling": {"effvit", "export"},
    "cli": {"effvit", "export", "profiling"},
}
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.is_symlink() for part in path.parents)
)


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported_folder(module: str) -> str | None:
    for folder in ("export", "profiling", "cli"):
        if module == FOLDERS[folder] or module.startswith(FOLDERS[folder] + "."):
            return folder
    return "effvit" if module == "effvit" or module.startswith("effvit.") else None


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path) -> list[tuple[str, int]]:
    """Return (module, relative level) of every import, at the top and inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
        elif isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
    return found


def test_there_are_sources_to_check() -> None:
    assert {folder_of(path) for path in SOURCES} == set(FOLDERS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path) -> None:
    for module, level in imports(path):
        assert level == 0, f"{module}: a relative import gives a module a second identity"
        folder = imported_folder(module)
        allowed = ALLOWED[folder_of(path)] | {folder_of(path)}
        assert folder is None or folder in allowed, f"{path} must not import {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_only_the_worker_catches_everything() -> None:
    broad = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = [node.type] if not isinstance(node.type, ast.Tuple) else node.type.elts
                if any(name is None or getattr(name, "id", "") in ("Exception", "BaseException") for name in names):
                    broad.append(str(path.relative_to(ROOT)))
    assert broad == ["profiling/worker.py"]


@pytest.mark.parametrize("folder", ["export", "profiling", "cli"])
def test_the_outer_folders_are_no_packages_of_their_own(folder: str) -> None:
    """With an __init__.py a root `profiling/` would hide the standard library's module of that name (Python 3.15)."""
    assert not list((ROOT / folder).rglob("__init__.py"))
    assert (ROOT / "effvit" / folder).is_symlink()


def test_every_package_is_listed_for_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = set()
    for path in SOURCES:
        folder, *rest = path.relative_to(ROOT).parent.parts
        on_disk.add(".".join([FOLDERS[folder], *rest]))
    assert sorted(listed) == sorted(on_disk)


@pytest.mark.parametrize(
    "module",
    [
        "effvit",
        "effvit.cli.main",
        "effvit.data.base",
        "effvit.export.base",
        "effvit.profiling.records",
        "effvit.profiling.agent.measuring",
        "effvit.profiling.sweep",
        "effvit.profiling.worker",
        "effvit.export.backends.openvino",
        "effvit.export.backends.ort_cpu",
        "effvit.export.backends.tensorrt",
        "effvit.export.device",
        "effvit.export.tensorrt_engine",
        "effvit.export.tensorrt_session",
    ],
)
def test_imports_no_torch(module: str) -> None:
    """The command line answers at once, and a measuring worker stays as small as its runtime."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
