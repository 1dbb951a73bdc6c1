import sys

import numpy as np
import pytest

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
    forget_peak()
    later = resident_memory().peak_bytes
    assert later is not None
    assert later < peak - 0.5 * size
