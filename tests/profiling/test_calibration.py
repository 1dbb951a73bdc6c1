"""The machine's own rates: measured once, kept, and measured again where what was kept is of no use."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from outcomes import CALIBRATION

from effvit import memory
from effvit.profiling import calibration
from effvit.profiling.calibration import calibrated
from effvit.profiling.records import Calibration

Program = tuple[str, ...]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def turns(tmp_path: Path) -> Callable[[], int]:
    """Return how often the fake program was run."""
    return lambda: (tmp_path / "turns").read_text().count("run")


def measuring(folder: Path, found: Calibration = CALIBRATION) -> Program:
    """Return a program that finds these rates, and remembers that it ran."""
    text = msgspec.json.encode(found).decode()
    code = f"import sys; open({str(folder / 'turns')!r}, 'a').write('run '); print({text!r})"
    return (sys.executable, "-c", code)


def quiet(text: str) -> None: ...


def test_a_machine_is_measured_once(tmp_path: Path, turns: Callable[[], int]) -> None:
    stages: list[str] = []
    first = calibrated(4, stages.append, measuring(tmp_path))
    again = calibrated(4, stages.append, measuring(tmp_path))
    assert first == again == CALIBRATION
    assert turns() == 1
    assert stages == ["calibrating this machine"]


def test_another_number_of_threads_is_another_measurement(tmp_path: Path, turns: Callable[[], int]) -> None:
    calibrated(1, quiet, measuring(tmp_path))
    calibrated(2, quiet, measuring(tmp_path))
    assert turns() == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"macs_per_s": 1}', b"\xff\xfe", b"rates of 0"])
def test_a_damaged_file_is_measured_again(tmp_path: Path, cache: Path, content: bytes) -> None:
    calibrated(4, quiet, measuring(tmp_path))
    (kept,) = cache.rglob("*.json")
    sound = kept.read_bytes()
    kept.write_bytes(sound.replace(b"200000000000.0", b"0.0") if content == b"rates of 0" else content)
    assert kept.read_bytes() != sound
    assert calibrated(4, quiet, measuring(tmp_path)) == CALIBRATION
    assert kept.read_bytes() == sound


def test_a_calibration_beside_other_processes_is_used_and_not_kept(tmp_path: Path, turns: Callable[[], int]) -> None:
    disturbed = Calibration(2e11, 2e10, threads=4, core_share=0.7, copied_bytes=2**28, library="numpy")
    assert calibrated(4, quiet, measuring(tmp_path, disturbed)) == disturbed
    assert calibrated(4, quiet, measuring(tmp_path)) == CALIBRATION
    assert turns() == 2


@pytest.mark.parametrize("code", ["raise MemoryError", "print('no numbers')", "print('{\"macs_per_s\": NaN}')"])
def test_a_failed_measurement_is_no_calibration(cache: Path, code: str) -> None:
    assert calibrated(4, quiet, (sys.executable, "-c", code)) is None
    assert not list(cache.rglob("*.json"))


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file, not a folder")
    assert calibrated(4, quiet, measuring(tmp_path)) == CALIBRATION


def test_the_measured_rates_are_those_of_a_plain_loop() -> None:
    side, size = 256, 2**24
    found = calibration.measure(1, size, sides=(64, side), enough_s=0.2)
    left = np.random.default_rng(1).random((side, side), dtype=np.float32)
    source, target = np.ones(size, dtype=np.uint8), np.ones(size, dtype=np.uint8)
    product_s, copy_s = [], []
    for _ in range(20):
        started = time.perf_counter()
        left @ left
        product_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        target[:] = source
        copy_s.append(time.perf_counter() - started)
    # A factor of 4 is far more than a busy machine changes a best of 20, and far less than a wrong unit would.
    assert 1 / 4 < found.macs_per_s / (side**3 / min(product_s)) < 4
    assert 1 / 4 < found.bytes_per_s / (2 * size / min(copy_s)) < 4
    assert found.core_share > 0


def test_the_program_measures_with_the_threads_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAS reads its number of threads from the environment, once."""
    code = "import os, sys; assert os.environ['OPENBLAS_NUM_THREADS'] == os.environ['OMP_NUM_THREADS'] == sys.argv[1]"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    text = msgspec.json.encode(CALIBRATION).decode()
    assert calibrated(3, quiet, (sys.executable, "-c", f"{code}; print({text!r})")) == CALIBRATION


def test_more_is_copied_than_the_caches_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, size in enumerate(("48K", "2048K", "105M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    monkeypatch.setattr(calibration, "CACHES", tmp_path)
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    meminfo.write_text("MemTotal:  67108864 kB\nMemAvailable:  33554432 kB\n")  # 32 GiB
    assert calibration.copied_bytes() == 2 * 105 * 2**20
    meminfo.write_text("MemTotal:  67108864 kB\nMemAvailable:  262144 kB\n")  # 256 MiB
    assert calibration.copied_bytes() == 2**28 // 8
    meminfo.unlink()
    assert calibration.copied_bytes() == 2 * 105 * 2**20
