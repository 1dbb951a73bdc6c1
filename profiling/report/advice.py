"""What a recommendation says, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from effvit.profiling.candidates import DROP, Candidate, Check, Relaxation
from effvit.profiling.recommend import (
    LATENCY,
    MEMORY,
    OBJECTIVES,
    Constraints,
    Recommendation,
    Rival,
    Settling,
    recommend,
)
from effvit.profiling.report import quantities
from effvit.profiling.report.rows import Row
from effvit.profiling.stats import Estimate

TITLES = {LATENCY: "latency p50", MEMORY: "peak memory", DROP: "top-1 drop"}
_STATES = {
    "satisfied": "kept",
    "perhaps": "perhaps kept: the interval reaches beyond",
    "not": "not kept",
    "unknown": "not measured",
}
_MOST_NAMED = 5
# What is asked where nobody says what an application can afford.
USUAL, _OBJECTIVE = Constraints(drop=0.01), OBJECTIVES[0]
USUAL_QUESTION = f"The best {_OBJECTIVE.name} where top-1 may be 1 point below softmax at the same size"


@dataclass(frozen=True, slots=True)
class Advice:
    """What to ship on one machine and device for one data set: the answer, and what is to be said of it."""

    place: str
    answer: str
    details: tuple[str, ...]


def usual_advice(rows: Sequence[Row]) -> list[Advice]:
    """Return the answers to `USUAL_QUESTION`; none where no accuracy was measured."""
    if all(row.reading("accuracy.top1").value is None for row in rows):
        return []
    found = recommend(rows, USUAL, _OBJECTIVE)
    said = [list(lines(one, _OBJECTIVE.name, several=False)) for one in found]
    places = [place(one) if len(found) > 1 else "" for one in found]
    return [Advice(where, answer, tuple(rest)) for where, (answer, *rest) in zip(places, said, strict=True)]


def place(found: Recommendation) -> str:
    """Return the machine, the device and the data that a recommendation is for."""
    return f"{found.machine}, {found.device}, {found.data}"


def lines(found: Recommendation, objective: str, *, several: bool) -> Iterator[str]:
    """Yield what to ship, why, and what is not certain, a line each; headed by the place where there are several."""
    if several:
        yield f"{place(found)}:"
    yield from _best(found, objective)
    yield from _equals(found, objective)
    yield from (_relaxed(one, objective, binding=index == 0) for index, one in enumerate(found.relaxations))
    yield from (_settled(one) for one in found.settling)
    yield from _left_out(found)
    yield from (f"Mind: {caveat}." for caveat in found.caveats)


def how_near(found: Recommendation) -> str:
    """Return what comes closest to the limits, and by how much it misses them."""
    nearest = found.nearest
    if nearest is None:
        return ""
    return f"{named(nearest)}: {missed(nearest)}"


def missed(candidate: Candidate) -> str:
    """Return which limits a candidate does not keep, and by how much."""
    return ", ".join(_missed(check) for check in candidate.checks if not check.met)


def why_none(recommendations: Sequence[Recommendation]) -> str:
    """Return why none of them could consider a single cell."""
    unstable, unmeasured, lacking = (
        sum(getattr(one, name) for one in recommendations) for name in ("unstable", "unmeasured", "lacking")
    )
    if not unstable:
        return "no cell has the number that is to be the best" if lacking else "no cell was measured"
    what = "1 cell is" if unstable == 1 else f"{unstable} cells are"
    rest = f", and the other {unmeasured + lacking} lack a number" if unmeasured + lacking else ""
    return f"{what} unstable, because other processes ran during the measurement{rest}"


def _best(found: Recommendation, objective: str) -> Iterator[str]:
    choice = found.choice
    if choice is None:
        if not found.considered:
            yield f"Nothing can be recommended: {why_none([found])}."
            return
        near = how_near(found)
        yield f"Nothing keeps the limits{f'; the nearest is {near}' if near else ''}."
        return
    yield f"Ship {named(choice)}: {_merit(choice.value, objective)}, the best {objective} within the limits."
    for check in choice.checks:
        yield f"  {TITLES[check.name]}: {_amount(check)} of at most {_limit(check.name, check.most)}, {_state(check)}"
    if found.safe is not None:
        yield f"Beyond doubt within the limits: {named(found.safe)}, {_merit(found.safe.value, objective)}."
    elif not choice.certain:
        yield "Nothing is within the limits beyond doubt."


def _equals(found: Recommendation, objective: str) -> Iterator[str]:
    if found.choice is None:
        return
    if not found.alike:
        yield f"Its {objective} can be told from that of all others within the limits."
        return
    more = len(found.alike) - _MOST_NAMED
    listed = "; ".join(_rival(one, objective) for one in found.alike[:_MOST_NAMED])
    yield f"Not to be told from it: {listed}{f'; and {more} more' if more > 0 else ''}."


def _relaxed(one: Relaxation, objective: str, *, binding: bool) -> str:
    step = f"{TITLES[one.name]} of {_limit(one.name, _rounded_up(one.needed))} would admit {named(one.candidate)}"
    buys = f", {_merit(one.candidate.value, objective)}"
    if one.gain is not None:
        buys += f" ({_gain(one.gain)} better)"
    if one.gain is not None and one.most_gain is not None and one.most_gain > one.gain:
        buys += f"; without this limit there is {_gain(one.most_gain)} to gain"
    # Where nothing is within the limits, there is nothing that one of them keeps from being better.
    begin = "Enough by itself: " if one.gain is None else "Binding: " if binding else "Also: "
    return f"{begin}{step}{buys}."


def _settled(one: Settling) -> str:
    known = f"{one.now} {one.unit} so far"
    question = TITLES.get(one.question, one.question)
    if one.count is None:
        return (
            f"To settle the {question} of {named(one.candidate)}: no measurement can, the numbers are equal ({known})."
        )
    if one.available is not None and one.now + one.count > one.available:
        have = f"only {one.available:,} are held out"
        return f"To settle the {question} of {named(one.candidate)}: about {one.count:,} more images, but {have}."
    return f"To settle the {question} of {named(one.candidate)}: about {one.count:,} more {one.unit} ({known})."


def _left_out(found: Recommendation) -> Iterator[str]:
    counts = (
        (found.unstable, "unstable"),
        (found.unmeasured, "not measured"),
        (found.lacking, "without that number"),
        (found.emulated, "emulated"),
    )
    parts = [f"{count} {what}" for count, what in counts if count]
    if parts:
        yield f"Considered: {found.considered} cells; left out: {', '.join(parts)}."


def named(candidate: Candidate) -> str:
    """Return which cell a candidate is: `linformer in vit_small_patch16_224, ort-cpu, fp32, 224 px, batch 1`."""
    cell = candidate.cell
    device = "" if str(cell.device) == cell.device.kind else f", {cell.device}"
    kind = f"{candidate.label} in {cell.model.backbone}, {cell.backend}, {cell.precision}"
    return f"{kind}, {cell.workload.resolution} px, batch {cell.workload.batch}{device}"


def _merit(value: Estimate, objective: str) -> str:
    wide = quantities.spread(value.value, value.low, value.high)
    if objective == "throughput":
        return f"{quantities.si(value.value, '', value.low, value.high)} images/s {wide}".rstrip()
    if objective == "latency":
        return f"{quantities.si(value.value, 's', value.low, value.high)} {wide}".rstrip()
    if objective == "accuracy":
        return f"top-1 {quantities.percent(value.value, value.low, value.high)}"
    if objective == "memory":
        return quantities.size(value.value)
    return f"{quantities.si(value.value, 'J')} an image"


def _rival(one: Rival, objective: str) -> str:
    unit = "points" if objective == "accuracy" else "%"
    change = quantities.points(one.change.value, one.change.low, one.change.high)
    return f"{named(one.candidate)} ({change.replace('(', '').replace(')', '')} {unit})"


def _amount(check: Check) -> str:
    value = check.value
    if value is None:
        return "unknown"
    if check.name == MEMORY:
        return quantities.size(value.value)
    if check.name == LATENCY:
        wide = quantities.spread(value.value, value.low, value.high)
        return f"{quantities.si(value.value, 's', value.low, value.high)} {wide}".rstrip()
    if value.low == value.high == 0:
        return f"none ({check.note})"
    shown = quantities.points(value.value, value.low, value.high).lstrip("+")
    return f"{shown.replace('(', '').replace(')', '')} points"


def _limit(name: str, most: float) -> str:
    if name == MEMORY:
        return quantities.size(most)
    if name == DROP:
        return f"{100 * most:.3g} {'point' if most == 0.01 else 'points'}"
    return f"{most * 1e3:.4g} ms"


def _missed(check: Check) -> str:
    if check.value is None:
        return f"{TITLES[check.name]} not measured"
    over = f"{_percent(check.excess)} {'points' if check.name == DROP else '%'} too much"
    doubt = ", perhaps kept" if check.state == "perhaps" else ""
    return f"{TITLES[check.name]} {_amount(check)} of at most {_limit(check.name, check.most)}, {over}{doubt}"


def _state(check: Check) -> str:
    return _STATES[check.state] + (f" ({check.note})" if check.state == "unknown" and check.note else "")


def _gain(share: float) -> str:
    return f"{_percent(share)} %"


def _percent(share: float) -> str:
    """Return a share in per cent to two digits, and to whole per cent from 10 on."""
    return f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"


def _rounded_up(value: float) -> float:
    """Return the least number of three digits that is not below `value`: a limit rounded down would not admit it."""
    if value <= 0:
        return value
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(round(value / step, 6)) * step
