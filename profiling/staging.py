"""What a pass on a GPU consists of, told by events: a pass of its own, in which transfers are timed, too."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from effvit.export.base import StagedSession
from effvit.profiling.records import DeviceTimes
from effvit.profiling.timer import undisturbed

PASSES = 100
MOST_S = 2.0
WARMUP_S = 0.1
"""Of the same length as that of a round, unless someone asks for another."""
# One pass in flight: its parts follow one another, and add up to what its caller waits for.
QUEUE_DEPTH = 1
CLOCK = "CUDA events; enqueue and end to end by host perf_counter"


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass: its times by the host's clock in seconds, and the events between its parts, all of them past."""

    enqueue_s: float
    end_to_end_s: float
    marks: tuple[Any, Any, Any, Any]


def time_stages(
    session: StagedSession, *, passes: int = PASSES, most_s: float = MOST_S, warmup_s: float = WARMUP_S
) -> DeviceTimes:
    """Time `passes` passes with their transfers, or as many as start within `most_s`, each finished before the next."""
    with undisturbed():
        started = time.perf_counter()
        # The first one makes the buffer that logits are copied to.
        _pass(session)
        while time.perf_counter() - started < warmup_s:
            _pass(session)
        done: list[_Pass] = []
        started = time.perf_counter()
        while not done or (len(done) < passes and time.perf_counter() - started < most_s):
            done.append(_pass(session))
    uploads, computations, downloads = (
        tuple(_rounded(session.seconds_between(*one.marks[part : part + 2])) for one in done) for part in range(3)
    )
    return DeviceTimes(
        enqueue_s=tuple(_rounded(one.enqueue_s) for one in done),
        host_to_device_s=uploads,
        compute_s=computations,
        device_to_host_s=downloads,
        end_to_end_s=tuple(_rounded(one.end_to_end_s) for one in done),
        queue_depth=QUEUE_DEPTH,
        clock=CLOCK,
    )


def _pass(session: StagedSession) -> _Pass:
    started = time.perf_counter()
    begin = session.mark()
    session.upload()
    uploaded = session.mark()
    launched = time.perf_counter()
    session.launch()
    enqueue_s = time.perf_counter() - launched
    computed = session.mark()
    session.download()
    end = session.mark()
    session.synchronize()
    return _Pass(enqueue_s, time.perf_counter() - started, (begin, uploaded, computed, end))


def _rounded(seconds: float) -> float:
    """Return seconds to the nanosecond: an event's clock counts half microseconds."""
    return round(seconds, 9)
