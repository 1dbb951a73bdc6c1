"""Two sessions in turns, of which one takes a known multiple of the other's time."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from effvit.export.base import Images, Logits
from effvit.export.settings import RuntimeSettings
from effvit.profiling.disturbance import Tolerance
from effvit.profiling.plan import Effort
from effvit.profiling.ratio import latency_ratio


class Sleeping:
    """A session that sleeps as long as it is told, and returns no numbers."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.launches = seconds, 0

    def bind(self, images: Images) -> None:
        return

    def launch(self) -> None:
        self.launches += 1
        time.sleep(self.seconds)

    def synchronize(self) -> None:
        return

    def logits(self) -> Logits:
        return np.full((1, 2), np.nan, dtype=np.float32)

    def settings(self) -> RuntimeSettings:
        return RuntimeSettings("sleep", "cpu", None, None)


# Whatever else this machine does, every round counts; or none does.
CALM, NERVOUS = Tolerance(math.inf, math.inf, 0.0, 0.0), Tolerance(others=-1.0)
EFFORT = Effort(
    threads=1, rounds=2, samples=4, least_s=0.1, most_s=0.5, warmup_s=0.0, max_noise=math.inf, tolerance=CALM
)


def test_the_ratio_is_of_the_second_over_the_first() -> None:
    slow, fast = Sleeping(0.006), Sleeping(0.002)
    ratio = latency_ratio(fast, slow, EFFORT)
    # Sleeping takes a fraction of a millisecond more than it is asked to, on a busy machine several times that.
    assert 1.5 < ratio.estimate.value < 3.5
    assert ratio.estimate.low is not None
    assert ratio.estimate.high is not None
    assert ratio.estimate.low <= ratio.estimate.value <= ratio.estimate.high
    assert ratio.unstable == ""
    assert slow.launches >= 2 * (2 + 2 + 2)  # a round: warm-up, two launches at least, a block of two


def test_without_a_quiet_round_there_is_a_ratio_and_a_reason() -> None:
    ratio = latency_ratio(Sleeping(0.001), Sleeping(0.001), replace(EFFORT, tolerance=NERVOUS))
    assert 0.2 < ratio.estimate.value < 5
    assert "rounds were disturbed" in ratio.unstable
