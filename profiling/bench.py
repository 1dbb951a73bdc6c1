"""What every measurement of a sweep shares, and what it remembers between groups of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from effvit.accuracy import Accuracy
from effvit.counters import NO_INSTRUMENTS, Instruments
from effvit.memory import available_bytes
from effvit.profiling.isolate import IsolatedWorker
from effvit.profiling.pixels import Pixels, PixelStore
from effvit.profiling.plan import Effort, Group
from effvit.profiling.preparation import Preparation
from effvit.profiling.records import Calibration, Cell, Outcome
from effvit.run import Run
from effvit.spec import Precision

T = TypeVar("T")
AccuracyKey = tuple[str, str, str, Precision, tuple[str, ...], int, int]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement of a sweep shares.

    `accuracies` remembers what was measured before: accuracy does not depend on the batch. `stage` is told what takes
    a while; `start` starts a worker with a time limit in seconds. `calibration` is that of the threads in use, None if
    it failed; `instruments` are this machine's energy counters. With `allow_fallback` a runtime that does something
    else than it was asked for is measured all the same. `room` returns the bytes that new processes can take, None
    where nobody tells. With `fresh`, every turn has a process of its own: one process of an artifact is faster than
    another of the very same by most of a percent, for as long as they live, which rounds in one process do not show.
    """

    effort: Effort
    pixels: PixelStore
    preparation: Preparation
    accuracies: dict[AccuracyKey, Accuracy]
    stage: Callable[[str], None]
    start: Callable[[float], IsolatedWorker] = IsolatedWorker
    calibration: Calibration | None = None
    instruments: Instruments = NO_INSTRUMENTS
    allow_fallback: bool = False
    room: Callable[[], int | None] = available_bytes
    fresh: bool = False

    def at_once(self, contenders: Sequence[T]) -> list[Sequence[T]]:
        """Return who may have a worker at the same time: all, or one after the other where memory is spared."""
        return [[one] for one in contenders] if self.effort.frugal else [contenders]

    def images(self, group: Group, run: Run) -> Pixels:
        """Return the images that a run is measured and evaluated on.

        Raises:
            DataError: They are gone, or not the same any more.
            StorageError: The disk is full.
        """
        return self.pixels.get(run, group.workload.height, group.workload.width, self.effort.eval_images)


def known_accuracies(outcomes: Sequence[Outcome]) -> dict[AccuracyKey, Accuracy]:
    """Return the accuracies that earlier outcomes hold."""
    known = {}
    for outcome in outcomes:
        cell, evidence = outcome.cell, outcome.evidence
        if evidence is not None and evidence.accuracy is not None:
            known[accuracy_key(evidence.artifact.sha256, cell)] = evidence.accuracy
    return known


def accuracy_key(sha256: str, cell: Cell) -> AccuracyKey:
    """Return what the accuracy of an artifact with this hash depends on in a cell."""
    # A checkpoint is the artifact of every resolution and type PyTorch runs it in, so the hash alone does not do.
    work = cell.workload
    return sha256, cell.backend, cell.device.kind, cell.precision, cell.pins, work.height, work.width
