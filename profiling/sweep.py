"""A sweep: cells are expanded, their artifacts made and verified, then measured beside each other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from effvit.counters import Instruments
from effvit.environment import Environment, capture_environment
from effvit.export.base import Artifact
from effvit.interruption import uninterrupted
from effvit.profiling.bench import Bench, known_accuracies
from effvit.profiling.calibration import calibrated
from effvit.profiling.energy import all_instruments
from effvit.profiling.isolate import IsolatedWorker
from effvit.profiling.measure import Measured, measure_group
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Group, Plan
from effvit.profiling.preparation import Preparation, Refusal
from effvit.profiling.records import FAILURES, Calibration, Outcome, Stage, Status
from effvit.profiling.results import append, read_finished
from effvit.profiling.training_cost import training_cost
from effvit.run import Run
from effvit.spec import Workload

Calibrate = Callable[[int, Callable[[str], None]], Calibration | None]
Prepare = Callable[[Effort, PixelStore, Callable[[str], None]], Preparation]


class Listener(Protocol):
    """Is told how a sweep goes."""

    def planned(self, cells: int) -> None:
        """There are `cells` cells, those already measured included."""

    def stage(self, text: str) -> None:
        """Something takes a while now."""

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        """A cell is finished, now or in an earlier run of the same sweep."""


def run_sweep(
    plan: Plan,
    effort: Effort,
    results: Path,
    pixels: PixelStore,
    listener: Listener,
    *,
    retry_failed: bool = False,
    allow_fallback: bool = False,
    start: Callable[[float], IsolatedWorker] = IsolatedWorker,
    calibrate: Calibrate = calibrated,
    counters: Callable[[], Instruments] = all_instruments,
    prepare: Prepare = Preparation,
    name: str = "",
) -> list[Outcome]:
    """Measure every cell of `plan` that `results` does not hold yet, and return the outcomes of all of them.

    Outcomes are appended to `results` as groups of cells finish; a killed sweep started again goes on from there.
    Outcomes of another environment count as not measured, and with `retry_failed` those of failed cells, too, and of
    unstable ones with all that were measured in the same rounds: their ratios need rounds in common. A runtime that
    does something else than it was asked for is measured only with `allow_fallback`. `prepare` makes what knows the
    artifacts; `name` is what the user calls this machine.

    Raises:
        UsageError, BackendUnavailableError: The plan cannot be carried out on this machine.
        DataError: The images are not those the runs were trained on.
        CheckpointError: A run's weights are damaged.
        StorageError: The disk is full; what was finished is on disk.
    """
    plan.check()
    here = capture_environment(effort.threads, name)
    earlier = kept_outcomes(results, [here], retry_failed=retry_failed, allow_fallback=allow_fallback)
    preparation = prepare(effort, pixels, listener.stage)
    return _Sweep(
        plan, effort, results, earlier, pixels, listener, start, allow_fallback, calibrate, counters, preparation, here
    ).run()


def kept_outcomes(
    results: Path, environments: Collection[Environment], *, retry_failed: bool, allow_fallback: bool
) -> list[Outcome]:
    """Return the outcomes in `results` that are not measured again, each with that of `environments` which it is of.

    Raises:
        ResultError: The file cannot be read.
    """
    earlier = [
        replace(outcome, environment=environment)
        for outcome in read_finished(results)
        for environment in environments
        if environment.includes(outcome.environment)
        and not (allow_fallback and outcome.status == "fallback" and outcome.evidence is None)
    ]
    return _reliable(earlier) if retry_failed else earlier


def _reliable(outcomes: list[Outcome]) -> list[Outcome]:
    """Return those that neither failed nor shared their rounds with an unstable one."""
    shaken = {one.evidence.comparison for one in outcomes if one.status == "unstable" and one.evidence is not None}
    return [
        one
        for one in outcomes
        if one.status not in FAILURES and (one.evidence is None or one.evidence.comparison not in shaken)
    ]


class _Sweep:
    def __init__(
        self,
        plan: Plan,
        effort: Effort,
        results: Path,
        earlier: list[Outcome],
        pixels: PixelStore,
        listener: Listener,
        start: Callable[[float], IsolatedWorker],
        allow_fallback: bool,
        calibrate: Calibrate,
        counters: Callable[[], Instruments],
        preparation: Preparation,
        environment: Environment,
    ) -> None:
        self.plan, self.results, self.listener, self.calibrate = plan, results, listener, calibrate
        self.counters = counters
        self.calibrations: dict[int, Calibration | None] = {}
        self.environment = environment
        self.done = {outcome.cell.key: outcome for outcome in earlier}
        self.preparation = preparation
        known = known_accuracies(earlier)
        self.bench = Bench(
            effort, pixels, self.preparation, known, listener.stage, start, allow_fallback=allow_fallback
        )

    def run(self) -> list[Outcome]:
        groups = [(group, self.plan.entrants(group)) for group in self.plan.groups()]
        self.listener.planned(sum(len(runs) for _, runs in groups))
        if any(group.cell(run).key not in self.done for group, runs in groups for run in runs):
            self.bench = replace(self.bench, instruments=self.counters())
        for group, runs in groups:
            missing = []
            for run in runs:
                known = self.done.get(group.cell(run).key)
                if known is None:
                    missing.append(run)
                else:
                    self.listener.outcome(known, measured_now=False)
            if missing:
                self._measure(group, missing)
        return [self.done[group.cell(run).key] for group, runs in groups for run in runs]

    def _measure(self, group: Group, runs: list[Run]) -> None:
        ready: list[tuple[Run, Artifact]] = []
        for run in runs:
            artifact = self.preparation.artifact(group, run)
            if isinstance(artifact, Refusal):
                with uninterrupted():
                    self._finish(group, run, artifact)
            else:
                ready.append((run, artifact))
        if ready:
            # It is the processor's, and says nothing about a GPU.
            threads = group.threads(self.environment.threads)
            calibration = self._calibration(threads) if group.on_processor else None
            # A process that takes half a minute to open is not started anew for every round.
            bench = replace(self.bench, calibration=calibration, fresh=not group.backend.slow_to_open)
            results = measure_group(bench, group, ready)
            # All of them or none: their ratios need rounds in common.
            with uninterrupted():
                for (run, _), result in zip(ready, results, strict=True):
                    self._finish(group, run, result)

    def _calibration(self, threads: int) -> Calibration | None:
        if threads not in self.calibrations:
            self.calibrations[threads] = self.calibrate(threads, self.listener.stage)
        return self.calibrations[threads]

    def _finish(self, group: Group, run: Run, result: Measured | Refusal) -> None:
        """Write the outcome of one cell."""
        status, stage, reason = self._fate(group, result)
        outcome = Outcome(
            cell=group.cell(run),
            status=status,
            environment=self.environment,
            run=run.name,
            data=run.record.data.name,
            finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            evidence=result.evidence if isinstance(result, Measured) else None,
            stage=stage,
            reason=reason,
            notes=_notes(run, group.workload, result, self.environment),
            training=training_cost(run),
        )
        append(self.results, outcome)
        self.done[outcome.cell.key] = outcome
        self.listener.outcome(outcome, measured_now=True)

    def _fate(self, group: Group, result: Measured | Refusal) -> tuple[Status, Stage | None, str]:
        if isinstance(result, Refusal):
            return result.status, result.stage, result.reason
        evidence = result.evidence
        if evidence.settings is not None and evidence.confinement is not None:
            departures = group.departures(evidence.settings, evidence.confinement, self.bench.effort.threads)
            if departures:
                return "fallback", None, departures
        return ("unstable", "measure", result.unstable) if result.unstable else ("ok", None, "")


def _notes(run: Run, workload: Workload, result: Measured | Refusal, machine: Environment) -> tuple[str, ...]:
    trained = run.record.spec.trained
    notes = list(run.record.warnings)
    if run.pins:
        notes.append(f"kept in fp32: {', '.join(run.pins)}")
    if trained != (workload.height, workload.width):
        size = Workload(1, *trained).resolution
        notes.append(f"trained at {size} px; the position embedding was resampled without further training")
    if isinstance(result, Measured) and result.evidence.settings is not None:
        notes += result.evidence.settings.remarks()
    if machine.emulated:
        notes.append("emulated: times and memory are those of the emulator, and rank nothing")
    return tuple(notes)
