"""Temporary folders of processes that are killed, for real."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from effvit.profiling.pixels import PixelStore
from effvit.profiling.scratch import LOCK, PREFIX

PROGRAM = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from effvit.profiling.scratch import ScratchFolder
folder = ScratchFolder()
(folder.path / "0.npy").write_bytes(bytes(100))
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process that has a folder of its own, whose path is its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(temporary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def folder_of(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert (folder / "0.npy").is_file()
    return folder


def test_what_a_killed_sweep_left_is_removed_by_the_next(other: subprocess.Popen[str], temporary: Path) -> None:
    folder = folder_of(other)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert folder.is_dir()
    with PixelStore():
        assert not folder.exists()
        assert len(list(temporary.iterdir())) == 1  # the next one's own
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_sweep_that_goes_on_is_left_alone(other: subprocess.Popen[str]) -> None:
    folder = folder_of(other)
    with PixelStore(), PixelStore():
        assert (folder / "0.npy").is_file()


def test_what_is_not_a_sweep_s_is_left_alone(temporary: Path) -> None:
    """Another program's folder with a like name, one that is being made, and a way out of the temporary folder."""
    (temporary / "precious").mkdir()
    (temporary / "precious" / LOCK).touch()
    (temporary / f"{PREFIX}link").symlink_to(temporary / "precious")
    (temporary / f"{PREFIX}new").mkdir()
    (temporary / "effvit-other").mkdir()
    (temporary / "effvit-other" / LOCK).touch()
    before = sorted(temporary.rglob("*"))
    with PixelStore():
        pass
    assert sorted(temporary.rglob("*")) == before
