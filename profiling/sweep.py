"""A sweep: cells are expanded, their artifacts made and verified, then measured beside each other."""

from __future__ import annotations

import itertools
import math
import random
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from effvit.accuracy import Accuracy
from effvit.backbone import check_resolution
from effvit.environment import Environment, capture_environment
from effvit.errors import ExportError, MismatchError, UnsupportedError, UsageError
from effvit.export.base import Artifact, Backend, Source, backends, pick_backend
from effvit.export.cache import find, make, reference_logits, verify
from effvit.profiling.isolate import CellFailure, IsolatedWorker
from effvit.profiling.pixels import PixelStore
from effvit.profiling.records import (
    ArtifactFacts,
    Cell,
    Evidence,
    HostMemory,
    Outcome,
    Samples,
    Stage,
    Status,
    Throughput,
)
from effvit.profiling.results import append, read_finished
from effvit.profiling.timer import CLOCK, Round
from effvit.run import Run
from effvit.spec import Precision, Workload

EVALUATION_BATCH = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """The axes of a sweep; every combination is a cell. Resolutions are (height, width) px."""

    runs: tuple[Run, ...]
    resolutions: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    backends: tuple[str, ...]

    def check(self) -> None:
        """Check what can be known before anything is made.

        Raises:
            UsageError: A resolution that a run's patch size does not divide, a batch below 1, two runs alike.
            UnknownNameError: An unknown backend.
            BackendUnavailableError: A backend that is not on this machine.
        """
        for name in self.backends:
            pick_backend(name).require()
        specs = [run.record.spec for run in self.runs]
        for spec in specs:
            for resolution in self.resolutions:
                check_resolution(spec.backbone, resolution, spec.patch or 1)
        if len(set(specs)) < len(specs):
            raise UsageError("the same run is named twice", "name every run once")
        for batch in self.batches:
            Workload(batch, 1, 1)

    def groups(self) -> list[Group]:
        """Return what is measured together: cells alike in everything but the run."""
        axes = itertools.product(self.resolutions, self.precisions, self.backends, self.batches)
        return [
            Group(pick_backend(backend), precision, Workload(batch, *resolution))
            for resolution, precision, backend, batch in axes
        ]


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that differ in the run alone and are measured in the same interleaved rounds."""

    backend: Backend
    precision: Precision
    workload: Workload

    def cell(self, run: Run) -> Cell:
        return Cell(run.record.spec, self.backend.name, self.precision, self.workload)

    def source(self, run: Run) -> Source:
        return Source(run, self.workload.height, self.workload.width, self.precision)

    def __str__(self) -> str:
        return f"{self.workload.resolution} px, batch {self.workload.batch}, {self.precision}, {self.backend.name}"


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: over all rounds together `samples` launches and `least_s` seconds a cell, `most_s` at most.

    `timeout_s` bounds a cell's process; `threads` is what runtimes are told to use. Accuracy is measured on
    `eval_images` held-out images (0: all of them), artifacts are verified on `verify_images`.
    """

    threads: int
    rounds: int = 5
    samples: int = 30
    least_s: float = 1.0
    most_s: float = 20.0
    warmup_s: float = 0.1
    timeout_s: float = 600.0
    eval_images: int = 500
    verify_images: int = 64

    def __post_init__(self) -> None:
        for name in ("threads", "rounds", "samples", "verify_images"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}", "choose 1 or more")
        for name in ("least_s", "warmup_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}", "choose a number of seconds")
        for name in ("most_s", "timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}", "choose a number of seconds")


class Listener(Protocol):
    """Is told how a sweep goes."""

    def planned(self, cells: int) -> None:
        """There are `cells` cells, those already measured included."""

    def stage(self, text: str) -> None:
        """Something takes a while now."""

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        """A cell is finished, now or in an earlier run of the same sweep."""


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends that can run on this machine."""
    return tuple(name for name, backend in backends().items() if backend.unavailable() is None)


def run_sweep(plan: Plan, effort: Effort, results: Path, pixels: PixelStore, listener: Listener) -> list[Outcome]:
    """Measure every cell of `plan` that `results` does not hold yet, and return the outcomes of all of them.

    Outcomes are appended to `results` as groups of cells finish; a killed sweep started again goes on from there.

    Raises:
        UsageError, BackendUnavailableError: The plan cannot be carried out on this machine.
        DataError: The images are not those the runs were trained on.
        StorageError: The disk is full; what was finished is on disk.
    """
    plan.check()
    return _Sweep(plan, effort, results, pixels, listener).run()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a cell has no measurement."""

    status: Status
    stage: Stage
    reason: str


@dataclass(frozen=True, slots=True)
class _Opened:
    worker: IsolatedWorker
    artifact: Artifact
    open_s: float
    first_s: float
    memory: HostMemory


class _Sweep:
    def __init__(self, plan: Plan, effort: Effort, results: Path, pixels: PixelStore, listener: Listener) -> None:
        self.plan, self.effort, self.results, self.pixels, self.listener = plan, effort, results, pixels, listener
        self.environment: Environment = capture_environment(effort.threads)
        earlier = read_finished(results)
        self.done = {
            outcome.cell.key: outcome for outcome in earlier if outcome.environment.key == self.environment.key
        }
        self.accuracies = {
            _accuracy_key(outcome.cell, outcome.evidence.artifact.sha256): outcome.evidence.accuracy
            for outcome in self.done.values()
            if outcome.evidence is not None and outcome.evidence.accuracy is not None
        }
        self.artifacts: dict[tuple[str, str, Precision, int, int], Artifact | Refusal] = {}

    def run(self) -> list[Outcome]:
        groups = self.plan.groups()
        self.listener.planned(len(groups) * len(self.plan.runs))
        for group in groups:
            missing = []
            for run in self.plan.runs:
                known = self.done.get(group.cell(run).key)
                if known is None:
                    missing.append(run)
                else:
                    self.listener.outcome(known, measured_now=False)
            if missing:
                self._measure(group, missing)
        return [self.done[group.cell(run).key] for group in groups for run in self.plan.runs]

    def _measure(self, group: Group, runs: Sequence[Run]) -> None:
        ready: dict[str, Artifact] = {}
        for run in runs:
            artifact = self._artifact(group, run)
            if isinstance(artifact, Refusal):
                self.finish(group, run, artifact)
            else:
                ready[run.name] = artifact
        able = [run for run in runs if run.name in ready]
        if able:
            _GroupMeasurement(self, group, able, ready).measure()

    def _artifact(self, group: Group, run: Run) -> Artifact | Refusal:
        """Return the verified artifact for this group, made once for all batches; or why there is none."""
        key = self._artifact_key(group, run)
        if key not in self.artifacts:
            self.artifacts[key] = self._made(group, run)
        return self.artifacts[key]

    def _artifact_key(self, group: Group, run: Run) -> tuple[str, str, Precision, int, int]:
        return run.name, group.backend.format, group.precision, group.workload.height, group.workload.width

    def _made(self, group: Group, run: Run) -> Artifact | Refusal:
        source = group.source(run)
        try:
            group.backend.require(group.precision)
            known = find(source, group.backend)
            if known is None:
                self.listener.stage(f"exporting {run.record.spec.attention}, {group}")
                known = make(source, group.backend)
            return known
        except UnsupportedError as error:
            return Refusal("unsupported", "export", error.message)
        except ExportError as error:
            return Refusal("build_failed", "export", error.message)

    def verified(self, group: Group, run: Run, artifact: Artifact, worker: IsolatedWorker) -> Artifact:
        """Return the artifact with its parity, measured through `worker`, which has it open, unless it was before.

        Raises:
            MismatchError: It is not the model it was made from.
            CellFailure: The worker failed.
        """
        if artifact.parity is not None:
            return artifact
        source, workload = group.source(run), group.workload
        self.listener.stage(f"verifying {run.record.spec.attention}, {group}")
        some = self.pixels.get(run, workload.height, workload.width, self.effort.verify_images)
        out = some.path.with_suffix(".logits.npy")
        worker.predict(some.path, out, EVALUATION_BATCH)
        verified = verify(artifact, source, group.backend, reference_logits(source, np.load(some.path)), np.load(out))
        self.artifacts[self._artifact_key(group, run)] = verified
        return verified

    def finish(self, group: Group, run: Run, result: Evidence | Refusal) -> None:
        """Write the outcome of one cell."""
        refusal = result if isinstance(result, Refusal) else None
        outcome = Outcome(
            cell=group.cell(run),
            status=refusal.status if refusal else "ok",
            environment=self.environment,
            run=run.name,
            data=run.record.data.name,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            evidence=None if isinstance(result, Refusal) else result,
            stage=refusal.stage if refusal else None,
            reason=refusal.reason if refusal else "",
            notes=_notes(run, group.workload),
        )
        append(self.results, outcome)
        self.done[outcome.cell.key] = outcome
        self.listener.outcome(outcome, measured_now=True)


class _GroupMeasurement:
    """Opens one worker for every run, measures them in rounds of random order, then their accuracy."""

    def __init__(self, sweep: _Sweep, group: Group, runs: Sequence[Run], artifacts: dict[str, Artifact]) -> None:
        self.sweep, self.group, self.runs, self.artifacts = sweep, group, runs, artifacts
        self.effort = sweep.effort
        self.comparison = uuid.uuid4().hex[:12]
        self.opened: dict[str, _Opened] = {}
        self.rounds: dict[str, list[Round]] = {run.name: [] for run in runs}
        self.refusals: dict[str, Refusal] = {}

    def measure(self) -> None:
        with ExitStack() as stack:
            self._open(stack)
            self._time()
            results = {run.name: self._result(run) for run in self.runs}
        for run in self.runs:
            self.sweep.finish(self.group, run, results[run.name])

    def _open(self, stack: ExitStack) -> None:
        self.sweep.listener.stage(f"opening {self.group}")
        workers = {run.name: stack.enter_context(IsolatedWorker(self.effort.timeout_s)) for run in self.runs}
        for run in self.runs:
            self._attempt(run, "open", partial(workers[run.name].prepare, self.group.backend.name))
        for run in self._alive():
            self._attempt(run, "open", workers[run.name].ready)
        # One after the other, with every runtime imported and idle: loading and the first launch are timed.
        for run in self._alive():
            self._attempt(run, "open", partial(self._open_one, run, workers[run.name]))

    def _open_one(self, run: Run, worker: IsolatedWorker) -> None:
        artifact = self.artifacts[run.name]
        workload = self.group.workload
        pixels = self.sweep.pixels.get(run, workload.height, workload.width, self.effort.eval_images)
        opened = worker.open(self.group.backend.name, artifact, workload.batch, self.effort.threads, pixels.path)
        artifact = self.sweep.verified(self.group, run, artifact, worker)
        self.opened[run.name] = _Opened(worker, artifact, *opened)

    def _time(self) -> None:
        rounds = self.effort.rounds
        order = random.Random(self.comparison)
        for index in range(rounds):
            self.sweep.listener.stage(f"round {index + 1} of {rounds}: {self.group}")
            turn = self._alive()
            order.shuffle(turn)
            for run in turn:
                self._attempt(run, "measure", partial(self._time_one, run))

    def _time_one(self, run: Run) -> None:
        effort, rounds = self.effort, self.effort.rounds
        self.rounds[run.name].append(
            self.opened[run.name].worker.round(
                samples=math.ceil(effort.samples / rounds),
                least_s=effort.least_s / rounds,
                most_s=effort.most_s / rounds,
                warmup_s=effort.warmup_s,
            )
        )

    def _result(self, run: Run) -> Evidence | Refusal:
        accuracy: list[Accuracy] = []
        if run.name not in self.refusals:
            self._attempt(run, "accuracy", lambda: accuracy.append(self._accuracy(run)))
        if run.name in self.refusals:
            return self.refusals[run.name]
        opened, rounds = self.opened[run.name], self.rounds[run.name]
        artifact = opened.artifact
        return Evidence(
            comparison=self.comparison,
            artifact=ArtifactFacts(Path(artifact.path).name, artifact.sha256, artifact.size_bytes, artifact.build_s),
            samples=_samples(rounds, self.effort),
            throughput=Throughput(
                tuple((one.block_launches * self.group.workload.batch, one.block_s) for one in rounds)
            ),
            memory=opened.memory,
            cost=artifact.cost,
            open_s=opened.open_s,
            first_s=opened.first_s,
            parity=artifact.parity,
            accuracy=accuracy[0],
        )

    def _accuracy(self, run: Run) -> Accuracy:
        """Measure accuracy once for an artifact in a runtime; it does not depend on the batch."""
        opened, workload = self.opened[run.name], self.group.workload
        key = _accuracy_key(self.group.cell(run), opened.artifact.sha256)
        pixels = self.sweep.pixels.get(run, workload.height, workload.width, self.effort.eval_images)
        known = self.sweep.accuracies.get(key)
        if known is None or known.images != len(pixels.labels):
            self.sweep.listener.stage(f"accuracy of {run.record.spec.attention}, {self.group}")
            counted = opened.worker.evaluate(pixels.path, pixels.labels, EVALUATION_BATCH)
            known = replace(counted, of_images=pixels.of_images)
            self.sweep.accuracies[key] = known
        return known

    def _alive(self) -> list[Run]:
        return [run for run in self.runs if run.name not in self.refusals]

    def _attempt(self, run: Run, stage: Stage, call: Callable[[], None]) -> None:
        """Call, and turn a failing worker into this run's refusal; the others go on."""
        try:
            call()
        except CellFailure as failure:
            self.refusals[run.name] = Refusal(failure.status, stage, failure.reason)
        except MismatchError as error:
            self.refusals[run.name] = Refusal("failed", "verify", error.message)


def _samples(rounds: Sequence[Round], effort: Effort) -> Samples:
    seconds = tuple(second for one in rounds for second in one.seconds)
    reached = len(seconds) >= effort.samples and sum(seconds) >= effort.least_s
    return Samples(
        seconds=seconds,
        rounds=tuple(index for index, one in enumerate(rounds) for _ in one.seconds),
        warmup=sum(one.warmup for one in rounds),
        clock=CLOCK,
        stopped=f"{effort.samples} launches and {effort.least_s:g} s"
        if reached
        else f"time limit of {effort.most_s:g} s",
    )


def _accuracy_key(cell: Cell, sha256: str) -> tuple[str, str, Precision, int, int]:
    # A checkpoint is the artifact of every resolution and type PyTorch runs it in, so the hash alone does not do.
    return sha256, cell.backend, cell.precision, cell.workload.height, cell.workload.width


def _notes(run: Run, workload: Workload) -> tuple[str, ...]:
    trained = run.record.spec.trained
    notes = list(run.record.warnings)
    if trained != (workload.height, workload.width):
        size = Workload(1, *trained).resolution
        notes.append(f"trained at {size} px; the position embedding was resampled without further training")
    return tuple(notes)
