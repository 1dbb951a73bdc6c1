import sys
from pathlib import Path

import numpy as np
import pytest

from effvit import memory
from effvit.memory import forget_peak, resident_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_forgotten_peak_is_that_of_what_came_before() -> None:
    size = 256 * 2**20
    before = resident_memory().now_bytes
    assert before is not None
    block = np.ones(size, dtype=np.uint8)
    peak = resident_memory().peak_bytes
    assert peak is not None
    assert peak >= before + 0.9 * size
    del block
    assert forget_peak()
    later = resident_memory().peak_bytes
    assert later is not None
    assert later < peak - 0.5 * size


def test_a_kernel_that_does_not_forget_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert not forget_peak()


def test_the_readings_are_those_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t   9000 kB\nVmHWM:\t 300 kB\nVmRSS:\t 200 kB\n")
    monkeypatch.setattr(memory, "STATUS", status)
    found = resident_memory()
    assert (found.now_bytes, found.peak_bytes, found.virtual_peak_bytes) == (204_800, 307_200, 9_216_000)
