"""Two sets of result files, cell by cell: what changed around them, in them, and what it comes to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from effvit.accuracy import Accuracy, lost_and_gained
from effvit.errors import ResultError
from effvit.export import decisions
from effvit.profiling import stats
from effvit.profiling.change import Floor, plain_change, ratio_change, share_change
from effvit.profiling.differences import Difference, changed_files, differences, other_machine
from effvit.profiling.limits import Limit, in_points
from effvit.profiling.metrics.base import metrics, readings_of
from effvit.profiling.pairing import Pair, Taken, pairs
from effvit.profiling.records import Cell, Outcome, Status
from effvit.profiling.report.rows import labels
from effvit.profiling.sittings import NamedFloor, measured, noise_floors, reading_of, spreads
from effvit.profiling.stats import Estimate
from effvit.profiling.verdict import FAILING, MetricChange, Verdict, judged
from effvit.progress import Progress, silent

TOP1 = "accuracy.top1"
SHOWN = ("latency_s.p50", "throughput.images_per_s", "memory.host_peak_bytes", TOP1)
_TIMED = ("latency_s", "throughput", "rate", "efficiency", "load_s", "energy")
# The first of these that one metric of a cell has is the cell's.
_ORDER: tuple[Verdict, ...] = ("regressed", "cannot be told", "improved", "same")


@dataclass(frozen=True, slots=True)
class CellChange:
    """One cell, with its status on either side (None: not there), and `reason` where it is not simply measured."""

    label: str
    cell: Cell
    run: str
    data: str
    verdict: Verdict
    status_before: Status | None
    status_now: Status | None
    reason: str = ""
    changes: tuple[MetricChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that `effvit compare` has to say."""

    verdict: Literal["regressed", "passed"]
    differences: tuple[Difference, ...]
    other_machine: bool
    floors: tuple[NamedFloor, ...]
    limits: tuple[Limit, ...]
    cells: tuple[CellChange, ...]

    @property
    def failing(self) -> tuple[CellChange, ...]:
        """The cells for which it regressed."""
        return tuple(cell for cell in self.cells if cell.verdict in FAILING)


def compare(
    before: Sequence[Sequence[Outcome]],
    now: Sequence[Outcome],
    limits: Sequence[Limit],
    floor: Floor | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Return how `now` differs from the sittings `before`; without a `floor`, what repeated cells show is taken.

    `progress` is told of cells.

    Raises:
        ResultError: No cell is on both sides.
    """
    everything = [outcome for outcomes in before for outcome in outcomes]
    found = pairs(before, [now])
    if not any(pair.before and pair.now for pair in found):
        raise ResultError("no cell is in both files", "compare files of the same models, backends and workloads")
    names = tuple(dict.fromkeys([*SHOWN, *(limit.name for limit in limits)]))
    floors = noise_floors(found, names, floor)
    by_name = {limit.name: limit for limit in limits}
    drafts = []
    for pair in found:
        drafts.append(_changes(pair, names, floors, by_name))
        progress(len(drafts), len(found))
    names_of_cells = labels([pair.outcome for pair in found])
    described = zip(names_of_cells, found, judged(drafts), strict=True)
    cells = [_cell(label, pair, changes) for label, pair, changes in described]
    return Comparison(
        "regressed" if any(cell.verdict in FAILING for cell in cells) else "passed",
        (*differences(everything, now), *changed_files(found)),
        other_machine(everything, now),
        tuple(floors),
        tuple(limits),
        tuple(cells),
    )


def known_names(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the names of all readings of `outcomes`."""
    evidence = next((one.evidence for one in outcomes if one.evidence is not None), None)
    if evidence is None:
        return []
    return [reading.name for family in metrics() for reading in readings_of(evidence, family)]


def _cell(label: str, pair: Pair, changes: Sequence[MetricChange]) -> CellChange:
    before, now = (taken[-1].outcome if taken else None for taken in (pair.before, pair.now))
    verdicts = {change.verdict for change in changes}
    of_metrics: Verdict = next((verdict for verdict in _ORDER if verdict in verdicts), "no limit")
    named = pair.outcome
    return CellChange(
        label,
        named.cell,
        named.run,
        named.data,
        _fate(pair) or of_metrics,
        before.status if before else None,
        now.status if now else None,
        "; ".join(one.reason for one in (before, now) if one is not None and one.reason),
        tuple(changes),
    )


def _fate(pair: Pair) -> Verdict | None:
    """Return what a cell has come to that was not measured on both sides."""
    if not pair.before or not pair.now:
        return "missing in B" if pair.before else "missing in A"
    sides = bool(measured(pair.before)), pair.now[-1].outcome.evidence is not None
    verdicts: dict[tuple[bool, bool], Verdict] = {
        (True, False): "failed now",
        (False, True): "works now",
        (False, False): "failed in both",
    }
    return verdicts.get(sides)


def _changes(
    pair: Pair, names: Sequence[str], floors: Sequence[NamedFloor], limits: dict[str, Limit]
) -> list[MetricChange]:
    if _fate(pair) is not None:
        return []
    device = str(pair.outcome.cell.device)
    by_name = {one.name: one.floor for one in floors if one.device == device}
    doubt = _doubt(pair)
    found = []
    for name in names:
        limit = limits.get(name)
        change = _accuracy(name, pair) if in_points(name) else _ratio(name, pair, by_name.get(name))
        change = replace(change, limit=limit)
        if doubt and name.split(".")[0] in _TIMED and change.change is not None:
            change = _doubted(change, doubt)
        found.append(change)
    return found


def _doubt(pair: Pair) -> str:
    """Return why the times of one side cannot be relied on; empty where they can."""
    sides = (("A", pair.before), ("B", pair.now))
    emulated = [side for side, taken in sides if any(one.outcome.environment.emulated for one in taken)]
    if emulated:
        return f"{' and '.join(emulated)} emulated: the times are those of the emulator"
    shaken = [
        side for side, taken in sides if all(one.outcome.status == "unstable" for one in taken if one.outcome.evidence)
    ]
    return f"{' and '.join(shaken)} unstable: the machine was not ours" if shaken else ""


def _doubted(change: MetricChange, doubt: str) -> MetricChange:
    """Return a change that decides nothing, because the times of one side cannot be relied on."""
    verdict: Verdict = "cannot be told" if change.limit is not None else "no limit"
    return replace(change, note=doubt, verdict=verdict)


def _ratio(name: str, pair: Pair, floor: Floor | None) -> MetricChange:
    """Return the change of a number that can be divided, over all sittings of either side."""
    before, now = _values(name, pair.before), _values(name, pair.now)
    if not before or not now:
        missing = pair.now if before else pair.before
        note = reading_of(measured(missing)[-1], name).note
        return MetricChange(name, _mean(before), _mean(now), None, note=note)
    if min(*before, *now) <= 0:
        note = "no ratio: not all of its values are above 0"
        return MetricChange(name, before[-1], now[-1], None, note=note)
    ours, theirs = spreads(name, pair.before), spreads(name, pair.now)
    if len(ours) == len(before) and len(theirs) == len(now):
        return MetricChange(name, _mean(before), _mean(now), ratio_change(ours, theirs, floor))
    note = "no interval: judged by its value alone"
    return MetricChange(name, _mean(before), _mean(now), plain_change(before, now), note=note)


def _values(name: str, taken: Sequence[Taken]) -> list[float]:
    readings = [reading_of(evidence, name) for evidence in measured(taken)]
    return [reading.value for reading in readings if reading.value is not None]


def _accuracy(name: str, pair: Pair) -> MetricChange:
    """Return the difference of shares of the last sittings; of the same images it is a count, and certain for them."""
    ours, theirs = (measured(taken)[-1] for taken in (pair.before, pair.now))
    before, now = reading_of(ours, name), reading_of(theirs, name)
    if before.value is None or now.value is None:
        return MetricChange(name, before.value, now.value, None, note=before.note or now.note)
    gap = stats.difference(Estimate(now.value, now.low, now.high), Estimate(before.value, before.low, before.high))
    images, others = ours.accuracy, theirs.accuracy
    if images is None or others is None or not _same_images(images, others):
        return MetricChange(name, before.value, now.value, share_change(gap))
    note = "the same images: the difference on them is certain, the interval is for others"
    counts = lost_and_gained(images, others) if name == TOP1 else None
    if counts is not None:
        paired = decisions.change(*counts, images.images)
        gap = Estimate(paired.value, paired.low, paired.high)
        note = f"{note}; {counts[0]} lost, {counts[1]} gained, p = {paired.p:.2g} by McNemar's exact test"
    return MetricChange(name, before.value, now.value, replace(share_change(gap), chance=None), note=note)


def _same_images(one: Accuracy, other: Accuracy) -> bool:
    if one.images_key is not None and other.images_key is not None:
        return one.images_key == other.images_key
    return (one.images, one.of_images, one.class_images) == (other.images, other.of_images, other.class_images)


def _mean(values: Sequence[float]) -> float | None:
    """Return the geometric mean of positive values; a single one as it is."""
    if len(values) < 2 or min(values) <= 0:
        return values[-1] if values else None
    return math.exp(math.fsum(map(math.log, values)) / len(values))
