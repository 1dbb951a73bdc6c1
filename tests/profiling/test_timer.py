"""The stopwatch around launches."""

from __future__ import annotations

import gc
import time

import numpy as np

from effvit.profiling.board import BoardConditions, BoardMeter
from effvit.profiling.disturbance import Counters
from effvit.profiling.timer import time_round

BOARD = BoardConditions(50.0, 60.0, (), None)


class Counting:
    """A session that counts, and takes `seconds` a launch."""

    def __init__(self, seconds: float = 0.0, first: float = 0.0) -> None:
        self.seconds, self.first = seconds, first
        self.launches = self.waits = self.collected_inside = 0

    def bind(self, images: object) -> None:
        raise AssertionError("a round binds nothing")

    def launch(self) -> None:
        self.launches += 1
        self.collected_inside += gc.isenabled()
        time.sleep(self.first if self.launches <= 2 else self.seconds)

    def synchronize(self) -> None:
        self.waits += 1

    def logits(self) -> np.ndarray:
        raise AssertionError("a round reads no logits")


def test_warmup_launches_are_not_timed() -> None:
    session = Counting(seconds=0.001, first=0.05)
    measured = time_round(session, samples=5, least_s=0, most_s=10, warmup_s=0)
    assert measured.warmup == 2
    assert max(measured.seconds) < 0.05


def test_every_launch_is_accounted_for() -> None:
    session = Counting()
    measured = time_round(session, samples=8, least_s=0, most_s=10, warmup_s=0)
    assert len(measured.seconds) == 8
    assert measured.block_launches == 4
    assert session.launches == measured.warmup + 8 + 4
    # One wait a single launch, and one for the whole block.
    assert session.waits == measured.warmup + 8 + 1


def test_measuring_goes_on_until_the_least_time_has_passed() -> None:
    measured = time_round(Counting(seconds=0.005), samples=2, least_s=0.1, most_s=10, warmup_s=0)
    assert sum(measured.seconds) >= 0.1
    assert len(measured.seconds) > 2


def test_a_slow_launch_is_timed_once_even_beyond_the_limit() -> None:
    measured = time_round(Counting(seconds=0.05), samples=50, least_s=0, most_s=0.01, warmup_s=0)
    assert len(measured.seconds) == 1


def test_garbage_is_not_collected_while_the_clock_runs_and_is_afterwards() -> None:
    session = Counting()
    time_round(session, samples=3, least_s=0, most_s=1, warmup_s=0)
    assert session.collected_inside == 0
    assert gc.isenabled()


def test_warming_up_lasts_as_long_as_asked() -> None:
    measured = time_round(Counting(seconds=0.002), samples=1, least_s=0, most_s=1, warmup_s=0.05)
    assert measured.warmup > 5


def test_conditions_are_those_of_the_timed_launches_and_the_block_alone() -> None:
    session = Counting(seconds=0.002)
    seen: list[int] = []

    def counters() -> Counters:
        seen.append(session.launches)
        return Counters(float(len(seen)), 0.0, 5 * len(seen), (0, 1), None, None, None)

    measured = time_round(session, samples=6, least_s=0, most_s=1, warmup_s=0.02, counters=counters)
    assert seen == [measured.warmup, measured.warmup + 6 + 3]
    assert (measured.conditions.wall_s, measured.conditions.involuntary_switches) == (1.0, 5)
    assert measured.warmup_s >= 0.02


class Sensors(BoardMeter):
    """A board that notes when it is read."""

    def __init__(self, session: Counting) -> None:
        self.session, self.seen = session, list[int]()

    def start(self) -> None:
        self.seen.append(self.session.launches)

    def conditions(self) -> BoardConditions:
        self.seen.append(self.session.launches)
        return BOARD


def test_sensors_are_read_before_the_warm_up_and_after_everything_else() -> None:
    session = Counting(seconds=0.002)
    sensors = Sensors(session)
    measured = time_round(session, samples=6, least_s=0, most_s=1, warmup_s=0, board=sensors)
    assert sensors.seen == [0, measured.warmup + 6 + 3]
    assert measured.conditions.board == BOARD
