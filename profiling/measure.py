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
from effvit.profiling.energy import MEASURED_S, NO_INSTRUMENTS, Instruments, measure_energy
from effvit.profiling.isolate import CellFailure, IsolatedWorker, Opened
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Group
from effvit.profiling.preparation import Preparation, Refusal
from effvit.profiling.records import (
    ArtifactFacts,
    Calibration,
    CallWork,
    Cell,
    DeviceTimes,
    Energy,
    Evidence,
    HostMemory,
    Outcome,
    Stage,
    Throughput,
)
from effvit.profiling.staging import CLOCK, QUEUE_DEPTH
from effvit.profiling.stopping import Standing, standing
from effvit.profiling.timer import Round
from effvit.run import Run
from effvit.spec import BASELINE, Precision

AccuracyKey = tuple[str, str, str, Precision, int, int]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement of a sweep shares.

    `accuracies` remembers what was measured before: accuracy does not depend on the batch. `stage` is told what takes
    a while; `start` starts a worker with a time limit in seconds. `calibration` is that of the threads in use, None if
    it failed; `instruments` are this machine's energy counters. With `allow_fallback` a runtime that does something
    else than it was asked for is measured all the same.
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


class Contender:
    """One run among those measured together: its worker, and what was measured so far or why it dropped out."""

    def __init__(self, run: Run, artifact: Artifact, worker: IsolatedWorker) -> None:
        self.run, self.artifact, self.worker = run, artifact, worker
        self.opened: Opened | None = None
        self.memory: HostMemory | None = None
        self.rounds: list[tuple[int, Round]] = []
        self.standing: Standing | None = None
        self.accuracy: Accuracy | None = None
        self.energy: Energy | None = None
        self.device_times: DeviceTimes | None = None
        self.refusal: Refusal | None = None

    @property
    def is_baseline(self) -> bool:
        return self.run.record.spec.attention == BASELINE

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


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found on one cell, and why it cannot be relied on; empty if it can."""

    evidence: Evidence
    unstable: str


def measure_group(bench: Bench, group: Group, artifacts: Sequence[tuple[Run, Artifact]]) -> list[Measured | Refusal]:
    """Measure one group of cells and return, in the order of `artifacts`, what was found or why nothing was.

    Raises:
        DataError: The images are gone, or not the same any more.
        StorageError: The disk is full.
    """
    measurement = _GroupMeasurement(bench, group)
    with ExitStack() as stack:
        contenders = [
            Contender(run, artifact, stack.enter_context(bench.start(bench.effort.timeout_s)))
            for run, artifact in artifacts
        ]
        measurement.carry_out(contenders)
    for contender in contenders:
        measurement.weigh(contender)
    comparison = uuid.uuid4().hex[:12]
    return [_result(contender, group, bench, comparison) for contender in contenders]


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
        for contender in contenders:
            self._time_stages(contender)
            self._meter(contender)

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
        threads = group.threads(effort.threads)
        contender.opened = opened = contender.worker.open(
            group.backend.name, contender.artifact, group.workload.batch, threads, pixels.path
        )
        departures = group.departures(opened.settings, opened.confinement, effort.threads)
        if departures and not self.bench.allow_fallback:
            raise FallbackError(departures, "ask for what the runtime can do, or take it as it is: --allow-fallback")
        contender.artifact = self.bench.preparation.verified(group, run, contender.artifact, contender.worker)

    def _time(self, contenders: Sequence[Contender]) -> None:
        least = self.bench.effort.rounds
        number = 0
        while turns := taking_part(contenders, least):
            self.bench.stage(f"round {number + 1}, at least {least}: {self.group}")
            for contender in self.order.sample(turns, len(turns)):
                contender.attempt("measure", partial(self._time_one, contender, number))
            number += 1

    def _time_one(self, contender: Contender, number: int) -> None:
        effort = self.bench.effort
        measured = contender.worker.round(
            samples=math.ceil(effort.samples / effort.rounds),
            least_s=effort.least_s / effort.rounds,
            most_s=effort.most_s / effort.rounds,
            warmup_s=effort.warmup_s,
        )
        contender.rounds.append((number, measured))
        contender.standing = standing(contender.rounds, effort)

    def _evaluate(self, contender: Contender) -> None:
        group, run = self.group, contender.run
        pixels = self.bench.pixels.get(run, group.workload.height, group.workload.width, self.bench.effort.eval_images)
        cell = group.cell(run)
        key = _accuracy_key(contender.artifact.sha256, cell)
        known = self.bench.accuracies.get(key)
        if known is None or known.images != len(pixels.labels):
            self.bench.stage(f"accuracy of {run.record.spec.attention}, {group}")
            counted = contender.worker.evaluate(pixels.path, pixels.labels, group.evaluation_batch)
            known = replace(counted, of_images=pixels.of_images)
            self.bench.accuracies[key] = known
        contender.accuracy = known

    def _time_stages(self, contender: Contender) -> None:
        """Time the parts of a call of a contender that was measured on a GPU; its times stand without them."""
        if contender.refusal is not None or self.group.on_processor:
            return
        self.bench.stage(f"transfers of {contender.run.record.spec.attention}, {self.group}")
        try:
            contender.device_times = contender.worker.stages()
        except CellFailure as failure:
            reason = f"the pass that was to time them failed: {failure.reason}"
            contender.device_times = DeviceTimes((), (), (), (), (), QUEUE_DEPTH, CLOCK, reason)

    def _meter(self, contender: Contender) -> None:
        """Read the energy counters over calls of a contender that was measured, in a pass that gives no times."""
        if contender.refusal is not None:
            return

        def calls() -> int:
            one = contender.worker.round(samples=1, least_s=MEASURED_S, most_s=MEASURED_S, warmup_s=0)
            return (one.warmup + len(one.seconds) + one.block_launches) * self.group.workload.batch

        if self.bench.instruments.counters:
            self.bench.stage(f"energy of {contender.run.record.spec.attention}, {self.group}")
        try:
            contender.energy = measure_energy(self.bench.instruments, calls)
        except CellFailure as failure:
            contender.energy = Energy((), 0, f"the pass with energy counters failed: {failure.reason}")

    def weigh(self, contender: Contender) -> None:
        """Read the memory of a contender that was measured, in a fresh process in which nothing is timed."""
        if contender.refusal is not None:
            return
        group, effort, run = self.group, self.bench.effort, contender.run
        self.bench.stage(f"memory of {run.record.spec.attention}, {group}")
        pixels = self.bench.pixels.get(run, group.workload.height, group.workload.width, effort.eval_images)
        with self.bench.start(effort.timeout_s) as worker:
            try:
                worker.hold(group.device)
                threads = group.threads(effort.threads)
                contender.memory = worker.memory(
                    group.backend.name, contender.artifact, group.workload.batch, threads, pixels.path
                )
            except CellFailure as failure:
                # The times stand all the same.
                reason = f"the process that was to read it failed: {failure.reason}"
                contender.memory = HostMemory(None, None, "", reason)


def taking_part(contenders: Sequence[Contender], least: int) -> list[Contender]:
    """Return who is measured in the next round: everyone that needs one, and the baseline with them.

    A ratio to the baseline is paired round by round. So the baseline goes on as long as anyone does, and whoever has
    fewer than `least` undisturbed rounds in common with it goes on, too, unless a limit of either forbids it. Two
    others are never divided by one another: once measured, they stop.
    """
    left = [one for one in contenders if one.refusal is None]
    baseline = next((one for one in left if one.is_baseline), None)
    waiting = [one for one in left if one.standing is None or not one.standing.done or _unpaired(one, baseline, least)]
    if not waiting or baseline is None or baseline in waiting or _spent(baseline):
        return waiting
    return [baseline, *waiting]


def _unpaired(one: Contender, baseline: Contender | None, least: int) -> bool:
    """Return whether more rounds would, and may, pair `one` with the baseline."""
    if baseline is None or one.standing is None or baseline.standing is None or _spent(one) or _spent(baseline):
        return False
    return len(one.standing.quiet & baseline.standing.quiet) < least


def _spent(one: Contender) -> bool:
    return one.standing is not None and bool(one.standing.limit)


def known_accuracies(outcomes: Sequence[Outcome]) -> dict[AccuracyKey, Accuracy]:
    """Return the accuracies that earlier outcomes hold."""
    known = {}
    for outcome in outcomes:
        cell, evidence = outcome.cell, outcome.evidence
        if evidence is not None and evidence.accuracy is not None:
            known[_accuracy_key(evidence.artifact.sha256, cell)] = evidence.accuracy
    return known


def _accuracy_key(sha256: str, cell: Cell) -> AccuracyKey:
    # A checkpoint is the artifact of every resolution and type PyTorch runs it in, so the hash alone does not do.
    work = cell.workload
    return sha256, cell.backend, cell.device.kind, cell.precision, work.height, work.width


def _result(contender: Contender, group: Group, bench: Bench, comparison: str) -> Measured | Refusal:
    if contender.refusal is not None:
        return contender.refusal
    # It was opened, had a round and was weighed, or it would have been refused.
    assert contender.opened is not None
    assert contender.memory is not None
    assert contender.standing is not None
    artifact, opened, state = contender.artifact, contender.opened, contender.standing
    evidence = Evidence(
        comparison=comparison,
        artifact=ArtifactFacts(Path(artifact.path).name, artifact.sha256, artifact.size_bytes, artifact.build_s),
        samples=state.samples,
        throughput=_throughput(contender.rounds, state.samples.left_out, group.workload.batch),
        memory=contender.memory,
        cost=artifact.cost,
        open_s=opened.open_s,
        first_s=opened.first_s,
        parity=artifact.parity,
        accuracy=contender.accuracy,
        turns=state.turns,
        work=_work(artifact, group),
        calibration=bench.calibration,
        energy=contender.energy,
        settings=opened.settings,
        confinement=opened.confinement,
        device_times=contender.device_times,
    )
    return Measured(evidence, state.unstable)


def _throughput(rounds: Sequence[tuple[int, Round]], left_out: tuple[int, ...], batch: int) -> Throughput:
    blocks = tuple((one.block_launches * batch, one.block_s) for _, one in rounds)
    return Throughput(blocks, tuple(place for place, (number, _) in enumerate(rounds) if number in left_out))


def _work(artifact: Artifact, group: Group) -> CallWork:
    images, cost = group.workload.batch, artifact.cost
    if cost.least_moved is None:
        return CallWork(images, None)
    return CallWork(images, (cost.parameters + images * cost.least_moved) * group.precision.size_bytes)
