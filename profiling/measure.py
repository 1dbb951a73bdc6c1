"""Measures cells beside each other: one worker each, in interleaved rounds, then accuracy through the same worker."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from effvit.accuracy import Accuracy
from effvit.errors import FallbackError, MismatchError
from effvit.export.base import Artifact
from effvit.profiling.isolate import CellFailure, IsolatedWorker, Opened
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Group
from effvit.profiling.preparation import Preparation, Refusal
from effvit.profiling.records import ArtifactFacts, Evidence, Outcome, Samples, Stage, Throughput
from effvit.profiling.timer import CLOCK, Round
from effvit.run import Run
from effvit.spec import Precision

AccuracyKey = tuple[str, str, Precision, int, int]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement of a sweep shares.

    `accuracies` remembers what was measured before: accuracy does not depend on the batch. `stage` is told what takes
    a while; `start` starts a worker with a time limit in seconds. With `allow_fallback` a runtime that does something
    else than it was asked for is measured all the same.
    """

    effort: Effort
    pixels: PixelStore
    preparation: Preparation
    accuracies: dict[AccuracyKey, Accuracy]
    stage: Callable[[str], None]
    start: Callable[[float], IsolatedWorker] = IsolatedWorker
    allow_fallback: bool = False


class Contender:
    """One run among those measured together: its worker, and what was measured so far or why it dropped out."""

    def __init__(self, run: Run, artifact: Artifact, worker: IsolatedWorker) -> None:
        self.run, self.artifact, self.worker = run, artifact, worker
        self.opened: Opened | None = None
        self.rounds: list[Round] = []
        self.accuracy: Accuracy | None = None
        self.refusal: Refusal | None = None

    def attempt(self, stage: Stage, work: Callable[[], None]) -> None:
        """Do `work` unless this contender dropped out; a failing worker makes it drop out, and the others go on."""
        if self.refusal is not None:
            return
        try:
            work()
        except CellFailure as failure:
            self.refusal = Refusal(failure.status, stage, failure.reason)
        except MismatchError as error:
            self.refusal = Refusal("failed", "verify", error.message)
        except FallbackError as error:
            self.refusal = Refusal("fallback", "open", error.message)


def measure_group(bench: Bench, group: Group, artifacts: Sequence[tuple[Run, Artifact]]) -> list[Evidence | Refusal]:
    """Measure one group of cells and return, in the order of `artifacts`, what was found or why nothing was.

    Raises:
        DataError: The images are gone, or not the same any more.
        StorageError: The disk is full.
    """
    with ExitStack() as stack:
        contenders = [
            Contender(run, artifact, stack.enter_context(bench.start(bench.effort.timeout_s)))
            for run, artifact in artifacts
        ]
        _GroupMeasurement(bench, group).carry_out(contenders)
    comparison = uuid.uuid4().hex[:12]
    return [_result(contender, group, bench.effort, comparison) for contender in contenders]


@dataclass(frozen=True, slots=True)
class _GroupMeasurement:
    bench: Bench
    group: Group
    order: random.Random = field(default_factory=random.Random)

    def carry_out(self, contenders: Sequence[Contender]) -> None:
        self._open(contenders)
        self._time(contenders)
        for contender in contenders:
            contender.attempt("accuracy", partial(self._evaluate, contender))

    def _open(self, contenders: Sequence[Contender]) -> None:
        self.bench.stage(f"opening {self.group}")
        for contender in contenders:
            contender.attempt("open", partial(contender.worker.prepare, self.group.backend.name, self.group.device))
        for contender in contenders:
            contender.attempt("open", contender.worker.ready)
        # One after the other, with every runtime imported and idle: loading and the first launch are timed.
        for contender in contenders:
            contender.attempt("open", partial(self._open_one, contender))

    def _open_one(self, contender: Contender) -> None:
        group, effort, run = self.group, self.bench.effort, contender.run
        pixels = self.bench.pixels.get(run, group.workload.height, group.workload.width, effort.eval_images)
        threads = group.device.threads or effort.threads
        contender.opened = opened = contender.worker.open(
            group.backend.name, contender.artifact, group.workload.batch, threads, pixels.path
        )
        departures = group.departures(opened.settings, opened.confinement, effort.threads)
        if departures and not self.bench.allow_fallback:
            raise FallbackError(departures, "ask for what the runtime can do, or take it as it is: --allow-fallback")
        contender.artifact = self.bench.preparation.verified(group, run, contender.artifact, contender.worker)

    def _time(self, contenders: Sequence[Contender]) -> None:
        rounds = self.bench.effort.rounds
        for index in range(rounds):
            self.bench.stage(f"round {index + 1} of {rounds}: {self.group}")
            for contender in self.order.sample(list(contenders), len(contenders)):
                contender.attempt("measure", partial(self._time_one, contender))

    def _time_one(self, contender: Contender) -> None:
        effort = self.bench.effort
        contender.rounds.append(
            contender.worker.round(
                samples=math.ceil(effort.samples / effort.rounds),
                least_s=effort.least_s / effort.rounds,
                most_s=effort.most_s / effort.rounds,
                warmup_s=effort.warmup_s,
            )
        )

    def _evaluate(self, contender: Contender) -> None:
        group, run = self.group, contender.run
        pixels = self.bench.pixels.get(run, group.workload.height, group.workload.width, self.bench.effort.eval_images)
        cell = group.cell(run)
        # A checkpoint is the artifact of every resolution and type PyTorch runs it in, so the hash alone does not do.
        workload = cell.workload
        key = (contender.artifact.sha256, cell.backend, cell.precision, workload.height, workload.width)
        known = self.bench.accuracies.get(key)
        if known is None or known.images != len(pixels.labels):
            self.bench.stage(f"accuracy of {run.record.spec.attention}, {group}")
            counted = contender.worker.evaluate(pixels.path, pixels.labels, group.evaluation_batch)
            known = replace(counted, of_images=pixels.of_images)
            self.bench.accuracies[key] = known
        contender.accuracy = known


def known_accuracies(outcomes: Sequence[Outcome]) -> dict[AccuracyKey, Accuracy]:
    """Return the accuracies that earlier outcomes hold."""
    known = {}
    for outcome in outcomes:
        cell, evidence = outcome.cell, outcome.evidence
        if evidence is not None and evidence.accuracy is not None:
            size = (cell.workload.height, cell.workload.width)
            known[(evidence.artifact.sha256, cell.backend, cell.precision, *size)] = evidence.accuracy
    return known


def _result(contender: Contender, group: Group, effort: Effort, comparison: str) -> Evidence | Refusal:
    if contender.refusal is not None:
        return contender.refusal
    assert contender.opened is not None  # or it would have been refused
    artifact, rounds, opened = contender.artifact, contender.rounds, contender.opened
    return Evidence(
        comparison=comparison,
        artifact=ArtifactFacts(Path(artifact.path).name, artifact.sha256, artifact.size_bytes, artifact.build_s),
        samples=_samples(rounds, effort),
        throughput=Throughput(tuple((one.block_launches * group.workload.batch, one.block_s) for one in rounds)),
        memory=opened.memory,
        cost=artifact.cost,
        open_s=opened.open_s,
        first_s=opened.first_s,
        parity=artifact.parity,
        accuracy=contender.accuracy,
        settings=opened.settings,
        confinement=opened.confinement,
    )


def _samples(rounds: Sequence[Round], effort: Effort) -> Samples:
    seconds = tuple(second for one in rounds for second in one.seconds)
    enough = len(seconds) >= effort.samples and sum(seconds) >= effort.least_s
    return Samples(
        seconds=seconds,
        rounds=tuple(index for index, one in enumerate(rounds) for _ in one.seconds),
        warmup=sum(one.warmup for one in rounds),
        clock=CLOCK,
        stopped=f"{effort.samples} launches and {effort.least_s:g} s" if enough else f"limit of {effort.most_s:g} s",
    )
