"""Which cells keep limits of latency and memory on a machine, predicted before anything is made for it or copied there.

Where a result file has a cell, what was measured decides, and the prediction that stands beside it rests on the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from effvit.demand import Demand, demand_of
from effvit.environment import Environment
from effvit.profiling.candidates import Candidate, Check, nearest_miss
from effvit.profiling.devices import Device
from effvit.profiling.kinship import Kin, Known, Prior, around, conditioned
from effvit.profiling.prediction import (
    LATENCY_PRIORS,
    MEMORY_PRIORS,
    expected_latency_s,
    expected_model_bytes,
    predictable,
)
from effvit.profiling.recommend import LATENCY, MEMORY, Constraints
from effvit.profiling.records import Calibration, Cell, Evidence, Outcome
from effvit.profiling.sittings import reading_of
from effvit.profiling.stats import Estimate
from effvit.profiling.survey import Survey
from effvit.spec import ModelSpec, Precision, Swap, Workload

Answer = Literal["yes", "no", "uncertain"]


@dataclass(frozen=True, slots=True)
class Axes:
    """What is asked about: every model at every size (`demands`), in every batch, type and runtime."""

    demands: tuple[Demand, ...]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    backends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A device by the name it was asked for, and the survey of its machine."""

    name: str
    device: Device
    survey: Survey

    @property
    def machine(self) -> str:
        """What cells that were measured here have in common."""
        return _machine(self.survey.environment, self.survey.calibration.threads)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its 95 % interval, as predicted and, where there is a measurement, as measured."""

    predicted: Estimate
    measured: Estimate | None = None

    @property
    def best(self) -> Estimate:
        """What is known best: the measurement, if there is one."""
        return self.measured or self.predicted

    @property
    def error(self) -> float | None:
        """By which share of what was measured the prediction is too high; below 0 where it is too low."""
        return None if self.measured is None else self.predicted.value / self.measured.value - 1

    @property
    def covered(self) -> bool:
        """Whether what was measured lies in the predicted interval."""
        low, high = self.predicted.low, self.predicted.high
        return self.measured is not None and (low or 0.0) <= self.measured.value <= (high or math.inf)


@dataclass(frozen=True, slots=True)
class FitCell:
    """A cell, what is known of it, and whether it keeps the limits.

    There is no memory where that of its runtime is unknown. A `crowded` cell ran out of memory when it was measured.
    """

    place: str
    cell: Cell
    latency_s: Quantity
    memory_bytes: Quantity | None
    checks: tuple[Check, ...]
    crowded: bool = False

    @property
    def measured(self) -> bool:
        """Whether it is no prediction any more."""
        return self.crowded or self.latency_s.measured is not None

    @property
    def met(self) -> bool:
        """Whether the best estimates keep all limits."""
        return not self.crowded and all(check.met for check in self.checks)

    @property
    def fits(self) -> Answer:
        """Whether it keeps all limits: `uncertain` where an interval reaches beyond one of them."""
        states = {check.state for check in self.checks}
        if self.crowded or "not" in states:
            return "no"
        return "yes" if states <= {"satisfied"} else "uncertain"


@dataclass(frozen=True, slots=True)
class Errors:
    """How far predictions were off, over the measured cells; `within` counts those in their 95 % interval."""

    quantity: str
    cells: int
    median: float
    largest: float
    within: int


@dataclass(frozen=True, slots=True)
class PlaceFit:
    """Every cell on one device, the one that exceeds the limits least, and how far predictions were off."""

    place: Place
    cells: tuple[FitCell, ...]
    nearest: Candidate | None
    errors: tuple[Errors, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What makes two cells the same, whatever their weights are, and how much memory there is."""

    kin: Kin
    backbone: str
    patch: int | None
    swaps: tuple[Swap, ...]
    workload: Workload


@dataclass(frozen=True, slots=True)
class Seen:
    """A measured cell of any machine and model; `memory` is of what the model added to its runtime."""

    question: Question
    latency: Known
    memory: Known | None
    latency_s: Estimate
    peak_bytes: Estimate | None


@dataclass(frozen=True, slots=True)
class Crowded:
    """A cell that ran out of memory, of which it had `memory_bytes` (None: all that there was)."""

    question: Question
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class History:
    """What result files tell that is of use for predictions."""

    seen: tuple[Seen, ...] = ()
    crowded: tuple[Crowded, ...] = ()


NOTHING = History()


def history_of(outcomes: Sequence[Outcome], demand_of: Callable[[ModelSpec, int, int], Demand] = demand_of) -> History:
    """Return what those of the outcomes tell that are reliable, and of processors whose rates were measured.

    An emulator tells nothing of a machine.
    """
    seen: list[Seen] = []
    crowded: list[Crowded] = []
    for outcome in (one for one in outcomes if not one.environment.emulated):
        evidence, cell = outcome.evidence, outcome.cell
        if outcome.status == "oom":
            crowded.append(Crowded(_question(outcome), cell.device.memory_bytes))
        elif outcome.status == "ok" and evidence is not None and evidence.calibration is not None and predictable(cell):
            demand = demand_of(cell.model, cell.workload.height, cell.workload.width)
            seen.append(_seen(_question(outcome), evidence, evidence.calibration, demand))
    return History(tuple(seen), tuple(crowded))


def fit_place(axes: Axes, place: Place, limits: Constraints, history: History = NOTHING) -> PlaceFit:
    """Return what is known of every cell on a device."""
    cells = fit(axes, place, limits, history)
    return PlaceFit(place, tuple(cells), nearest(cells), tuple(errors_of(cells)))


def fit(axes: Axes, place: Place, limits: Constraints, history: History = NOTHING) -> list[FitCell]:
    """Return every cell on a device, size by size, with whether it keeps the limits."""
    asked = itertools.product(axes.backends, axes.precisions, axes.batches)
    found = []
    for backend, precision, batch in asked:
        for demand in sorted(axes.demands, key=lambda demand: (demand.height, demand.width)):
            work = Workload(batch, demand.height, demand.width)
            cell = Cell(demand.model, backend, precision, work, place.device)
            found.append(fit_cell(cell, demand, place, limits, history))
    return found


def nearest(cells: Sequence[FitCell]) -> Candidate | None:
    """Return the cell that exceeds the limits least, the fastest of equals."""
    candidates = []
    for one in cells:
        if not one.crowded:
            latency = one.latency_s.best
            candidates.append(Candidate(one.cell.model.attention, one.cell, "", latency, 1 / latency.value, one.checks))
    return nearest_miss(candidates)


def errors_of(cells: Sequence[FitCell]) -> list[Errors]:
    """Return how far the predictions of measured cells were off, of latency and of memory; nothing without any."""
    kinds: dict[str, list[Quantity | None]] = {
        LATENCY: [one.latency_s for one in cells],
        MEMORY: [one.memory_bytes for one in cells],
    }
    found = []
    for name, quantities in kinds.items():
        known = [one for one in quantities if one is not None]
        off = [abs(one.error) for one in known if one.error is not None]
        if off:
            within = sum(one.covered for one in known)
            found.append(Errors(name, len(off), float(np.median(off)), max(off), within))
    return found


def fit_cell(cell: Cell, demand: Demand, place: Place, limits: Constraints, history: History = NOTHING) -> FitCell:
    """Return what is known of one cell."""
    kin = Kin(place.machine, cell.backend, cell.precision, cell.model.attention)
    question = Question(kin, cell.model.backbone, cell.model.patch, cell.model.swaps, cell.workload)
    same = [one for one in history.seen if one.question == question]
    others = [one for one in history.seen if one.question != question and one.question.kin.backend == kin.backend]
    batch, survey = cell.workload.batch, place.survey
    expected_s = expected_latency_s(demand, batch, cell.precision, survey.calibration)
    predicted = _predicted(expected_s, kin, [one.latency for one in others], LATENCY_PRIORS[kin.backend])
    latency = Quantity(predicted, same[-1].latency_s if same else None)
    memory, bare = None, survey.bare_bytes(cell.backend)
    if bare is not None:
        known = [one.memory for one in others if one.memory is not None]
        expected_bytes = expected_model_bytes(demand, batch, cell.precision, kin.backend)
        added = _predicted(expected_bytes, kin, known, MEMORY_PRIORS[kin.backend])
        memory = Quantity(_raised(added, bare), same[-1].peak_bytes if same else None)
    checks = _checks(latency, memory, place.device, limits)
    crowded = not same and any(_rules_out(one, checks) for one in history.crowded if one.question == question)
    return FitCell(place.name, cell, latency, memory, checks, crowded)


def _rules_out(crowded: Crowded, checks: Sequence[Check]) -> bool:
    """Return whether what ran out of memory had as much as there is now."""
    if crowded.memory_bytes is None:
        return True
    return any(check.name == MEMORY and check.most <= crowded.memory_bytes for check in checks)


def _predicted(expected: float, kin: Kin, known: Sequence[Known], prior: Prior) -> Estimate:
    return around(expected, *conditioned(kin, known, prior))


def _raised(value: Estimate, by: float) -> Estimate:
    assert value.low is not None
    assert value.high is not None
    return Estimate(value.value + by, value.low + by, value.high + by)


def _checks(latency: Quantity, memory: Quantity | None, device: Device, limits: Constraints) -> tuple[Check, ...]:
    """Return what is limited; the memory of a device is a limit, too."""
    found = []
    if limits.latency_s is not None:
        found.append(Check(LATENCY, limits.latency_s, latency.best))
    most = [one for one in (limits.memory_bytes, device.memory_bytes) if one is not None]
    if most:
        found.append(Check(MEMORY, min(most), None if memory is None else memory.best))
    return tuple(found)


def _question(outcome: Outcome) -> Question:
    cell, model = outcome.cell, outcome.cell.model
    machine = _machine(outcome.environment, cell.device.threads or outcome.environment.threads)
    kin = Kin(machine, cell.backend, cell.precision, model.attention)
    return Question(kin, model.backbone, model.patch, model.swaps, cell.workload)


def _seen(question: Question, evidence: Evidence, calibration: Calibration, demand: Demand) -> Seen:
    kin, batch = question.kin, question.workload.batch
    latency, peak = _reading(evidence, "latency_s.p50"), _reading(evidence, "memory.host_peak_bytes")
    assert latency is not None
    expected_s = expected_latency_s(demand, batch, kin.precision, calibration)
    added = _reading(evidence, "memory.host_model_bytes")
    memory = None
    if added is not None and added.value > 0:
        expected_bytes = expected_model_bytes(demand, batch, kin.precision, kin.backend)
        memory = Known(kin, math.log(added.value / expected_bytes))
    known = Known(kin, math.log(latency.value / expected_s))
    return Seen(replace(question, patch=demand.model.patch), known, memory, latency, peak)


def _reading(evidence: Evidence, name: str) -> Estimate | None:
    reading = reading_of(evidence, name)
    return None if reading.value is None else Estimate(reading.value, reading.low, reading.high)


def _machine(environment: Environment, threads: int) -> str:
    """Return what tells machines apart by their hardware, with how much of one computes."""
    return f"{environment.cpu}, {environment.cores} cores, {environment.ram_bytes} bytes, {threads} threads"
