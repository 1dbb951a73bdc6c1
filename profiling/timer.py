"""The stopwatch: nothing but launches inside it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from effvit.export.base import Session
from effvit.profiling.board import BoardMeter
from effvit.profiling.disturbance import Conditions, Counters, conditions_between, read_counters
from effvit.profiling.gpu import GpuMeter

CLOCK = "host perf_counter around launch and synchronize"


@dataclass(frozen=True, slots=True)
class Round:
    """One worker's turn: single launches in seconds, then one back-to-back block of `block_launches`.

    `warmup` launches took `warmup_s` before. `conditions` tell what went on from the first timed launch to the end of
    the block.
    """

    warmup: int
    warmup_s: float
    seconds: tuple[float, ...]
    block_launches: int
    block_s: float
    conditions: Conditions


def time_round(
    session: Session,
    *,
    samples: int,
    least_s: float,
    most_s: float,
    warmup_s: float,
    counters: Callable[[], Counters] = read_counters,
    gpu: GpuMeter | None = None,
    board: BoardMeter | None = None,
) -> Round:
    """Warm up, time single launches, then time launches back to back with one wait at their end.

    Single launches go on until there are `samples` of them and they took `least_s` together, or until they took
    `most_s`, but for at least one. Warming up before every round brings caches, threads and clocks back to where a
    steady load has them: other workers ran in between. `board` and `gpu` are read before the warm-up and after
    everything else, because sensors and drivers take a while to answer.
    """
    with undisturbed():
        if board is not None:
            board.start()
        if gpu is not None:
            gpu.start()
        warmup, warmed_s = _warm_up(session, warmup_s)
        before = counters()
        seconds: list[float] = []
        total = 0.0
        while not seconds or (total < most_s and (len(seconds) < samples or total < least_s)):
            started = time.perf_counter()
            session.launch()
            session.synchronize()
            seconds.append(time.perf_counter() - started)
            total += seconds[-1]
        launches = max(2, len(seconds) // 2)
        started = time.perf_counter()
        for _ in range(launches):
            session.launch()
        session.synchronize()
        block_s = time.perf_counter() - started
        after = counters()
        conditions = conditions_between(before, after)
        if gpu is not None:
            conditions = replace(conditions, gpu=gpu.conditions())
        if board is not None:
            conditions = replace(conditions, board=board.conditions())
    # To the nanosecond, which is what the clock counts: the other digits would double the size of a result file.
    single = tuple(round(second, 9) for second in seconds)
    return Round(warmup, warmed_s, single, launches, block_s, conditions)


def _warm_up(session: Session, least_s: float) -> tuple[int, float]:
    """Launch for `least_s` seconds, but at least twice; return how often, and how long that took."""
    launches, took_s = 0, 0.0
    started = time.perf_counter()
    while launches < 2 or took_s < least_s:
        session.launch()
        session.synchronize()
        launches += 1
        took_s = time.perf_counter() - started
    return launches, took_s


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Python's garbage collector out of the measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
