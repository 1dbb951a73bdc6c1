"""From outcomes to report rows: one row a cell, with what only a comparison of cells can tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from effvit.environment import machine_names
from effvit.profiling import stats
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Evidence, Outcome
from effvit.profiling.report import margins, pareto
from effvit.profiling.report.pareto import Standing
from effvit.profiling.stats import Estimate
from effvit.progress import Progress, silent
from effvit.registry import discover
from effvit.spec import BASELINE, Precision, Workload


@dataclass(frozen=True, slots=True, order=True)
class Context:
    """What rows share that compete with one another: everything but attention and resolution."""

    backbone: str
    data: str
    backend: str
    precision: Precision
    batch: int
    machine: str
    device: str


@dataclass(frozen=True, slots=True)
class Price:
    """What accuracy is paid with: the sum of those of the readings that there are."""

    name: str
    readings: tuple[str, ...]
    better: Literal["lower", "higher"] = "lower"


# A board as a whole is metered only where neither of the others is.
ENERGY = ("energy.cpu_gross_j", "energy.gpu_gross_j", "energy.board_gross_j")
PRICES = (
    Price("latency", ("latency_s.p50",)),
    Price("throughput", ("throughput.images_per_s",), "higher"),
    Price("memory", ("memory.host_peak_bytes",)),
    Price("size", ("artifact.size_bytes",)),
    Price("energy", ENERGY),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A cell of the report.

    `machine` names the environment, and no other has that name. `baseline` is the softmax outcome of the same context
    and workload. `speedup` is its median latency over this one, paired round by round, and None unless both were
    measured in the same rounds. `ceiling` is the speed-up if the attention core were free, `macs_ratio` the softmax
    model's MACs over this model's, `top1_gap` this top-1 minus the baseline's, as a share. `standings` tell for each
    of `PRICES` how the row stands in top-1 against that within the context, by differences of pairs where both cells
    had the same images, or the same rounds; an unstable row stands nowhere, and an emulated one neither there nor
    against its baseline. `pin_cost` is how many times as long a call takes as that of the same artifact without modules
    kept in fp32, paired in the same way; None where there are none, or nothing to pair with.
    """

    outcome: Outcome
    label: str
    machine: str
    readings: tuple[Reading, ...]
    baseline: Outcome | None = None
    speedup: Estimate | None = None
    ceiling: float | None = None
    macs_ratio: float | None = None
    top1_gap: Estimate | None = None
    standings: tuple[Standing | None, ...] = ()
    pin_cost: Estimate | None = None

    @property
    def context(self) -> Context:
        """The group of rows that this one competes with."""
        cell = self.outcome.cell
        work = (cell.backend, cell.precision, cell.workload.batch)
        return Context(cell.model.backbone, self.outcome.data, *work, self.machine, str(cell.device))

    @property
    def workload(self) -> Workload:
        """Batch and resolution."""
        return self.outcome.cell.workload

    @property
    def tokens(self) -> int | None:
        """The sequence length of the model, None for a cell that was not measured."""
        return self.outcome.evidence.cost.tokens if self.outcome.evidence else None

    @property
    def unstable(self) -> bool:
        """Whether it was measured, and cannot be relied on."""
        return self.outcome.status == "unstable"

    @property
    def emulated(self) -> bool:
        """Whether its times and its memory are those of an emulator, and rank nothing."""
        return self.outcome.environment.emulated

    @property
    def is_baseline(self) -> bool:
        """Whether other rows are compared with this one."""
        return self.outcome.cell.model.attention == BASELINE

    @property
    def pareto_latency(self) -> bool:
        """Whether nothing in the context is both faster and more accurate."""
        return self.standing("latency") == "front"

    @property
    def pareto_memory(self) -> bool:
        """Whether nothing in the context needs less memory and is more accurate."""
        return self.standing("memory") == "front"

    def standing(self, price: str) -> Standing | None:
        """Return how the row stands in top-1 against the price called `price`."""
        return next((one for known, one in zip(PRICES, self.standings, strict=False) if known.name == price), None)

    def total(self, names: Sequence[str]) -> Reading:
        """Return the only one of these readings that has a value, or the sum of them, without an interval."""
        known = [reading for name in names if (reading := self.reading(name)).value is not None]
        if len(known) == 1:
            return known[0]
        return Reading(" + ".join(names), sum(one.value or 0 for one in known) if known else None)

    def reading(self, name: str) -> Reading:
        """Return the reading called `name`; one without a value for a cell that was not measured."""
        for reading in self.readings:
            if reading.name == name:
                return reading
        return Reading(name, None, note=self.outcome.reason)


def make_rows(outcomes: Iterable[Outcome], progress: Progress = silent) -> list[Row]:
    """Return one row an outcome, ordered by context, resolution, and attention with the baseline first."""
    outcomes = list(outcomes)
    metrics = discover("effvit.profiling.metrics", "METRIC", Metric).values()
    baselines = _baselines(outcomes)
    machines = machine_names(outcome.environment for outcome in outcomes)
    plain = {_twins(outcome): outcome for outcome in outcomes if not outcome.cell.pins}
    rows: list[Row] = []
    for outcome, label, machine in zip(outcomes, labels(outcomes), machines, strict=True):
        row = Row(outcome, label, machine, _readings(outcome, metrics), pin_cost=_pin_cost(outcome, plain))
        rows.append(_compared(row, baselines[_ground(outcome)]))
        progress(len(rows), len(outcomes))
    rows.sort(key=lambda row: (row.context, row.workload, not row.is_baseline, row.label))
    return _with_standings(rows)


def contexts(rows: Iterable[Row]) -> list[Context]:
    """Return the contexts of `rows`, each once, in their order."""
    return list(dict.fromkeys(row.context for row in rows))


def variant_order(rows: Iterable[Row]) -> list[str]:
    """Return the labels of `rows`, each once, the baseline first and the others by name."""
    return list(dict.fromkeys(row.label for row in sorted(rows, key=lambda row: (not row.is_baseline, row.label))))


def labels(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the attention and pins of each outcome, with options, blocks and run where two would have one name."""
    names = [_attention(outcome) for outcome in outcomes]
    names = _told_apart(names, [_details(outcome) for outcome in outcomes], names)
    # Runs count only where they meet in one cell: one run a resolution is still one variant, and one line in a figure.
    places = [(name, _ground(outcome)) for name, outcome in zip(names, outcomes, strict=True)]
    return _told_apart(names, [outcome.run for outcome in outcomes], places)


def _attention(outcome: Outcome) -> str:
    """Return the attention, and behind it what of the model stays in fp32, at most two modules by name."""
    pins = outcome.cell.pins
    named = ", ".join(pins) if len(pins) < 3 else f"{pins[0]} and {len(pins) - 1} more"
    return f"{outcome.cell.model.attention}, {named} in fp32" if pins else outcome.cell.model.attention


def _twins(outcome: Outcome) -> tuple[object, ...]:
    """Return everything that an artifact with pins and the one without have in common."""
    return outcome.run, outcome.cell.model, *_ground(outcome)


def _pin_cost(outcome: Outcome, plain: Mapping[tuple[object, ...], Outcome]) -> Estimate | None:
    twin = plain.get(_twins(outcome)) if outcome.cell.pins else None
    if twin is None or outcome.evidence is None or _comparison(twin) != outcome.evidence.comparison:
        return None
    assert twin.evidence is not None  # it was measured in the same rounds
    return stats.speedup(outcome.evidence.samples, twin.evidence.samples)


def _readings(outcome: Outcome, metrics: Iterable[Metric]) -> tuple[Reading, ...]:
    if outcome.evidence is None:
        return ()
    return tuple(reading for metric in metrics for reading in metric.measure(outcome.evidence))


def _ground(outcome: Outcome) -> tuple[object, ...]:
    """Return everything that a comparison with the baseline holds fixed."""
    cell, model = outcome.cell, outcome.cell.model
    fixed = (model.backbone, model.classes, model.patch, cell.backend, cell.precision, cell.workload, cell.device)
    return (*fixed, outcome.data, outcome.environment)


def _baselines(outcomes: Iterable[Outcome]) -> dict[tuple[object, ...], list[Outcome]]:
    found: dict[tuple[object, ...], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.cell.model.attention == BASELINE and outcome.evidence is not None:
            found[_ground(outcome)].append(outcome)
    # What has modules in fp32 stands in where softmax was not measured without.
    return defaultdict(
        list, {place: sorted(some, key=lambda one: bool(one.cell.pins)) for place, some in found.items()}
    )


def _compared(row: Row, baselines: Sequence[Outcome]) -> Row:
    """Return `row` with what its baseline tells; one measured in the same rounds goes before others."""
    evidence = row.outcome.evidence
    if evidence is None or not baselines:
        return row
    baseline = next((one for one in baselines if _comparison(one) == evidence.comparison), baselines[0])
    reference = baseline.evidence
    if reference is None:
        return row
    ceiling = reference.cost.ceiling
    if row.is_baseline and (baseline is row.outcome or not row.outcome.cell.pins):
        return replace(row, ceiling=ceiling)
    paired = reference.comparison == evidence.comparison and not row.emulated
    return replace(
        row,
        baseline=baseline,
        speedup=stats.speedup(reference.samples, evidence.samples) if paired else None,
        ceiling=ceiling,
        macs_ratio=reference.cost.macs / evidence.cost.macs if evidence.cost.macs else None,
        top1_gap=_top1_gap(evidence, reference),
    )


def _comparison(outcome: Outcome) -> str | None:
    return outcome.evidence.comparison if outcome.evidence else None


def _top1_gap(evidence: Evidence, reference: Evidence) -> Estimate | None:
    ours, theirs = evidence.accuracy, reference.accuracy
    return None if ours is None or theirs is None else stats.top1_gap(ours, theirs)


def _told_apart(names: Sequence[str], details: Sequence[str], places: Sequence[Hashable]) -> list[str]:
    """Return names, with the detail in brackets for each name that meets another detail in one place."""
    met: dict[Hashable, set[str]] = defaultdict(set)
    for place, detail in zip(places, details, strict=True):
        met[place].add(detail)
    ambiguous = {name for name, place in zip(names, places, strict=True) if len(met[place]) > 1}
    pairs = zip(names, details, strict=True)
    return [f"{name} ({detail})" if detail and name in ambiguous else name for name, detail in pairs]


def _details(outcome: Outcome) -> str:
    return ", ".join(f"{name}={value}" for name, value in outcome.cell.model.options)


def _with_standings(rows: Sequence[Row]) -> list[Row]:
    groups: dict[Context, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.context].append(row)
    marked: list[Row] = []
    for group in groups.values():
        cells = [row.outcome.evidence for row in group]
        top1 = [None if row.unstable or row.emulated else _estimate(row.reading("accuracy.top1")) for row in group]
        paired = {"latency": margins.latency_margins(cells), "throughput": margins.throughput_margins(cells)}
        same_images = margins.top1_margins(cells)
        columns = [
            pareto.standings(top1, [_paid(row, price) for row in group], same_images, paired.get(price.name))
            for price in PRICES
        ]
        marked += [replace(row, standings=stand) for row, stand in zip(group, zip(*columns, strict=True), strict=True)]
    return marked


def _paid(row: Row, price: Price) -> Estimate | None:
    """Return the price, the lower the better; a rate as its inverse."""
    paid = _estimate(row.total(price.readings))
    if paid is None or price.better == "lower":
        return paid
    low, high = (None if end is None else 1 / end for end in (paid.high, paid.low))
    return Estimate(1 / paid.value, low, high)


def _estimate(reading: Reading) -> Estimate | None:
    return None if reading.value is None else Estimate(reading.value, reading.low, reading.high)
