"""Which measured cell to ship under constraints: one answer for each machine, device and data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from effvit.profiling import stats
from effvit.profiling.candidates import (
    DROP,
    Candidate,
    Check,
    Relaxation,
    best,
    more_needed,
    nearest_miss,
    relaxations,
)
from effvit.profiling.change import Change, plain_change, ratio_change, share_change
from effvit.profiling.heat import heat_of
from effvit.profiling.records import Evidence
from effvit.profiling.report.rows import ENERGY, Row
from effvit.profiling.rounds import latency_ratio, throughput_ratio
from effvit.profiling.sittings import spread_of
from effvit.profiling.stats import Estimate
from effvit.spec import Precision

ObjectiveName = Literal["throughput", "latency", "accuracy", "memory", "energy"]
LATENCY, MEMORY = "latency_p50", "memory"
_MOST_ADVICE = 3
_PAIRED: dict[ObjectiveName, Callable[[Evidence, Evidence], Estimate | None]] = {
    "latency": latency_ratio,
    "throughput": throughput_ratio,
}


@dataclass(frozen=True, slots=True)
class Objective:
    """What is to be as high, or as low, as can be; of several readings the sum of those that there are."""

    name: ObjectiveName
    readings: tuple[str, ...]
    better: Literal["lower", "higher"]


OBJECTIVES = (
    Objective("throughput", ("throughput.images_per_s",), "higher"),
    Objective("latency", ("latency_s.p50",), "lower"),
    Objective("accuracy", ("accuracy.top1",), "higher"),
    Objective("memory", ("memory.host_peak_bytes",), "lower"),
    Objective("energy", ENERGY, "lower"),
)


@dataclass(frozen=True, slots=True)
class Constraints:
    """At most so much, in SI units; `drop` is a loss of top-1 against softmax at the same resolution, as a share."""

    latency_s: float | None = None
    memory_bytes: float | None = None
    drop: float | None = None


@dataclass(frozen=True, slots=True)
class Rival:
    """A candidate whose objective cannot be told from that of the choice; `change` is by how much it seems more."""

    candidate: Candidate
    change: Change


@dataclass(frozen=True, slots=True)
class Settling:
    """A measurement that would decide something: `count` more `unit` of a cell; None where no number of them does.

    `question` is the constraint that is perhaps kept, or the objective in which two cannot be told apart.
    """

    candidate: Candidate
    question: str
    unit: Literal["rounds", "images"]
    now: int
    count: int | None
    available: int | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to ship on one machine and device, for one data set.

    `choice` is the best of what keeps all limits by its best estimates, and None where nothing does; then `nearest` is
    what comes closest. `safe` is the best that keeps them beyond doubt, where that is another one. `relaxations` begin
    with the limit that binds. `unstable`, `unmeasured`, `lacking` and `emulated` count cells that could not be
    considered: for the machine was not theirs, for they have no numbers, or not the one that is the objective, or for
    these are those of an emulator. `caveats` say what heat, or want of power, did to the choice and to cells beside it,
    a sentence each.
    """

    machine: str
    device: str
    data: str
    choice: Candidate | None
    safe: Candidate | None
    alike: tuple[Rival, ...]
    relaxations: tuple[Relaxation, ...]
    settling: tuple[Settling, ...]
    nearest: Candidate | None
    considered: int
    unstable: int
    unmeasured: int
    lacking: int
    emulated: int = 0
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    row: Row
    candidate: Candidate


# The rows of softmax whose accuracy is known, by what they recognise.
_Exact = dict[Hashable, list[Row]]


def recommend(
    rows: Sequence[Row],
    constraints: Constraints,
    objective: Objective,
    considered: Callable[[Row], bool] = lambda _: True,
) -> list[Recommendation]:
    """Return a recommendation for each machine, device and data set of the rows `considered`, in their order.

    Top-1 of different data sets and times of different machines are never held against one another. The softmax that a
    loss of accuracy is counted from is found among all rows.
    """
    exact: _Exact = defaultdict(list)
    for row in rows:
        if row.is_baseline and row.reading("accuracy.top1").value is not None:
            exact[_recognises(row)].append(row)
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in filter(considered, rows):
        groups[row.machine, str(row.outcome.cell.device), row.outcome.data].append(row)
    return [_recommendation(place, group, exact, constraints, objective) for place, group in groups.items()]


def _recommendation(
    place: tuple[str, str, str],
    rows: Sequence[Row],
    exact: _Exact,
    constraints: Constraints,
    objective: Objective,
) -> Recommendation:
    emulated = sum(row.emulated for row in rows)
    rows = [row for row in rows if not row.emulated]
    usable = [row for row in rows if row.outcome.evidence is not None and not row.unstable]
    entries = [entry for row in usable if (entry := _entry(row, exact, constraints, objective)) is not None]
    candidates = [entry.candidate for entry in entries]
    choice = best([one for one in candidates if one.met])
    safe = best([one for one in candidates if one.certain])
    alike = _alike(entries, choice, objective)
    return Recommendation(
        *place,
        choice,
        None if safe is choice else safe,
        tuple(alike),
        tuple(relaxations(candidates, choice)),
        tuple(_settling(entries, choice, alike, objective))[:_MOST_ADVICE],
        nearest_miss(candidates) if choice is None else None,
        len(candidates),
        sum(row.unstable for row in rows),
        sum(row.outcome.evidence is None for row in rows),
        len(usable) - len(candidates),
        emulated,
        tuple(_caveats(rows, next((entry.row for entry in entries if entry.candidate is choice), None))),
    )


def _caveats(rows: Sequence[Row], chosen: Row | None) -> Iterator[str]:
    """Yield what heat, or want of power, did to the chosen cell, and to cells that it made unstable."""
    if chosen is not None and chosen.outcome.evidence is not None:
        heat = str(heat_of(chosen.outcome.evidence))
        if heat:
            yield f"the choice was {heat}; the rounds that count are those in which nothing did"
    shaken = [row for row in rows if row.unstable and row.reading("slowed.rounds").value]
    if shaken:
        left_out = f"{len(shaken)} of {len(rows)} cells are left out because the machine was slowed down"
        yield f"{left_out}: cool it, and measure them again with --retry-failed"


def _entry(row: Row, exact: _Exact, constraints: Constraints, objective: Objective) -> _Entry | None:
    value = _objective(row, objective)
    if value is None or value.value <= 0:
        return None
    merit = value.value if objective.better == "higher" else 1 / value.value
    checks = tuple(_checks(row, exact, constraints))
    return _Entry(row, Candidate(row.label, row.outcome.cell, row.outcome.run, value, merit, checks))


def _objective(row: Row, objective: Objective) -> Estimate | None:
    known = [one for name in objective.readings if (one := _estimate(row, name)) is not None]
    if len(known) == 1:
        return known[0]
    return Estimate(sum(one.value for one in known)) if known else None


def _estimate(row: Row, name: str) -> Estimate | None:
    reading = row.reading(name)
    return None if reading.value is None else Estimate(reading.value, reading.low, reading.high)


def _checks(row: Row, exact: _Exact, constraints: Constraints) -> Iterator[Check]:
    if constraints.latency_s is not None:
        latency = row.reading("latency_s.p50")
        yield Check(LATENCY, constraints.latency_s, _estimate(row, latency.name), latency.note, rounds=_rounds(row))
    if constraints.memory_bytes is not None:
        memory = row.reading("memory.host_peak_bytes")
        yield Check(MEMORY, constraints.memory_bytes, _estimate(row, memory.name), memory.note)
    if constraints.drop is not None:
        drop, note = _drop(row, exact)
        accuracy = row.outcome.evidence.accuracy if row.outcome.evidence else None
        yield Check(DROP, constraints.drop, drop, note, images=None if accuracy is None else accuracy.images)


def _drop(row: Row, exact: _Exact) -> tuple[Estimate | None, str]:
    """Return the loss of top-1 against softmax, and why there is none."""
    if row.reading("accuracy.top1").value is None:
        return None, "no accuracy was measured"
    reference = _reference(row, exact)
    if reference is None:
        return None, "no accuracy of softmax at this resolution"
    if reference is row:
        return Estimate(0.0, 0.0, 0.0), "softmax itself"
    return _top1_gap(reference, row), ""


def _top1_gap(row: Row, reference: Row) -> Estimate | None:
    ours, theirs = (one.outcome.evidence.accuracy if one.outcome.evidence else None for one in (row, reference))
    return None if ours is None or theirs is None else stats.top1_gap(ours, theirs)


def _reference(row: Row, exact: _Exact) -> Row | None:
    """Return the softmax that a loss is counted from: the most precise, and then the most like `row`.

    A softmax in int8 may have lost something itself.
    """
    return min(exact.get(_recognises(row), ()), key=lambda one: _unlike(one, row), default=None)


def _recognises(row: Row) -> Hashable:
    model, work = row.outcome.cell.model, row.workload
    return model.backbone, model.classes, model.patch, row.outcome.data, work.height, work.width


def _unlike(one: Row, row: Row) -> tuple[int, ...]:
    cell, ours = one.outcome.cell, row.outcome.cell
    differs = (one.machine != row.machine, cell.backend != ours.backend, cell.workload != ours.workload, one is not row)
    return list(Precision).index(cell.precision), *map(int, differs)


def _alike(entries: Sequence[_Entry], choice: Candidate | None, objective: Objective) -> list[Rival]:
    if choice is None:
        return []
    chosen = next(entry for entry in entries if entry.candidate is choice)
    found = []
    for entry in entries:
        if entry.candidate is choice or not entry.candidate.met:
            continue
        change = _change(chosen.row, entry.row, objective)
        if _may_be_none(change):
            found.append(Rival(entry.candidate, change))
    return sorted(found, key=lambda rival: -rival.candidate.merit)


def _may_be_none(change: Change) -> bool:
    if change.low is None or change.high is None:
        return change.value == 0
    return change.low <= 0 <= change.high


def _change(chosen: Row, other: Row, objective: Objective) -> Change:
    """Return by how much the objective of `other` is more; paired where rounds, or images, are the same."""
    if objective.name == "accuracy":
        gap = _top1_gap(other, chosen)
        assert gap is not None
        return share_change(gap)
    ours, theirs = chosen.outcome.evidence, other.outcome.evidence
    assert ours is not None
    assert theirs is not None
    paired = _PAIRED.get(objective.name)
    ratio = None if paired is None else paired(theirs, ours)
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        return Change(ratio.value - 1, ratio.low - 1, ratio.high - 1)
    if len(objective.readings) == 1:
        spreads = [spread_of(evidence, objective.readings[0]) for evidence in (ours, theirs)]
        if spreads[0] is not None and spreads[1] is not None:
            return ratio_change([spreads[0]], [spreads[1]])
    numbers = [_objective(row, objective) for row in (chosen, other)]
    return plain_change(*([one.value] for one in numbers if one is not None))


def _settling(
    entries: Sequence[_Entry], choice: Candidate | None, alike: Sequence[Rival], objective: Objective
) -> Iterator[Settling]:
    """Yield what would decide: whether the choice keeps its limits, whether a better one does, and which of equals."""
    evidence = {id(entry.candidate): entry.row.outcome.evidence for entry in entries}
    for candidate in [*([choice] if choice else []), *_perhaps_better(entries, choice)]:
        for check in candidate.checks:
            if check.state == "perhaps":
                yield from _settled(candidate, check, evidence[id(candidate)])
    for rival in alike:
        half = rival.change.half_width
        if half is not None and objective.name != "accuracy":
            rounds = _rounds_of(evidence[id(rival.candidate)])
            more = more_needed(rounds, half, rival.change.value)
            yield Settling(rival.candidate, objective.name, "rounds", rounds, more)


def _perhaps_better(entries: Sequence[_Entry], choice: Candidate | None) -> list[Candidate]:
    """Return what would be better than the choice, and perhaps keeps every limit; the best first."""
    found = []
    for candidate in (entry.candidate for entry in entries):
        possible = all(check.met or check.state == "perhaps" for check in candidate.checks)
        if possible and not candidate.met and (choice is None or candidate.merit > choice.merit):
            found.append(candidate)
    return sorted(found, key=lambda one: -one.merit)


def _settled(candidate: Candidate, check: Check, evidence: Evidence | None) -> Iterator[Settling]:
    value = check.value
    if value is None or value.low is None or value.high is None:
        return
    # Only the end of the interval on the limit's side has to come closer.
    reach = value.high - value.value if check.met else value.value - value.low
    gap = abs(check.most - value.value)
    if check.rounds is not None:
        yield Settling(candidate, check.name, "rounds", check.rounds, more_needed(check.rounds, reach, gap))
    elif check.images is not None:
        whole = evidence.accuracy.of_images if evidence is not None and evidence.accuracy is not None else None
        yield Settling(candidate, check.name, "images", check.images, more_needed(check.images, reach, gap), whole)


def _rounds(row: Row) -> int:
    return _rounds_of(row.outcome.evidence)


def _rounds_of(evidence: Evidence | None) -> int:
    return 0 if evidence is None else len(set(stats.counted(evidence.samples).rounds))
