"""What is known of a machine before a model is measured on it: its rates, and the memory that runtimes alone take.

Needs no torch: an agent surveys the device it runs on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from effvit.environment import Environment, capture_environment, usable_cores
from effvit.errors import CheckFailedError, UsageError
from effvit.profiling.calibration import calibrated
from effvit.profiling.isolate import CellFailure, IsolatedWorker
from effvit.profiling.records import Calibration

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class BareRuntime:
    """What a process takes in memory that has imported the runtime of a backend and opened nothing; None: not known."""

    backend: str
    resident_bytes: int | None


@dataclass(frozen=True, slots=True)
class Survey:
    """A machine, its rates with as many threads as `calibration` says, and its runtimes with nothing opened."""

    environment: Environment
    calibration: Calibration
    runtimes: tuple[BareRuntime, ...]

    def bare_bytes(self, backend: str) -> int | None:
        """Return what a process takes that has imported the runtime of `backend`, or None where that is not known."""
        return next((one.resident_bytes for one in self.runtimes if one.backend == backend), None)


def survey(
    threads: int | None,
    backends: Sequence[str],
    stage: Callable[[str], None],
    *,
    calibrate: Callable[[int, Callable[[str], None]], Calibration | None] = calibrated,
    start: Callable[[float], IsolatedWorker] = IsolatedWorker,
) -> Survey:
    """Return what this machine can do with `threads` threads (None: one for each usable core).

    Raises:
        UsageError: There are fewer cores.
        CheckFailedError: Its rates could not be measured.
    """
    cores = usable_cores()
    count = threads or cores
    if count > cores:
        raise UsageError(f"{count} threads are more than the {cores} cores of here", "choose fewer threads")
    calibration = calibrate(count, stage)
    if calibration is None:
        raise CheckFailedError("the rates of this machine could not be measured", "see whether it has memory left")
    return Survey(capture_environment(), calibration, tuple(_bare(name, start) for name in backends))


def _bare(backend: str, start: Callable[[float], IsolatedWorker]) -> BareRuntime:
    with start(_TIMEOUT_S) as worker:
        try:
            worker.prepare(backend)
            worker.ready()
        except CellFailure:
            return BareRuntime(backend, None)
        return BareRuntime(backend, worker.resident().now_bytes)
